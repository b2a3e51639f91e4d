//! Connections to nodes: one for each pair, whoever dialled it. Whose they are is a node, or a process that is none.
//!
//! Owns greetings, addresses, dialling with backoff, and which node holds which replica. Deliberately knows nothing of
//! what is said over a connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::channel::oneshot;
use openraft_rt::AsyncRuntime;
use parking_lot::Mutex;
use polyfs_core::ids::{ClusterId, GroupId, NodeId, ReplicaId};
use polyfs_core::limits::{GREETING_BYTES_MAX, GREETINGS_MAX, REQUEST_DEADLINE};
use polyfs_core::time::Instant;

use crate::conn::{Conn, Incoming, Peer};
use crate::runtime::{Frame, FrameReceiver, FrameSender, Listener, Net, NetError, Runtime};
use crate::wire::{Dialler, Hello, HelloRefusal, Message, NodeIdentity, WIRE_VERSION};

/// The pause after the first failed dial; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The greetings of a connection take no longer.
const GREETING: Duration = Duration::from_secs(2);

/// All links of a node, or of a process that is none: such a one dials and is never dialled. Cheap to clone.
pub struct Links<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Links<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<R: Runtime> {
    runtime: R,
    cluster: ClusterId,
    me: Option<NodeIdentity>,
    peers: Mutex<BTreeMap<NodeId, PeerLink>>,
    replicas: Mutex<BTreeMap<(GroupId, ReplicaId), NodeId>>,
    incoming: Mutex<Option<Arc<dyn Incoming>>>,
    next_number: AtomicU64,
    stopped: AtomicBool,
    /// The highest node id that anybody of the cluster has come with, or has refused this node with.
    highest_met: AtomicU64,
}

#[derive(Default)]
struct PeerLink {
    address: Option<String>,
    identity: Option<NodeIdentity>,
    conn: Option<Arc<Conn>>,
    dialling: bool,
    failures: u32,
    not_before: Instant,
    waiting: Vec<oneshot::Sender<()>>,
}

impl PeerLink {
    fn live(&self) -> Option<Arc<Conn>> {
        self.conn.as_ref().filter(|conn| conn.is_open()).cloned()
    }
}

impl<R: Runtime> Links<R> {
    /// The links of the node `me`.
    #[must_use]
    pub fn new(runtime: R, me: NodeIdentity) -> Self {
        Self::with(runtime, me.cluster, Some(me))
    }

    /// The links of a process that is no node of `cluster`: a mount, or a tool.
    #[must_use]
    pub fn outside(runtime: R, cluster: ClusterId) -> Self {
        Self::with(runtime, cluster, None)
    }

    fn with(runtime: R, cluster: ClusterId, me: Option<NodeIdentity>) -> Self {
        let inner = Inner {
            runtime,
            cluster,
            me,
            peers: Mutex::default(),
            replicas: Mutex::default(),
            incoming: Mutex::new(None),
            next_number: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            highest_met: AtomicU64::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Says who takes what arrives. Before that, nothing is dialled or accepted.
    pub fn set_incoming(&self, incoming: Arc<dyn Incoming>) {
        *self.inner.incoming.lock() = Some(incoming);
    }

    /// This node.
    ///
    /// # Panics
    /// On the links of a process that is none.
    #[must_use]
    pub fn me(&self) -> NodeIdentity {
        self.inner.me.expect("a node's links know their node")
    }

    /// The cluster they belong to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    fn is_me(&self, node: NodeId) -> bool {
        self.inner.me.is_some_and(|me| me.node == node)
    }

    /// Where a node can be dialled.
    pub fn set_address(&self, node: NodeId, address: &str) {
        let mut peers = self.inner.peers.lock();
        let peer = peers.entry(node).or_default();
        if peer.address.as_deref() != Some(address) {
            peer.address = Some(address.to_owned());
            peer.not_before = Instant::default();
        }
    }

    /// The highest node id that anybody of the cluster has come with, or has refused this node with; 0 for nobody.
    #[must_use]
    pub fn highest_met(&self) -> NodeId {
        NodeId(self.inner.highest_met.load(Ordering::Acquire))
    }

    /// Where nodes can be dialled, as far as known.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        let peers = self.inner.peers.lock();
        let known = |(node, peer): (&NodeId, &PeerLink)| Some((*node, peer.address.clone()?));
        peers.iter().filter_map(known).collect()
    }

