//! A world of several nodes, a waypoint and mounts, with faults one after the other.
//!
//! Owns the plan that a seed draws, the order of a run, and the verdict over it. A run:
//!
//! ```text
//! formation ──▶ work, faults one after the other ──▶ power cut of everything ──▶ read back, audit, compare replicas
//! ```
//! At most one machine (or the ways to it) is at fault at a time, for less than a call's deadline: every call must
//! succeed, and everything acknowledged must be there at the end. Only a mount that itself stood still or was cut off may
//! say EIO, of files of which it has said that changes are lost (P8).

mod comparison;
mod faults;
mod laws;
mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft_rt::watch::WatchReceiver as _;
use parking_lot::Mutex;
use polyfs_core::ids::{ClusterId, GroupId};
use polyfs_core::master::controller::health::Verdict as Health;
use polyfs_core::master::status::ClusterStatus;
use polyfs_core::place::Ino;
use polyfs_model::history::History;
use polyfs_node::node::Node;
use polyfs_node::runtime::Lane;
use polyfs_runtime_sim::{LinkSettings, Machine, SimRuntime, Trace, World};

use crate::verdict;
use crate::workload::{Failure, Notes, Seat};

pub use faults::Fault;

/// The least simulated time of work.
const WORK: Duration = Duration::from_secs(60);
/// The least number of calls.
const CALLS_MIN: usize = 300;
/// Past this nothing moves any more.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);

/// What a seed draws.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Nodes.
    pub nodes: usize,
    /// The node that has a mount in its process, if one has.
    pub mount_inside: Option<usize>,
    /// Mounts on machines of their own.
    pub mounts_outside: usize,
    /// Work begins while the cluster grows.
    pub grows_at_work: bool,
    /// Founding waits for all nodes.
    pub expects_all: bool,
    /// Files get up to so many bytes.
    pub size_max: u64,
    /// Faults during work.
    pub faults: usize,
}

impl Plan {
    fn draw(world: &World) -> Self {
        let below = |bound: u64| usize::try_from(world.random() % bound).expect("few");
        let nodes = [3, 3, 3, 3, 3, 3, 1, 5][below(8)];
        let mount_inside = (below(3) == 0).then(|| below(nodes as u64));
        Self {
            nodes,
            mount_inside,
            mounts_outside: if mount_inside.is_some() {
                1
            } else {
                1 + below(2)
            },
            grows_at_work: below(4) == 0,
            expects_all: below(2) == 0,
            size_max: [3_000, 20_000, 150_000][below(3)],
            faults: 3 + below(4),
        }
    }
}

/// What a run was.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was drawn.
    pub plan: Plan,
    /// All calls.
    pub history: History,
    /// The volume's root.
    pub root: Ino,
    /// What is wrong with what is stored.
    pub findings: Vec<String>,
    /// What went wrong, and when.
    pub faults: Vec<(Duration, String)>,
    /// Calls that failed with EIO.
    pub failures: Vec<Failure>,
    /// Mounts that stood still or were cut off.
    pub disturbed: BTreeSet<Seat>,
    /// Its fingerprint.
    pub trace: Trace,
    /// Its events in words, when they were asked for.
    pub text: Vec<String>,
    /// Calls whose outcome is known.
    pub ended: usize,
    /// Simulated time until work began.
    pub formed: Duration,
    /// Simulated time it took.
    pub took: Duration,
    /// Clusters that nodes belong to: one.
    pub clusters: BTreeSet<ClusterId>,
    /// How often machines were started.
    pub starts: u64,
}

/// What is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Nodes find each other.
    #[default]
    Formation,
    /// Mounts work.
    Work,
    /// One mount reads back.
    End,
}

/// The volume's root, and what the audit found.
type End = (Ino, Vec<String>);

/// What test and machines share, as a test shares it: beside the simulation.
#[derive(Clone, Default)]
struct Shared {
    notes: Notes,
    phase: Arc<Mutex<Phase>>,
    nodes: Arc<Mutex<BTreeMap<usize, Node<SimRuntime>>>>,
    /// What the master said last, and how often one did.
    status: Arc<Mutex<(u64, Option<ClusterStatus>)>>,
    /// Mounts that work.
    mounted: Arc<Mutex<u64>>,
    end: Arc<Mutex<Option<End>>>,
    laws: laws::Laws,
}

impl Shared {
    fn is_in(&self, phase: Phase) -> bool {
        *self.phase.lock() == phase
    }

    fn leader(&self, group: GroupId) -> Option<usize> {
        let nodes = self.nodes.lock();
        let leads = |node: &Node<SimRuntime>| {
            let replica = node.replica(group)?;
            let raft = replica.raft();
            raft.is_leader().then_some(())
        };
        nodes
            .iter()
            .find_map(|(number, node)| leads(node).map(|()| *number))
    }

