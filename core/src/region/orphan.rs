//! Inodes whose last name is gone, kept for those who may hold them open (P9).
//!
//! Owns orphan records and what is freed when nobody is left.

use alloc::vec::Vec;

use super::inode;
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::{garbage, lock, runs, session, xattr};
use crate::ids::SessionId;
use crate::place::Ino;

/// Keeps an inode without names for the sessions that are alive; frees it when there are none.
pub(super) fn if_unnamed(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    if inode::expect(state, ino)?.nlink > 0 {
        return Ok(());
    }
    let alive = session::alive(state)?;
    put(state, ino, &alive)
}

fn put(state: &mut dyn Kv, ino: Ino, sessions: &Vec<SessionId>) -> Result<(), KvError> {
    let key = key::of_inode(Kind::Orphan, ino);
    if sessions.is_empty() {
        state.delete(&key)?;
        return free(state, ino);
    }
    super::write(state, &key, sessions)
}

/// A session does not hold an orphan open (any more).
pub(super) fn strike(state: &mut dyn Kv, ino: Ino, session: SessionId) -> Result<(), KvError> {
    let key = key::of_inode(Kind::Orphan, ino);
    let Some(mut sessions) = super::read::<Vec<SessionId>>(state, "orphan", &key)? else {
        return Ok(());
    };
    sessions.retain(|holder| *holder != session);
    put(state, ino, &sessions)
}

/// Whether an inode is kept for others alone: this session has said that it does not hold it open.
pub(super) fn is_lost_to(
    state: &dyn KvRead,
    ino: Ino,
    session: SessionId,
) -> Result<bool, KvError> {
    let key = key::of_inode(Kind::Orphan, ino);
    let keepers = super::read::<Vec<SessionId>>(state, "orphan", &key)?;
    Ok(keepers.is_some_and(|keepers| !keepers.contains(&session)))
}

/// A session is over: it holds nothing open.
pub(super) fn strike_everywhere(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    for (ino, sessions) in list(state, usize::MAX)? {
        if sessions.contains(&session) {
            strike(state, ino, session)?;
        }
    }
    Ok(())
}

/// The first orphans and the sessions that may hold them open, at most `limit`.
///
/// # Errors
/// As [`KvError`].
pub fn list(state: &dyn KvRead, limit: usize) -> Result<Vec<(Ino, Vec<SessionId>)>, KvError> {
    list_after(state, None, limit)
}

/// The same for those behind one, in the order of their keys.
///
/// # Errors
/// As [`KvError`].
pub fn list_after(
    state: &dyn KvRead,
    after: Option<Ino>,
    limit: usize,
) -> Result<Vec<(Ino, Vec<SessionId>)>, KvError> {
    let (mut from, to) = key::all_of(Kind::Orphan);
    if let Some(ino) = after {
        from = key::of_inode(Kind::Orphan, ino);
        from.push(0);
    }
    let mut orphans = Vec::new();
    for (key, value) in state.scan(&from, &to, limit)? {
        let ino = key::number(&key, 0);
        let ino = ino.ok_or_else(|| KvError::Corrupt("an orphan's key is short".into()))?;
        let sessions = crate::codec::decode_versioned("orphan", super::VERSION, &value)?;
        orphans.push((Ino(ino), sessions));
    }
    Ok(orphans)
}

/// Nobody names it, nobody holds it open: everything of it goes, its chunks' names become garbage.
fn free(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    let freed = runs::rewrite(state, ino, 0, u64::MAX, |_| None)?;
    garbage::add(state, ino, &freed)?;
    xattr::drop_all(state, ino)?;
    lock::drop_all(state, ino)?;
    state.delete(&key::of_inode(Kind::Inline, ino))?;
    inode::delete(state, ino)
}
