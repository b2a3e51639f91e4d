//! What does not go on here for the disk's sake, and since when: whoever leads then has to fall silent (P2).
//!
//! Owns the times. A disk that stands still stops every group of the node; one without room stops those that have something
//! on their way to it, and nobody else: they may be the ones that make room.

use std::collections::BTreeSet;

use polyfs_core::ids::GroupId;
use polyfs_core::time::Instant;

use super::{Books, STALLED_DISK, SharedLog};
use crate::runtime::Runtime;

/// What a group waits for room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum For {
    Applying,
    Payload,
}

impl<R: Runtime> SharedLog<R> {
    /// Whether the disk, or the lack of room on it, has kept a group waiting for too long: its leader must not be here.
    #[must_use]
    pub fn stands_still(&self, group: GroupId) -> bool {
        let now = self.inner.runtime.now().mono;
        let books = self.books();
        let waiting = books.waiting_groups(now);
        // A log that fills up meanwhile is emptied by nobody: then no group goes on.
        let all = || books.is_full() || cfg!(planted = "full_disk_stops_every_group");
        books.stalled(now) || waiting.contains(&group) || (!waiting.is_empty() && all())
    }

    /// Whether anything waits for too long.
    #[must_use]
    pub fn anything_stands_still(&self) -> bool {
        let now = self.inner.runtime.now().mono;
        let books = self.books();
        books.stalled(now) || !books.waiting_groups(now).is_empty()
    }

    /// Something that was ordered waits for room on the disk, or no longer does: whoever leads here and can't go on is to
    /// be replaced by somebody who can.
    pub(in crate::raft) fn waits_for_disk(&self, group: GroupId, waits: bool) {
        let now = self.inner.runtime.now().mono;
        let mut books = self.books();
        if waits {
            books.no_disk.entry((group, For::Applying)).or_insert(now);
        } else {
            books.no_disk.remove(&(group, For::Applying));
        }
    }
}

impl<R: Runtime> Books<R> {
    /// Payloads of these groups wait for room on the disk, and nobody else's.
    pub(super) fn payloads_wait(&mut self, groups: &BTreeSet<GroupId>, now: Instant) {
        let still = |who: &(GroupId, For)| who.1 != For::Payload || groups.contains(&who.0);
        self.no_disk.retain(|who, _| still(who));
        for group in groups {
            self.no_disk.entry((*group, For::Payload)).or_insert(now);
        }
    }

    /// Whether the disk has kept a batch waiting for too long.
    fn stalled(&self, now: Instant) -> bool {
        self.writing_since
            .is_some_and(|since| now.since(since) >= STALLED_DISK)
    }

    /// Groups that have waited for room for too long.
    fn waiting_groups(&self, now: Instant) -> BTreeSet<GroupId> {
        let too_long = self
            .no_disk
            .iter()
            .filter(|(_, since)| now.since(**since) >= STALLED_DISK);
        too_long.map(|((group, _), _)| *group).collect()
    }
}
