//! A node: its store, its groups, its connections.
//!
//! Owns the replicas on this machine, their births and ends, checkpoints, and the watch over the disk. Deliberately
//! knows neither who the master is nor what a client wants: see [`crate::server`].

mod ailing;
mod directives;
mod shorten;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::AsyncRuntime;
use openraft_rt::watch::WatchReceiver;
use parking_lot::Mutex;
use polyfs_core::client::port::MasterRequest;
use polyfs_core::codec;
use polyfs_core::ids::{GroupId, Lineage, NodeId, Renewal, ReplicaId, SessionId, StoreId};
use polyfs_core::limits::RAFT_HEARTBEAT;
use polyfs_core::region::kv::{Kv, KvError};
use polyfs_core::request::{Answer, Assertion, Refusal, Request};
use polyfs_store::disk::DiskError;
use polyfs_store::state::StoreError;
use polyfs_store::wal::{LogError, Pressure, Record};
use thiserror::Error;

use crate::group::{AllOf, Answerer, Group};
use crate::health::{Health, NodeEnd};
use crate::heartbeat::Known;
use crate::links::Links;
use crate::master::Master;
use crate::raft::log_driver::SharedLog;
use crate::raft::replica::{Ground, OpenError, Replica};
use crate::raft::state::{CheckpointError, CreateError, Machine, ReplicaRecord, SharedState};
use crate::raft::witness::Witness;
use crate::retired::Marked;
use crate::router::Router;
use crate::runtime::{Net, NetError, Runtime};
use crate::server::Server;
use crate::sessions::Sessions;
use crate::store::{Found, Store};
use crate::wire::{Members, NodeIdentity, Reply};

/// A checkpoint is due this often (P10).
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// ... or when the log needs room, but at most this often.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(20);
/// After a torn tail nothing is promised for this long, unless a leader brings the replica level first (P10).
const TORN_SILENCE: Duration = Duration::from_secs(5);
/// P10: so long a suspect one leaves the votes to healthy ones, if no leader has brought it level before.
const SUSPECT_SILENCE: Duration = Duration::from_secs(60);
/// The name of the record that keeps what is known of the others.
const PEERS: &str = "peers";

/// Says what the entries of a group do.
pub type Machines = Arc<dyn Fn(GroupId) -> Arc<dyn Machine> + Send + Sync>;

/// What a node remembers of the others, so that its groups start without anybody's help (P3).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Peers {
    /// Where nodes can be dialled.
    pub addresses: BTreeMap<NodeId, String>,
    /// Which node holds which replica.
    pub replicas: BTreeMap<(GroupId, ReplicaId), NodeId>,
}

/// A running node. Cheap to clone.
pub struct Node<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Node<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<R: Runtime> {
    ground: Ground<R>,
    machines: Machines,
    groups: Mutex<BTreeMap<GroupId, Group<R>>>,
    sessions: Arc<Sessions>,
    master: OnceLock<Arc<Master<R>>>,
    router: OnceLock<Router<R>>,
    peers: Mutex<Peers>,
    known: Known,
    /// Groups that are busy with a directive.
    busy: Mutex<BTreeSet<GroupId>>,
    address: Mutex<String>,
    retired: Mutex<Marked>,
    /// Replicas under which a sync failed: they serve until they are replaced (P10).
    suspect: Mutex<Marked>,
    dir: Arc<R::Dir>,
    stopped: AtomicBool,
}

/// Why a node does not start or go on.
#[derive(Clone, Debug, Error)]
pub enum NodeError {
    /// The state.
    #[error(transparent)]
    State(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A replica.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A replica's first state.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The store has not joined a cluster.
    #[error("this store belongs to no cluster yet: join one, or found one")]
    NoMember,
    /// Its disk has done what it can't go on with.
    #[error(transparent)]
    End(#[from] NodeEnd),
    /// The marks of damage could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A replica id that never speaks again (P1).
    #[error("replica {1} of {0} was retired here: place another")]
    Retired(GroupId, ReplicaId),
    /// There is a replica of that group already.
    #[error("{0} has a replica here already")]
    Exists(GroupId),
    /// The group has no replica here.
    #[error("{0} has no replica here")]
    NoReplica(GroupId),
}

/// Room for file data, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub total: u64,
    /// Free.
    pub free: u64,
}

/// How a replica is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Its term.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<ReplicaId>,
    /// Its last entry.
    pub last: Option<u64>,
    /// What it has applied.
    pub applied: Option<u64>,
    /// Who votes.
    pub voters: BTreeSet<ReplicaId>,
    /// False when it has failed.
    pub running: bool,
}

