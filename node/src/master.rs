//! The master at work: what mounts ask of the leader of group 0.
//!
//! Owns the service: sessions opened, renewed and closed, the region map, the room in the cluster. A renewal is answered
//! only after a read index of group 0 (P8). Deliberately knows no rule of placement or of lives: core does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft_rt::AsyncRuntime;
use openraft_rt::watch::WatchReceiver;
use parking_lot::Mutex;
use polyfs_core::client::port::{Joiner, MasterReply, MasterRequest, RegionLine};
use polyfs_core::codec;
use polyfs_core::ids::{GroupId, Renewal, SessionId};
use polyfs_core::master::entry::{Entry, Reply as Applied};
use polyfs_core::master::sessions::{Input, Output, Sessions};
use polyfs_core::master::state::MasterState;
use polyfs_core::time::{Instant, Now};
use polyfs_core::vfs::FsStats;

use crate::controller::Steering;
use crate::group::Answerer;
use crate::machines;
use crate::node::Node;
use crate::raft::replica::Replica;
use crate::raft::types::{GroupApplied, GroupCommand, LogId};
use crate::runtime::Runtime;
use crate::wire::Reply;

/// How often lives are looked at.
const LOOK_EVERY: core::time::Duration = core::time::Duration::from_millis(500);

/// A commit that takes longer, when somebody asks how the cluster is, is none. Well below the asker's own patience.
const COMMIT_PATIENCE: core::time::Duration = core::time::Duration::from_millis(600);

/// The lives are looked at several times a second. Who has not done so for this long was away: asleep or stopped.
const AWAY: core::time::Duration = core::time::Duration::from_secs(3);

/// The lives of sessions under one leadership of group 0.
struct Term {
    term: u64,
    seen: Instant,
    sessions: Sessions,
    next_token: u64,
    steering: Steering,
}

/// The master's service on one node; answers while this node leads group 0.
pub struct Master<R: Runtime> {
    pub(crate) node: Node<R>,
    term: Mutex<Option<Term>>,
    /// The state as of some applied entry: decoding it for each heartbeat would be a waste.
    decoded: Mutex<Option<(LogId, Arc<MasterState>)>>,
    proposing: AtomicBool,
}

impl<R: Runtime> Master<R> {
    /// Starts the service of a node.
    #[must_use]
    pub fn start(node: Node<R>) -> Arc<Self> {
        let master = Arc::new(Self {
            node: node.clone(),
            term: Mutex::new(None),
            decoded: Mutex::new(None),
            proposing: AtomicBool::new(false),
        });
        node.runtime().spawn(Arc::clone(&master).watch_lives());
        node.runtime().spawn(Arc::clone(&master).steer());
        master
    }

    /// Answers a request, or says who leads.
    pub fn request(self: &Arc<Self>, request: MasterRequest, answer: Answerer) {
        let master = Arc::clone(self);
        self.node.runtime().spawn(async move {
            let reply = match master.reply(request).await {
                Some(reply) => Reply::Master(reply),
                None => Reply::NotMaster {
                    leader: master.node.master_node(),
                },
            };
            answer(reply, Bytes::new());
        });
    }

    fn replica(&self) -> Option<Replica<R>> {
        self.node.replica(GroupId::MASTER)
    }

