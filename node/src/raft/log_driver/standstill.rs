//! What does not go on here for the disk's sake, and since when: whoever leads then has to fall silent (P2).
//!
//! Owns the times. A disk that stands still stops every group of the node; one without room stops those that have something
//! on their way to it, and nobody else: they may be the ones that make room.

use std::collections::BTreeSet;

use polyfs_core::ids::GroupId;
use polyfs_core::time::Instant;

use super::{Books, STALLED_DISK, SharedLog};
use crate::runtime::Runtime;

impl<R: Runtime> SharedLog<R> {
    /// Whether the disk has kept a batch waiting for too long.
    #[must_use]
    pub fn stalled(&self) -> bool {
        let now = self.inner.runtime.now().mono;
        self.books().stalled(now)
    }

    /// Whether the disk, or the lack of room on it, has kept a group waiting for too long: its leader must not be here.
    #[must_use]
    pub fn stands_still(&self, group: GroupId) -> bool {
        let now = self.inner.runtime.now().mono;
        let books = self.books();
        let waiting = books.waiting_groups(now);
        let all = !waiting.is_empty() && cfg!(planted = "full_disk_stops_every_group");
        books.stalled(now) || waiting.contains(&group) || all
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
        self.books().waits_for_disk(Some(group), waits, now);
    }
}

impl<R: Runtime> Books<R> {
    /// A group that applies, or payloads of any (none), begins to wait for room, or has found it.
    pub(super) fn waits_for_disk(&mut self, who: Option<GroupId>, waits: bool, now: Instant) {
        if waits {
            self.no_disk.entry(who).or_insert(now);
        } else {
            self.no_disk.remove(&who);
        }
    }

    fn stalled(&self, now: Instant) -> bool {
        self.writing_since
            .is_some_and(|since| now.since(since) >= STALLED_DISK)
    }

    /// Groups that have waited for room for too long.
    fn waiting_groups(&self, now: Instant) -> BTreeSet<GroupId> {
        let mut groups = BTreeSet::new();
        for (who, since) in &self.no_disk {
            if now.since(*since) >= STALLED_DISK {
                match who {
                    Some(group) => groups.extend([*group]),
                    None => groups.extend(self.staged_entries.keys()),
                }
            }
        }
        groups
    }
}
