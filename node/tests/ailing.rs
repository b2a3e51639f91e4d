//! Disks that lie and fail: a node says so, serves no wrong byte, and the others go on (P1, P10).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::watch::WatchReceiver;
use polyfs_core::ids::{ClusterId, GroupId, NodeId, ReplicaId};
use polyfs_core::request::Space;
use polyfs_node::health::NodeEnd;
use polyfs_node::identity;
use polyfs_node::machines;
use polyfs_node::node::{Node, NodeError, ReplicaStatus};
use polyfs_node::raft::state::Machine;
use polyfs_node::raft::types::GroupCommand;
use polyfs_node::store::Store;
use polyfs_store::memory::{Dice, MemoryDir};
use polyfs_store::wal::LogConfig;

use crate::support::world::*;
use crate::support::{Fabric, Machine as Host};

const REPLICA: ReplicaId = ReplicaId(11);

/// Opens a node of its own; an error in words.
async fn open(dir: &MemoryDir, seed: u64) -> Result<Node<Host>, String> {
    let host = Host::new(&Fabric::default(), "m1", seed);
    let dir = Arc::new(dir.clone());
    let opened = Store::open(&host, Arc::clone(&dir), store_config()).await;
    let mut store = opened.map_err(|error| error.to_string())?;
    if store.identity.member.is_none() {
        store.identity.member = Some((ClusterId(1), NodeId(1)));
        identity::write(&*dir, &store.identity).map_err(|error| error.to_string())?;
    }
    let machines = Arc::new(|group: GroupId| match group {
        GROUP => Arc::new(Puts) as Arc<dyn Machine>,
        group => machines::of_group(group),
    });
    let started = Node::start(host, store, "m:0", machines).await;
    started.map_err(|error| error.to_string())
}

/// A node of its own with one group and some content.
async fn alone(seed: u64) -> (MemoryDir, Node<Host>) {
    let dir = MemoryDir::new(seed);
    let node = open(&dir, seed).await.expect("a new node starts");
    let made = node.create_replica(GROUP, REPLICA, |_| Ok(())).await;
    let replica = made.expect("a replica is made");
    let members = BTreeMap::from([(REPLICA.0, ())]);
    replica.raft().initialize(members).await.expect("it is new");
    for key in 0..30 {
        put(&node, key, key * 3).await.expect("the disk works");
    }
    (dir, node)
}

async fn put(node: &Node<Host>, key: u64, value: u64) -> Result<(), String> {
    let payload: Bytes = match key % 3 {
        0 => Bytes::new(),
        1 => vec![7; 5000].into(),
        _ => vec![9; 100_000].into(),
    };
    let command = GroupCommand::new(&Put { key, value }, payload);
    for _ in 0..200 {
        let Some(replica) = node.replica(GROUP) else {
            return Err("no replica".into());
        };
        let written = replica.raft().client_write(command.clone());
        match tokio::time::timeout(Duration::from_secs(2), written).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) if node.health().ended().is_none() => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no answer".into()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("never taken".into())
}

