//! Exactly once: the last operation of each slot and its answer (P6).

use serde::{Deserialize, Serialize};

use super::key;
use super::kv::{Kv, KvError, KvRead};
use crate::ids::SessionId;
use crate::request::{Answer, Refusal, SlotUse};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    sequence: u64,
    answer: Answer,
}

/// What a slot says of an operation that is about to be applied: nothing when it is new, the earlier answer when it is a
/// repetition, a refusal when it is from the past.
pub(super) fn earlier(
    state: &dyn KvRead,
    session: SessionId,
    slot: Option<SlotUse>,
) -> Result<Option<Answer>, KvError> {
    let Some(SlotUse { slot, sequence }) = slot else {
        return Ok(None);
    };
    let record: Option<Record> = super::read(state, "slot", &key::slot(session, slot))?;
    Ok(match record {
        Some(record) if record.sequence == sequence && !cfg!(planted = "slot_repeat") => {
            Some(record.answer)
        }
        Some(record) if record.sequence > sequence => Some(Answer::Refused(Refusal::OldSequence)),
        Some(_) | None => None,
    })
}

/// Remembers the answer to an operation: also that something has changed, for its client asks for something else then, and
/// a copy on its way must not find things as they were again. After other refusals the client asks for the same once more.
pub(super) fn remember(
    state: &mut dyn Kv,
    session: SessionId,
    slot: Option<SlotUse>,
    answer: &Answer,
) -> Result<(), KvError> {
    let Some(SlotUse { slot, sequence }) = slot else {
        return Ok(());
    };
    let is_final = !matches!(answer, Answer::Refused(refusal) if *refusal != Refusal::Changed);
    if !is_final || (cfg!(planted = "failure_forgotten") && !matches!(answer, Answer::Meta(Ok(_))))
    {
        return Ok(());
    }
    super::write(
        state,
        &key::slot(session, slot),
        &Record {
            sequence,
            answer: answer.clone(),
        },
    )
}

/// ... which began a while ago: its client may have given it up, and a later one of the slot may have been remembered.
pub(super) fn remember_late(
    state: &mut dyn Kv,
    session: SessionId,
    used: SlotUse,
    answer: &Answer,
) -> Result<(), KvError> {
    let record: Option<Record> = super::read(state, "slot", &key::slot(session, used.slot))?;
    if record.is_some_and(|record| record.sequence > used.sequence) {
        return Ok(());
    }
    remember(state, session, Some(used), answer)
}
