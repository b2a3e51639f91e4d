//! Operations across regions: steps, and what nodes say to each other about them (P7).
//!
//! Owns the vocabulary of two-phase commit: an operation that changes keys of several regions is a list of [`Step`]s,
//! each with the place of its key, a precondition and an effect. When all its places lie in one region the steps are
//! carried out by one log entry; else the region of the operation's first key coordinates. How steps are checked and
//! carried out is `region`'s business.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::attr::{FileKind, Name, NewInode};
use crate::error::FsError;
use crate::ids::{SessionId, VolumeId};
use crate::place::{Ino, NameHash, Place, Places, Salt};
use crate::request::{MetaReply, SlotUse};
use crate::time::Timestamp;

/// A transaction's name: the operation that it carries out, and the place of its first key, where its record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxnId {
    /// Who asked for the operation.
    pub session: SessionId,
    /// Under which slot and sequence.
    pub slot: SlotUse,
    /// Where the coordinator's record is kept.
    pub place: Place,
    /// When this attempt began, by the coordinator's wall clock, later than any earlier attempt there: late messages of
    /// those can't be taken for this one's.
    pub began: Timestamp,
}

/// One change of one key, with its precondition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are explained at each")]
pub enum Step {
    /// A new entry. The directory's fragment is alive and the name is free.
    Insert {
        dir: Ino,
        salt: Salt,
        name: Name,
        child: Ino,
        kind: FileKind,
    },
    /// An entry goes. It names `child`.
    Remove {
        dir: Ino,
        salt: Salt,
        name: Name,
        child: Ino,
    },
    /// An entry names another inode. It names `old`.
    Replace {
        dir: Ino,
        salt: Salt,
        name: Name,
        old: Ino,
        child: Ino,
        kind: FileKind,
    },
    /// A new inode, with nlink 1 (a directory: 2) and, of a directory, its fragment and salt.
    Create {
        ino: Ino,
        new: NewInode,
        salt: Salt,
        parent: Ino,
        volume: VolumeId,
    },
    /// An inode that is no directory gains a name. It exists and has fewer than the most links.
    AddLink { ino: Ino },
    /// An inode that is no directory loses a name; with the last one it becomes an orphan.
    DropLink { ino: Ino },
    /// A directory's number of subdirectories changes by `delta`.
    Subdirs { dir: Ino, delta: i32 },
    /// An inode was renamed (ctime); a directory got the parent `parent` when it is given.
    Moved { ino: Ino, parent: Option<Ino> },
    /// A directory's fragments die: no entry and no intent to make one. Covers all places of its bucket.
    Kill { dir: Ino },
    /// The directory's own inode goes, with its last fragment.
    DropDir { dir: Ino },
    /// The volume's rename lock: nobody else changes a directory's parent meanwhile.
    RenameLock { volume: VolumeId },
}

impl Step {
    /// The places whose regions take part in the step: one place, but for [`Step::Kill`] a whole bucket.
    #[must_use]
    pub fn places(&self) -> Places {
        let place = match self {
            Self::Insert {
                dir, salt, name, ..
            }
            | Self::Remove {
                dir, salt, name, ..
            }
            | Self::Replace {
                dir, salt, name, ..
            } => NameHash::of(*salt, name).place(*dir),
            Self::Create { ino, .. }
            | Self::AddLink { ino }
            | Self::DropLink { ino }
            | Self::Moved { ino, .. } => ino.place(),
            Self::Subdirs { dir, .. } | Self::DropDir { dir } => dir.place(),
            Self::RenameLock { volume } => rename_lock_place(*volume),
            Self::Kill { dir } => return dir.bucket().places(),
        };
        Places {
            start: place.0,
            end: place.0 + 1,
        }
    }
}

/// Where a volume's rename lock is kept.
#[must_use]
pub fn rename_lock_place(volume: VolumeId) -> Place {
    crate::place::data_place(Ino(u64::from(volume.0)), 0)
}

impl TxnId {
    /// A name that no transaction has.
    #[must_use]
    pub const fn nobody() -> Self {
        Self {
            session: SessionId::CLUSTER,
            slot: SlotUse {
                slot: 0,
                sequence: 0,
            },
            place: Place(0),
            began: Timestamp {
                seconds: 0,
                nanos: 0,
            },
        }
    }
}

/// What nodes ask of a region about a transaction; each is idempotent and needs no slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are explained at each")]
pub enum TxnRequest {
    /// Check these steps' preconditions and leave intents on their keys.
    Prepare { txn: TxnId, steps: Vec<Step> },
    /// It was decided: carry the intents out, or take them away.
    Finish {
        txn: TxnId,
        decision: Decision,
        places: Places,
    },
    /// What became of it? Asked of the coordinator by whoever meets an intent. `abort_if_old` asks it to abort one
    /// that is older than `limits::INTENT_LIFE`.
    Outcome { txn: TxnId, abort_if_old: bool },
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Decision {
    /// All of it, at this time.
    Commit(Timestamp),
    /// Nothing of it.
    Abort,
}

/// What a region answers about a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnReply {
    /// Prepared: the intents are there.
    Prepared,
    /// A precondition does not hold: the operation fails with this.
    Failed(FsError),
    /// What the client had seen is no longer so.
    Changed,
    /// Another transaction's intent is in the way.
    Conflict(TxnId),
    /// Finished (or was already).
    Finished,
    /// Not yet decided.
    Undecided,
    /// Decided; an unknown transaction is finished or never was: abort.
    Decided(Decision),
}

/// The coordinator's record of a transaction, kept until every participant has confirmed a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnRecord {
    /// Its full name: an earlier attempt at the same operation had another.
    pub txn: TxnId,
    /// All steps, this region's own among them.
    pub steps: Vec<Step>,
    /// What the client is answered after a commit.
    pub reply: MetaReply,
    /// None while pending.
    pub decision: Option<Decision>,
}
