//! Lock calls: taking one, with or without waiting, giving some up, asking after one.
//!
//! Owns the asking again (waiting for a lock is not a request in a slot, P6), and that a call is carried out here when the
//! file's locks are this mount's to give.

use core::time::Duration;

use super::{Got, Next, Op, View};
use crate::client::delegations::{Ours, Way};
use crate::error::FsError;
use crate::place::Ino;
use crate::request::{MetaOp, MetaQuery, MetaReply, RequestBody};
use crate::vfs::{LockOwner, LockRange, Reply};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// F_SETLK, F_SETLKW, flock(2).
    Set { lock: LockRange, wait: bool },
    /// F_GETLK.
    Test(LockRange),
    /// F_UNLCK, and what close(2) does.
    Unlock(u64, u64),
}

/// A lock call.
#[derive(Debug)]
pub(in super::super) struct LockCall {
    ino: Ino,
    owner: LockOwner,
    want: Want,
    pause: Duration,
    cancelled: bool,
    /// What was taken for a caller that has gone is given up.
    undoing: bool,
}

impl LockCall {
    const fn new(ino: Ino, owner: LockOwner, want: Want) -> Self {
        Self {
            ino,
            owner,
            want,
            pause: PAUSE_MIN,
            cancelled: false,
            undoing: false,
        }
    }

    pub(in super::super) const fn set(
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
        wait: bool,
    ) -> Self {
        Self::new(ino, owner, Want::Set { lock, wait })
    }

    pub(in super::super) const fn test(ino: Ino, owner: LockOwner, lock: LockRange) -> Self {
        Self::new(ino, owner, Want::Test(lock))
    }

    pub(in super::super) const fn unlock(ino: Ino, owner: LockOwner, start: u64, end: u64) -> Self {
        Self::new(ino, owner, Want::Unlock(start, end))
    }

    fn begin(&mut self, view: &mut View<'_>) -> Next {
        let (ino, owner) = (self.ino, self.owner);
        let locks = match view.delegations.way(ino, view.good) {
            Way::Here(locks) => locks,
            Way::Waits => return Next::AwaitLocks(ino),
            Way::Asks => return Next::Ask(self.body(view)),
        };
        match self.want {
            Want::Set { lock, .. } => {
                let taken = locks.set(owner, lock);
                self.taken(view, taken)
            }
            Want::Test(lock) => Next::Done(Ok(Reply::Lock(locks.in_the_way(owner, lock)))),
            Want::Unlock(start, end) => {
                locks.unlock(owner, start, end);
                self.done()
            }
        }
    }

    fn body(&self, view: &mut View<'_>) -> RequestBody {
        let (ino, owner) = (self.ino, self.owner);
        match self.want {
            Want::Set { lock, .. } => RequestBody::MetaOp(MetaOp::SetLock {
                ino,
                owner,
                lock,
                delegate: view.delegations.wish(ino),
            }),
            Want::Test(lock) => RequestBody::MetaQuery(MetaQuery::TestLock { ino, owner, lock }),
            Want::Unlock(start, end) => RequestBody::MetaOp(MetaOp::Unlock {
                ino,
                owner,
                start,
                end,
            }),
        }
    }

    const fn done(&self) -> Next {
        if self.undoing {
            return Next::fail(FsError::Interrupted);
        }
        Next::Done(Ok(Reply::Done))
    }

    /// A lock was taken, or was not.
    fn taken(&mut self, view: &mut View<'_>, taken: Result<(), FsError>) -> Next {
        match (taken, self.want) {
            (Ok(()), Want::Set { lock, .. }) if self.cancelled => {
                self.undoing = true;
                self.want = Want::Unlock(lock.start, lock.end);
                self.begin(view)
            }
            (Ok(()), _) => Next::Done(Ok(Reply::Done)),
            (Err(FsError::WouldBlock), _) if self.cancelled => Next::fail(FsError::Interrupted),
            (Err(FsError::WouldBlock), Want::Set { wait: true, .. }) => {
                let pause = self.pause;
                self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
                Next::Sleep(pause)
            }
            (Err(error), _) => Next::fail(error),
        }
    }

    fn answered(&mut self, view: &mut View<'_>, reply: Result<MetaReply, FsError>) -> Next {
        match (reply, self.want) {
            (Ok(MetaReply::LocksAreYours { grant }), _) => {
                match view.delegations.ours(self.ino, grant) {
                    Ours::Uncertain if view.good => self.begin(view),
                    // The region knows whether the session lives; waiting for the master could take for ever.
                    Ours::Uncertain => Next::ReturnLocks(self.ino),
                    Ours::Again => self.begin(view),
                    Ours::Waits => Next::AwaitLocks(self.ino),
                    Ours::Unknown => Next::RefuseLocks(self.ino, grant),
                }
            }
            (reply, Want::Set { .. }) => self.taken(view, reply.map(|_| ())),
            (Ok(MetaReply::Lock(lock)), Want::Test(_)) => Next::Done(Ok(Reply::Lock(lock))),
            (Ok(_), Want::Unlock(..)) => self.done(),
            (Ok(_), Want::Test(_)) => Next::fail(FsError::Io),
            // Whoever waits knows no more of it than that it was interrupted; the lock ends with its owner.
            (Err(_), Want::Unlock(..)) if self.undoing => Next::fail(FsError::Interrupted),
            (Err(error), _) => Next::fail(error),
        }
    }
}

impl Op for LockCall {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Changed | Got::Woken => self.begin(view),
            Got::Meta(reply) => self.answered(view, reply),
            Got::Stats(_) => Next::fail(FsError::Io),
        }
    }

    fn cancel(&mut self, waiting: bool) -> Option<Next> {
        if !matches!(self.want, Want::Set { .. }) {
            return None;
        }
        self.cancelled = true;
        waiting.then(|| Next::fail(FsError::Interrupted))
    }
}
