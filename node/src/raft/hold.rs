//! A replica whose log lost its tail, silent until it has again what it may have acknowledged (P10).
//!
//! Owns when the silence may end: a leader that has committed an entry of its own term has committed everything that
//! was ever acknowledged, so a replica that holds all of that lacks nothing. Deliberately knows no clock: who holds a
//! replica back also lets it go after a while.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::types::LogId;

/// Whether a replica is held back.
#[derive(Debug, Default)]
pub(super) struct Hold {
    on: AtomicBool,
    /// The last entry that a leader is known to have committed since.
    committed: Mutex<Option<LogId>>,
}

impl Hold {
    /// Whether it may grant no vote, and start no election.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Begins the silence.
    pub(super) fn begin(&self) {
        self.on.store(true, Ordering::Release);
    }

    /// Ends it; false when it had ended before.
    pub(super) fn end(&self) -> bool {
        self.on.swap(false, Ordering::AcqRel)
    }

    /// The leader of a term says what it has committed.
    pub(super) fn leader_says(&self, term: u64, committed: Option<LogId>) {
        // An older term's last entry may lie behind what was acknowledged to that term's leader.
        let own = committed.filter(|id| id.committed_leader_id().term == term);
        if self.is_on() && own.is_some() {
            let mut known = self.committed.lock();
            *known = (*known).max(own);
        }
    }

    /// The replica now holds everything up to an entry, durably; true when that brings it level.
    pub(super) fn is_level(&self, matching: Option<LogId>) -> bool {
        self.is_on() && {
            let committed = *self.committed.lock();
            committed.is_some() && matching >= committed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::log_id;
    use super::*;

    #[test]
    fn only_all_that_a_leader_committed_in_its_own_term_ends_the_silence() {
        let hold = Hold::default();
        assert!(!hold.is_level(Some(log_id(9, 9))), "nothing held it back");
        hold.begin();
        assert!(hold.is_on() && !hold.is_level(Some(log_id(2, 5))));
        hold.leader_says(3, None);
        hold.leader_says(3, Some(log_id(2, 5)));
        assert!(
            !hold.is_level(Some(log_id(2, 5))),
            "the leader may not know yet what is committed"
        );
        hold.leader_says(3, Some(log_id(3, 8)));
        assert!(!hold.is_level(None) && !hold.is_level(Some(log_id(3, 7))));
        hold.leader_says(3, Some(log_id(3, 6)));
        assert!(
            !hold.is_level(Some(log_id(3, 7))),
            "what was said stays said"
        );
        assert!(hold.is_level(Some(log_id(3, 8))));
        assert!(hold.end() && !hold.end() && !hold.is_on());
    }
}
