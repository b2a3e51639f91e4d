//! One replica: a group's log, state and consensus on this node.
//!
//! Owns the opening of a replica and what other replicas ask of it. Deliberately knows neither clients nor leaders'
//! duties: those are [`crate::group`]'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use openraft::errors::Fatal;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, TransferLeaderError,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_core::limits::RAFT_ELECTION_MAX;
use polyfs_core::time::Instant;
use thiserror::Error;

use super::config::config;
use super::hold::Hold;
use super::log::GroupLog;
use super::log_driver::SharedLog;
use super::network::{Networks, append_request};
use super::promises::breaks_promise;
use super::snapshot::Stage;
use super::state::{GroupState, Machine, ReplicaRecord, SharedState};
use super::types::{LogId, SnapshotMeta, TypeConfig, Vote};
use super::witness::{Granted, Witness};
use crate::conn::Conn;
use crate::links::Links;
use crate::runtime::Runtime;
use crate::wire::{
    AppendStop, Message, RaftCall, RaftReply, Refused, Reply, TransferRefusal, VoteAsk,
};

/// openraft, as a group uses it.
pub type Raft<R> = openraft::Raft<TypeConfig<R>, GroupState<R>>;
/// An append, and what the leader knows acknowledged.
type Append<R> = (AppendEntriesRequest<TypeConfig<R>>, Option<LogId>);
/// The way into a stream of appends.
pub type AppendSender<R> = mpsc::UnboundedSender<Append<R>>;

/// What every replica of a node stands on. Cheap to clone.
pub struct Ground<R: Runtime> {
    /// The world.
    pub runtime: R,
    /// The node's log.
    pub log: SharedLog<R>,
    /// The node's state.
    pub state: SharedState<R>,
    /// The other nodes.
    pub links: Links<R>,
    /// Who is told of votes.
    pub witness: Witness,
}

impl<R: Runtime> Clone for Ground<R> {
    fn clone(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            log: self.log.clone(),
            state: self.state.clone(),
            links: self.links.clone(),
            witness: self.witness.clone(),
        }
    }
}

/// One replica. Cheap to clone.
pub struct Replica<R: Runtime> {
    group: GroupId,
    id: ReplicaId,
    raft: Raft<R>,
    state: GroupState<R>,
    stage: Arc<Stage<R>>,
    runtime: R,
    /// Before this no vote is granted (P2).
    no_votes_before: Instant,
    hold: Arc<Hold>,
    /// It has lost what it acknowledged, as its leader knows: it says nothing any more (P1).
    broken: Arc<AtomicBool>,
    alone: bool,
    witness: Witness,
}

impl<R: Runtime> Clone for Replica<R> {
    fn clone(&self) -> Self {
        Self {
            group: self.group,
            id: self.id,
            raft: self.raft.clone(),
            state: self.state.clone(),
            stage: Arc::clone(&self.stage),
            runtime: self.runtime.clone(),
            no_votes_before: self.no_votes_before,
            hold: Arc::clone(&self.hold),
            broken: Arc::clone(&self.broken),
            alone: self.alone,
            witness: self.witness.clone(),
        }
    }
}

/// Why a replica does not open.
#[derive(Clone, Debug, Error)]
pub enum OpenError {
    /// openraft refuses what log and state say.
    #[error("replica {replica} of {group} does not open: {why}")]
    Refused {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// In openraft's words.
        why: String,
    },
}

