//! The locks of an inode as a region keeps them, and to which session they are delegated (P8).
//!
//! Owns the record of each inode and when its locks may be a mount's to give. Who is in whose way is `locks`' business;
//! recalls are the leader's. Waiting for a lock is the mount's: it asks again (P6).
//!
//! ```text
//!            SetLock with a wish: granted, and nobody else has a lock
//!  kept here ────────────────────────────────────────────────────────▶ delegated: what is kept is as it was then
//!      ◀──────────────────────────────────────────────────────────────
//!       ReturnLocks, with what is held now; the session ends; the inode goes
//! ```

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::inode;
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use crate::error::FsError;
use crate::ids::SessionId;
use crate::limits::{LOCKS_CONTENDED, LOCKS_DELEGATED_MAX};
use crate::locks::{Delegation, HeldLock, Locks};
use crate::place::Ino;
use crate::request::{Answer, MetaReply};
use crate::time::Timestamp;
use crate::vfs::{LockOwner, LockRange};

/// Whose lock: a session's owner.
pub(crate) type Owner = (SessionId, LockOwner);

/// The version of a stored record; 1 knew no delegations.
const VERSION: u8 = 2;

/// What is kept of one inode's locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// All of them; while they are delegated: those that were held when that began.
    held: Locks<Owner>,
    delegated: Option<Delegation>,
    /// Somebody else wanted them: they are not delegated before then.
    contended: Option<Timestamp>,
}

/// What a lock call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has this answer.
    Replied(Result<MetaReply, FsError>),
    /// Somebody else is to give the locks back first: nothing was done.
    Elsewhere(Delegation),
}

impl Record {
    /// Whose the locks are to give, if they are somebody else's than this session's.
    fn elsewhere(&self, session: SessionId) -> Option<Delegation> {
        self.delegated.filter(|to| to.session != session)
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.delegated.is_none() && self.contended.is_none()
    }

    /// Who has to do it, when that is not this region.
    fn not_here(&self, session: SessionId) -> Option<Outcome> {
        let to = self.delegated?;
        Some(if to.session == session {
            let grant = to.grant;
            Outcome::Replied(Ok(MetaReply::LocksAreYours { grant }))
        } else {
            Outcome::Elsewhere(to)
        })
    }

    /// A lock in the way of `wanted`, if any.
    pub(crate) fn test(&self, owner: Owner, wanted: LockRange) -> Outcome {
        let found = || Ok(MetaReply::Lock(self.held.in_the_way(owner, wanted)));
        self.not_here(owner.0)
            .unwrap_or_else(|| Outcome::Replied(found()))
    }

    /// Takes a lock at `now`; with a wish perhaps all of them.
    pub(crate) fn set(
        &mut self,
        owner: Owner,
        wanted: LockRange,
        wish: Option<u64>,
        now: Timestamp,
    ) -> Outcome {
        if let Some(outcome) = self.not_here(owner.0) {
            return outcome;
        }
        let taken = self.held.set(owner, wanted);
        let reply = taken.map(|()| match wish {
            Some(grant) if self.may_delegate(owner.0, now) => self.delegate(owner.0, grant),
            Some(_) | None => MetaReply::Done,
        });
        Outcome::Replied(reply)
    }

    fn may_delegate(&self, session: SessionId, now: Timestamp) -> bool {
        let alone = self.held.iter().all(|held| held.owner.0 == session)
            || cfg!(planted = "delegated_beside_a_lock");
        let contended = self.contended.is_some_and(|until| now < until);
        alone && !contended && self.held.len() <= LOCKS_DELEGATED_MAX
    }

    fn delegate(&mut self, session: SessionId, grant: u64) -> MetaReply {
        self.delegated = Some(Delegation { session, grant });
        self.contended = None;
        let own = self.held.iter().filter(|held| held.owner.0 == session);
        let locks = own.map(|held| HeldLock {
            owner: held.owner.1,
            range: held.range,
        });
        MetaReply::LocksGiven {
            grant,
            locks: locks.collect(),
        }
    }

    /// Gives up an owner's locks in a range at `now`. Of what is somebody else's to give the owner has none.
    pub(crate) fn unlock(
        &mut self,
        owner: Owner,
        (start, end): (u64, u64),
        now: Timestamp,
    ) -> MetaReply {
        if let Some(Outcome::Replied(Ok(reply))) = self.not_here(owner.0) {
            return reply;
        }
        if self.delegated.is_none() {
            self.held.unlock(owner, start, end);
            self.contended = self.contended.filter(|until| now < *until);
        }
        MetaReply::Done
    }

