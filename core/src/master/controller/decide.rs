//! The next step of each group, from state and reports.

use super::{
    Ailment, BTreeMap, BTreeSet, Controller, Directive, Instant, LeaderReport, Liveness,
    MasterState, MemberReport, Output, ReplicaReport, Vec,
};
use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::limits::{MRG_REPLICAS_GOAL, REGION_REPLICAS_GOAL};
use crate::master::entry::{Entry, Role};
use crate::master::state::Group;

/// How many voters a group should have: the largest odd number of at most `goal` and of usable nodes (P2).
pub(super) fn seats(group: GroupId, usable: usize) -> usize {
    let goal = if group == GroupId::MASTER {
        MRG_REPLICAS_GOAL
    } else {
        REGION_REPLICAS_GOAL
    };
    let most = goal.min(usable).max(1);
    if cfg!(planted = "voters_even") {
        most
    } else {
        most - (most + 1) % 2
    }
}

/// How many copies: as many as voters, and a learner when there are exactly two nodes (P2).
pub(super) fn copies(group: GroupId, usable: usize) -> usize {
    if usable == 2 { 2 } else { seats(group, usable) }
}

pub(super) struct View<'a> {
    controller: &'a Controller,
    now: Instant,
    state: &'a MasterState,
    /// Neither dead nor draining.
    usable: BTreeSet<NodeId>,
    /// Replicas per node, those placed in this look included.
    load: BTreeMap<NodeId, usize>,
    outputs: Vec<Output>,
}

impl<'a> View<'a> {
    pub(super) fn new(controller: &'a Controller, now: Instant, state: &'a MasterState) -> Self {
        let is_usable = |id: &NodeId, draining: bool| {
            !draining && controller.liveness(now, *id) != Liveness::Dead
        };
        let usable = state
            .nodes
            .iter()
            .filter(|(id, node)| is_usable(id, node.draining));
        let usable = usable.map(|(id, _)| *id).collect();
        let mut load = BTreeMap::new();
        for replica in state
            .groups
            .values()
            .flat_map(|group| group.replicas.values())
        {
            *load.entry(replica.node).or_default() += 1;
        }
        Self {
            controller,
            now,
            state,
            usable,
            load,
            outputs: Vec::new(),
        }
    }

    pub(super) fn decide(mut self) -> Vec<Output> {
        self.destroy_what_is_not_placed();
        // Group 0 is the first in the map; while it grows on living nodes nothing else is placed.
        let mut may_place = true;
        for (id, group) in &self.state.groups {
            let grows = self.step(*id, group, may_place);
            may_place &= !(*id == GroupId::MASTER && grows);
        }
        self.outputs
    }

    fn alive(&self, node: NodeId) -> bool {
        self.controller.liveness(self.now, node) == Liveness::Alive
    }

    fn direct(&mut self, node: NodeId, directive: Directive) {
        self.outputs.push(Output::Direct(node, directive));
    }

