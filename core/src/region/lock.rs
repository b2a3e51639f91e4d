//! Locks on ranges of files: fcntl's, and flock's as locks of the whole file (POSIX fcntl, F_SETLK).
//!
//! Owns splitting and merging of an owner's ranges, and who is in whose way. Waiting is the mount's business: it asks
//! again (P6).

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::inode;
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use crate::error::FsError;
use crate::ids::SessionId;
use crate::place::Ino;
use crate::request::{Answer, MetaReply};
use crate::vfs::{LockKind, LockOwner, LockRange};

/// Ranges locked on one inode at most.
const LOCKS_MAX: usize = 4096;

/// Whose lock: a session's owner.
pub(super) type Owner = (SessionId, LockOwner);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    owner: Owner,
    range: LockRange,
}

fn all(state: &dyn KvRead, ino: Ino) -> Result<Vec<Held>, KvError> {
    Ok(super::read(state, "locks", &key::of_inode(Kind::Locks, ino))?.unwrap_or_default())
}

fn put(state: &mut dyn Kv, ino: Ino, held: &Vec<Held>) -> Result<(), KvError> {
    let key = key::of_inode(Kind::Locks, ino);
    if held.is_empty() {
        state.delete(&key)
    } else {
        super::write(state, &key, held)
    }
}

fn in_the_way(held: &[Held], owner: Owner, wanted: LockRange) -> Option<&Held> {
    held.iter().find(|held| {
        held.owner != owner
            && held.range.start <= wanted.end
            && wanted.start <= held.range.end
            && (held.range.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive)
    })
}

/// A lock that is in the way of `wanted`, if any.
pub(super) fn test(
    state: &dyn KvRead,
    ino: Ino,
    owner: Owner,
    wanted: LockRange,
) -> Result<Option<LockRange>, KvError> {
    Ok(in_the_way(&all(state, ino)?, owner, wanted).map(|held| held.range))
}

/// Takes a lock; what the owner held in the range is replaced.
pub(super) fn set(
    state: &mut dyn Kv,
    ino: Ino,
    owner: Owner,
    wanted: LockRange,
) -> Result<Answer, KvError> {
    if wanted.start > wanted.end {
        return Ok(Answer::Meta(Err(FsError::Invalid)));
    }
    if inode::get(state, ino)?.is_none() {
        return Ok(Answer::Meta(Err(FsError::NotFound)));
    }
    let mut held = all(state, ino)?;
    if in_the_way(&held, owner, wanted).is_some() {
        return Ok(Answer::Meta(Err(FsError::WouldBlock)));
    }
    cut(&mut held, owner, wanted.start, wanted.end);
    merge(&mut held, owner, wanted);
    if held.len() > LOCKS_MAX {
        return Ok(Answer::Meta(Err(FsError::NoSpace)));
    }
    put(state, ino, &held)?;
    Ok(Answer::Meta(Ok(MetaReply::Done)))
}

/// Gives up an owner's locks in a range.
pub(super) fn unlock(
    state: &mut dyn Kv,
    ino: Ino,
    owner: Owner,
    start: u64,
    end: u64,
) -> Result<(), KvError> {
    let mut held = all(state, ino)?;
    if held.is_empty() {
        return Ok(());
    }
    cut(&mut held, owner, start, end);
    put(state, ino, &held)
}

/// Takes `start..=end` out of what an owner holds.
fn cut(held: &mut Vec<Held>, owner: Owner, start: u64, end: u64) {
    let mut rest = Vec::with_capacity(held.len() + 1);
    for lock in held.drain(..) {
        let range = lock.range;
        if lock.owner != owner || range.end < start || end < range.start {
            rest.push(lock);
            continue;
        }
        if range.start < start {
            rest.push(Held {
                owner,
                range: LockRange {
                    end: start - 1,
                    ..range
                },
            });
        }
        if range.end > end {
            rest.push(Held {
                owner,
                range: LockRange {
                    start: end + 1,
                    ..range
                },
            });
        }
    }
    *held = rest;
}

/// Adds a range, joined with the owner's neighbours of its kind.
fn merge(held: &mut Vec<Held>, owner: Owner, wanted: LockRange) {
    let mut joined = wanted;
    held.retain(|lock| {
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
    held.push(Held {
        owner,
        range: joined,
    });
}

/// A session is over: its locks go.
pub(super) fn drop_session(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    let (from, to) = key::all_of(Kind::Locks);
    for (key, value) in state.scan(&from, &to, usize::MAX)? {
        let mut held: Vec<Held> = crate::codec::decode_versioned("locks", super::VERSION, &value)?;
        let before = held.len();
        held.retain(|lock| lock.owner.0 != session);
        if held.is_empty() {
            state.delete(&key)?;
        } else if held.len() < before {
            super::write(state, &key, &held)?;
        }
    }
    Ok(())
}

/// An inode goes: its locks too.
pub(super) fn drop_all(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    state.delete(&key::of_inode(Kind::Locks, ino))
}
