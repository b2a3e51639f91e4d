//! What runs on the machines: what `polyfs waypoint`, `polyfs node` and `polyfs mount` do, without the kernel's part.
//!
//! Owns the order of each program's life. Deliberately knows nothing of faults.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use polyfs_core::client::ClientConfig;
use polyfs_core::client::port::{MasterReply, MasterRequest};
use polyfs_core::ids::{GroupId, NodeId};
use polyfs_core::limits::WRITE_BACK_BYTES_MAX;
use polyfs_core::place::Ino;
use polyfs_node::access::Access;
use polyfs_node::client::{self, ClientHandle};
use polyfs_node::find::Finder;
use polyfs_node::founding::{self, Founding};
use polyfs_node::fsck;
use polyfs_node::join::{Broken, JoinConfig, join};
use polyfs_node::node::Node;
use polyfs_node::runtime::{Listener as _, Net as _};
use polyfs_node::store::Store;
use polyfs_node::waypoint::{self, WaypointConfig};
use polyfs_node::{Runtime as _, machines};
use polyfs_runtime_sim::SimRuntime;
use polyfs_store::disk::Dir as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::{Phase, Plan, Shared};
use crate::workload::{Seat, User};
use crate::world::small;

const WAYPOINT: &str = "way:7790";
/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);
/// The seat of the mount in a node's process; those of the others are numbered.
pub(super) const INSIDE: Seat = Seat(100);

type AnyError = Box<dyn Error + Send + Sync>;

/// `polyfs waypoint --state`.
pub(super) async fn waypoint(runtime: SimRuntime) {
    let config = WaypointConfig {
        state: Some((Arc::new(runtime.dir()), "state".into())),
        skip_warm_up: false,
    };
    match waypoint::serve(&runtime, "0.0.0.0:7790", config).await {
        Ok(_) => std::future::pending().await,
        Err(error) => panic!("a waypoint with a good disk does not come up: {error}"),
    }
}

/// `polyfs node`.
pub(super) async fn node(runtime: SimRuntime, shared: Shared, plan: Plan, number: usize) {
    let came_up = come_up(&runtime, &shared, plan, number).await;
    let (node, mut broken, look) = match came_up {
        Ok(up) => up,
        // The power failed while it started: this task is about to end.
        Err(_) if runtime.dir().list().is_err() => return std::future::pending().await,
        Err(error) => panic!("node {number} with a good disk does not come up: {error}"),
    };
    shared.nodes.lock().insert(number, node.clone());
    runtime.spawn(watch(node.clone(), shared.clone(), look));
    if plan.mount_inside == Some(number) {
        runtime.spawn(mount_inside(node.clone(), shared, plan));
    }
    let over = async { node.health().over().await.to_string() };
    let broken = async { broken.wait().await.to_string() };
    let why = futures::future::select(Box::pin(over), Box::pin(broken));
    let why = why.await.factor_first().0;
    if runtime.dir().list().is_err() {
        return std::future::pending().await;
    }
    panic!("node {number} with a good disk must not go on: {why}");
}

/// A node, what ends it, and what looks at the leaders among its replicas.
type CameUp = (Node<SimRuntime>, Broken, Box<dyn Fn() + Send>);

async fn come_up(
    runtime: &SimRuntime,
    shared: &Shared,
    plan: Plan,
    number: usize,
) -> Result<CameUp, AnyError> {
    let listener = runtime.net().listen("0.0.0.0:7000").await?;
    drop(listener.address());
    let address = format!("node{number}:7000");
    let mut store = Store::open(runtime, Arc::new(runtime.dir()), small()).await?;
    let process = u128::from(runtime.random()) << 64 | u128::from(runtime.random());
    let expect = if plan.expects_all { plan.nodes } else { 1 };
    let config = JoinConfig {
        waypoints: vec![WAYPOINT.into()],
        address: address.clone(),
        zone: String::new(),
        capacity: 0,
        expect: u32::try_from(expect).expect("few"),
        join_only: false,
    };
    let joined = join(runtime, &mut store, config, process).await?;
    let machines = Arc::new(machines::of_group);
    let started = runtime.now().mono;
    let node = Node::start_on(runtime.clone(), store, (listener, address), machines).await?;
    let look = Box::new(shared.laws.came_up(number, &node, started));
    if joined.node == NodeId(1) {
        let founding = Founding {
            uid: 0,
            gid: 0,
            zone: String::new(),
            capacity: 0,
            process,
        };
        founding::found_once(&node, &founding).await?;
    }
    let broken = joined.stay(node.clone());
    Ok((node, broken, look))
}