    /// `None` when this node does not lead.
    async fn reply(self: &Arc<Self>, request: MasterRequest) -> Option<MasterReply> {
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
            MasterRequest::Status => {
                self.read_index().await?;
                let commits = self.commits().await;
                Some(MasterReply::Status(self.cluster_status(commits)?))
            }
            MasterRequest::Join(joiner) => self.join(joiner).await,
        }
    }

    /// A store joins, or has started again (P1); asked twice, it is told the same.
    async fn join(&self, joiner: Joiner) -> Option<MasterReply> {
        let Joiner {
            store,
            boot,
            process,
            address,
            zone,
            capacity,
        } = joiner;
        let entry = Entry::Join {
            store,
            boot,
            process,
            address,
            zone,
            capacity,
        };
        match self.propose(entry).await? {
            Applied::Joined(node) => Some(MasterReply::Joined(node)),
            Applied::ComeBackEmpty => Some(MasterReply::ComeBackEmpty),
            other => {
                tracing::warn!(?other, "a store could not join");
                None
            }
        }
    }

    fn add_leader(&self, line: &mut RegionLine) {
        let reported = self.reported_leader(line.group);
        line.leader = reported.or_else(|| self.node.leader_of(line.group));
    }

    fn stats(&self) -> FsStats {
        self.cluster_stats().unwrap_or_else(|| {
            let room = self.node.room();
            FsStats {
                bytes_total: room.total,
                bytes_free: room.free,
                inodes_used: self.node.heartbeat().vitals.inodes,
            }
        })
    }

    pub(crate) fn state(&self) -> Option<Arc<MasterState>> {
        let replica = self.replica()?;
        // Read before the state: that may only be newer.
        let applied = replica.state().record().applied?;
        if let Some((of, state)) = &*self.decoded.lock()
            && *of == applied
        {
            return Some(Arc::clone(state));
        }
        let state = Arc::new(replica.state().read(machines::master_state).ok()?);
        *self.decoded.lock() = Some((applied, Arc::clone(&state)));
        Some(state)
    }

    /// Whether the caller may propose for the controller; then it says when it is through.
    pub(crate) fn begin_proposing(&self) -> bool {
        !self.proposing.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_proposing(&self) {
        self.proposing.store(false, Ordering::Release);
    }

    /// What this leadership knows of the nodes; `None` when this node does not lead.
    pub(crate) fn steering<T>(&self, use_it: impl FnOnce(&mut Steering, Now) -> T) -> Option<T> {
        self.under_term(|term, now| use_it(&mut term.steering, now))
    }

    pub(crate) async fn propose(&self, entry: Entry) -> Option<Applied> {
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

    /// Whether group 0 commits an entry, one that changes nothing, in time. That the others hear this leader does not say
    /// that they can write.
    async fn commits(&self) -> bool {
        let nobody = Entry::ForgetSession {
            session: SessionId::CLUSTER,
        };
        let committed = R::Async::timeout(COMMIT_PATIENCE, self.propose(nobody)).await;
        matches!(committed, Ok(Some(_)))
    }

    async fn read_index(&self) -> Option<()> {
        let raft = self.replica()?.raft().clone();
        let index = raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        index.await_ready(&raft).await.ok()?;
        Some(())
    }

    /// The lives of the present leadership; a new one gives everybody a whole new life.
    fn lives<T>(&self, use_them: impl FnOnce(&mut Sessions, Now, u64) -> T) -> Option<T> {
        self.under_term(|term, now| {
            term.next_token += 1;
            use_them(&mut term.sessions, now, term.next_token)
        })
    }

    fn under_term<T>(&self, use_it: impl FnOnce(&mut Term, Now) -> T) -> Option<T> {
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
                seen: now.mono,
                sessions,
                next_token: 0,
                steering: Steering::new(now),
            });
        }
        let term = held.as_mut()?;
        if now.mono.since(term.seen) >= AWAY {
            term.sessions.handle_input(now, Input::WasAway);
        }
        term.seen = now.mono;
        Some(use_it(term, now))
    }

    /// A renewal's number once leadership is confirmed; the inner `None` when the session is over.
    async fn renew(self: &Arc<Self>, session: SessionId) -> Option<Option<Renewal>> {
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

    /// Ends a session: in group 0 first, then in every region.
    async fn end(self: &Arc<Self>, session: SessionId) -> Option<()> {
        self.propose(Entry::EndSession { session }).await?;
        self.lives(|sessions, now, _| sessions.handle_input(now, Input::Ended(session)));
        let master = Arc::clone(self);
        self.node
            .runtime()
            .spawn(async move { master.spread_ends().await });
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
            if over.is_none() {
                continue;
            }
            for session in over.unwrap_or_default() {
                self.end(session).await;
            }
            self.spread_ends().await;
        }
    }
}