/// How a node is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Who it is.
    pub identity: NodeIdentity,
    /// Where it listens.
    pub address: String,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Whether the disk keeps the log waiting (P2).
    pub log_stalled: bool,
    /// Whether the log needs room (P10).
    pub log_tight: bool,
    /// Whether the disk is full but for the reserve (P10).
    pub reserve_only: bool,
    /// Why it answers nothing more.
    pub failure: Option<String>,
    /// Replicas whose bytes here are damaged or not to be trusted: they never speak again, and wait to be replaced.
    pub lost: BTreeMap<(GroupId, ReplicaId), String>,
}

impl<R: Runtime> Node<R> {
    /// Takes a store into use: listens, and opens every replica it holds.
    ///
    /// # Errors
    /// When the store has joined no cluster, the address can't be had, or a replica does not open.
    pub async fn start(
        runtime: R,
        store: Store<R>,
        listen: &str,
        machines: Machines,
    ) -> Result<Self, NodeError> {
        let listener = runtime.net().listen(listen).await?;
        let address = crate::runtime::Listener::address(&listener);
        Self::start_on(runtime, store, (listener, address), machines).await
    }

    /// The same with a listener that is there already, and the address at which others reach it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(
        runtime: R,
        store: Store<R>,
        listener: (<R::Net as Net>::Listener, String),
        machines: Machines,
    ) -> Result<Self, NodeError> {
        let (cluster, node) = store.identity.member.ok_or(NodeError::NoMember)?;
        let (store_id, boot) = (store.identity.store, store.identity.boot);
        let me = NodeIdentity {
            cluster,
            node,
            store: store_id,
            boot,
        };
        let data = Arc::clone(store.db.data());
        let log = SharedLog::start(
            runtime.clone(),
            Arc::clone(&store.dir),
            store.log,
            data,
            store.pins,
        );
        let state = SharedState::new(runtime.clone(), store.db)?;
        let links = Links::new(runtime.clone(), me);
        let ground = Ground {
            runtime: runtime.clone(),
            log,
            state,
            links,
            witness: Witness::default(),
        };
        let inner = Inner {
            ground,
            machines,
            groups: Mutex::default(),
            sessions: Arc::default(),
            master: OnceLock::new(),
            router: OnceLock::new(),
            peers: Mutex::default(),
            known: Known::default(),
            busy: Mutex::default(),
            address: Mutex::default(),
            retired: Mutex::new(store.found.retired.clone()),
            suspect: Mutex::new(store.found.suspect.clone()),
            dir: Arc::clone(&store.dir),
            stopped: AtomicBool::new(false),
        };
        let node = Self {
            inner: Arc::new(inner),
        };
        node.remember_peers()?;
        node.open_replicas(store.torn, &store.found).await?;
        node.clear_away(&store.found)?;
        let (listener, address) = listener;
        *node.inner.address.lock() = address;
        node.links()
            .set_incoming(Arc::new(Server::new(node.clone())));
        node.links().serve(listener);
        let _ = node.inner.master.set(Master::start(node.clone()));
        runtime.spawn(node.clone().beat());
        runtime.spawn(node.clone().checkpoint_often());
        runtime.spawn(node.clone().watch_the_disk());
        runtime.spawn(node.clone().watch_health());
        Ok(node)
    }

    /// The store's cluster and node id, to be set once before [`Self::start`].
    #[must_use]
    pub fn identity(&self) -> NodeIdentity {
        self.links().me()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.inner.address.lock().clone()
    }

    /// Its connections.
    #[must_use]
    pub fn links(&self) -> &Links<R> {
        &self.inner.ground.links
    }

    /// Who is told of the votes its replicas grant.
    #[must_use]
    pub fn witness(&self) -> &Witness {
        &self.inner.ground.witness
    }

    /// The world.
    #[must_use]
    pub fn runtime(&self) -> &R {
        &self.inner.ground.runtime
    }

    /// The replica of a group here.
    #[must_use]
    pub fn replica(&self, group: GroupId) -> Option<Replica<R>> {
        self.group(group).map(|group| group.replica().clone())
    }

    /// A group that has a replica here.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Group<R>> {
        self.inner.groups.lock().get(&group).cloned()
    }

    /// All groups that have replicas here.
    #[must_use]
    pub fn groups(&self) -> Vec<Group<R>> {
        self.inner.groups.lock().values().cloned().collect()
    }

    /// The ways to mounts.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.inner.sessions
    }

    /// Puts a request to the region it names; `answer` is called once.
    pub fn request(&self, request: Request, payload: Bytes, answer: Answerer) {
        match self.group(request.header.group) {
            Some(group) => group.request(request, payload, answer),
            None => answer(
                Reply::Answer(Answer::Refused(Refusal::NoRegion)),
                Bytes::new(),
            ),
        }
    }

    /// Asks the master; `answer` is called once.
    pub fn master(&self, request: MasterRequest, answer: Answerer) {
        match self.inner.master.get() {
            Some(master) => master.request(request, answer),
            None => answer(Reply::NotMaster { leader: None }, Bytes::new()),
        }
    }

    /// What is known here of the other nodes, and of who leads.
    #[must_use]
    pub fn members(&self) -> Members {
        let mut addresses = self.links().addresses();
        let mine = self.address();
        addresses.entry(self.identity().node).or_insert(mine);
        let leader = |group: &Group<R>| {
            let replica = group.replica();
            let leader = replica.raft().metrics().borrow_watched().current_leader?;
            if leader == replica.id().0 {
                return Some(self.identity().node);
            }
            self.links().node_of(replica.group(), ReplicaId(leader))
        };
        let groups = self.groups();
        let unled = groups.iter().filter(|group| leader(group).is_none());
        Members {
            addresses,
            master: self.master_node(),
            unled: unled.map(|group| group.replica().group()).collect(),
        }
    }

    pub(crate) fn master_service(&self) -> Option<Arc<Master<R>>> {
        self.inner.master.get().cloned()
    }

    pub(crate) fn known(&self) -> &Known {
        &self.inner.known
    }

    /// What it knows of the others.
    #[must_use]
    pub fn peers(&self) -> Peers {
        self.inner.peers.lock().clone()
    }

    /// Sessions are over: a region led here hears it. Those that it holds to be over by now.
    pub fn end_sessions(&self, group: GroupId, sessions: &[SessionId]) -> Vec<SessionId> {
        let Some(group) = self.group(group) else {
            return Vec::new();
        };
        // What is applied here is committed, whoever leads.
        let over = group.replica().state().read(|state| {
            let is_over = |session: &&SessionId| polyfs_core::region::is_over(state, **session);
            let mut over = Vec::new();
            for session in sessions {
                if is_over(&session)? {
                    over.push(*session);
                }
            }
            Ok(over)
        });
        let over = over.unwrap_or_default();
        for session in sessions.iter().filter(|session| !over.contains(session)) {
            group.session_over(*session);
        }
        over
    }

    /// Whether it was told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::Acquire)
    }

    /// Offers at most `bytes` for file data from now on, however large the disk is.
    pub fn offer_at_most(&self, bytes: u64) {
        self.inner.ground.state.offer_at_most(bytes);
    }

    /// Room for file data.
    #[must_use]
    pub fn room(&self) -> Room {
        self.inner.ground.state.room()
    }

    /// A mount's lease frame: the answer says which of the regions led here confirm it (P8).
    pub fn renew_leases(
        &self,
        session: SessionId,
        renewal: Renewal,
        assertions: Vec<Assertion>,
        answer: Answerer,
    ) {
        let leads = |group: &Group<R>| group.replica().raft().is_leader();
        let groups: Vec<_> = self.groups().into_iter().filter(leads).collect();
        let confirmed = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&confirmed);
        let done = move |_| {
            let by = core::mem::take(&mut *confirmed.lock());
            answer(Reply::LeasesRenewed(by), Bytes::new());
        };
        let all = AllOf::new(groups.len(), Box::new(done));
        for group in groups {
            let (all, heard) = (Arc::clone(&all), Arc::clone(&heard));
            let part = move |reply, _: Bytes| {
                if let Reply::LeasesRenewed(by) = reply {
                    heard.lock().extend(by);
                }
                all.lock().part(true);
            };
            let of_it = |assertion: &&Assertion| assertion.to.group == group.replica().group();
            let assertion = assertions.iter().find(of_it).cloned();
            group.renew(session, renewal, assertion, Box::new(part));
        }
    }

    /// The way of its regions to others.
    fn router(&self) -> Router<R> {
        self.inner
            .router
            .get_or_init(|| Router::new(self.clone()))
            .clone()
    }

    fn take_in(&self, replica: Replica<R>, machine: Arc<dyn Machine>) {
        let (links, sessions) = (self.links().clone(), Arc::clone(self.sessions()));
        let group = replica.group();
        let router = self.router();
        let started = Group::start(self.runtime(), replica, machine, links, sessions, router);
        self.inner.groups.lock().insert(group, started);
    }

    /// What this node has written down under a name.
    pub(crate) fn note(&self, name: &str) -> Result<Option<Vec<u8>>, NodeError> {
        Ok(self.inner.ground.state.get_node(name)?)
    }

    /// Writes it down; durable with the next checkpoint.
    pub(crate) async fn set_note(&self, name: &str, bytes: &[u8]) -> Result<(), NodeError> {
        self.inner.ground.state.set_node(name, bytes).await?;
        Ok(())
    }

    /// Takes note of where nodes and replicas are; durable with the next checkpoint.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn learn(&self, news: &Peers) -> Result<(), NodeError> {
        let bytes = {
            let mut peers = self.inner.peers.lock();
            let before = peers.clone();
            peers.addresses.extend(news.addresses.clone());
            peers
                .replicas
                .extend(news.replicas.iter().map(|(at, node)| (*at, *node)));
            self.tell_links(&peers);
            if *peers == before {
                return Ok(());
            }
            codec::encode_versioned(1, &*peers)
        };
        self.inner.ground.state.set_node(PEERS, &bytes).await?;
        Ok(())
    }

    fn remember_peers(&self) -> Result<(), NodeError> {
        let Some(bytes) = self.inner.ground.state.get_node(PEERS)? else {
            return Ok(());
        };
        let peers = codec::decode_versioned("peers", 1, &bytes).map_err(StoreError::from)?;
        self.tell_links(&peers);
        *self.inner.peers.lock() = peers;
        Ok(())
    }

    fn tell_links(&self, peers: &Peers) {
        for (node, address) in &peers.addresses {
            self.links().set_address(*node, address);
        }
        for ((group, replica), node) in &peers.replicas {
            self.links().set_replica(*group, *replica, *node);
        }
    }

    async fn open_replicas(&self, torn: bool, found: &Found) -> Result<(), NodeError> {
        self.retire_found(found).await?;
        for (group, record) in self.inner.ground.state.records()? {
            if self.is_retired(group, record.replica) {
                self.inner.ground.state.keep_as_is(group, &record);
                continue;
            }
            let machine = (self.inner.machines)(group);
            let opened = Replica::open(
                &self.inner.ground,
                group,
                record,
                Arc::clone(&machine),
                false,
            )
            .await?;
            let suspect = self.suspects(&opened, found).then_some(SUSPECT_SILENCE);
            let silence = suspect.or(torn.then_some(TORN_SILENCE));
            // Nobody else has what its group's only voter has.
            if let Some(silence) = silence.filter(|_| !opened.was_alone()) {
                self.hold_back(&opened, silence);
            }
            self.take_in(opened, machine);
        }
        self.note_suspects(found).await
    }

    /// P10: a replica that may have lost what it acknowledged grants no vote and starts no election for a while.
    fn hold_back(&self, replica: &Replica<R>, silence: Duration) {
        replica.hold_back();
        let (replica, runtime) = (replica.clone(), self.runtime().clone());
        self.runtime().spawn(async move {
            runtime.sleep(silence).await;
            replica.let_go();
        });
    }

    /// Makes a replica here (P1: a founding, a split or the master's directive; never a Raft message). `fill` sets its
    /// first state; every replica of a founding gets the same. Durable when this returns.
    ///
    /// # Errors
    /// When there is one already; failures of log and state.
    pub async fn create_replica(
        &self,
        group: GroupId,
        id: ReplicaId,
        fill: impl FnOnce(&mut dyn Kv) -> Result<(), KvError> + Send,
    ) -> Result<Replica<R>, NodeError> {
        if self.replica(group).is_some() {
            return Err(NodeError::Exists(group));
        }
        self.make_way(group, id)?;
        let ground = &self.inner.ground;
        let record = ReplicaRecord::blank(id, Lineage(self.runtime().random()));
        ground.state.create(group, &record, fill).await?;
        let bytes: Bytes = codec::encode_versioned(1, &record.replica).into();
        ground
            .log
            .push_durably(Record::Create { group, bytes })
            .await?;
        ground.state.checkpoint(&ground.log).await?;
        let machine = (self.inner.machines)(group);
        let replica = Replica::open(ground, group, record, Arc::clone(&machine), true).await?;
        self.take_in(replica.clone(), machine);
        Ok(replica)
    }

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// Failures of log and state.
    pub async fn checkpoint(&self) -> Result<(), NodeError> {
        let ground = &self.inner.ground;
        ground.state.checkpoint(&ground.log).await?;
        Ok(())
    }

    async fn checkpoint_often(self) {
        while !self.inner.stopped.load(Ordering::Acquire) {
            // P10: every second, or when log or memory need room; then not faster than it can help.
            self.runtime().sleep(CHECKPOINT_PAUSE).await;
            let rest = CHECKPOINT_EVERY.saturating_sub(CHECKPOINT_PAUSE);
            let ground = &self.inner.ground;
            let early = R::Async::select2(ground.log.needs_room(), ground.state.crowded());
            let _ = R::Async::timeout(rest, early).await;
            match self.checkpoint().await {
                Ok(()) => self.shorten_logs().await,
                Err(error) => self.checkpoint_failed(&error),
            }
        }
    }

    /// P2: openraft's heartbeats need no disk, so a stalled one must be noticed here.
    async fn watch_the_disk(self) {
        let mut silent = BTreeSet::new();
        while !self.inner.stopped.load(Ordering::Acquire) {
            self.runtime().sleep(RAFT_HEARTBEAT).await;
            if let Err(error) = self.inner.ground.state.look_at_space().await {
                tracing::debug!(%error, "how full the disk is can't be told");
            }
            if let Some(why) = self.inner.ground.state.poisoned() {
                self.health().end(NodeEnd::Poisoned(why));
            }
            self.heartbeats_follow(&mut silent);
        }
    }

    /// Heartbeats of groups that the disk keeps from going on stop, and begin again afterwards.
    fn heartbeats_follow(&self, silent: &mut BTreeSet<(GroupId, ReplicaId)>) {
        let failed = self.failure().is_some();
        for group in self.groups() {
            let replica = group.replica();
            let who = (replica.group(), replica.id());
            let well = !failed && !self.inner.ground.log.stands_still(who.0);
            let beat = well || cfg!(planted = "heartbeats_without_disk");
            let changed = if beat {
                silent.remove(&who)
            } else {
                silent.insert(who)
            };
            if changed {
                tracing::warn!(group = %who.0, beat, "the disk keeps a group waiting, or does no longer: heartbeats follow");
                replica.raft().runtime_config().heartbeat(beat);
            }
        }
    }

    fn failure(&self) -> Option<String> {
        self.health().ended().map(|end| end.to_string())
    }

    /// What its disk has done to it.
    #[must_use]
    pub fn health(&self) -> &Health {
        self.inner.ground.log.health()
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            identity: self.identity(),
            address: self.address(),
            replicas: self
                .groups()
                .iter()
                .map(|group| replica_status(group.replica()))
                .collect(),
            log_stalled: self.inner.ground.log.anything_stands_still(),
            log_tight: self.inner.ground.log.pressure() > Pressure::None,
            reserve_only: self.inner.ground.state.reserve_only(),
            failure: self.failure(),
            lost: self.lost(),
        }
    }

    /// Ends replicas, connections and tasks, in order. The store stays; what no checkpoint made durable is replayed
    /// from the log.
    pub async fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        self.links().stop();
        self.inner.ground.log.leave();
        let groups = std::mem::take(&mut *self.inner.groups.lock());
        for group in groups.into_values() {
            group.stop();
            group.replica().close().await;
        }
        self.inner.ground.log.stop();
    }

    /// The store this node stands on.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.identity().store
    }
}

fn replica_status<R: Runtime>(replica: &Replica<R>) -> ReplicaStatus {
    let metrics = replica.raft().metrics();
    let metrics = metrics.borrow_watched();
    ReplicaStatus {
        group: replica.group(),
        replica: replica.id(),
        term: metrics.current_term,
        leader: metrics.current_leader.map(ReplicaId),
        last: metrics.last_log_index,
        applied: metrics.last_applied.map(|id| id.index()),
        voters: metrics
            .membership_config
            .voter_ids()
            .map(ReplicaId)
            .collect(),
        running: metrics.running_state.is_ok(),
    }
}
