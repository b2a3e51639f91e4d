//! Which followers a leader's next commit rests on, and which may hear of its entries a little later.
//!
//! Owns the order in which a group's followers are relied on. A leader with its own copy needs half of its group besides;
//! while that half answers promptly the others are sent what comes within [`REST`] in one piece, which costs them, and a
//! machine they share, a fraction. As soon as an entry is not committed promptly they are sent everything. Nobody is waited
//! for by name: a commit counts whoever has an entry (P2). Deliberately sends nothing, and knows no membership: who votes is
//! said with each question.

use std::collections::VecDeque;
use std::time::Duration;

use polyfs_core::ids::ReplicaId;
use polyfs_core::time::Instant;

use super::promises::Acknowledged;

/// How much later the others may hear.
pub(super) const REST: Duration = Duration::from_millis(8);
/// An entry that is not committed so long after it went out needs everybody. A runtime whose timers count milliseconds makes
/// it up to 1 ms more.
const LATE: Duration = Duration::from_millis(2);
/// A follower is prompt that answered an append, with entries or without, so recently.
const PROMPT: Duration = Duration::from_millis(100);
/// One that answers so many times faster than another is relied on before it.
const FASTER: u32 = 4;

/// The followers that a leader sends entries to, the one it relies on first in front.
#[derive(Debug, Default)]
pub(super) struct Followers {
    /// Outlasts the pipes.
    pub(super) acknowledged: Acknowledged,
    order: Vec<Follower>,
    pipes: u64,
    /// What is on its way and not known to be committed: the last index of a request, and when it first went out.
    unsettled: VecDeque<(u64, Instant)>,
}

/// Which pipe to a follower: an older one of the same may end after a newer has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PipeId(u64);

#[derive(Debug)]
struct Follower {
    id: ReplicaId,
    pipe: PipeId,
    distance: u64,
    answered: Option<Instant>,
    /// How long its answers take, averaged.
    took: Duration,
}

/// Who votes in a group, and who asks.
#[derive(Clone, Debug)]
pub(super) struct Electorate {
    pub(super) leader: ReplicaId,
    pub(super) voters: Vec<ReplicaId>,
}

impl Electorate {
    /// How many followers a majority has besides its leader.
    fn followers_needed(&self) -> usize {
        let majority = self.voters.len() / 2 + 1;
        majority - usize::from(self.voters.contains(&self.leader))
    }
}

impl Followers {
    /// The leader begins to send to a follower. The nearest comes first: `distance` is counted around the ring of nodes, so
    /// that the groups that one node leads rely on the same other, and those of different leaders on different ones.
    pub(super) fn follows(&mut self, id: ReplicaId, distance: u64) -> PipeId {
        self.pipes += 1;
        let pipe = PipeId(self.pipes);
        self.order.retain(|follower| follower.id != id);
        self.order.push(Follower {
            id,
            pipe,
            distance,
            answered: None,
            took: Duration::ZERO,
        });
        self.order.sort_by_key(|follower| follower.distance);
        pipe
    }

    /// It has answered what it was sent `took` ago.
    pub(super) fn answered(&mut self, pipe: PipeId, now: Instant, took: Duration) {
        let Some(place) = self.place(pipe) else {
            return;
        };
        let follower = &mut self.order[place];
        follower.took = match follower.answered {
            None => took,
            Some(_) => (follower.took * 7 + took) / 8,
        };
        follower.answered = Some(now);
        if place > 0 && self.order[place].took * FASTER < self.order[place - 1].took {
            self.order.swap(place, place - 1);
        }
    }

    /// The leader sends to it no more.
    pub(super) fn left_alone(&mut self, pipe: PipeId) {
        self.order.retain(|follower| follower.pipe != pipe);
        if self.order.is_empty() {
            // Another leader's entries may come to stand at these indices.
            self.unsettled.clear();
        }
    }

    /// Entries up to `last` go out to one of them; those up to `committed` need nobody any more.
    pub(super) fn sent(&mut self, last: u64, committed: u64, now: Instant) {
        self.settled(committed);
        let known = self.unsettled.back().map_or(committed, |(index, _)| *index);
        if known < last {
            self.unsettled.push_back((last, now));
        }
    }

    /// How long one that rests may rest on until it looks again: as long as nothing that went out, of which everything up
    /// to `committed` needs nobody, can be late. None when something is.
    pub(super) fn may_rest_for(&mut self, committed: u64, now: Instant) -> Option<Duration> {
        self.settled(committed);
        let oldest = self.unsettled.front().map_or(now, |(_, sent)| *sent);
        let late = oldest + LATE;
        (now < late).then(|| late.since(now))
    }

    fn settled(&mut self, committed: u64) {
        while self
            .unsettled
            .front()
            .is_some_and(|(last, _)| *last <= committed)
        {
            self.unsettled.pop_front();
        }
    }

    /// Whether a follower may hear of entries [`REST`] later: the leader and those it relies on before are enough.
    pub(super) fn may_wait(&self, pipe: PipeId, electorate: &Electorate, now: Instant) -> bool {
        let prompt = |follower: &&Follower| follower.answered.is_some_and(|at| now < at + PROMPT);
        let Some(place) = self.place(pipe) else {
            return false;
        };
        let before = self.order[..place].iter().filter(prompt);
        let votes = before.filter(|follower| electorate.voters.contains(&follower.id));
        prompt(&&self.order[place]) && votes.count() >= electorate.followers_needed()
    }