    /// The session gives the locks back at `now`, if they are its own by that grant.
    pub(crate) fn give_back(
        &mut self,
        to: Delegation,
        locks: Option<&[HeldLock<LockOwner>]>,
        recalled: bool,
        now: Timestamp,
    ) {
        if self.delegated != Some(to) {
            return;
        }
        self.delegated = None;
        self.contended = recalled.then(|| now + LOCKS_CONTENDED);
        if let Some(locks) = locks {
            let own = |held: &HeldLock<LockOwner>| HeldLock {
                owner: (to.session, held.owner),
                range: held.range,
            };
            let kept = !cfg!(planted = "returned_locks_forgotten");
            let held: Vec<HeldLock<Owner>> = locks.iter().filter(|_| kept).map(own).collect();
            self.held = held.into();
        }
    }

    /// A session is over: its locks go.
    pub(crate) fn drop_session(&mut self, session: SessionId) {
        self.held.retain(|held| held.owner.0 != session);
        self.delegated = self.elsewhere(session);
    }
}

fn get(state: &dyn KvRead, ino: Ino) -> Result<Record, KvError> {
    match state.get(&key::of_inode(Kind::Locks, ino))? {
        Some(bytes) => Ok(crate::codec::decode_versioned("locks", VERSION, &bytes)?),
        None => Ok(Record::default()),
    }
}

fn put(state: &mut dyn Kv, key: &[u8], record: &Record) -> Result<(), KvError> {
    if record.is_empty() {
        state.delete(key)
    } else {
        state.put(key, &crate::codec::encode_versioned(VERSION, record))
    }
}

/// Changes a record; writes it if it is another one after that.
fn change<T>(
    state: &mut dyn Kv,
    ino: Ino,
    change: impl FnOnce(&mut Record) -> T,
) -> Result<T, KvError> {
    let before = get(state, ino)?;
    let mut after = before.clone();
    let result = change(&mut after);
    if after != before {
        put(state, &key::of_inode(Kind::Locks, ino), &after)?;
    }
    Ok(result)
}

/// Who has an inode's locks to give, if not this region.
pub(super) fn delegation(state: &dyn KvRead, ino: Ino) -> Result<Option<Delegation>, KvError> {
    Ok(get(state, ino)?.delegated)
}

/// The same, if that is somebody else than this session.
pub(super) fn elsewhere(
    state: &dyn KvRead,
    ino: Ino,
    session: SessionId,
) -> Result<Option<Delegation>, KvError> {
    Ok(get(state, ino)?.elsewhere(session))
}

/// The inodes whose locks are delegated to this session.
///
/// # Errors
/// As [`KvError`].
pub fn delegated_to(state: &dyn KvRead, session: SessionId) -> Result<Vec<Ino>, KvError> {
    let (from, to) = key::all_of(Kind::Locks);
    let mut inos = Vec::new();
    for (key, value) in state.scan(&from, &to, usize::MAX)? {
        let record: Record = crate::codec::decode_versioned("locks", VERSION, &value)?;
        if record.delegated.is_some_and(|to| to.session == session) {
            inos.extend(key::number(&key, 0).map(Ino));
        }
    }
    Ok(inos)
}

/// A lock that is in the way of `wanted`, if any.
pub(super) fn test(
    state: &dyn KvRead,
    ino: Ino,
    owner: Owner,
    wanted: LockRange,
) -> Result<Outcome, KvError> {
    Ok(get(state, ino)?.test(owner, wanted))
}

/// Takes a lock; what the owner held in the range is replaced.
pub(super) fn set(
    state: &mut dyn Kv,
    ino: Ino,
    owner: Owner,
    (wanted, wish): (LockRange, Option<u64>),
    now: Timestamp,
) -> Result<Outcome, KvError> {
    if inode::get(state, ino)?.is_none() {
        return Ok(Outcome::Replied(Err(FsError::NotFound)));
    }
    change(state, ino, |record| record.set(owner, wanted, wish, now))
}

/// Gives up an owner's locks in a range.
pub(super) fn unlock(
    state: &mut dyn Kv,
    ino: Ino,
    owner: Owner,
    range: (u64, u64),
    now: Timestamp,
) -> Result<Answer, KvError> {
    let reply = change(state, ino, |record| record.unlock(owner, range, now))?;
    Ok(Answer::Meta(Ok(reply)))
}

/// A session gives an inode's locks back.
pub(super) fn give_back(
    state: &mut dyn Kv,
    ino: Ino,
    to: Delegation,
    (locks, recalled): (Option<&[HeldLock<LockOwner>]>, bool),
    now: Timestamp,
) -> Result<(), KvError> {
    change(state, ino, |record| {
        record.give_back(to, locks, recalled, now)
    })
}

/// A session is over: its locks go, and what was delegated to it.
pub(super) fn drop_session(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    let (from, to) = key::all_of(Kind::Locks);
    for (key, value) in state.scan(&from, &to, usize::MAX)? {
        let before: Record = crate::codec::decode_versioned("locks", VERSION, &value)?;
        let mut after = before.clone();
        after.drop_session(session);
        if after != before {
            put(state, &key, &after)?;
        }
    }
    Ok(())
}

/// An inode goes: its locks too.
pub(super) fn drop_all(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    state.delete(&key::of_inode(Kind::Locks, ino))
}
