//! Three nodes in memory and the groups they share: what tests of whole nodes stand on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::{ReadPolicy, ServerState};
use openraft_rt::watch::WatchReceiver;
use polyfs_core::ids::{
    ClusterId, Epoch, GroupId, NodeId, Renewal, ReplicaId, SessionId, VolumeId,
};
use polyfs_core::place::{Bucket, Ino, Place, Places, Salt};
use polyfs_core::region::command::{Applied, Command, CommandBody, Descriptor};
use polyfs_core::region::key::{self, Kind};
use polyfs_core::region::kv::{Kv, KvError, KvRead};
use polyfs_core::region::leader::port::{Asker, Input, Output, Token};
use polyfs_core::region::{Root, found};
use polyfs_core::request::{
    Answer, Aside, ChunkName, Header, Leadership, MetaOp, MetaReply, Refusal, Renewed, Request,
    RequestBody, SlotUse, Space,
};
use polyfs_core::time::{Instant, Now, Timestamp};
use polyfs_node::group::Leading;
use polyfs_node::identity;
use polyfs_node::machines;
use polyfs_node::node::{Node, Peers};
use polyfs_node::raft::state::Machine;
use polyfs_node::raft::types::{GroupApplied, GroupCommand, Vote, log_id};
use polyfs_node::store::{Store, StoreConfig};
use polyfs_node::wire::{RaftCall, Refused, Reply, VoteAsk};
use polyfs_store::memory::MemoryDir;
use polyfs_store::wal::LogConfig;
use serde::{Deserialize, Serialize};

use super::{Fabric, Machine as Host};

pub(crate) const GROUP: GroupId = GroupId(7);
pub(crate) const NODES: u64 = 3;
pub(crate) const META: GroupId = GroupId(8);
pub(crate) const DATA: GroupId = GroupId(9);
pub(crate) const ROOT: Ino = Ino::new(Place::new(Bucket(1), 0), 1);

/// What the groups of these tests order: a key set, and the payload written to a chunk.
#[derive(Serialize, Deserialize)]
pub(crate) struct Put {
    pub(crate) key: u64,
    pub(crate) value: u64,
}

pub(crate) struct Puts;

pub(crate) fn chunk(number: u64) -> ChunkName {
    ChunkName {
        ino: Ino::new(Place(5), 1),
        version: 1,
        number,
    }
}

pub(crate) fn put_key(key: u64) -> Vec<u8> {
    [&[0x10][..], &key.to_be_bytes()].concat()
}

impl Machine for Puts {
    fn lead(
        &self,
        _: Leadership,
        _: u64,
        _: Now,
        _: &dyn KvRead,
    ) -> Result<Option<Box<dyn Leading>>, KvError> {
        Ok(Some(Box::new(Clerk::default())))
    }

    fn apply(&self, kv: &mut dyn Kv, command: &GroupCommand) -> Result<GroupApplied, KvError> {
        if let Ok(command) = command.decode::<Command>("command") {
            kv.put(&put_key(1 << 40), &command.epoch.0.to_be_bytes())?;
            let answer = Answer::Meta(Ok(MetaReply::Done));
            return Ok(GroupApplied::Region(Applied::Answer(answer)));
        }
        let put: Put = command.decode("put")?;
        kv.put(&put_key(put.key), &put.value.to_be_bytes())?;
        if !command.payload.is_empty() {
            kv.put(&key::chunk(Kind::Chunk, &chunk(put.key)), b"chunk")?;
            kv.write_chunk(&chunk(put.key), 0, &command.payload)?;
        }
        Ok(GroupApplied::Master(Bytes::new()))
    }
}

/// The simplest leader: operations are ordered, queries answered with what the state holds, frames confirmed.
#[derive(Default)]
pub(crate) struct Clerk {
    next: u64,
    waiting: BTreeMap<Token, (Asker, bool)>,
    outputs: VecDeque<Output>,
}

impl Clerk {
    fn token(&mut self, asker: Asker, renewal: bool) -> Token {
        self.next += 1;
        self.waiting.insert(Token(self.next), (asker, renewal));
        Token(self.next)
    }
}

