//! Files whose locks are this mount's to give (P8): its calls on them ask nobody.
//!
//! Owns which they are, which are wished for, and which are on their way back. Who is in whose way is `locks`' business, a
//! call's course `ops::locks`'. Deliberately knows no lease: a delegation lasts as long as the session.
//!
//! ```text
//!  kept by the region ──wish granted──▶ held here ──recall, or the last close──▶ on its way back ──answered──▶ kept by the region
//!      └──────────recall of one that is not held: it never will be used─────────────▲
//! ```
//!
//! What is asked while a grant or a return is under way meets either; the region says which, and whatever it says that this
//! mount is to do was not done there. So such a call waits until that one is known, and begins again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Client;
use super::ops::{Got, Single, TaskId, Then};
use super::unmount::Unmount;
use crate::error::FsError;
use crate::limits::LOCK_CALLS_ASKED;
use crate::locks::{HeldLock, Locks};
use crate::place::Ino;
use crate::request::{Answer, MetaOp, MetaReply};
use crate::vfs::{LockOwner, Outcome};

/// A wish that is under way.
#[derive(Clone, Copy, Debug)]
struct Wish {
    number: u64,
    /// It is on its way back already, before it was heard that it came true.
    revoked: bool,
}

/// Where a file's locks are.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    There,
    Here {
        grant: u64,
        locks: Locks<LockOwner>,
    },
    Returning {
        grant: u64,
    },
}

#[derive(Debug, Default)]
struct File {
    /// Lock calls since it was opened.
    calls: u32,
    wish: Option<Wish>,
    stage: Stage,
    /// The last that was given back.
    returned: Option<u64>,
    /// Calls that wait until the stage is another one, or the wish is over.
    waiting: Vec<TaskId>,
}

/// All files whose locks this mount uses.
#[derive(Debug)]
pub(super) struct Delegations {
    files: BTreeMap<Ino, File>,
    /// Wishes so far, in all sessions.
    wishes: u64,
    /// From which call on it is wished for.
    calls_asked: u32,
}

/// Where a lock call goes.
#[derive(Debug)]
pub(super) enum Way<'a> {
    /// It is carried out here.
    Here(&'a mut Locks<LockOwner>),
    /// It begins again when what is under way is over.
    Waits,
    /// It is asked of the region.
    Asks,
}

/// What follows when the region says that it is this mount's to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    /// It is here, but the session is not certain.
    Uncertain,
    /// What this was said of has changed since: the call begins again.
    Again,
    /// It begins again when what is under way is over.
    Waits,
    /// Nobody here knows of that grant: it is given back as it was.
    Unknown,
}

impl Delegations {
    pub(super) const fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            wishes: 0,
            calls_asked: LOCK_CALLS_ASKED,
        }
    }

    /// Where a call goes; `good` when the session can't have been ended by now.
    pub(super) fn way(&mut self, ino: Ino, good: bool) -> Way<'_> {
        match self.files.get_mut(&ino).map(|file| &mut file.stage) {
            Some(Stage::Here { locks, .. }) if good || cfg!(planted = "locks_outlive_session") => {
                Way::Here(locks)
            }
            Some(Stage::Returning { .. }) => Way::Waits,
            Some(Stage::Here { .. } | Stage::There) | None => Way::Asks,
        }
    }

    /// What it means that a region leaves a call to the holder of this grant.
    pub(super) fn ours(&self, ino: Ino, number: u64) -> Ours {
        let Some(file) = self.files.get(&ino) else {
            return Ours::Unknown;
        };
        match (&file.stage, file.wish) {
            (Stage::Here { grant, .. }, _) if *grant == number => Ours::Uncertain,
            (Stage::Here { .. }, _) => Ours::Again,
            (Stage::Returning { .. }, _) => Ours::Waits,
            (Stage::There, _) if file.returned == Some(number) => Ours::Again,
            (Stage::There, Some(wish)) if wish.number == number => Ours::Waits,
            (Stage::There, _) => Ours::Unknown,
        }
    }

    /// The number of a wish that goes with a lock call on a file, if it is time for one: at most one is under way.
    pub(super) fn wish(&mut self, ino: Ino) -> Option<u64> {
        let asked = self.calls_asked;
        let file = self.files.get_mut(&ino)?;
        if file.calls < asked || file.wish.is_some() || !matches!(file.stage, Stage::There) {
            return None;
        }
        self.wishes += 1;
        file.wish = Some(Wish {
            number: self.wishes,
            revoked: false,
        });
        Some(self.wishes)
    }

    pub(super) fn wait(&mut self, ino: Ino, task: TaskId) {
        self.files.entry(ino).or_default().waiting.push(task);
    }

    /// What the file's locks are to be given back with, if they are here.
    fn take_back(&mut self, ino: Ino, recalled: bool) -> Option<MetaOp> {
        let file = self.files.get_mut(&ino)?;
        let Stage::Here { grant, locks } = &file.stage else {
            return None;
        };
        let (grant, locks) = (*grant, locks.iter().copied().collect());
        file.stage = Stage::Returning { grant };
        Some(return_of(ino, grant, Some(locks), recalled))
    }

    /// Nothing of it was ever used, nor will be.
    fn refuse(&mut self, ino: Ino, grant: u64) -> MetaOp {
        let file = self.files.entry(ino).or_default();
        if let Some(wish) = file.wish.as_mut().filter(|wish| wish.number == grant) {
            wish.revoked = true;
        }
        file.stage = Stage::Returning { grant };
        return_of(ino, grant, None, true)
    }

    fn take_waiting(&mut self, ino: Ino) -> Vec<TaskId> {
        let file = self.files.get_mut(&ino);
        file.map_or_else(Vec::new, |file| core::mem::take(&mut file.waiting))
    }

    /// A file that is not open and of which nothing is under way is forgotten.
    fn tidy(&mut self, ino: Ino) {
        let idle = |file: &File| {
            file.wish.is_none() && matches!(file.stage, Stage::There) && file.waiting.is_empty()
        };
        if self.files.get(&ino).is_some_and(idle) {
            self.files.remove(&ino);
        }
    }
}

