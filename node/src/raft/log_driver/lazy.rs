//! What a leader's own disk may put off: entries that its followers make durable without it.
//!
//! Owns which groups' followers answer promptly, and until when what is queued may wait. A leader's own copy counts only
//! when it is durable, whenever that is (P2, P10); with two prompt followers of three replicas nobody waits for it, so it is
//! written with what comes in the next milliseconds. Whatever else is queued is written at once, and this with it.

use std::collections::BTreeMap;
use std::time::Duration;

use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_core::time::Instant;

/// How long it may wait.
const SPARE: Duration = Duration::from_millis(3);
/// A follower is prompt that answered an append so recently.
const PROMPT: Duration = Duration::from_millis(100);

/// What can wait.
#[derive(Debug, Default)]
pub(super) struct Lazy {
    /// When the followers of the groups that this node leads last answered; none yet is `None`.
    answers: BTreeMap<GroupId, BTreeMap<ReplicaId, Option<Instant>>>,
    /// Something queued can't wait.
    urgent: bool,
    /// Until when the rest can.
    until: Option<Instant>,
}

impl Lazy {
    /// Something is queued that can't wait.
    pub(super) const fn urgent(&mut self) {
        self.urgent = true;
    }

    pub(super) const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Entries of a group were queued, and nothing else since it `was_urgent` or not: whether the writer must be woken.
    pub(super) fn appended(&mut self, group: GroupId, now: Instant, was_urgent: bool) -> bool {
        if was_urgent || !self.can_wait(group, now) {
            return true;
        }
        self.urgent = false;
        let first = self.until.is_none();
        self.until.get_or_insert(now + SPARE);
        first
    }

    /// How much longer what is queued can wait; `None` when it can't, or nothing is.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let until = self.until.filter(|_| !self.urgent)?;
        (now < until).then(|| until.since(now))
    }

    /// Everything queued is being written.
    pub(super) const fn taken(&mut self) {
        self.urgent = false;
        self.until = None;
    }

    /// A leader of this node begins to send to a follower.
    pub(super) fn follows(&mut self, group: GroupId, follower: ReplicaId) {
        let group = self.answers.entry(group).or_default();
        group.insert(follower, None);
    }

    pub(super) fn answered(&mut self, group: GroupId, follower: ReplicaId, now: Instant) {
        if let Some(at) = self
            .answers
            .get_mut(&group)
            .and_then(|group| group.get_mut(&follower))
        {
            *at = Some(now);
        }
    }

    /// It sends to it no more.
    pub(super) fn left_alone(&mut self, group: GroupId, follower: ReplicaId) {
        if let Some(followers) = self.answers.get_mut(&group) {
            followers.remove(&follower);
            if followers.is_empty() {
                self.answers.remove(&group);
            }
        }
    }

    /// Whether a majority of all replicas answers promptly without this one.
    fn can_wait(&self, group: GroupId, now: Instant) -> bool {
        let Some(followers) = self.answers.get(&group) else {
            return false;
        };
        let prompt = |at: &&Option<Instant>| at.is_some_and(|at| now < at + PROMPT);
        let prompt = followers.values().filter(prompt).count();
        let replicas = followers.len() + 1;
        prompt > replicas / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn with_followers(answered: &[(u64, u64)]) -> Lazy {
        let mut lazy = Lazy::default();
        for (follower, ms) in answered {
            lazy.follows(GROUP, ReplicaId(*follower));
            lazy.answered(GROUP, ReplicaId(*follower), at(*ms));
        }
        lazy
    }

    fn append(lazy: &mut Lazy, now: Instant) -> bool {
        let was_urgent = lazy.is_urgent();
        lazy.urgent();
        lazy.appended(GROUP, now, was_urgent)
    }

    #[test]
    fn a_leader_of_three_waits_only_with_two_prompt_followers() {
        let mut lazy = with_followers(&[(2, 0), (3, 0)]);
        assert!(append(&mut lazy, at(1)), "the writer must know until when");
        assert_eq!(lazy.left(at(1)), Some(SPARE));
        assert!(!append(&mut lazy, at(2)));
        assert_eq!(lazy.left(at(4)), None, "time is up");
        lazy.taken();
        assert!(append(&mut lazy, at(150)), "their answers are old");
        assert_eq!(lazy.left(at(150)), None);
        let mut lazy = with_followers(&[(2, 0)]);
        assert!(append(&mut lazy, at(1)), "of two, both are needed");
        assert_eq!(lazy.left(at(1)), None);
        let mut lazy = with_followers(&[(2, 0), (3, 0)]);
        lazy.left_alone(GROUP, ReplicaId(2));
        assert!(append(&mut lazy, at(1)));
        assert_eq!(lazy.left(at(1)), None);
        assert!(
            append(&mut Lazy::default(), at(1)),
            "a follower never waits"
        );
    }

    #[test]
    fn what_is_urgent_takes_the_rest_along() {
        let mut lazy = with_followers(&[(2, 0), (3, 0)]);
        append(&mut lazy, at(1));
        lazy.urgent();
        assert_eq!(lazy.left(at(1)), None);
        assert!(append(&mut lazy, at(1)), "it is written now, with the rest");
        assert_eq!(lazy.left(at(1)), None);
    }
}
