//! The controller: what the master does so that every group has its replicas (DESIGN section 4, P2).
//!
//! Owns liveness by reports and the decision of the next step for each group. All progress is derived from the
//! replicated state and the reports, so the next leader goes on where this one stopped. Deliberately carries nothing
//! out: proposals go to group 0, directives to nodes, and both may be lost or come twice.
//!
//! One primitive grows, shrinks and repairs: place a replica (proposal), create it and add it as a learner
//! (directives), and when it has caught up change the voters to the wanted set in one joint change (directive); what is
//! no member any more is unplaced (proposal) and destroyed (directive).

mod decide;
pub mod health;
#[cfg(test)]
mod sim_tests;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Role};
use super::state::MasterState;
use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::limits::DEAD_AFTER;
use crate::time::{Instant, Now};

/// A node heard within this is alive: it may get replicas and votes.
pub const ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// How often the controller looks at everything, and repeats what seems not to have arrived.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A learner may lack this many entries when it gets a vote.
pub const CATCH_UP_ENTRIES: u64 = 64;
/// A member that its own node, which is heard, does not report for this long is lost: retired (P1). One that it reports
/// as suspect for this long counts as lost where the others can do without it (P10).
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// A member of a group, as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberReport {
    /// Which replica.
    pub replica: ReplicaId,
    /// What it is.
    pub role: Role,
    /// The last entry it is known to hold, 0 when unknown.
    pub matched: u64,
}

/// What a group's leader knows of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaderReport {
    /// The term it leads in.
    pub term: u64,
    /// The last entry of its log.
    pub last_log: u64,
    /// A joint change is under way, or one left its configuration behind.
    pub joint: bool,
    /// All members, itself too.
    pub members: Vec<MemberReport>,
}

impl LeaderReport {
    /// Who has a vote.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<ReplicaId> {
        let voters = self
            .members
            .iter()
            .filter(|member| member.role == Role::Voter);
        voters.map(|member| member.replica).collect()
    }

    /// Whether this leader may carry out a [`Directive::ChangeVoters`] now: the voters are still those it was decided
    /// on, and every new one has caught up (consensus itself would add it in any state).
    #[must_use]
    pub fn may_change(&self, from: &BTreeSet<ReplicaId>, to: &BTreeSet<ReplicaId>) -> bool {
        let is_fit = |replica: &ReplicaId| {
            self.members.iter().any(|member| {
                member.replica == *replica
                    && (member.role == Role::Voter || self.is_near(member.matched))
            })
        };
        self.voters() == *from && to.iter().all(is_fit)
    }

    const fn is_near(&self, matched: u64) -> bool {
        matched + CATCH_UP_ENTRIES >= self.last_log || cfg!(planted = "learner_promoted_behind")
    }
}

/// One replica on a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// Of which group.
    pub group: GroupId,
    /// Which replica.
    pub replica: ReplicaId,
    /// A sync failed under it. It was verified and serves, and is replaced once the others can do without it (P10).
    pub suspect: bool,
    /// When it leads.
    pub leader: Option<LeaderReport>,
}

/// A node's heartbeat: all its replicas.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who.
    pub node: NodeId,
    /// What it holds.
    pub replicas: Vec<ReplicaReport>,
}

/// What a node is told to do. Each is idempotent; one that no longer fits is ignored.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Directive {
    /// Create a blank replica that waits for its leader (P1: only thus).
    CreateReplica {
        /// Of which group.
        group: GroupId,
        /// Under which id.
        replica: ReplicaId,
    },
    /// Destroy a replica that is a member no more.
    DestroyReplica {
        /// Of which group.
        group: GroupId,
        /// Which.
        replica: ReplicaId,
    },
    /// To a leader: add a learner.
    AddLearner {
        /// Of which group.
        group: GroupId,
        /// Which.
        replica: ReplicaId,
        /// Where.
        node: NodeId,
    },
    /// To a leader: make exactly these the voters, by one joint change; voters that go, go wholly. It asks
    /// [`LeaderReport::may_change`] first, since the directive may be late, and finishes a joint change that was left
    /// behind.
    ChangeVoters {
        /// Of which group.
        group: GroupId,
        /// All voters when this was decided: with others it is too late.
        from: BTreeSet<ReplicaId>,
        /// All voters afterwards: an odd number of members.
        voters: BTreeSet<ReplicaId>,
    },
    /// To a leader: remove a learner.
    RemoveLearner {
        /// Of which group.
        group: GroupId,
        /// Which.
        replica: ReplicaId,
    },
    /// To a leader: let another voter lead.
    TransferLeader {
        /// Of which group.
        group: GroupId,
        /// To whom.
        to: ReplicaId,
    },
}

/// What happens to the controller.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed, or the state changed.
    Tick,
    /// A node's heartbeat.
    Report(NodeReport),
}

/// What the controller wants. Either may be lost; it comes again while it is still needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Propose to group 0.
    Propose(Entry),
    /// Tell a node.
    Direct(NodeId, Directive),
}