impl Leading for Clerk {
    fn handle_input(&mut self, _: Now, state: &dyn KvRead, input: Input) -> Result<(), KvError> {
        let output = match input {
            Input::Request {
                asker,
                request,
                payload,
            } => match request.body {
                RequestBody::MetaOp(op) => {
                    let token = self.token(asker, false);
                    let header = request.header;
                    let command = Command {
                        epoch: header.epoch,
                        session: header.session,
                        renewal: header.renewal,
                        slot: header.slot,
                        time: header.seen,
                        unseen: vec![],
                        body: CommandBody::Meta(op),
                    };
                    Output::Propose {
                        token,
                        command,
                        payload,
                    }
                }
                _ => Output::ReadIndex {
                    token: self.token(asker, false),
                },
            },
            Input::Renew { asker, .. } => Output::ReadIndex {
                token: self.token(asker, true),
            },
            Input::Applied {
                token,
                applied: Applied::Answer(answer),
            } => {
                let (asker, _) = self.waiting.remove(&token).expect("it was proposed");
                Output::Answer {
                    asker,
                    answer,
                    payload: Bytes::new(),
                }
            }
            Input::ReadReady { token } => {
                match self.waiting.remove(&token).expect("it was asked") {
                    (asker, true) => {
                        let (group, term) = (GroupId(1), 1);
                        let renewed = Some(Renewed {
                            by: Leadership { group, term },
                            waits: false,
                            taken: vec![],
                            epoch: Epoch(1),
                            recalled: vec![],
                        });
                        Output::Renewed { asker, renewed }
                    }
                    (asker, false) => {
                        let value = state.get(&put_key(1 << 40))?.unwrap_or_default();
                        let answer = Answer::Meta(Ok(MetaReply::Bytes(value.into())));
                        Output::Answer {
                            asker,
                            answer,
                            payload: Bytes::new(),
                        }
                    }
                }
            }
            Input::Unknown { token } | Input::ReadFailed { token } => {
                let (asker, _) = self.waiting.remove(&token).expect("it was asked");
                let answer = Answer::Refused(Refusal::Unavailable("again".into()));
                Output::Answer {
                    asker,
                    answer,
                    payload: Bytes::new(),
                }
            }
            _ => return Ok(()),
        };
        self.outputs.push_back(output);
        Ok(())
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }
}

/// The directories whose names an entry changes: nobody has views here.
fn named_in(body: &CommandBody) -> Vec<Ino> {
    match body {
        CommandBody::Meta(MetaOp::Make { dir, .. } | MetaOp::Link { dir, .. }) => vec![*dir],
        _ => vec![],
    }
}

pub(crate) fn request(epoch: u64, body: RequestBody) -> Request {
    let header = Header {
        group: GROUP,
        epoch: Epoch(epoch),
        session: SessionId(5),
        renewal: Renewal(1),
        slot: None,
        seen: Timestamp::default(),
        aside: Aside::default(),
    };
    Request { header, body }
}

pub(crate) fn store_config() -> StoreConfig {
    let mut config = StoreConfig {
        log: LogConfig {
            segment_bytes: 4 << 20,
            segments_initial: 2,
            batch_bytes_max: 1 << 20,
            cache_bytes_max: 1 << 20,
            ..LogConfig::default()
        },
        ..StoreConfig::default()
    };
    config.state.data.file_bytes = 64 << 20;
    config.state.data.step_bytes = 4 << 20;
    config.state.reserve.bytes_min = 1 << 20;
    config.state.reserve.part = 1 << 40;
    config
}

pub(crate) struct World {
    pub(crate) fabric: Fabric,
    pub(crate) seed: u64,
    pub(crate) dirs: BTreeMap<u64, MemoryDir>,
    pub(crate) nodes: BTreeMap<u64, Node<Host>>,
    starts: u64,
    log: LogConfig,
}

