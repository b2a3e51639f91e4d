//! Taking a lock, with or without waiting.
//!
//! Owns the asking again: waiting for a lock is not a request in a slot (P6).

use core::time::Duration;

use super::{Got, Next, Op, View};
use crate::error::FsError;
use crate::place::Ino;
use crate::request::{MetaOp, RequestBody};
use crate::vfs::{LockOwner, LockRange, Reply};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// F_SETLK, F_SETLKW, flock(2).
#[derive(Debug)]
pub(in super::super) struct SetLock {
    ino: Ino,
    owner: LockOwner,
    lock: LockRange,
    wait: bool,
    pause: Duration,
    cancelled: bool,
    unlocking: bool,
}

impl SetLock {
    pub(in super::super) const fn new(
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
        wait: bool,
    ) -> Self {
        Self {
            ino,
            owner,
            lock,
            wait,
            pause: PAUSE_MIN,
            cancelled: false,
            unlocking: false,
        }
    }

    fn would_block(&mut self) -> Next {
        if self.cancelled {
            return Next::fail(FsError::Interrupted);
        }
        if !self.wait {
            return Next::fail(FsError::WouldBlock);
        }
        let pause = self.pause;
        self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
        Next::Sleep(pause)
    }
}

impl Op for SetLock {
    fn next(&mut self, _view: &mut View<'_>, got: Got) -> Next {
        let (ino, owner, lock) = (self.ino, self.owner, self.lock);
        match got {
            Got::Start | Got::Changed | Got::Woken => {
                Next::Ask(RequestBody::MetaOp(MetaOp::SetLock { ino, owner, lock }))
            }
            Got::Meta(_) if self.unlocking => Next::fail(FsError::Interrupted),
            Got::Meta(Ok(_)) if self.cancelled => {
                self.unlocking = true;
                let (start, end) = (lock.start, lock.end);
                Next::Ask(RequestBody::MetaOp(MetaOp::Unlock {
                    ino,
                    owner,
                    start,
                    end,
                }))
            }
            Got::Meta(Ok(_)) => Next::Done(Ok(Reply::Done)),
            Got::Meta(Err(FsError::WouldBlock)) => self.would_block(),
            Got::Meta(Err(error)) => Next::fail(error),
            Got::Stats(_) => Next::fail(FsError::Io),
        }
    }

    fn cancel(&mut self, waiting: bool) -> Option<Next> {
        self.cancelled = true;
        waiting.then(|| Next::fail(FsError::Interrupted))
    }
}
