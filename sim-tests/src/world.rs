//! A world of one machine whose power fails again and again.
//!
//! Owns the machine's program (what `polyfs up` does, without the kernel's mount), the power cuts, and the verdict over
//! what was seen. One seed is one run.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use polyfs_core::client::ClientConfig;
use polyfs_core::ids::{ClusterId, GroupId, NodeId};
use polyfs_core::limits::WRITE_BACK_BYTES_MAX;
use polyfs_core::place::Ino;
use polyfs_core::region::audit;
use polyfs_core::region::kv::{Kv as _, KvError, KvRead};
use polyfs_core::region::mem::MemKv;
use polyfs_core::request::Space;
use polyfs_model::history::History;
use polyfs_node::client::{self, ClientHandle};
use polyfs_node::founding::{self, Founding};
use polyfs_node::node::Node;
use polyfs_node::runtime::Lane;
use polyfs_node::store::{Store, StoreConfig};
use polyfs_node::{Runtime as _, identity, machines};
use polyfs_runtime_sim::{Machine, SimRuntime, Trace, World};
use polyfs_store::disk::Dir as _;
use polyfs_store::extents::DataConfig;
use polyfs_store::state::{ReserveConfig, StateConfig};
use polyfs_store::wal::LogConfig;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::verdict;
use crate::workload::{Failure, Notes, Seat, User};

/// Power cuts in the middle of work; one more comes at the end.
const CUTS: u64 = 3;
/// The least simulated time of work.
const WORK_MIN: Duration = Duration::from_secs(60);
/// The least number of calls.
const CALLS_MIN: usize = 300;
/// Past this nothing moves any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a run was.
#[derive(Clone, Debug)]
pub struct Run {
    /// All calls.
    pub history: History,
    /// The volume's root.
    pub root: Ino,
    /// What the audit found at the end.
    pub findings: Vec<String>,
    /// Its fingerprint.
    pub trace: Trace,
    /// Its events in words, when they were asked for.
    pub text: Vec<String>,
    /// Calls whose outcome is known.
    pub ended: usize,
    /// Simulated time it took.
    pub took: Duration,
    /// How often the machine was started.
    pub starts: u64,
    /// Calls that failed with EIO.
    pub failures: Vec<Failure>,
}

/// The volume's root, and what the audit found.
type End = (Ino, Vec<String>);

/// What test and machine share, as a test shares it: beside the simulation.
#[derive(Clone, Default)]
struct Shared {
    notes: Notes,
    is_last: Arc<AtomicBool>,
    end: Arc<Mutex<Option<End>>>,
}

