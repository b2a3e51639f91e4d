//! How a mount or a tool reaches the cluster: from inside a node, or from a process that is none.
//!
//! Owns the search for the master, the addresses of all nodes as they change, and the way back to the mounts of this
//! process. Deliberately knows nothing of what is asked.
//!
//! ```text
//!  inside:   client ─▶ this node, in-process │ other nodes over its links
//!  outside:  client ─▶ all nodes over links of its own ◀─ addresses from any node, renewed; else from the waypoints
//! ```

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use openraft_rt::{AsyncRuntime, Select2};
use parking_lot::Mutex;
use polyfs_core::client::port::{MasterReply, MasterRequest};
use polyfs_core::ids::{ClusterId, NodeId, Renewal, SessionId};
use polyfs_core::limits::{CALL_DEADLINE, CLIENT_RETRY, REQUEST_DEADLINE};
use polyfs_core::request::{Assertion, Request};
use polyfs_core::time::Instant;

use crate::conn::{Conn, Incoming, Peer};
use crate::find::{FIND_DEADLINE, FindError, Finder};
use crate::group::Answerer;
use crate::links::Links;
use crate::node::Node;
use crate::runtime::Runtime;
use crate::sessions::{Sessions, Way};
use crate::wire::{Call, Members, Message, Refused, Reply};

/// A process outside asks for the members this often ...
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// ... and this often while the master does not answer.
const RENEW_SOON: Duration = Duration::from_millis(500);
/// The pause before a node that knows no master is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// One process's way to the cluster. Cheap to clone.
pub struct Access<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Access<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<R: Runtime> {
    runtime: R,
    links: Links<R>,
    sessions: Arc<Sessions>,
    stand: Stand<R>,
    /// Who answered as the master last.
    master: Mutex<Option<NodeId>>,
    renewed: Mutex<Instant>,
}

enum Stand<R: Runtime> {
    Inside(Node<R>),
    Outside(Finder<R>),
}

impl<R: Runtime> Access<R> {
    /// From inside a node.
    #[must_use]
    pub fn inside(node: Node<R>) -> Self {
        let (runtime, links) = (node.runtime().clone(), node.links().clone());
        let sessions = Arc::clone(node.sessions());
        Self::with(runtime, links, sessions, Stand::Inside(node))
    }

    /// From a process that is no node: finds the cluster, and learns where its nodes are. A node that has just founded it
    /// may be named before it answers: for [`FIND_DEADLINE`] it is tried again.
    ///
    /// # Errors
    /// When the cluster is not found; the error says what to do.
    pub async fn outside(runtime: R, finder: Finder<R>) -> Result<Self, FindError> {
        let give_up = runtime.now().mono + FIND_DEADLINE;
        loop {
            match Self::met(runtime.clone(), finder.clone()).await {
                Err(FindError::NoMember { .. }) if runtime.now().mono + PAUSE < give_up => {
                    runtime.sleep(PAUSE).await;
                }
                met => return met,
            }
        }
    }

    async fn met(runtime: R, finder: Finder<R>) -> Result<Self, FindError> {
        let found = finder.find().await?;
        let links = Links::outside(runtime.clone(), found.cluster);
        let sessions: Arc<Sessions> = Arc::default();
        links.set_incoming(Arc::new(Mailbox(Arc::clone(&sessions))));
        let access = Self::with(runtime, links, sessions, Stand::Outside(finder));
        if !access.meet(&found.addresses).await {
            return Err(FindError::NoMember {
                cluster: found.cluster,
                addresses: found.addresses,
            });
        }
        let task = Self::keep_members(Arc::downgrade(&access.inner));
        access.inner.runtime.spawn(task);
        Ok(access)
    }

    fn with(runtime: R, links: Links<R>, sessions: Arc<Sessions>, stand: Stand<R>) -> Self {
        let inner = Inner {
            renewed: Mutex::new(runtime.now().mono),
            runtime,
            links,
            sessions,
            stand,
            master: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The world.
    #[must_use]
    pub fn runtime(&self) -> &R {
        &self.inner.runtime
    }

    /// Which cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.links.cluster()
    }

    /// The connections.
    #[must_use]
    pub fn links(&self) -> &Links<R> {
        &self.inner.links
    }

    /// The ways to mounts, of which those of this process are told what nodes say.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.inner.sessions
    }

    /// The node of this process, if it is `node`.
    fn here(&self, node: NodeId) -> Option<&Node<R>> {
        match &self.inner.stand {
            Stand::Inside(here) if here.identity().node == node => Some(here),
            Stand::Inside(_) | Stand::Outside(_) => None,
        }
    }

