//! `polyfs up`: a filesystem of its own, in one process.
//!
//! Owns the order of coming up and going down: data directory, node, founding, client, mount, and back. Run again on the
//! same data it resumes.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use polyfs_core::client::ClientConfig;
use polyfs_core::limits::{CALL_DEADLINE, WRITE_BACK_BYTES_MAX};
use polyfs_fuse::Mounted;
use polyfs_node::client::{self, ClientHandle};
use polyfs_node::join::JoinConfig;
use polyfs_node::node::Node;
use polyfs_node::waypoint::{self, WaypointConfig};
use polyfs_runtime_tokio::TokioRuntime;
use tokio::task::spawn_blocking;

use crate::arguments::{NODES_MAX, Up};
use crate::output::usage;
use crate::serving::{Ground, Serving, warn_if_open};
use crate::signals::End;
use crate::{apart, cluster, signals};

/// The volume that every cluster is founded with.
const VOLUME: &str = "default";
/// How often is looked whether somebody unmounted the filesystem from outside.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Who waits for a cluster says so this often.
const PATIENCE: Duration = Duration::from_secs(10);
/// An unmount that takes longer is not silent about it.
const SOON: Duration = Duration::from_secs(2);

/// Runs until told to stop.
pub(crate) fn run(options: &Up) -> anyhow::Result<()> {
    // What is wrong with the command is said before anything is asked of the machine.
    let addresses = Addresses::of(options)?;
    addresses.node(options.nodes - 1)?;
    polyfs_fuse::check(&options.mountpoint)?;
    let data = data_dir(options.data.as_deref())?;
    apart::check(&data, &options.mountpoint)?;
    // Raft, the peers and the client share one thread: two were slower.
    cluster::block_on(up(options, &addresses, &data))
}

async fn up(options: &Up, addresses: &Addresses, data: &Path) -> anyhow::Result<()> {
    none_is_left_out(data, options.nodes)?;
    let runtime = TokioRuntime::new();
    let mut end = signals::end()?;
    let mut nodes = tokio::select! {
        biased;
        () = end.wait() => return Ok(()),
        nodes = start_nodes(&runtime, options, addresses, data) => nodes?,
    };
    let first = nodes.first_mut().context("there is at least one node")?;
    let (node, over) = (first.node.clone(), first.over());
    let result = mount_and_serve(node, over, &options.mountpoint, end).await;
    for serving in nodes {
        serving.stop().await;
    }
    result
}

/// Mounts a cluster by a node of this process, until the end of either.
pub(crate) async fn mount_and_serve(
    node: Node<TokioRuntime>,
    over: impl Future<Output = anyhow::Error>,
    mountpoint: &Path,
    mut end: End,
) -> anyhow::Result<()> {
    let mut over = std::pin::pin!(over);
    let mut opening = std::pin::pin!(client::open(node, client_config(false)));
    let (client, root) = loop {
        tokio::select! {
            biased;
            () = end.wait() => return Ok(()),
            why = &mut over => return Err(why),
            opened = &mut opening => break opened?,
            () = tokio::time::sleep(PATIENCE) => tracing::warn!(
                "not mounted yet: the cluster has no majority of its nodes; start the others, polyfs status names them"
            ),
        }
    };
    let mounted = mount(client, root, mountpoint, false).await?;
    serve(mounted, over, end).await
}

/// A directory that held more nodes has their replicas: the first alone is no majority, and would wait for them.
fn none_is_left_out(data: &Path, nodes: u16) -> anyhow::Result<()> {
    let others = (nodes..NODES_MAX).map(|number| (number + 1, data.join(node_directory(number))));
    let mut left = others.filter(|(_, directory)| directory.is_dir());
    match left.next_back() {
        None => Ok(()),
        Some((count, _)) => Err(usage(format!(
            "{} holds {count} nodes: give --nodes {count}, or move those away that nobody needs any more",
            data.display()
        ))),
    }
}

/// Where the data of another node than the first lie.
fn node_directory(number: u16) -> String {
    format!("node-{}", number + 1)
}

/// The first node's data lie in the directory itself, so that it can go on alone; those of the others below it.
async fn start_nodes(
    runtime: &TokioRuntime,
    options: &Up,
    addresses: &Addresses,
    data: &Path,
) -> anyhow::Result<Vec<Serving>> {
    let mut first = Ground::open(runtime, data, &addresses.node(0)?, None).await?;
    // Nobody else can be founding: the only waypoint of this cluster does not answer yet.
    if !first.is_member() {
        first.found_alone()?;
    }
    let waypoints = match addresses.waypoint() {
        None => Vec::new(),
        Some(listen) => {
            let config = WaypointConfig {
                state: None,
                // Others may ask at once where --listen lets them: they wait until our members are registered.
                skip_warm_up: options.listen.is_none(),
            };
            vec![waypoint::serve(runtime, &listen, config).await?]
        }
    };
    let config = |address: &str| JoinConfig {
        waypoints: waypoints.clone(),
        address: address.to_owned(),
        zone: String::new(),
        capacity: 0,
        expect: 1,
        // The first one has founded.
        join_only: true,
    };
    let joining = config(&first.address);
    let mut nodes = vec![first.serve(joining).await?];
    for number in 1..options.nodes {
        let data = data.join(node_directory(number));
        let ground = Ground::open(runtime, &data, &addresses.node(number)?, None).await?;
        let joining = config(&ground.address);
        nodes.push(ground.serve(joining).await?);
    }
    Ok(nodes)
}

