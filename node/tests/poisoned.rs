//! Nodes on which a sync failed: what they hold was verified, serves, and is replaced under other ids (P1, P10).

use std::time::Duration;

use bytes::Bytes;
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_core::master::controller::Directive;
use polyfs_core::master::controller::health::Verdict;
use polyfs_node::health::NodeEnd;
use polyfs_store::disk::Dir;

use crate::support::cluster::Cluster;
use crate::support::world::*;
use crate::support::{each, seeds};

/// The next sync of a node fails while keys are put, and it ends.
async fn poison(world: &mut World, victim: u64) {
    world.dirs[&victim].fail_sync_after(1);
    for key in 0..20 {
        world.put(key, key + 1, Bytes::new()).await;
    }
    let over = world.nodes[&victim].health().over();
    let end = tokio::time::timeout(Duration::from_secs(5), over).await;
    assert!(matches!(end, Ok(NodeEnd::Poisoned(_))), "{end:?}");
    world.kill(victim).await;
    assert!(has(world, victim, "POISON"));
}

fn has(world: &World, node: u64, file: &str) -> bool {
    let names = world.dirs[&node].list().expect("it can be listed");
    names.iter().any(|name| name == file)
}

fn is_suspect(world: &World, node: u64) -> bool {
    let node = &world.nodes[&node];
    let replica = node.replica(GROUP).expect("it runs");
    node.is_suspect(GROUP, replica.id())
}

#[tokio::test(start_paused = true)]
async fn a_suspect_replica_serves_stays_suspect_and_gives_way_to_another() {
    let mut world = World::new(6).await;
    for key in 0..20 {
        world.put(key, key, Bytes::new()).await;
    }
    let victim = 1 + world.leader().expect("somebody leads") % NODES;
    poison(&mut world, victim).await;
    world.start(victim).await;
    assert!(is_suspect(&world, victim));
    assert!(!has(&world, victim, "POISON"), "it was verified");
    world.put(1, 3, Bytes::new()).await;
    world.converge().await;
    // A start later it is no less so.
    world.kill(victim).await;
    world.start(victim).await;
    assert!(is_suspect(&world, victim));
    let node = world.nodes[&victim].clone();
    let old = node.replica(GROUP).expect("it runs").id();
    let create = |replica| Directive::CreateReplica {
        group: GROUP,
        replica,
    };
    for late in [old, ReplicaId(old.0 - 1)] {
        node.obey(vec![create(late)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held = node.replica(GROUP).expect("it still runs");
        assert_eq!(held.id(), old, "a late word replaces nothing");
    }
    let next = ReplicaId(old.0 + 100);
    node.obey(vec![create(next)]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = node.replica(GROUP).expect("the new one runs");
    assert_eq!(held.id(), next);
    for _ in 0..2 {
        assert!(!is_suspect(&world, victim), "the new one is sound");
        world.kill(victim).await;
        world.start(victim).await;
    }
    world.put(2, 4, Bytes::new()).await;
    assert_eq!(world.get(2).await, Some(4));
}

/// It leaves the votes to others for a minute, and no longer.
#[tokio::test(start_paused = true)]
async fn a_suspect_replica_alone_neither_votes_nor_stands_for_a_minute() {
    let mut world = World::new(7).await;
    world.put(1, 1, Bytes::new()).await;
    let victim = 1 + world.leader().expect("somebody leads") % NODES;
    poison(&mut world, victim).await;
    for other in (1..=NODES).filter(|other| *other != victim) {
        world.fabric.cut(&name(victim), &name(other), true);
    }
    world.start(victim).await;
    for _ in 0..59 {
        assert!(world.refuses_votes(victim).await);
        assert!(world.nodes[&victim].replica(GROUP).unwrap().is_held_back());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!world.refuses_votes(victim).await);
}

/// A list that can't be read may have named anybody: everything is verified again, and suspect.
#[tokio::test(start_paused = true)]
async fn a_damaged_list_of_suspects_makes_everything_suspect() {
    let mut world = World::new(8).await;
    world.put(1, 1, Bytes::new()).await;
    let victim = 1 + world.leader().expect("somebody leads") % NODES;
    world.kill(victim).await;
    world.dirs[&victim].put_image("suspect", vec![7; 40]);
    for _ in 0..2 {
        world.start(victim).await;
        assert!(is_suspect(&world, victim));
        world.kill(victim).await;
    }
    assert_ne!(world.dirs[&victim].image("suspect"), vec![7; 40]);
}

fn replicas(cluster: &Cluster, node: u64) -> Vec<(GroupId, ReplicaId)> {
    let status = cluster.nodes[&node].status();
    let replicas = status.replicas.iter();
    replicas.map(|held| (held.group, held.replica)).collect()
}

/// A fault that all disks have in common (an array behind them, a thin pool): nothing is lost, everything is served
/// again by itself, and every replica is replaced.
#[test]
fn however_many_disks_fail_a_sync_everything_is_served_again_and_replaced() {
    each(seeds(1..4), async |seed| {
        let mut cluster = Cluster::found(seed).await;
        cluster.join().await;
        cluster.join().await;
        cluster.until_ok(3).await;
        let mount = cluster.mount(1).await;
        let dir = mount.make_dir("dir").await;
        for number in 0..12 {
            mount
                .write(dir, &format!("file {number}"), &[7; 5000])
                .await;
        }
        drop(mount);
        let victims: Vec<u64> = (1..=3)
            .take(usize::try_from(seed).expect("small"))
            .collect();
        let before: Vec<_> = victims.iter().map(|v| replicas(&cluster, *v)).collect();
        for victim in &victims {
            cluster.dirs[victim].fail_sync_after(1);
        }
        for victim in &victims {
            cluster.nodes[victim].health().over().await;
        }
        for victim in &victims {
            cluster.kill(*victim).await;
        }
        for victim in &victims {
            cluster.start(*victim).await;
        }
        let served = |health| health != Verdict::Unavailable;
        let (_, took) = cluster
            .until("served", |status| served(status.health))
            .await;
        println!("seed {seed}: served after {took:?}");
        let mount = cluster.mount(2).await;
        for number in 0..12 {
            let name = format!("file {number}");
            assert!(mount.read(dir, &name).await[..] == [7; 5000], "{name}");
            mount.write(dir, &format!("more {number}"), b"x").await;
        }
        let suspects = |node: u64, held: &[(GroupId, ReplicaId)]| {
            held.iter()
                .any(|(group, id)| cluster.nodes[&node].is_suspect(*group, *id))
        };
        assert!(
            victims
                .iter()
                .all(|v| suspects(*v, &replicas(&cluster, *v)))
        );
        let (_, took) = cluster.until_ok(3).await;
        println!("seed {seed}: replaced after {took:?}");
        for (victim, before) in victims.iter().zip(before) {
            let now = replicas(&cluster, *victim);
            assert!(!suspects(*victim, &now));
            assert!(before.iter().all(|old| !now.contains(old)), "{now:?}");
        }
        for group in cluster.groups() {
            assert_eq!(cluster.assert_same(group).await, 3, "{group}");
        }
    });
}
