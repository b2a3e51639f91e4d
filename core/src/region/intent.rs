//! Intents: what a transaction that is not finished has announced to change (P7).
//!
//! Owns where intents are kept and which are in whose way. What becomes of them is `txn`'s business.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead, Pair};
use crate::place::{Ino, NameHash, Places, Salt};
use crate::request::{MetaOp, MetaReply};
use crate::time::Timestamp;
use crate::txn::{Step, TxnId};

/// A stored intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) txn: TxnId,
    pub(super) step: Step,
}

/// The key that a step's intent guards, in a region that holds `places`.
fn guarded(step: &Step, places: Places, txn: &TxnId) -> Vec<u8> {
    match step {
        Step::Insert {
            dir, salt, name, ..
        }
        | Step::Remove {
            dir, salt, name, ..
        }
        | Step::Replace {
            dir, salt, name, ..
        } => name_key(*dir, *salt, name),
        Step::Create { ino, .. }
        | Step::AddLink { ino }
        | Step::DropLink { ino }
        | Step::Moved { ino, .. } => key::of_inode(Kind::Inode, *ino),
        Step::DropDir { dir } => key::of_inode(Kind::Inode, *dir),
        Step::Kill { dir } => key::fragment(*dir, places),
        Step::RenameLock { volume } => {
            let place = crate::txn::rename_lock_place(*volume);
            key::of_inode(Kind::Locks, Ino::new(place, 0))
        }
        // Counting goes together with counting: each slot has an intent of its own.
        Step::Subdirs { dir, .. } => {
            let mut guarded = key::of_inode(Kind::Inode, *dir);
            guarded.extend_from_slice(&txn.session.0.to_be_bytes());
            guarded.push(txn.slot.slot);
            guarded
        }
    }
}

fn name_key(dir: Ino, salt: Salt, name: &[u8]) -> Vec<u8> {
    let mut guarded = key::entry(dir, NameHash::of(salt, name).cookie(0));
    guarded.extend_from_slice(name);
    guarded
}

fn decode(pairs: Vec<Pair>) -> Result<Vec<(Vec<u8>, Intent)>, KvError> {
    let mut intents = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let intent = crate::codec::decode_versioned("intent", super::VERSION, &value)?;
        intents.push((key, intent));
    }
    Ok(intents)
}

/// The intents on an inode itself.
fn on_inode(state: &dyn KvRead, ino: Ino) -> Result<Vec<Intent>, KvError> {
    let guarded = key::of_inode(Kind::Inode, ino);
    let mut prefix = key::intent(&guarded);
    prefix.pop();
    let (from, to) = key::prefix(&prefix);
    let all = decode(state.scan(&from, &to, usize::MAX)?)?;
    let of_inode = |key: &[u8]| key.last() == Some(&(Kind::Inode as u8));
    Ok(all
        .into_iter()
        .filter(|(key, _)| of_inode(key))
        .map(|(_, intent)| intent)
        .collect())
}

/// The intents on names of a directory in these places.
fn on_names(state: &dyn KvRead, places: Places, dir: Ino) -> Result<Vec<Intent>, KvError> {
    let Some(here) = places.overlap(dir.bucket().places()) else {
        return Ok(Vec::new());
    };
    let (from, to) = key::kind_in(Kind::Intent, here);
    let all = decode(state.scan(&from, &to, usize::MAX)?)?;
    let names =
        |key: &[u8]| key.last() == Some(&(Kind::Entry as u8)) && key::number(key, 0) == Some(dir.0);
    Ok(all
        .into_iter()
        .filter(|(key, _)| names(key))
        .map(|(_, intent)| intent)
        .collect())
}

fn exactly(state: &dyn KvRead, guarded: &[u8]) -> Result<Option<Intent>, KvError> {
    super::read(state, "intent", &key::intent(guarded))
}

