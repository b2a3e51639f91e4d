//! One entry of a region's log (P5).
//!
//! Owns the checks that every entry passes again when it is applied, and the way to what it does. Time, numbers and
//! identities travelled in the entry; nothing here looks anywhere but at state and entry.

use alloc::vec::Vec;
use bytes::Bytes;

use super::command::{Applied, Command, CommandBody, Descriptor};
use super::kv::{Kv, KvError};
use super::plan::{Plan, plan};
use super::session::Standing;
use super::step::Here;
use super::{
    attributes, content, data, garbage, inode, lock, orphan, session, slot, touch, txn, xattr,
};
use crate::error::FsError;
use crate::ids::SessionId;
use crate::locks::Delegation;
use crate::place::{Ino, Place, Places};
use crate::request::{Answer, DataOp, MetaOp, MetaReply, Refusal, Space};
use crate::txn::{Step, TxnReply};

/// Applies one entry. What an entry may not do is an answer, and changes nothing.
///
/// # Errors
/// Only when the state can't be read or written: the replica stops.
pub fn apply(state: &mut dyn Kv, command: &Command, payload: &Bytes) -> Result<Applied, KvError> {
    let descriptor = super::descriptor(state)?;
    if let Some(refusal) = not_for_here(&descriptor, command) {
        return Ok(Applied::Answer(Answer::Refused(refusal)));
    }
    // What was decided goes on: only what a client asks for ends with its session.
    let asks = matches!(
        &command.body,
        CommandBody::Meta(_) | CommandBody::Data(_) | CommandBody::Begin { .. }
    );
    if asks && command.session != SessionId::CLUSTER {
        match session::standing(state, command.session)? {
            Standing::Over => {
                return Ok(Applied::Answer(Answer::Refused(Refusal::SessionEnded)));
            }
            Standing::New if !matches!(command.body, CommandBody::Begin { .. }) => {
                session::note_seen(state, command.session)?;
            }
            Standing::New | Standing::Seen => {}
        }
    }
    let places = descriptor.places;
    match &command.body {
        CommandBody::Meta(op) => meta(state, places, command, op),
        CommandBody::Data(op) => {
            // A late copy of a write must not undo what was written after it (P6).
            let (session, slot) = (command.session, command.slot);
            if let Some(answer) = slot::earlier(state, session, slot)? {
                return Ok(Applied::Answer(answer));
            }
            let answer = data::apply(state, command.time, op, payload)?;
            slot::remember(state, session, slot, &answer)?;
            Ok(Applied::Answer(answer))
        }
        CommandBody::Begin { txn, op } => {
            match slot::earlier(state, command.session, Some(txn.slot))? {
                Some(answer) => Ok(Applied::Answer(answer)),
                None => {
                    let begun = txn::begin(state, places, txn, op, (command.time, &command.unseen));
                    let begun = final_answer(begun?);
                    if let Applied::Answer(answer) = &begun {
                        slot::remember_late(state, command.session, txn.slot, answer)?;
                    }
                    Ok(begun)
                }
            }
        }
        CommandBody::Prepare { txn, steps } => {
            let own = |step: &&Step| places.overlap(step.places()).is_some();
            let steps: Vec<Step> = steps.iter().filter(own).cloned().collect();
            Ok(Applied::Txn(txn::prepare(state, places, txn, &steps)?))
        }
        CommandBody::Decide {
            txn,
            decision,
            failure,
        } => txn::decide(state, places, command, txn, *decision, failure.as_ref()),
        CommandBody::Finish {
            txn,
            decision,
            places: theirs,
        } => Ok(Applied::Txn(txn::finish(
            state, places, txn, *decision, *theirs,
        )?)),
        CommandBody::Forget { txn } => {
            let reply: TxnReply = txn::forget(state, txn)?;
            Ok(Applied::Txn(reply))
        }
    }
}