/// Reads everything back: as it was, or an error.
async fn check(node: &Node<Host>) -> Result<(), String> {
    for _ in 0..200 {
        let applied = node.status().replicas.first().map(|r| (r.applied, r.last));
        if applied.is_some_and(|(applied, last)| applied == last && applied.is_some()) {
            break;
        }
        if let Some(end) = node.health().ended() {
            return Err(end.to_string());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let replica = node.replica(GROUP).ok_or("it is gone")?;
    for key in 0..30 {
        let read = replica.state().read(|kv| {
            let value = kv.get(&put_key(key))?;
            Ok((value, kv.read_chunk(&chunk(key), 0, 100_000)?))
        });
        let (value, bytes) = read.map_err(|error| error.to_string())?;
        let expected = (key * 3).to_be_bytes().to_vec();
        assert_eq!(value, Some(expected), "a wrong value is served for {key}");
        match key % 3 {
            0 => assert_eq!(bytes, None),
            1 => assert!(
                bytes.is_some_and(|b| b[..5000] == [7; 5000] && b[5000..].iter().all(|b| *b == 0))
            ),
            _ => assert!(bytes.is_some_and(|b| b[..] == [9; 100_000])),
        }
    }
    Ok(())
}

/// Stops and starts again on what the disk holds.
async fn stopped(dir: &MemoryDir, node: Node<Host>, seed: u64) -> MemoryDir {
    node.checkpoint().await.expect("the disk works");
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.stop().await;
    dir.restart(seed)
}

#[tokio::test(start_paused = true)]
async fn whatever_bit_rots_a_lone_node_says_so_or_serves_what_was_written() {
    let (dir, node) = alone(1).await;
    let dir = stopped(&dir, node, 2).await;
    let images: BTreeMap<String, Vec<u8>> = polyfs_store::disk::Dir::list(&dir)
        .expect("it lists")
        .into_iter()
        .filter(|name| name != "ballast")
        .map(|name| (name.clone(), dir.image(&name)))
        .collect();
    let mut dice = Dice::new(3);
    let mut told: BTreeMap<String, u32> = BTreeMap::new();
    for (name, image) in &images {
        // Where something is: zeros beyond are nobody's.
        let full: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
        for round in 0..30 {
            let rotten = MemoryDir::new(4);
            for (name, image) in &images {
                rotten.put_image(name, image.clone());
            }
            let at = full[dice.below_len(full.len())];
            rotten.flip(name, at, 1 << dice.below(8));
            let outcome = match open(&rotten, 100 + round).await {
                Ok(node) => {
                    let checked = check(&node).await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    if checked.is_err() {
                        let end = node.health().ended();
                        assert!(
                            end.is_some(),
                            "{name} at {at}: {checked:?}, and the node goes on"
                        );
                    }
                    node.stop().await;
                    checked
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                *told.entry(name.clone()).or_default() += 1;
                assert!(!error.is_empty());
            }
        }
    }
    for kind in ["identity", "state.redb", "data-0000", "log-"] {
        let seen = told
            .iter()
            .any(|(name, count)| name.starts_with(kind) && *count > 0);
        assert!(seen, "some rot in {kind} was noticed: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotten_page_retires_one_replica_and_the_others_serve() {
    let mut world = World::new(5).await;
    for key in 0..20 {
        world.put(key, key, vec![b'R'; 100_000].into()).await;
    }
    world.converge().await;
    let victim = 1 + world.leader().expect("somebody leads") % NODES;
    world.nodes[&victim].checkpoint().await.expect("it works");
    let image = world.dirs[&victim].image("data-0000");
    let at = image
        .windows(64)
        .position(|w| w == [b'R'; 64])
        .expect("it is there");
    for page in 0..24 {
        world.dirs[&victim].flip("data-0000", at + page * 4096 + 100, 1);
    }
    let replica = world.nodes[&victim].replica(GROUP).expect("it runs");
    for key in 0..20 {
        let _ = replica
            .state()
            .read(|kv| kv.read_chunk(&chunk(key), 0, 100_000));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let status = world.nodes[&victim].status();
    assert!(
        status.replicas.is_empty(),
        "the replica is gone: {status:?}"
    );
    assert_eq!(status.lost.len(), 1, "and the status says why");
    assert_eq!(status.failure, None, "the node goes on");
    for key in 0..20 {
        world.put(key, key + 100, Bytes::new()).await;
        assert_eq!(world.get(key).await, Some(key + 100));
    }
    world.kill(victim).await;
    world.start(victim).await;
    for round in 0..50 {
        world.put(7, round, Bytes::new()).await;
    }
    let back = &world.nodes[&victim];
    assert!(back.replica(GROUP).is_none(), "it never speaks again");
    let id = ReplicaId(10 + victim);
    let again = back.create_replica(GROUP, id, |_| Ok(())).await;
    assert!(matches!(again, Err(NodeError::Retired(GROUP, of)) if of == id));
    let other = back.create_replica(GROUP, ReplicaId(99), |_| Ok(())).await;
    assert!(other.is_ok(), "another id may come");
    back.checkpoint().await.expect("checkpoints go on");
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_poisons_a_lone_node_and_the_next_start_verifies() {
    for seed in 20..40 {
        let (dir, node) = alone(seed).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        dir.fail_sync_after(1 + seed % 7);
        let mut acknowledged = BTreeMap::new();
        for key in 100..400 {
            match put(&node, key, key).await {
                Ok(()) => acknowledged.insert(key, key),
                Err(_) => break,
            };
        }
        let end = tokio::time::timeout(Duration::from_secs(5), node.health().over()).await;
        assert!(
            matches!(end, Ok(NodeEnd::Poisoned(_))),
            "seed {seed}: {end:?}"
        );
        let marked = polyfs_store::disk::Dir::list(&dir).expect("it lists");
        assert!(marked.contains(&"POISON".into()), "seed {seed}: {marked:?}");
        assert!(node.is_stopped(), "it answers nothing more");
        let dir = dir.restart(seed);
        let again = open(&dir, seed + 1).await;
        let again = again.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        check(&again)
            .await
            .expect("everything acknowledged is there");
        let replica = again.replica(GROUP).expect("it serves");
        for (key, value) in acknowledged {
            let read = replica.state().read(|kv| kv.get(&put_key(key)));
            assert_eq!(
                read,
                Ok(Some(u64::to_be_bytes(value).to_vec())),
                "seed {seed}"
            );
        }
        put(&again, 999, 1).await.expect("it goes on");
        let names = polyfs_store::disk::Dir::list(&dir).expect("it lists");
        assert!(!names.contains(&"POISON".into()), "the poison is gone");
        again.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_read_its_snapshot_retires_and_another_sends_it() {
    let log = LogConfig {
        segment_bytes: 256 << 10,
        segments_initial: 2,
        batch_bytes_max: 128 << 10,
        cache_bytes_max: 256 << 10,
        ..LogConfig::default()
    };
    let mut world = World::with_log(8, log).await;
    world.put(1000, 1, Bytes::new()).await;
    let leader = world.leader().expect("somebody leads");
    let behind = 1 + leader % NODES;
    let third = 1 + behind % NODES;
    world.kill(behind).await;
    // Several times what the log holds: what `behind` lacks is purged.
    for key in 0..200 {
        world.put(key, key, vec![b'R'; 60_000].into()).await;
    }
    let victim = world.leader().expect("somebody leads");
    world.nodes[&victim].checkpoint().await.expect("it works");
    let image = world.dirs[&victim].image("data-0000");
    for (page, bytes) in image.chunks(4096).enumerate() {
        if bytes[..64] == [b'R'; 64] {
            world.dirs[&victim].flip("data-0000", page * 4096 + 10, 1);
        }
    }
    world.start(behind).await;
    let other = if victim == leader { third } else { leader };
    for _ in 0..3000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let replica = world.nodes[&behind].replica(GROUP).expect("it runs");
        let there = replica.state().read(|kv| kv.get(&put_key(199)));
        if there.expect("it can be read").is_some() {
            break;
        }
    }
    let status = world.nodes[&victim].status();
    assert_eq!(status.lost.len(), 1, "the source says what it lost");
    assert!(status.replicas.is_empty() && status.failure.is_none());
    for key in 200..220 {
        world.put(key, key, Bytes::new()).await;
    }
    assert_eq!(world.get(219).await, Some(219));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        world.content(behind) == world.content(other),
        "no damaged byte was passed on, and nothing is missing"
    );
}

/// What a leader says to a request.
async fn ask(
    node: &Node<Host>,
    body: polyfs_core::request::RequestBody,
) -> polyfs_node::wire::Reply {
    let (sender, told) = futures::channel::oneshot::channel();
    let answer = move |reply, _: Bytes| drop(sender.send(reply));
    node.request(request(1, body), Bytes::new(), Box::new(answer));
    told.await.expect("every request is answered")
}

#[tokio::test(start_paused = true)]
async fn below_the_reserve_only_what_frees_space_is_taken() {
    use polyfs_core::request::{Answer, ContentOp, MetaOp, Refusal, RequestBody};
    use polyfs_node::wire::Reply;

    let (dir, node) = alone(50).await;
    let used: usize = polyfs_store::disk::Dir::list(&dir)
        .expect("it lists")
        .iter()
        .map(|name| dir.image(name).len())
        .sum();
    dir.set_capacity(used as u64 + (64 << 10));
    // Requests would be refused in time; these come past the check.
    for key in 0..200 {
        if node.status().reserve_only {
            break;
        }
        put(&node, 1001 + 3 * key, 1)
            .await
            .expect("what is ordered is stored");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(node.status().reserve_only, "a full disk is noticed");
    let content = |change| {
        RequestBody::MetaOp(MetaOp::Content {
            ino: ROOT,
            fence: polyfs_core::ids::Fence(0),
            change,
        })
    };
    let grows = content(ContentOp::Allocate {
        first: 0,
        count: 1,
        size: None,
    });
    let full = Reply::Answer(Answer::Refused(Refusal::ReserveOnly));
    assert_eq!(ask(&node, grows.clone()).await, full);
    let frees = [
        content(ContentOp::Truncate { size: 0 }),
        RequestBody::MetaOp(MetaOp::EndSession {
            session: polyfs_core::ids::SessionId(9),
        }),
    ];
    for frees in frees {
        assert_ne!(ask(&node, frees).await, full, "what frees space is taken");
    }
    // What it takes the reserve pays for, however often.
    for _ in 0..200 {
        let over = RequestBody::MetaOp(MetaOp::EndSession {
            session: polyfs_core::ids::SessionId(9),
        });
        assert_ne!(ask(&node, over).await, full);
    }
    node.checkpoint()
        .await
        .expect("a full disk takes checkpoints");
    assert_eq!(node.health().ended(), None);
    dir.set_capacity(1 << 40);
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!node.status().reserve_only, "room comes back");
    assert_ne!(ask(&node, grows.clone()).await, full);
    // A node that holds all it offers is as full, whatever the disk has.
    node.offer_at_most(0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((node.room().total, node.room().free), (0, 0));
    assert_eq!(ask(&node, grows.clone()).await, full);
    node.offer_at_most(1 << 40);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_ne!(ask(&node, grows).await, full);
    node.stop().await;
}

/// Makes a node lead a group.
async fn lead(world: &World, group: GroupId, node: u64) {
    let own = world.nodes[&node].replica(group).expect("it runs");
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = own.raft().metrics().borrow_watched().current_leader;
        if leader == Some(own.id().0) {
            return;
        }
        for node in world.nodes.values() {
            let other = node.replica(group).expect("it runs");
            if leader == Some(other.id().0) {
                let handed = other.raft().trigger().transfer_leader(own.id().0).await;
                handed.expect("it runs");
            }
        }
    }
}

fn standing(world: &World, node: u64) -> ReplicaStatus {
    let status = world.nodes[&node].status();
    let mut held = status.replicas.into_iter();
    held.find(|held| held.group == GROUP).expect("it is held")
}

/// Its leader's disk may be larger: what was ordered waits here for room, and ends neither the node nor a replica.
#[tokio::test(start_paused = true)]
async fn a_follower_whose_disk_is_full_waits_for_room_and_catches_up() {
    for (seed, bytes) in [(80, 100_000), (81, 5_000)] {
        let mut world = World::new(seed).await;
        world.put(0, 0, Bytes::new()).await;
        let victim = 1 + world.leader().expect("somebody leads") % NODES;
        let dir = world.dirs[&victim].clone();
        let other = GroupId(20);
        world.found(other, Space::Meta).await;
        lead(&world, other, victim).await;
        leave_room(&dir, 64 << 10);
        for key in 0..12_000_000 / bytes as u64 {
            world.put(key, key, Bytes::from(vec![9; bytes])).await;
        }
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(world.nodes[&victim].health().ended(), None);
        let leads = standing(&world, world.leader().expect("still"));
        let held = standing(&world, victim);
        assert!(held.running && held.applied < leads.applied, "{held:?}");
        let status = world.nodes[&victim].status();
        assert!(status.log_stalled, "it is no leader to rely on");
        // Also where it is to end meanwhile.
        if bytes < 10_000 {
            // The log is full of what waits: nothing else goes on here either.
            let follower = world.nodes[&victim].replica(other).expect("it runs");
            let leader = follower.raft().metrics().borrow_watched().current_leader;
            assert_ne!(leader, Some(follower.id().0));
            let killed = tokio::time::timeout(Duration::from_secs(30), world.kill(victim));
            assert!(killed.await.is_ok(), "it ends");
            // For its small files.
            leave_room(&world.dirs[&victim], 16 << 10);
            world.start(victim).await;
            assert!(standing(&world, victim).running, "it starts without room");
        }
        world.dirs[&victim].set_capacity(1 << 40);
        world.converge().await;
        assert!(!world.nodes[&victim].status().log_stalled);
    }
}

/// Without its state or its log a member would take itself for empty, found anew, or vote a second time (P1).
#[tokio::test(start_paused = true)]
async fn a_member_whose_files_are_gone_says_so_and_begins_nothing_anew() {
    use polyfs_store::disk::Dir as _;
    for (seed, file) in [
        (70, "state.redb"),
        (71, "log-"),
        (73, "data-"),
        (74, "identity"),
    ] {
        let (dir, node) = alone(seed).await;
        node.checkpoint().await.expect("the disk works");
        node.stop().await;
        drop(node);
        for name in dir.list().expect("it lists") {
            if name.starts_with(file) {
                dir.remove(&name).expect("it is there");
            }
        }
        let error = open(&dir, seed).await.err().expect("it does not start");
        assert!(error.contains(file) && error.contains("missing"), "{error}");
    }
}

/// One file of several is as much a loss, wherever it stood (P1).
#[tokio::test(start_paused = true)]
async fn any_one_file_of_the_log_is_missed() {
    use polyfs_store::disk::Dir as _;
    let (dir, node) = alone(72).await;
    let dir = stopped(&dir, node, 72).await;
    let mut names = dir.list().expect("it lists");
    names.retain(|name| name.starts_with("log-"));
    assert!(names.len() > 2, "{names:?}");
    for name in names {
        let image = dir.image(&name);
        dir.remove(&name).expect("it is there");
        let error = open(&dir, 73).await.err().expect("it does not start");
        assert!(error.contains("log-"), "without {name}: {error}");
        assert!(error.contains("empty one"), "without {name}: {error}");
        dir.put_image(&name, image);
    }
    let node = open(&dir, 74).await.expect("everything is back");
    check(&node).await.expect("nothing is lost");
    node.stop().await;
}

/// redb panics over some of these: a node that does not start says why all the same.
#[tokio::test(start_paused = true)]
async fn a_database_that_is_cut_or_overwritten_is_said_to_be_damaged() {
    let (dir, node) = alone(75).await;
    let dir = stopped(&dir, node, 75).await;
    let image = dir.image("state.redb");
    let mut dice = Dice::new(75);
    for round in 0..40 {
        let mut bad = image.clone();
        let at = dice.below_len(image.len());
        match round % 4 {
            0 => bad.truncate(at),
            1 => bad[at..].fill(0),
            2 => bad[..at.min(4096)].fill(0xff),
            _ => bad[at..].iter_mut().for_each(|byte| *byte ^= 0x5a),
        }
        dir.put_image("state.redb", bad);
        match open(&dir, 76 + round).await {
            Ok(node) => {
                // What was overwritten was free.
                let _ = check(&node).await;
                node.stop().await;
            }
            Err(error) => {
                assert!(
                    error.contains("damaged") || error.contains("log"),
                    "{error}"
                );
            }
        }
    }
}
