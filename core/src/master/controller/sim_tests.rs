//! The controller, simulated: nodes join, drain, fall silent and die; masters change; proposals, directives and
//! reports are lost and late.
//!
//! Laws: voters are odd, nobody votes who has not caught up, a change leaves a living majority, replicas of a group are
//! on distinct nodes (the state's own law), and after the faults everything has its goal.

use super::decide::{copies, seats};
use super::*;
use crate::ids::{BootNumber, ClusterId, StoreId};
use crate::join::Draw;
use crate::master::state::Founder;
use crate::place::Ino;
use std::format;
use std::string::{String, ToString};
use std::vec;

const CALM: u64 = 2500;
const END: u64 = 6000;
const STEP: Duration = Duration::from_secs(2);

struct Group {
    /// Role and how far each member's log is.
    members: BTreeMap<ReplicaId, (Role, u64)>,
    leader: Option<ReplicaId>,
    term: u64,
    last_log: u64,
}

impl Group {
    fn report(&self) -> LeaderReport {
        let member = |(id, (role, matched)): (&ReplicaId, &(Role, u64))| MemberReport {
            replica: *id,
            role: *role,
            matched: *matched,
        };
        let members = self.members.iter().map(member).collect();
        LeaderReport {
            term: self.term,
            last_log: self.last_log,
            joint: false,
            members,
        }
    }
}

