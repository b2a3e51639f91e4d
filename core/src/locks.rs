//! Locks on ranges of a file: fcntl's, and flock's as locks of the whole file (POSIX fcntl, F_SETLK).
//!
//! Owns splitting and merging of an owner's ranges, and who is in whose way: the same for a region, whose owners are of many
//! sessions, and for a mount to which a file's locks are delegated. Deliberately knows no state, session or time.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::error::FsError;
use crate::ids::SessionId;
use crate::limits::LOCKS_MAX;
use crate::vfs::{LockKind, LockRange};

/// A range that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock<O> {
    /// Whose it is.
    pub owner: O,
    /// What is locked, and how.
    pub range: LockRange,
}

/// All locks of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks<O>(Vec<HeldLock<O>>);

/// A file's locks are a mount's to give: the region knows none of them meanwhile (P8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// To which session; it lasts until that one gives it back or ends.
    pub session: SessionId,
    /// Which: the number under which the mount wished for it. No two of a mount's wishes have the same.
    pub grant: u64,
}

impl<O> Default for Locks<O> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<O> From<Vec<HeldLock<O>>> for Locks<O> {
    fn from(held: Vec<HeldLock<O>>) -> Self {
        Self(held)
    }
}

impl<O: Copy + Eq> Locks<O> {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &HeldLock<O>> + '_ {
        self.0.iter()
    }

    /// How many ranges are locked.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is locked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only those stay.
    pub fn retain(&mut self, stays: impl FnMut(&HeldLock<O>) -> bool) {
        self.0.retain(stays);
    }

    /// A lock of somebody else that is in the way of `wanted`, if any.
    #[must_use]
    pub fn in_the_way(&self, owner: O, wanted: LockRange) -> Option<LockRange> {
        let found = self.0.iter().find(|held| {
            held.owner != owner
                && held.range.start <= wanted.end
                && wanted.start <= held.range.end
                && (held.range.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive)
        });
        found.map(|held| held.range)
    }

    /// Takes a lock; what the owner held in the range is replaced.
    ///
    /// # Errors
    /// `WouldBlock` when another is in the way, `Invalid` for a range that ends before it starts, `NoSpace` when there are
    /// too many. Then nothing has changed.
    pub fn set(&mut self, owner: O, wanted: LockRange) -> Result<(), FsError> {
        if wanted.start > wanted.end {
            return Err(FsError::Invalid);
        }
        if self.in_the_way(owner, wanted).is_some() {
            return Err(FsError::WouldBlock);
        }
        let mut after = Self(self.0.clone());
        after.cut(owner, wanted.start, wanted.end);
        after.merge(owner, wanted);
        if after.len() > LOCKS_MAX {
            return Err(FsError::NoSpace);
        }
        *self = after;
        Ok(())
    }

    /// Gives up an owner's locks in `start..=end`.
    pub fn unlock(&mut self, owner: O, start: u64, end: u64) {
        self.cut(owner, start, end);
    }

    /// Takes `start..=end` out of what an owner holds.
    fn cut(&mut self, owner: O, start: u64, end: u64) {
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        for lock in self.0.drain(..) {
            let range = lock.range;
            if lock.owner != owner || range.end < start || end < range.start {
                rest.push(lock);
                continue;
            }
            if range.start < start {
                let end = start - 1;
                let range = LockRange { end, ..range };
                rest.push(HeldLock { owner, range });
            }
            if range.end > end {
                let start = end + 1;
                let range = LockRange { start, ..range };
                rest.push(HeldLock { owner, range });
            }
        }
        self.0 = rest;
    }

    /// Adds a range, joined with the owner's neighbours of its kind.
    fn merge(&mut self, owner: O, wanted: LockRange) {
        let mut joined = wanted;
        self.0.retain(|lock| {
            let range = lock.range;
            let touches = range.end.checked_add(1) == Some(joined.start)
                || joined.end.checked_add(1) == Some(range.start);
            let joins = lock.owner == owner && range.kind == joined.kind && touches;
            if joins {
                joined.start = joined.start.min(range.start);
                joined.end = joined.end.max(range.end);
            }
            !joins
        });
        let range = joined;
        self.0.push(HeldLock { owner, range });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(start: u64, end: u64, kind: LockKind) -> LockRange {
        LockRange {
            start,
            end,
            kind,
            pid: 7,
        }
    }

    fn held(locks: &Locks<u8>) -> Vec<(u8, u64, u64)> {
        let mut all: Vec<(u8, u64, u64)> = locks
            .iter()
            .map(|held| (held.owner, held.range.start, held.range.end))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn ranges_are_cut_and_joined() {
        let mut locks = Locks::default();
        let shared = |start, end| range(start, end, LockKind::Shared);
        locks.set(1, shared(0, 9)).expect("free");
        locks.set(2, shared(5, 20)).expect("shared");
        assert_eq!(
            locks.set(2, range(9, 9, LockKind::Exclusive)),
            Err(FsError::WouldBlock)
        );
        locks.unlock(1, 3, 5);
        assert_eq!(held(&locks), [(1, 0, 2), (1, 6, 9), (2, 5, 20)]);
        locks.set(1, shared(3, 5)).expect("shared");
        assert_eq!(held(&locks), [(1, 0, 9), (2, 5, 20)]);
        locks
            .set(2, range(10, 10, LockKind::Exclusive))
            .expect("free");
        assert_eq!(
            held(&locks),
            [(1, 0, 9), (2, 5, 9), (2, 10, 10), (2, 11, 20)]
        );
        let in_the_way = locks.in_the_way(1, shared(0, u64::MAX)).expect("one");
        assert_eq!((in_the_way.start, in_the_way.pid), (10, 7));
        locks.unlock(2, 0, u64::MAX);
        locks.unlock(1, 0, u64::MAX);
        assert!(locks.is_empty());
    }
}
