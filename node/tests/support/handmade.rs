//! A whole cluster on the three nodes of a world, founded by hand, and mounts on it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use polyfs_core::attr::{FileKind, NewInode};
use polyfs_core::client::ClientConfig;
use polyfs_core::error::FsError;
use polyfs_core::ids::{ClusterId, GroupId, NodeId, VolumeId};
use polyfs_core::master::entry::{Entry, Reply as Applied, Role};
use polyfs_core::master::state::{Founder, MasterState};
use polyfs_core::place::{Ino, Salt};
use polyfs_core::region::command::Descriptor;
use polyfs_core::region::{self, Root};
use polyfs_core::time::Timestamp;
use polyfs_core::vfs::{Call, Handle, LockOwner, OpenFlags, Outcome, Reply};
use polyfs_node::access::Access;
use polyfs_node::client::{self, ClientHandle};
use polyfs_node::find::Finder;
use polyfs_node::machines;
use polyfs_node::node::Peers;

use super::Machine as Host;
use super::world::{NODES, ROOT, World};

/// The state of a cluster whose every group is on all three nodes.
fn state(world: &World) -> MasterState {
    let identity = |node: u64| world.nodes[&node].identity();
    let first = identity(1);
    let founder = Founder {
        store: first.store,
        boot: first.boot,
        process: 1,
        address: world.nodes[&1].address(),
        zone: String::new(),
        capacity: 1 << 30,
    };
    let mut state = MasterState::found(ClusterId(1), founder, ROOT);
    for node in 2..=NODES {
        let joined = state.apply(Entry::Join {
            store: identity(node).store,
            boot: identity(node).boot,
            process: node.into(),
            address: world.nodes[&node].address(),
            zone: String::new(),
            capacity: 1 << 30,
        });
        assert_eq!(joined, Applied::Joined(NodeId(node)));
        let groups: Vec<GroupId> = state.groups.keys().copied().collect();
        for group in groups {
            let node = NodeId(node);
            let Applied::Placed(replica) = state.apply(Entry::Place { group, node }) else {
                panic!("a node has room");
            };
            let role = Role::Voter;
            state.apply(Entry::SetRole {
                group,
                replica,
                role,
            });
        }
    }
    state
}

/// Founds it; every group starts with an election among all three.
pub(crate) async fn found_cluster(world: &World) {
    let state = state(world);
    let mut peers = Peers::default();
    for (group, known) in &state.groups {
        for (replica, placed) in &known.replicas {
            peers.replicas.insert((*group, *replica), placed.node);
        }
    }
    let root = Root {
        mode: 0o755,
        ino: ROOT,
        salt: Salt(7),
        uid: 0,
        gid: 0,
        volume: VolumeId(1),
        time: Timestamp::default(),
    };
    for (number, node) in &world.nodes {
        node.learn(&peers).await.expect("the disk works");
        for (group, known) in &state.groups {
            let placed = |(_, placed): &(_, &polyfs_core::master::state::Replica)| {
                placed.node == NodeId(*number)
            };
            let (id, _) = known.replicas.iter().find(placed).expect("on every node");
            let made = node.create_replica(*group, *id, |kv| match known.region {
                None => machines::found_master(kv, &state),
                Some((space, places)) => {
                    let epoch = known.epoch;
                    let descriptor = Descriptor {
                        space,
                        places,
                        epoch,
                    };
                    region::found(kv, &descriptor, Some(&root))
                }
            });
            made.await.expect("a replica is made");
        }
    }
    for (number, (group, known)) in state.groups.iter().enumerate() {
        let members: BTreeMap<u64, ()> = known.replicas.keys().map(|id| (id.0, ())).collect();
        let first = 1 + u64::try_from(number).expect("few") % NODES;
        let replica = world.nodes[&first].replica(*group).expect("it was made");
        replica.raft().initialize(members).await.expect("it is new");
    }
}

/// A mount of the cluster's volume.
pub(crate) struct Mount {
    client: ClientHandle,
    pub(crate) root: Ino,
}

fn config() -> ClientConfig {
    ClientConfig {
        volume: "default".into(),
        read_only: false,
        write_back_bytes_max: 1 << 20,
    }
}

pub(crate) const FLAGS: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: true,
    sync: false,
    direct: false,
    exclusive: false,
};

impl Mount {
    /// On a machine of its own.
    pub(crate) async fn outside(world: &World, machine: &str) -> Self {
        let access = outside(world, machine).await;
        let opened = client::open_through(access, config());
        let opened = tokio::time::timeout(Duration::from_secs(10), opened).await;
        let (client, root) = opened.expect("a master answers").expect("it has a volume");
        Self { client, root }
    }