impl<R: Runtime> Replica<R> {
    /// Opens a replica whose state is on this node. `newborn` says that it was made by this very process, so that it
    /// can't have promised anything before.
    ///
    /// # Errors
    /// When log and state contradict each other.
    pub async fn open(
        ground: &Ground<R>,
        group: GroupId,
        record: ReplicaRecord,
        machine: Arc<dyn Machine>,
        newborn: bool,
    ) -> Result<Self, OpenError> {
        let id = record.replica;
        let state = GroupState::new(
            ground.state.clone(),
            ground.log.clone(),
            group,
            machine,
            record,
        );
        let log = GroupLog::new(ground.log.clone(), group);
        let mut raft = open_raft(ground, group, id, log.clone(), &state).await;
        if raft.is_err() && state.lacks_room() {
            // Others may make room, once this node runs; what is committed it hears again from a leader.
            let log = log.with_committed_unknown();
            raft = open_raft(ground, group, id, log, &state).await;
        }
        let raft = raft.map_err(|error: Fatal<TypeConfig<R>>| OpenError::Refused {
            group,
            replica: id,
            why: error.to_string(),
        })?;
        state.begin();
        // From the log: the state may be as old as its last checkpoint.
        let voters = raft.with_raft_state(|state| {
            let voters = state.membership_state.effective().voter_ids();
            voters.collect::<Vec<_>>()
        });
        let alone = voters.await.is_ok_and(|voters| voters == [id.0]);
        let now = ground.runtime.now().mono;
        let guarded = !(newborn || alone || cfg!(planted = "votes_after_restart"));
        let no_votes_before = if guarded {
            now + RAFT_ELECTION_MAX
        } else {
            now
        };
        let runtime = ground.runtime.clone();
        let stage = Arc::new(Stage::new(ground.state.clone(), runtime.clone()));
        Ok(Self {
            group,
            id,
            raft,
            state,
            stage,
            runtime,
            no_votes_before,
            hold: Arc::default(),
            broken: Arc::default(),
            alone,
            witness: ground.witness.clone(),
        })
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Who it is there.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Whether it was its group's only voter when it was opened.
    #[must_use]
    pub fn was_alone(&self) -> bool {
        self.alone
    }

    /// Its consensus.
    #[must_use]
    pub fn raft(&self) -> &Raft<R> {
        &self.raft
    }

    /// Its applied state.
    #[must_use]
    pub fn state(&self) -> &GroupState<R> {
        &self.state
    }

    /// P10: it may have lost what it acknowledged, so it grants no vote and starts no election until a leader has
    /// brought it level, or [`Self::let_go`].
    pub fn hold_back(&self) {
        self.hold.begin();
        self.raft.runtime_config().elect(false);
    }

    /// Ends what [`Self::hold_back`] began.
    pub fn let_go(&self) {
        if self.hold.end() {
            self.raft.runtime_config().elect(true);
            if self.is_broken() {
                self.raft.runtime_config().elect(false);
            }
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// The answer when an entry is not here. Who has acknowledged it has lost it, and speaks no more (P10).
    fn conflict(&self, missing: LogId, acknowledged: Option<LogId>) -> AppendStop {
        if !breaks_promise(missing, acknowledged) {
            return AppendStop::Conflict(missing);
        }
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.raft.runtime_config().elect(false);
            let health = self.state.log.health();
            health.promise_broken(self.group, self.id, missing.index());
        }
        AppendStop::Refused(Refused::Stopping)
    }

    /// Whether it is held back.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.hold.is_on()
    }

    /// Answers another replica.
    pub async fn answer(&self, call: RaftCall, payload: Bytes) -> Reply {
        if self.is_broken() {
            return Reply::Refused(Refused::Stopping);
        }
        let asked = self.witness.told();
        let answered = match call {
            RaftCall::Vote(ask) | RaftCall::PreVote(ask)
                if self.runtime.now().mono < self.no_votes_before && !ask.transfer =>
            {
                Err(Refused::JustStarted)
            }
            RaftCall::Vote(_) | RaftCall::PreVote(_)
                if self.hold.is_on() && !cfg!(planted = "torn_replica_votes") =>
            {
                Err(Refused::JustStarted)
            }
            RaftCall::Vote(ask) => self.raft.vote(vote_request(&ask)).await.map_or_else(
                |_| Err(Refused::Stopping),
                |response| {
                    if response.vote_granted {
                        self.witness.tell(&Granted {
                            group: self.group,
                            replica: self.id,
                            vote: ask.vote,
                            is_transfer: ask.transfer,
                            asked,
                        });
                    }
                    Ok(vote_reply(response))
                },
            ),
            RaftCall::PreVote(ask) => self.raft.pre_vote(vote_request(&ask)).await.map_or_else(
                |_| Err(Refused::Stopping),
                |response| Ok(vote_reply(response)),
            ),
            RaftCall::Append(head) => {
                let acknowledged = head.acknowledged;
                match append_request(head, payload) {
                    Ok(request) => self.append(request, acknowledged).await,
                    Err(error) => {
                        tracing::warn!(%error, "a peer's append is damaged");
                        Err(Refused::NotYours)
                    }
                }
            }
            RaftCall::Transfer { from, to, last } => {
                let request = TransferLeaderRequest::new(from, to, last);
                self.raft.handle_transfer_leader(request).await.map_or_else(
                    |_| Err(Refused::Stopping),
                    |taken| Ok(RaftReply::Transfer(taken.map_err(transfer_refusal))),
                )
            }
            RaftCall::SnapshotBegin { meta, .. } => {
                Ok(RaftReply::SnapshotAt(self.stage.begin(&meta).await))
            }
            RaftCall::SnapshotPiece(piece) => match self.stage.piece(piece, payload).await {
                Ok(pieces) => Ok(RaftReply::SnapshotAt(pieces)),
                Err(error) => {
                    tracing::warn!(%error, "a piece of a snapshot was not taken");
                    Err(Refused::Stopping)
                }
            },
            RaftCall::SnapshotEnd {
                from_leader,
                meta,
                pieces,
            } => self.install(from_leader, meta, pieces).await,
        };
        if self.is_broken() {
            return Reply::Refused(Refused::Stopping);
        }
        answered.map_or_else(Reply::Refused, Reply::Raft)
    }

    async fn install(
        &self,
        from: Vote,
        meta: SnapshotMeta,
        pieces: u64,
    ) -> Result<RaftReply, Refused> {
        let staged = self.stage.end(meta, pieces).await;
        let staged = staged.ok_or(Refused::NoReplica)?;
        let lineage = staged.snapshot.staged();
        let installed = self.raft.install_full_snapshot(from, staged).await;
        let response = installed.map_err(|_| Refused::Stopping)?;
        // openraft answers when it is current, or when it never will be: what is not newer than what is here is left.
        if let Some(lineage) = lineage.filter(|lineage| *lineage != self.state.record().lineage) {
            self.stage.forget(lineage);
        }
        Ok(RaftReply::SnapshotDone(response.vote))
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig<R>>,
        acknowledged: Option<LogId>,
    ) -> Result<RaftReply, Refused> {
        let prev = request.prev_log_id;
        self.hold
            .leader_says(request.vote.leader_id.term, request.leader_commit);
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let response = self
            .raft
            .append_entries(request)
            .await
            .map_err(|_| Refused::Stopping)?;
        let matching = match &response {
            AppendEntriesResponse::Success => last,
            AppendEntriesResponse::PartialSuccess(matching) => *matching,
            AppendEntriesResponse::HigherVote(_) | AppendEntriesResponse::Conflict => None,
        };
        if !may_acknowledge(&self.state, matching).await {
            return Err(Refused::Stopping);
        }
        if self.hold.is_level(matching) {
            self.let_go();
        }
        Ok(RaftReply::Append(match response {
            AppendEntriesResponse::Success => Ok(last),
            AppendEntriesResponse::PartialSuccess(matching) => Ok(matching),
            AppendEntriesResponse::HigherVote(vote) => Err(AppendStop::HigherVote(vote)),
            AppendEntriesResponse::Conflict => match prev {
                Some(prev) => Err(self.conflict(prev, acknowledged)),
                None => Err(AppendStop::Refused(Refused::Stopping)),
            },
        }))
    }

    /// Opens a stream of appends whose results go back over `conn` until it ends.
    #[must_use]
    pub fn open_stream(&self, conn: Arc<Conn>, stream: u64) -> AppendSender<R> {
        let (sender, requests) = mpsc::unbounded();
        let hold = Arc::clone(&self.hold);
        let promised = Arc::new(Mutex::new(None));
        let told = Arc::clone(&promised);
        let requests = requests.map(move |(request, acknowledged): Append<R>| {
            hold.leader_says(request.vote.leader_id.term, request.leader_commit);
            let mut promised = told.lock();
            *promised = acknowledged.max(*promised);
            request
        });
        let results = self.raft.stream_append(requests);
        let replica = self.clone();
        self.runtime.spawn(async move {
            let mut results = std::pin::pin!(results);
            while let Some(result) = results.next().await {
                let mut result = match result {
                    Ok(Ok(matching)) if may_acknowledge(&replica.state, matching).await => {
                        Ok(matching)
                    }
                    Ok(Ok(_)) => Err(AppendStop::Refused(Refused::Stopping)),
                    Ok(Err(StreamAppendError::Conflict(id))) => {
                        let promised = *promised.lock();
                        Err(replica.conflict(id, promised))
                    }
                    Ok(Err(StreamAppendError::HigherVote(vote))) => {
                        Err(AppendStop::HigherVote(vote))
                    }
                    Err(_) => Err(AppendStop::Refused(Refused::Stopping)),
                };
                if replica.is_broken() {
                    result = Err(AppendStop::Refused(Refused::Stopping));
                }
                if result.is_ok_and(|matching| replica.hold.is_level(matching)) {
                    replica.let_go();
                }
                let ends = result.is_err();
                if conn
                    .send(&Message::Appended { stream, result }, vec![])
                    .is_err()
                    || ends
                {
                    break;
                }
            }
        });
        sender
    }

    /// Ends it. Its log and state stay.
    pub async fn close(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.group, %error, "a replica ended with a panic");
        }
    }
}