/// Whether the entry was accepted under claims that no longer hold.
fn not_for_here(descriptor: &Descriptor, command: &Command) -> Option<Refusal> {
    if command.epoch != descriptor.epoch && !cfg!(planted = "epoch_unchecked_at_apply") {
        let (epoch, places) = (descriptor.epoch, descriptor.places);
        return Some(Refusal::Epoch { epoch, places });
    }
    let fits = match &command.body {
        CommandBody::Data(_) => descriptor.space == Space::Data,
        // A session has slots in every region.
        CommandBody::Meta(MetaOp::EndSession { .. }) => true,
        CommandBody::Meta(_)
        | CommandBody::Begin { .. }
        | CommandBody::Prepare { .. }
        | CommandBody::Decide { .. }
        | CommandBody::Finish { .. }
        | CommandBody::Forget { .. } => descriptor.space == Space::Meta,
    };
    let here = fits && is_here(descriptor.places, &command.body);
    (!here).then_some(Refusal::NoRegion)
}

/// Whether the keys that the entry names first live here.
fn is_here(places: Places, body: &CommandBody) -> bool {
    match body {
        CommandBody::Meta(op) => match op {
            MetaOp::AdmitSession { .. } | MetaOp::EndSession { .. } => true,
            MetaOp::Reserve { buckets } => {
                buckets.iter().all(|bucket| places.covers(bucket.places()))
            }
            MetaOp::NotOpen { inos } => inos.iter().all(|ino| places.contains(ino.place())),
            MetaOp::Reclaimed { chunks } => chunks
                .iter()
                .all(|chunk| places.contains(chunk.ino.place())),
            MetaOp::Make { .. }
            | MetaOp::Unlink { .. }
            | MetaOp::RemoveDir { .. }
            | MetaOp::Rename { .. }
            | MetaOp::Link { .. }
            | MetaOp::SetAttr { .. }
            | MetaOp::SetXattr { .. }
            | MetaOp::RemoveXattr { .. }
            | MetaOp::SetLock { .. }
            | MetaOp::Unlock { .. }
            | MetaOp::ReturnLocks { .. }
            | MetaOp::Content { .. }
            | MetaOp::Takeover { .. } => places.contains(op.first_place()),
        },
        CommandBody::Data(op) => match op {
            DataOp::Write { chunk, .. }
            | DataOp::Zero { chunk, .. }
            | DataOp::RaiseFence { chunk, .. } => places.contains(chunk.place()),
            DataOp::Delete { chunks } => chunks.iter().all(|chunk| places.contains(chunk.place())),
        },
        CommandBody::Begin { txn, .. }
        | CommandBody::Decide { txn, .. }
        | CommandBody::Forget { txn } => places.contains(txn.place),
        CommandBody::Prepare { .. } | CommandBody::Finish { .. } => true,
    }
}

/// What ends a transaction before it has begun is its client's answer.
fn final_answer(begun: Applied) -> Applied {
    let Applied::Txn(reply) = &begun else {
        return begun;
    };
    match reply {
        TxnReply::Failed(error) => Applied::Answer(Answer::Meta(Err(*error))),
        TxnReply::Changed => Applied::Answer(Answer::Refused(Refusal::Changed)),
        TxnReply::Prepared
        | TxnReply::Conflict(_)
        | TxnReply::Finished
        | TxnReply::Undecided
        | TxnReply::Decided(_) => begun,
    }
}

fn meta(
    state: &mut dyn Kv,
    places: Places,
    command: &Command,
    op: &MetaOp,
) -> Result<Applied, KvError> {
    if let Some(answer) = slot::earlier(state, command.session, command.slot)? {
        return Ok(Applied::Answer(answer));
    }
    let applied = operation(state, places, command, op)?;
    if let Applied::Answer(answer) = &applied {
        slot::remember(state, command.session, command.slot, answer)?;
    }
    Ok(applied)
}

