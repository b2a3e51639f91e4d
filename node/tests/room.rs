//! A log with little room: whatever is written how fast, no replica stops for it (P10).

use std::time::Duration;

use bytes::Bytes;
use polyfs_core::ids::GroupId;
use polyfs_core::request::Space;
use polyfs_node::runtime::Lane;
use polyfs_store::wal::LogConfig;

use crate::support::world::*;
use crate::support::{each, seeds};

/// Sixteen segments of a quarter of a mebibyte: four mebibytes are full soon.
fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 256 << 10,
        segments_initial: 2,
        batch_bytes_max: 128 << 10,
        cache_bytes_max: 256 << 10,
        ..LogConfig::default()
    }
}

fn all_run(world: &World) {
    for node in world.nodes.values() {
        let status = node.status();
        assert_eq!(status.failure, None, "seed {}", world.seed);
        for replica in status.replicas {
            let group = replica.group;
            assert!(replica.running, "seed {}: {group} stopped", world.seed);
        }
    }
}

#[test]
fn a_full_log_delays_a_busy_group_and_stops_nobody() {
    // In 15 a node died whose log said that more was committed than it held.
    each(seeds(1..4).chain([15]), async |seed| {
        let mut world = World::with_log(seed, small()).await;
        // Six groups that are written once, in what will be the oldest segment, and then hardly ever.
        for quiet in 20..26 {
            world.found(GroupId(quiet), Space::Meta).await;
        }
        let mut key = 0;
        for round in 0..6 {
            // More at once than the whole log holds.
            let payload = Bytes::from(vec![7; 60_000]);
            let puts = (key..key + 120).map(|key| world.put(key, key * 3, payload.clone()));
            futures::future::join_all(puts).await;
            key += 120;
            all_run(&world);
            if round % 2 == 1 {
                let node = 1 + (seed + round) % NODES;
                world.kill(node).await;
                world.start(node).await;
            }
        }
        for key in (0..key).step_by(37) {
            assert_eq!(world.get(key).await, Some(key * 3), "seed {seed}");
        }
        world.converge().await;
        all_run(&world);
    });
}

/// Tens of megabytes of zeros are written and synced for one.
#[tokio::test(start_paused = true)]
async fn batches_do_not_wait_for_a_segment_that_is_made() {
    let world = World::with_log(7, small()).await;
    world.put(0, 0, Bytes::new()).await;
    for node in 1..=NODES {
        world.fabric.stop_lane(&name(node), Lane::Read);
    }
    let fill_one = async {
        for key in 1..8 {
            world.put(key, key, Bytes::from(vec![7; 50_000])).await;
        }
    };
    let filled = tokio::time::timeout(Duration::from_secs(1), fill_one).await;
    assert!(filled.is_ok(), "a batch waited");
}
