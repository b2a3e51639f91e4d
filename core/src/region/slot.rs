//! What makes an operation happen once (P6).
//!
//! Owns a slot's record: the last sequence and its answer.

use serde::{Deserialize, Serialize};

use super::kv::{Kv, KvError, KvRead};
use super::{key, record};
use crate::ids::SessionId;
use crate::limits::SLOTS_PER_SESSION;
use crate::request::{Answer, Refusal, SlotUse};

#[derive(Serialize, Deserialize)]
struct Last {
    sequence: u64,
    answer: Answer,
}

/// The answer that this use of the slot has already; `None` when it is new.
pub(super) fn earlier(
    state: &dyn KvRead,
    session: SessionId,
    slot: SlotUse,
) -> Result<Option<Answer>, KvError> {
    if slot.slot >= SLOTS_PER_SESSION {
        return Ok(Some(Answer::Refused(Refusal::OldSequence)));
    }
    let Some(last) = record::read::<Last>(state, "slot", &key::slot(session, slot.slot))? else {
        return Ok(None);
    };
    let repeated = last.sequence == slot.sequence && !cfg!(planted = "slot_repeat");
    Ok(if repeated {
        Some(last.answer)
    } else if slot.sequence < last.sequence {
        Some(Answer::Refused(Refusal::OldSequence))
    } else {
        None
    })
}

/// Remembers a final answer; refusals are none.
pub(super) fn remember(
    state: &mut dyn Kv,
    session: SessionId,
    slot: SlotUse,
    answer: &Answer,
) -> Result<(), KvError> {
    if matches!(answer, Answer::Refused(_)) {
        return Ok(());
    }
    let last = Last {
        sequence: slot.sequence,
        answer: answer.clone(),
    };
    record::write(state, &key::slot(session, slot.slot), &last)
}