    /// Puts a request to a node; `answer` is called once, with a refusal when the node can't be reached.
    pub fn request(&self, node: NodeId, request: Request, payload: Bytes, answer: Answerer) {
        match self.here(node) {
            Some(here) => here.request(request, payload, answer),
            None => self.send(node, Call::Request(request), vec![payload], answer),
        }
    }

    /// A mount's lease frame for a node; `answer` is called once.
    pub fn renew_leases(
        &self,
        node: NodeId,
        session: SessionId,
        renewal: Renewal,
        assertions: Vec<Assertion>,
        answer: Answerer,
    ) {
        match self.here(node) {
            Some(here) => here.renew_leases(session, renewal, assertions, answer),
            None => {
                let frame = Call::RenewLeases {
                    session,
                    renewal,
                    assertions,
                };
                self.send(node, frame, vec![], answer);
            }
        }
    }

    fn send(&self, node: NodeId, call: Call, payload: Vec<Bytes>, answer: Answerer) {
        if let Some(conn) = self.inner.links.to(node) {
            return conn.ask(call, payload, answer);
        }
        let access = self.clone();
        self.inner.runtime.spawn(async move {
            // Whoever asks tries again long before; this only ends what nobody waits for any more.
            let (reply, payload) = access
                .call(node, call, payload, CALL_DEADLINE)
                .await
                .unwrap_or((Reply::Refused(Refused::Stopping), Bytes::new()));
            answer(reply, payload);
        });
    }

    /// One question to another node; `None` without an answer in time.
    pub async fn call(
        &self,
        node: NodeId,
        call: Call,
        payload: Vec<Bytes>,
        within: Duration,
    ) -> Option<(Reply, Bytes)> {
        let asked = async {
            let conn = self.inner.links.reach(node).await?;
            conn.call(call, payload).await.ok()
        };
        R::Async::timeout(within, asked).await.ok().flatten()
    }

    /// Asks a region's request of a node and waits; `None` without an answer in time.
    pub async fn request_once(
        &self,
        node: NodeId,
        request: Request,
        within: Duration,
    ) -> Option<(Reply, Bytes)> {
        let (answered, wait) = oneshot::channel();
        let answer = move |reply, payload| drop(answered.send((reply, payload)));
        self.request(node, request, Bytes::new(), Box::new(answer));
        R::Async::timeout(within, wait).await.ok()?.ok()
    }

    /// Asks the master, wherever it is: who was it last, whom others name, then everybody (P, preamble: another replica
    /// after 500 ms). `None` when none answers within a request's time; the question may have been carried out.
    pub async fn ask_master(&self, request: MasterRequest) -> Option<MasterReply> {
        let give_up = self.inner.runtime.now().mono + REQUEST_DEADLINE;
        let mut others = self.everybody();
        let mut next = *self.inner.master.lock();
        loop {
            let left = give_up.since(self.inner.runtime.now().mono);
            if left.is_zero() {
                self.renew_soon();
                return None;
            }
            let asked = match next.take() {
                Some(node) => node,
                None => match others.pop() {
                    Some(node) => node,
                    None => {
                        self.renew_soon();
                        self.inner.runtime.sleep(PAUSE.min(left)).await;
                        others = self.everybody();
                        continue;
                    }
                },
            };
            match self.ask_as_master(asked, &request, left).await {
                Some(Reply::Master(reply)) => {
                    *self.inner.master.lock() = Some(asked);
                    return Some(reply);
                }
                Some(Reply::NotMaster { leader }) => {
                    next = leader.filter(|leader| *leader != asked);
                    if next.is_some() {
                        // Two that name each other get no answer sooner by being asked faster.
                        self.inner.runtime.sleep(PAUSE / 10).await;
                    }
                }
                Some(_) | None => {}
            }
            let mut master = self.inner.master.lock();
            if *master == Some(asked) {
                *master = None;
            }
        }
    }

    async fn ask_as_master(
        &self,
        node: NodeId,
        request: &MasterRequest,
        left: Duration,
    ) -> Option<Reply> {
        let within = CLIENT_RETRY.min(left);
        let Some(here) = self.here(node) else {
            let call = Call::Master(request.clone());
            return Some(self.call(node, call, vec![], within).await?.0);
        };
        let (answered, wait) = oneshot::channel();
        let answer = move |reply, _: Bytes| drop(answered.send(reply));
        here.master(request.clone(), Box::new(answer));
        R::Async::timeout(within, wait).await.ok()?.ok()
    }

