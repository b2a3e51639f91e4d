//! A founded cluster in memory that nodes join by themselves: what tests of growth and of failures stand on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use openraft::ServerState;
use openraft_rt::watch::WatchReceiver;
use polyfs_core::attr::{FileKind, NewInode};
use polyfs_core::client::ClientConfig;
use polyfs_core::client::port::{MasterReply, MasterRequest};
use polyfs_core::codec;
use polyfs_core::ids::{ClusterId, GroupId, NodeId};
use polyfs_core::master::controller::health::Verdict;
use polyfs_core::master::entry::{Entry, Reply as Applied};
use polyfs_core::master::state::MasterState;
use polyfs_core::master::status::ClusterStatus;
use polyfs_core::place::Ino;
use polyfs_core::vfs::{AllocateMode, Call, Handle, OpenFlags, Outcome, Reply};
use polyfs_node::client::{self, ClientHandle};
use polyfs_node::founding::{self, Founding};
use polyfs_node::node::{Node, Peers};
use polyfs_node::raft::types::{GroupApplied, GroupCommand};
use polyfs_node::store::Store;
use polyfs_node::{identity, machines};
use polyfs_store::memory::MemoryDir;

use super::world::{name, store_config};
use super::{Fabric, Machine as Host};

/// Growth settles within this.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    pub(crate) fabric: Fabric,
    pub(crate) seed: u64,
    pub(crate) dirs: BTreeMap<u64, MemoryDir>,
    pub(crate) nodes: BTreeMap<u64, Node<Host>>,
    starts: u64,
}

fn address(node: u64) -> String {
    format!("{}:7000", name(node))
}

impl Cluster {
    /// A cluster of one node.
    pub(crate) async fn found(seed: u64) -> Self {
        let mut cluster = Self {
            fabric: Fabric::default(),
            seed,
            dirs: BTreeMap::from([(1, MemoryDir::new(seed))]),
            nodes: BTreeMap::new(),
            starts: 0,
        };
        cluster.start(1).await;
        let founding = Founding {
            process: 1,
            uid: 0,
            gid: 0,
            zone: String::new(),
            capacity: 0,
        };
        founding::found(&cluster.nodes[&1], &founding)
            .await
            .expect("it is founded");
        cluster
    }

    async fn open(&mut self, node: u64) -> (Host, Arc<MemoryDir>, Store<Host>) {
        self.starts += 1;
        let host = Host::new(&self.fabric, &name(node), self.seed * 1000 + self.starts);
        let seed = self.seed + node;
        let dir = self
            .dirs
            .entry(node)
            .or_insert_with(|| MemoryDir::new(seed));
        let dir = Arc::new(dir.clone());
        let store = Store::open(&host, Arc::clone(&dir), store_config())
            .await
            .expect("opens");
        (host, dir, store)
    }

    /// Starts a node that is a member already (the first one is, by founding).
    pub(crate) async fn start(&mut self, node: u64) {
        let (host, dir, mut store) = self.open(node).await;
        if store.identity.member.is_none() {
            store.identity.member = Some((ClusterId(1), NodeId(node)));
            identity::write(&*dir, &store.identity).expect("the disk works");
        }
        let machines = Arc::new(machines::of_group);
        let started = Node::start(host, store, &address(node), machines).await;
        self.nodes.insert(node, started.expect("starts"));
    }