    fn place(&self, pipe: PipeId) -> Option<usize> {
        self.order.iter().position(|follower| follower.pipe == pipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    const QUICK: Duration = Duration::from_micros(400);

    fn group<const N: usize>(ms: u64) -> (Followers, [PipeId; N]) {
        let mut followers = Followers::default();
        let pipes = std::array::from_fn(|n| followers.follows(ReplicaId(n as u64), n as u64));
        for pipe in pipes {
            let waits = followers.may_wait(pipe, &electorate(N), at(ms));
            assert!(!waits, "it has not answered yet");
            followers.answered(pipe, at(ms), QUICK);
        }
        (followers, pipes)
    }

    const LEADER: ReplicaId = ReplicaId(99);

    fn electorate(followers: usize) -> Electorate {
        let voters = (0..followers as u64).map(ReplicaId).chain([LEADER]);
        Electorate {
            leader: LEADER,
            voters: voters.collect(),
        }
    }

    fn waiting<const N: usize>(followers: &Followers, pipes: [PipeId; N], ms: u64) -> [bool; N] {
        pipes.map(|pipe| followers.may_wait(pipe, &electorate(N), at(ms)))
    }

    #[test]
    fn a_leader_relies_on_half_of_its_group_besides_itself() {
        let (followers, pipes) = group::<1>(0);
        assert_eq!(waiting(&followers, pipes, 1), [false]);
        let (followers, pipes) = group::<2>(0);
        assert_eq!(waiting(&followers, pipes, 1), [false, true]);
        let (followers, pipes) = group::<3>(0);
        assert_eq!(waiting(&followers, pipes, 1), [false, false, true]);
        let (followers, pipes) = group::<4>(0);
        assert_eq!(waiting(&followers, pipes, 1), [false, false, true, true]);
    }

    /// Two of five are down, or a learner stands in front: each follower that is left is needed.
    #[test]
    fn only_voters_count_and_all_of_them() {
        let (followers, pipes) = group::<2>(0);
        let wait = |electorate: &Electorate| {
            let waits = pipes.map(|pipe| followers.may_wait(pipe, electorate, at(1)));
            waits.contains(&true)
        };
        assert!(wait(&electorate(2)));
        assert!(!wait(&electorate(4)));
        let mut with_learner = electorate(3);
        with_learner.voters.remove(0);
        assert!(!wait(&with_learner));
        let mut leaving = electorate(2);
        leaving.voters.retain(|voter| *voter != LEADER);
        assert!(!wait(&leaving), "the leader's copy does not count");
    }

    #[test]
    fn nobody_waits_when_one_that_is_relied_on_is_silent() {
        let (mut followers, pipes) = group::<2>(0);
        followers.answered(pipes[1], at(99), QUICK);
        assert_eq!(waiting(&followers, pipes, 99), [false, true]);
        assert_eq!(waiting(&followers, pipes, 101), [false, false]);
        followers.left_alone(pipes[0]);
        assert_eq!(waiting(&followers, pipes, 99), [false, false]);
    }

    const NOT: Option<Duration> = None;

    fn ms(span: u64) -> Option<Duration> {
        Some(Duration::from_millis(span))
    }

    #[test]
    fn nobody_rests_on_while_an_entry_is_late() {
        let (mut followers, _) = group::<2>(0);
        let nothing_under_way = followers.may_rest_for(0, at(1));
        assert_eq!(nothing_under_way, ms(2));
        followers.sent(7, 4, at(10));
        followers.sent(9, 4, at(11));
        assert_eq!(followers.may_rest_for(4, at(10)), ms(2));
        assert_eq!(followers.may_rest_for(4, at(11)), ms(1));
        assert_eq!(followers.may_rest_for(6, at(12)), NOT);
        let what_follows_is_younger = followers.may_rest_for(7, at(12));
        assert_eq!(what_follows_is_younger, ms(1));
        assert_eq!(followers.may_rest_for(7, at(13)), NOT);
        let all_is_committed = followers.may_rest_for(9, at(50));
        assert_eq!(all_is_committed, ms(2));
    }

    /// Who is sent an entry later does not make it younger, and what was committed meanwhile is not awaited.
    #[test]
    fn an_entry_ages_from_when_it_first_went_out() {
        let (mut followers, _) = group::<2>(0);
        followers.sent(7, 4, at(10));
        followers.sent(7, 4, at(12));
        assert_eq!(followers.may_rest_for(4, at(12)), NOT);
        followers.sent(7, 7, at(13));
        assert_eq!(followers.may_rest_for(7, at(20)), ms(2));
    }

    #[test]
    fn what_another_leader_may_overwrite_is_not_awaited() {
        let (mut followers, pipes) = group::<2>(0);
        followers.sent(900, 4, at(10));
        for pipe in pipes {
            followers.left_alone(pipe);
        }
        followers.follows(ReplicaId(0), 0);
        assert_eq!(followers.may_rest_for(5, at(100)), ms(2));
    }

    #[test]
    fn one_that_comes_back_is_relied_on_when_it_has_answered() {
        let (mut followers, [first, second]) = group::<2>(0);
        let again = followers.follows(ReplicaId(0), 0);
        followers.left_alone(first);
        followers.answered(first, at(1), QUICK);
        assert_eq!(waiting(&followers, [again, second], 1), [false, false]);
        followers.answered(again, at(1), QUICK);
        assert_eq!(waiting(&followers, [again, second], 1), [false, true]);
    }

    #[test]
    fn a_much_faster_one_is_relied_on_instead() {
        let (mut followers, pipes) = group::<2>(0);
        for ms in 1..40 {
            followers.answered(pipes[0], at(ms), QUICK * 3);
            followers.answered(pipes[1], at(ms), QUICK);
        }
        assert_eq!(waiting(&followers, pipes, 40), [false, true], "not enough");
        for ms in 40..80 {
            followers.answered(pipes[0], at(ms), QUICK * 6);
            followers.answered(pipes[1], at(ms), QUICK);
        }
        assert_eq!(waiting(&followers, pipes, 80), [true, false]);
    }
}
