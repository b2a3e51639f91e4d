//! What the leader of a region does besides ordering entries: admits requests, answers queries, gives and recalls
//! leases, coordinates transactions, reclaims.
//!
//! Owns everything about a region that is *not* replicated and dies with a leadership. It is made when this replica
//! becomes leader and dropped when it ceases to be. Deliberately knows no network and no consensus: it asks for
//! proposals and read indexes and is told how they ended.
//!
//! ```text
//!  Request ──admit──┬─ query ──ReadIndex──► state ──► Answer            (queries)
//!                   ├─ operation ─others forget─Propose─► Applied ─► Answer (operations, changes)
//!                   │                        └─ Distributed ─► coordinate
//!                   └─ lease ─► lease table ─► Recall, turns            (leases)
//!  Tick ─► takeovers, abandoned transactions, garbage, orphans          (reclaim)
//! ```

mod changes;
mod coordinate;
mod delegations;
mod inherit;
mod lease;
mod leases;
mod operations;
pub mod port;
mod queries;
mod reclaim;
mod show;
#[cfg(test)]
mod tests;
mod transaction;
mod views;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

use crate::ids::{GroupId, Renewal, SessionId};
use crate::place::Places;
use crate::region::command::{Applied, Command, CommandBody, Descriptor};
use crate::region::key::{self, Kind};
use crate::region::kv::{KvError, KvRead};
use crate::request::{
    Answer, Assertion, DataQuery, Leadership, Refusal, Request, RequestBody, SlotUse,
};
use crate::time::{Instant, Now, Timestamp};
use crate::txn::{TxnId, TxnRequest};

use port::{Asker, Input, Output, Token};
use transaction::{Stage, Txn};

/// What a leader is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its region.
    pub group: GroupId,
    /// The term it leads in: higher than that of any leader before it.
    pub term: u64,
    /// Requests it takes on at a time; more are refused as unavailable.
    pub requests_max: usize,
}

/// What an outstanding token is for.
#[derive(Debug)]
enum Job {
    /// A query waits for its read index.
    Query(queries::Query),
    /// An operation waits to be applied.
    Operation(operations::Operation),
    /// An operation lacks its lease here; whether this is the place to say so waits for a read index.
    Unleased(operations::Operation),
    /// A lease frame waits for its read index.
    Renew {
        asker: Asker,
        session: SessionId,
        assertion: Option<Assertion>,
    },
    /// The outcome of a foreign transaction was asked for.
    Resolve { txn: TxnId },
    /// A foreign transaction's intents are being taken away.
    FinishHere { txn: TxnId },
    /// A step of a transaction this region coordinates.
    Coordinate { txn: TxnId, stage: Stage },
    /// A session is being admitted to leases.
    Admit { session: SessionId },
    /// A dead holder is being shut out.
    Takeover {
        ino: crate::place::Ino,
        dead: SessionId,
    },
    /// Whoever held leases of an inode before this leadership is being shut out.
    Settle { ino: crate::place::Ino },
    /// Garbage is being deleted in the data regions, then struck off here.
    Reclaim {
        chunks: Vec<crate::request::ChunkName>,
    },
    /// Nobody waits for it.
    Unawaited,
}

/// The leader of one region.
#[derive(Debug)]
pub struct Leader {
    config: Config,
    /// What the region holds and under which epoch, as far as applied here.
    descriptor: Descriptor,
    random: u64,
    next_token: u64,
    jobs: BTreeMap<Token, Job>,
    outputs: VecDeque<Output>,
    /// The highest renewal number heard of each session, and the one before it: numbers may jump.
    renewals: BTreeMap<SessionId, (Renewal, Renewal)>,
    leases: leases::Leases,
    views: views::ViewTable,
    changes: changes::Changes,
    locks: delegations::AwaitedLocks,
    /// Transactions this region coordinates.
    txns: BTreeMap<TxnId, Txn>,
    /// Requests that met an intent, by the transaction in the way.
    blocked: BTreeMap<TxnId, Vec<Token>>,
    reclaim: reclaim::Reclaim,
}

