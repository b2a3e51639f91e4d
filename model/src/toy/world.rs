//! The toy cluster as a whole: nodes, groups, clients, the network between them, and what goes wrong.
//!
//! Owns the loop: take the next event, give it to a machine, carry out what it wants. Each machine's driver is in a
//! file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use polyfs_core::client::port::{RegionLine, ReplicaPlace};
use polyfs_core::ids::{Epoch, GroupId, NodeId, VolumeId};
use polyfs_core::limits::SESSION_TERM;
use polyfs_core::place::{Ino, PLACES, Place, Places, Salt};
use polyfs_core::region::command::Descriptor;
use polyfs_core::region::kv::KvRead;
use polyfs_core::region::mem::MemKv;
use polyfs_core::request::Space;
use polyfs_core::time::{Instant, Now, Timestamp};

use super::client::Mount;
use super::consensus::Group;
use super::events::{Askers, Event, Schedule};
use super::master::Master;
use super::router::Router;
use crate::history::{ClientId, History};
use crate::reference::Tree;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Nodes; each has a replica of each region.
    pub nodes: u64,
    /// Regions of each kind.
    pub regions: u32,
    /// Mounts.
    pub clients: u32,
    /// Calls that a mount makes at a time.
    pub threads: u32,
    /// Calls in all.
    pub calls: u32,
    /// How large files get, in bytes.
    pub file_bytes_max: u64,
    /// Of 1000 messages, how many are lost.
    pub loss_per_mille: u32,
    /// Of 1000 requests of mounts, how many come late: after others that were sent later, or after their mount's end.
    pub late_per_mille: u32,
    /// The longest ordinary delay of a message.
    pub delay_max: Duration,
    /// From which lock call on a file on a mount wishes to have its locks delegated.
    pub delegate_locks_from: u32,
    /// How often something goes wrong; `None` for never.
    pub fault_every: Option<Duration>,
    /// How often some region gets another epoch; `None` for never.
    pub epoch_every: Option<Duration>,
    /// Mounts stand still more often, also right when a lease is recalled from them.
    pub stormy: bool,
    /// Say on stderr what happens.
    pub tell: bool,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A group elects another leader; the old one does not know yet.
    Election,
    /// A node crashes and comes back.
    Crash,
    /// A node can't be reached for a while.
    Isolate,
    /// A mount's machine stands still for longer than a lease term, and goes on.
    Pause,
    /// The same, at the moment in which a lease is recalled from some mount: others change what it may have cached.
    PauseRecalled,
    /// A mount's machine dies; another one mounts instead.
    Die,
    /// The same, at the moment in which some mount's fsync has succeeded: what it promised must be there.
    DieSynced,
}

/// A toy cluster under a seed.
pub struct World {
    pub(super) config: Config,
    pub(super) random: ChaCha8Rng,
    pub(super) schedule: Schedule,
    pub(super) groups: BTreeMap<GroupId, Group>,
    /// The master's map.
    pub(super) lines: Vec<RegionLine>,
    /// Of regions that got another than the first.
    epochs: BTreeMap<GroupId, Epoch>,
    pub(super) askers: BTreeMap<(GroupId, NodeId), Askers>,
    pub(super) router: Router,
    pub(super) master: Master,
    pub(super) clients: BTreeMap<ClientId, Mount>,
    pub(super) history: History,
    /// How long the slowest call took, and which event of the history it is.
    pub(super) slowest: (Duration, usize),
    /// Calls that ended in EIO too early, of mounts that had lost nothing: after what time, and which events.
    pub(super) early_errors: Vec<(Duration, usize)>,
    marks: super::Marks,
    pub(super) calls_left: u32,
    /// Nodes nobody can reach.
    pub(super) cut_off: BTreeSet<NodeId>,
    pub(super) down: BTreeSet<NodeId>,
    pub(super) faults_left: bool,
    /// Mounts that stand still, and until when.
    paused: BTreeMap<ClientId, u64>,
    dead: BTreeSet<ClientId>,
    deaths_left: u32,
    /// The next mount dies when it has told of a successful fsync.
    pub(super) dies_synced: bool,
    /// The next mount stands still when a lease is recalled from it.
    pauses_recalled: bool,
    root: Ino,
}

/// Mounts of one seed that may die.
const DEATHS: u32 = 2;
/// A mount stands still for at least and at most so many milliseconds: longer than a lease term, not a session's life.
const PAUSE_MILLIS: core::ops::Range<u64> = 2100..6000;

