//! Groups of three replicas on three nodes: elections, writes, restarts after power cuts, broken connections.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::watch::WatchReceiver;
use polyfs_core::attr::{FileKind, NewInode};
use polyfs_core::ids::{Fence, NodeId, Renewal, SessionId};
use polyfs_core::place::{Ino, Salt};
use polyfs_core::region::command::CommandBody;
use polyfs_core::region::query::{self, DataFound};
use polyfs_core::request::{
    Answer, ChunkName, DataOp, DataQuery, DataReply, MetaOp, MetaQuery, MetaReply, Refusal,
    RequestBody, Space,
};
use polyfs_node::raft::types::GroupCommand;
use polyfs_node::wire::{Call, Reply};
use polyfs_store::memory::Dice;

use crate::support::world::*;

fn payload(dice: &mut Dice) -> Bytes {
    let bytes = match dice.below(4) {
        0 => 0,
        1 => dice.below_len(5000),
        2 => 64 << 10,
        _ => (64 << 10) + dice.below_len(200_000),
    };
    let fill = u8::try_from(dice.below(256)).expect("below 256");
    vec![fill; bytes].into()
}

#[tokio::test(start_paused = true)]
async fn three_replicas_elect_write_and_read() {
    let world = World::new(1).await;
    for key in 0..50 {
        world.put(key, key * 3, Bytes::new()).await;
    }
    for key in 0..50 {
        assert_eq!(world.get(key).await, Some(key * 3));
    }
    world.converge().await;
}