    /// On which node a replica is.
    pub fn set_replica(&self, group: GroupId, replica: ReplicaId, node: NodeId) {
        self.inner.replicas.lock().insert((group, replica), node);
    }

    /// The node of a replica, if known.
    #[must_use]
    pub fn node_of(&self, group: GroupId, replica: ReplicaId) -> Option<NodeId> {
        self.inner.replicas.lock().get(&(group, replica)).copied()
    }

    /// The replicas of a group, as far as known.
    #[must_use]
    pub fn replicas_of(&self, group: GroupId) -> Vec<(ReplicaId, NodeId)> {
        let replicas = self.inner.replicas.lock();
        let all = replicas.range((group, ReplicaId(0))..=(group, ReplicaId(u64::MAX)));
        all.map(|((_, replica), node)| (*replica, *node)).collect()
    }

    /// The living connection to a node; when there is none one is dialled, for the next to ask.
    #[must_use]
    pub fn to(&self, node: NodeId) -> Option<Arc<Conn>> {
        let mut peers = self.inner.peers.lock();
        let peer = peers.entry(node).or_default();
        let live = peer.live();
        if live.is_none() {
            self.begin_dial(node, peer);
        }
        live
    }

    /// A living connection to a node, waiting up to [`REQUEST_DEADLINE`] for one.
    pub async fn reach(&self, node: NodeId) -> Option<Arc<Conn>> {
        let waiting = {
            let mut peers = self.inner.peers.lock();
            let peer = peers.entry(node).or_default();
            if let Some(live) = peer.live() {
                return Some(live);
            }
            let (sender, waiting) = oneshot::channel();
            peer.waiting.push(sender);
            self.begin_dial(node, peer);
            if !peer.dialling {
                return None;
            }
            waiting
        };
        // Whoever dials tells how it ended; then there is a connection, or there is none.
        let _ = R::Async::timeout(REQUEST_DEADLINE, waiting).await;
        self.inner.peers.lock().get(&node).and_then(PeerLink::live)
    }

    fn begin_dial(&self, node: NodeId, peer: &mut PeerLink) {
        let now = self.inner.runtime.now().mono;
        let Some(address) = peer.address.clone() else {
            return;
        };
        let stopped = self.inner.stopped.load(Ordering::Acquire);
        if peer.dialling || now < peer.not_before || stopped || self.is_me(node) {
            return;
        }
        peer.dialling = true;
        let links = self.clone();
        self.inner.runtime.spawn(async move {
            let dialled = R::Async::timeout(GREETING, links.dial(node, &address)).await;
            let dialled = dialled.unwrap_or(Err(NetError::Failed("no greeting in time".into())));
            links.dialled(node, &address, dialled.err());
        });
    }

    fn dialled(&self, node: NodeId, address: &str, error: Option<NetError>) {
        let mut peers = self.inner.peers.lock();
        let peer = peers.entry(node).or_default();
        peer.dialling = false;
        match error {
            None => peer.failures = 0,
            Some(error) => {
                tracing::debug!(%node, address, %error, "could not connect");
                let pause = BACKOFF_MIN * 2_u32.pow(peer.failures.min(10));
                peer.failures += 1;
                peer.not_before = self.inner.runtime.now().mono + pause.min(BACKOFF_MAX);
            }
        }
        // Those that wait look for themselves.
        peer.waiting.drain(..).for_each(|waiting| {
            let _ = waiting.send(());
        });
    }

    async fn dial(&self, node: NodeId, address: &str) -> Result<(), NetError> {
        self.greet_at(address, Some(node)).await.map(|_| ())
    }