impl Leader {
    /// A new leader; `state` is the replica's, with everything applied that was committed before this leadership.
    ///
    /// # Errors
    /// When the state can't be read.
    pub fn new(config: Config, seed: u64, now: Now, state: &dyn KvRead) -> Result<Self, KvError> {
        let descriptor = read_descriptor(state)?;
        let mut leader = Self {
            config,
            descriptor,
            random: seed | 1,
            next_token: 0,
            jobs: BTreeMap::new(),
            outputs: VecDeque::new(),
            renewals: BTreeMap::new(),
            leases: leases::Leases::new(now.mono, config.term, read_admitted(state)?),
            views: views::ViewTable::new(now.mono, config.term),
            changes: changes::Changes::default(),
            locks: delegations::AwaitedLocks::default(),
            txns: BTreeMap::new(),
            blocked: BTreeMap::new(),
            reclaim: reclaim::Reclaim::new(now.mono),
        };
        leader.resume_transactions(now, state)?;
        Ok(leader)
    }

    /// Takes one input; `state` is the replica's applied state. Outputs are to be drained afterwards.
    ///
    /// # Errors
    /// When the state can't be read: the replica must stop.
    pub fn handle_input(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        input: Input,
    ) -> Result<(), KvError> {
        match input {
            Input::Request {
                asker,
                request,
                payload,
            } => self.admit(now, state, asker, request, payload),
            Input::Applied { token, applied } => self.applied(now, state, token, applied),
            Input::Unknown { token } => {
                self.unknown(now.mono, token);
                Ok(())
            }
            Input::ReadReady { token } => self.read_ready(now, state, token),
            Input::ReadFailed { token } => {
                self.read_failed(token);
                Ok(())
            }
            Input::TxnAnswer { token, answer } => self.txn_answer(now, state, token, answer),
            Input::QueryAnswer { token, answer } => {
                self.ancestor_answer(now, token, answer);
                Ok(())
            }
            Input::Renew {
                asker,
                session,
                renewal,
                assertion,
            } => {
                self.heard(session, renewal);
                self.read_index(Job::Renew {
                    asker,
                    session,
                    assertion,
                });
                Ok(())
            }
            Input::SessionOver { session } => {
                self.end_session(now, session);
                Ok(())
            }
            Input::Tick => self.tick(now, state),
        }
    }

    /// The next thing to do, until none is left.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to tick, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let leases = self
            .leases
            .timeout()
            .map(|at| (at, "a recalled lease runs out"));
        let txns = self
            .txns_timeout()
            .map(|at| (at, "a transaction tries again"));
        let reclaim = Some((self.reclaim.timeout(), "garbage and orphans"));
        let views = self
            .changes_timeout()
            .map(|at| (at, "a recalled view runs out"));
        let locks = self
            .locks_timeout()
            .map(|at| (at, "recalled locks are asked for again"));
        [leases, txns, reclaim, views, locks]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a request may go on at all; work saved, since apply checks again (P5).
    fn admit(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        asker: Asker,
        request: Request,
        payload: Bytes,
    ) -> Result<(), KvError> {
        let header = &request.header;
        let current = self.descriptor.epoch;
        if header.group != self.config.group {
            self.refuse(asker, Refusal::NoRegion);
            return Ok(());
        }
        if header.epoch != current && !cfg!(planted = "epoch_unchecked") {
            let places = self.descriptor.places;
            self.refuse(
                asker,
                Refusal::Epoch {
                    epoch: current,
                    places,
                },
            );
            return Ok(());
        }
        self.heard(header.session, header.renewal);
        let heard = self.renewals.get(&header.session);
        if heard.is_some_and(|(_, last_but_one)| header.renewal < *last_but_one) {
            self.refuse(asker, Refusal::Renewal);
            return Ok(());
        }
        if self.jobs.len() >= self.config.requests_max && !request.body.gives_back() {
            self.refuse(
                asker,
                Refusal::Unavailable("too many requests at once".into()),
            );
            return Ok(());
        }
        match request.body {
            RequestBody::DataQuery(DataQuery::Read { led: Some(led), .. }) if self.is(led) => {
                return self.run_query(now, state, queries::Query::new(asker, request));
            }
            RequestBody::MetaQuery(_) | RequestBody::DataQuery(_) => {
                self.start_query(asker, request);
            }
            RequestBody::MetaOp(_) | RequestBody::DataOp(_) => {
                return self.start_operation(now, state, asker, request, payload);
            }
            RequestBody::LeaseDone(done) if done.serial().term > self.config.term => {
                // A later leader's grant: that one is to hear of it.
                self.refuse(asker, Refusal::NotLeader { leader: None });
            }
            RequestBody::LeaseDone(done) => {
                self.lease_done(now, request.header.session, done);
                self.answer(asker, Answer::Meta(Ok(crate::request::MetaReply::Done)));
            }
            RequestBody::Txn(txn) => {
                return self.start_txn_request(now, state, asker, request.header, txn);
            }
        }
        Ok(())
    }

