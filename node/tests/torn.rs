//! A log that lost its tail: its replicas neither vote nor stand until they are level again, or 5 s have passed (P10).

use std::time::Duration;

use bytes::Bytes;
use polyfs_store::memory::MemoryDir;

use crate::support::world::*;

const BLOCK: usize = 4096;

/// The last batch of the log.
struct LastBatch {
    sequence: u64,
    file: String,
    image: Vec<u8>,
    at: usize,
    end: usize,
}

fn last_batch(dir: &MemoryDir) -> Option<LastBatch> {
    let number = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    };
    let mut last = None;
    for segment in 1..=16 {
        let name = format!("log-{segment:04}");
        if !polyfs_store::disk::Dir::list(dir)
            .expect("it can be listed")
            .contains(&name)
        {
            continue;
        }
        let image = dir.image(&name);
        for at in (BLOCK..image.len()).step_by(BLOCK) {
            if image[at..at + 8] == *b"PolyFSwb" {
                let sequence = number(&image[at..], 40);
                let body = number(&image[at..], 68) & 0xffff_ffff;
                let body = usize::try_from(body).expect("it is small");
                let end = at + (84 + body).next_multiple_of(BLOCK);
                last = last.max(Some((sequence, segment, at, end)));
            }
        }
    }
    let (sequence, segment, at, end) = last?;
    let file = format!("log-{segment:04}");
    let image = dir.image(&file);
    Some(LastBatch {
        sequence,
        file,
        image,
        at,
        end,
    })
}

/// Puts what looks like a batch that was not written whole behind the last one of the log.
fn tear(dir: &MemoryDir) {
    let mut last = last_batch(dir).expect("the log has a batch");
    last.image.copy_within(last.at..last.at + 84, last.end);
    last.image[last.end + 83] ^= 1;
    dir.put_image(&last.file, last.image);
}

/// Makes the log end one batch earlier, as if the disk had never written the last one that it said it had.
fn forget(dir: &MemoryDir) {
    let mut last = last_batch(dir).expect("the log has a batch");
    last.image[last.at..last.end].fill(0);
    dir.put_image(&last.file, last.image);
}

async fn torn_world(seed: u64, victim: u64) -> World {
    let mut world = World::new(seed).await;
    for key in 0..20 {
        world.put(key, key * 3, Bytes::from(vec![7; 1000])).await;
    }
    world.kill(victim).await;
    tear(&world.dirs[&victim]);
    world
}

#[tokio::test(start_paused = true)]
async fn a_torn_replica_alone_is_silent_for_five_seconds() {
    let mut world = torn_world(1, 3).await;
    for other in [1, 2] {
        world.fabric.cut(&name(3), &name(other), true);
    }
    world.start(3).await;
    for _ in 0..48 {
        assert!(world.refuses_votes(3).await, "it may have voted for more");
        assert!(world.nodes[&3].replica(GROUP).unwrap().is_held_back());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(
        !world.refuses_votes(3).await,
        "nothing is waited for longer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_brings_a_torn_replica_level_ends_its_silence() {
    for seed in 2..6 {
        let mut world = torn_world(seed, 1 + seed % 3).await;
        world.put(99, 1, Bytes::new()).await;
        let victim = 1 + seed % 3;
        world.start(victim).await;
        let replica = world.nodes[&victim].replica(GROUP).expect("it runs");
        assert!(replica.is_held_back(), "seed {seed}");
        let mut waited = 0;
        while replica.is_held_back() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            waited += 1;
        }
        assert!(waited < 30, "seed {seed}: {waited}");
        assert!(!replica.is_held_back());
        world.converge().await;
    }
}

/// Nothing on the disk tells, and an election might have: the leader that was told still knows. In the second half next to
/// nothing is left of the log, and the replica knows of nobody who votes.
#[tokio::test(start_paused = true)]
async fn a_replica_that_lost_what_its_leader_knows_written_never_speaks_again() {
    for seed in 1..7 {
        let mut world = World::new(seed).await;
        for key in 0..20 {
            world.put(key, key * 3, Bytes::from(vec![7; 1000])).await;
        }
        world.converge().await;
        let victim = 1 + world.leader().expect("somebody leads") % NODES;
        let id = world.nodes[&victim].replica(GROUP).expect("it runs").id();
        world.kill(victim).await;
        let dir = &world.dirs[&victim];
        for _ in 0..3 {
            forget(dir);
        }
        while seed > 3 && last_batch(dir).is_some_and(|last| last.sequence > 1) {
            forget(dir);
        }
        world.start(victim).await;
        let node = world.nodes[&victim].clone();
        let mut waited = 0;
        while node.replica(GROUP).is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            waited += 1;
            assert!(waited < 30, "seed {seed}: it still speaks");
        }
        world.kill(victim).await;
        world.start(victim).await;
        let lost = world.nodes[&victim].lost();
        let why = &lost[&(GROUP, id)];
        assert!(why.contains("the leader knows"), "seed {seed}: {why}");
        world.put(99, 1, Bytes::new()).await;
        assert_eq!(world.get(7).await, Some(21));
    }
}