    /// Dials an address of which is not known whose it is; the node that answers there can be reached from then on.
    ///
    /// # Errors
    /// When nobody answers there in time, or somebody of another cluster.
    pub async fn introduce(&self, address: &str) -> Result<NodeId, NetError> {
        let greeted = R::Async::timeout(GREETING, self.greet_at(address, None)).await;
        let node = greeted.unwrap_or(Err(NetError::Failed("no greeting in time".into())))?;
        self.set_address(node, address);
        Ok(node)
    }

    async fn greet_at(&self, address: &str, expects: Option<NodeId>) -> Result<NodeId, NetError> {
        let (mut sender, mut receiver) = self.inner.runtime.net().dial(address).await?;
        let hello = Hello {
            version: WIRE_VERSION,
            cluster: self.inner.cluster,
            expects,
            from: self.inner.me.map_or(Dialler::Mount, Dialler::Node),
        };
        let identity = exchange(&mut sender, &mut receiver, hello).await?;
        if let Err(HelloRefusal::Copy(by)) = identity {
            self.inner.highest_met.fetch_max(by.0, Ordering::AcqRel);
        }
        let identity = identity.map_err(refused)?;
        if expects.is_some_and(|node| identity.node != node)
            || identity.cluster != self.inner.cluster
        {
            return Err(refused(HelloRefusal::OtherNode(identity.node)));
        }
        self.admit(identity).map_err(refused)?;
        self.begin((sender, receiver), Peer::Node(identity));
        Ok(identity.node)
    }

    /// Accepts connections until the listener fails or the links are stopped.
    pub fn serve(&self, mut listener: <R::Net as Net>::Listener) {
        let links = self.clone();
        self.inner.runtime.spawn(async move {
            let waiting = Arc::new(());
            while !links.inner.stopped.load(Ordering::Acquire) {
                match listener.accept().await {
                    Ok(_) if Arc::strong_count(&waiting) > GREETINGS_MAX => {
                        tracing::warn!(
                            "too many connections have yet to say who they are: one is closed"
                        );
                    }
                    Ok((sender, receiver, from)) => {
                        let (links, waiting) = (links.clone(), Arc::clone(&waiting));
                        let runtime = links.inner.runtime.clone();
                        runtime.spawn(async move {
                            let greeted = links.greet(sender, receiver);
                            match R::Async::timeout(GREETING, greeted).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => {
                                    tracing::debug!(from, %error, "a connection was not made");
                                }
                                Err(_) => tracing::debug!(from, "no greeting in time"),
                            }
                            drop(waiting);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "can't accept connections");
                        links.inner.runtime.sleep(BACKOFF_MAX).await;
                    }
                }
            }
        });
    }

    async fn greet(
        &self,
        mut sender: impl FrameSender,
        mut receiver: impl FrameReceiver,
    ) -> Result<(), NetError> {
        receiver.expect_small(GREETING_BYTES_MAX);
        let hello = match Message::of(receiver.receive().await?) {
            Ok((Message::Hello(hello), _)) => hello,
            Ok((Message::Ask { .. }, _)) => {
                let told = Message::Told(Err(HelloRefusal::IsNode));
                return sender.send(vec![told.frame(vec![])]).await;
            }
            Ok(_) | Err(_) => return Err(NetError::Garbage("no greeting")),
        };
        let judged = self.judge(&hello);
        let welcome = Message::Welcome(judged.clone().map(|_| self.me()));
        sender.send(vec![welcome.frame(vec![])]).await?;
        match judged {
            Ok(peer) => self.begin((sender, receiver), peer),
            Err(refusal) => return Err(NetError::Failed(refusal.to_string())),
        }
        Ok(())
    }

    fn judge(&self, hello: &Hello) -> Result<Peer, HelloRefusal> {
        let me = self.me();
        if hello.version != WIRE_VERSION {
            return Err(HelloRefusal::Version(WIRE_VERSION));
        }
        if hello.cluster != me.cluster {
            return Err(HelloRefusal::Cluster(me.cluster));
        }
        if hello.expects.is_some_and(|expected| expected != me.node) {
            return Err(HelloRefusal::OtherNode(me.node));
        }
        match hello.from {
            Dialler::Mount => Ok(Peer::Mount),
            Dialler::Node(identity) if identity.node == me.node => Err(HelloRefusal::Myself),
            Dialler::Node(identity) => {
                self.admit(identity)?;
                Ok(Peer::Node(identity))
            }
        }
    }