    /// Whether this is that leadership. If it is over and has not noticed, its state still has all that was committed when
    /// its last read index was confirmed; under the asker's lease nobody has changed that since.
    fn is(&self, led: Leadership) -> bool {
        let Config { group, term, .. } = self.config;
        led == Leadership { group, term } || cfg!(planted = "led_by_anyone")
    }

    fn heard(&mut self, session: SessionId, renewal: Renewal) {
        // The cluster itself renews nothing: whoever says so must not shut it out.
        if session == SessionId::CLUSTER {
            return;
        }
        let (newest, before) = self.renewals.entry(session).or_default();
        if renewal > *newest {
            (*newest, *before) = (renewal, *newest);
        } else if renewal < *newest {
            *before = (*before).max(renewal);
        }
    }

    fn applied(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        token: Token,
        applied: Applied,
    ) -> Result<(), KvError> {
        self.descriptor = read_descriptor(state)?;
        self.views.applied(token);
        self.job_applied(now, state, token, applied)?;
        self.locks_may_be_back(now, state)
    }

    fn job_applied(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        token: Token,
        applied: Applied,
    ) -> Result<(), KvError> {
        match self.jobs.remove(&token) {
            Some(Job::Operation(operation)) => {
                self.operation_applied(now, state, operation, applied)
            }
            Some(Job::Coordinate { txn, stage }) => {
                self.stage_applied(now, state, txn, stage, applied)
            }
            Some(Job::FinishHere { txn }) => self.unblock(now, state, txn),
            Some(Job::Admit { session }) => {
                self.admitted(now, session, &applied);
                Ok(())
            }
            Some(Job::Takeover { ino, dead }) => {
                self.taken_over(now, ino, dead);
                Ok(())
            }
            Some(Job::Settle { ino }) => {
                self.settled(ino);
                Ok(())
            }
            Some(Job::Unawaited) | None => Ok(()),
            Some(
                job @ (Job::Query(_)
                | Job::Unleased(_)
                | Job::Renew { .. }
                | Job::Resolve { .. }
                | Job::Reclaim { .. }),
            ) => {
                panic!("an applied entry answers a proposal, not {job:?}")
            }
        }
    }

    /// Leadership was lost or the engine gave the proposal up: it may still happen.
    fn unknown(&mut self, now: Instant, token: Token) {
        self.views.unknown(token, Token(self.next_token));
        match self.jobs.remove(&token) {
            Some(Job::Operation(operation)) => self.operation_unknown(operation),
            Some(Job::Coordinate { txn, .. }) => self.txn_unknown(txn),
            Some(Job::FinishHere { txn }) => self.refuse_blocked(txn),
            Some(Job::Admit { session }) => self.admission_failed(session),
            Some(Job::Takeover { ino, dead }) => self.leases.takeover_failed(now, ino, dead),
            Some(Job::Settle { ino }) => self.settling_failed(ino),
            Some(Job::Query(_) | Job::Unleased(_) | Job::Renew { .. } | Job::Resolve { .. })
            | Some(Job::Reclaim { .. } | Job::Unawaited)
            | None => {}
        }
    }

    fn read_ready(&mut self, now: Now, state: &dyn KvRead, token: Token) -> Result<(), KvError> {
        self.leases.confirmed(now.mono);
        match self.jobs.remove(&token) {
            Some(Job::Query(query)) => self.run_query(now, state, query),
            Some(Job::Unleased(operation)) => self.unleased(now, state, operation),
            Some(Job::Renew {
                asker,
                session,
                assertion,
            }) => {
                let renewed = self.renew(now, state, session, assertion)?;
                self.outputs.push_back(Output::Renewed { asker, renewed });
                Ok(())
            }
            None => Ok(()),
            Some(job) => panic!("a read index answers a query, not {job:?}"),
        }
    }

