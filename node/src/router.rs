//! Questions of one region to others: which regions hold the places, who leads them, and asking until answered.
//!
//! Owns the node's copy of the region map, read from the master's group, and the retries. What is asked, and what
//! follows from an answer or from none, is the asking leader's business.

use std::sync::Arc;

use bytes::Bytes;
use futures::channel::oneshot;
use parking_lot::Mutex;
use polyfs_core::client::port::{MasterReply, MasterRequest, RegionLine};
use polyfs_core::ids::{NodeId, Renewal, SessionId};
use polyfs_core::limits::REQUEST_DEADLINE;
use polyfs_core::place::{Place, Places};
use polyfs_core::request::{
    Answer, Aside, ChunkName, DataOp, Header, MetaQuery, Refusal, Request, RequestBody, Space,
};
use polyfs_core::time::Timestamp;
use polyfs_core::txn::{Decision, TxnReply, TxnRequest};

use crate::node::Node;
use crate::runtime::Runtime;
use crate::wire::{Call, Reply};

/// How often a region is asked before the question is given up.
const TRIES: u32 = 4;
/// The pause before another try.
const PAUSE: core::time::Duration = core::time::Duration::from_millis(100);

/// What a node knows of where regions are. Cheap to clone.
pub struct Router<R: Runtime> {
    node: Node<R>,
    lines: Arc<Mutex<Vec<RegionLine>>>,
}

impl<R: Runtime> Clone for Router<R> {
    fn clone(&self) -> Self {
        Self {
            node: self.node.clone(),
            lines: Arc::clone(&self.lines),
        }
    }
}

impl<R: Runtime> Router<R> {
    /// A router that knows nothing yet.
    #[must_use]
    pub fn new(node: Node<R>) -> Self {
        Self {
            node,
            lines: Arc::default(),
        }
    }

    /// Puts a transaction request to every meta region that holds some of `places`; the worst answer, or none when one
    /// of them can't be had.
    pub async fn txn(&self, places: Places, request: TxnRequest) -> Option<TxnReply> {
        let mut worst: Option<TxnReply> = None;
        for part in self.parts(Space::Meta, places).await? {
            let body = RequestBody::Txn(request.clone());
            let Answer::Txn(reply) = self.ask(Space::Meta, part, body).await? else {
                return None;
            };
            if worst
                .as_ref()
                .is_none_or(|worst| badness(&reply) > badness(worst))
            {
                worst = Some(reply);
            }
        }
        worst
    }

    /// Puts a query to the meta region that holds a place.
    pub async fn query(&self, place: Place, query: MetaQuery) -> Option<Answer> {
        self.ask(Space::Meta, place, RequestBody::MetaQuery(query))
            .await
    }

    /// Deletes chunks in the data regions that hold them.
    pub async fn delete(&self, chunks: Vec<ChunkName>) -> Option<TxnReply> {
        let mut left = chunks;
        while let Some(first) = left.first() {
            let line = self.line(Space::Data, first.place()).await?;
            let here = |chunk: &ChunkName| line.places.contains(chunk.place());
            let (of_region, rest) = left.iter().copied().partition(here);
            let place = first.place();
            let body = RequestBody::DataOp(DataOp::Delete { chunks: of_region });
            let Answer::Data(Ok(_)) = self.ask(Space::Data, place, body).await? else {
                return None;
            };
            left = rest;
        }
        Some(TxnReply::Finished)
    }

    /// The first place of each region's part of `places`.
    async fn parts(&self, space: Space, places: Places) -> Option<Vec<Place>> {
        let mut parts = Vec::new();
        let mut at = places.start;
        while at < places.end {
            parts.push(Place(at));
            at = self.line(space, Place(at)).await?.places.end;
        }
        Some(parts)
    }

    /// Asks the leader of a region until it answers with more than a refusal.
    async fn ask(&self, space: Space, place: Place, body: RequestBody) -> Option<Answer> {
        for _ in 0..TRIES {
            let line = self.line(space, place).await?;
            let target = line
                .leader
                .or_else(|| line.replicas.first().map(|held| held.node))?;
            match self.put(target, &line, body.clone()).await {
                Some(Answer::Refused(Refusal::NotLeader {
                    leader: Some((node, _)),
                })) => {
                    self.note_leader(&line, node);
                }
                Some(Answer::Refused(_)) | None => {
                    self.forget();
                    self.node.runtime().sleep(PAUSE).await;
                }
                Some(answer) => return Some(answer),
            }
        }
        None
    }

    /// One request to a node; `None` when it does not answer in time.
    async fn put(&self, target: NodeId, line: &RegionLine, body: RequestBody) -> Option<Answer> {
        let header = Header {
            group: line.group,
            epoch: line.epoch,
            session: SessionId::CLUSTER,
            renewal: Renewal(0),
            slot: None,
            seen: Timestamp::default(),
            aside: Aside::default(),
        };
        let request = Request { header, body };
        let node = self.node.clone();
        let reply = async move {
            if target == node.identity().node {
                let (answered, wait) = oneshot::channel();
                let answer = move |reply, _: Bytes| drop(answered.send(reply));
                node.request(request, Bytes::new(), Box::new(answer));
                wait.await.ok()
            } else {
                let conn = node.links().reach(target).await?;
                conn.call(Call::Request(request), vec![])
                    .await
                    .ok()
                    .map(|(reply, _)| reply)
            }
        };
        match self.within_deadline(reply).await? {
            Reply::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    async fn within_deadline<T>(&self, work: impl Future<Output = Option<T>> + Send) -> Option<T> {
        use openraft_rt::{AsyncRuntime as _, Select2};
        let sleep = self.node.runtime().sleep(REQUEST_DEADLINE);
        match R::Async::select2(work, sleep).await {
            Select2::First(done) => done,
            Select2::Second(()) => None,
        }
    }

    /// The line of the region that holds a place; the map is fetched when it is not known.
    async fn line(&self, space: Space, place: Place) -> Option<RegionLine> {
        if let Some(line) = self.known(space, place) {
            return Some(line);
        }
        let lines = self.fetch().await?;
        *self.lines.lock() = lines;
        self.known(space, place)
    }

    fn known(&self, space: Space, place: Place) -> Option<RegionLine> {
        let lines = self.lines.lock();
        let holds = |line: &&RegionLine| line.space == space && line.places.contains(place);
        lines.iter().find(holds).cloned()
    }

    fn note_leader(&self, of: &RegionLine, node: NodeId) {
        for line in &mut *self.lines.lock() {
            if line.group == of.group {
                line.leader = Some(node);
            }
        }
    }

    fn forget(&self) {
        self.lines.lock().clear();
    }

    /// The map, from the master.
    async fn fetch(&self) -> Option<Vec<RegionLine>> {
        match self.node.ask_master(MasterRequest::Map).await? {
            MasterReply::Map(lines) => Some(lines),
            _ => None,
        }
    }
}

/// Which of several regions' answers decides.
fn badness(reply: &TxnReply) -> u8 {
    match reply {
        TxnReply::Prepared | TxnReply::Finished | TxnReply::Decided(Decision::Commit(_)) => 0,
        TxnReply::Decided(Decision::Abort) | TxnReply::Undecided => 1,
        // An error counts only when nobody else is unsure of what it was asked.
        TxnReply::Failed(_) => 2,
        TxnReply::Conflict(_) => 3,
        TxnReply::Changed => 4,
    }
}