/// Runs a seed, and keeps its events as text if asked to.
///
/// # Panics
/// When the machine's program does, or nothing moves any more; the seed is printed then.
#[must_use]
pub fn run(seed: u64, keep_text: bool) -> Run {
    World::run(seed, async move |world| {
        if keep_text {
            world.keep_trace_text();
        }
        let (shared, machine) = (Shared::default(), world.machine("one"));
        slow_down(&world, &machine);
        // Inline files, then chunks.
        let size_max = [3_000, 20_000, 150_000][usize::try_from(world.random() % 3).expect("few")];
        let of_program = shared.clone();
        machine.start(move |runtime| live(runtime, of_program.clone(), size_max));
        for cut in 1..=CUTS {
            let span = 4_000 + world.random() % 14_000;
            world.sleep(Duration::from_millis(span)).await;
            cut_power(&world, &machine, cut == CUTS).await;
        }
        while world.now() < WORK_MIN || shared.notes.ended() < CALLS_MIN {
            assert!(world.now() < PATIENCE, "work goes on after power cuts");
            world.sleep(Duration::from_secs(1)).await;
        }
        shared.is_last.store(true, Ordering::Release);
        machine.crash();
        machine.restart();
        let patience = world.now() + PATIENCE;
        let (root, findings) = loop {
            if let Some(end) = shared.end.lock().take() {
                break end;
            }
            assert!(world.now() < patience, "everything is read back");
            world.sleep(Duration::from_millis(500)).await;
        };
        Run {
            history: shared.notes.history(),
            root,
            findings,
            trace: world.trace(),
            text: world.trace_text(),
            ended: shared.notes.ended(),
            took: world.now(),
            starts: machine.starts(),
            failures: shared.notes.failures(),
        }
    })
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

/// Cuts the power, now or in the middle of some write or sync, and lets the machine start again; sometimes the power
/// fails once more while it does.
async fn cut_power(world: &World, machine: &Machine, at_start_too: bool) {
    if world.random().is_multiple_of(2) {
        machine.disk().power_fails_after(world.random() % 60);
        let patience = world.now() + Duration::from_secs(5);
        while machine.is_running() && world.now() < patience {
            world.sleep(Duration::from_millis(1)).await;
        }
    }
    machine.crash();
    world
        .sleep(Duration::from_millis(world.random() % 2_000))
        .await;
    machine.restart();
    if at_start_too {
        machine.disk().power_fails_after(world.random() % 40);
        let patience = world.now() + Duration::from_secs(5);
        while machine.is_running() && world.now() < patience {
            world.sleep(Duration::from_millis(1)).await;
        }
        machine.crash();
        machine.restart();
    }
}

/// The machine's program.
async fn live(runtime: SimRuntime, shared: Shared, size_max: u64) {
    let (node, client, root) = match up(&runtime).await {
        Ok(up) => up,
        // The power failed while it started: this task is about to end.
        Err(_) if runtime.dir().list().is_err() => return std::future::pending().await,
        Err(error) => panic!("a node with a good disk does not come up: {error}"),
    };
    let user = User::new(runtime.clone(), client, Seat(0), &shared.notes);
    if shared.is_last.load(Ordering::Acquire) {
        user.read_back(root).await;
        let findings = audit(&node).expect("the state can be read");
        *shared.end.lock() = Some((root, findings));
        std::future::pending::<()>().await;
    }
    let mut random = ChaCha8Rng::seed_from_u64(runtime.random());
    user.work(root, size_max, &mut random).await;
}

/// What `polyfs up` does.
async fn up(
    runtime: &SimRuntime,
) -> Result<(Node<SimRuntime>, ClientHandle, Ino), Box<dyn Error + Send + Sync>> {
    let dir = Arc::new(runtime.dir());
    let mut store = Store::open(runtime, Arc::clone(&dir), small()).await?;
    if store.identity.member.is_none() {
        let drawn = u128::from(runtime.random()) << 64 | u128::from(runtime.random());
        store.identity.member = Some((ClusterId(drawn), NodeId(1)));
        identity::write(&*dir, &store.identity)?;
    }
    let machines = Arc::new(machines::of_group);
    let node = Node::start(runtime.clone(), store, "0.0.0.0:7000", machines).await?;
    let founding = Founding {
        process: 1,
        uid: 0,
        gid: 0,
        zone: String::new(),
        capacity: 0,
    };
    founding::found(&node, &founding).await?;
    let config = ClientConfig {
        volume: "default".into(),
        read_only: false,
        write_back_bytes_max: WRITE_BACK_BYTES_MAX,
    };
    let (client, root) = client::open(node.clone(), config).await?;
    Ok((node, client, root))
}

/// Small files, so that logs are recycled and data files fill.
pub(crate) fn small() -> StoreConfig {
    StoreConfig {
        log: LogConfig {
            segment_bytes: 4 << 20,
            segments_initial: 2,
            segments_max: 8,
            segments_spare: 1,
            batch_bytes_max: 2 << 20,
            cache_bytes_max: 1 << 20,
        },
        state: StateConfig {
            cache_bytes: 1 << 20,
            data: DataConfig {
                file_bytes: 16 << 20,
                step_bytes: 1 << 20,
                direct: true,
                punch_bytes_min: 64 << 10,
                fresh_bytes_max: 1 << 20,
            },
            reserve: ReserveConfig {
                part: 1 << 30,
                bytes_min: 1 << 20,
                ..ReserveConfig::default()
            },
        },
    }
}

fn audit(node: &Node<SimRuntime>) -> Result<Vec<String>, KvError> {
    let master = node
        .replica(GroupId::MASTER)
        .expect("the founder has the master");
    let state = master.state().read(machines::master_state)?;
    let mut regions = Vec::new();
    for (id, group) in &state.groups {
        if group.region.is_some_and(|(space, _)| space == Space::Meta) {
            let replica = node.replica(*id).expect("the founder has every group");
            regions.push(replica.state().read(copy)?);
        }
    }
    assert!(!regions.is_empty(), "a cluster has a meta region");
    let regions: Vec<&dyn KvRead> = regions.iter().map(|region| region as &dyn KvRead).collect();
    audit::meta(&regions)
}

pub(crate) fn copy(state: &dyn KvRead) -> Result<MemKv, KvError> {
    let mut copy = MemKv::default();
    for (key, value) in state.scan(&[0], &[u8::MAX; 64], usize::MAX)? {
        copy.put(&key, &value)?;
    }
    Ok(copy)
}

impl Run {
    /// Whether all is as it must be; what is not, in words.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self) -> Result<(), String> {
        if !self.findings.is_empty() {
            return Err(format!("the audit found {:#?}", self.findings));
        }
        if !self.failures.is_empty() {
            return Err(format!("calls failed: {:#?}", self.failures));
        }
        if self.ended < CALLS_MIN {
            return Err(format!("only {} calls ended", self.ended));
        }
        verdict::judge(&self.history, self.root)
    }
}