/// Notes what the master says, when it is here, and who leads.
async fn watch(node: Node<SimRuntime>, shared: Shared, look: Box<dyn Fn() + Send>) {
    loop {
        look();
        let leads =
            |replica: polyfs_node::raft::replica::Replica<SimRuntime>| replica.raft().is_leader();
        if node.replica(GroupId::MASTER).is_some_and(leads)
            && let Some(MasterReply::Status(status)) = node.ask_master(MasterRequest::Status).await
        {
            let mut noted = shared.status.lock();
            *noted = (noted.0 + 1, Some(status));
        }
        node.runtime().sleep(LOOK).await;
    }
}

fn client_config() -> ClientConfig {
    ClientConfig {
        volume: "default".into(),
        read_only: false,
        write_back_bytes_max: WRITE_BACK_BYTES_MAX,
    }
}

async fn until_work(runtime: &SimRuntime, shared: &Shared) {
    while shared.is_in(Phase::Formation) {
        runtime.sleep(LOOK).await;
    }
}

/// `polyfs node --mount`: the part of it that is a mount.
async fn mount_inside(node: Node<SimRuntime>, shared: Shared, plan: Plan) {
    let runtime = node.runtime().clone();
    until_work(&runtime, &shared).await;
    if shared.is_in(Phase::End) {
        return;
    }
    if let Ok((client, root)) = client::open(node, client_config()).await {
        work(runtime, shared, plan, INSIDE, (client, root)).await;
    }
}

async fn work(
    runtime: SimRuntime,
    shared: Shared,
    plan: Plan,
    seat: Seat,
    (client, root): (ClientHandle, Ino),
) {
    let mut random = ChaCha8Rng::seed_from_u64(runtime.random());
    let user = User::new(runtime, client, seat, &shared.notes);
    *shared.mounted.lock() += 1;
    user.work(root, plan.size_max, &mut random).await;
}

/// `polyfs mount`, tried until it works; at the end it reads everything back instead.
pub(super) async fn mount(runtime: SimRuntime, shared: Shared, plan: Plan, number: usize) {
    until_work(&runtime, &shared).await;
    let access = loop {
        let finder = Finder::waypoints(runtime.clone(), vec![WAYPOINT.into()]);
        match Access::outside(runtime.clone(), finder).await {
            Ok(access) => break access,
            Err(_) => runtime.sleep(LOOK).await,
        }
    };
    let opened = client::open_through(access.clone(), client_config()).await;
    let (client, root) = opened.expect("the volume is there from the founding on");
    let seat = Seat(u32::try_from(number).expect("few"));
    if !shared.is_in(Phase::End) {
        return work(runtime, shared, plan, seat, (client, root)).await;
    }
    let user = User::new(runtime.clone(), client, seat, &shared.notes);
    user.read_back(root).await;
    let findings = audit(&runtime, access).await;
    *shared.end.lock() = Some((root, findings));
    std::future::pending::<()>().await;
}

/// `polyfs fsck`, asked again while it can't be made.
async fn audit(runtime: &SimRuntime, access: Access<SimRuntime>) -> Vec<String> {
    let mut last = String::new();
    for _ in 0..20 {
        match fsck::run(access.clone(), &|_| ()).await {
            Ok(report) if report.unsettled == 0 => {
                let findings = report.findings.iter();
                return findings.map(|finding| format!("{finding:?}")).collect();
            }
            Ok(report) => last = format!("{} records do not settle", report.unsettled),
            Err(error) => last = error.to_string(),
        }
        runtime.sleep(LOOK).await;
    }
    vec![format!("no audit can be made: {last}")]
}
