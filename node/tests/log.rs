//! A group's log when the node's log is full: what waits keeps its place, and nothing overtakes it (P10).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use polyfs_core::ids::GroupId;
use polyfs_node::raft::log::GroupLog;
use polyfs_node::raft::log_driver::SharedLog;
use polyfs_node::raft::types::{Entry, GroupCommand, Vote, log_id};
use polyfs_store::memory::MemoryDir;
use polyfs_store::state::StateDb;
use polyfs_store::wal::{self, LogConfig, Pressure};

use crate::support::world::{leave_room, store_config};
use crate::support::{Fabric, Machine as Host};

const BUSY: GroupId = GroupId(1);
const QUIET: GroupId = GroupId(2);

/// Sixteen segments of a quarter of a mebibyte.
fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 256 << 10,
        segments_initial: 2,
        batch_bytes_max: 128 << 10,
        cache_bytes_max: 256 << 10,
        ..LogConfig::default()
    }
}

/// Opens the log in a directory; the boot number tells starts apart.
fn open(dir: &MemoryDir, boot: u64) -> SharedLog<Host> {
    let host = Host::new(&Fabric::default(), "m1", boot);
    let config = small();
    if wal::recover(dir, &config)
        .expect("the disk works")
        .is_none()
    {
        wal::create(dir, &config, 1).expect("the disk works");
    }
    let recovery = wal::recover(dir, &config).expect("the disk works");
    let recovery = recovery.expect("it was made");
    let dir = Arc::new(dir.clone());
    let extents = &recovery.report.extents;
    let opened = StateDb::open(Arc::clone(&dir), store_config().state, extents);
    let opened = opened.expect("the disk works");
    let data = Arc::clone(opened.db.data());
    let log = recovery.start(&*dir, boot).expect("the disk works");
    SharedLog::start(host, dir, log, data, opened.pins)
}

fn entries(term: u64, indexes: std::ops::Range<u64>, bytes: usize) -> Vec<Entry> {
    let entry = |index| Entry {
        log_id: log_id(term, index),
        payload: openraft::EntryPayload::Normal(GroupCommand::new(
            &index,
            Bytes::from(vec![7; bytes]),
        )),
    };
    indexes.map(entry).collect()
}

async fn append(log: &mut GroupLog<Host>, entries: Vec<Entry>) {
    let appended = log.append(entries, IOFlushed::noop()).await;
    appended.expect("the log works");
}

/// A log that is full of one group's entries, some of which wait, and where everything of another waits.
async fn full(dir: &MemoryDir) -> (SharedLog<Host>, GroupLog<Host>, GroupLog<Host>) {
    let shared = open(dir, 1);
    let mut busy = GroupLog::new(shared.clone(), BUSY);
    let mut quiet = GroupLog::new(shared.clone(), QUIET);
    quiet
        .save_vote(&Vote::new(1, 1))
        .await
        .expect("there is room");
    append(&mut busy, entries(1, 0..100, 60_000)).await;
    assert_eq!(shared.pressure(), Pressure::Full);
    append(&mut quiet, entries(1, 0..4, 100)).await;
    (shared, busy, quiet)
}

