//! Applying what is committed.
//!
//! Owns the order in which entries of a batch get into the state, all of a commit or nothing, and the waiting for room: a
//! full disk ends no replica (P10). Deliberately knows no entry: what one does is its machine's business.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::EntryPayload;
use openraft::storage::EntryResponder;
use polyfs_store::disk::DiskError;
use polyfs_store::state::StoreError;

use super::{GroupState, ReplicaRecord};
use crate::raft::kv::BatchKv;
use crate::raft::types::{Entry, GroupApplied, StoredMembership, TypeConfig};
use crate::runtime::Runtime;

/// Why entries were not applied; nothing of them was.
enum ApplyError {
    /// The disk is full.
    NoRoom(StoreError),
    /// They never will be, here.
    Failed(io::Error),
}

impl From<io::Error> for ApplyError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Applying is tried again after this when there was no room.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// A group waits for room, until this goes.
struct Wait<'s, R: Runtime>(&'s GroupState<R>);

impl<'s, R: Runtime> Wait<'s, R> {
    fn begin(state: &'s GroupState<R>) -> Self {
        state.log.waits_for_disk(state.group, true);
        Self(state)
    }
}

impl<R: Runtime> Drop for Wait<'_, R> {
    fn drop(&mut self) {
        self.0.log.waits_for_disk(self.0.group, false);
    }
}

impl<R: Runtime> GroupState<R> {
    /// Applies entries as they get into the log's index: those that are there must not wait for the others, as applying
    /// them is what makes room.
    pub(super) async fn apply_batch(
        &self,
        mut entries: Vec<EntryResponder<TypeConfig<R>>>,
    ) -> io::Result<()> {
        while let Some((first, _)) = entries.first() {
            let ended = self.log.entered(self.group, first.log_id.index()).await;
            let before = ended.map_err(io::Error::other)?;
            let count = entries.partition_point(|(entry, _)| entry.log_id.index() < before);
            let later = entries.split_off(count);
            self.apply_entered(entries).await?;
            entries = later;
        }
        Ok(())
    }

    async fn apply_entered(&self, entries: Vec<EntryResponder<TypeConfig<R>>>) -> io::Result<()> {
        let (entries, responders): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let mut responders = responders.into_iter();
        let (mut next, mut count, mut wait) = (0, entries.len(), None);
        while next < entries.len() {
            match self.apply_at_once(&entries[next..next + count]).await {
                Ok(answers) => {
                    (next, count) = (next + count, entries.len() - next - count);
                    for (applied, responder) in answers.into_iter().zip(&mut responders) {
                        if let Some(responder) = responder {
                            responder.send(applied);
                        }
                    }
                }
                // What comes before the one that finds no room may make it.
                Err(ApplyError::NoRoom(_)) if count > 1 => count /= 2,
                // What was ordered is applied when there is room again: a full disk ends no replica (P10).
                Err(ApplyError::NoRoom(_)) if self.may_wait() => {
                    wait.get_or_insert_with(|| Wait::begin(self));
                    self.log.runtime().sleep(FULL_PAUSE).await;
                }
                Err(ApplyError::NoRoom(error)) => {
                    self.lacks_room.store(true, Ordering::Release);
                    return Err(io::Error::other(error));
                }
                Err(ApplyError::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether room may be waited for: not before the replica is in use, when nobody makes it, nor at the end.
    fn may_wait(&self) -> bool {
        let is = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        is(&self.in_use) && !is(&self.ended) && !self.log.is_leaving()
    }

    async fn apply_at_once(&self, entries: &[Entry]) -> Result<Vec<GroupApplied>, ApplyError> {
        let _turn = self.shared.turn().await;
        self.not_ended()?;
        let mut record = self.record();
        let answers = self.commit(entries, &mut record)?;
        *self.record.lock() = record;
        self.shared.mark_changed();
        Ok(answers)
    }

    /// One commit of some entries: state, applied id and membership together.
    fn commit(
        &self,
        entries: &[Entry],
        record: &mut ReplicaRecord,
    ) -> Result<Vec<GroupApplied>, ApplyError> {
        let failed = |error| match error {
            StoreError::Disk(DiskError::Full) if !cfg!(planted = "full_disk_ends_replica") => {
                ApplyError::NoRoom(error)
            }
            error => ApplyError::Failed(self.failed(error)),
        };
        let mut batch = self.shared.db().begin().map_err(failed)?;
        let state = batch.lineage(record.lineage).map_err(failed)?;
        let mut kv = BatchKv::new(state);
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let applied = self.apply_one(&mut kv, entry, record);
            if let Some(failure) = kv.failure() {
                // Damage that a machine overlooked must not become an answer.
                return Err(failed(failure));
            }
            answers.push(applied?);
        }
        let inodes = kv.inodes();
        drop(kv);
        let bytes = record.encode();
        let set = batch.set_group(self.group, record.applied_index(), &bytes);
        set.map_err(failed)?;
        batch.commit().map_err(failed)?;
        self.inodes.changed(inodes);
        Ok(answers)
    }

    fn apply_one(
        &self,
        kv: &mut BatchKv<'_, R::Dir>,
        entry: &Entry,
        record: &mut ReplicaRecord,
    ) -> io::Result<GroupApplied> {
        assert!(
            record
                .applied
                .is_none_or(|applied| applied.index() < entry.log_id.index()),
            "an entry is applied once, in order"
        );
        record.applied = Some(entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => Ok(GroupApplied::Nothing),
            EntryPayload::Normal(command) => {
                kv.next_entry(command.extent);
                self.machine.apply(kv, command).map_err(io::Error::other)
            }
            EntryPayload::Membership(membership) => {
                record.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Ok(GroupApplied::Nothing)
            }
        }
    }
}
