//! The master at work: what mounts ask of the leader of group 0.
//!
//! Owns the service: sessions opened, renewed and closed, the region map, the room in the cluster. A renewal is answered
//! only after a read index of group 0 (P8). Deliberately knows no rule of placement or of lives: core does.

use std::sync::Arc;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft_rt::watch::WatchReceiver;
use parking_lot::Mutex;
use polyfs_core::client::port::{MasterReply, MasterRequest, RegionLine};
use polyfs_core::codec;
use polyfs_core::ids::{GroupId, NodeId, Renewal, ReplicaId, SessionId};
use polyfs_core::master::entry::{Entry, Reply as Applied};
use polyfs_core::master::sessions::{Input, Output, Sessions};
use polyfs_core::master::state::MasterState;
use polyfs_core::vfs::FsStats;

use crate::group::Answerer;
use crate::machines;
use crate::node::Node;
use crate::raft::replica::Replica;
use crate::raft::types::{GroupApplied, GroupCommand};
use crate::runtime::Runtime;
use crate::wire::Reply;

/// How often lives are looked at.
const LOOK_EVERY: core::time::Duration = core::time::Duration::from_millis(500);

/// The lives of sessions under one leadership of group 0.
struct Term {
    term: u64,
    sessions: Sessions,
    next_token: u64,
}

/// The master's service on one node; answers while this node leads group 0.
pub struct Master<R: Runtime> {
    node: Node<R>,
    term: Mutex<Option<Term>>,
}

impl<R: Runtime> Master<R> {
    /// Starts the service of a node.
    #[must_use]
    pub fn start(node: Node<R>) -> Arc<Self> {
        let master = Arc::new(Self {
            node: node.clone(),
            term: Mutex::new(None),
        });
        node.runtime().spawn(Arc::clone(&master).watch_lives());
        master
    }

    /// Answers a request, or says who leads.
    pub fn request(self: &Arc<Self>, request: MasterRequest, answer: Answerer) {
        let master = Arc::clone(self);
        self.node.runtime().spawn(async move {
            let reply = match master.reply(request).await {
                Some(reply) => Reply::Master(reply),
                None => Reply::NotMaster {
                    leader: master.leader(),
                },
            };
            answer(reply, Bytes::new());
        });
    }

    fn replica(&self) -> Option<Replica<R>> {
        self.node.replica(GroupId::MASTER)
    }

    /// The node that leads group 0, as far as this one knows.
    fn leader(&self) -> Option<NodeId> {
        self.leader_of(GroupId::MASTER)
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let replica = self.node.replica(group)?;
        let leader = replica.raft().metrics().borrow_watched().current_leader?;
        if leader == replica.id().0 {
            return Some(self.node.identity().node);
        }
        self.node.links().node_of(group, ReplicaId(leader))
    }

    /// `None` when this node does not lead.
    async fn reply(&self, request: MasterRequest) -> Option<MasterReply> {
        match request {
            MasterRequest::OpenSession {
                volume,
                read_only,
                nonce,
            } => {
                let entry = Entry::CreateSession {
                    volume,
                    read_only,
                    nonce,
                };
                match self.propose(entry).await? {
                    Applied::Session(session, root) => {
                        self.lives(|sessions, now, _| {
                            sessions.handle_input(now, Input::Created(session));
                        })?;
                        let renewal = self.renew(session).await??;
                        Some(MasterReply::Opened {
                            session,
                            renewal,
                            root,
                        })
                    }
                    Applied::NotFound => Some(MasterReply::NoVolume),
                    other => {
                        tracing::warn!(?other, "no session could be opened");
                        None
                    }
                }
            }
            MasterRequest::Renew { session, .. } => Some(match self.renew(session).await? {
                Some(renewal) => MasterReply::Renewed(renewal),
                None => MasterReply::SessionOver,
            }),
            MasterRequest::CloseSession { session } => {
                self.end(session).await?;
                Some(MasterReply::Closed)
            }
            MasterRequest::Map => {
                self.read_index().await?;
                let (_, mut lines) = self.state()?.map_since(0);
                for line in &mut lines {
                    self.add_leader(line);
                }
                Some(MasterReply::Map(lines))
            }
            MasterRequest::Stats => Some(MasterReply::Stats(self.stats())),
            // Heartbeats come with the controller.
            MasterRequest::Status => None,
        }
    }

