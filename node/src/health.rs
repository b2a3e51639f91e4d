//! What the disk has done to this node, as it is noticed.
//!
//! Owns the reports: replicas whose bytes are damaged, and what ends the node as a whole (P10). Whoever meets damage
//! reports it here and fails; what follows is [`crate::node`]'s. Deliberately decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_store::disk::DiskError;
use polyfs_store::state::StoreError;
use polyfs_store::wal::LogError;
use thiserror::Error;

use crate::notify::Bell;

/// Why a node ends by itself: it answers nothing more, and its process has to exit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeEnd {
    /// A failed write or sync: nobody knows what is stored (P10).
    #[error(
        "the disk failed, nothing stored here is to be trusted until it is verified: {0}. Check the disk; the next start verifies what it can"
    )]
    Poisoned(String),
    /// What belongs to no single replica is damaged.
    #[error(
        "stored bytes are damaged: {0}. This node can't go on with them: keep the directory, and start it with an empty one to be filled by the others, or from a backup if there are none"
    )]
    Corrupt(String),
    /// The group's only voter is damaged: nobody else can serve.
    #[error(
        "stored bytes of {group} are damaged: {what}. No other node holds a vote of this group: keep the directory, and restore it from a backup"
    )]
    OnlyVoter {
        /// The group.
        group: GroupId,
        /// What is damaged.
        what: String,
    },
}

/// Where damage is reported. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    news: Bell,
    over: Bell,
}

/// Why a group's replica is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Whose.
    pub(crate) group: GroupId,
    /// What was found.
    pub(crate) what: String,
    /// Which replica a leader found wanting; none for damage that was met here.
    pub(crate) told_of: Option<ReplicaId>,
}

#[derive(Default)]
struct State {
    damage: BTreeMap<(GroupId, Option<ReplicaId>), String>,
    end: Option<NodeEnd>,
    silent: bool,
}

impl Health {
    /// Bytes of a group's replica here are not what was written.
    pub fn corrupt(&self, group: GroupId, what: &str) {
        self.damaged((group, None), what.to_owned());
    }

    /// A group's leader knows that a replica here has acknowledged an entry that it does not have.
    pub(crate) fn promise_broken(&self, group: GroupId, replica: ReplicaId, index: u64) {
        let what = format!(
            "the log: entry {index}, which the leader knows to have been written here, is gone"
        );
        self.damaged((group, Some(replica)), what);
    }

    fn damaged(&self, who: (GroupId, Option<ReplicaId>), what: String) {
        let mut state = self.inner.state.lock();
        state.damage.entry(who).or_insert(what);
        drop(state);
        self.inner.news.ring();
    }

    /// The node ends; the first reason stands.
    pub fn end(&self, why: NodeEnd) {
        let mut state = self.inner.state.lock();
        if state.end.is_none() {
            tracing::warn!(%why, "this node ends");
            state.end = Some(why);
        }
        drop(state);
        self.inner.news.ring();
    }

    /// The node that ends answers nothing any more, and has written what it could.
    pub(crate) fn silent(&self) {
        self.inner.state.lock().silent = true;
        self.inner.over.ring();
    }

    /// Files a failure of state or data files, met on behalf of a group.
    pub fn store_failed(&self, group: GroupId, error: &StoreError) {
        match error {
            StoreError::Corrupt { .. }
            | StoreError::CorruptExtent(_)
            | StoreError::ExtentGone(_) => {
                self.corrupt(group, &error.to_string());
            }
            other => self.node_failed(other),
        }
    }

    /// Files a failure of state or data files that concerns the node.
    pub fn node_failed(&self, error: &StoreError) {
        match error {
            StoreError::CorruptDatabase(what) => {
                self.end(NodeEnd::Corrupt(format!("the state database: {what}")));
            }
            StoreError::Corrupt { .. }
            | StoreError::CorruptExtent(_)
            | StoreError::ExtentGone(_)
            | StoreError::CorruptRecord(_) => self.end(NodeEnd::Corrupt(error.to_string())),
            StoreError::Poisoned(why) => self.end(NodeEnd::Poisoned(why.clone())),
            StoreError::Disk(DiskError::Full) => {}
            StoreError::Disk(error) => self.end(NodeEnd::Poisoned(error.to_string())),
            StoreError::CheckpointAheadOfLog { .. }
            | StoreError::BatchFailed
            | StoreError::DataShort
            | StoreError::Database(_)
            | StoreError::Decode(_) => {}
        }
    }

    /// Files a failure of the log, met on behalf of a group.
    pub fn log_failed(&self, group: GroupId, error: &LogError) {
        match error {
            LogError::Damaged { .. } => self.corrupt(group, &format!("the log: {error}")),
            // A replica that can't read its log has ended, and would hold up the log for all the others.
            LogError::Disk(_) => self.end(NodeEnd::Poisoned(format!("the log: {error}"))),
            LogError::Poisoned
            | LogError::Full
            | LogError::TooLarge { .. }
            | LogError::NotFound { .. }
            | LogError::BootBehind { .. }
            | LogError::Corrupt
            | LogError::Newer { .. }
            | LogError::Config(_) => {}
        }
    }

    /// Why the node ends, if it does.
    #[must_use]
    pub fn ended(&self) -> Option<NodeEnd> {
        self.inner.state.lock().end.clone()
    }

    pub(crate) fn take_damage(&self) -> Vec<Damage> {
        let damage = std::mem::take(&mut self.inner.state.lock().damage);
        // What a leader says first: it knows better than what is left here.
        let reports = damage.into_iter().rev();
        reports
            .map(|((group, told_of), what)| Damage {
                group,
                what,
                told_of,
            })
            .collect()
    }

    /// Waits for reports; for one task.
    pub(crate) async fn news(&self) {
        self.inner.news.rung().await;
    }

    /// Waits until the node has ended and its process may exit; for one task.
    pub async fn over(&self) -> NodeEnd {
        loop {
            let end = {
                let state = self.inner.state.lock();
                state.end.clone().filter(|_| state.silent)
            };
            if let Some(end) = end {
                return end;
            }
            self.inner.over.rung().await;
        }
    }
}
