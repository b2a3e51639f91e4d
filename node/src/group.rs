//! One group at work: its replica, and a leader's duties while this replica leads.
//!
//! Owns the life of the leader's machine and the driving of it: made when this leadership has committed its own first
//! entry, dropped when it ends; proposals in batches, one read round for all that wait. Deliberately knows no rule of
//! regions: those are core's.
//!
//! ```text
//!  request ─▶ inbox ─▶ leader machine ─Propose─▶ client_write_many ─▶ Applied ─▶ inbox
//!                          │   └──ReadIndex─▶ one round at a time ─▶ ReadReady ─▶ inbox
//!                          └─Answer─▶ whoever asked
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use openraft::{ReadPolicy, ServerState};
use openraft_rt::watch::WatchReceiver;
use openraft_rt::{AsyncRuntime, Select3};
use parking_lot::Mutex;
use polyfs_core::ids::{GroupId, NodeId, Renewal, ReplicaId, SessionId};
use polyfs_core::region::kv::{KvError, KvRead};
use polyfs_core::region::leader::port::{Asker, Input, Output, Token};
use polyfs_core::request::{
    Answer, Assertion, DataQuery, Leadership, Refusal, Request, RequestBody,
};
use polyfs_core::time::{Instant, Now};

use crate::links::Links;
use crate::raft::replica::Replica;
use crate::raft::state::{ChunkPart, Fetched, Machine};
use crate::raft::types::{GroupApplied, GroupCommand};
use crate::router::Router;
use crate::runtime::{Lane, Runtime};
use crate::sessions::Sessions;
use crate::wire::{Message, Refused, Reply};

/// Requests of one group that wait for answers at a time; more are refused.
const ASKERS_MAX: usize = 4096;
/// Requests of one group that wait for the disk at a time; more are refused.
const FETCHING_MAX: usize = 1024;
/// Inputs handled on one view of the state.
const TURN_INPUTS_MAX: usize = 64;
/// A machine that wants nothing is asked again after this.
const IDLE: core::time::Duration = core::time::Duration::from_secs(1);

/// What a leader does besides ordering entries, as [`polyfs_core::region::leader`] defines it.
pub trait Leading: Send {
    /// Takes one input, with the replica's applied state.
    ///
    /// # Errors
    /// When the state can't be read: the replica stops.
    fn handle_input(&mut self, now: Now, state: &dyn KvRead, input: Input) -> Result<(), KvError>;
    /// The next thing to do, until none is left.
    fn poll_output(&mut self) -> Option<Output>;
    /// When to tick, and why.
    fn poll_timeout(&self) -> Option<(Instant, &'static str)>;
}

/// Takes an answer to whoever asked.
pub type Answerer = Box<dyn FnOnce(Reply, Bytes) + Send>;

/// A request, and who asks.
struct Asked {
    request: Request,
    payload: Bytes,
    answer: Answerer,
    /// What it reads.
    fetched: Option<Fetched>,
}

/// What reaches a group's task.
enum Event {
    Request(Asked),
    Renew {
        session: SessionId,
        renewal: Renewal,
        assertion: Option<Assertion>,
        answer: Answerer,
    },
    SessionOver {
        session: SessionId,
    },
    /// What the leadership of this number asked for has come about.
    Input {
        leadership: u64,
        input: Input,
    },
    ReadRound {
        leadership: u64,
        tokens: Vec<Token>,
        good: bool,
    },
    Stop,
}

/// A group on this node. Cheap to clone.
pub struct Group<R: Runtime> {
    runtime: R,
    replica: Replica<R>,
    inbox: mpsc::UnboundedSender<Event>,
    /// Requests that wait for the disk to read what they are about.
    fetching: Arc<AtomicUsize>,
}

impl<R: Runtime> Clone for Group<R> {
    fn clone(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            replica: self.replica.clone(),
            inbox: self.inbox.clone(),
            fetching: Arc::clone(&self.fetching),
        }
    }
}