#[tokio::test(start_paused = true)]
async fn large_payloads_arrive_everywhere() {
    let world = World::new(2).await;
    let mut dice = Dice::new(2);
    for key in 0..20 {
        world.put(key, 1, payload(&mut dice)).await;
    }
    world.put(99, 1, vec![7; 1 << 20].into()).await;
    world.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lost_power_comes_back_from_its_store() {
    for seed in 10..16 {
        let mut world = World::new(seed).await;
        let mut dice = Dice::new(seed);
        let mut model = BTreeMap::new();
        for round in 0..4 {
            for _ in 0..20 {
                let (key, value) = (dice.below(30), dice.below(u64::MAX));
                world.put(key, value, payload(&mut dice)).await;
                model.insert(key, value);
            }
            let victim = 1 + dice.below(NODES);
            world.kill(victim).await;
            for _ in 0..dice.below(20) {
                let (key, value) = (dice.below(30), round);
                world.put(key, value, Bytes::new()).await;
                model.insert(key, value);
            }
            world.start(victim).await;
        }
        world.converge().await;
        for (key, value) in model {
            assert_eq!(world.get(key).await, Some(value), "seed {seed}, key {key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broken_connections_heal() {
    let world = World::new(3).await;
    let mut dice = Dice::new(3);
    for key in 0..40 {
        let (a, b) = (1 + dice.below(NODES), 1 + dice.below(NODES));
        if a != b {
            world.fabric.cut(&name(a), &name(b), dice.below(2) == 0);
        }
        world.put(key, key, payload(&mut dice)).await;
        world.fabric.heal(&name(a), &name(b));
    }
    world.converge().await;
}

#[tokio::test(start_paused = true)]
async fn requests_over_a_connection_are_answered_by_the_leader() {
    let mut world = World::new(4).await;
    for round in 1..4_u64 {
        world.put(1, round, Bytes::new()).await;
        let leader = world.leader().expect("a write was acknowledged");
        let other = 1 + leader % NODES;
        let links = world.nodes[&other].links();
        let conn = links
            .reach(NodeId(leader))
            .await
            .expect("the leader is there");
        let end = MetaOp::EndSession {
            session: SessionId(9),
        };
        let call = |body| conn.call(Call::Request(request(round, body)), vec![]);
        let done = Reply::Answer(Answer::Meta(Ok(MetaReply::Done)));
        let (mut told, _) = call(RequestBody::MetaOp(end.clone()))
            .await
            .expect("it answers");
        while told != done {
            // A leadership counts only from its own first entry on.
            tokio::time::sleep(Duration::from_millis(20)).await;
            told = call(RequestBody::MetaOp(end.clone()))
                .await
                .expect("it answers")
                .0;
        }
        let query = RequestBody::MetaQuery(MetaQuery::GetAttr { ino: Ino(1) });
        let reads = (0..20).map(|_| call(query.clone()));
        for (told, _) in futures::future::try_join_all(reads)
            .await
            .expect("all answer")
        {
            let value = Bytes::copy_from_slice(&round.to_be_bytes());
            assert_eq!(
                told,
                Reply::Answer(Answer::Meta(Ok(MetaReply::Bytes(value))))
            );
        }
        let renew = Call::RenewLeases {
            assertions: vec![],
            session: SessionId(5),
            renewal: Renewal(1),
        };
        let (told, _) = conn.call(renew, vec![]).await.expect("it answers");
        assert!(matches!(told, Reply::LeasesRenewed(by) if by.len() == 1));

        let links = world.nodes[&leader].links();
        let conn = links
            .reach(NodeId(other))
            .await
            .expect("the follower is there");
        let (told, _) = conn
            .call(Call::Request(request(1, query)), vec![])
            .await
            .expect("it answers");
        let Reply::Answer(Answer::Refused(Refusal::NotLeader {
            leader: Some((node, _)),
        })) = told
        else {
            panic!("a follower answers {told:?}");
        };
        assert_eq!(node, NodeId(leader));
        world.kill(leader).await;
        world.start(leader).await;
    }
    world.converge().await;
}

/// Makes everything durable and forgets the log, on those that follow, and lets one of them lead: a leader keeps what
/// it is still trying to send.
async fn purge(world: &World) {
    let leader = world.leader().expect("there is one");
    let mut heir = None;
    for (id, node) in world.nodes.iter().filter(|(id, _)| **id != leader) {
        node.checkpoint().await.expect("the disk works");
        let replica = node.replica(GROUP).expect("it runs");
        let applied = replica.raft().metrics().borrow_watched().last_applied;
        let applied = applied.expect("something was written").index();
        replica.raft().trigger().snapshot().await.expect("it runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
        replica
            .raft()
            .trigger()
            .purge_log(applied)
            .await
            .expect("it runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let purged = replica.raft().metrics().borrow_watched().purged;
        assert_eq!(
            purged.map(|id| id.index()),
            Some(applied),
            "the log is shorter now"
        );
        heir = Some(*id);
    }
    let heir = heir.expect("two of three run");
    let leader = world.nodes[&leader].replica(GROUP).expect("it runs");
    leader
        .raft()
        .trigger()
        .transfer_leader(10 + heir)
        .await
        .expect("it runs");
    for _ in 0..200 {
        if world.leader() == Some(heir) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("seed {}: the lead is not handed over", world.seed);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_missed_purged_entries_gets_a_snapshot() {
    for seed in 20..24 {
        let mut world = World::new(seed).await;
        let mut dice = Dice::new(seed);
        for key in 0..40 {
            world.put(key, key, payload(&mut dice)).await;
        }
        let victim = 1 + dice.below(NODES);
        let lineage = |world: &World| {
            world.nodes[&victim]
                .replica(GROUP)
                .expect("it runs")
                .state()
                .record()
                .lineage
        };
        let before = lineage(&world);
        world.kill(victim).await;
        for key in 20..60 {
            world.put(key, key + seed, payload(&mut dice)).await;
        }
        purge(&world).await;
        world.start(victim).await;
        for _ in 0..dice.below(5) {
            tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
            let other = 1 + dice.below(NODES);
            if other != victim {
                world.fabric.cut(&name(victim), &name(other), false);
            }
        }
        world.converge().await;
        assert_ne!(lineage(&world), before, "it came by snapshot");
        // What came by snapshot is durable.
        world.kill(victim).await;
        world.start(victim).await;
        world.converge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn regions_keep_names_and_data_across_power_cuts() {
    for seed in 30..33 {
        let mut world = World::new(seed).await;
        world.found(META, Space::Meta).await;
        world.found(DATA, Space::Data).await;
        let made = world.order(META, 1, make(b"file"), Bytes::new()).await;
        let Answer::Meta(Ok(MetaReply::Made { attr, .. })) = made else {
            panic!("seed {seed}: {made:?}");
        };
        let mut dice = Dice::new(seed);
        let mut written = Vec::new();
        for number in 0..12 {
            let chunk = ChunkName {
                ino: attr.ino,
                version: 1,
                number,
            };
            let bytes = 1 + payload(&mut dice).len();
            let content = Bytes::from(vec![u8::try_from(number + 1).expect("small"); bytes]);
            let write = DataOp::Write {
                chunk,
                fence: Fence(0),
                offset: 0,
            };
            let body = CommandBody::Data(write);
            let done = world.order(DATA, number + 1, body, content.clone()).await;
            assert_eq!(done, Answer::Data(Ok(DataReply::Done)), "seed {seed}");
            written.push((chunk, content));
            if number % 4 == 3 {
                let victim = 1 + dice.below(NODES);
                world.kill(victim).await;
                world.start(victim).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        for node in world.nodes.values() {
            let replica = node.replica(DATA).expect("it runs");
            for (chunk, content) in &written {
                let ask = DataQuery::Read {
                    chunk: *chunk,
                    fence: Fence(0),
                    offset: 0,
                    len: u32::try_from(content.len()).expect("below a chunk"),
                    absent_is_hole: false,
                    led: None,
                };
                let read = replica.state().read(|state| query::data(state, &ask));
                let read = read.expect("the state can be read");
                let DataFound::Reply(_, bytes) = read else {
                    panic!("seed {seed}: {chunk:?} is lost: {read:?}");
                };
                assert!(
                    bytes == *content,
                    "seed {seed}: {chunk:?} reads back as written"
                );
            }
        }
    }
}

fn make(name: &[u8]) -> CommandBody {
    let new = NewInode {
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 1,
        gid: 1,
        rdev: 0,
        target: Bytes::new(),
    };
    CommandBody::Meta(MetaOp::Make {
        dir: ROOT,
        salt: Salt(7),
        name: name.to_vec(),
        new,
        home: None,
        exclusive: true,
        lease: None,
    })
}

/// Everybody's disk has no room for what one group has ordered. The others go on: they may be who makes room.
#[tokio::test(start_paused = true)]
async fn a_group_that_waits_for_room_takes_no_other_along() {
    let world = World::new(82).await;
    world.put(0, 0, Bytes::new()).await;
    world.found(META, Space::Meta).await;
    let made = world.order(META, 1, make(b"before"), Bytes::new()).await;
    assert!(matches!(made, Answer::Meta(Ok(_))), "{made:?}");
    for dir in world.dirs.values() {
        leave_room(dir, 64 << 10);
    }
    let leader = world.leader().expect("somebody leads");
    let replica = world.nodes[&leader].replica(GROUP).expect("it leads");
    let command = GroupCommand::new(&Put { key: 1, value: 1 }, Bytes::from(vec![9; 1 << 20]));
    let written = replica.raft().client_write(command);
    let written = tokio::time::timeout(Duration::from_secs(5), written).await;
    assert!(!matches!(written, Ok(Ok(_))), "there is no room for it");
    for node in world.nodes.values() {
        assert!(node.status().log_stalled, "all wait");
    }
    for sequence in 2..20 {
        let name = sequence.to_string();
        let made = world.order(META, sequence, make(name.as_bytes()), Bytes::new());
        let made = tokio::time::timeout(Duration::from_secs(10), made).await;
        assert!(matches!(made, Ok(Answer::Meta(Ok(_)))), "{made:?}");
    }
}