/// A late request arrives after so many milliseconds: after its repetition, or after its session's end.
const LATE_MILLIS: core::ops::Range<u64> = 300..16_000;
/// The master hears of a region's epoch within so many milliseconds.
const EPOCH_HEARD_MILLIS: u64 = 1000;
/// What a mount that stood still finds waiting reaches it within so many microseconds, in any order.
const WAKE_MICROS: u64 = 1000;

/// The root's attributes, in the regions and in the reference.
const ROOT_MODE: u16 = 0o755;

impl World {
    /// A new cluster.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed);
        let root = Ino::new(Place::new(polyfs_core::place::Bucket(1), 0), 1);
        let nodes: Vec<NodeId> = (1..=config.nodes).map(NodeId).collect();
        let (mut groups, mut lines) = (BTreeMap::new(), Vec::new());
        for space in [Space::Meta, Space::Data] {
            for part in 0..config.regions {
                let group = GroupId(lines.len() as u64 + 1);
                let places = part_of(part, config.regions);
                let founded = found(space, places, root);
                let replicas = nodes.iter().map(|node| (*node, founded.clone()));
                groups.insert(group, Group::new(group, replicas));
                let replicas = groups[&group].replicas.iter();
                let place = |(node, replica): (&NodeId, &super::consensus::Replica)| ReplicaPlace {
                    replica: replica.id,
                    node: *node,
                };
                let replicas = replicas.map(place).collect();
                lines.push(RegionLine {
                    group,
                    space,
                    places,
                    epoch: Epoch(1),
                    replicas,
                    leader: None,
                });
            }
        }
        let mut world = Self {
            calls_left: config.calls,
            config,
            random,
            schedule: Schedule::default(),
            groups,
            lines,
            epochs: BTreeMap::new(),
            askers: BTreeMap::new(),
            router: Router::default(),
            master: Master::new(root),
            clients: BTreeMap::new(),
            history: History::default(),
            slowest: (Duration::ZERO, 0),
            early_errors: Vec::new(),
            marks: super::Marks::new(),
            cut_off: BTreeSet::new(),
            down: BTreeSet::new(),
            faults_left: true,
            paused: BTreeMap::new(),
            dead: BTreeSet::new(),
            deaths_left: DEATHS,
            dies_synced: false,
            pauses_recalled: false,
            root,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.elect(group);
        }
        for client in 1..=self.config.clients {
            self.mount(ClientId(client));
        }
        self.schedule
            .after(Duration::from_secs(1), Event::MasterTick);
        if let Some(every) = self.config.fault_every {
            self.schedule.after(every, Event::Fault);
        }
        if let Some(every) = self.config.epoch_every {
            self.schedule.after(every, Event::NextEpoch);
        }
    }

    /// Runs until all calls are made and everything has come to rest; at most `limit` of simulated time.
    ///
    /// # Panics
    /// When calls are still open then.
    pub fn run(&mut self, limit: Duration) {
        let limit = nanos(limit);
        while let Some(at) = self.schedule.next_at() {
            if at > limit || self.is_at_rest() {
                break;
            }
            let event = self.schedule.next().expect("there is a next event");
            if self.config.tell {
                eprintln!("{:>14} {event:?}", self.schedule.now());
            }
            if let Some(mark) = super::marks::of(&event) {
                *self.marks.entry(mark).or_default() += 1;
            }
            self.happen(event);
        }
        let open: Vec<String> = self.clients.values().flat_map(Mount::open_calls).collect();
        assert!(
            open.is_empty() && self.calls_left == 0,
            "{} calls were not made, these are open: {open:#?}",
            self.calls_left
        );
    }

    /// Lets simulated time pass without new calls or faults, so that everything converges.
    pub fn settle(&mut self, span: Duration) {
        self.heal();
        let until = self.schedule.now() + nanos(span);
        while self.schedule.next_at().is_some_and(|at| at <= until) {
            let event = self.schedule.next().expect("there is a next event");
            self.happen(event);
        }
        for group in self.groups.values_mut() {
            let nodes: Vec<NodeId> = group.replicas.keys().copied().collect();
            for node in nodes {
                group.apply(node, usize::MAX);
            }
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.faults_left = false;
        self.cut_off.clear();
        self.down.clear();
        self.config.loss_per_mille = 0;
        self.config.late_per_mille = 0;
        for group in self.leaderless() {
            self.elect(group);
        }
    }

    fn is_at_rest(&self) -> bool {
        self.calls_left == 0 && self.clients.values().all(|mount| mount.is_at_rest())
    }

    /// What happened.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// How much simulated time the slowest call took, and which event of the history it is.
    #[must_use]
    pub const fn slowest(&self) -> (Duration, usize) {
        self.slowest
    }

    /// Calls that ended in EIO long before their deadline, of mounts that had lost nothing: after what simulated time, and
    /// which events of the history. (A call that waits for a lease behind another of the same file shares its deadline.)
    #[must_use]
    pub fn early_errors(&self) -> &[(Duration, usize)] {
        &self.early_errors
    }

    /// What was exercised, and how often.
    #[must_use]
    pub const fn marks(&self) -> &super::Marks {
        &self.marks
    }

    /// The tree as it was in the beginning, for the checker.
    #[must_use]
    pub fn start(&self) -> Tree {
        Tree::new(self.root, ROOT_MODE, 0, 0)
    }

    /// The states of all replicas of each region.
    pub fn states(&self) -> impl Iterator<Item = (GroupId, Vec<&MemKv>)> {
        self.groups.iter().map(|(id, group)| {
            (
                *id,
                group
                    .replicas
                    .values()
                    .map(|replica| &replica.state)
                    .collect(),
            )
        })
    }

    /// What the audit finds wrong in the meta regions, one replica of each.
    ///
    /// # Panics
    /// When a state can't be read: memory does not fail.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        let meta = self.lines.iter().filter(|line| line.space == Space::Meta);
        let state = |line: &RegionLine| {
            let replica = self.groups[&line.group].replicas.values().next();
            &replica.expect("a group has replicas").state
        };
        let states: Vec<&dyn KvRead> = meta.map(|line| state(line) as &dyn KvRead).collect();
        polyfs_core::region::audit::meta(&states).expect("memory does not fail")
    }

    /// Simulated time and its machines' clocks, which all run alike here.
    pub(super) fn now(&self) -> Now {
        let now = self.schedule.now();
        let seconds = i64::try_from(now / 1_000_000_000).expect("simulations are short");
        let nanos = u32::try_from(now % 1_000_000_000).expect("below a second");
        Now {
            mono: Instant(now + 1),
            wall: Timestamp {
                seconds: 1_000_000 + seconds,
                nanos,
            },
        }
    }

    pub(super) fn delay(&mut self) -> Duration {
        let max = u64::try_from(self.config.delay_max.as_micros()).expect("delays are short");
        Duration::from_micros(self.random.random_range(1..=max.max(1)))
    }

    /// Whether a message gets through at all.
    pub(super) fn is_lost(&mut self) -> bool {
        self.random.random_range(0..1000) < self.config.loss_per_mille
    }

    /// How long a request of a mount is on its way.
    pub(super) fn request_delay(&mut self) -> Duration {
        let late = self.config.late_per_mille;
        if late > 0 && self.random.random_range(0..1000) < late {
            self.mark("request late");
            return Duration::from_millis(self.random.random_range(LATE_MILLIS));
        }
        self.delay()
    }

    pub(super) fn reachable(&self, node: NodeId) -> bool {
        !self.down.contains(&node) && !self.cut_off.contains(&node)
    }

    fn leaderless(&self) -> Vec<GroupId> {
        let without = |group: &Group| group.leader.is_none_or(|node| !self.reachable(node));
        self.groups
            .iter()
            .filter(|(_, group)| without(group))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Elects a leader among the nodes that can be reached, any of them.
    pub(super) fn elect(&mut self, id: GroupId) {
        let able: Vec<NodeId> = self.groups[&id]
            .replicas
            .keys()
            .copied()
            .filter(|node| self.reachable(*node))
            .collect();
        if able.len() * 2 <= self.groups[&id].replicas.len() {
            return;
        }
        let node = able[self.random.random_range(0..able.len())];
        let group = self.groups.get_mut(&id).expect("a known group");
        group.elect(node);
        let others: Vec<NodeId> = group.replicas.keys().copied().collect();
        for other in others {
            // The deposed learn late: until then they believe that they lead.
            let delay = Duration::from_millis(self.random.random_range(0..400));
            self.schedule.after(
                delay,
                Event::LearnTerm {
                    group: id,
                    node: other,
                },
            );
        }
        let delay = self.delay();
        self.schedule.after(delay, Event::Apply { group: id, node });
    }

    fn happen(&mut self, event: Event) {
        let mount = event.at_mount();
        if mount.is_some_and(|mount| self.dead.contains(&mount)) {
            return;
        }
        if let Event::Recall { client, .. } = &event
            && std::mem::take(&mut self.pauses_recalled)
        {
            self.pause_mount(*client);
        }
        let now = self.schedule.now();
        let until = mount.and_then(|mount| self.paused.get(&mount)).copied();
        if let Some(until) = until.filter(|until| *until > now) {
            let waits = Duration::from_micros(self.random.random_range(0..WAKE_MICROS));
            return self.schedule.at(until + nanos(waits), event);
        }
        match event {
            Event::Request {
                node,
                origin,
                request,
                payload,
            } => {
                self.request_arrives(node, origin, request, payload);
            }
            Event::LeaseFrame {
                node,
                client,
                message,
                session,
                renewal,
                assertions,
            } => {
                self.lease_frame_arrives(node, client, message, session, renewal, assertions);
            }
            Event::Proposed {
                group,
                node,
                term,
                token,
                proposal,
            } => {
                self.proposed(group, node, term, token, proposal);
            }
            Event::ReadIndex {
                group,
                node,
                term,
                token,
            } => {
                self.read_index(group, node, term, token);
            }
            Event::Apply { group, node } => self.apply(group, node),
            Event::LearnTerm { group, node } => self.learn_term(group, node),
            Event::LeaderTick { group, node } => self.leader_tick(group, node),
            Event::TxnAnswer {
                group,
                node,
                term,
                token,
                answer,
            } => {
                self.txn_answered(group, node, term, token, answer);
            }
            Event::QueryAnswer {
                group,
                node,
                term,
                token,
                answer,
            } => {
                self.query_answered(group, node, term, token, answer);
            }
            Event::RouterRetry { question } => self.router_retry(question),
            Event::Answer {
                origin,
                answer,
                payload,
            } => self.answered(origin, answer, payload),
            Event::MasterTick => self.master_tick(),
            Event::Fault => self.fault(),
            Event::NextEpoch => self.next_epoch(),
            Event::LearnEpoch { group, epoch } => {
                let line = self.lines.iter_mut().find(|line| line.group == group);
                let line = line.expect("a known group");
                line.epoch = line.epoch.max(epoch);
            }
            event => self.happen_to_client(event),
        }
    }

    fn master_tick(&mut self) {
        let now = self.schedule.now();
        for client in self.master.find_over(now) {
            self.history.locks_gone(client);
        }
        self.end_sessions();
        self.schedule
            .after(Duration::from_secs(1), Event::MasterTick);
        for group in self.leaderless() {
            self.elect(group);
        }
    }

    /// A region that has a leader gets its next epoch, as a split would give it one; it keeps its places. What was accepted
    /// or sent under the one before is still on its way, and the master hears of it late.
    fn next_epoch(&mut self) {
        let Some(every) = self.config.epoch_every.filter(|_| self.faults_left) else {
            return;
        };
        self.schedule.after(every, Event::NextEpoch);
        let led = |(_, group): &(&GroupId, &Group)| group.leader.is_some();
        let led: Vec<GroupId> = self.groups.iter().filter(led).map(|(id, _)| *id).collect();
        if led.is_empty() {
            return;
        }
        let id = led[self.random.random_range(0..led.len())];
        let epoch = self.epochs.entry(id).or_insert(Epoch(1));
        epoch.0 += 1;
        let epoch = *epoch;
        let group = self.groups.get_mut(&id).expect("a known group");
        group.raise_epoch(epoch);
        for node in group.replicas.keys().copied().collect::<Vec<_>>() {
            let delay = self.delay();
            self.schedule.after(delay, Event::Apply { group: id, node });
        }
        let delay = Duration::from_millis(self.random.random_range(0..EPOCH_HEARD_MILLIS));
        self.schedule
            .after(delay, Event::LearnEpoch { group: id, epoch });
        self.mark("new epoch");
    }

    fn draw_fault(&mut self) -> Fault {
        let kinds = if self.config.stormy { 13 } else { 10 };
        match self.random.random_range(0..kinds) {
            0..=2 => Fault::Election,
            3..=5 => Fault::Crash,
            6..=7 => Fault::Isolate,
            8 => Fault::Pause,
            9 if self.random.random() => Fault::Die,
            9 => Fault::DieSynced,
            _ => Fault::PauseRecalled,
        }
    }

    fn fault(&mut self) {
        if !self.faults_left {
            return;
        }
        let node = NodeId(self.random.random_range(1..=self.config.nodes));
        let fault = self.draw_fault();
        let apart = !(self.down.is_empty() && self.cut_off.is_empty());
        if apart && self.config.stormy && fault != Fault::Election {
            // Nobody is out of reach for so long that calls end in EIO.
            self.down.clear();
            self.cut_off.clear();
        }
        match fault {
            Fault::Election => {
                let groups: Vec<GroupId> = self.groups.keys().copied().collect();
                let group = groups[self.random.random_range(0..groups.len())];
                self.elect(group);
            }
            Fault::Crash if !apart => {
                self.down.insert(node);
                for group in self.groups.values_mut() {
                    group.crash(node);
                }
                self.askers.retain(|(_, at), _| *at != node);
            }
            Fault::Isolate if !apart => {
                self.cut_off.insert(node);
            }
            Fault::Pause => {
                let mount = self.any_mount();
                self.pause_mount(mount);
            }
            Fault::PauseRecalled => self.pauses_recalled = true,
            Fault::Die => {
                let mount = self.any_mount();
                self.kill_mount(mount);
            }
            Fault::DieSynced => self.dies_synced = true,
            Fault::Crash | Fault::Isolate => {
                self.down.clear();
                self.cut_off.clear();
            }
        }
        if let Some(every) = self.config.fault_every {
            let spread = self.random.next_u64() % nanos(every).max(1);
            self.schedule
                .after(every / 2 + Duration::from_nanos(spread), Event::Fault);
        }
    }
}