    /// A new node, registered with the master; it knows only the address of one other.
    pub(crate) async fn join(&mut self) -> u64 {
        let next = self.dirs.keys().max().expect("there is one") + 1;
        let (_, _, store) = self.open(next).await;
        let entry = Entry::Join {
            store: store.identity.store,
            boot: store.identity.boot,
            process: u128::from(next),
            address: address(next),
            zone: String::new(),
            capacity: 0,
        };
        drop(store);
        let Applied::Joined(id) = self.propose(entry).await else {
            panic!("a new store joins")
        };
        assert_eq!(id, NodeId(next), "ids rise");
        let (host, dir, mut store) = self.open(next).await;
        store.identity.member = Some((ClusterId(1), id));
        identity::write(&*dir, &store.identity).expect("the disk works");
        let machines = Arc::new(machines::of_group);
        let started = Node::start(host, store, &address(next), machines).await;
        let started = started.expect("starts");
        let known = *self.nodes.keys().next_back().expect("some node runs");
        let addresses = BTreeMap::from([(NodeId(known), address(known))]);
        let peers = Peers {
            addresses,
            ..Peers::default()
        };
        started.learn(&peers).await.expect("the disk works");
        self.nodes.insert(next, started);
        next
    }

    /// Proposes to group 0 through whoever leads it.
    pub(crate) async fn propose(&self, entry: Entry) -> Applied {
        for _ in 0..1000 {
            for node in self.nodes.values() {
                let Some(replica) = node.replica(GroupId::MASTER) else {
                    continue;
                };
                let command = GroupCommand::new(&entry, Bytes::new());
                let written = replica.raft().client_write(command);
                let written = tokio::time::timeout(Duration::from_secs(2), written).await;
                if let Ok(Ok(done)) = written
                    && let GroupApplied::Master(reply) = done.data
                {
                    return codec::decode("master reply", &reply).expect("it is one");
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("seed {}: nobody takes {entry:?}", self.seed);
    }

    /// The power of a machine fails.
    pub(crate) async fn kill(&mut self, node: u64) {
        self.starts += 1;
        let after = self.dirs[&node].restart(self.seed + self.starts);
        self.dirs.insert(node, after);
        for other in self.dirs.keys() {
            self.fabric.cut(&name(node), &name(*other), false);
        }
        self.fabric.forget(&name(node));
        let killed = self.nodes.remove(&node).expect("it runs");
        killed.stop().await;
    }

    /// What the master says, asked through any node.
    pub(crate) async fn status(&self) -> Option<ClusterStatus> {
        for node in self.nodes.values() {
            if let Some(MasterReply::Status(status)) = node.ask_master(MasterRequest::Status).await
            {
                return Some(status);
            }
        }
        None
    }

    /// Waits until the status is as wanted; it, and how long that took.
    pub(crate) async fn until(
        &self,
        what: &str,
        good: impl Fn(&ClusterStatus) -> bool,
    ) -> (ClusterStatus, Duration) {
        let begin = tokio::time::Instant::now();
        let mut last = None;
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.status().await {
                if good(&status) {
                    return (status, begin.elapsed());
                }
                last = Some(status);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("seed {}: never: {what}; {last:#?}", self.seed);
    }

    /// Waits until health is ok with so many nodes.
    pub(crate) async fn until_ok(&self, nodes: usize) -> (ClusterStatus, Duration) {
        let good =
            |status: &ClusterStatus| status.health == Verdict::Ok && status.nodes.len() == nodes;
        self.until("health is ok", good).await
    }

    pub(crate) fn state(&self, node: u64) -> MasterState {
        let replica = self.nodes[&node].replica(GroupId::MASTER);
        let replica = replica.expect("it is a member of group 0");
        let state = replica.state().read(machines::master_state);
        state.expect("the state can be read")
    }

    /// The node that leads a group.
    pub(crate) fn leader(&self, group: GroupId) -> Option<u64> {
        let leads = |node: &Node<Host>| {
            let replica = node.replica(group)?;
            let metrics = replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader).then_some(metrics.current_term)
        };
        let leaders = self.nodes.iter();
        let leaders = leaders.filter_map(|(id, node)| Some((leads(node)?, *id)));
        leaders.max().map(|(_, id)| id)
    }

    pub(crate) fn groups(&self) -> BTreeSet<GroupId> {
        let held = self.nodes.values().flat_map(Node::groups);
        held.map(|group| group.replica().group()).collect()
    }

    /// Waits until all running replicas of a group have applied the same entries, and compares what they hold; how many
    /// there are.
    pub(crate) async fn assert_same(&self, group: GroupId) -> usize {
        for _ in 0..1000 {
            let replicas: Vec<_> = self
                .nodes
                .values()
                .filter_map(|n| n.replica(group))
                .collect();
            let applied: BTreeSet<_> = replicas
                .iter()
                .map(|replica| replica.raft().metrics().borrow_watched().last_applied)
                .collect();
            let read = |replica: &polyfs_node::raft::replica::Replica<Host>| {
                let all = replica
                    .state()
                    .read(|kv| kv.scan(&[0], &[0xff; 64], usize::MAX));
                all.expect("the state can be read")
            };
            if applied.len() == 1 {
                let all: Vec<_> = replicas.iter().map(read).collect();
                if all.windows(2).all(|two| two[0] == two[1]) {
                    return replicas.len();
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("seed {}: the replicas of {group} differ", self.seed);
    }

    pub(crate) async fn mount(&self, node: u64) -> Mount {
        let config = ClientConfig {
            volume: "default".into(),
            read_only: false,
            write_back_bytes_max: 64 << 20,
        };
        let (client, root) = client::open(self.nodes[&node].clone(), config)
            .await
            .expect("it mounts");
        Mount { client, root }
    }
}

/// A mount, and calls to it.
pub(crate) struct Mount {
    pub(crate) client: ClientHandle,
    pub(crate) root: Ino,
}

fn read_write() -> OpenFlags {
    OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    }
}

fn file() -> NewInode {
    NewInode {
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Bytes::new(),
    }
}

impl Mount {
    pub(crate) async fn call(&self, call: Call) -> Outcome {
        let (done, wait) = oneshot::channel();
        let told = move |outcome| drop(done.send(outcome));
        let (begin, what) = (tokio::time::Instant::now(), format!("{call:.60?}"));
        self.client.call(call, Box::new(told));
        let outcome = wait.await.expect("a call has an outcome");
        if begin.elapsed() > Duration::from_secs(1) {
            let what: String = what.chars().take(100).collect();
            println!("{:?} for {what}", begin.elapsed());
        }
        outcome
    }

    pub(crate) async fn make_dir(&self, name: &str) -> Ino {
        let new = NewInode {
            kind: FileKind::Directory,
            mode: 0o755,
            ..file()
        };
        let (dir, name) = (self.root, name.into());
        match self.call(Call::Make { dir, name, new }).await {
            Ok(Reply::Attr(attr)) => attr.ino,
            other => panic!("mkdir: {other:?}"),
        }
    }

    /// Creates, writes, syncs and closes.
    pub(crate) async fn write(&self, dir: Ino, name: &str, content: &[u8]) {
        let wrote = self.try_write(dir, name, content).await;
        wrote.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }

    pub(crate) async fn try_write(
        &self,
        dir: Ino,
        name: &str,
        content: &[u8],
    ) -> Result<(), polyfs_core::error::FsError> {
        let call = Call::Create {
            dir,
            name: name.into(),
            new: file(),
            flags: read_write(),
        };
        let Reply::Created(attr, handle) = self.call(call).await? else {
            panic!("create answers otherwise")
        };
        let ino = attr.ino;
        let data = Bytes::copy_from_slice(content);
        let wrote = self
            .call(Call::Write {
                ino,
                handle,
                offset: Some(0),
                data,
            })
            .await;
        let synced = self
            .call(Call::Sync {
                ino,
                handle: Some(handle),
                data_only: false,
            })
            .await;
        self.release(ino, handle).await;
        wrote.and(synced).map(drop)
    }

    /// Makes the first bytes of a file a hole.
    pub(crate) async fn punch(&self, dir: Ino, name: &str, len: u64) {
        let name = name.into();
        let found = self.call(Call::Lookup { dir, name }).await;
        let Ok(Reply::Attr(attr)) = found else {
            panic!("lookup: {found:?}")
        };
        let (ino, flags) = (attr.ino, read_write());
        let opened = self.call(Call::Open { ino, flags }).await;
        let Ok(Reply::Opened(handle)) = opened else {
            panic!("open: {opened:?}")
        };
        let punch = Call::Allocate {
            ino,
            handle,
            offset: 0,
            len,
            mode: AllocateMode::Punch,
        };
        assert_eq!(self.call(punch).await, Ok(Reply::Done));
        self.release(ino, handle).await;
    }

    async fn release(&self, ino: Ino, handle: Handle) {
        let owner = None;
        let released = self.call(Call::Release { ino, handle, owner }).await;
        assert_eq!(released, Ok(Reply::Done));
    }

    pub(crate) async fn read(&self, dir: Ino, name: &str) -> Bytes {
        let found = self
            .call(Call::Lookup {
                dir,
                name: name.into(),
            })
            .await;
        let Ok(Reply::Attr(attr)) = found else {
            panic!("{name}: {found:?}")
        };
        let ino = attr.ino;
        let opened = self
            .call(Call::Open {
                ino,
                flags: read_write(),
            })
            .await;
        let Ok(Reply::Opened(handle)) = opened else {
            panic!("{name}: {opened:?}")
        };
        let (mut all, size) = (Vec::new(), 1 << 20);
        loop {
            let offset = all.len() as u64;
            let read = self
                .call(Call::Read {
                    ino,
                    handle,
                    offset,
                    size,
                })
                .await;
            let Ok(Reply::Data(bytes)) = read else {
                panic!("{name} at {offset}: {read:?}")
            };
            if bytes.is_empty() {
                break;
            }
            all.extend_from_slice(&bytes);
        }
        self.release(ino, handle).await;
        all.into()
    }

    /// Opens a file that others write too, appends, syncs and closes.
    pub(crate) async fn append_shared(&self, dir: Ino, name: &str, content: &[u8]) {
        let found = self
            .call(Call::Lookup {
                dir,
                name: name.into(),
            })
            .await;
        let Ok(Reply::Attr(attr)) = found else {
            panic!("{name}: {found:?}")
        };
        let ino = attr.ino;
        let flags = OpenFlags {
            append: true,
            ..read_write()
        };
        let opened = self.call(Call::Open { ino, flags }).await;
        let Ok(Reply::Opened(handle)) = opened else {
            panic!("{name}: {opened:?}")
        };
        let data = Bytes::copy_from_slice(content);
        let wrote = self
            .call(Call::Write {
                ino,
                handle,
                offset: None,
                data,
            })
            .await;
        assert!(wrote.is_ok(), "{name}: {wrote:?}");
        let sync = Call::Sync {
            ino,
            handle: Some(handle),
            data_only: false,
        };
        let synced = self.call(sync).await;
        assert_eq!(synced, Ok(Reply::Done), "{name}");
        self.release(ino, handle).await;
    }

    /// How many names a directory has.
    pub(crate) async fn names(&self, ino: Ino) -> usize {
        let opened = self.call(Call::OpenDir { ino }).await;
        let Ok(Reply::Opened(handle)) = opened else {
            panic!("opendir: {opened:?}")
        };
        let (mut count, mut cookie) = (0, polyfs_core::place::Cookie(0));
        loop {
            let read = self
                .call(Call::ReadDir {
                    ino,
                    handle,
                    cookie,
                    limit: 100,
                    plus: false,
                })
                .await;
            let Ok(Reply::Entries(entries)) = read else {
                panic!("readdir: {read:?}")
            };
            let Some(last) = entries.last() else { break };
            cookie = last.cookie;
            let real = |name: &[u8]| name != b"." && name != b"..";
            count += entries.iter().filter(|entry| real(&entry.name)).count();
        }
        self.call(Call::ReleaseDir { handle })
            .await
            .expect("closes");
        count
    }
}
