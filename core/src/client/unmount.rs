//! Taking a mount down: write everything back, give everything back, close the session.
//!
//! Owns the order of these.

use alloc::vec::Vec;

use super::Client;
use crate::limits::CALL_DEADLINE;
use crate::place::Ino;
use crate::time::Instant;

use super::timers::Wake;

/// How far it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmount {
    No,
    /// Calls end and dirty data is written back, until the deadline at the latest.
    Draining(Instant),
    /// Leases are on their way back.
    Releasing(Instant),
    /// The session is being closed.
    Closing,
}

impl Client {
    pub(super) fn start_unmount(&mut self) {
        if self.unmount == Unmount::No {
            let deadline = self.now.mono + CALL_DEADLINE;
            self.timers.set(deadline, Wake::Session);
            self.unmount = Unmount::Draining(deadline);
            self.sync_everything();
        }
    }

    pub(super) fn drive_unmount(&mut self) {
        if let Unmount::Draining(deadline) = self.unmount
            && ((self.tasks.is_idle() && self.files_are_quiet()) || self.now.mono >= deadline)
        {
            self.unmount = Unmount::Releasing(deadline);
            self.return_all_locks();
            let inos: Vec<Ino> = self.used_files();
            for ino in inos {
                self.give_back(ino);
            }
        }
        if let Unmount::Releasing(deadline) = self.unmount
            && (self.questions.is_idle() || self.now.mono >= deadline)
        {
            self.unmount = Unmount::Closing;
            self.close_session();
        }
    }
}