fn operation(
    state: &mut dyn Kv,
    places: Places,
    command: &Command,
    op: &MetaOp,
) -> Result<Applied, KvError> {
    let here = Here::at(state, places, command.time)?;
    match op {
        MetaOp::Make { .. }
        | MetaOp::Unlink { .. }
        | MetaOp::RemoveDir { .. }
        | MetaOp::Rename { .. }
        | MetaOp::Link { .. } => names(state, here, op, &command.unseen),
        MetaOp::Reserve { buckets } => {
            let mut numbers = Vec::with_capacity(buckets.len());
            for bucket in buckets {
                let Some(ino) = inode::next_number(state, Place::new(*bucket, 0))? else {
                    return Ok(Applied::Answer(Answer::Meta(Err(FsError::NoSpace))));
                };
                inode::claim_number(state, ino)?;
                numbers.push(ino);
            }
            done(MetaReply::Reserved(numbers))
        }
        MetaOp::SetAttr { ino, set } => {
            on_inode(state, *ino, |state| attributes::set(state, here, *ino, set))
        }
        MetaOp::SetXattr {
            ino,
            name,
            value,
            mode,
        } => on_inode(state, *ino, |state| {
            xattr::set(state, here, *ino, name, value, *mode)
        }),
        MetaOp::RemoveXattr { ino, name } => {
            on_inode(state, *ino, |state| xattr::remove(state, here, *ino, name))
        }
        MetaOp::SetLock { .. } | MetaOp::Unlock { .. } | MetaOp::ReturnLocks { .. } => {
            locks(state, here, command.session, op)
        }
        MetaOp::Content { ino, fence, change } => on_inode(state, *ino, |state| {
            content::change(state, here, *ino, *fence, change)
        }),
        MetaOp::NotOpen { inos } => {
            for ino in inos {
                orphan::strike(state, *ino, command.session)?;
            }
            done(MetaReply::Done)
        }
        MetaOp::Reclaimed { chunks } => {
            garbage::strike(state, chunks)?;
            done(MetaReply::Done)
        }
        MetaOp::Takeover { ino, .. } => {
            content::take_over(state, *ino)?;
            done(MetaReply::Done)
        }
        MetaOp::AdmitSession { session } => {
            if session::is_over(state, *session)? {
                return Ok(Applied::Answer(Answer::Refused(Refusal::SessionEnded)));
            }
            session::admit(state, *session)?;
            done(MetaReply::Done)
        }
        MetaOp::EndSession { session } => {
            session::end(state, *session)?;
            done(MetaReply::Done)
        }
    }
}

/// An operation on an inode's locks.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "`operation` has sorted them"
)]
fn locks(
    state: &mut dyn Kv,
    here: Here,
    session: SessionId,
    op: &MetaOp,
) -> Result<Applied, KvError> {
    match op {
        MetaOp::SetLock {
            ino,
            owner,
            lock,
            delegate,
        } => {
            if let Some(txn) = super::intent::blocks_inode(state, *ino, &[])? {
                return Ok(Applied::Blocked(txn));
            }
            let (owner, wanted) = ((session, *owner), (*lock, *delegate));
            Ok(match lock::set(state, *ino, owner, wanted, here.time)? {
                lock::Outcome::Replied(reply) => Applied::Answer(Answer::Meta(reply)),
                lock::Outcome::Elsewhere(by) => Applied::Delegated(*ino, by),
            })
        }
        MetaOp::Unlock {
            ino,
            owner,
            start,
            end,
        } => {
            let (owner, range) = ((session, *owner), (*start, *end));
            let answer = lock::unlock(state, *ino, owner, range, here.time)?;
            Ok(Applied::Answer(answer))
        }
        MetaOp::ReturnLocks {
            ino,
            grant,
            locks,
            recalled,
        } => {
            let grant = *grant;
            let to = Delegation { session, grant };
            lock::give_back(state, *ino, to, (locks.as_deref(), *recalled), here.time)?;
            done(MetaReply::Done)
        }
        other => unreachable!("no operation on locks: {other:?}"),
    }
}

fn done(reply: MetaReply) -> Result<Applied, KvError> {
    Ok(Applied::Answer(Answer::Meta(Ok(reply))))
}