/// Whose intent is in the way of reading an inode.
///
/// `past` are transactions that are not.
pub(super) fn blocks_inode(
    state: &dyn KvRead,
    ino: Ino,
    past: &[TxnId],
) -> Result<Option<TxnId>, KvError> {
    Ok(first_but(&on_inode(state, ino)?, past))
}

fn first_but(intents: &[Intent], past: &[TxnId]) -> Option<TxnId> {
    let mut names = intents.iter().map(|intent| intent.txn);
    names.find(|txn| !past.contains(txn))
}

/// Whose intent is in the way of reading a name.
pub(super) fn blocks_name(
    state: &dyn KvRead,
    dir: Ino,
    salt: Salt,
    name: &[u8],
    past: &[TxnId],
) -> Result<Option<TxnId>, KvError> {
    let intent = exactly(state, &name_key(dir, salt, name))?;
    Ok(intent
        .map(|intent| intent.txn)
        .filter(|txn| !past.contains(txn)))
}

/// Whose intent is in the way of listing a directory.
pub(super) fn blocks_listing(
    state: &dyn KvRead,
    places: Places,
    dir: Ino,
    past: &[TxnId],
) -> Result<Option<TxnId>, KvError> {
    Ok(first_but(&on_names(state, places, dir)?, past))
}

/// Whose intent is in the way of answering an operation on names that changes nothing, because of what its names say:
/// they may be committed to say something else already (P7).
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a broken law, whatever else it is"
)]
pub(super) fn blocks_answer(
    state: &dyn KvRead,
    op: &MetaOp,
    reply: &MetaReply,
) -> Result<Option<TxnId>, KvError> {
    let found = match op {
        MetaOp::Make {
            dir, salt, name, ..
        } => blocks_name(state, *dir, *salt, name, &[])?,
        MetaOp::Rename {
            dir,
            salt,
            name,
            to_dir,
            to_salt,
            to_name,
            ..
        } => match blocks_name(state, *dir, *salt, name, &[])? {
            None => blocks_name(state, *to_dir, *to_salt, to_name, &[])?,
            found @ Some(_) => found,
        },
        other => panic!("only a make or a rename has nothing to do, not {other:?}"),
    };
    match (found, reply) {
        (None, MetaReply::Made { attr, .. }) => blocks_inode(state, attr.ino, &[]),
        (found, _) => Ok(found),
    }
}

