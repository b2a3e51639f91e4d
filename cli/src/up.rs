//! `polyfs up`: a filesystem of its own, in one process.
//!
//! Owns the order of coming up and going down: data directory, node, founding, client, mount, and back. Run again on the
//! same data it resumes.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use polyfs_core::client::ClientConfig;
use polyfs_core::ids::{ClusterId, NodeId};
use polyfs_core::limits::WRITE_BACK_BYTES_MAX;
use polyfs_fuse::Mounted;
use polyfs_node::client::{self, ClientHandle};
use polyfs_node::founding::{self, Founding};
use polyfs_node::node::Node;
use polyfs_node::store::{Store, StoreConfig};
use polyfs_node::{Runtime as _, identity, machines};
use polyfs_runtime_tokio::{TokioDir, TokioRuntime, lock_data_dir};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use crate::arguments::Up;

/// The volume that every cluster is founded with.
const VOLUME: &str = "default";
/// How often is looked whether somebody unmounted the filesystem from outside.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs until told to stop.
pub(crate) fn run(options: &Up) -> anyhow::Result<()> {
    let data = data_dir(options.data.as_deref())?;
    std::fs::create_dir_all(&data)
        .with_context(|| format!("the data directory {} can't be made", data.display()))?;
    // Raft, the peers and the client share one thread: two were slower.
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = executor.block_on(up(options, &data));
    // Reads of the disk that nobody waits for any more do not hold up the end.
    executor.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn up(options: &Up, data: &Path) -> anyhow::Result<()> {
    let _lock = lock_data_dir(data)?;
    let runtime = TokioRuntime::new();
    let node = start_node(&runtime, data).await?;
    let (client, root) = client::open(node.clone(), client_config()).await?;
    let mounted = mount(client, root, &options.mountpoint).await;
    let result = match mounted {
        Ok(mounted) => serve(mounted, &node).await,
        Err(error) => Err(error),
    };
    // What is only in memory is in the log too; a checkpoint makes the next start quick.
    if node.health().ended().is_none()
        && let Err(error) = node.checkpoint().await
    {
        tracing::warn!(%error, "the last checkpoint could not be made; the next start replays the log");
    }
    node.stop().await;
    result
}

/// Opens the data directory's node, or founds a cluster in an empty one.
async fn start_node(runtime: &TokioRuntime, data: &Path) -> anyhow::Result<Node<TokioRuntime>> {
    let opened = TokioDir::open(data);
    let dir = opened.with_context(|| format!("the data directory {}", data.display()))?;
    let dir = Arc::new(dir);
    let mut store = Store::open(runtime, Arc::clone(&dir), StoreConfig::default())
        .await
        .with_context(|| format!("the data in {}", data.display()))?;
    if store.identity.member.is_none() {
        let drawn = u128::from(runtime.random()) << 64 | u128::from(runtime.random());
        store.identity.member = Some((ClusterId(drawn), NodeId(1)));
        identity::write(&*dir, &store.identity)?;
    }
    let machines = Arc::new(machines::of_group);
    let node = Node::start(runtime.clone(), store, "127.0.0.1:0", machines).await?;
    let founding = founding(data)?;
    founding::found(&node, &founding).await?;
    Ok(node)
}

/// The root directory belongs to the user who founds.
fn founding(data: &Path) -> anyhow::Result<Founding> {
    let owner = std::fs::metadata(data)?;
    Ok(Founding {
        uid: owner.uid(),
        gid: owner.gid(),
        zone: String::new(),
        capacity: 0,
    })
}

fn client_config() -> ClientConfig {
    ClientConfig {
        volume: VOLUME.into(),
        read_only: false,
        write_back_bytes_max: WRITE_BACK_BYTES_MAX,
    }
}

async fn mount(
    client: ClientHandle,
    root: polyfs_core::place::Ino,
    mountpoint: &Path,
) -> anyhow::Result<Mounted> {
    let path = mountpoint.to_path_buf();
    let options = polyfs_fuse::Options::default();
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
async fn serve(mounted: Mounted, node: &Node<TokioRuntime>) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    say_mounted(mounted.path())?;
    let mut end = None;
    let mut over = std::pin::pin!(node.health().over());
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
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
    let unmounted = spawn_blocking(move || mounted.unmount()).await?;
    match end {
        Some(why) => Err(why.into()),
        None => Ok(unmounted?),
    }
}

fn say_mounted(path: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    writeln!(out, "mounted {}", path.display())?;
    Ok(out.flush()?)
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
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let xdg = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    match xdg.filter(|path| path.is_absolute()).or_else(home) {
        Some(base) => Ok(base.join("polyfs")),
        None => {
            bail!("no place to keep data: neither XDG_DATA_HOME nor HOME is set; give --data DIR")
        }
    }
}
