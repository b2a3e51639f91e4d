//! What a region knows of sessions: which it has seen, which are over, which may hold leases (P8).
//!
//! That a session is over is remembered for ever: what it proposed may come late. Every region hears of every end, and
//! ids are consecutive, so neighbours that are over share one record, under the last of them: there are about as many as
//! sessions alive.

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
    /// This one and all before it, from that one on.
    OverFrom(SessionId),
}

/// What a region knows of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet.
    New,
    Seen,
    Over,
}

/// Whether a session is over here.
///
/// # Errors
/// When the state can't be read.
pub fn is_over(state: &dyn KvRead, session: SessionId) -> Result<bool, KvError> {
    Ok(standing(state, session)? == Standing::Over)
}

/// What is known of a session here. Of one that was seen it takes one read.
pub(super) fn standing(state: &dyn KvRead, session: SessionId) -> Result<Standing, KvError> {
    Ok(match life(state, session)? {
        Some(Life::Seen) => Standing::Seen,
        Some(Life::Over | Life::OverFrom(_)) => Standing::Over,
        None => match next(state, session)? {
            Some((_, Life::OverFrom(first))) if first <= session => Standing::Over,
            Some(_) | None => Standing::New,
        },
    })
}

fn life(state: &dyn KvRead, session: SessionId) -> Result<Option<Life>, KvError> {
    super::read(state, "session", &key::session(session))
}

/// The first record of a session from this one on.
fn next(state: &dyn KvRead, from: SessionId) -> Result<Option<(SessionId, Life)>, KvError> {
    let (_, to) = key::all_of(Kind::Session);
    let found = state.scan(&key::session(from), &to, 1)?;
    let Some((key, value)) = found.first() else {
        return Ok(None);
    };
    let life = crate::codec::decode_versioned("session", super::VERSION, value)?;
    Ok(Some((id_in(key)?, life)))
}

/// Notes that a session that is [`Standing::New`] does things here: it may hold open what it unlinks.
pub(super) fn note_seen(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    super::write(state, &key::session(session), &Life::Seen)
}

/// The leader may give leases to a session from now on.
pub(super) fn admit(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    if standing(state, session)? == Standing::New {
        note_seen(state, session)?;
    }
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
    note_over(state, session)?;
    state.delete(&key::admitted(session))?;
    for slot in 0..crate::limits::SLOTS_PER_SESSION {
        state.delete(&key::slot(session, slot))?;
    }
    lock::drop_session(state, session)?;
    orphan::strike_everywhere(state, session)
}

/// Writes down that a session is over, in one record with its neighbours that are.
fn note_over(state: &mut dyn Kv, session: SessionId) -> Result<(), KvError> {
    if is_over(state, session)? {
        return Ok(());
    }
    let before = session.0.checked_sub(1).map(SessionId);
    let first = match before {
        Some(before) => {
            let first = match life(state, before)? {
                Some(Life::Over) => before,
                Some(Life::OverFrom(first)) => first,
                Some(Life::Seen) | None => session,
            };
            if first != session {
                state.delete(&key::session(before))?;
            }
            first
        }
        None => session,
    };
    let after = SessionId(session.0 + 1);
    let last = match next(state, after)? {
        Some((found, Life::Over)) if found == after => found,
        Some((found, Life::OverFrom(from))) if from == after => found,
        Some(_) | None => session,
    };
    if last != session {
        state.delete(&key::session(session))?;
    }
    let life = if first == last {
        Life::Over
    } else {
        Life::OverFrom(first)
    };
    super::write(state, &key::session(last), &life)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::mem::MemKv;
    use std::collections::BTreeSet;

    fn records(state: &MemKv) -> usize {
        let (from, to) = key::all_of(Kind::Session);
        state.scan(&from, &to, usize::MAX).expect("memory").len()
    }

    #[test]
    fn whatever_the_order_those_that_are_over_are_known_and_take_one_record() {
        for seed in 0..200_u64 {
            let mut state = MemKv::default();
            let mut drawn = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut order: Vec<u64> = (1..=40).collect();
            for at in (1..order.len()).rev() {
                drawn ^= drawn << 13;
                drawn ^= drawn >> 7;
                drawn ^= drawn << 17;
                order.swap(at, usize::try_from(drawn % (at as u64 + 1)).expect("small"));
            }
            let mut over = BTreeSet::new();
            for id in 1..=40 {
                if id % 3 == seed % 3 {
                    note_seen(&mut state, SessionId(id)).expect("memory");
                }
            }
            for id in order {
                // The cluster's own, and one that stays.
                if id != 17 {
                    end(&mut state, SessionId(id)).expect("memory");
                    over.insert(id);
                }
                for id in 0..=45 {
                    let known = is_over(&state, SessionId(id)).expect("memory");
                    assert_eq!(known, over.contains(&id), "seed {seed}, session {id}");
                }
                let alive = alive(&state).expect("memory");
                assert!(alive.iter().all(|id| !over.contains(&id.0)), "seed {seed}");
            }
            // Before the one that lives, and after it; and it, if it was seen.
            assert!(records(&state) <= 3, "seed {seed}: {}", records(&state));
        }
    }

    #[test]
    fn a_record_that_stands_alone_reads_as_before() {
        let mut state = MemKv::default();
        super::super::write(&mut state, &key::session(SessionId(7)), &Life::Over).expect("memory");
        assert!(is_over(&state, SessionId(7)).expect("memory"));
        assert!(!is_over(&state, SessionId(6)).expect("memory"));
        end(&mut state, SessionId(8)).expect("memory");
        assert_eq!(records(&state), 1);
        assert!(is_over(&state, SessionId(7)).expect("memory"));
    }
}