/// Whose intent is in the way of saying that an operation on names fails: what it found missing or there may be
/// committed otherwise already (P7).
pub(super) fn blocks_failure(
    state: &dyn KvRead,
    places: Places,
    op: &MetaOp,
) -> Result<Option<TxnId>, KvError> {
    let dirs = match op {
        MetaOp::Rename { dir, to_dir, .. } => [Some(*dir), Some(*to_dir)],
        MetaOp::Make { dir, .. }
        | MetaOp::Unlink { dir, .. }
        | MetaOp::RemoveDir { dir, .. }
        | MetaOp::Link { dir, .. } => [Some(*dir), None],
        MetaOp::Reserve { .. }
        | MetaOp::SetAttr { .. }
        | MetaOp::SetXattr { .. }
        | MetaOp::RemoveXattr { .. }
        | MetaOp::SetLock { .. }
        | MetaOp::Unlock { .. }
        | MetaOp::ReturnLocks { .. }
        | MetaOp::Content { .. }
        | MetaOp::NotOpen { .. }
        | MetaOp::Reclaimed { .. }
        | MetaOp::Takeover { .. }
        | MetaOp::AdmitSession { .. }
        | MetaOp::EndSession { .. } => [None, None],
    };
    for dir in dirs.into_iter().flatten() {
        if places.overlap(dir.bucket().places()).is_none() {
            continue;
        }
        let fragment = exactly(state, &key::fragment(dir, places))?.map(|intent| intent.txn);
        let found = match fragment {
            Some(txn) => Some(txn),
            None => blocks_listing(state, places, dir, &[])?.or(blocks_inode(state, dir, &[])?),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whose intent, other than `own`, is in the way of a step.
pub(super) fn blocks_step(
    state: &dyn KvRead,
    places: Places,
    step: &Step,
    own: Option<&TxnId>,
) -> Result<Option<TxnId>, KvError> {
    let foreign = |intent: &Intent| Some(&intent.txn) != own;
    let mut found: Vec<Intent> = Vec::new();
    match step {
        Step::Insert {
            dir, salt, name, ..
        }
        | Step::Remove {
            dir, salt, name, ..
        }
        | Step::Replace {
            dir, salt, name, ..
        } => {
            found.extend(exactly(state, &name_key(*dir, *salt, name))?);
            // A directory that is about to die takes no part in anything new.
            found.extend(exactly(state, &key::fragment(*dir, places))?);
            found.extend(making(state, *dir)?);
        }
        Step::Kill { dir } => {
            found.extend(exactly(state, &key::fragment(*dir, places))?);
            found.extend(making(state, *dir)?);
            found.extend(on_names(state, places, *dir)?);
        }
        Step::Subdirs { dir, .. } => {
            let all = on_inode(state, *dir)?;
            found.extend(
                all.into_iter()
                    .filter(|held| !matches!(held.step, Step::Subdirs { .. })),
            );
            // One of this slot that is answered but not finished here stands under the very key of this one.
            if let Some(own) = own {
                found.extend(exactly(state, &guarded(step, places, own))?);
            }
        }
        Step::Create { ino, .. }
        | Step::AddLink { ino }
        | Step::DropLink { ino }
        | Step::Moved { ino, .. }
        | Step::DropDir { dir: ino } => {
            let all = on_inode(state, *ino)?;
            let counting = |held: &Intent| {
                matches!(held.step, Step::Subdirs { .. }) && matches!(step, Step::Moved { .. })
            };
            found.extend(all.into_iter().filter(|held| !counting(held)));
        }
        Step::RenameLock { .. } => {
            let anybody = TxnId::nobody();
            found.extend(exactly(state, &guarded(step, places, &anybody))?);
        }
    }
    Ok(found.into_iter().find(foreign).map(|intent| intent.txn))
}

/// The intent to make a directory: its names can't be called missing while that may be committed already.
fn making(state: &dyn KvRead, dir: Ino) -> Result<Option<Intent>, KvError> {
    let all = on_inode(state, dir)?;
    Ok(all
        .into_iter()
        .find(|held| matches!(held.step, Step::Create { .. })))
}

/// Leaves an intent.
pub(super) fn put(
    state: &mut dyn Kv,
    places: Places,
    txn: &TxnId,
    step: &Step,
) -> Result<(), KvError> {
    let key = key::intent(&guarded(step, places, txn));
    super::write(
        state,
        &key,
        &Intent {
            txn: *txn,
            step: step.clone(),
        },
    )
}

/// Transactions that began before `time` and have intents here, at most `limit`.
///
/// # Errors
/// As [`KvError`].
pub(super) fn older_than(
    state: &dyn KvRead,
    time: Timestamp,
    limit: usize,
) -> Result<BTreeSet<TxnId>, KvError> {
    let (from, to) = key::all_of(Kind::Intent);
    let intents = decode(state.scan(&from, &to, limit)?)?;
    let old = intents
        .into_iter()
        .map(|(_, intent)| intent.txn)
        .filter(|txn| txn.began < time);
    Ok(old.collect())
}

/// Takes a transaction's intents in `places` away and returns their steps, in the order of their keys.
pub(super) fn take(state: &mut dyn Kv, places: Places, txn: &TxnId) -> Result<Vec<Step>, KvError> {
    let (from, to) = key::kind_in(Kind::Intent, places);
    let mut steps = Vec::new();
    for (key, intent) in decode(state.scan(&from, &to, usize::MAX)?)? {
        if intent.txn == *txn {
            state.delete(&key)?;
            steps.push(intent.step);
        }
    }
    Ok(steps)
}
