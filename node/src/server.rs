//! What arrives over connections, and who answers it.
//!
//! Owns the dispatch of frames and the checks at receipt: both ends of every Raft frame are exactly who they say (P1).
//! Deliberately decides nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::conn::{Conn, Incoming, Peer};
use crate::node::Node;
use crate::raft::network::append_request;
use crate::raft::replica::{AppendSender, Replica};
use crate::runtime::Runtime;
use crate::sessions::Way;
use crate::wire::{AppendHead, AppendStop, Call, Ends, Message, Refused, Reply};

/// Takes what arrives at a node.
pub struct Server<R: Runtime> {
    node: Node<R>,
    /// Open append streams, by connection and stream.
    streams: Mutex<BTreeMap<(u64, u64), AppendSender<R>>>,
}

impl<R: Runtime> Server<R> {
    /// The server of `node`.
    #[must_use]
    pub fn new(node: Node<R>) -> Self {
        Self {
            node,
            streams: Mutex::default(),
        }
    }

    /// The replica a Raft frame is meant for, if both ends are who they say.
    fn replica(&self, from: &Conn, ends: &Ends) -> Result<Replica<R>, Refused> {
        let Peer::Node(peer) = from.peer() else {
            return Err(Refused::NotYours);
        };
        let holder = self.node.links().node_of(ends.group, ends.from);
        if holder.is_some_and(|holder| holder != peer.node) {
            return Err(Refused::NotYours);
        }
        let replica = self.node.replica(ends.group).ok_or(Refused::NoReplica)?;
        if replica.id() != ends.to && !cfg!(planted = "any_replica_answers") {
            return Err(Refused::NoReplica);
        }
        Ok(replica)
    }

    fn append(
        &self,
        from: &Arc<Conn>,
        ends: Ends,
        stream: u64,
        head: AppendHead,
        payload: Bytes,
    ) -> Result<(), Refused> {
        let acknowledged = head.acknowledged;
        let request = append_request(head, payload).map_err(|error| {
            tracing::warn!(%error, "a peer's append is damaged");
            Refused::NotYours
        })?;
        let mut streams = self.streams.lock();
        let sender = match streams.entry((from.number(), stream)) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let replica = self.replica(from, &ends)?;
                free.insert(replica.open_stream(Arc::clone(from), stream))
            }
        };
        sender
            .unbounded_send((request, acknowledged))
            .map_err(|_| Refused::Stopping)
    }

    fn call(&self, from: &Arc<Conn>, id: u64, body: Call, payload: Bytes) {
        match body {
            Call::Raft { ends, body } => match self.replica(from, &ends) {
                Ok(replica) => {
                    let from = Arc::clone(from);
                    self.node.runtime().spawn(async move {
                        let reply = replica.answer(body, payload).await;
                        from.reply(id, reply, Bytes::new());
                    });
                }
                Err(refused) => from.reply(id, Reply::Refused(refused), Bytes::new()),
            },
            Call::Request(request) => {
                let session = request.header.session;
                self.node
                    .sessions()
                    .heard(session, &Way::Conn(Arc::clone(from)));
                let from = Arc::clone(from);
                let answer = move |reply, payload| from.reply(id, reply, payload);
                self.node.request(request, payload, Box::new(answer));
            }
            Call::RenewLeases {
                session,
                renewal,
                assertions,
            } => {
                self.node
                    .sessions()
                    .heard(session, &Way::Conn(Arc::clone(from)));
                let from = Arc::clone(from);
                let answer = move |reply, payload| from.reply(id, reply, payload);
                self.node
                    .renew_leases(session, renewal, assertions, Box::new(answer));
            }
            Call::Master(request) => {
                let from = Arc::clone(from);
                let answer = move |reply, payload| from.reply(id, reply, payload);
                self.node.master(request, Box::new(answer));
            }
            Call::Members => from.reply(id, Reply::Members(self.node.members()), Bytes::new()),
            Call::Heartbeat(_) | Call::Direct(_) | Call::EndSessions { .. } => {
                self.cluster_call(from, id, body);
            }
        }
    }
}

impl<R: Runtime> Server<R> {
    /// What only nodes say to each other.
    fn cluster_call(&self, from: &Arc<Conn>, id: u64, body: Call) {
        let Peer::Node(peer) = from.peer() else {
            return from.reply(id, Reply::Refused(Refused::NotYours), Bytes::new());
        };
        let reply = match body {
            Call::Heartbeat(heartbeat) if heartbeat.report.node == peer.node => {
                Reply::Heard(self.node.hear(heartbeat))
            }
            Call::Direct(directives) => {
                self.node.told_by_master(directives);
                Reply::Directed
            }
            Call::EndSessions { group, sessions } => {
                Reply::SessionsOver(self.node.end_sessions(group, &sessions))
            }
            _ => Reply::Refused(Refused::NotYours),
        };
        from.reply(id, reply, Bytes::new());
    }
}

impl<R: Runtime> Incoming for Server<R> {
    fn incoming(&self, from: &Arc<Conn>, message: Message, payload: Bytes) {
        match message {
            Message::Call { id, body } => self.call(from, id, body, payload),
            Message::Append { ends, stream, head } => {
                if let Err(refused) = self.append(from, ends, stream, head, payload) {
                    self.streams.lock().remove(&(from.number(), stream));
                    let result = Err(AppendStop::Refused(refused));
                    // The sender's deadline covers a connection that is gone.
                    let _ = from.send(&Message::Appended { stream, result }, vec![]);
                }
            }
            Message::AppendEnd { stream } => {
                self.streams.lock().remove(&(from.number(), stream));
            }
            Message::Hello(_) | Message::Welcome(_) | Message::Ask { .. } | Message::Told(_) => {
                tracing::warn!("a peer greets twice: the connection ends");
                from.close();
            }
            Message::Recall { session, .. } | Message::AskOpen { session, .. } => {
                if let Peer::Node(peer) = from.peer() {
                    self.node.sessions().deliver(session, peer.node, message);
                }
            }
            Message::Reply { .. } | Message::Appended { .. } => {
                unreachable!("a connection keeps answers to itself")
            }
        }
    }

    fn closed(&self, conn: &Arc<Conn>) {
        let number = conn.number();
        self.streams.lock().retain(|(of, _), _| *of != number);
        self.node.sessions().closed(conn);
    }
}
