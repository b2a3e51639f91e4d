//! Groups of three replicas on three nodes: elections, writes, restarts after power cuts, broken connections.

mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::{ReadPolicy, ServerState};
use openraft_rt::watch::WatchReceiver;
use polyfs_core::attr::{FileKind, NewInode};
use polyfs_core::ids::{
    ClusterId, Epoch, Fence, GroupId, NodeId, Renewal, ReplicaId, SessionId, VolumeId,
};
use polyfs_core::place::{Bucket, Ino, Place, Places, Salt};
use polyfs_core::region::command::{Applied, Command, CommandBody, Descriptor};
use polyfs_core::region::key::{self, Kind};
use polyfs_core::region::kv::{Kv, KvError, KvRead};
use polyfs_core::region::leader::port::{Asker, Input, Output, Token};
use polyfs_core::region::{Root, found, query};
use polyfs_core::request::{
    Answer, ChunkName, DataOp, DataQuery, DataReply, Header, MetaOp, MetaQuery, MetaReply, Refusal,
    Request, RequestBody, SlotUse, Space,
};
use polyfs_core::time::{Instant, Now, Timestamp};
use polyfs_node::group::Leading;
use polyfs_node::identity;
use polyfs_node::node::{Node, Peers};
use polyfs_node::raft::state::Machine;
use polyfs_node::raft::types::{GroupApplied, GroupCommand};
use polyfs_node::region::RegionMachine;
use polyfs_node::store::{Store, StoreConfig};
use polyfs_node::wire::{Call, Reply};
use polyfs_store::memory::{Dice, MemoryDir};
use polyfs_store::wal::LogConfig;
use serde::{Deserialize, Serialize};

use support::{Fabric, Machine as Host};

const GROUP: GroupId = GroupId(7);
const NODES: u64 = 3;
const META: GroupId = GroupId(8);
const DATA: GroupId = GroupId(9);
const ROOT: Ino = Ino::new(Place::new(Bucket(1), 0), 1);

/// What the groups of these tests order: a key set, and the payload written to a chunk.
#[derive(Serialize, Deserialize)]
struct Put {
    key: u64,
    value: u64,
}

struct Puts;

fn chunk(number: u64) -> ChunkName {
    ChunkName {
        ino: Ino::new(Place(5), 1),
        version: 1,
        number,
    }
}

fn put_key(key: u64) -> Vec<u8> {
    [&[0x10][..], &key.to_be_bytes()].concat()
}

