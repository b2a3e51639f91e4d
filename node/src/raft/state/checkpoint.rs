//! The node's checkpoint: what was applied becomes durable.
//!
//! Owns the order of its halves over log and state (P10, rules 2 and 4), and what may be said of a replica afterwards.
//! Entries are applied meanwhile. Deliberately does not know when one is due: that is the node's.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polyfs_core::ids::GroupId;
use polyfs_store::disk::DiskError;
use polyfs_store::state::{Checkpoint, CheckpointPlan, StoreError};
use polyfs_store::wal::LogError;
use thiserror::Error;

use super::{ReplicaRecord, SharedState};
use crate::raft::log_driver::SharedLog;
use crate::runtime::{Lane, Runtime};
use crate::store::LOG_SEGMENTS;

/// Whoever waits for room looks again after this.
const CHECKPOINT_RETRY: Duration = Duration::from_millis(100);

/// Why state could not be made durable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The state or data files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl CheckpointError {
    /// Whether it is over when there is room again: others' checkpoints and deletions make it.
    const fn passes(&self) -> bool {
        matches!(
            self,
            Self::Log(LogError::Full)
                | Self::Store(
                    StoreError::Disk(DiskError::Full) | StoreError::CheckpointAheadOfLog { .. }
                )
        )
    }
}

impl<R: Runtime> SharedState<R> {
    async fn note_segments(&self, segments: usize) -> Result<(), StoreError> {
        if segments > self.inner.log_segments.load(Ordering::Acquire) {
            let count = u64::try_from(segments).expect("they are counted in two digits");
            // A checkpoint is what a crowd of commits waits for: it does not wait for itself.
            let _turn = self.inner.turn.lock().await;
            self.write_node(LOG_SEGMENTS, &count.to_le_bytes())?;
            self.inner.log_segments.store(segments, Ordering::Release);
        }
        Ok(())
    }

    /// Makes everything applied so far durable: the log through what was applied (rule 4), data files, then the state.
    /// Entries are applied meanwhile; they are for the next one. Nothing when nothing has changed.
    ///
    /// # Errors
    /// Failures of log, data files or state; any but a full disk means that this node answers nothing more.
    pub async fn checkpoint(
        &self,
        log: &SharedLog<R>,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        let _one = self.inner.checkpointing.lock().await;
        self.note_segments(log.segments()).await?;
        if !self.inner.changed.swap(false, Ordering::AcqRel) {
            return Ok(None);
        }
        let (plan, by_snapshot) = {
            let _turn = self.inner.turn.lock().await;
            let plan = self.inner.db.prepare_checkpoint();
            let plan = plan.inspect_err(|_| self.mark_changed())?;
            (plan, self.inner.by_snapshot.lock().clone())
        };
        // From here on others commit: what this checkpoint holds is frozen, and the log is synced through it.
        let made = self.make(plan, by_snapshot, log).await;
        // What is applied on a majority's word may still wait for room in the log here: then the next one has it.
        let (made, durable) = made.inspect_err(|_| self.mark_changed())?;
        self.settle(durable).await?;
        Ok(Some(made))
    }

    /// The same for those who can't go on without it: what passes by itself, above all a lack of room, is waited for while
    /// `wanted` says so.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    pub async fn checkpoint_in_time(
        &self,
        log: &SharedLog<R>,
        wanted: impl Fn() -> bool,
    ) -> Result<(), CheckpointError> {
        loop {
            match self.checkpoint(log).await {
                Err(error) if error.passes() && wanted() => {
                    tracing::debug!(%error, "no checkpoint yet");
                    self.inner.runtime.sleep(CHECKPOINT_RETRY).await;
                }
                made => return made.map(drop),
            }
        }
    }

    async fn make(
        &self,
        plan: CheckpointPlan<R::Dir>,
        by_snapshot: BTreeMap<GroupId, u64>,
        log: &SharedLog<R>,
    ) -> Result<(Checkpoint, BTreeMap<GroupId, ReplicaRecord>), CheckpointError> {
        let mut durable = BTreeMap::new();
        for (group, record) in plan.groups() {
            durable.insert(*group, ReplicaRecord::decode(record)?);
        }
        let mut synced = log.synced_through().await?;
        for (group, index) in by_snapshot {
            let synced = synced.entry(group).or_default();
            *synced = (*synced).max(index);
        }
        let made = self.inner.runtime.blocking(Lane::Checkpoint, move || {
            plan.commit(|group| synced.get(&group).copied().unwrap_or(0))
        });
        Ok((made.await?, durable))
    }

    /// Says what is durable of each replica. One that was removed meanwhile, or has another in its place, is not spoken
    /// for by what a checkpoint holds of it.
    async fn settle(
        &self,
        mut durable: BTreeMap<GroupId, ReplicaRecord>,
    ) -> Result<(), StoreError> {
        let _turn = self.inner.turn.lock().await;
        let now: BTreeMap<_, _> = self.records()?.into_iter().collect();
        durable.retain(|group, record| {
            let now = now.get(group);
            now.is_some_and(|now| now.replica == record.replica)
        });
        *self.inner.durable.lock() = durable;
        Ok(())
    }
}
