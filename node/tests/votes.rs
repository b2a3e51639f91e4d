//! In which order a group's log becomes durable (P1).

use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft_rt::Oneshot;
use polyfs_node::raft::log::GroupLog;
use polyfs_node::raft::log_driver::SharedLog;
use polyfs_node::raft::types::{Entry, GroupCommand, Vote, log_id};
use polyfs_store::memory::MemoryDir;
use polyfs_store::state::{StateConfig, StateDb};
use polyfs_store::wal::{self, LogConfig};

use crate::support::world::GROUP;
use crate::support::{Fabric, Machine as Host};

/// openraft takes a vote that is durable for the end of every append before it, and acknowledges those: one whose payload
/// is still on its way to an extent comes first.
#[tokio::test(start_paused = true)]
async fn a_vote_never_overtakes_an_append() {
    let dir = Arc::new(MemoryDir::new(5));
    let config = LogConfig::default();
    wal::create(&*dir, &config, 9).expect("the disk works");
    let recovery = wal::recover(&*dir, &config).expect("the disk works");
    let recovery = recovery.expect("it was made");
    let opened = StateDb::open(Arc::clone(&dir), StateConfig::default(), &[]);
    let opened = opened.expect("the disk works");
    let log = recovery.start(&*dir, 1).expect("the disk works");
    let host = Host::new(&Fabric::default(), "node", 5);
    let data = Arc::clone(opened.db.data());
    let shared = SharedLog::start(host, dir, log, data, opened.pins);
    let mut log: GroupLog<Host> = GroupLog::new(shared.clone(), GROUP);
    let (sender, mut appended) = openraft_rt_tokio::TokioOneshot::channel();
    let command = GroupCommand::new(&1_u64, Bytes::from(vec![7; 256 << 10]));
    let entry = Entry {
        log_id: log_id(1, 1),
        payload: EntryPayload::Normal(command),
    };
    let done = log.append([entry], IOFlushed::signal(sender)).await;
    done.expect("it is queued");
    log.save_vote(&Vote::new(2, 12))
        .await
        .expect("it is durable");
    let told = appended.try_recv().expect("it was durable before");
    assert!(told.is_ok());
    shared.stop();
}