/// An operation on names: at once when all of it is here, else as a transaction.
fn names(state: &mut dyn Kv, here: Here, op: &MetaOp, unseen: &[Ino]) -> Result<Applied, KvError> {
    let (steps, reply) = match plan(state, here.places, op, here.time)? {
        Plan::Answer(reply) => {
            let blocked = super::intent::blocks_answer(state, op, &reply)?;
            return blocked.map_or_else(|| done(reply), |txn| Ok(Applied::Blocked(txn)));
        }
        Plan::Against(against) => {
            let blocked = super::intent::blocks_failure(state, here.places, op)?;
            let refused = || Applied::Answer(txn::refused(against));
            return Ok(blocked.map_or_else(refused, Applied::Blocked));
        }
        Plan::Steps {
            steps,
            reply,
            ancestors_unseen,
        } => {
            let all_here = steps.iter().all(|step| here.places.covers(step.places()));
            if !all_here || ancestors_unseen {
                return Ok(Applied::Distributed(steps));
            }
            let seen = touch::seen(&steps, unseen);
            if !seen.is_empty() && !cfg!(planted = "view_unchecked_at_apply") {
                return Ok(Applied::Seen(seen));
            }
            (steps, reply)
        }
    };
    let applied = txn::in_one_entry(state, here, &steps, reply)?;
    // A link's answer shows the inode, when it is here.
    if let (MetaOp::Link { target, .. }, Applied::Answer(Answer::Meta(Ok(_)))) = (op, &applied) {
        let inode = inode::expect(state, target.ino)?;
        let attr = inode::attr(state, here.places, target.ino, &inode)?;
        return done(MetaReply::Inode { attr, grant: None });
    }
    Ok(applied)
}

/// An operation on an inode that no transaction is in the way of.
fn on_inode(
    state: &mut dyn Kv,
    ino: Ino,
    operate: impl FnOnce(&mut dyn Kv) -> Result<Answer, KvError>,
) -> Result<Applied, KvError> {
    if let Some(txn) = super::intent::blocks_inode(state, ino, &[])? {
        return Ok(Applied::Blocked(txn));
    }
    Ok(Applied::Answer(operate(state)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Fence, GroupId, Renewal};
    use crate::region::leader::port::{Asker, Input, Output};
    use crate::region::leader::{Config, Leader};
    use crate::region::mem::MemKv;
    use crate::request::{Aside, ChunkName, Header, Request, RequestBody};
    use crate::time::{Now, Timestamp};

    const HERE: Epoch = Epoch(2);
    const EARLIER: Epoch = Epoch(1);

    fn region() -> MemKv {
        let mut state = MemKv::default();
        let descriptor = Descriptor {
            space: Space::Data,
            places: Places::ALL,
            epoch: HERE,
        };
        crate::region::found(&mut state, &descriptor, None).expect("memory");
        state
    }

    fn write() -> DataOp {
        let chunk = ChunkName {
            ino: Ino(7),
            version: 1,
            number: 0,
        };
        DataOp::Write {
            chunk,
            fence: Fence(0),
            offset: 0,
        }
    }

    fn applied(epoch: Epoch) -> Answer {
        let command = Command {
            epoch,
            session: SessionId(1),
            renewal: Renewal(1),
            slot: None,
            time: Timestamp::default(),
            unseen: Vec::new(),
            body: CommandBody::Data(write()),
        };
        let payload = Bytes::from_static(b"late");
        let applied = apply(&mut region(), &command, &payload).expect("memory");
        let Applied::Answer(answer) = applied else {
            panic!("a data operation is answered, not {applied:?}");
        };
        answer
    }

    /// P5: what was accepted under another epoch may concern places that are somebody else's by now.
    #[test]
    fn an_entry_of_an_earlier_epoch_changes_nothing() {
        assert!(matches!(applied(HERE), Answer::Data(Ok(_))));
        let refused = Answer::Refused(Refusal::Epoch {
            epoch: HERE,
            places: Places::ALL,
        });
        assert_eq!(applied(EARLIER), refused);
    }

    #[test]
    fn a_request_of_an_earlier_epoch_is_not_even_proposed() {
        let state = region();
        let config = Config {
            group: GroupId(1),
            term: 1,
            requests_max: 9,
        };
        let now = Now::default();
        let mut leader = Leader::new(config, 1, now, &state).expect("memory");
        let header = Header {
            group: GroupId(1),
            epoch: EARLIER,
            session: SessionId(1),
            renewal: Renewal(1),
            slot: None,
            seen: Timestamp::default(),
            aside: Aside::default(),
        };
        let body = RequestBody::DataOp(write());
        let input = Input::Request {
            asker: Asker(1),
            request: Request { header, body },
            payload: Bytes::new(),
        };
        leader.handle_input(now, &state, input).expect("memory");
        let refused = |output: &Output| {
            matches!(output, Output::Answer { answer, .. }
                if matches!(answer, Answer::Refused(Refusal::Epoch { .. })))
        };
        assert!(leader.poll_output().as_ref().is_some_and(refused));
    }
}