    /// P1: one store goes by a node id, and its boot number never goes back.
    fn admit(&self, identity: NodeIdentity) -> Result<(), HelloRefusal> {
        let mut peers = self.inner.peers.lock();
        let peer = peers.entry(identity.node).or_default();
        let copy = peer
            .identity
            .is_some_and(|known| known.store != identity.store || known.boot.0 > identity.boot.0);
        if copy && !cfg!(planted = "copies_welcome") {
            return Err(HelloRefusal::Copy(self.me().node));
        }
        peer.identity = Some(identity);
        let met = identity.node.0;
        self.inner.highest_met.fetch_max(met, Ordering::AcqRel);
        Ok(())
    }

    fn begin(&self, halves: (impl FrameSender, impl FrameReceiver), peer: Peer) {
        let Some(incoming) = self.inner.incoming.lock().clone() else {
            return;
        };
        if self.inner.stopped.load(Ordering::Acquire) {
            return;
        }
        let number = self.inner.next_number.fetch_add(1, Ordering::Relaxed);
        let conn = Conn::start(&self.inner.runtime, halves, peer, number, incoming);
        let Peer::Node(identity) = peer else { return };
        // Closed only when nothing is locked: whoever waits for an answer over it hears at once, and asks for another way.
        let mut stale = None;
        let mut peers = self.inner.peers.lock();
        let link = peers.entry(identity.node).or_default();
        // When both dialled at once both stay, and this side speaks over the one it had first, unless that was an
        // earlier start's.
        let older = link.live().filter(|live| live.peer() == peer);
        if older.is_none() {
            stale = link.conn.replace(conn);
        }
        link.waiting.drain(..).for_each(|waiting| {
            let _ = waiting.send(());
        });
        drop(peers);
        if let Some(stale) = stale {
            stale.close();
        }
    }

    /// Ends all connections and makes no more.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        let mut peers = self.inner.peers.lock();
        let conns: Vec<_> = peers
            .values_mut()
            .filter_map(|peer| peer.conn.take())
            .collect();
        drop(peers);
        for conn in conns {
            conn.close();
        }
        *self.inner.incoming.lock() = None;
    }
}

/// Asks whose cluster the node at `address` belongs to.
///
/// # Errors
/// When no node answers there in time.
pub async fn cluster_at<R: Runtime>(runtime: &R, address: &str) -> Result<ClusterId, NetError> {
    let asked = async {
        let (mut sender, mut receiver) = runtime.net().dial(address).await?;
        let hello = Hello {
            version: WIRE_VERSION,
            // Nobody's: the refusal names the node's own.
            cluster: ClusterId::default(),
            expects: None,
            from: Dialler::Mount,
        };
        match exchange(&mut sender, &mut receiver, hello).await? {
            Ok(NodeIdentity { cluster, .. }) | Err(HelloRefusal::Cluster(cluster)) => Ok(cluster),
            Err(refusal) => Err(refused(refusal)),
        }
    };
    let asked = R::Async::timeout(GREETING, asked).await;
    asked.unwrap_or(Err(NetError::Failed("no greeting in time".into())))
}

fn refused(refusal: HelloRefusal) -> NetError {
    NetError::Failed(refusal.to_string())
}

async fn exchange(
    sender: &mut impl FrameSender,
    receiver: &mut impl FrameReceiver,
    hello: Hello,
) -> Result<Result<NodeIdentity, HelloRefusal>, NetError> {
    sender
        .send(vec![Message::Hello(hello).frame(vec![])])
        .await?;
    let frame: Frame = receiver.receive().await?;
    match Message::of(frame) {
        Ok((Message::Welcome(welcome), _)) => Ok(welcome),
        _ => Err(NetError::Garbage("no greeting")),
    }
}
