//! When the machine must be woken, and for what.
//!
//! Owns the order of wake-ups. One that has become needless does nothing when it comes; those that every operation sets
//! are taken back, or fall together, so that there are not as many as operations.

use alloc::collections::BTreeSet;

use super::ops::TaskId;
use super::questions::QuestionId;
use crate::place::Ino;
use crate::time::Instant;

/// What a wake-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wake {
    Session,
    Leases,
    Question(QuestionId),
    Task(TaskId),
    File(Ino),
}

impl Wake {
    const fn reason(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Leases => "leases",
            Self::Question(_) => "request",
            Self::Task(_) => "pause",
            Self::File(_) => "write-back",
        }
    }
}

/// All wake-ups.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Wake)>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, wake: Wake) {
        self.0.insert((at, wake));
    }

    /// It is not needed any more.
    pub(super) fn unset(&mut self, at: Instant, wake: Wake) {
        self.0.remove(&(at, wake));
    }

    pub(super) fn next(&self) -> Option<(Instant, &'static str)> {
        self.0.first().map(|(at, wake)| (*at, wake.reason()))
    }

    pub(super) fn due(&mut self, now: Instant) -> Option<Wake> {
        let (at, wake) = *self.0.first()?;
        (at <= now).then(|| {
            self.0.pop_first();
            wake
        })
    }
}
