//! What a coordinator remembers of a transaction, and what can be told from that alone (P7).
//!
//! Owns no order: which phase follows which is `coordinate`'s.

use alloc::vec::Vec;

use super::port::Asker;
use crate::attr::FileKind;
use crate::limits::INTENT_LIFE;
use crate::place::Ino;
use crate::region::command::TxnFailure;
use crate::request::{Header, MetaOp};
use crate::time::{Instant, Now};
use crate::txn::{Decision, Step, TxnId};

/// A transaction this leader coordinates.
#[derive(Debug)]
pub(super) struct Txn {
    /// Who waits for the outcome; nobody after the answer, or after a change of leader.
    pub(super) asker: Option<Asker>,
    pub(super) header: Header,
    /// None when taken over from an earlier leader: then it can only be aborted or finished.
    pub(super) op: Option<MetaOp>,
    /// Steps that other regions take part in.
    pub(super) remote: Vec<Step>,
    /// Directories on the move, each with the ancestor of its new home that is to be looked at next.
    pub(super) walks: Vec<(Ino, Ino)>,
    /// Participants that have not answered yet.
    pub(super) pending: usize,
    /// Some participant could not be told of the decision.
    pub(super) untold: bool,
    pub(super) failure: Option<TxnFailure>,
    /// What was decided; participants that have not confirmed are told again.
    pub(super) decision: Option<Decision>,
    pub(super) attempts: u32,
    /// When to go on after a pause.
    pub(super) resume_at: Option<Instant>,
}

/// What a transaction's outstanding token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Begin,
    Lock,
    Walk,
    Prepare,
    Decide,
    Finish,
    Forget,
}

impl Txn {
    pub(super) fn new(asker: Option<Asker>, header: Header, op: Option<MetaOp>) -> Self {
        Self {
            asker,
            header,
            op,
            remote: Vec::new(),
            walks: Vec::new(),
            pending: 0,
            untold: false,
            failure: None,
            decision: None,
            attempts: 0,
            resume_at: None,
        }
    }
}

/// Of two failures the one that tells more about the others: an error that one participant found counts only when no
/// other says that what it was asked about is not so, or may not be.
pub(super) fn likelier(one: Option<TxnFailure>, other: Option<TxnFailure>) -> Option<TxnFailure> {
    let rank = |failure: &Option<TxnFailure>| match failure {
        None => 0,
        Some(TxnFailure::Error(_)) => 1,
        Some(TxnFailure::Conflict) => 2,
        Some(TxnFailure::Changed) => 3,
    };
    if rank(&other) > rank(&one) {
        other
    } else {
        one
    }
}

pub(super) fn is_lock(step: &Step) -> bool {
    matches!(step, Step::RenameLock { .. })
}

pub(super) fn is_old(now: Now, txn: &TxnId) -> bool {
    now.wall > txn.began + INTENT_LIFE
}

/// The directories that an operation moves, each with its new home: nothing may move below itself.
pub(super) fn walks(op: &MetaOp) -> Vec<(Ino, Ino)> {
    let MetaOp::Rename {
        dir,
        to_dir,
        source,
        target,
        mode,
        ..
    } = op
    else {
        return Vec::new();
    };
    if dir == to_dir {
        return Vec::new();
    }
    let mut walks = Vec::new();
    if source.kind == FileKind::Directory {
        walks.push((source.ino, *to_dir));
    }
    if let (crate::vfs::RenameMode::Exchange, Some(target)) = (mode, target)
        && target.kind == FileKind::Directory
    {
        walks.push((target.ino, *dir));
    }
    walks
}