    /// Whether a node has noticed that its disk stands still.
    fn is_stalled(&self, number: usize) -> bool {
        let nodes = self.nodes.lock();
        let node = nodes.get(&number);
        node.is_some_and(|node| node.status().log_stalled)
    }

    /// The groups with other voters that a node leads, and that no other node leads by now.
    fn led_by_one_alone(&self, number: usize) -> Vec<GroupId> {
        let nodes = self.nodes.lock();
        let Some(node) = nodes.get(&number) else {
            return Vec::new();
        };
        let leads = |node: &Node<SimRuntime>, group: GroupId| {
            let replica = node.replica(group)?;
            let metrics = replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            let voters = metrics.membership_config.membership().voter_ids().count();
            let term = metrics.vote.leader_id.term;
            (metrics.state.is_leader() && voters > 1).then_some(term)
        };
        let held = node
            .groups()
            .into_iter()
            .map(|group| group.replica().group());
        held.filter(|group| {
            let mine = leads(node, *group);
            let theirs = nodes
                .values()
                .filter_map(|other| leads(other, *group))
                .max();
            mine.is_some() && mine == theirs
        })
        .collect()
    }

    fn groups(&self) -> BTreeSet<GroupId> {
        let nodes = self.nodes.lock();
        let held = nodes.values().flat_map(Node::groups);
        held.map(|group| group.replica().group()).collect()
    }
}

/// The machines of a run.
struct Machines {
    waypoint: Machine,
    nodes: Vec<Machine>,
    mounts: Vec<Machine>,
}

impl Machines {
    fn all(&self) -> impl Iterator<Item = &Machine> {
        [&self.waypoint]
            .into_iter()
            .chain(&self.nodes)
            .chain(&self.mounts)
    }

    /// As service managers do.
    fn start_what_ended(&self) {
        for machine in self.all().filter(|machine| !machine.is_running()) {
            machine.restart();
        }
    }
}

/// One run under way.
struct Course {
    world: World,
    plan: Plan,
    shared: Shared,
    machines: Machines,
    faults: Vec<(Duration, String)>,
    disturbed: BTreeSet<Seat>,
}

/// Runs a seed, and keeps its events as text if asked to.
///
/// # Panics
/// When a machine's program does, or nothing moves any more; the seed is printed then.
#[must_use]
pub fn run(seed: u64, keep_text: bool) -> Run {
    World::run(seed, async move |world| {
        if keep_text {
            world.keep_trace_text();
        }
        let mut course = Course::begin(world);
        let formed = course.form().await;
        course.work().await;
        course.end(formed).await
    })
}

impl Course {
    fn begin(world: World) -> Self {
        let plan = Plan::draw(&world);
        let shared = Shared::default();
        let waypoint = world.machine("way");
        waypoint.start(programs::waypoint);
        let mut machines = Machines {
            waypoint,
            nodes: Vec::new(),
            mounts: Vec::new(),
        };
        world.network().set_all(LinkSettings::default());
        for number in 0..plan.nodes {
            let machine = world.machine(&format!("node{number}"));
            slow_down(&world, &machine);
            machines.nodes.push(machine);
        }
        for number in 0..plan.mounts_outside {
            machines
                .mounts
                .push(world.machine(&format!("mount{number}")));
        }
        Self {
            world,
            plan,
            shared,
            machines,
            faults: Vec::new(),
            disturbed: BTreeSet::new(),
        }
    }

    /// Starts everything; returns when work begins, and when that was.
    async fn form(&mut self) -> Duration {
        if self.plan.grows_at_work {
            *self.shared.phase.lock() = Phase::Work;
        }
        for number in 0..self.plan.nodes {
            let (shared, plan) = (self.shared.clone(), self.plan);
            self.machines.nodes[number]
                .start(move |runtime| programs::node(runtime, shared.clone(), plan, number));
            let pause = self.world.random() % 3_000;
            self.world.sleep(Duration::from_millis(pause)).await;
        }
        for (number, machine) in self.machines.mounts.iter().enumerate() {
            let (shared, plan) = (self.shared.clone(), self.plan);
            machine.start(move |runtime| programs::mount(runtime, shared.clone(), plan, number));
        }
        if !self.plan.grows_at_work {
            self.until_well("the cluster forms").await;
            *self.shared.phase.lock() = Phase::Work;
        }
        self.until("a mount works", |course| *course.shared.mounted.lock() > 0)
            .await;
        self.world.now()
    }