    /// On a node's machine.
    pub(crate) async fn inside(world: &World, node: u64) -> Self {
        let opened = client::open(world.nodes[&node].clone(), config());
        let opened = tokio::time::timeout(Duration::from_secs(10), opened).await;
        let (client, root) = opened.expect("a master answers").expect("it has a volume");
        Self { client, root }
    }

    pub(crate) async fn call(&self, call: Call) -> Outcome {
        let (done, wait) = oneshot::channel();
        self.client
            .call(call, Box::new(move |outcome| drop(done.send(outcome))));
        wait.await.expect("a call has an outcome")
    }

    pub(crate) async fn make(&self, dir: Ino, name: &str, kind: FileKind) -> Ino {
        let call = Call::Make {
            dir,
            name: name.into(),
            new: new(kind),
        };
        match self.call(call).await {
            Ok(Reply::Attr(attr)) => attr.ino,
            other => panic!("making {name} ended {other:?}"),
        }
    }

    pub(crate) async fn create(&self, dir: Ino, name: &str) -> (Ino, Handle) {
        let call = Call::Create {
            dir,
            name: name.into(),
            new: new(FileKind::Regular),
            flags: FLAGS,
        };
        match self.call(call).await {
            Ok(Reply::Created(attr, handle)) => (attr.ino, handle),
            other => panic!("creating {name} ended {other:?}"),
        }
    }

    /// Writes a file of the root and waits until it is durable.
    pub(crate) async fn write(&self, name: &str, data: &[u8]) {
        let (ino, handle) = self.create(self.root, name).await;
        let mut offset = 0;
        for part in data.chunks(128 << 10) {
            let call = Call::Write {
                ino,
                handle,
                offset: Some(offset),
                data: Bytes::copy_from_slice(part),
            };
            assert!(self.call(call).await.is_ok(), "writing {name}");
            offset += part.len() as u64;
        }
        // The last is left to a recall or to age.
        if !name.starts_with("shared") && data.len() != 5 {
            let sync = Call::Sync {
                ino,
                handle: Some(handle),
                data_only: false,
            };
            let synced = self.call(sync).await;
            assert_eq!(synced, Ok(Reply::Done), "syncing {name}");
        }
        let owner = Some(LockOwner(1));
        let released = self.call(Call::Release { ino, handle, owner }).await;
        assert_eq!(released, Ok(Reply::Done));
    }

    pub(crate) async fn lookup(&self, dir: Ino, name: &str) -> Result<Ino, FsError> {
        let name = name.into();
        match self.call(Call::Lookup { dir, name }).await? {
            Reply::Attr(attr) => Ok(attr.ino),
            other => panic!("a lookup ended {other:?}"),
        }
    }

    /// Reads a file of the root whole.
    pub(crate) async fn read(&self, name: &str) -> Vec<u8> {
        let ino = self.lookup(self.root, name).await.expect("it is there");
        let flags = OpenFlags {
            write: false,
            truncate: false,
            ..FLAGS
        };
        let Ok(Reply::Opened(handle)) = self.call(Call::Open { ino, flags }).await else {
            panic!("{name} can't be opened");
        };
        let mut all = Vec::new();
        loop {
            let call = Call::Read {
                ino,
                handle,
                offset: all.len() as u64,
                size: 128 << 10,
            };
            match self.call(call).await {
                Ok(Reply::Data(data)) if data.is_empty() => break,
                Ok(Reply::Data(data)) => all.extend_from_slice(&data),
                other => panic!("reading {name} ended {other:?}"),
            }
        }
        let owner = None;
        let released = self.call(Call::Release { ino, handle, owner }).await;
        assert_eq!(released, Ok(Reply::Done));
        all
    }

    pub(crate) async fn unmount(self) {
        let (done, wait) = oneshot::channel();
        self.client.unmount(Box::new(move || {
            let _ = done.send(());
        }));
        wait.await.expect("a mount ends");
    }
}

fn new(kind: FileKind) -> NewInode {
    NewInode {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Bytes::new(),
    }
}

/// A tool's way to the cluster from a machine of its own.
pub(crate) async fn outside(world: &World, machine: &str) -> Access<Host> {
    let seed = machine.bytes().map(u64::from).sum::<u64>() + world.seed;
    let host = Host::new(&world.fabric, machine, seed);
    let addresses = world.nodes.values().map(|node| node.address()).collect();
    let finder = Finder::nodes(host.clone(), addresses);
    let access = Access::outside(host, finder).await;
    access.expect("the cluster is there")
}