impl World {
    fn any_mount(&mut self) -> ClientId {
        let dead = &self.dead;
        let live = self.clients.keys().filter(|mount| !dead.contains(mount));
        let live: Vec<ClientId> = live.copied().collect();
        live[self.random.random_range(0..live.len())]
    }

    fn pause_mount(&mut self, mount: ClientId) {
        let span = Duration::from_millis(self.random.random_range(PAUSE_MILLIS));
        let now = self.schedule.now();
        let rested = |until: &u64| until + nanos(SESSION_TERM) <= now;
        if !self.paused.get(&mount).is_none_or(rested) {
            return;
        }
        let until = now + nanos(span);
        self.paused.insert(mount, until);
        self.mark("mount paused");
    }

    /// What is on its way from a dead mount still arrives; nobody ever learns how its calls ended. False when none of them
    /// may die any more.
    pub(super) fn kill_mount(&mut self, mount: ClientId) -> bool {
        if self.deaths_left == 0 || self.calls_left == 0 {
            return false;
        }
        self.deaths_left -= 1;
        self.dead.insert(mount);
        self.clients
            .get_mut(&mount)
            .expect("any of the mounts")
            .die();
        self.history.died(mount);
        self.mark("mount died");
        let last = self.clients.keys().next_back().map_or(0, |last| last.0);
        self.mount(ClientId(last + 1));
        true
    }

    pub(super) fn mark(&mut self, mark: &'static str) {
        *self.marks.entry(mark).or_default() += 1;
    }
}

fn part_of(part: u32, parts: u32) -> Places {
    let cut = |at: u32| {
        let place = u64::from(PLACES) * u64::from(at) / u64::from(parts);
        u32::try_from(place).expect("a part of all places") & !0xff
    };
    let end = if part + 1 == parts {
        PLACES
    } else {
        cut(part + 1)
    };
    Places {
        start: cut(part),
        end,
    }
}

fn found(space: Space, places: Places, root: Ino) -> MemKv {
    let mut state = MemKv::default();
    let descriptor = Descriptor {
        space,
        places,
        epoch: Epoch(1),
    };
    let root = polyfs_core::region::Root {
        ino: root,
        salt: Salt(7),
        mode: ROOT_MODE,
        uid: 0,
        gid: 0,
        volume: VolumeId(1),
        time: Timestamp::default(),
    };
    polyfs_core::region::found(&mut state, &descriptor, Some(&root)).expect("memory does not fail");
    state
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).expect("simulations are short")
}
