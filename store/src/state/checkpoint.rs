//! Making the state durable, in the only order that is safe (P10, rules 2 and 4).
//!
//! ```text
//!   prepare: sync data files ─▶ take the one write transaction ─▶ sync what was written meanwhile
//!   caller:  sync the log through plan.groups()
//!   commit:  log synced? ─▶ durable redb commit ─▶ space dropped before is reusable
//! ```
//! Owns the order. Nobody commits between the halves, so the log need not be chased. Deliberately knows no clock: when
//! a checkpoint is due (every second, or 64 MiB of log) is the node's.

use std::collections::BTreeMap;

use polyfs_core::ids::GroupId;
use redb::Durability;

use super::batch::StateBatch;
use super::db::Inner;
use super::error::StoreError;
use crate::disk::Dir;

/// The name, among the node's records, of the number of checkpoints so far: so each of them changes something.
const COUNT: &str = "checkpoints";

/// A checkpoint about to be made: data files are synced, writers wait. Dropped, nothing has happened.
pub struct CheckpointPlan<'a, D: Dir> {
    inner: &'a Inner<D>,
    batch: StateBatch<'a, D>,
    groups: BTreeMap<GroupId, u64>,
    epoch: u64,
}

/// What is durable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The applied index of each group: its log may be purged up to here, and replay begins after it.
    pub applied: BTreeMap<GroupId, u64>,
}

impl<'a, D: Dir> CheckpointPlan<'a, D> {
    pub(super) fn prepare(inner: &'a Inner<D>) -> Result<Self, StoreError> {
        let synced = !cfg!(planted = "data_unsynced_at_checkpoint");
        if synced {
            // Most of it while others still write.
            inner.data.sync_files()?;
        }
        let mut batch = StateBatch::begin(inner)?;
        if synced {
            inner.data.sync_files()?;
        }
        let count = batch
            .get_node(COUNT)?
            .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let count = count.map_or(0, u64::from_le_bytes) + 1;
        batch.set_node(COUNT, &count.to_le_bytes())?;
        // What was retired in an earlier epoch belongs to commits that this one makes durable.
        let epoch = inner.data.epoch();
        let groups = batch.applied()?;
        Ok(Self {
            inner,
            batch,
            groups,
            epoch,
        })
    }

    /// Each group and the index that its log must be synced through.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<GroupId, u64> {
        &self.groups
    }

    /// Makes everything committed so far durable. `log_synced` says through which index a group's log is.
    ///
    /// # Errors
    /// `CheckpointAheadOfLog` when a log is behind its state: nothing has become durable, sync it and plan again.
    /// Failures of the disk poison the store.
    pub fn commit(mut self, log_synced: impl Fn(GroupId) -> u64) -> Result<Checkpoint, StoreError> {
        self.inner.poison.check()?;
        for (&group, &applied) in &self.groups {
            let synced = log_synced(group);
            if synced < applied && !cfg!(planted = "checkpoint_ahead_of_log") {
                return Err(StoreError::CheckpointAheadOfLog {
                    group,
                    applied,
                    synced,
                });
            }
        }
        let txn = self.batch.txn.take().expect("a plan is committed once");
        let mut txn = txn.into_inner();
        self.inner.ask_all(|| {
            txn.set_durability(Durability::Immediate)
                .map_err(|error| self.inner.failed(error))?;
            txn.set_quick_repair(true);
            txn.commit().map_err(|error| self.inner.failed(error))
        })?;
        self.inner.data.durable_through(self.epoch);
        Ok(Checkpoint {
            applied: self.groups,
        })
    }
}