async fn open_raft<R: Runtime>(
    ground: &Ground<R>,
    group: GroupId,
    id: ReplicaId,
    log: GroupLog<R>,
    state: &GroupState<R>,
) -> Result<Raft<R>, Fatal<TypeConfig<R>>> {
    let networks = Networks::new(
        ground.links.clone(),
        ground.log.clone(),
        state.clone(),
        group,
        id,
    );
    Raft::new(id.0, config(), networks, log, state.clone()).await
}

/// P1: what is acknowledged is durable.
async fn may_acknowledge<R: Runtime>(state: &GroupState<R>, matching: Option<LogId>) -> bool {
    match matching {
        Some(id) => state.is_durable(id).await.unwrap_or(false),
        None => true,
    }
}

fn vote_request<R: Runtime>(ask: &VoteAsk) -> VoteRequest<TypeConfig<R>> {
    let mut request = VoteRequest::new(ask.vote, ask.last);
    request.leadership_transfer = ask.transfer;
    request
}

fn vote_reply<R: Runtime>(response: VoteResponse<TypeConfig<R>>) -> RaftReply {
    RaftReply::Vote {
        vote: response.vote,
        granted: response.vote_granted,
        last: response.last_log_id,
    }
}

fn transfer_refusal<R: Runtime>(error: TransferLeaderError<TypeConfig<R>>) -> TransferRefusal {
    match error {
        TransferLeaderError::VoteChanged { expected, actual } => {
            TransferRefusal::VoteChanged { expected, actual }
        }
        TransferLeaderError::LogNotFlushed { expected, actual } => {
            TransferRefusal::LogNotFlushed { expected, actual }
        }
    }
}