    fn add_leader(&self, line: &mut RegionLine) {
        line.leader = self.leader_of(line.group);
    }

    fn stats(&self) -> FsStats {
        let room = self.node.room();
        FsStats {
            bytes_total: room.total,
            bytes_free: room.free,
            inodes_used: 0,
        }
    }

    fn state(&self) -> Option<MasterState> {
        self.replica()?.state().read(machines::master_state).ok()
    }

    async fn propose(&self, entry: Entry) -> Option<Applied> {
        let raft = self.replica()?.raft().clone();
        let written = raft
            .client_write(GroupCommand::new(&entry, Bytes::new()))
            .await
            .ok()?;
        match written.data {
            GroupApplied::Master(reply) => codec::decode("master reply", &reply).ok(),
            GroupApplied::Nothing | GroupApplied::Region(_) => None,
        }
    }

    async fn read_index(&self) -> Option<()> {
        let raft = self.replica()?.raft().clone();
        let index = raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        index.await_ready(&raft).await.ok()?;
        Some(())
    }

    /// The lives of the present leadership; a new one gives everybody a whole new life.
    fn lives<T>(
        &self,
        use_them: impl FnOnce(&mut Sessions, polyfs_core::time::Now, u64) -> T,
    ) -> Option<T> {
        let replica = self.replica()?;
        let (leads, term) = {
            let metrics = replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            let leads = metrics.state == openraft::ServerState::Leader;
            let settled = metrics.last_applied.map(|id| id.committed_leader_id().term)
                == Some(metrics.current_term);
            (leads && settled, metrics.current_term)
        };
        let mut held = self.term.lock();
        if !leads {
            *held = None;
            return None;
        }
        let now = self.node.runtime().now();
        if held.as_ref().is_none_or(|held| held.term != term) {
            let state = self.state()?;
            let living = state.sessions.iter().filter(|(_, session)| !session.ended);
            let sessions = Sessions::new(term, living.map(|(id, _)| *id), now);
            *held = Some(Term {
                term,
                sessions,
                next_token: 0,
            });
        }
        let held = held.as_mut()?;
        held.next_token += 1;
        Some(use_them(&mut held.sessions, now, held.next_token))
    }

    /// A renewal's number once leadership is confirmed; the inner `None` when the session is over.
    async fn renew(&self, session: SessionId) -> Option<Option<Renewal>> {
        let renewed = self.lives(|sessions, now, token| {
            sessions.handle_input(now, Input::Renew { session, token });
            let mut mine = None;
            let mut others = Vec::new();
            while let Some(output) = sessions.poll_output() {
                match output {
                    Output::Renewed { token: of, renewal } if of == token => mine = Some(renewal),
                    Output::ProposeEnd(session) => others.push(session),
                    Output::Renewed { .. } | Output::Over { .. } => {}
                }
            }
            (mine, others)
        })?;
        let (mine, ended) = renewed;
        for session in ended {
            self.end(session).await;
        }
        self.read_index().await?;
        Some(mine)
    }

    /// Ends a session: in group 0 first, then in every meta region led here.
    async fn end(&self, session: SessionId) -> Option<()> {
        self.propose(Entry::EndSession { session }).await?;
        self.lives(|sessions, now, _| sessions.handle_input(now, Input::Ended(session)));
        self.node.session_over(session);
        Some(())
    }

    async fn watch_lives(self: Arc<Self>) {
        while !self.node.is_stopped() {
            self.node.runtime().sleep(LOOK_EVERY).await;
            let over = self.lives(|sessions, now, _| {
                sessions.handle_input(now, Input::Tick);
                let outputs = std::iter::from_fn(|| sessions.poll_output());
                let ends = outputs.filter_map(|output| match output {
                    Output::ProposeEnd(session) => Some(session),
                    Output::Renewed { .. } | Output::Over { .. } => None,
                });
                ends.collect::<Vec<_>>()
            });
            for session in over.unwrap_or_default() {
                self.end(session).await;
            }
        }
    }
}