impl<R: Runtime> Group<R> {
    /// Starts the task of a replica's group.
    #[must_use]
    pub fn start(
        runtime: &R,
        replica: Replica<R>,
        machine: Arc<dyn Machine>,
        links: Links<R>,
        sessions: Arc<Sessions>,
        router: Router<R>,
    ) -> Self {
        let (inbox, events) = mpsc::unbounded();
        let driver = Driver {
            runtime: runtime.clone(),
            replica: replica.clone(),
            machine,
            links,
            sessions,
            router,
            inbox: inbox.clone(),
            leading: None,
            term: 0,
            leadership: 0,
            askers: BTreeMap::new(),
            next_asker: 0,
            proposals: Vec::new(),
            reads: Vec::new(),
            reading: false,
        };
        runtime.spawn(driver.run(events));
        Self {
            runtime: runtime.clone(),
            replica,
            inbox,
            fetching: Arc::default(),
        }
    }

    /// Its replica here.
    #[must_use]
    pub fn replica(&self) -> &Replica<R> {
        &self.replica
    }

    /// Puts a request to the group; `answer` is called once.
    pub fn request(&self, request: Request, payload: Bytes, answer: Answerer) {
        let part = part_read(&request).filter(|part| self.replica.state().read_waits(part));
        let asked = Asked {
            request,
            payload,
            answer,
            fetched: None,
        };
        match part {
            Some(part) => self.fetch_first(part, asked),
            None => self.send(Event::Request(asked)),
        }
    }

    /// Has the disk read what a request is about before the group's task sees it: that one serves everybody, and must not
    /// wait for a disk. Reads may overtake each other; each is answered from the state that it then finds.
    fn fetch_first(&self, part: ChunkPart, mut asked: Asked) {
        if self.fetching.fetch_add(1, Ordering::AcqRel) >= FETCHING_MAX {
            self.fetching.fetch_sub(1, Ordering::AcqRel);
            return refuse(Event::Request(asked), Refused::Overloaded);
        }
        let group = self.clone();
        self.runtime.spawn(async move {
            let replica = group.replica.clone();
            let fetch = move || replica.state().fetch(&part);
            asked.fetched = group.runtime.blocking(Lane::Read, fetch).await;
            group.fetching.fetch_sub(1, Ordering::AcqRel);
            group.send(Event::Request(asked));
        });
    }

    /// A mount's lease frame; `answer` is called once.
    pub fn renew(
        &self,
        session: SessionId,
        renewal: Renewal,
        assertion: Option<Assertion>,
        answer: Answerer,
    ) {
        self.send(Event::Renew {
            session,
            renewal,
            assertion,
            answer,
        });
    }

    /// The master says that a session is over.
    pub fn session_over(&self, session: SessionId) {
        self.send(Event::SessionOver { session });
    }

    /// Ends the task; whoever waits is refused.
    pub fn stop(&self) {
        self.send(Event::Stop);
    }

    fn send(&self, event: Event) {
        if let Err(unsent) = self.inbox.unbounded_send(event) {
            refuse(unsent.into_inner(), Refused::Stopping);
        }
    }
}

/// What of a chunk a request reads.
fn part_read(request: &Request) -> Option<ChunkPart> {
    match &request.body {
        RequestBody::DataQuery(DataQuery::Read {
            chunk, offset, len, ..
        }) => ChunkPart::new(*chunk, *offset, *len),
        _ => None,
    }
}

/// Answers an event that nobody will handle.
fn refuse(event: Event, why: Refused) {
    match event {
        Event::Request(Asked { answer, .. }) | Event::Renew { answer, .. } => {
            answer(Reply::Refused(why), Bytes::new());
        }
        Event::SessionOver { .. } | Event::Input { .. } | Event::ReadRound { .. } | Event::Stop => {
        }
    }
}

struct Driver<R: Runtime> {
    runtime: R,
    replica: Replica<R>,
    machine: Arc<dyn Machine>,
    links: Links<R>,
    sessions: Arc<Sessions>,
    router: Router<R>,
    inbox: mpsc::UnboundedSender<Event>,
    leading: Option<Box<dyn Leading>>,
    /// Of which term `leading` is.
    term: u64,
    /// Which leadership of this process `leading` is; results of earlier ones are dropped.
    leadership: u64,
    askers: BTreeMap<Asker, Answerer>,
    next_asker: u64,
    proposals: Vec<(Token, GroupCommand)>,
    reads: Vec<Token>,
    reading: bool,
}

