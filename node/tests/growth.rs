//! Clusters that grow by themselves, and what a killed node changes: nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use polyfs_core::ids::{GroupId, NodeId, ReplicaId};
use polyfs_core::master::controller::Directive;
use polyfs_core::master::controller::health::Verdict;
use polyfs_core::master::entry::Entry;
use polyfs_core::master::status::NodeState;
use polyfs_store::disk::Dir;
use polyfs_store::memory::MemoryDir;

use crate::support::cluster::Cluster;

/// Content for the file of a number: some inline, some in chunks.
fn content(number: usize) -> Vec<u8> {
    let bytes = [10, 5_000, 70_000, 1_300_000][number % 4];
    let fill = u8::try_from(number % 250 + 1).expect("small");
    vec![fill; bytes]
}

#[tokio::test(start_paused = true)]
async fn two_nodes_make_everything_threefold_and_the_founder_may_die() {
    let mut cluster = Cluster::found(1).await;
    let mount = cluster.mount(1).await;
    let dir = mount.make_dir("dir").await;
    for number in 0..24 {
        let name = format!("file {number}");
        mount.write(dir, &name, &content(number)).await;
    }
    cluster
        .until("one copy", |status| status.health == Verdict::Degraded)
        .await;
    cluster.join().await;
    cluster.join().await;
    let (status, took) = cluster.until_ok(3).await;
    println!("threefold after {took:?}");
    assert_eq!(status.mrg.members.len(), 3, "{status:#?}");
    assert_eq!(status.why, Vec::<String>::new());
    assert!(
        status
            .nodes
            .iter()
            .all(|node| node.state == NodeState::Alive)
    );
    for group in cluster.groups() {
        assert_eq!(cluster.assert_same(group).await, 3, "{group}");
    }
    let other = cluster.mount(2).await;
    drop(mount);
    cluster.kill(1).await;
    for number in 0..24 {
        let name = format!("file {number}");
        assert!(other.read(dir, &name).await == content(number), "{name}");
        other
            .write(dir, &format!("more {number}"), &content(number))
            .await;
    }
    cluster.start(1).await;
    cluster.until_ok(3).await;
    for group in cluster.groups() {
        assert_eq!(cluster.assert_same(group).await, 3, "{group}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_nodes_say_that_one_disk_holds_the_only_vote() {
    let mut cluster = Cluster::found(2).await;
    cluster.join().await;
    let says = "one disk holds the only vote of 5 groups";
    let (status, _) = cluster
        .until("a learner for each", |status| {
            status.why.iter().any(|why| why == says)
        })
        .await;
    assert_eq!(status.health, Verdict::Degraded);
    let mut copies = 0;
    for _ in 0..600 {
        copies = cluster.nodes[&2].groups().len();
        if copies == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(copies, 5, "the second node has a copy of everything");
    for group in cluster.groups() {
        assert_eq!(cluster.assert_same(group).await, 2, "{group}");
    }
}

#[tokio::test(start_paused = true)]
async fn group_zero_has_five_members_at_most() {
    let mut cluster = Cluster::found(3).await;
    for _ in 0..4 {
        cluster.join().await;
    }
    let (status, took) = cluster.until_ok(5).await;
    println!("five nodes after {took:?}");
    assert_eq!(status.mrg.members.len(), 5);
    cluster.join().await;
    cluster.join().await;
    cluster.until_ok(7).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (status, _) = cluster.until_ok(7).await;
    assert_eq!(status.mrg.members.len(), 5);
    let members: BTreeSet<NodeId> = status.mrg.members.iter().copied().collect();
    assert_eq!(members.len(), 5, "on five nodes");
    assert_eq!(status.regions.meta + status.regions.data, 4);
    let leader = cluster.leader(GroupId::MASTER).expect("there is one");
    assert_eq!(status.master, NodeId(leader));
}

/// Waits until a node has so many replicas, and says which.
async fn replicas(cluster: &Cluster, node: u64, count: usize) -> Vec<(GroupId, ReplicaId)> {
    for _ in 0..600 {
        let groups = cluster.nodes[&node].groups();
        let held = groups.iter().map(|group| group.replica());
        let held: Vec<_> = held.map(|held| (held.group(), held.id())).collect();
        if held.len() == count {
            return held;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("node {node} never has {count} replicas");
}

#[tokio::test(start_paused = true)]
async fn a_destroyed_replica_never_comes_back() {
    let mut cluster = Cluster::found(4).await;
    let mount = cluster.mount(1).await;
    mount.write(mount.root, "file", &content(3)).await;
    let node = NodeId(cluster.join().await);
    let old = replicas(&cluster, 2, 5).await;
    let drain = |draining| Entry::SetDraining { node, draining };
    cluster.propose(drain(true)).await;
    replicas(&cluster, 2, 0).await;
    for restarted in [false, true] {
        if restarted {
            cluster.kill(2).await;
            cluster.start(2).await;
        }
        // Directives that were late on their way.
        let late = old.iter().map(|(group, replica)| Directive::CreateReplica {
            group: *group,
            replica: *replica,
        });
        cluster.nodes[&2].obey(late.collect());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(
            cluster.nodes[&2].groups().len(),
            0,
            "restarted: {restarted}"
        );
    }
    cluster.propose(drain(false)).await;
    let new = replicas(&cluster, 2, 5).await;
    for (group, replica) in &new {
        assert!(!old.contains(&(*group, *replica)), "a new id");
        assert_eq!(cluster.assert_same(*group).await, 2, "{group}");
    }
}

/// A chunk that was written and is a hole again exists: only then is the reading of zeros from it no loss of data.
#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_all_hole_comes_along_with_a_snapshot() {
    let mut cluster = Cluster::found(8).await;
    let mount = cluster.mount(1).await;
    let dir = mount.make_dir("dir").await;
    mount.write(dir, "hole", &[7; 102_400]).await;
    mount.punch(dir, "hole", 102_400).await;
    assert!(mount.read(dir, "hole").await[..] == [0; 102_400]);
    drop(mount);
    cluster.join().await;
    cluster.join().await;
    cluster.until_ok(3).await;
    let mount = cluster.mount(2).await;
    cluster.kill(1).await;
    assert!(mount.read(dir, "hole").await[..] == [0; 102_400]);
}

/// What a directory holds, as a copy made while its node was down would.
fn copied(dir: &MemoryDir) -> MemoryDir {
    let copy = MemoryDir::new(1);
    for name in dir.list().expect("it can be listed") {
        copy.put_image(&name, dir.image(&name));
    }
    copy
}

/// P1: a data directory of when the cluster was one node elects itself, and asks nobody who could tell it otherwise.
#[tokio::test(start_paused = true)]
async fn a_founder_of_before_finds_out() {
    let mut cluster = Cluster::found(7).await;
    cluster.kill(1).await;
    let old = copied(&cluster.dirs[&1]);
    cluster.start(1).await;
    cluster.kill(1).await;
    cluster.start(1).await;
    cluster.join().await;
    assert!(!cluster.nodes[&1].is_of_before());
    cluster.join().await;
    cluster.until_ok(3).await;
    assert!(cluster.nodes.values().all(|node| !node.is_of_before()));
    cluster.kill(1).await;
    for known in [true, false] {
        cluster.dirs.insert(1, copied(&old));
        if !known {
            // Whoever knew of a later start has forgotten.
            cluster.kill(2).await;
            cluster.start(2).await;
        }
        cluster.start(1).await;
        let founder = cluster.nodes[&1].clone();
        let met = founder.links().introduce("m2:7000").await;
        assert_eq!(met.is_err(), known);
        let mut waited = 0;
        while !founder.is_of_before() && waited < 100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            waited += 1;
        }
        assert!(
            known || waited < 100,
            "it leads, and meets what it never let in"
        );
        cluster.kill(1).await;
    }
}