    async fn work(&mut self) {
        let end = self.world.now() + WORK;
        for _ in 0..self.plan.faults {
            let pause = 2_000 + self.world.random() % 6_000;
            self.world.sleep(Duration::from_millis(pause)).await;
            self.some_fault().await;
            self.machines.start_what_ended();
        }
        while self.world.now() < end {
            self.world.sleep(LOOK).await;
        }
        self.until("calls end", |course| {
            course.shared.notes.ended() >= CALLS_MIN
        })
        .await;
    }

    /// The power of all nodes and mounts fails; one mount comes back and reads.
    async fn end(mut self, formed: Duration) -> Run {
        self.note("power cut of everything");
        *self.shared.phase.lock() = Phase::End;
        for machine in self.machines.nodes.iter().chain(&self.machines.mounts) {
            machine.crash();
        }
        self.shared.nodes.lock().clear();
        *self.shared.status.lock() = (0, None);
        self.world.network().heal();
        self.world.network().set_all(LinkSettings::default());
        for machine in &self.machines.nodes {
            machine.restart();
        }
        self.machines.mounts[0].restart();
        self.until("everything is read back", |course| {
            course.shared.end.lock().is_some()
        })
        .await;
        self.until_well("the cluster is well at the end").await;
        let differences = comparison::replicas(&self.world, &self.shared).await;
        let end = self.shared.end.lock().take();
        let (root, mut findings) = end.expect("it was waited for");
        findings.extend(differences);
        findings.extend(self.shared.laws.broken());
        let identity = |node: &Node<SimRuntime>| node.identity().cluster;
        let clusters = self.shared.nodes.lock().values().map(identity).collect();
        Run {
            plan: self.plan,
            history: self.shared.notes.history(),
            root,
            findings,
            faults: self.faults,
            failures: self.shared.notes.failures(),
            disturbed: self.disturbed,
            trace: self.world.trace(),
            text: self.world.trace_text(),
            ended: self.shared.notes.ended(),
            formed,
            took: self.world.now(),
            clusters,
            starts: self.machines.all().map(Machine::starts).sum(),
        }
    }

    /// Waits until the master says that all nodes are there and nothing is wrong, asked from now on.
    async fn until_well(&self, what: &str) {
        self.shared.status.lock().1 = None;
        self.until(what, |course| {
            let status = course.shared.status.lock();
            status.1.as_ref().is_some_and(|status| {
                let alone = course.plan.nodes == 1;
                status.nodes.len() == course.plan.nodes && (alone || status.health == Health::Ok)
            })
        })
        .await;
    }

    async fn until(&self, what: &str, good: impl Fn(&Self) -> bool) {
        let give_up = self.world.now() + PATIENCE;
        while !good(self) {
            if self.world.now() >= give_up {
                self.despair(what);
            }
            self.world.sleep(LOOK).await;
        }
    }

    fn despair(&self, what: &str) -> ! {
        let nodes = self.shared.nodes.lock();
        let nodes: Vec<_> = nodes.values().map(Node::status).collect();
        panic!(
            "never: {what}\nplan {:?}\nfaults {:#?}\nmaster {:#?}\nnodes {nodes:#?}\nmounted {} ended {}\nfailures {:#?}",
            self.plan,
            self.faults,
            self.shared.status.lock(),
            self.shared.mounted.lock(),
            self.shared.notes.ended(),
            self.shared.notes.failures(),
        );
    }

    fn note(&mut self, what: impl Into<String>) {
        self.faults.push((self.world.now(), what.into()));
    }
}

/// Disk work takes time, so that a cut finds some under way.
fn slow_down(world: &World, machine: &Machine) {
    let millis = |least: u64, most: u64| {
        Duration::from_millis(least)..Duration::from_millis(most + world.random() % 10)
    };
    machine.disk().set_delay(Lane::Log, millis(1, 4));
    machine.disk().set_delay(Lane::Checkpoint, millis(2, 30));
    machine.disk().set_delay(Lane::Read, millis(0, 3));
}

impl Run {
    /// Whether all is as it must be; what is not, in words.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self) -> Result<(), String> {
        if self.clusters.len() != 1 {
            return Err(format!(
                "nodes are in several clusters: {:?}",
                self.clusters
            ));
        }
        if !self.findings.is_empty() {
            return Err(format!("what is stored is wrong: {:#?}", self.findings));
        }
        let failures = self.failures.iter();
        let unexcused: Vec<_> = failures.filter(|failure| !self.excuses(failure)).collect();
        if !unexcused.is_empty() {
            return Err(format!("calls failed: {unexcused:#?}"));
        }
        verdict::judge(&self.history, self.root)
    }

    /// Leases run out where nobody can renew them: at a mount that stood still or was cut off, and when the only node is
    /// at fault. What was dirty under them may be lost, and its mount says so (P8).
    fn excuses(&self, failure: &Failure) -> bool {
        failure.was_lost && (self.plan.nodes == 1 || self.disturbed.contains(&failure.seat))
    }
}