pub(crate) fn name(node: u64) -> String {
    format!("m{node}")
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        Self::with_log(seed, store_config().log).await
    }

    /// The same with another log on each node.
    pub(crate) async fn with_log(seed: u64, log: LogConfig) -> Self {
        let dirs = (1..=NODES)
            .map(|node| (node, MemoryDir::new(seed + node)))
            .collect();
        let mut world = Self {
            fabric: Fabric::default(),
            seed,
            dirs,
            nodes: BTreeMap::new(),
            starts: 0,
            log,
        };
        for node in 1..=NODES {
            world.start(node).await;
        }
        let replicas = (1..=NODES).map(|node| ((GROUP, ReplicaId(10 + node)), NodeId(node)));
        let replicas: BTreeMap<_, _> = replicas.collect();
        for node in 1..=NODES {
            let peers = Peers {
                replicas: replicas.clone(),
                ..Peers::default()
            };
            world.nodes[&node]
                .learn(&peers)
                .await
                .expect("the disk works");
            let made = world.nodes[&node].create_replica(GROUP, ReplicaId(10 + node), |_| Ok(()));
            made.await.expect("a replica is made");
        }
        let first = world.nodes[&1].replica(GROUP).expect("it was made");
        let members: BTreeMap<u64, ()> = (11..=10 + NODES).map(|id| (id, ())).collect();
        first.raft().initialize(members).await.expect("it is new");
        world
    }

    pub(crate) async fn start(&mut self, node: u64) {
        self.starts += 1;
        let host = Host::new(&self.fabric, &name(node), self.seed * 1000 + self.starts);
        let dir = Arc::new(self.dirs[&node].clone());
        let config = StoreConfig {
            log: self.log.clone(),
            ..store_config()
        };
        let mut store = Store::open(&host, Arc::clone(&dir), config)
            .await
            .expect("opens");
        if store.identity.member.is_none() {
            store.identity.member = Some((ClusterId(1), NodeId(node)));
            identity::write(&*dir, &store.identity).expect("the disk works");
        }
        let machines = Arc::new(|group: GroupId| match group {
            GROUP => Arc::new(Puts) as Arc<dyn Machine>,
            group => machines::of_group(group),
        });
        // The address stays: no master is told here of a new one.
        let started = Node::start(host, store, "m:7000", machines)
            .await
            .expect("starts");
        let mut addresses: BTreeMap<_, _> = self
            .nodes
            .iter()
            .map(|(id, node)| (NodeId(*id), node.address()))
            .collect();
        addresses.insert(NodeId(node), started.address());
        self.nodes.insert(node, started);
        for known in self.nodes.values() {
            let peers = Peers {
                addresses: addresses.clone(),
                ..Peers::default()
            };
            known.learn(&peers).await.expect("the disk works");
        }
    }

    /// Founds a region on all nodes.
    pub(crate) async fn found(&self, group: GroupId, space: Space) {
        let id = |node: u64| ReplicaId(group.0 * 10 + node);
        let replicas = (1..=NODES).map(|node| ((group, id(node)), NodeId(node)));
        let peers = Peers {
            replicas: replicas.collect(),
            ..Peers::default()
        };
        for (number, node) in &self.nodes {
            node.learn(&peers).await.expect("the disk works");
            let made = node.create_replica(group, id(*number), move |state| {
                let descriptor = Descriptor {
                    space,
                    places: Places::ALL,
                    epoch: Epoch(1),
                };
                let root = Root {
                    mode: 0o755,
                    ino: ROOT,
                    salt: Salt(7),
                    uid: 0,
                    gid: 0,
                    volume: VolumeId(1),
                    time: Timestamp::default(),
                };
                found(state, &descriptor, (space == Space::Meta).then_some(&root))
            });
            made.await.expect("a replica is made");
        }
        let members: BTreeMap<u64, ()> = (1..=NODES).map(|node| (id(node).0, ())).collect();
        let first = self.nodes[&1].replica(group).expect("it was made");
        first.raft().initialize(members).await.expect("it is new");
    }

    /// Orders a command through whoever leads.
    pub(crate) async fn order(
        &self,
        group: GroupId,
        sequence: u64,
        body: CommandBody,
        payload: Bytes,
    ) -> Answer {
        let command = Command {
            epoch: Epoch(1),
            session: SessionId(1),
            renewal: Renewal(0),
            slot: Some(SlotUse { slot: 0, sequence }),
            time: Timestamp::default(),
            unseen: named_in(&body),
            body,
        };
        for _ in 0..1000 {
            for node in self.nodes.values() {
                let replica = node.replica(group).expect("it was made");
                let command = GroupCommand::new(&command, payload.clone());
                let ordered = replica.raft().client_write(command);
                let ordered = tokio::time::timeout(Duration::from_secs(2), ordered).await;
                if let Ok(Ok(done)) = ordered
                    && let GroupApplied::Region(Applied::Answer(answer)) = done.data
                {
                    return answer;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("seed {}: nobody takes {command:?}", self.seed);
    }

    pub(crate) async fn kill(&mut self, node: u64) {
        self.starts += 1;
        let after = self.dirs[&node].restart(self.seed + self.starts);
        self.dirs.insert(node, after);
        for other in 1..=NODES {
            self.fabric.cut(&name(node), &name(other), false);
        }
        self.fabric.forget(&name(node));
        let killed = self.nodes.remove(&node).expect("it runs");
        killed.stop().await;
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |node: &Node<Host>| {
            let replica = node.replica(GROUP)?;
            let metrics = replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader).then_some(metrics.current_term)
        };
        let leaders = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((leads(node)?, *id)));
        leaders.max().map(|(_, id)| id)
    }

    /// Writes through whoever leads, until it is acknowledged.
    pub(crate) async fn put(&self, key: u64, value: u64, payload: Bytes) {
        for _ in 0..2000 {
            if let Some(leader) = self.leader() {
                let replica = self.nodes[&leader].replica(GROUP).expect("it leads");
                let command = GroupCommand::new(&Put { key, value }, payload.clone());
                let written = tokio::time::timeout(
                    Duration::from_secs(2),
                    replica.raft().client_write(command),
                );
                if matches!(written.await, Ok(Ok(_))) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let all: Vec<_> = self.nodes.values().map(Node::status).collect();
        panic!(
            "seed {}: a write of key {key} is never taken: {all:#?}",
            self.seed
        );
    }

    /// Reads a key through a read index.
    pub(crate) async fn get(&self, key: u64) -> Option<u64> {
        for _ in 0..2000 {
            if let Some(leader) = self.leader() {
                let replica = self.nodes[&leader].replica(GROUP).expect("it leads");
                let raft = replica.raft();
                let index = raft.get_read_linearizer(ReadPolicy::ReadIndex);
                if let Ok(Ok(index)) = tokio::time::timeout(Duration::from_secs(1), index).await
                    && index.await_ready(raft).await.is_ok()
                {
                    let value = replica
                        .state()
                        .read(|kv| kv.get(&put_key(key)))
                        .expect("reads");
                    return value.map(|bytes| {
                        u64::from_be_bytes(bytes.try_into().expect("eight bytes were put"))
                    });
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("seed {}: key {key} can't be read", self.seed);
    }

    /// Everything a replica has applied: keys, and the bytes of chunks.
    pub(crate) fn content(&self, node: u64) -> Vec<(Vec<u8>, Vec<u8>, Bytes)> {
        let replica = self.nodes[&node].replica(GROUP).expect("it runs");
        let read = replica.state().read(|kv| {
            let pairs = kv.scan(&[0], &[0xff], usize::MAX)?;
            let mut all = Vec::new();
            for (key, value) in pairs {
                let number = u64::from_be_bytes(key[1..9].try_into().expect("eight bytes"));
                let bytes = if key[0] == 0x10 {
                    kv.read_chunk(&chunk(number), 0, 1 << 20)?
                        .unwrap_or_default()
                } else {
                    Bytes::new()
                };
                all.push((key, value, bytes));
            }
            Ok(all)
        });
        read.expect("the state can be read")
    }

    /// Waits until all replicas of all groups have applied the same, and compares what [`GROUP`]'s hold.
    pub(crate) async fn converge(&self) {
        for _ in 0..1000 {
            if self.level() {
                let first = self.content(1);
                for node in 2..=NODES {
                    assert!(
                        self.content(node) == first,
                        "seed {}: replicas differ",
                        self.seed
                    );
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let all: Vec<_> = self.nodes.values().map(Node::status).collect();
        panic!("seed {}: replicas do not converge: {all:#?}", self.seed);
    }

    /// Whether a node's replica grants nobody a vote now, however much a candidate has.
    pub(crate) async fn refuses_votes(&self, node: u64) -> bool {
        let replica = self.nodes[&node].replica(GROUP).expect("it runs");
        let ask = VoteAsk {
            vote: Vote::new(1000, 13),
            last: Some(log_id(999, 10_000)),
            transfer: false,
        };
        let answer = replica.answer(RaftCall::PreVote(ask), Bytes::new()).await;
        matches!(answer, Reply::Refused(Refused::JustStarted))
    }

    /// Whether in every group all replicas have applied everything that any of them has.
    fn level(&self) -> bool {
        let mut groups: BTreeMap<GroupId, BTreeSet<_>> = BTreeMap::new();
        for replica in self.nodes.values().flat_map(|node| node.status().replicas) {
            let reached = groups.entry(replica.group).or_default();
            reached.extend([replica.applied, replica.last]);
        }
        groups.values().all(|reached| reached.len() == 1)
    }
}

/// Its disk has so much room, and no more.
pub(crate) fn leave_room(dir: &MemoryDir, bytes: u64) {
    let names = polyfs_store::disk::Dir::list(dir).expect("it lists");
    let used: usize = names.iter().map(|name| dir.image(name).len()).sum();
    dir.set_capacity(used as u64 + bytes);
}