const fn return_of(
    ino: Ino,
    grant: u64,
    locks: Option<Vec<HeldLock<LockOwner>>>,
    recalled: bool,
) -> MetaOp {
    MetaOp::ReturnLocks {
        ino,
        grant,
        locks,
        recalled,
    }
}

impl Client {
    /// From its so many-th lock call on an open file on this mount wishes to have that file's locks delegated;
    /// [`LOCK_CALLS_ASKED`] unless told.
    pub const fn delegate_locks_from(&mut self, call: u32) {
        self.delegations.calls_asked = call;
    }

    /// A lock call is made.
    pub(super) fn count_lock_call(&mut self, ino: Ino) {
        if self.has_open(ino) {
            self.delegations.files.entry(ino).or_default().calls += 1;
        }
    }

    /// A question that carried a wish has ended, whichever way.
    pub(super) fn wish_over(&mut self, ino: Ino, number: u64, answer: &Answer) {
        let Some(file) = self.delegations.files.get_mut(&ino) else {
            return;
        };
        let Some(wish) = file.wish.take_if(|wish| wish.number == number) else {
            return;
        };
        if let Answer::Meta(Ok(MetaReply::LocksGiven { grant, locks })) = answer
            && *grant == number
            && !wish.revoked
            && matches!(file.stage, Stage::There)
        {
            file.stage = Stage::Here {
                grant: number,
                locks: locks.clone().into(),
            };
        }
        self.wake_lock_calls(ino);
        if !self.has_open(ino) {
            self.last_closed(ino);
        }
    }

    /// A leader wants a file's locks back. What is not held here, and may be on its way, won't be used.
    pub(super) fn locks_recalled(&mut self, ino: Ino, number: u64) {
        let file = self.delegations.files.get(&ino);
        let op = match file.map(|file| &file.stage) {
            Some(Stage::Here { grant, .. }) if *grant == number => {
                self.delegations.take_back(ino, true)
            }
            // It comes again if it is about another one than that.
            Some(Stage::Here { .. } | Stage::Returning { .. }) => None,
            Some(Stage::There) if file.is_some_and(|file| file.returned == Some(number)) => None,
            Some(Stage::There) | None => Some(self.delegations.refuse(ino, number)),
        };
        if let Some(op) = op {
            self.return_locks(ino, number, op);
        }
    }

    /// A region leaves a call to the holder of a grant that is not known here: it is given back, and the call goes on then.
    pub(super) fn refuse_locks(&mut self, ino: Ino, number: u64) {
        let op = self.delegations.refuse(ino, number);
        self.return_locks(ino, number, op);
    }

    fn return_locks(&mut self, ino: Ino, grant: u64, op: MetaOp) {
        self.start(Then::Returned(ino, grant, op.clone()), Single::op(op));
    }

    /// A return has ended; one that failed is repeated, as long as there is a session that it is for.
    pub(super) fn locks_returned(&mut self, ino: Ino, grant: u64, op: MetaOp, outcome: &Outcome) {
        let file = self.delegations.files.get_mut(&ino);
        let Some(file) = file.filter(
            |file| matches!(file.stage, Stage::Returning { grant: returning } if returning == grant),
        ) else {
            return;
        };
        if outcome.is_ok() {
            file.stage = Stage::There;
            file.returned = Some(grant);
            self.wake_lock_calls(ino);
            if !self.has_open(ino) {
                self.delegations.tidy(ino);
            }
            return;
        }
        for task in self.delegations.take_waiting(ino) {
            self.step_waiting(task, Got::Meta(Err(FsError::Io)));
        }
        if matches!(self.unmount, Unmount::No) {
            self.return_locks(ino, grant, op);
        }
    }

    /// The file is open here no more: its locks go back, without anybody waiting for that.
    pub(super) fn last_closed(&mut self, ino: Ino) {
        let Some(file) = self.delegations.files.get_mut(&ino) else {
            return;
        };
        file.calls = 0;
        self.give_locks_back(ino);
        self.delegations.tidy(ino);
    }

    /// What is held here goes back, for this mount's own reasons.
    pub(super) fn give_locks_back(&mut self, ino: Ino) {
        let file = self.delegations.files.get(&ino);
        if let Some(Stage::Here { grant, .. }) = file.map(|file| &file.stage) {
            let grant = *grant;
            if let Some(op) = self.delegations.take_back(ino, false) {
                self.return_locks(ino, grant, op);
            }
        }
    }

    /// At unmount: all locks go back.
    pub(super) fn return_all_locks(&mut self) {
        let inos: Vec<Ino> = self.delegations.files.keys().copied().collect();
        for ino in inos {
            self.last_closed(ino);
        }
    }

    /// The session is over, and with it everything that was delegated to it. Those that waited begin again afterwards.
    pub(super) fn lose_delegations(&mut self) -> Vec<TaskId> {
        let mut waiting = Vec::new();
        for file in self.delegations.files.values_mut() {
            file.stage = Stage::There;
            waiting.append(&mut file.waiting);
        }
        waiting
    }

    fn wake_lock_calls(&mut self, ino: Ino) {
        for task in self.delegations.take_waiting(ino) {
            self.step_waiting(task, Got::Woken);
        }
    }
}
