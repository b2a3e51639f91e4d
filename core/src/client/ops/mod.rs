//! The calls that don't touch a file's content: each a small machine that is told what came and says what it asks next.
//!
//! Owns what the machines and their runner say to each other. A machine knows no region, node, message or time.

mod directory;
mod locks;
mod rename;
mod run;
mod single;

use crate::attr::Attr;
use crate::error::FsError;
use crate::place::{Ino, Place, Places};
use crate::request::{Answer, Grant, MetaReply, Refusal, RequestBody};
use crate::time::Instant;
use crate::vfs::{FsStats, Outcome};

use super::caches::Caches;
use super::delegations::Delegations;
use super::regions::RegionMap;
use super::rng::Rng;

pub(super) use directory::{Make, ReadDir};
pub(super) use locks::LockCall;
pub(super) use rename::Rename;
pub(super) use run::{Tasks, Then};
pub(super) use single::{Link, Lookup, Single, Stats};

/// A running machine's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId(pub(super) u64);

/// What came.
#[derive(Clone, Debug)]
pub(super) enum Got {
    /// Nothing yet; or the salt that was wanted is known now.
    Start,
    /// A region's answer.
    Meta(Result<MetaReply, FsError>),
    /// What was seen has changed: look again.
    Changed,
    /// The master's answer about space.
    Stats(FsStats),
    /// The pause is over.
    Woken,
}

/// What a machine wants.
#[derive(Debug)]
pub(super) enum Next {
    /// Ask the region of its first key.
    Ask(RequestBody),
    /// Ask the region of this place.
    AskAt(Place, RequestBody),
    /// Learn a directory's salt, then start again.
    Salt(Ino),
    /// Wait that long.
    Sleep(core::time::Duration),
    /// Go on when the file's locks are back in their region, or a wish for them is over.
    AwaitLocks(Ino),
    /// Give back the file's locks, that are delegated to this mount, and go on then.
    ReturnLocks(Ino),
    /// Give back what a region says is delegated to this mount under this number, and go on then.
    RefuseLocks(Ino, u64),
    /// Ask the master about space.
    Stats,
    /// It is over.
    Done(Outcome),
    /// It is over: a file is to be opened.
    Opened {
        /// The inode.
        attr: Attr,
        /// Its lease, if it came along.
        grant: Option<Grant>,
        /// It was made or opened by a create.
        created: Option<bool>,
    },
}

impl Next {
    pub(super) const fn fail(error: FsError) -> Self {
        Self::Done(Err(error))
    }
}

/// What a machine may look at.
pub(super) struct View<'a> {
    pub(super) caches: &'a mut Caches,
    pub(super) rng: &'a mut Rng,
    pub(super) regions: &'a RegionMap,
    pub(super) delegations: &'a mut Delegations,
    /// The session can't have been ended by now.
    pub(super) good: bool,
    /// What the region held that answered last.
    pub(super) answered: Option<Places>,
}

/// A call's machine.
pub(super) trait Op: core::fmt::Debug + Send {
    /// Takes what came, says what next.
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next;
    /// The caller has gone. `Some` ends the call at once when it is only waiting.
    fn cancel(&mut self, _waiting: bool) -> Option<Next> {
        None
    }
}

/// Turns an answer into what came.
pub(super) fn got_of(answer: Answer) -> Got {
    match answer {
        Answer::Meta(result) => Got::Meta(result),
        Answer::Refused(Refusal::Changed) => Got::Changed,
        Answer::Data(_) | Answer::Txn(_) | Answer::Refused(_) | Answer::Viewed(..) => {
            Got::Meta(Err(FsError::Io))
        }
    }
}

/// When a task's pause is over.
pub(super) type WakeAt = Instant;
