//! What a region's log carries: an operation together with everything it was accepted under.
//!
//! Owns the format of log entries of meta and data regions. Whatever is not state travels here: time, random numbers,
//! and what the request claimed, so that apply can check it again (P5).

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::error::FsError;
use crate::ids::{Epoch, Renewal, SessionId};
use crate::locks::Delegation;
use crate::place::{Ino, Places};
use crate::request::{Answer, DataOp, MetaOp, SlotUse, Space};
use crate::time::Timestamp;
use crate::txn::{Decision, Step, TxnId};

/// One entry of a region's log. Bulk bytes (a write's payload) travel beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The epoch it was accepted under: a region that has another by now changes nothing and answers a redirect.
    pub epoch: Epoch,
    /// Who asked.
    pub session: SessionId,
    /// The session's renewal number at that time.
    pub renewal: Renewal,
    /// What makes it happen once.
    pub slot: Option<SlotUse>,
    /// The leader's wall clock when it proposed this, or the highest time the mount had seen if that is later and at
    /// most a second ahead (P9).
    pub time: Timestamp,
    /// Of an operation on names: the inodes of which nobody else has a view that could show what was (P8). An entry that
    /// would change others changes nothing.
    pub unseen: Vec<Ino>,
    /// What to do.
    pub body: CommandBody,
}

/// What an entry does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are explained at each")]
pub enum CommandBody {
    /// An operation of a client on a meta region.
    Meta(MetaOp),
    /// An operation of a client on a data region.
    Data(DataOp),
    /// The coordinator's record and its own region's intents.
    Begin { txn: TxnId, op: MetaOp },
    /// A participant's intents.
    Prepare { txn: TxnId, steps: Vec<Step> },
    /// The coordinator's decision, its own intents' end, and the client's answer. Aborts carry why.
    Decide {
        txn: TxnId,
        decision: Decision,
        failure: Option<TxnFailure>,
    },
    /// A participant carries out or drops its intents in these places.
    Finish {
        txn: TxnId,
        decision: Decision,
        places: Places,
    },
    /// Every participant has confirmed: the coordinator's record goes.
    Forget { txn: TxnId },
}

/// Why a transaction was aborted, as far as the client is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnFailure {
    /// A precondition fails: the client's final answer.
    Error(FsError),
    /// What the client had seen has changed: it looks again.
    Changed,
    /// Another transaction was in the way: the coordinator tries again after a pause. Not remembered in the slot.
    Conflict,
}

/// What applying an entry yields; only the replica that leads and was asked looks at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The answer to the request.
    Answer(Answer),
    /// The operation needs other regions: nothing was changed; the leader begins a transaction.
    Distributed(Vec<Step>),
    /// A transaction's intent is in the way: nothing was changed; the leader asks what became of it.
    Blocked(TxnId),
    /// It would change these inodes, of which somebody may have a view: nothing was changed; the leader recalls those.
    Seen(Vec<Ino>),
    /// The inode's locks are another mount's to give: nothing was changed; the leader recalls them.
    Delegated(Ino, Delegation),
    /// A transaction entry was applied; with what the coordinator's record says, when there is one.
    Txn(crate::txn::TxnReply),
}

/// What a region is, replicated with its state: apply checks every entry against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Which key space.
    pub space: Space,
    /// What it holds.
    pub places: Places,
    /// Raised by each split.
    pub epoch: Epoch,
}
