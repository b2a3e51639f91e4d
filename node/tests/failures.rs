//! Leaders that die, stop or come back at once, and lost majorities: what clients see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use polyfs_core::error::FsError;
use polyfs_core::ids::GroupId;
use polyfs_core::place::Ino;
use tokio::time::Instant;

use crate::support::cluster::{Cluster, Mount};
use crate::support::world::name;
use crate::support::{each, seeds};

/// A fault in a minority shows as latency of at most this: an election, and a round in which mounts re-assert what they
/// hold (P8).
const GAP_MAX: Duration = Duration::from_secs(3);
/// A seed that takes longer, in simulated time, has hung.
const HUNG: Duration = Duration::from_secs(600);

/// Three nodes; node 1, the founder, leads everything.
async fn three(seed: u64) -> Cluster {
    let mut cluster = Cluster::found(seed).await;
    cluster.join().await;
    cluster.join().await;
    cluster.until_ok(3).await;
    cluster
}

/// A mount that writes new files, synced, one after the other, and reads what the other one wrote last.
struct Writer {
    mount: Arc<Mount>,
    dir: Ino,
    label: &'static str,
}

impl Writer {
    /// Works until told to stop; how many files it wrote and the longest it took.
    async fn work(self, stop: Arc<AtomicBool>) -> (usize, Duration) {
        let (mut written, mut longest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Acquire) {
            let begin = Instant::now();
            let name = format!("{} {written}", self.label);
            let content = vec![7; if written % 2 == 0 { 100 } else { 10_000 }];
            self.mount.write(self.dir, &name, &content).await;
            self.mount.append_shared(self.dir, "shared", b"x").await;
            longest = longest.max(begin.elapsed());
            written += 1;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        (written, longest)
    }
}

/// Two mounts at work on nodes 2 and 3 while `disturb` happens; the longest gap either saw.
async fn longest_gap(
    cluster: &mut Cluster,
    disturb: impl AsyncFnOnce(&mut Cluster),
) -> (usize, Duration) {
    let mount = Arc::new(cluster.mount(2).await);
    let dir = mount.make_dir("dir").await;
    mount.write(dir, "shared", b"").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut works = Vec::new();
    for (node, label) in [(2, "two"), (3, "three")] {
        let mount = if node == 2 {
            Arc::clone(&mount)
        } else {
            Arc::new(cluster.mount(node).await)
        };
        let writer = Writer { mount, dir, label };
        works.push(tokio::spawn(writer.work(Arc::clone(&stop))));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    disturb(cluster).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    stop.store(true, Ordering::Release);
    let (mut written, mut longest) = (0, Duration::ZERO);
    for work in works {
        let (count, gap) = work.await.expect("no write fails");
        written += count;
        longest = longest.max(gap);
    }
    let names = mount.names(dir).await;
    assert_eq!(names, written + 1, "every acknowledged file is there");
    (written, longest)
}

/// Runs a seed, which must end; no call fails, and no gap is over the bound.
async fn short_pause(what: &str, seed: u64, disturb: impl AsyncFnOnce(&mut Cluster)) -> Cluster {
    let run = async {
        let mut cluster = three(seed).await;
        let (written, longest) = longest_gap(&mut cluster, disturb).await;
        println!("seed {seed}: {what}: {written} files, longest gap {longest:?}");
        assert!(longest < GAP_MAX, "seed {seed}: a gap of {longest:?}");
        cluster
    };
    let ended = tokio::time::timeout(HUNG, run).await;
    ended.unwrap_or_else(|_| panic!("seed {seed}: {what}: it has no end"))
}

#[test]
fn a_killed_leader_is_a_short_pause() {
    each(seeds(1..4), async |seed| {
        let disturb = async |cluster: &mut Cluster| cluster.kill(1).await;
        short_pause("killed", seed, disturb).await;
    });
}

#[test]
fn a_leader_killed_and_restarted_at_once_is_a_short_pause() {
    each(seeds(10..13), async |seed| {
        let disturb = async |cluster: &mut Cluster| {
            cluster.kill(1).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            cluster.start(1).await;
        };
        let cluster = short_pause("restarted", seed, disturb).await;
        cluster.until_ok(3).await;
    });
}

#[test]
fn a_stopped_leader_is_a_short_pause() {
    each(seeds(20..23), async |seed| {
        let disturb = async |cluster: &mut Cluster| {
            cluster.fabric.freeze(&name(1));
            tokio::time::sleep(Duration::from_secs(10)).await;
            cluster.fabric.thaw(&name(1));
        };
        let cluster = short_pause("stopped", seed, disturb).await;
        cluster.until_ok(3).await;
        for group in cluster.groups() {
            assert_eq!(cluster.assert_same(group).await, 3, "{group}");
        }
    });
}

/// P2: its group commits without its disk, so nothing else would end its leadership.
#[test]
fn a_leader_whose_disk_stands_still_leads_no_more() {
    each(seeds(50..53), async |seed| {
        let disturb = async |cluster: &mut Cluster| {
            cluster.fabric.stop_disk(&name(1));
            tokio::time::sleep(Duration::from_secs(5)).await;
            for group in cluster.groups() {
                assert_ne!(cluster.leader(group), Some(1), "seed {seed}: {group}");
            }
            cluster.fabric.let_disk_go_on(&name(1));
        };
        let cluster = short_pause("disk stood still", seed, disturb).await;
        cluster.until_ok(3).await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_lost_majority_is_an_error_in_time_and_service_resumes() {
    let mut cluster = three(30).await;
    let mount = cluster.mount(3).await;
    let dir = mount.make_dir("dir").await;
    mount.write(dir, "before", b"before").await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    let begin = Instant::now();
    let failed = mount.try_write(dir, "during", b"during").await;
    assert_eq!(failed, Err(FsError::Io));
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(31),
        "the error came after {took:?}"
    );
    cluster.start(1).await;
    let begin = Instant::now();
    loop {
        if mount.try_write(dir, "after", b"after").await.is_ok() {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "service resumes");
    }
    println!(
        "error after {took:?}, service {:?} after the start",
        begin.elapsed()
    );
    assert_eq!(mount.read(dir, "before").await, &b"before"[..]);
    assert_eq!(mount.read(dir, "after").await, &b"after"[..]);
    cluster.start(2).await;
    cluster.until_ok(3).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_reaches_every_region_and_is_forgotten() {
    let cluster = three(40).await;
    let mount = cluster.mount(2).await;
    let dir = mount.make_dir("dir").await;
    for number in 0..10 {
        mount.write(dir, &format!("{number}"), &[1; 20_000]).await;
    }
    let session = |cluster: &Cluster| {
        let node = cluster.leader(GroupId::MASTER).expect("there is one");
        cluster.state(node).sessions.keys().next().copied()
    };
    let id = session(&cluster).expect("the mount has one");
    let (done, wait) = futures::channel::oneshot::channel();
    mount
        .client
        .unmount(Box::new(move || done.send(()).expect("somebody waits")));
    wait.await.expect("it is unmounted");
    for _ in 0..100 {
        if session(&cluster).is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        session(&cluster),
        None,
        "every region knows: it is forgotten"
    );
    for group in cluster.groups() {
        if group != GroupId::MASTER {
            cluster.assert_same(group).await;
            let replica = cluster.nodes[&3].replica(group).expect("it has all");
            let over = replica
                .state()
                .read(|state| polyfs_core::region::is_over(state, id));
            assert_eq!(over, Ok(true), "{group}");
        }
    }
}