impl<R: Runtime> Driver<R> {
    async fn run(mut self, events: mpsc::UnboundedReceiver<Event>) {
        let mut events = events.ready_chunks(TURN_INPUTS_MAX);
        let (mut all, mut roles) = {
            let raft = self.replica.raft();
            (raft.metrics(), raft.server_metrics())
        };
        let mut looks = true;
        loop {
            let now = self.runtime.now().mono;
            let wants = self
                .leading
                .as_ref()
                .and_then(|leading| leading.poll_timeout());
            let pause = wants.map_or(IDLE, |(at, _)| at.since(now).min(IDLE));
            // All metrics change several times with each entry, and only who begins to lead has to see it. A change of
            // roles is told before the metrics have it.
            let changed = async {
                match looks {
                    true => all.changed().await,
                    false => roles.changed().await,
                }
            };
            let came = R::Async::select3(events.next(), changed, self.runtime.sleep(pause)).await;
            let began = self.follow_leadership();
            looks = match came {
                Select3::Second(_) if looks => !began,
                Select3::Second(_) => true,
                Select3::First(_) | Select3::Third(()) => looks,
            };
            let handled = match came {
                Select3::First(None) | Select3::Second(Err(_)) => break,
                Select3::First(Some(events)) => self.take(events),
                Select3::Second(Ok(())) => Ok(true),
                Select3::Third(()) => self.feed(vec![Input::Tick]).map(|()| true),
            };
            match handled {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(group = %self.replica.group(), %error, "the replica stops");
                    self.lose_leadership();
                    self.replica.close().await;
                    break;
                }
            }
        }
        self.lose_leadership();
    }

    /// Who leads, as far as this replica knows.
    fn not_leader(&self) -> Refusal {
        let leader = self
            .replica
            .raft()
            .metrics()
            .borrow_watched()
            .current_leader;
        let leader = leader
            .filter(|leader| *leader != self.replica.id().0)
            .map(ReplicaId);
        let group: GroupId = self.replica.group();
        let node = |replica| -> Option<NodeId> { self.links.node_of(group, replica) };
        Refusal::NotLeader {
            leader: leader.and_then(|id| Some((node(id)?, id))),
        }
    }

    /// Makes or drops the leader's machine; false when it has yet to be made. A leadership counts once its own first entry
    /// is applied here: then everything committed before it is, too.
    fn follow_leadership(&mut self) -> bool {
        let (leads, settled, term) = {
            let metrics = self.replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            let applied = metrics.last_applied.map(|id| id.committed_leader_id().term);
            let leads = metrics.state == ServerState::Leader;
            let term = metrics.current_term;
            (leads, leads && applied == Some(term), term)
        };
        // Between two terms of one leader another may have led.
        if (!leads || term != self.term) && self.leading.is_some() {
            self.lose_leadership();
        }
        if settled && self.leading.is_none() {
            let (now, seed) = (self.runtime.now(), self.runtime.random());
            let group = self.replica.group();
            let leadership = Leadership { group, term };
            let made = self
                .replica
                .state()
                .read(|state| self.machine.lead(leadership, seed, now, state));
            match made {
                Ok(leading) => {
                    self.leadership += 1;
                    self.leading = leading;
                    self.term = term;
                }
                Err(error) => tracing::warn!(%group, %error, "no leader can be made"),
            }
        }
        !leads || self.leading.is_some()
    }

    fn lose_leadership(&mut self) {
        self.leading = None;
        self.leadership += 1;
        self.proposals.clear();
        self.reads.clear();
        self.reading = false;
        let refusal = self.not_leader();
        for (_, answer) in std::mem::take(&mut self.askers) {
            // What was proposed may still happen: the client asks again under the same slot and sequence (P6).
            answer(
                Reply::Answer(Answer::Refused(refusal.clone())),
                Bytes::new(),
            );
        }
    }

    /// Turns events into inputs; false when told to stop.
    fn take(&mut self, events: Vec<Event>) -> Result<bool, KvError> {
        let mut inputs = Vec::with_capacity(events.len());
        let mut fetched = Vec::new();
        let mut goes_on = true;
        for event in events {
            match event {
                Event::Request(asked) => {
                    let (request, payload) = (asked.request, asked.payload);
                    let answer = asked.answer;
                    if let Some(refusal) = self.no_room_for(&request) {
                        let refusal = Answer::Refused(refusal);
                        answer(Reply::Answer(refusal), Bytes::new());
                    } else if let Some(asker) = self.admit(answer) {
                        fetched.extend(asked.fetched);
                        inputs.push(Input::Request {
                            asker,
                            request,
                            payload,
                        });
                    }
                }
                Event::Renew {
                    session,
                    renewal,
                    assertion,
                    answer,
                } => {
                    if let Some(asker) = self.admit(answer) {
                        inputs.push(Input::Renew {
                            asker,
                            session,
                            renewal,
                            assertion,
                        });
                    }
                }
                Event::SessionOver { session } => inputs.push(Input::SessionOver { session }),
                Event::Input { leadership, input } if leadership == self.leadership => {
                    inputs.push(input);
                }
                Event::ReadRound {
                    leadership,
                    tokens,
                    good,
                } if leadership == self.leadership => {
                    self.reading = false;
                    inputs.extend(tokens.into_iter().map(|token| match good {
                        true => Input::ReadReady { token },
                        false => Input::ReadFailed { token },
                    }));
                }
                Event::Input { .. } | Event::ReadRound { .. } => {}
                Event::Stop => goes_on = false,
            }
        }
        self.replica.state().offer(fetched);
        let fed = self.feed(inputs);
        self.replica.state().offer(Vec::new());
        fed.map(|()| goes_on)
    }

    /// P10: what a leader whose disk or log is full does not take.
    fn no_room_for(&self, request: &Request) -> Option<Refusal> {
        if self.leading.is_none() || crate::full::is_taken(&request.body) {
            return None;
        }
        if self.replica.state().reserve_only() {
            return Some(Refusal::ReserveOnly);
        }
        // New work would only wait in memory: whoever asks waits instead, and asks again.
        let full = self.replica.state().log_is_full();
        full.then_some(Refusal::Busy)
    }

    /// Gives whoever asks a name, or refuses.
    fn admit(&mut self, answer: Answerer) -> Option<Asker> {
        let refusal = if self.leading.is_none() {
            self.not_leader()
        } else if self.askers.len() >= ASKERS_MAX {
            Refusal::Unavailable("too many requests wait here".into())
        } else {
            self.next_asker += 1;
            let asker = Asker(self.next_asker);
            self.askers.insert(asker, answer);
            return Some(asker);
        };
        answer(Reply::Answer(Answer::Refused(refusal)), Bytes::new());
        None
    }

    /// Gives the machine its inputs on one view of the state, and does what it wants.
    fn feed(&mut self, inputs: Vec<Input>) -> Result<(), KvError> {
        let Some(mut leading) = self.leading.take() else {
            return Ok(());
        };
        let now = self.runtime.now();
        let mut outputs = Vec::new();
        self.replica.state().read(|state| {
            for input in inputs {
                leading.handle_input(now, state, input)?;
                outputs.extend(std::iter::from_fn(|| leading.poll_output()));
            }
            Ok(())
        })?;
        self.leading = Some(leading);
        for output in outputs {
            self.carry_out(output);
        }
        self.propose();
        self.read_round();
        Ok(())
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Propose {
                token,
                command,
                payload,
            } => {
                self.proposals
                    .push((token, GroupCommand::new(&command, payload)));
            }
            Output::ReadIndex { token } => self.reads.push(token),
            Output::Answer {
                asker,
                answer,
                payload,
            } => {
                self.answer(asker, Reply::Answer(answer), payload);
            }
            Output::Renewed { asker, renewed } => {
                let renewed = renewed.into_iter().collect();
                self.answer(asker, Reply::LeasesRenewed(renewed), Bytes::new());
            }
            Output::Recall { session, recall } => {
                let message = Message::Recall { session, recall };
                self.sessions.tell(session, self.links.me().node, message);
            }
            Output::AskOpen { session, inos } => {
                let message = Message::AskOpen { session, inos };
                self.sessions.tell(session, self.links.me().node, message);
            }
            Output::AskTxn {
                token,
                places,
                request,
            } => {
                let router = self.router.clone();
                self.in_time(async move {
                    let answer = router.txn(places, request).await;
                    Input::TxnAnswer { token, answer }
                });
            }
            Output::AskQuery {
                token,
                place,
                query,
            } => {
                let router = self.router.clone();
                self.in_time(async move {
                    let answer = router.query(place, query).await;
                    Input::QueryAnswer { token, answer }
                });
            }
            Output::DeleteChunks { token, chunks } => {
                let router = self.router.clone();
                self.in_time(async move {
                    let answer = router.delete(chunks).await;
                    Input::TxnAnswer { token, answer }
                });
            }
        }
    }

    /// What `work` yields reaches the machine of this leadership.
    fn in_time(&self, work: impl Future<Output = Input> + Send + 'static) {
        let (inbox, leadership) = (self.inbox.clone(), self.leadership);
        self.runtime.spawn(async move {
            let input = work.await;
            let _ = inbox.unbounded_send(Event::Input { leadership, input });
        });
    }

    fn answer(&mut self, asker: Asker, reply: Reply, payload: Bytes) {
        let answer = self.askers.remove(&asker);
        answer.expect("a leader answers each asker once")(reply, payload);
    }

    /// Orders everything that waits, at once.
    fn propose(&mut self) {
        if self.proposals.is_empty() {
            return;
        }
        let (tokens, commands): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.proposals).into_iter().unzip();
        let (raft, inbox) = (self.replica.raft().clone(), self.inbox.clone());
        let leadership = self.leadership;
        self.runtime.spawn(async move {
            let mut tokens = tokens.into_iter();
            if let Ok(mut results) = raft.client_write_many(commands).await {
                while let Some(Ok(result)) = results.next().await {
                    let Some(token) = tokens.next() else { break };
                    let input = match result.map(|written| written.response) {
                        Ok(GroupApplied::Region(applied)) => Input::Applied { token, applied },
                        Ok(GroupApplied::Nothing | GroupApplied::Master(_)) | Err(_) => {
                            Input::Unknown { token }
                        }
                    };
                    let _ = inbox.unbounded_send(Event::Input { leadership, input });
                }
            }
            for token in tokens {
                let input = Input::Unknown { token };
                let _ = inbox.unbounded_send(Event::Input { leadership, input });
            }
        });
    }

    /// One round of heartbeats serves every read that waits; those that come meanwhile share the next.
    fn read_round(&mut self) {
        if self.reading || self.reads.is_empty() {
            return;
        }
        self.reading = true;
        let tokens = std::mem::take(&mut self.reads);
        let (raft, inbox) = (self.replica.raft().clone(), self.inbox.clone());
        let leadership = self.leadership;
        self.runtime.spawn(async move {
            let good = match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
                Ok(index) => index.await_ready(&raft).await.is_ok(),
                Err(_) => false,
            };
            let _ = inbox.unbounded_send(Event::ReadRound {
                leadership,
                tokens,
                good,
            });
        });
    }
}

/// Calls `done` once all parts have answered; true when all said yes.
pub(crate) struct AllOf {
    left: usize,
    good: bool,
    done: Option<Box<dyn FnOnce(bool) + Send>>,
}

impl AllOf {
    /// Waits for `parts` answers; with none, `done` is called at once.
    pub(crate) fn new(parts: usize, done: Box<dyn FnOnce(bool) + Send>) -> Arc<Mutex<Self>> {
        let mut all = Self {
            left: parts,
            good: true,
            done: Some(done),
        };
        if parts == 0 {
            all.finish();
        }
        Arc::new(Mutex::new(all))
    }

    /// One part has answered.
    pub(crate) fn part(&mut self, good: bool) {
        self.good &= good;
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(done) = self.done.take() {
            done(self.good);
        }
    }
}
