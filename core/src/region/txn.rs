//! Transactions as a region's log carries them: begin, prepare, decide, finish, forget (P7).
//!
//! Owns the coordinator's records and the life of intents. Who proposes what and when is the leader's business.

use alloc::vec::Vec;

use super::command::{Applied, Command, TxnFailure};
use super::intent;
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::plan::{Plan, plan};
use super::slot;
use super::step::{self, Against, Here};
use super::touch;
use crate::place::{Ino, Places};
use crate::request::{Answer, MetaOp, MetaReply, Refusal};
use crate::time::Timestamp;
use crate::txn::{Decision, Step, TxnId, TxnRecord, TxnReply};

/// The record of exactly this transaction, if it is kept here.
///
/// # Errors
/// As [`KvError`].
pub fn record(state: &dyn KvRead, txn: &TxnId) -> Result<Option<TxnRecord>, KvError> {
    let record: Option<TxnRecord> = super::read(state, "transaction", &key::txn(txn))?;
    Ok(record.filter(|record| record.txn == *txn))
}

/// All records in these places.
///
/// # Errors
/// As [`KvError`].
pub fn records(state: &dyn KvRead, places: Places) -> Result<Vec<TxnRecord>, KvError> {
    let (from, to) = key::kind_in(Kind::Txn, places);
    let mut records = Vec::new();
    for (_, value) in state.scan(&from, &to, usize::MAX)? {
        records.push(crate::codec::decode_versioned(
            "transaction",
            super::VERSION,
            &value,
        )?);
    }
    Ok(records)
}

/// Carries steps out in one entry, if all of them are here and nothing stands against them.
pub(super) fn in_one_entry(
    state: &mut dyn Kv,
    here: Here,
    steps: &[Step],
    reply: MetaReply,
) -> Result<Applied, KvError> {
    for step in steps {
        if let Some(txn) = intent::blocks_step(state, here.places, step, None)? {
            return Ok(Applied::Blocked(txn));
        }
    }
    for step in steps {
        if let Some(against) = step::check(state, here.places, step)? {
            return Ok(Applied::Answer(refused(against)));
        }
    }
    for step in steps {
        step::effect(state, here, step)?;
    }
    Ok(Applied::Answer(Answer::Meta(Ok(reply))))
}

/// What a client is told when something stands against its operation.
pub(super) fn refused(against: Against) -> Answer {
    match against {
        Against::Error(error) => Answer::Meta(Err(error)),
        Against::Changed => Answer::Refused(Refusal::Changed),
    }
}

fn replied(against: Against) -> TxnReply {
    match against {
        Against::Error(error) => TxnReply::Failed(error),
        Against::Changed => TxnReply::Changed,
    }
}

/// The coordinator's record and its own region's intents.
pub(super) fn begin(
    state: &mut dyn Kv,
    places: Places,
    txn: &TxnId,
    op: &MetaOp,
    (time, unseen): (Timestamp, &[Ino]),
) -> Result<Applied, KvError> {
    let reply = match plan(state, places, op, time)? {
        Plan::Answer(reply) => return Ok(Applied::Answer(Answer::Meta(Ok(reply)))),
        Plan::Against(against) => {
            let blocked = intent::blocks_failure(state, places, op)?;
            let reply = blocked.map_or_else(|| replied(against), TxnReply::Conflict);
            return Ok(Applied::Txn(reply));
        }
        Plan::Steps { steps, reply, .. } => {
            let own: Vec<Step> = steps
                .iter()
                .filter(|step| places.overlap(step.places()).is_some())
                .cloned()
                .collect();
            let seen = touch::seen(&own, unseen);
            if !seen.is_empty() {
                return Ok(Applied::Seen(seen));
            }
            let prepared = prepare(state, places, txn, &own)?;
            if prepared != TxnReply::Prepared {
                return Ok(Applied::Txn(prepared));
            }
            let record = TxnRecord {
                txn: *txn,
                steps,
                reply,
                decision: None,
            };
            super::write(state, &key::txn(txn), &record)?;
            prepared
        }
    };
    Ok(Applied::Txn(reply))
}

