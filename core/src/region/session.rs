//! Which sessions this region has seen, and which of them are over (P5, P8).

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::{orphan, record};
use crate::ids::SessionId;

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Life {
    Seen,
    Ended,
}

pub(super) fn ended(state: &dyn KvRead, session: SessionId) -> Result<bool, KvError> {
    Ok(record::read::<Life>(state, "session", &key::session(session))? == Some(Life::Ended))
}

/// Notes that a session was here, unless it is known.
pub(super) fn see(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    if session == SessionId::CLUSTER || state.get(&key::session(session))?.is_some() {
        return Ok(());
    }
    record::write(state, &key::session(session), &Life::Seen)
}

pub(super) fn admit(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    see(state, session)?;
    record::write(state, &key::admitted(session), &())
}

/// The session is over: everything it proposed earlier is refused from here on.
pub(super) fn end(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    record::write(state, &key::session(session), &Life::Ended)?;
    state.delete(&key::admitted(session))?;
    orphan::strike_everywhere(state, session)
}

/// Sessions seen and not over.
pub(super) fn alive(state: &dyn KvRead) -> Result<Vec<SessionId>, KvError> {
    let known: Vec<(_, Life)> = record::all(state, "session", key::all_of(Kind::Session))?;
    let mut alive = Vec::new();
    for (key, life) in known {
        let number = key
            .get(1..9)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_be_bytes)
            .ok_or_else(|| KvError::Corrupt("a session's key is too short".into()))?;
        if life == Life::Seen {
            alive.push(SessionId(number));
        }
    }
    Ok(alive)
}
