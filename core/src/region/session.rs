//! What a region knows of sessions: which it has seen, which are over, which may hold leases (P8).

use alloc::string::ToString as _;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::{lock, orphan};
use crate::ids::SessionId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Life {
    Seen,
    Over,
}

/// Whether a session is over here.
///
/// # Errors
/// When the state can't be read.
pub fn is_over(state: &dyn KvRead, session: SessionId) -> Result<bool, KvError> {
    Ok(super::read(state, "session", &key::session(session))? == Some(Life::Over))
}

/// Notes that a session does things here: it may hold open what it unlinks.
pub(super) fn seen(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    let known: Option<Life> = super::read(state, "session", &key::session(session))?;
    if known.is_none() && session != SessionId::CLUSTER {
        super::write(state, &key::session(session), &Life::Seen)?;
    }
    Ok(())
}

/// The leader may give leases to a session from now on.
pub(super) fn admit(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    seen(state, session)?;
    super::write(state, &key::admitted(session), &())
}

/// The sessions seen that are not over.
pub(super) fn alive(state: &dyn KvRead) -> Result<Vec<SessionId>, KvError> {
    let (from, to) = key::all_of(Kind::Session);
    let mut alive = Vec::new();
    for (key, value) in state.scan(&from, &to, usize::MAX)? {
        let life: Life = crate::codec::decode_versioned("session", super::VERSION, &value)?;
        if life == Life::Seen {
            alive.push(id_in(&key)?);
        }
    }
    Ok(alive)
}

fn id_in(key: &[u8]) -> Result<SessionId, KvError> {
    let bytes = key.get(1..9).and_then(|bytes| bytes.try_into().ok());
    let bytes = bytes.ok_or_else(|| KvError::Corrupt("a session's key is short".to_string()))?;
    Ok(SessionId(u64::from_be_bytes(bytes)))
}

/// A session is over: its locks, slots and opens go, its earlier proposals are refused from here on.
pub(super) fn end(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    super::write(state, &key::session(session), &Life::Over)?;
    state.delete(&key::admitted(session))?;
    for slot in 0..crate::limits::SLOTS_PER_SESSION {
        state.delete(&key::slot(session, slot))?;
    }
    lock::drop_session(state, session)?;
    orphan::strike_everywhere(state, session)
}
