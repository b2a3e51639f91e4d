//! Mounts in processes of their own: three nodes, a cluster by hand, nodes that die.

use std::time::Duration;

use polyfs_core::ids::NodeId;
use polyfs_node::access::Access;
use polyfs_node::find::{FindError, Finder};
use polyfs_node::links::cluster_at;

use crate::support::Machine as Host;
use crate::support::handmade::*;
use crate::support::world::*;
use crate::support::{each, seeds};

#[tokio::test(start_paused = true)]
async fn two_mounts_outside_share_files_and_recall_each_other() {
    let world = World::new(50).await;
    found_cluster(&world).await;
    let one = Mount::outside(&world, "c1").await;
    let two = Mount::outside(&world, "c2").await;
    one.write("a", b"first").await;
    // What `one` has not written back yet is recalled from it, over its connection to the leader.
    assert_eq!(two.read("a").await, b"first");
    two.write("a", b"second, and longer").await;
    assert_eq!(one.read("a").await, b"second, and longer");
    let long = vec![7; 300_000];
    one.write("b", &long).await;
    assert_eq!(two.read("b").await, long);
    two.unmount().await;
    one.unmount().await;
}

#[test]
fn a_mount_outside_outlives_any_node() {
    each(seeds(60..63), async |seed| {
        let mut world = World::new(seed).await;
        found_cluster(&world).await;
        let mount = Mount::outside(&world, "c1").await;
        let mut written = Vec::new();
        for victim in 1..=NODES {
            for number in 0..5 {
                let name = format!("{victim}-{number}");
                mount.write(&name, name.as_bytes()).await;
                written.push(name);
            }
            world.kill(victim).await;
            world.fabric.cut(&name(victim), "c1", true);
            for number in 5..10 {
                let name = format!("{victim}-{number}");
                mount.write(&name, name.as_bytes()).await;
                written.push(name);
            }
            world.start(victim).await;
            world.fabric.heal(&name(victim), "c1");
            // The others take it back in.
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let other = Mount::outside(&world, "c2").await;
        for name in written {
            assert_eq!(other.read(&name).await, name.as_bytes(), "seed {seed}");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_mount_inside_a_node_that_leads_nothing_works_and_is_recalled() {
    let world = World::new(70).await;
    found_cluster(&world).await;
    let mut mounts = Vec::new();
    for node in 1..=NODES {
        mounts.push(Mount::inside(&world, node).await);
    }
    for (number, mount) in mounts.iter().enumerate() {
        mount.write("shared", format!("{number}").as_bytes()).await;
        for other in &mounts {
            assert_eq!(other.read("shared").await, format!("{number}").as_bytes());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_not_there_is_said_in_time() {
    let world = World::new(80).await;
    let host = Host::new(&world.fabric, "c1", 1);
    let before = tokio::time::Instant::now();
    let finder = Finder::nodes(host.clone(), vec!["nobody:1".into()]);
    let error = Access::outside(host.clone(), finder).await.err();
    assert_eq!(error, Some(FindError::NoNode("nobody:1".into())));
    assert!(before.elapsed() <= Duration::from_secs(6));
    let error = Access::outside(host.clone(), Finder::nodes(host.clone(), vec![])).await;
    assert_eq!(error.err(), Some(FindError::NobodyToAsk));
    let address = world.nodes[&1].address();
    let cluster = cluster_at(&host, &address).await.expect("a node answers");
    assert_eq!(cluster, world.nodes[&1].identity().cluster);
    let access = Access::outside(host.clone(), Finder::nodes(host, vec![address]))
        .await
        .expect("it is there");
    // One address is enough to know all.
    assert_eq!(access.links().addresses().len(), 3);
    let members = access.members_of(NodeId(2)).await.expect("it answers");
    assert_eq!(members.addresses.len(), 3);
}