    /// All nodes in an order of chance, the node of this process to be asked first (from the end).
    fn everybody(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.inner.links.addresses().into_keys().collect();
        let mut random = self.inner.runtime.random();
        for at in (1..nodes.len()).rev() {
            let bound = u64::try_from(at).expect("a count") + 1;
            let with = usize::try_from(random % bound).expect("below a count");
            nodes.swap(at, with);
            random /= bound;
        }
        if let Stand::Inside(here) = &self.inner.stand {
            let me = here.identity().node;
            nodes.retain(|node| *node != me);
            nodes.push(me);
        }
        nodes
    }

    /// What a node knows of the others.
    pub async fn members_of(&self, node: NodeId) -> Option<Members> {
        let members = match self.here(node) {
            Some(here) => Some(here.members()),
            None => match self.call(node, Call::Members, vec![], CLIENT_RETRY).await {
                Some((Reply::Members(members), _)) => Some(members),
                _ => None,
            },
        };
        if let Some(members) = &members {
            self.learn(members);
        }
        members
    }

    fn learn(&self, members: &Members) {
        for (node, address) in &members.addresses {
            // Who listens everywhere says nothing of where to dial.
            if is_dialable(address) {
                self.inner.links.set_address(*node, address);
            }
        }
        let mut master = self.inner.master.lock();
        *master = master.or(members.master);
    }

    /// Dials addresses until one answers and says who the others are.
    async fn meet(&self, addresses: &[String]) -> bool {
        for address in addresses {
            match self.inner.links.introduce(address).await {
                Ok(node) => {
                    if self.members_of(node).await.is_some() {
                        return true;
                    }
                }
                Err(error) => tracing::debug!(address, %error, "a member is not there"),
            }
        }
        false
    }

    /// The members are asked for within [`RENEW_SOON`].
    fn renew_soon(&self) {
        *self.inner.renewed.lock() = Instant::default();
    }

    /// Keeps the addresses, as long as anybody stands on them.
    async fn keep_members(inner: Weak<Inner<R>>) {
        while let Some(inner) = inner.upgrade() {
            let runtime = inner.runtime.clone();
            let access = Self { inner };
            let due = *access.inner.renewed.lock() + RENEW_EVERY <= runtime.now().mono;
            if due {
                access.renew_members().await;
                *access.inner.renewed.lock() = runtime.now().mono;
            }
            drop(access);
            runtime.sleep(RENEW_SOON).await;
        }
    }

    async fn renew_members(&self) {
        for node in self.everybody() {
            if self.members_of(node).await.is_some() {
                return;
            }
        }
        let Stand::Outside(finder) = &self.inner.stand else {
            return;
        };
        match finder.find().await {
            Ok(found) if found.cluster == self.cluster() => {
                self.meet(&found.addresses).await;
            }
            Ok(found) => {
                tracing::warn!(other = %found.cluster, "the waypoints know another cluster now");
            }
            Err(error) => tracing::warn!(%error, "all nodes are out of reach"),
        }
    }

    /// Waits for `work`, at most `within`.
    pub async fn in_time<T>(
        &self,
        within: Duration,
        work: impl Future<Output = T> + Send,
    ) -> Option<T> {
        match R::Async::select2(work, self.inner.runtime.sleep(within)).await {
            Select2::First(done) => Some(done),
            Select2::Second(()) => None,
        }
    }
}

impl<R: Runtime> Drop for Inner<R> {
    fn drop(&mut self) {
        if let Stand::Outside(_) = self.stand {
            self.links.stop();
        }
    }
}

fn is_dialable(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    !["", "0.0.0.0", "[::]", "::"].contains(&host)
}

/// What nodes say unasked to a process that is none: it is for one of its mounts.
struct Mailbox(Arc<Sessions>);

impl Incoming for Mailbox {
    fn incoming(&self, from: &Arc<Conn>, message: Message, _: Bytes) {
        match message {
            Message::Recall { session, .. } | Message::AskOpen { session, .. } => {
                if let Peer::Node(peer) = from.peer() {
                    self.0.deliver(session, peer.node, message);
                }
            }
            _ => {
                tracing::warn!("a node asks what only nodes are asked: the connection ends");
                from.close();
            }
        }
    }

    fn closed(&self, conn: &Arc<Conn>) {
        self.0.closed(conn);
    }
}

/// The way to a mount in this process.
pub(crate) fn way_to(deliver: impl Fn(NodeId, Message) + Send + Sync + 'static) -> Way {
    Way::Local(Arc::new(deliver))
}

#[cfg(test)]
mod tests {
    use super::is_dialable;

    #[test]
    fn who_listens_everywhere_is_dialled_nowhere() {
        assert!(is_dialable("10.1.2.3:7791"));
        assert!(is_dialable("node-a:7791"));
        assert!(!is_dialable("0.0.0.0:7791"));
        assert!(!is_dialable("[::]:7791"));
    }
}
