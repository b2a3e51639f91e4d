//! Inodes without a name that may still be open (P9).
//!
//! Owns the orphan record: the sessions alive when the last name went, less those that said no or are over.

use alloc::vec::Vec;

use super::key::{self, Kind};
use super::kv::{Kv, KvError};
use super::{inode, record, session};
use crate::ids::SessionId;
use crate::place::Ino;

/// The last name went; nobody alive means that it goes at once.
pub(super) fn make(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    let alive = session::alive(state)?;
    keep(state, ino, &alive)
}

/// A session does not hold it open.
pub(super) fn strike(state: &mut dyn Kv, ino: Ino, session: SessionId) -> Result<(), KvError> {
    let key = key::of_inode(Kind::Orphan, ino);
    let Some(mut open) = record::read::<Vec<SessionId>>(state, "orphan", &key)? else {
        return Ok(());
    };
    open.retain(|other| *other != session);
    keep(state, ino, &open)
}

pub(super) fn strike_everywhere(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    let all: Vec<(Vec<u8>, Vec<SessionId>)> =
        record::all(state, "orphan", key::all_of(Kind::Orphan))?;
    for (key, open) in all {
        if open.contains(&session) {
            let ino = key::number(&key, 0)
                .ok_or_else(|| KvError::Corrupt("an orphan's key is too short".into()))?;
            strike(state, Ino(ino), session)?;
        }
    }
    Ok(())
}

fn keep(state: &mut dyn Kv, ino: Ino, open: &[SessionId]) -> Result<(), KvError> {
    if open.is_empty() {
        return inode::free(state, ino);
    }
    record::write(state, &key::of_inode(Kind::Orphan, ino), &open.to_vec())
}