/// Checks steps and leaves intents on their keys; steps prepared before are left alone.
pub(super) fn prepare(
    state: &mut dyn Kv,
    places: Places,
    txn: &TxnId,
    steps: &[Step],
) -> Result<TxnReply, KvError> {
    for step in steps {
        if let Some(other) = intent::blocks_step(state, places, step, Some(txn))? {
            return Ok(TxnReply::Conflict(other));
        }
        if let Some(against) = step::check(state, places, step)? {
            return Ok(replied(against));
        }
    }
    for step in steps {
        intent::put(state, places, txn, step)?;
    }
    Ok(TxnReply::Prepared)
}

/// The decision, the coordinator's own part of it, and the client's answer, in one entry.
pub(super) fn decide(
    state: &mut dyn Kv,
    places: Places,
    command: &Command,
    txn: &TxnId,
    decision: Decision,
    failure: Option<&TxnFailure>,
) -> Result<Applied, KvError> {
    let Some(mut record) = record(state, txn)? else {
        return Ok(Applied::Txn(TxnReply::Decided(Decision::Abort)));
    };
    if let Some(earlier) = record.decision {
        return Ok(Applied::Txn(TxnReply::Decided(earlier)));
    }
    let answer = match decision {
        Decision::Commit(time) => {
            let here = Here::at(state, places, time)?;
            carry_out(state, here, txn)?;
            set_times(&mut record.reply, here.time);
            let reply = record.reply.clone();
            record.decision = Some(Decision::Commit(here.time));
            if cfg!(planted = "decision_forgotten") {
                state.delete(&key::txn(txn))?;
            } else {
                super::write(state, &key::txn(txn), &record)?;
            }
            Answer::Meta(Ok(reply))
        }
        Decision::Abort => {
            intent::take(state, places, txn)?;
            state.delete(&key::txn(txn))?;
            match failure {
                Some(TxnFailure::Error(error)) => Answer::Meta(Err(*error)),
                Some(TxnFailure::Changed) => Answer::Refused(Refusal::Changed),
                Some(TxnFailure::Conflict) | None => Answer::Refused(Refusal::Busy),
            }
        }
    };
    slot::remember_late(state, command.session, txn.slot, &answer)?;
    Ok(Applied::Answer(answer))
}

/// Carries a transaction's intents here out. A directory loses its fragment before its inode, and gains entries after
/// it was made: steps are ordered so.
fn carry_out(state: &mut dyn Kv, here: Here, txn: &TxnId) -> Result<(), KvError> {
    let mut steps = intent::take(state, here.places, txn)?;
    steps.sort_by_key(|step| match step {
        Step::Create { .. } => 0,
        Step::Remove { .. } => 1,
        Step::Insert { .. } | Step::Replace { .. } => 2,
        Step::AddLink { .. }
        | Step::DropLink { .. }
        | Step::Subdirs { .. }
        | Step::Moved { .. }
        | Step::RenameLock { .. } => 3,
        Step::Kill { .. } => 4,
        Step::DropDir { .. } => 5,
    });
    for step in &steps {
        step::effect(state, here, step)?;
    }
    Ok(())
}

/// What was made shows the time at which it was decided.
fn set_times(reply: &mut MetaReply, time: Timestamp) {
    if let MetaReply::Made {
        attr,
        existed: false,
        ..
    } = reply
    {
        (attr.atime, attr.mtime, attr.ctime, attr.btime) = (time, time, time, time);
    }
}

/// A participant carries its intents in `places` out, or drops them. Repetitions find none.
pub(super) fn finish(
    state: &mut dyn Kv,
    own: Places,
    txn: &TxnId,
    decision: Decision,
    places: Places,
) -> Result<TxnReply, KvError> {
    let Some(_) = own.overlap(places) else {
        return Ok(TxnReply::Finished);
    };
    match decision {
        Decision::Commit(time) => {
            let here = Here::at(state, own, time)?;
            carry_out(state, here, txn)?;
        }
        Decision::Abort => drop(intent::take(state, own, txn)?),
    }
    Ok(TxnReply::Finished)
}