struct World {
    draw: Draw,
    step: u64,
    state: MasterState,
    controller: Controller,
    groups: BTreeMap<GroupId, Group>,
    /// Where each replica that was created is.
    created: BTreeMap<ReplicaId, (GroupId, NodeId)>,
    /// Damaged: these never speak again, whatever their nodes are told (P1).
    lost: BTreeSet<ReplicaId>,
    /// A sync failed under these: they serve, and are replaced (P10).
    suspect: BTreeSet<ReplicaId>,
    /// Down until this step.
    down: BTreeMap<NodeId, u64>,
    late: BTreeMap<(u64, u64), Output>,
    numbers: u64,
    broken: Option<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let founder = Founder {
            store: StoreId(1),
            boot: BootNumber(1),
            process: 0,
            address: "1".to_string(),
            zone: String::new(),
            capacity: 1,
        };
        let state = MasterState::found(ClusterId(1), founder, Ino(1));
        let (mut groups, mut created) = (BTreeMap::new(), BTreeMap::new());
        for (id, group) in &state.groups {
            let replica = *group.replicas.keys().next().expect("one replica");
            created.insert(replica, (*id, NodeId(1)));
            let members = BTreeMap::from([(replica, (Role::Voter, 5000))]);
            groups.insert(
                *id,
                Group {
                    members,
                    leader: None,
                    term: 1,
                    last_log: 5000,
                },
            );
        }
        Self {
            draw: Draw::new(seed),
            step: 0,
            state,
            controller: Controller::new(Now::default()),
            groups,
            created,
            lost: BTreeSet::new(),
            suspect: BTreeSet::new(),
            down: BTreeMap::new(),
            late: BTreeMap::new(),
            numbers: 0,
            broken: None,
        }
    }

    fn now(&self) -> Now {
        let mono = Instant(0) + STEP * u32::try_from(self.step).expect("short");
        Now {
            mono,
            ..Now::default()
        }
    }

    fn up(&self, replica: ReplicaId) -> bool {
        self.created
            .get(&replica)
            .is_some_and(|(_, node)| !self.down.contains_key(node))
    }

    fn has_majority(&self, voters: &BTreeSet<ReplicaId>) -> bool {
        voters.iter().filter(|voter| self.up(**voter)).count() * 2 > voters.len()
    }

    fn voters(&self, id: GroupId) -> BTreeSet<ReplicaId> {
        let members = self.groups[&id].members.iter();
        members
            .filter(|(_, (role, _))| *role == Role::Voter)
            .map(|(id, _)| *id)
            .collect()
    }

    fn usable(&self) -> BTreeSet<NodeId> {
        let gone = |id: &NodeId| self.down.get(id) == Some(&u64::MAX);
        let nodes = self.state.nodes.iter();
        nodes
            .filter(|(id, node)| !node.draining && !gone(id))
            .map(|(id, _)| *id)
            .collect()
    }

    fn faults(&mut self) {
        let nodes = self.state.nodes.len() as u64;
        let pick = NodeId(1 + self.draw.below(nodes));
        match self.draw.below(300) {
            0..=2 if nodes < 7 => {
                let zone = format!("z{}", self.draw.below(3));
                self.state.apply(Entry::Join {
                    store: StoreId(u128::from(nodes) + 1),
                    boot: BootNumber(1),
                    process: 0,
                    address: "x".to_string(),
                    zone,
                    capacity: 1,
                });
            }
            3..=5 => {
                let until = self.step + self.draw.below(40);
                self.down.entry(pick).or_insert(until);
            }
            6 if self.usable().len() > 1 => {
                let draining = self.draw.below(2) == 0;
                self.state.apply(Entry::SetDraining {
                    node: pick,
                    draining,
                });
            }
            // For good, when everything can bear it.
            7 if self.step > 300
                && self.down.is_empty()
                && self.at_goal().is_ok()
                && self.groups.keys().all(|id| self.voters(*id).len() >= 3) =>
            {
                self.down.insert(pick, u64::MAX);
            }
            // One replica, while all others of its group live.
            11..=13 if self.down.is_empty() && self.at_goal().is_ok() => {
                let pick = self.draw.below(self.created.len() as u64);
                let pick = usize::try_from(pick).expect("small");
                let (replica, (group, _)) =
                    self.created.iter().nth(pick).expect("below the length");
                let (replica, group) = (*replica, *group);
                if self.voters(group).len() >= 3 || !self.voters(group).contains(&replica) {
                    self.lost.insert(replica);
                    self.created.remove(&replica);
                }
            }
            // The disk under a node fails a sync; however many have.
            14..=16 => self.poison(pick),
            8..=10 => self.controller = Controller::new(self.now()),
            _ => {}
        }
    }

    fn step(&mut self) {
        self.step += 1;
        let mourning = self.down.values().any(|until| *until == u64::MAX);
        if self.step < CALM && !(mourning && self.at_goal().is_err()) {
            self.faults();
        }
        let step = self.step;
        self.down.retain(|_, until| *until > step);
        self.consensus();
        self.report();
        while let Some(entry) = self.late.first_entry().filter(|e| e.key().0 <= step) {
            match entry.remove() {
                Output::Propose(entry) => drop(self.state.apply(entry)),
                Output::Direct(node, directive) => self.obey(node, directive),
            }
        }
    }

    fn consensus(&mut self) {
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            let voters = self.voters(id);
            let alive = self.has_majority(&voters);
            let ups: BTreeSet<_> = self.groups[&id].members.keys().copied().collect();
            let ups: BTreeSet<_> = ups.into_iter().filter(|r| self.up(*r)).collect();
            let grown = self.draw.below(5);
            let pick = self.draw.below(8);
            let group = self.groups.get_mut(&id).expect("there");
            let leads = |r: ReplicaId| alive && ups.contains(&r) && voters.contains(&r);
            if !group.leader.is_some_and(leads) || pick == 0 {
                let heir = voters.iter().copied().filter(|v| leads(*v));
                group.leader = heir.max_by_key(|v| (group.members[v].1, v.0 ^ pick));
                group.term += 1;
            }
            if group.leader.is_some() {
                group.last_log += grown;
                let last = group.last_log;
                for (_, (role, matched)) in
                    group.members.iter_mut().filter(|(id, _)| ups.contains(id))
                {
                    let most = if *role == Role::Voter { 5000 } else { 300 };
                    *matched = last.min(*matched + most);
                }
            }
        }
    }

    fn report(&mut self) {
        let nodes: Vec<NodeId> = self.state.nodes.keys().copied().collect();
        for node in nodes {
            if self.down.contains_key(&node) || self.draw.below(10) == 0 {
                continue;
            }
            let here = self.created.iter().filter(|(_, (_, at))| *at == node);
            let replicas = here
                .map(|(replica, (group, _))| {
                    let known = &self.groups[group];
                    let leader = (known.leader == Some(*replica)).then(|| known.report());
                    ReplicaReport {
                        group: *group,
                        replica: *replica,
                        suspect: self.suspect.contains(replica),
                        leader,
                    }
                })
                .collect();
            let input = Input::Report(NodeReport { node, replicas });
            let now = self.now();
            self.controller.handle_input(now, &self.state, input);
            while let Some(output) = self.controller.poll_output() {
                if self.draw.below(10) > 0 {
                    self.numbers += 1;
                    let at = self.step + self.draw.below(4);
                    self.late.insert((at, self.numbers), output);
                }
            }
        }
    }

    fn obey(&mut self, node: NodeId, directive: Directive) {
        if self.down.contains_key(&node) {
            return;
        }
        let leads = |world: &Self, group: GroupId| {
            let leader = world.groups[&group].leader;
            leader.is_some_and(|leader| world.created.get(&leader) == Some(&(group, node)))
        };
        match directive {
            Directive::CreateReplica { group, replica } => {
                let placed = self.state.groups[&group].replicas.contains_key(&replica);
                // A node refuses what the master no longer has placed: it asks when it starts the replica.
                if placed && !self.lost.contains(&replica) {
                    self.make_way(group, node, replica);
                    self.created.insert(replica, (group, node));
                }
            }
            Directive::DestroyReplica { group, replica } => {
                // A late AddLearner may have brought an unplaced replica back: harmless, but never with a vote.
                if self.voters(group).contains(&replica) {
                    self.broken = Some(format!("{replica} of {group} was destroyed as a voter"));
                }
                self.created.remove(&replica);
            }
            Directive::AddLearner { group, replica, .. } if leads(self, group) => {
                let members = &mut self.groups.get_mut(&group).expect("there").members;
                if self.created.contains_key(&replica) {
                    members.entry(replica).or_insert((Role::Learner, 0));
                }
            }
            Directive::RemoveLearner { group, replica } if leads(self, group) => {
                let members = &mut self.groups.get_mut(&group).expect("there").members;
                if members
                    .get(&replica)
                    .is_some_and(|(role, _)| *role == Role::Learner)
                {
                    members.remove(&replica);
                }
            }
            Directive::ChangeVoters {
                group,
                from,
                voters,
            } if leads(self, group) => {
                if self.groups[&group].report().may_change(&from, &voters) {
                    self.change_voters(group, &voters);
                }
            }
            Directive::TransferLeader { group, to } if leads(self, group) => {
                if self.up(to) && self.voters(group).contains(&to) {
                    let group = self.groups.get_mut(&group).expect("there");
                    group.leader = Some(to);
                    group.term += 1;
                }
            }
            Directive::AddLearner { .. }
            | Directive::RemoveLearner { .. }
            | Directive::ChangeVoters { .. }
            | Directive::TransferLeader { .. } => {}
        }
    }

    /// Every replica there that is not its group's only voter is suspect from now on.
    fn poison(&mut self, node: NodeId) {
        let here = self.created.iter().filter(|(_, (_, at))| *at == node);
        let here: Vec<_> = here
            .map(|(replica, (group, _))| (*replica, *group))
            .collect();
        for (replica, group) in here {
            if self.voters(group) != BTreeSet::from([replica]) {
                self.suspect.insert(replica);
            }
        }
    }

    /// A suspect replica ends when its node is told to hold another of its group. Nobody who is alive is outvoted by that.
    fn make_way(&mut self, group: GroupId, node: NodeId, next: ReplicaId) {
        let old = self.created.iter().find(|(replica, (of, at))| {
            (*of, *at) == (group, node) && **replica < next && self.suspect.contains(replica)
        });
        let Some(old) = old.map(|(replica, _)| *replica) else {
            return;
        };
        self.created.remove(&old);
        let voters = self.voters(group);
        if self.down.is_empty() && !self.has_majority(&voters) {
            self.broken = Some(format!("{group}: {old} went and was needed"));
        }
    }

    fn change_voters(&mut self, id: GroupId, voters: &BTreeSet<ReplicaId>) {
        if voters.len().is_multiple_of(2) {
            self.broken = Some(format!("{id}: an even number of voters"));
        }
        let known = &self.groups[&id];
        if !voters.iter().all(|voter| known.members.contains_key(voter)) {
            return;
        }
        for voter in voters {
            let (role, matched) = known.members[voter];
            if role == Role::Learner && matched + 64 + 60 < known.last_log {
                self.broken = Some(format!("{id}: {voter} votes and holds {matched}"));
            }
        }
        // Consensus lets a change through only with both majorities.
        if !self.has_majority(voters) || !self.has_majority(&self.voters(id)) {
            return;
        }
        let group = self.groups.get_mut(&id).expect("there");
        group
            .members
            .retain(|replica, (role, _)| voters.contains(replica) || *role == Role::Learner);
        for voter in voters {
            group.members.get_mut(voter).expect("checked").0 = Role::Voter;
        }
    }

    fn at_goal(&self) -> Result<(), String> {
        let usable = self.usable();
        for id in self.groups.keys() {
            let voters = self.voters(*id);
            let placed = &self.state.groups[id].replicas;
            let on_usable = placed.values().all(|placed| usable.contains(&placed.node));
            let (seats, copies) = (seats(*id, usable.len()), copies(*id, usable.len()));
            let recorded: BTreeSet<ReplicaId> = placed
                .iter()
                .filter(|(_, r)| r.role == Role::Voter)
                .map(|(id, _)| *id)
                .collect();
            if voters.len() != seats
                || placed.len() != copies
                || !on_usable
                || recorded != voters
                || voters.iter().any(|voter| self.lost.contains(voter))
                // Who is alone was verified in place, and nobody can take its seat.
                || (copies > 1 && voters.iter().any(|voter| self.suspect.contains(voter)))
                || self.groups[id].members.len() != copies
            {
                return Err(format!(
                    "{id}: {seats} {copies} {voters:?} {placed:?} {usable:?}"
                ));
            }
        }
        Ok(())
    }
}