/// The machine of one term of one master.
pub struct Controller {
    since: Instant,
    next_look: Instant,
    heard: BTreeMap<NodeId, (Instant, NodeReport)>,
    /// Placed replicas that their nodes do not report, or report as suspect, and since when.
    ailing: BTreeMap<(GroupId, ReplicaId), (Ailment, Instant)>,
    outputs: VecDeque<Output>,
}

/// What is wrong with a replica whose node is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ailment {
    /// It is not there: retired.
    Missing,
    /// It serves, from a disk that failed a sync.
    Suspect,
}

/// How alive a node is, by its heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Heard lately.
    Alive,
    /// Not heard lately, or not since this master leads.
    Silent,
    /// Unheard for 30 minutes: its replicas are placed elsewhere.
    Dead,
}

impl Controller {
    /// A new master's: it has heard nobody and counts every silence from now.
    #[must_use]
    pub const fn new(now: Now) -> Self {
        Self {
            since: now.mono,
            next_look: now.mono,
            heard: BTreeMap::new(),
            ailing: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// One input, with the state as applied; then drain [`Self::poll_output`].
    pub fn handle_input(&mut self, now: Now, state: &MasterState, input: Input) {
        match input {
            Input::Tick => {}
            Input::Report(report) => {
                if state.nodes.contains_key(&report.node) {
                    self.note_ailing(now.mono, state, &report);
                    self.heard.insert(report.node, (now.mono, report));
                }
            }
        }
        if now.mono < self.next_look {
            return;
        }
        self.next_look = now.mono + LOOK_EVERY;
        let view = decide::View::new(self, now.mono, state);
        self.outputs = view.decide().into();
    }

    fn note_ailing(&mut self, now: Instant, state: &MasterState, report: &NodeReport) {
        let here: BTreeMap<ReplicaId, bool> = report
            .replicas
            .iter()
            .map(|held| (held.replica, held.suspect))
            .collect();
        let suspect: BTreeSet<GroupId> = report
            .replicas
            .iter()
            .filter(|held| held.suspect)
            .map(|held| held.group)
            .collect();
        for (id, group) in &state.groups {
            for (replica, _) in group.replicas.iter().filter(|(_, r)| r.node == report.node) {
                let ailment = match here.get(replica) {
                    // It comes when the suspect one before it can be spared.
                    None if suspect.contains(id) => None,
                    None => Some(Ailment::Missing),
                    Some(true) => Some(Ailment::Suspect),
                    Some(false) => None,
                };
                self.note_ailment(now, (*id, *replica), ailment);
            }
        }
        self.ailing.retain(|(id, replica), _| {
            let group = state.groups.get(id);
            group.is_some_and(|group| group.replicas.contains_key(replica))
        });
    }

    fn note_ailment(&mut self, now: Instant, of: (GroupId, ReplicaId), ailment: Option<Ailment>) {
        match (ailment, self.ailing.get(&of)) {
            (None, _) => drop(self.ailing.remove(&of)),
            (Some(ailment), Some((known, _))) if *known == ailment => {}
            (Some(ailment), _) => drop(self.ailing.insert(of, (ailment, now))),
        }
    }

    /// What is wrong with a replica whose node is there.
    fn ailment(&self, group: GroupId, replica: ReplicaId) -> Option<Ailment> {
        self.ailing
            .get(&(group, replica))
            .map(|(ailment, _)| *ailment)
    }

    /// Whether it has been so for too long to get well.
    fn is_lost(&self, now: Instant, group: GroupId, replica: ReplicaId) -> bool {
        let since = self.ailing.get(&(group, replica));
        since.is_some_and(|(_, since)| now.since(*since) >= LOST_AFTER)
            && !cfg!(planted = "lost_replica_kept")
    }

    /// The next thing to do. What was not fetched before the next look is decided anew.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to tick at the latest, and why.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Some((self.next_look, "look at all groups"))
    }

    /// How alive a node is.
    #[must_use]
    pub fn liveness(&self, now: Instant, node: NodeId) -> Liveness {
        let heard = self.heard.get(&node).map(|(at, _)| *at);
        let silence = now.since(heard.unwrap_or(self.since));
        if silence >= DEAD_AFTER {
            Liveness::Dead
        } else if heard.is_some() && silence < ALIVE_WITHIN {
            Liveness::Alive
        } else {
            Liveness::Silent
        }
    }

    /// The fresh report of a group's leader, of the highest term.
    #[must_use]
    pub fn leader(
        &self,
        now: Instant,
        group: GroupId,
    ) -> Option<(NodeId, ReplicaId, &LeaderReport)> {
        let fresh = self
            .heard
            .iter()
            .filter(|(_, (at, _))| now.since(*at) < ALIVE_WITHIN);
        fresh
            .flat_map(|(node, (_, report))| report.replicas.iter().map(move |r| (*node, r)))
            .filter(|(_, replica)| replica.group == group)
            .filter_map(|(node, r)| Some((node, r.replica, r.leader.as_ref()?)))
            .max_by_key(|(_, _, leader)| leader.term)
    }
}
