//! One entry of a region's log (P5).
//!
//! Owns the checks that every entry passes again when it is applied, and the way to what it does.

use alloc::vec::Vec;
use bytes::Bytes;

use super::command::{Applied, Command, CommandBody, Descriptor};
use super::kv::{Kv, KvError, KvRead};
use super::plan::{About, Plan, plan};
use super::{clock, content, data, inode, orphan, record, runs, session, slot, step};
use crate::error::FsError;
use crate::place::{Ino, Place, Places};
use crate::request::{Answer, MetaOp, MetaReply, Refusal, Space};
use crate::txn::Step;

/// Applies one entry. What an entry may not do is an answer, and changes nothing.
///
/// Rename, attributes, extended attributes, locks and transactions are answered `Refusal::Unavailable`.
///
/// # Errors
/// Only when the state can't be read or written: the replica stops.
pub fn apply(state: &mut dyn Kv, command: &Command, payload: &Bytes) -> Result<Applied, KvError> {
    let here = record::descriptor(state)?;
    if let Some(refusal) = refused(state, &here, command)? {
        return Ok(Applied::Answer(Answer::Refused(refusal)));
    }
    match (&command.body, here.space) {
        (CommandBody::Meta(op), Space::Meta) => meta(state, here.places, command, op),
        (CommandBody::Data(op), Space::Data) => {
            let answer = data::apply(state, here.places, command.time, op, payload)?;
            Ok(Applied::Answer(answer))
        }
        (CommandBody::Meta(_), Space::Data) | (CommandBody::Data(_), Space::Meta) => {
            Ok(Applied::Answer(Answer::Refused(Refusal::NoRegion)))
        }
        (
            CommandBody::Begin { .. }
            | CommandBody::Prepare { .. }
            | CommandBody::Decide { .. }
            | CommandBody::Finish { .. }
            | CommandBody::Forget { .. },
            Space::Meta | Space::Data,
        ) => Ok(unbuilt("transactions across regions")),
    }
}

fn unbuilt(what: &str) -> Applied {
    let why = alloc::format!("{what} are not supported by this version");
    Applied::Answer(Answer::Refused(Refusal::Unavailable(why)))
}

fn refused(
    state: &dyn KvRead,
    here: &Descriptor,
    command: &Command,
) -> Result<Option<Refusal>, KvError> {
    let other = Refusal::Epoch {
        epoch: here.epoch,
        places: here.places,
    };
    if command.epoch != here.epoch && !cfg!(planted = "epoch_unchecked_at_apply") {
        return Ok(Some(other));
    }
    if let CommandBody::Meta(op) = &command.body
        && !matches!(op, MetaOp::AdmitSession { .. } | MetaOp::EndSession { .. })
        && !here.places.contains(op.first_place())
    {
        return Ok(Some(other));
    }
    Ok(session::ended(state, command.session)?.then_some(Refusal::SessionEnded))
}

fn meta(
    state: &mut dyn Kv,
    places: Places,
    command: &Command,
    op: &MetaOp,
) -> Result<Applied, KvError> {
    if let Some(slot) = command.slot
        && let Some(answer) = slot::earlier(state, command.session, slot)?
    {
        return Ok(Applied::Answer(answer));
    }
    session::see(state, command.session)?;
    let applied = match plan(state, places, op)? {
        Plan::None => on_inode(state, places, command, op)?,
        Plan::Error(error) => Applied::Answer(Answer::Meta(Err(error))),
        Plan::Answer(reply) => Applied::Answer(Answer::Meta(Ok(reply))),
        Plan::Steps(steps, about) => carry_out(state, places, command, steps, &about)?,
    };
    if let (Some(slot), Applied::Answer(answer)) = (command.slot, &applied)
        && !session::ended(state, command.session)?
    {
        slot::remember(state, command.session, slot, answer)?;
    }
    Ok(applied)
}

/// All steps in this one entry, or none of them.
fn carry_out(
    state: &mut dyn Kv,
    places: Places,
    command: &Command,
    steps: Vec<Step>,
    about: &About,
) -> Result<Applied, KvError> {
    if !steps.iter().all(|step| places.covers(step.places())) {
        return Ok(Applied::Distributed(steps));
    }
    for step in &steps {
        if let Some(error) = step::check(state, places, step)? {
            return Ok(Applied::Answer(Answer::Meta(Err(error))));
        }
    }
    let stamp = clock::stamp(state, command.time)?;
    for step in &steps {
        step::effect(state, places, step, stamp)?;
    }
    let attr = |state: &dyn KvRead, ino: Ino| {
        inode::attr(state, places, ino)?
            .ok_or_else(|| KvError::Corrupt("an inode just changed is gone".into()))
    };
    let reply = match about {
        About::Made(ino) => MetaReply::Made {
            attr: attr(state, *ino)?,
            existed: false,
            grant: None,
        },
        About::Linked(ino) => MetaReply::Inode {
            attr: attr(state, *ino)?,
            grant: None,
        },
        About::Nothing => MetaReply::Done,
    };
    Ok(Applied::Answer(Answer::Meta(Ok(reply))))
}

fn on_inode(
    state: &mut dyn Kv,
    places: Places,
    command: &Command,
    op: &MetaOp,
) -> Result<Applied, KvError> {
    let answer = match op {
        MetaOp::Reserve { buckets } => {
            let mut inos = Vec::new();
            for bucket in buckets {
                if !places.covers(bucket.places()) {
                    return Ok(Applied::Answer(Answer::Meta(Err(FsError::Invalid))));
                }
                match inode::next_number(state, *bucket)? {
                    Some(number) => inos.push(Ino::new(Place::new(*bucket, 0), number)),
                    None => return Ok(Applied::Answer(Answer::Meta(Err(FsError::NoSpace)))),
                }
            }
            Answer::Meta(Ok(MetaReply::Reserved(inos)))
        }
        MetaOp::Content { ino, fence, change } => {
            content::apply(state, command.time, *ino, *fence, change)?
        }
        MetaOp::NotOpen { inos } => {
            for ino in inos {
                orphan::strike(state, *ino, command.session)?;
            }
            Answer::Meta(Ok(MetaReply::Done))
        }
        MetaOp::Reclaimed { chunks } => {
            for name in chunks {
                runs::reclaimed(state, name)?;
            }
            Answer::Meta(Ok(MetaReply::Done))
        }
        MetaOp::AdmitSession { session } => {
            if session::ended(state, *session)? {
                Answer::Refused(Refusal::SessionEnded)
            } else {
                session::admit(state, *session)?;
                Answer::Meta(Ok(MetaReply::Done))
            }
        }
        MetaOp::EndSession { session } => {
            session::end(state, *session)?;
            Answer::Meta(Ok(MetaReply::Done))
        }
        MetaOp::Rename { .. } => return Ok(unbuilt("renames")),
        MetaOp::SetAttr { .. } => return Ok(unbuilt("changes of attributes")),
        MetaOp::SetXattr { .. } | MetaOp::RemoveXattr { .. } => {
            return Ok(unbuilt("extended attributes"));
        }
        MetaOp::SetLock { .. } | MetaOp::Unlock { .. } => return Ok(unbuilt("locks")),
        MetaOp::Takeover { .. } => return Ok(unbuilt("takeovers")),
        MetaOp::Make { .. }
        | MetaOp::Unlink { .. }
        | MetaOp::RemoveDir { .. }
        | MetaOp::Link { .. } => unreachable!("operations on names were planned"),
    };
    Ok(Applied::Answer(answer))
}
