//! What followers have acknowledged to a leader, told to each of them, so that one that lost it finds out (P10).
//!
//! Owns both ends of that: the leader's memory, and what a follower concludes. Log and state of a replica may go back
//! without a trace, by a disk that lied or a directory that was put back: only a leader that still knows can tell. It
//! sends with every append how far this very follower has acknowledged this very leadership; a follower that lacks an
//! entry at or below that has broken a promise and never speaks again (P1). Deliberately remembers no leadership but
//! the last: what an earlier one was promised the elections' majorities protect.

use std::collections::BTreeMap;

use polyfs_core::ids::ReplicaId;

use super::types::{LogId, Vote};

/// How far each follower has acknowledged, and to which leadership.
#[derive(Debug, Default)]
pub(super) struct Acknowledged(BTreeMap<ReplicaId, (Vote, LogId)>);

impl Acknowledged {
    /// A follower has said to the leadership `vote` that its log matches up to there, durably.
    pub(super) fn note(&mut self, by: ReplicaId, vote: Vote, matching: LogId) {
        let known = self.0.entry(by).or_insert((vote, matching));
        if known.0 == vote {
            known.1 = known.1.max(matching);
        } else if known.0.leader_id.term < vote.leader_id.term {
            *known = (vote, matching);
        }
    }

    /// How far a follower has acknowledged to the leadership `vote`.
    pub(super) fn by(&self, by: ReplicaId, vote: Vote) -> Option<LogId> {
        let (to, matching) = *self.0.get(&by)?;
        (to == vote).then_some(matching)
    }
}

/// Whether a follower that does not have `missing`, and has not turned from the leader who sent it, once told that leader
/// that it had: nothing of one leadership's own log is ever overwritten by it.
pub(super) fn breaks_promise(missing: LogId, acknowledged: Option<LogId>) -> bool {
    acknowledged.is_some_and(|acknowledged| missing <= acknowledged)
        && !cfg!(planted = "lost_promise_kept_quiet")
}

#[cfg(test)]
mod tests {
    use super::super::types::log_id;
    use super::*;

    #[test]
    fn a_follower_is_held_to_what_it_said_to_this_leadership() {
        let (one, other) = (ReplicaId(1), ReplicaId(2));
        let (old, new) = (Vote::new_committed(3, 9), Vote::new_committed(4, 9));
        let mut acknowledged = Acknowledged::default();
        assert_eq!(acknowledged.by(one, old), None);
        acknowledged.note(one, old, log_id(3, 8));
        acknowledged.note(one, old, log_id(3, 6));
        assert_eq!(acknowledged.by(one, old), Some(log_id(3, 8)));
        assert_eq!(acknowledged.by(other, old), None);
        assert_eq!(acknowledged.by(one, new), None);
        acknowledged.note(one, new, log_id(3, 7));
        assert_eq!(acknowledged.by(one, new), Some(log_id(3, 7)));
        acknowledged.note(one, old, log_id(3, 9));
        assert_eq!(acknowledged.by(one, old), None);
        assert_eq!(acknowledged.by(one, new), Some(log_id(3, 7)), "a late word");
    }

    #[test]
    fn only_what_was_acknowledged_is_missed() {
        assert!(!breaks_promise(log_id(3, 8), None));
        assert!(!breaks_promise(log_id(3, 9), Some(log_id(3, 8))));
        assert!(breaks_promise(log_id(3, 8), Some(log_id(3, 8))));
        assert!(breaks_promise(log_id(2, 7), Some(log_id(3, 8))));
    }
}
