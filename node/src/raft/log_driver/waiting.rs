//! Who waits for the log, and for what.
//!
//! Owns barriers, and the two checks that keep replicas honest when appends wait for their payloads or for room:
//! nothing is acknowledged before it is durable, and nothing is applied before it is in the index. Deliberately writes
//! nothing.

use std::collections::BTreeMap;

use std::sync::atomic::Ordering;

use futures::channel::oneshot;
use polyfs_core::ids::GroupId;
use polyfs_store::wal::{LogError, Standing};

use super::{Books, FULL_PAUSE, SharedLog, Waiter};
use crate::raft::types::LogId;
use crate::runtime::Runtime;

/// Where one who waits is told.
type Told = oneshot::Receiver<Result<(), LogError>>;

impl<R: Runtime> SharedLog<R> {
    /// Waits until everything appended before is durable (rule 4), but for what waits for room.
    ///
    /// # Errors
    /// When the log has failed; `Full` when it has just found no room: ask again.
    pub async fn barrier(&self) -> Result<(), LogError> {
        let told = self.books().barrier()?;
        self.inner.work.ring();
        self.inner.bulk_work.ring();
        told.await.unwrap_or(Err(LogError::Poisoned))
    }

    /// The last index of each group; when this returns, every log is durable through it (rule 4). Without what waits for
    /// room, as a checkpoint is what makes it.
    ///
    /// # Errors
    /// As [`Self::barrier`].
    pub async fn synced_through(&self) -> Result<BTreeMap<GroupId, u64>, LogError> {
        let (last, told) = {
            // One look: what is named is what is waited for.
            let mut books = self.books();
            (books.last_indexes(), books.barrier()?)
        };
        self.inner.work.ring();
        self.inner.bulk_work.ring();
        told.await.unwrap_or(Err(LogError::Poisoned))?;
        Ok(last)
    }

    /// Waits until an entry is durable here, with all before it; false when it is not, or no longer, in the log. openraft
    /// takes a flushed vote as a flush of every append before it, but a vote overtakes appends that wait: so this is
    /// asked before a follower acknowledges.
    ///
    /// # Errors
    /// When the log has failed.
    pub async fn is_durable(&self, group: GroupId, id: LogId) -> Result<bool, LogError> {
        loop {
            let told = {
                let mut books = self.books();
                if let Some(failure) = &books.failure {
                    return Err(failure.clone());
                }
                let term = id.committed_leader_id().term;
                match books.index.standing(group, id.index(), term) {
                    Standing::Durable => return Ok(true),
                    Standing::Queued(ticket) => {
                        let (sender, told) = oneshot::channel();
                        books.wait(ticket, Waiter::Told(sender));
                        Some(told)
                    }
                    Standing::Unknown if !books.is_staged(group, id.index(), term) => {
                        return Ok(false);
                    }
                    Standing::Unknown => books.behind_staged()?,
                }
            };
            self.wait_for_staged(told).await?;
        }
    }

    /// Waits until everything of a group up to an entry is in the index; gives the index before which all is. A state that
    /// were ahead of what waits for room could not be made durable (rule 4), and it is checkpoints that make room.
    ///
    /// # Errors
    /// When the log has failed.
    pub(in crate::raft) async fn entered(
        &self,
        group: GroupId,
        index: u64,
    ) -> Result<u64, LogError> {
        loop {
            let told = {
                let mut books = self.books();
                let first = books.staged_entries.get(&group);
                let first = first.and_then(|staged| staged.first_key_value());
                let before = first.map_or(u64::MAX, |(first, _)| *first);
                if before > index {
                    return Ok(before);
                }
                books.behind_staged()?
            };
            self.wait_for_staged(told).await?;
        }
    }

    async fn wait_for_staged(&self, told: Option<Told>) -> Result<(), LogError> {
        self.inner.work.ring();
        self.inner.bulk_work.ring();
        if self.inner.stopped.load(Ordering::Acquire) {
            return Err(LogError::Poisoned);
        }
        if let Some(told) = told {
            match told.await.unwrap_or(Err(LogError::Poisoned)) {
                Ok(()) => return Ok(()),
                Err(LogError::Full) => {}
                Err(error) => return Err(error),
            }
        }
        self.runtime().sleep(FULL_PAUSE).await;
        Ok(())
    }
}

impl<R: Runtime> Books<R> {
    fn is_staged(&self, group: GroupId, index: u64, term: u64) -> bool {
        let entry = self
            .staged_entries
            .get(&group)
            .and_then(|here| here.get(&index));
        entry.is_some_and(|entry| entry.term == term)
    }

    /// A barrier behind what waits for payloads; none when it is room that is missing.
    fn behind_staged(&mut self) -> Result<Option<Told>, LogError> {
        if self.no_room {
            return Ok(None);
        }
        self.barrier().map(Some)
    }

    pub(super) fn barrier(&mut self) -> Result<Told, LogError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let (sender, told) = oneshot::channel();
        if self.staged_entries.is_empty() || self.no_room {
            self.wait(self.last_ticket, Waiter::Told(sender));
        } else {
            // Behind what still waits for its payloads.
            self.stage(GroupId::MASTER, Vec::new(), Waiter::Told(sender));
        }
        Ok(told)
    }

    /// The last index of each group that [`Self::barrier`] waits for.
    fn last_indexes(&self) -> BTreeMap<GroupId, u64> {
        let last = |group: GroupId| {
            let state = self.index.group(group)?;
            let entries = state.entries.map(|entries| entries.last);
            let staged = self.staged_entries.get(&group);
            let staged = staged
                .filter(|_| !self.no_room)
                .and_then(|staged| staged.last_key_value())
                .map(|(last, _)| *last);
            let purged = state.purged.map(|(index, _)| index);
            Some((group, staged.or(entries).or(purged)?))
        };
        self.index.group_ids().filter_map(last).collect()
    }

    /// There is no room: whoever waits for everything before is told, for a checkpoint may be among them.
    pub(super) fn refuse_barriers(&mut self) {
        let staged = self.staged.iter_mut();
        let ready = self.ready.iter_mut().map(|stored| &mut stored.append);
        let barriers = staged.chain(ready).filter(|one| one.entries.is_empty());
        let waiters: Vec<_> = barriers.filter_map(|one| one.waiter.take()).collect();
        for waiter in waiters {
            waiter.tell(Err(LogError::Full));
        }
    }
}