async fn terms(log: &mut GroupLog<Host>) -> Vec<(u64, u64)> {
    let read = log.try_get_log_entries(0..1000).await;
    let id = |entry: &Entry| {
        (
            entry.log_id.index(),
            entry.log_id.committed_leader_id().term,
        )
    };
    read.expect("the log can be read").iter().map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_committed_id_does_not_overtake_entries_that_wait() {
    let dir = MemoryDir::new(1);
    let (shared, mut busy, mut quiet) = full(&dir).await;
    for (log, index) in [(&mut busy, 99), (&mut quiet, 3)] {
        let committed = Some(log_id(1, index));
        log.save_committed(committed).await.expect("it is noted");
        log.save_vote(&Vote::new(2, 1))
            .await
            .expect("votes are taken");
    }
    let dir = dir.restart(2);
    shared.stop();
    let shared = open(&dir, 2);
    for group in [BUSY, QUIET] {
        let mut log = GroupLog::new(shared.clone(), group);
        let state = log.get_log_state().await.expect("it can be read");
        let committed = log.read_committed().await.expect("it can be read");
        assert!(committed <= state.last_log_id, "{group}: {committed:?}");
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(2, 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_can_be_read_and_truncated_and_keeps_its_order() {
    let dir = MemoryDir::new(3);
    let (shared, mut busy, mut quiet) = full(&dir).await;
    assert_eq!(terms(&mut quiet).await, [(0, 1), (1, 1), (2, 1), (3, 1)]);
    // Twice another leader's, while the first still wait.
    quiet
        .truncate_after(Some(log_id(1, 1)))
        .await
        .expect("truncations are taken");
    append(&mut quiet, entries(2, 2..5, 100)).await;
    quiet
        .truncate_after(Some(log_id(2, 2)))
        .await
        .expect("truncations are taken");
    append(&mut quiet, entries(3, 3..4, 100)).await;
    quiet
        .save_committed(Some(log_id(3, 3)))
        .await
        .expect("it is noted");
    let expected = [(0, 1), (1, 1), (2, 2), (3, 3)];
    assert_eq!(terms(&mut quiet).await, expected);
    // Room, and then everything is durable.
    busy.purge(log_id(1, 99)).await.expect("purges are taken");
    while shared.barrier().await.is_err() || shared.pressure() == Pressure::Full {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shared.barrier().await.expect("there is room");
    busy.save_vote(&Vote::new(2, 1))
        .await
        .expect("votes are taken");
    let dir = dir.restart(4);
    shared.stop();
    let shared = open(&dir, 2);
    let mut quiet = GroupLog::new(shared.clone(), QUIET);
    assert_eq!(terms(&mut quiet).await, expected);
    let committed = quiet.read_committed().await.unwrap();
    assert_eq!(committed, Some(log_id(3, 3)));
    let mut busy = GroupLog::new(shared, BUSY);
    let state = busy.get_log_state().await.expect("it can be read");
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 99)));
    assert_eq!(state.last_log_id, Some(log_id(1, 99)));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_not_durable_though_a_vote_is() {
    let dir = MemoryDir::new(5);
    let (shared, mut busy, mut quiet) = full(&dir).await;
    quiet
        .save_vote(&Vote::new(2, 1))
        .await
        .expect("votes are taken");
    let waits = shared.is_durable(QUIET, log_id(1, 3));
    let early = tokio::time::timeout(Duration::from_secs(5), waits).await;
    assert!(early.is_err(), "it still waits for room");
    let gone = shared.is_durable(QUIET, log_id(9, 3)).await;
    assert_eq!(gone, Ok(false), "another term's was never there");
    busy.purge(log_id(1, 99)).await.expect("purges are taken");
    assert_eq!(shared.is_durable(QUIET, log_id(1, 3)).await, Ok(true));
    assert_eq!(shared.is_durable(BUSY, log_id(1, 99)).await, Ok(true));
    let dir = dir.restart(6);
    shared.stop();
    let mut quiet = GroupLog::new(open(&dir, 2), QUIET);
    assert_eq!(
        terms(&mut quiet).await,
        [(0, 1), (1, 1), (2, 1), (3, 1)],
        "what is said to be durable is"
    );
}

/// What is truncated while it waits for a place on the disk must not wait on, in front of others.
#[tokio::test(start_paused = true)]
async fn what_nobody_wants_any_more_keeps_nobody_waiting_for_room() {
    let dir = MemoryDir::new(7);
    let shared = open(&dir, 1);
    let mut busy = GroupLog::new(shared.clone(), BUSY);
    let mut quiet = GroupLog::new(shared.clone(), QUIET);
    leave_room(&dir, 5 << 20);
    append(&mut busy, entries(1, 0..9, 1 << 20)).await;
    append(&mut quiet, entries(1, 0..1, 100_000)).await;
    let durable = async |group, id| {
        let durable = shared.is_durable(group, id);
        tokio::time::timeout(Duration::from_secs(5), durable).await
    };
    let passes = durable(QUIET, log_id(1, 0)).await;
    assert_eq!(passes, Ok(Ok(true)), "there is room for this one");
    assert!(durable(BUSY, log_id(1, 0)).await.is_err(), "not for that");
    assert!(shared.stands_still(BUSY) && !shared.stands_still(QUIET));
    let truncated = busy.truncate_after(None).await;
    truncated.expect("truncations are taken");
    append(&mut busy, entries(2, 0..1, 100_000)).await;
    assert_eq!(durable(BUSY, log_id(2, 0)).await, Ok(Ok(true)));
    assert!(!shared.anything_stands_still());
}
