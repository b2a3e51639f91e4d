//! Running nodes: a data directory, an address, a cluster, until it is told to stop.
//!
//! Owns the order of a node's coming up and going down, for every command that runs one.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use polyfs_core::ids::{ClusterId, NodeId};
use polyfs_node::founding::{self, Founding};
use polyfs_node::join::{Broken, JoinConfig, Joined, join};
use polyfs_node::node::Node;
use polyfs_node::runtime::{Listener as _, Net};
use polyfs_node::store::{Store, StoreConfig};
use polyfs_node::{Runtime as _, identity, machines};
use polyfs_runtime_tokio::{DataDirLock, TokioDir, TokioRuntime, lock_data_dir};
use polyfs_store::disk::Dir as _;

/// What a new node writes at once: the log's first files and the reserve, bytes.
const ROOM_MIN: u64 = 768 << 20;

type TokioListener = <<TokioRuntime as polyfs_node::Runtime>::Net as Net>::Listener;

/// An opened data directory, and an address that is listened at.
pub(crate) struct Ground {
    runtime: TokioRuntime,
    data: PathBuf,
    _lock: DataDirLock,
    dir: Arc<TokioDir>,
    store: Store<TokioRuntime>,
    listener: TokioListener,
    /// Where others reach it.
    pub(crate) address: String,
    process: u128,
}

/// A node that serves.
pub(crate) struct Serving {
    /// The node.
    pub(crate) node: Node<TokioRuntime>,
    broken: Broken,
    _lock: DataDirLock,
}

impl Ground {
    /// Opens `data` and listens; nothing is said to anybody yet.
    pub(crate) async fn open(
        runtime: &TokioRuntime,
        data: &Path,
        listen: &str,
        advertise: Option<&str>,
    ) -> anyhow::Result<Self> {
        // What users keep from each other in the mount they must not read here.
        let mut made = std::fs::DirBuilder::new();
        made.recursive(true).mode(0o700);
        made.create(data).with_context(|| {
            format!(
                "the data directory {} can't be made; name another with --data DIR",
                data.display()
            )
        })?;
        let lock = lock_data_dir(data)?;
        let listener = runtime.net().listen(listen).await.map_err(|error| {
            anyhow!("{error}; is the address this machine's, and the port free?")
        })?;
        let bound = listener.address();
        let address = match advertise {
            Some(address) => address.to_owned(),
            None if is_unspecified(&bound) => bail!(
                "{bound} is no address that others can dial: add --advertise HOST:PORT with this machine's own"
            ),
            None => bound,
        };
        let dir = TokioDir::open(data)
            .with_context(|| format!("the data directory {}", data.display()))?;
        let dir = Arc::new(dir);
        let store = Store::open(runtime, Arc::clone(&dir), StoreConfig::default())
            .await
            .with_context(|| what_of(data))?;
        Ok(Self {
            runtime: runtime.clone(),
            data: data.to_path_buf(),
            _lock: lock,
            dir,
            store,
            listener,
            address,
            process: u128::from(runtime.random()) << 64 | u128::from(runtime.random()),
        })
    }

    /// Whether it belongs to a cluster already.
    pub(crate) fn is_member(&self) -> bool {
        self.store.identity.member.is_some()
    }

    /// Makes an empty directory the first of a cluster of its own, without asking anybody: only for a process that runs
    /// the only waypoint itself, or none.
    pub(crate) fn found_alone(&mut self) -> anyhow::Result<()> {
        let (runtime, identity) = (&self.runtime, &mut self.store.identity);
        let drawn = u128::from(runtime.random()) << 64 | u128::from(runtime.random());
        identity.member = Some((ClusterId(drawn), NodeId(1)));
        Ok(identity::write(&*self.dir, identity)?)
    }

    /// Finds or founds a cluster by `config`, and serves.
    pub(crate) async fn serve(mut self, config: JoinConfig) -> anyhow::Result<Serving> {
        let zone = config.zone.clone();
        let capacity = config.capacity;
        let joined: Joined<TokioRuntime> =
            join(&self.runtime, &mut self.store, config, self.process).await?;
        let machines = Arc::new(machines::of_group);
        let at = (self.listener, self.address);
        let node = Node::start_on(self.runtime, self.store, at, machines).await?;
        if capacity > 0 {
            let has = node.room().total;
            if capacity > has {
                tracing::warn!(
                    "--capacity is {capacity} bytes, and the disk of {} has room for {has}: that much is offered",
                    self.data.display()
                );
            }
            node.offer_at_most(capacity);
        }
        if joined.node == NodeId(1) {
            // The root directory belongs to the user who founds.
            let owner = std::fs::metadata(&self.data)?;
            let founding = Founding {
                uid: owner.uid(),
                gid: owner.gid(),
                zone,
                capacity,
                process: self.process,
            };
            founding::found_once(&node, &founding).await?;
        }
        let broken = joined.stay(node.clone());
        Ok(Serving {
            node,
            broken,
            _lock: self._lock,
        })
    }
}

impl Serving {
    /// Completes when the node has ended or must not go on, with the reason.
    pub(crate) async fn over(&mut self) -> anyhow::Error {
        tokio::select! {
            biased;
            end = self.node.health().over() => end.into(),
            broken = self.broken.wait() => broken.into(),
        }
    }

    /// A clean end: a checkpoint makes the next start quick.
    pub(crate) async fn stop(self) {
        // What is only in memory is in the log too.
        if self.node.health().ended().is_none()
            && let Err(error) = self.node.checkpoint().await
        {
            tracing::warn!(%error, "the last checkpoint could not be made; the next start replays the log");
        }
        self.node.stop().await;
    }
}

/// What an error about the data of a node is about; where a disk is full, how much it takes.
fn what_of(data: &Path) -> String {
    let free = TokioDir::open(data).and_then(|dir| dir.space());
    match free {
        Ok(space) if space.free < ROOM_MIN => format!(
            "the data in {}, on a disk with {} MiB free (a new node needs {} MiB)",
            data.display(),
            space.free >> 20,
            ROOM_MIN >> 20
        ),
        _ => format!("the data in {}", data.display()),
    }
}

/// `0.0.0.0` and `[::]` name every address of this machine and none that can be dialled.
pub(crate) fn is_unspecified(address: &str) -> bool {
    let parsed = address.parse::<std::net::SocketAddr>();
    parsed.is_ok_and(|address| address.ip().is_unspecified())
}

/// Others can reach it.
pub(crate) fn warn_if_open(listen: &str) {
    let parsed = listen.parse::<std::net::SocketAddr>();
    let is_local =
        parsed.is_ok_and(|address| address.ip().is_loopback()) || listen.starts_with("localhost:");
    if !is_local {
        tracing::warn!(
            "listening at {listen}: traffic is not yet authenticated or encrypted; let only machines you trust reach it"
        );
    }
}