/// Where what `up` runs listens: on loopback at any port, or where `--listen` says and at the ports after it.
struct Addresses {
    listen: Option<SocketAddr>,
    alone: bool,
}

impl Addresses {
    fn of(options: &Up) -> anyhow::Result<Self> {
        if let Some(listen) = options.listen {
            if listen.ip().is_unspecified() || listen.port() == 0 {
                return Err(usage(format!(
                    "--listen {listen}: give an address of this machine that other machines can dial, with a port from 1 to 65535"
                )));
            }
            warn_if_open(&listen.to_string());
        }
        Ok(Self {
            listen: options.listen,
            alone: options.nodes == 1,
        })
    }

    /// Where the waypoint listens, if there is one.
    fn waypoint(&self) -> Option<String> {
        match self.listen {
            Some(listen) => Some(listen.to_string()),
            None if self.alone => None,
            None => Some("127.0.0.1:0".into()),
        }
    }

    fn node(&self, number: u16) -> anyhow::Result<String> {
        let Some(listen) = self.listen else {
            return Ok("127.0.0.1:0".into());
        };
        let port = listen.port().checked_add(number + 1);
        let port = port.ok_or_else(|| {
            usage("--listen: the nodes' ports come after this one, and there are too few: choose a lower one")
        })?;
        Ok(SocketAddr::new(listen.ip(), port).to_string())
    }
}

pub(crate) fn client_config(read_only: bool) -> ClientConfig {
    ClientConfig {
        volume: VOLUME.into(),
        read_only,
        write_back_bytes_max: WRITE_BACK_BYTES_MAX,
    }
}

pub(crate) async fn mount(
    client: ClientHandle,
    root: polyfs_core::place::Ino,
    mountpoint: &Path,
    read_only: bool,
) -> anyhow::Result<Mounted> {
    let path = mountpoint.to_path_buf();
    let options = polyfs_fuse::Options { read_only };
    let made = spawn_blocking(move || {
        let mounted = Mounted::new(client, root, &path, &options)?;
        // It answers: only then it is called mounted.
        std::fs::metadata(mounted.path())
            .map(|_| mounted)
            .map_err(anyhow::Error::from)
    });
    made.await?
}

/// Says that it is mounted and waits for the end: a signal, or an unmount from outside.
///
/// `over` completes with the reason when what it stands on has ended.
pub(crate) async fn serve(
    mounted: Mounted,
    over: impl Future<Output = anyhow::Error>,
    mut told: End,
) -> anyhow::Result<()> {
    signals::say("mounted", &mounted.path().display().to_string())?;
    let mut end = None;
    let mut over = std::pin::pin!(over);
    loop {
        tokio::select! {
            biased;
            () = told.wait() => break,
            why = &mut over => {
                end = Some(why);
                break;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                if mounted.is_gone() {
                    break;
                }
            }
        }
    }
    let mut unmounting = std::pin::pin!(spawn_blocking(move || mounted.unmount()));
    let unmounted = tokio::select! {
        unmounted = &mut unmounting => unmounted?,
        () = tokio::time::sleep(SOON) => {
            tracing::warn!(
                "still writing back and giving back; if the cluster does not answer, this ends {CALL_DEADLINE:?} after it began"
            );
            unmounting.await?
        }
    };
    match end {
        Some(why) => Err(why),
        None => Ok(unmounted?),
    }
}

/// Where data is kept: as asked, else the system's place for root and the user's own for others (XDG).
fn data_dir(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(asked) = asked {
        return Ok(asked.to_path_buf());
    }
    let is_root = std::fs::metadata("/proc/self")?.uid() == 0;
    if is_root {
        return Ok(PathBuf::from("/var/lib/polyfs"));
    }
    // What is relative is to be ignored, says the XDG Base Directory Specification: it would mean another place tomorrow.
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let home = || absolute("HOME").map(|home| home.join(".local/share"));
    match absolute("XDG_DATA_HOME").or_else(home) {
        Some(base) => Ok(base.join("polyfs")),
        None => Err(usage(
            "no place to keep data: neither XDG_DATA_HOME nor HOME names a directory; give --data DIR",
        )),
    }
}