    fn read_failed(&mut self, token: Token) {
        match self.jobs.remove(&token) {
            Some(Job::Query(query)) => self.query_failed(query),
            Some(Job::Unleased(operation)) => self.operation_unknown(operation),
            Some(Job::Renew { asker, .. }) => {
                let renewed = None;
                self.outputs.push_back(Output::Renewed { asker, renewed });
            }
            None => {}
            Some(job) => panic!("a read index answers a query, not {job:?}"),
        }
    }

    fn txn_answer(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        token: Token,
        answer: Option<crate::txn::TxnReply>,
    ) -> Result<(), KvError> {
        match self.jobs.remove(&token) {
            Some(Job::Resolve { txn }) => return self.resolved(now, state, txn, answer),
            Some(Job::Coordinate { txn, stage }) => {
                self.participant_answered(now, state, txn, stage, answer);
            }
            Some(Job::Reclaim { chunks }) => self.deleted(now, chunks, answer),
            None => {}
            Some(job) => panic!("a region's answer concerns a transaction, not {job:?}"),
        }
        Ok(())
    }

    fn tick(&mut self, now: Now, state: &dyn KvRead) -> Result<(), KvError> {
        self.take_over_the_dead(now);
        self.expire_views(now);
        self.put_off_awaiting_locks(now);
        self.retry_transactions(now, state)?;
        self.reclaim_step(now, state)
    }

    /// The command for an operation accepted under `header`'s claims.
    fn command(&self, now: Now, header: &crate::request::Header, body: CommandBody) -> Command {
        Command {
            epoch: header.epoch,
            session: header.session,
            renewal: header.renewal,
            slot: header.slot,
            time: stamp(now.wall, header.seen),
            unseen: Vec::new(),
            body,
        }
    }

    /// A command of the cluster's own.
    fn own_command(&self, now: Now, slot: Option<SlotUse>, body: CommandBody) -> Command {
        Command {
            epoch: self.descriptor.epoch,
            session: SessionId::CLUSTER,
            renewal: Renewal(0),
            slot,
            time: now.wall,
            unseen: Vec::new(),
            body,
        }
    }

    fn propose(&mut self, job: Job, command: Command, payload: Bytes) {
        let token = self.begin(job);
        self.outputs.push_back(Output::Propose {
            token,
            command,
            payload,
        });
    }

    fn read_index(&mut self, job: Job) {
        let token = self.begin(job);
        self.outputs.push_back(Output::ReadIndex { token });
    }

    fn ask_txn(&mut self, job: Job, places: Places, request: TxnRequest) {
        let token = self.begin(job);
        self.outputs.push_back(Output::AskTxn {
            token,
            places,
            request,
        });
    }

    fn begin(&mut self, job: Job) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.jobs.insert(token, job);
        token
    }

    fn answer(&mut self, asker: Asker, answer: Answer) {
        self.outputs.push_back(Output::Answer {
            asker,
            answer,
            payload: Bytes::new(),
        });
    }

    fn refuse(&mut self, asker: Asker, refusal: Refusal) {
        self.answer(asker, Answer::Refused(refusal));
    }

    /// A random number below `bound` (splitmix64), for pauses: two coordinators must not meet for ever.
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The time an entry is stamped with: the leader's clock, or what the mount has seen if that is at most 1 s ahead (P9).
fn stamp(wall: Timestamp, seen: Timestamp) -> Timestamp {
    let bound = wall + core::time::Duration::from_secs(1);
    if seen > wall && seen <= bound {
        seen
    } else {
        wall
    }
}

fn read_descriptor(state: &dyn KvRead) -> Result<Descriptor, KvError> {
    crate::region::descriptor(state)
}

fn read_admitted(state: &dyn KvRead) -> Result<BTreeSet<SessionId>, KvError> {
    let (from, to) = key::all_of(Kind::Admitted);
    let mut sessions = BTreeSet::new();
    for (key, _) in state.scan(&from, &to, usize::MAX)? {
        let id = key.get(1..9).and_then(|bytes| bytes.try_into().ok());
        let id = id.ok_or_else(|| KvError::Corrupt("a session's key is too short".into()))?;
        sessions.insert(SessionId(u64::from_be_bytes(id)));
    }
    Ok(sessions)
}