/// Every participant has confirmed.
pub(super) fn forget(state: &mut dyn Kv, txn: &TxnId) -> Result<TxnReply, KvError> {
    if record(state, txn)?.is_some() {
        state.delete(&key::txn(txn))?;
    }
    Ok(TxnReply::Finished)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FsError;
    use crate::ids::{Epoch, Renewal, SessionId, VolumeId};
    use crate::place::{Bucket, Place, Salt};
    use crate::region::Descriptor;
    use crate::region::command::CommandBody;
    use crate::region::inode;
    use crate::region::mem::MemKv;
    use crate::request::{SlotUse, Space};

    const SESSION: SessionId = SessionId(3);

    fn root() -> Ino {
        Ino::new(Place::new(Bucket(0), 0), 1)
    }

    fn region() -> MemKv {
        let mut state = MemKv::default();
        let descriptor = Descriptor {
            space: Space::Meta,
            places: Places::ALL,
            epoch: Epoch(1),
        };
        let root = crate::region::Root {
            ino: root(),
            salt: Salt(1),
            mode: 0o755,
            uid: 0,
            gid: 0,
            volume: VolumeId(1),
            time: Timestamp::default(),
        };
        crate::region::found(&mut state, &descriptor, Some(&root)).expect("memory");
        state
    }

    fn txn(sequence: u64) -> TxnId {
        TxnId {
            session: SESSION,
            slot: SlotUse { slot: 4, sequence },
            ..TxnId::nobody()
        }
    }

    fn command(body: CommandBody) -> Command {
        Command {
            epoch: Epoch(1),
            session: SESSION,
            renewal: Renewal(1),
            slot: None,
            time: Timestamp::default(),
            unseen: Vec::new(),
            body,
        }
    }

    /// A slot is free when its client has the answer, which may be before everybody has carried the transaction out.
    #[test]
    fn two_transactions_of_one_slot_both_count() {
        let mut state = region();
        let more = [Step::Subdirs {
            dir: root(),
            delta: 1,
        }];
        let prepare = |state: &mut MemKv, sequence| {
            prepare(state, Places::ALL, &txn(sequence), &more).expect("memory")
        };
        let finish = |state: &mut MemKv, sequence| {
            let commit = Decision::Commit(Timestamp::default());
            finish(state, Places::ALL, &txn(sequence), commit, Places::ALL).expect("memory")
        };
        assert_eq!(prepare(&mut state, 1), TxnReply::Prepared);
        assert_eq!(prepare(&mut state, 1), TxnReply::Prepared, "once more");
        let conflict = TxnReply::Conflict(txn(1));
        assert_eq!(prepare(&mut state, 2), conflict, "the first is not over");
        assert_eq!(finish(&mut state, 1), TxnReply::Finished);
        assert_eq!(prepare(&mut state, 2), TxnReply::Prepared);
        assert_eq!(finish(&mut state, 2), TxnReply::Finished);
        let links = inode::get(&state, root())
            .expect("memory")
            .map(|inode| inode.nlink);
        assert_eq!(links, Some(4));
    }

    /// P6: a copy of it may come when things have changed again.
    #[test]
    fn a_transaction_that_fails_at_once_is_remembered() {
        let mut state = region();
        let op = MetaOp::Unlink {
            dir: root(),
            salt: Salt(1),
            name: "nothing".into(),
        };
        let txn = txn(1);
        let command = command(CommandBody::Begin { txn, op });
        let none = bytes::Bytes::new();
        let applied = crate::region::apply(&mut state, &command, &none).expect("memory");
        let failed = Answer::Meta(Err(FsError::NotFound));
        assert_eq!(applied, Applied::Answer(failed.clone()));
        let again = slot::earlier(&state, SESSION, Some(txn.slot)).expect("memory");
        assert_eq!(again, Some(failed));
    }

    /// P6: a client that gives an operation up uses its slot again.
    #[test]
    fn a_late_decision_leaves_what_its_slot_has_done_since() {
        let mut state = region();
        let (early, late) = (txn(1), txn(2));
        let record = TxnRecord {
            txn: early,
            steps: Vec::new(),
            reply: MetaReply::Done,
            decision: None,
        };
        crate::region::write(&mut state, &key::txn(&early), &record).expect("memory");
        let since = Answer::Meta(Ok(MetaReply::Done));
        slot::remember(&mut state, SESSION, Some(late.slot), &since).expect("memory");
        let decision = Decision::Commit(Timestamp::default());
        let command = command(CommandBody::Forget { txn: early });
        decide(&mut state, Places::ALL, &command, &early, decision, None).expect("memory");
        let again = slot::earlier(&state, SESSION, Some(late.slot)).expect("memory");
        assert_eq!(again, Some(since));
    }
}