fn run(seed: u64) -> Result<usize, String> {
    let mut world = World::new(seed);
    while world.step < END {
        world.step();
        if let Some(broken) = world.broken {
            return Err(format!("step {}: {broken}", world.step));
        }
        if world.step >= CALM && world.step.is_multiple_of(20) && world.at_goal().is_ok() {
            return Ok(world.state.nodes.len());
        }
    }
    let left = world.at_goal().expect_err("checked above");
    Err(format!("no goal in the end: {left}"))
}

#[test]
fn every_group_grows_and_mends_itself_by_lawful_steps() {
    let (mut failed, mut grew) = (Vec::new(), false);
    for seed in 0..150 {
        match run(seed) {
            Ok(nodes) => grew |= nodes == 7,
            Err(broken) => {
                std::eprintln!("seed {seed} failed: {broken}");
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} failed");
    assert!(grew, "some worlds grow");
}

/// P1: what a node has lost and does not report is replaced, and until then counts as no copy.
#[test]
fn a_replica_that_its_living_node_has_lost_is_replaced_and_no_copy_meanwhile() {
    let mut world = three(3);
    let lost = world.voters(GroupId(1)).pop_last().expect("three voters");
    world.lost.insert(lost);
    world.created.remove(&lost);
    let mut copies_lack = false;
    for _ in 0..400 {
        world.step();
        let health = world.controller.health(world.now().mono, &world.state);
        copies_lack |= health.under_replicated > 0;
    }
    assert!(copies_lack, "status tells of it");
    assert_eq!(world.at_goal(), Ok(()));
}

fn join(world: &mut World, node: u64) {
    world.state.apply(Entry::Join {
        store: StoreId(u128::from(node)),
        boot: BootNumber(1),
        process: 0,
        address: "x".to_string(),
        zone: String::new(),
        capacity: 1,
    });
}

/// A calm cluster of three with all its copies.
fn three(seed: u64) -> World {
    let mut world = World::new(seed);
    join(&mut world, 2);
    join(&mut world, 3);
    world.step = CALM;
    while world.at_goal().is_err() {
        world.step();
        assert!(world.step < END, "three nodes, three copies");
    }
    world
}

/// P10: what stands on a disk that failed a sync is replaced one by one, on whatever number of disks, and serves meanwhile.
#[test]
fn suspect_replicas_serve_and_are_replaced_one_by_one() {
    for count in 1..=3_u64 {
        let mut world = three(10 + count);
        for node in 1..=count {
            world.poison(NodeId(node));
        }
        let suspects = world.suspect.clone();
        assert_eq!(
            suspects.len(),
            world.groups.len() * usize::try_from(count).expect("small")
        );
        let mut told = false;
        for _ in 0..2000 {
            world.step();
            assert_eq!(world.broken, None);
            for id in world.groups.keys() {
                assert!(world.has_majority(&world.voters(*id)), "{id} is served");
            }
            let health = world.controller.health(world.now().mono, &world.state);
            told |= health.why.iter().any(|why| why.contains("failed a sync"));
        }
        assert!(told, "status tells of it");
        assert_eq!(world.at_goal(), Ok(()), "{count} disks");
        assert!(
            world
                .created
                .keys()
                .all(|replica| !suspects.contains(replica))
        );
    }
}

/// P10: the old one votes until the new one on another disk is level.
#[test]
fn a_suspect_replica_is_replaced_on_another_disk_if_there_is_one() {
    let mut world = three(30);
    join(&mut world, 4);
    world.poison(NodeId(1));
    let mut replaced = false;
    for _ in 0..2000 {
        world.step();
        for id in world.groups.keys() {
            let voters = world.voters(*id);
            assert!(
                voters.iter().all(|voter| world.up(*voter)),
                "{id}: all serve"
            );
        }
        replaced |= world.at_goal() == Ok(());
    }
    assert!(replaced);
    let placed = world
        .state
        .groups
        .values()
        .flat_map(|group| group.replicas.values());
    assert!(placed.into_iter().all(|placed| placed.node != NodeId(1)));
}

/// P10: as long as no healthy majority is there without it, a suspect replica is kept.
#[test]
fn a_suspect_replica_stays_while_it_is_needed() {
    let mut world = three(20);
    world.poison(NodeId(2));
    world.down.insert(NodeId(3), CALM + END);
    let suspects = world.suspect.clone();
    for _ in 0..60 {
        world.step();
        assert!(
            suspects
                .iter()
                .all(|suspect| world.created.contains_key(suspect))
        );
    }
    world.down.clear();
    for _ in 0..2000 {
        world.step();
    }
    assert_eq!(world.at_goal(), Ok(()));
}

#[test]
fn a_cluster_of_one_is_degraded_and_says_so() {
    let mut world = World::new(1);
    world.step();
    world.step();
    world.report();
    let health = world.controller.health(world.now().mono, &world.state);
    assert_eq!(health.verdict, health::Verdict::Degraded, "{health:?}");
    assert_eq!(
        health.why,
        vec!["one copy: add two nodes to survive the loss of one".to_string()]
    );
}