impl Machine for Puts {
    fn lead(
        &self,
        _: GroupId,
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
struct Clerk {
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
                    (asker, true) => Output::Renewed { asker, good: true },
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

fn request(epoch: u64, body: RequestBody) -> Request {
    let header = Header {
        group: GROUP,
        epoch: Epoch(epoch),
        session: SessionId(5),
        renewal: Renewal(1),
        slot: None,
        seen: Timestamp::default(),
    };
    Request { header, body }
}

fn store_config() -> StoreConfig {
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

struct World {
    fabric: Fabric,
    seed: u64,
    dirs: BTreeMap<u64, MemoryDir>,
    nodes: BTreeMap<u64, Node<Host>>,
    starts: u64,
}

fn name(node: u64) -> String {
    format!("m{node}")
}

impl World {
    async fn new(seed: u64) -> Self {
        let dirs = (1..=NODES)
            .map(|node| (node, MemoryDir::new(seed + node)))
            .collect();
        let mut world = Self {
            fabric: Fabric::default(),
            seed,
            dirs,
            nodes: BTreeMap::new(),
            starts: 0,
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

    async fn start(&mut self, node: u64) {
        self.starts += 1;
        let host = Host::new(&self.fabric, &name(node), self.seed * 1000 + self.starts);
        let dir = Arc::new(self.dirs[&node].clone());
        let mut store = Store::open(&host, Arc::clone(&dir), store_config())
            .await
            .expect("opens");
        if store.identity.member.is_none() {
            store.identity.member = Some((ClusterId(1), NodeId(node)));
            identity::write(&*dir, &store.identity).expect("the disk works");
        }
        let machines = Arc::new(|group| match group {
            GROUP => Arc::new(Puts) as Arc<dyn Machine>,
            _ => Arc::new(RegionMachine),
        });
        let started = Node::start(host, store, "m:0", machines)
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
    async fn found(&self, group: GroupId, space: Space) {
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
                    ino: ROOT,
                    salt: Salt(7),
                    uid: 0,
                    gid: 0,
                    volume: VolumeId(1),
                    time: Timestamp::default(),
                };
                found(state, &descriptor, (space == Space::Meta).then_some(root))
            });
            made.await.expect("a replica is made");
        }
        let members: BTreeMap<u64, ()> = (1..=NODES).map(|node| (id(node).0, ())).collect();
        let first = self.nodes[&1].replica(group).expect("it was made");
        first.raft().initialize(members).await.expect("it is new");
    }

    /// Orders a command through whoever leads.
    async fn order(
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

    async fn kill(&mut self, node: u64) {
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

    fn leader(&self) -> Option<u64> {
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
    async fn put(&self, key: u64, value: u64, payload: Bytes) {
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
        panic!("seed {}: a write of key {key} is never taken", self.seed);
    }

    /// Reads a key through a read index.
    async fn get(&self, key: u64) -> Option<u64> {
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
    fn content(&self, node: u64) -> Vec<(Vec<u8>, Vec<u8>, Bytes)> {
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

    async fn converge(&self) {
        for _ in 0..1000 {
            let applied: BTreeSet<_> = self
                .nodes
                .values()
                .map(|node| {
                    let status = node.status().replicas.pop().expect("it has one");
                    (status.applied, status.last)
                })
                .collect();
            if applied.len() == 1 && applied.iter().all(|(applied, last)| applied == last) {
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
}

fn payload(dice: &mut Dice) -> Bytes {
    let bytes = match dice.below(4) {
        0 => 0,
        1 => dice.below_len(5000),
        2 => 64 << 10,
        _ => (64 << 10) + dice.below_len(200_000),
    };
    let fill = u8::try_from(dice.below(256)).expect("below 256");
    vec![fill; bytes].into()
}

#[tokio::test(start_paused = true)]
async fn three_replicas_elect_write_and_read() {
    let world = World::new(1).await;
    for key in 0..50 {
        world.put(key, key * 3, Bytes::new()).await;
    }
    for key in 0..50 {
        assert_eq!(world.get(key).await, Some(key * 3));
    }
    world.converge().await;
}

#[tokio::test(start_paused = true)]
async fn large_payloads_arrive_everywhere() {
    let world = World::new(2).await;
    let mut dice = Dice::new(2);
    for key in 0..20 {
        world.put(key, 1, payload(&mut dice)).await;
    }
    world.put(99, 1, vec![7; 1 << 20].into()).await;
    world.converge().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lost_power_comes_back_from_its_store() {
    for seed in 10..16 {
        let mut world = World::new(seed).await;
        let mut dice = Dice::new(seed);
        let mut model = BTreeMap::new();
        for round in 0..4 {
            for _ in 0..20 {
                let (key, value) = (dice.below(30), dice.below(u64::MAX));
                world.put(key, value, payload(&mut dice)).await;
                model.insert(key, value);
            }
            let victim = 1 + dice.below(NODES);
            world.kill(victim).await;
            for _ in 0..dice.below(20) {
                let (key, value) = (dice.below(30), round);
                world.put(key, value, Bytes::new()).await;
                model.insert(key, value);
            }
            world.start(victim).await;
        }
        world.converge().await;
        for (key, value) in model {
            assert_eq!(world.get(key).await, Some(value), "seed {seed}, key {key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broken_connections_heal() {
    let world = World::new(3).await;
    let mut dice = Dice::new(3);
    for key in 0..40 {
        let (a, b) = (1 + dice.below(NODES), 1 + dice.below(NODES));
        if a != b {
            world.fabric.cut(&name(a), &name(b), dice.below(2) == 0);
        }
        world.put(key, key, payload(&mut dice)).await;
        world.fabric.heal(&name(a), &name(b));
    }
    world.converge().await;
}

#[tokio::test(start_paused = true)]
async fn requests_over_a_connection_are_answered_by_the_leader() {
    let mut world = World::new(4).await;
    for round in 1..4_u64 {
        world.put(1, round, Bytes::new()).await;
        let leader = world.leader().expect("a write was acknowledged");
        let other = 1 + leader % NODES;
        let links = world.nodes[&other].links();
        let conn = links
            .reach(NodeId(leader))
            .await
            .expect("the leader is there");
        let end = MetaOp::EndSession {
            session: SessionId(9),
        };
        let call = |body| conn.call(Call::Request(request(round, body)), vec![]);
        let done = Reply::Answer(Answer::Meta(Ok(MetaReply::Done)));
        let (mut told, _) = call(RequestBody::MetaOp(end.clone()))
            .await
            .expect("it answers");
        while told != done {
            // A leadership counts only from its own first entry on.
            tokio::time::sleep(Duration::from_millis(20)).await;
            told = call(RequestBody::MetaOp(end.clone()))
                .await
                .expect("it answers")
                .0;
        }
        let query = RequestBody::MetaQuery(MetaQuery::GetAttr { ino: Ino(1) });
        let reads = (0..20).map(|_| call(query.clone()));
        for (told, _) in futures::future::try_join_all(reads)
            .await
            .expect("all answer")
        {
            let value = Bytes::copy_from_slice(&round.to_be_bytes());
            assert_eq!(
                told,
                Reply::Answer(Answer::Meta(Ok(MetaReply::Bytes(value))))
            );
        }
        let renew = Call::RenewLeases {
            session: SessionId(5),
            renewal: Renewal(1),
        };
        let (told, _) = conn.call(renew, vec![]).await.expect("it answers");
        assert_eq!(told, Reply::LeasesRenewed(true));

        let links = world.nodes[&leader].links();
        let conn = links
            .reach(NodeId(other))
            .await
            .expect("the follower is there");
        let (told, _) = conn
            .call(Call::Request(request(1, query)), vec![])
            .await
            .expect("it answers");
        let Reply::Answer(Answer::Refused(Refusal::NotLeader {
            leader: Some((node, _)),
        })) = told
        else {
            panic!("a follower answers {told:?}");
        };
        assert_eq!(node, NodeId(leader));
        world.kill(leader).await;
        world.start(leader).await;
    }
    world.converge().await;
}

/// Makes everything durable and forgets the log, on those that follow, and lets one of them lead: a leader keeps what
/// it is still trying to send.
async fn purge(world: &World) {
    let leader = world.leader().expect("there is one");
    let mut heir = None;
    for (id, node) in world.nodes.iter().filter(|(id, _)| **id != leader) {
        node.checkpoint().await.expect("the disk works");
        let replica = node.replica(GROUP).expect("it runs");
        let applied = replica.raft().metrics().borrow_watched().last_applied;
        let applied = applied.expect("something was written").index();
        replica.raft().trigger().snapshot().await.expect("it runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
        replica
            .raft()
            .trigger()
            .purge_log(applied)
            .await
            .expect("it runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let purged = replica.raft().metrics().borrow_watched().purged;
        assert_eq!(
            purged.map(|id| id.index()),
            Some(applied),
            "the log is shorter now"
        );
        heir = Some(*id);
    }
    let heir = heir.expect("two of three run");
    let leader = world.nodes[&leader].replica(GROUP).expect("it runs");
    leader
        .raft()
        .trigger()
        .transfer_leader(10 + heir)
        .await
        .expect("it runs");
    for _ in 0..200 {
        if world.leader() == Some(heir) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("seed {}: the lead is not handed over", world.seed);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_missed_purged_entries_gets_a_snapshot() {
    for seed in 20..24 {
        let mut world = World::new(seed).await;
        let mut dice = Dice::new(seed);
        for key in 0..40 {
            world.put(key, key, payload(&mut dice)).await;
        }
        let victim = 1 + dice.below(NODES);
        let lineage = |world: &World| {
            world.nodes[&victim]
                .replica(GROUP)
                .expect("it runs")
                .state()
                .record()
                .lineage
        };
        let before = lineage(&world);
        world.kill(victim).await;
        for key in 20..60 {
            world.put(key, key + seed, payload(&mut dice)).await;
        }
        purge(&world).await;
        world.start(victim).await;
        for _ in 0..dice.below(5) {
            tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
            let other = 1 + dice.below(NODES);
            if other != victim {
                world.fabric.cut(&name(victim), &name(other), false);
            }
        }
        world.converge().await;
        assert_ne!(lineage(&world), before, "it came by snapshot");
        // What came by snapshot is durable.
        world.kill(victim).await;
        world.start(victim).await;
        world.converge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn regions_keep_names_and_data_across_power_cuts() {
    for seed in 30..33 {
        let mut world = World::new(seed).await;
        world.found(META, Space::Meta).await;
        world.found(DATA, Space::Data).await;
        let new = NewInode {
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 1,
            gid: 1,
            rdev: 0,
            target: Bytes::new(),
        };
        let make = MetaOp::Make {
            dir: ROOT,
            salt: Salt(7),
            name: b"file".to_vec(),
            new,
            home: None,
            exclusive: true,
            lease: None,
        };
        let made = world
            .order(META, 1, CommandBody::Meta(make), Bytes::new())
            .await;
        let Answer::Meta(Ok(MetaReply::Made { attr, .. })) = made else {
            panic!("seed {seed}: {made:?}");
        };
        let mut dice = Dice::new(seed);
        let mut written = Vec::new();
        for number in 0..12 {
            let chunk = ChunkName {
                ino: attr.ino,
                version: 1,
                number,
            };
            let bytes = 1 + payload(&mut dice).len();
            let content = Bytes::from(vec![u8::try_from(number + 1).expect("small"); bytes]);
            let write = DataOp::Write {
                chunk,
                fence: Fence(0),
                offset: 0,
            };
            let body = CommandBody::Data(write);
            let done = world.order(DATA, number + 1, body, content.clone()).await;
            assert_eq!(done, Answer::Data(Ok(DataReply::Done)), "seed {seed}");
            written.push((chunk, content));
            if number % 4 == 3 {
                let victim = 1 + dice.below(NODES);
                world.kill(victim).await;
                world.start(victim).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        for node in world.nodes.values() {
            let replica = node.replica(DATA).expect("it runs");
            for (chunk, content) in &written {
                let ask = DataQuery::Read {
                    chunk: *chunk,
                    fence: Fence(0),
                    offset: 0,
                    len: u32::try_from(content.len()).expect("below a chunk"),
                    absent_is_hole: false,
                };
                let read = replica.state().read(|state| query::data(state, &ask));
                let read = read.expect("the state can be read");
                let (_, bytes) = read.unwrap_or_else(|_| panic!("seed {seed}: {chunk:?} is lost"));
                assert!(
                    bytes == *content,
                    "seed {seed}: {chunk:?} reads back as written"
                );
            }
        }
    }
}