    fn reports(&self, node: NodeId) -> &'a [ReplicaReport] {
        let controller: &'a Controller = self.controller;
        controller
            .heard
            .get(&node)
            .map_or(&[], |(_, report)| &report.replicas)
    }

    /// A replica that its node reports, that is not placed there, and that is of a group's past (a lower id was drawn):
    /// a split's new replicas are reported by their nodes before the split is reported here.
    fn destroy_what_is_not_placed(&mut self) {
        let controller = self.controller;
        for node in controller.heard.keys().copied() {
            if !self.alive(node) {
                continue;
            }
            for report in self.reports(node) {
                let Some(group) = self.state.groups.get(&report.group) else {
                    continue;
                };
                let is_placed = group.replicas.contains_key(&report.replica);
                let is_member = self
                    .controller
                    .leader(self.now, report.group)
                    .is_none_or(|(_, _, l)| l.members.iter().any(|m| m.replica == report.replica));
                if !is_placed && !is_member && report.replica <= self.state.header.last_replica {
                    let (group, replica) = (report.group, report.replica);
                    self.direct(node, Directive::DestroyReplica { group, replica });
                }
            }
        }
    }

    /// One group's next step; whether it is growing on living nodes.
    fn step(&mut self, id: GroupId, group: &Group, may_place: bool) -> bool {
        let Some((at, leader_id, leader)) = self.controller.leader(self.now, id) else {
            return false;
        };
        // The leader's membership is the truth; the state follows it.
        for member in &leader.members {
            let Some(known) = group.replicas.get(&member.replica) else {
                continue;
            };
            if known.role != member.role && !leader.joint {
                let (replica, role) = (member.replica, member.role);
                self.outputs.push(Output::Propose(Entry::SetRole {
                    group: id,
                    replica,
                    role,
                }));
            }
        }
        let voters = leader.voters();
        self.replace_the_lost(id, group, at, leader_id, leader);
        if leader.joint {
            // Repeating the wish makes a leader finish what another left behind.
            if voters.len() % 2 == 1 {
                let from = voters.clone();
                self.direct(
                    at,
                    Directive::ChangeVoters {
                        group: id,
                        from,
                        voters,
                    },
                );
            }
            return true;
        }
        let wanted = self.wanted_voters(id, group, leader_id, leader);
        if wanted != voters {
            self.change_voters(id, at, leader_id, leader, wanted);
            return true;
        }
        self.remove_extras(id, group, at, leader, &wanted);
        self.grow(id, group, at, leader, may_place)
    }

    /// A member that is lost on a living node is no longer placed there: another takes its place, under another id (P1).
    /// It stays a member until that one has caught up. One at a time: what is placed anew mends the group first. What
    /// is lost before it became one goes as well. A leader that is suspect hands over, and is replaced when it leads no more.
    fn replace_the_lost(
        &mut self,
        id: GroupId,
        group: &Group,
        at: NodeId,
        leader_id: ReplicaId,
        leader: &LeaderReport,
    ) {
        let is_member = |replica| leader.members.iter().any(|m| m.replica == replica);
        let stray = group.replicas.iter().find(|(replica, placed)| {
            !is_member(**replica)
                && self.alive(placed.node)
                && self.controller.is_lost(self.now, id, **replica)
        });
        if let Some((replica, _)) = stray {
            return self.unplace(id, group, *replica);
        }
        let placed = |member: &&MemberReport| group.replicas.get(&member.replica);
        if !leader.members.iter().all(|m| placed(&m).is_some()) {
            return;
        }
        let lost = leader.members.iter().filter(|member| {
            placed(member).is_some_and(|placed| self.alive(placed.node))
                && self.controller.is_lost(self.now, id, member.replica)
                && (self.controller.ailment(id, member.replica) != Some(Ailment::Suspect)
                    || self.can_spare(id, leader, member.replica))
        });
        // The leader last: whoever takes over from it should be sound.
        let lost = lost.map(|member| member.replica);
        let Some(replica) = lost.min_by_key(|replica| *replica == leader_id) else {
            return;
        };
        if replica != leader_id {
            self.unplace(id, group, replica);
        } else if !leader.joint
            && let Some(to) = self.heir(id, leader_id, leader, &leader.voters())
        {
            self.direct(at, Directive::TransferLeader { group: id, to });
        }
    }

    fn unplace(&mut self, id: GroupId, group: &Group, replica: ReplicaId) {
        let (group, version) = (id, group.version);
        self.outputs.push(Output::Propose(Entry::Unplace {
            group,
            replica,
            version,
        }));
    }

    /// P10: whether a healthy majority of the voters is there without this replica: alive, and as far as the leader.
    fn can_spare(&self, id: GroupId, leader: &LeaderReport, replica: ReplicaId) -> bool {
        let voters = leader.voters();
        let sound = leader.members.iter().filter(|member| {
            member.replica != replica
                && voters.contains(&member.replica)
                && leader.is_near(member.matched)
                && self.controller.ailment(id, member.replica) != Some(Ailment::Missing)
                && self
                    .node_of(id, member.replica)
                    .is_some_and(|node| self.alive(node))
        });
        sound.count() * 2 > voters.len() || cfg!(planted = "suspect_goes_when_needed")
    }

    /// The suspect replica of a group on a node.
    fn suspect_on(&self, node: NodeId, group: GroupId) -> Option<ReplicaId> {
        let held = self.reports(node).iter();
        let suspect = held.filter(|held| held.group == group && held.suspect);
        suspect.map(|held| held.replica).next()
    }

    /// Who of `voters` can take over from the leader at once: alive, and as far as it.
    fn heir(
        &self,
        id: GroupId,
        leader_id: ReplicaId,
        leader: &LeaderReport,
        voters: &BTreeSet<ReplicaId>,
    ) -> Option<ReplicaId> {
        let heir = leader.members.iter().find(|member| {
            member.role == Role::Voter
                && member.replica != leader_id
                && voters.contains(&member.replica)
                && leader.is_near(member.matched)
                && self
                    .node_of(id, member.replica)
                    .is_some_and(|node| self.alive(node))
        });
        heir.map(|member| member.replica)
    }

    /// Who should vote: caught-up, living replicas on usable nodes, as many as there are seats; else as it is. What is
    /// neither silent nor suspect comes first; then voters stay before learners come, the leader before others, new zones
    /// before known ones.
    fn wanted_voters(
        &self,
        id: GroupId,
        group: &Group,
        leader_id: ReplicaId,
        leader: &LeaderReport,
    ) -> BTreeSet<ReplicaId> {
        let current = leader.voters();
        let seats = seats(id, self.usable.len());
        let suspect = |replica| self.controller.ailment(id, replica) == Some(Ailment::Suspect);
        let settled = |replica: &ReplicaId| {
            let placed = group.replicas.get(replica);
            // Who votes alone has nobody to take its place, unless a sound learner is there.
            placed.is_some_and(|placed| self.usable.contains(&placed.node))
                && !(seats == 1 && suspect(*replica))
        };
        // Nothing to mend: a voter that is silent for a while keeps its seat.
        if current.len() == seats && current.iter().all(settled) {
            return current;
        }
        let mut fit: Vec<(bool, bool, bool, bool, ReplicaId, NodeId)> = Vec::new();
        for member in &leader.members {
            let Some(placed) = group.replicas.get(&member.replica) else {
                continue;
            };
            let is_voter = member.role == Role::Voter;
            let is_near = leader.is_near(member.matched);
            let alive = self.alive(placed.node);
            // A silent voter may keep its seat, but nobody silent or behind gets one.
            if self.usable.contains(&placed.node) && (is_voter || (alive && is_near)) {
                let replica = member.replica;
                let (follows, unsound) = (replica != leader_id, !(alive && is_near));
                let doubtful = suspect(replica) || unsound;
                fit.push((doubtful, follows, unsound, !is_voter, replica, placed.node));
            }
        }
        fit.sort();
        let sound = fit.iter().filter(|entry| !entry.2).count();
        if fit.len() < seats || sound <= seats / 2 {
            return current;
        }
        let mut chosen = BTreeSet::new();
        let mut zones = BTreeSet::new();
        while chosen.len() < seats {
            let best = fit
                .iter()
                .filter(|entry| !chosen.contains(&entry.4))
                .min_by_key(|e| (e.0, e.1, e.2, e.3, zones.contains(&self.zone(e.5)), e.4));
            let Some(best) = best else { return current };
            chosen.insert(best.4);
            zones.insert(self.zone(best.5));
        }
        let sound = fit.iter().filter(|e| chosen.contains(&e.4) && !e.2).count();
        if sound > seats / 2 { chosen } else { current }
    }

    /// A leader that is to go hands over first (20 ms instead of 240), when somebody who stays can take over.
    fn change_voters(
        &mut self,
        id: GroupId,
        at: NodeId,
        leader_id: ReplicaId,
        leader: &LeaderReport,
        voters: BTreeSet<ReplicaId>,
    ) {
        if !cfg!(planted = "voters_even") {
            assert!(voters.len() % 2 == 1, "the number of voters is odd");
        }
        if !voters.contains(&leader_id)
            && let Some(to) = self.heir(id, leader_id, leader, &voters)
        {
            return self.direct(at, Directive::TransferLeader { group: id, to });
        }
        let from = leader.voters();
        self.direct(
            at,
            Directive::ChangeVoters {
                group: id,
                from,
                voters,
            },
        );
    }

    /// Learners that are not needed go: those on unusable nodes, and those beyond the wanted copies.
    fn remove_extras(
        &mut self,
        id: GroupId,
        group: &Group,
        at: NodeId,
        leader: &LeaderReport,
        voters: &BTreeSet<ReplicaId>,
    ) {
        let all_seated = voters.len() >= seats(id, self.usable.len())
            && voters.iter().all(|v| {
                self.node_of(id, *v)
                    .is_some_and(|n| self.usable.contains(&n))
            });
        let mut spare = copies(id, self.usable.len()).saturating_sub(voters.len());
        for (replica, placed) in &group.replicas {
            if voters.contains(replica) {
                continue;
            }
            let is_needed = self.usable.contains(&placed.node) && (!all_seated || spare > 0);
            if is_needed {
                spare = spare.saturating_sub(1);
            } else if leader
                .members
                .iter()
                .any(|member| member.replica == *replica)
            {
                let replica = *replica;
                self.direct(at, Directive::RemoveLearner { group: id, replica });
            } else {
                let replica = *replica;
                self.unplace(id, group, replica);
            }
        }
        // A learner nobody placed: left behind by an unplacing that came too early.
        for member in &leader.members {
            if member.role == Role::Learner && !group.replicas.contains_key(&member.replica) {
                let replica = member.replica;
                self.direct(at, Directive::RemoveLearner { group: id, replica });
            }
        }
    }

    /// Brings placed replicas into the group, and places what is missing.
    fn grow(
        &mut self,
        id: GroupId,
        group: &Group,
        at: NodeId,
        leader: &LeaderReport,
        may_place: bool,
    ) -> bool {
        let mut grows = false;
        let good = group
            .replicas
            .values()
            .filter(|r| self.usable.contains(&r.node))
            .count();
        for (replica, placed) in &group.replicas {
            let member = leader
                .members
                .iter()
                .find(|member| member.replica == *replica);
            if !self.usable.contains(&placed.node) || !self.alive(placed.node) {
                continue;
            }
            if member.is_some_and(|member| member.role == Role::Voter) {
                continue;
            }
            let exists = self
                .reports(placed.node)
                .iter()
                .any(|r| r.replica == *replica);
            let (group, replica, node) = (id, *replica, placed.node);
            // Where a suspect replica is it ends for the new one: not while it is needed.
            let old = self.suspect_on(node, id).filter(|_| !exists);
            if old.is_some_and(|old| !self.can_spare(id, leader, old)) {
                continue;
            }
            if !exists {
                self.direct(node, Directive::CreateReplica { group, replica });
            } else if member.is_none() {
                self.direct(
                    at,
                    Directive::AddLearner {
                        group,
                        replica,
                        node,
                    },
                );
            }
            grows |= member.is_none_or(|m| !leader.is_near(m.matched));
        }
        if good < copies(id, self.usable.len())
            && may_place
            && let Some(node) = self.pick(group)
        {
            *self.load.entry(node).or_default() += 1;
            self.outputs
                .push(Output::Propose(Entry::Place { group: id, node }));
            grows = true;
        }
        grows
    }

    /// A living, usable node without this group: one whose disk is not suspect if possible, in a new zone if possible,
    /// least used, lowest id.
    fn pick(&self, group: &Group) -> Option<NodeId> {
        let here: BTreeSet<NodeId> = group.replicas.values().map(|r| r.node).collect();
        let kept = here.iter().filter(|node| self.usable.contains(node));
        let zones: BTreeSet<_> = kept.map(|node| self.zone(*node)).collect();
        let free = self
            .usable
            .iter()
            .filter(|node| !here.contains(node) && self.alive(**node));
        free.copied().min_by_key(|node| {
            let load = self.load.get(node).copied().unwrap_or_default();
            let suspect = self.reports(*node).iter().any(|held| held.suspect);
            (suspect, zones.contains(&self.zone(*node)), load, *node)
        })
    }

    fn node_of(&self, group: GroupId, replica: ReplicaId) -> Option<NodeId> {
        Some(self.state.groups.get(&group)?.replicas.get(&replica)?.node)
    }

    /// A node's zone; one without a name is a zone of its own.
    fn zone(&self, node: NodeId) -> (&'a str, NodeId) {
        let state: &'a MasterState = self.state;
        match state.nodes.get(&node) {
            Some(known) if !known.zone.is_empty() => (known.zone.as_str(), NodeId(0)),
            _ => ("", node),
        }
    }
}
