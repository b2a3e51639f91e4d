//! How a node gets into a cluster, founds one, and stays findable (P1, P3).
//!
//! Owns the way of one start of a node from its stored [`Record`] to serving, and afterwards its registrations at all
//! waypoints. Deliberately knows nothing of Raft or of what a cluster consists of: the driver prepares the groups when
//! told, and carries join requests to members.
//!
//! ```text
//! fresh --Master--> joining --accepted--> member
//!   \--None x3--> founding record synced --> claiming --> confirming --> preparing --> member record synced --> member
//!                      ^ a restart with the record       \--refused--> withdrawing --> record removed --> fresh
//! ```
//! The store id and the boot number were synced before this machine starts.

mod draw;
mod port;
#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

pub(crate) use self::draw::Draw;
pub use self::port::{Config, Input, JoinAnswer, Output, Record, Waiting};
#[cfg(test)]
use crate::ids::{BootNumber, StoreId};
use crate::ids::{ClusterId, NodeId};
use crate::limits::{FOUNDING_ROUNDS, REQUEST_DEADLINE, WAYPOINT_PING};
use crate::time::{Instant, Now};
use crate::waypoint::{Answer, Claim, Member, Refusal, Reply, Request, WaypointId};

/// Addresses of other members that are kept.
pub const PEERS_MAX: usize = 64;
/// A join request is given up after this: the master may have to elect itself first.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(5);
/// From one master to the next a join is sent on at most this many times.
const REDIRECTS_MAX: u32 = 4;

enum Phase {
    /// Asking all waypoints, in this order, one after the other.
    Asking { left: Vec<usize> },
    /// Between two rounds.
    Pausing,
    /// A record is being synced; then comes what it says.
    Persisting { op: u64 },
    /// P3 (2) before claiming: every waypoint's id, which gives the order.
    Learning { left: BTreeSet<usize> },
    /// P3 (2): claim by claim.
    Claiming { order: Vec<usize>, next: usize },
    /// P3 (3): every claim is turned into a registration.
    Confirming { order: Vec<usize>, next: usize },
    /// A refused founder takes back what it did at these.
    Withdrawing { left: BTreeSet<usize> },
    /// The driver prepares the groups.
    Preparing,
    /// A member was asked to let us in.
    Joining { redirects: u32 },
    /// Serving.
    Member,
}

struct Pending {
    waypoint: usize,
    sent: Instant,
}

/// The machine.
pub struct Join {
    config: Config,
    draw: Draw,
    phase: Phase,
    none_rounds: u32,
    candidates: u32,
    round: BTreeMap<usize, Answer>,
    reached: BTreeMap<usize, WaypointId>,
    /// Waypoints that a claim of ours may have been registered at.
    confirmed: BTreeSet<usize>,
    last_claims: Instant,
    asked: BTreeMap<u64, Pending>,
    numbers: u64,
    wake: Instant,
    told: Option<Waiting>,
    joining: Option<ClusterId>,
    founded: bool,
    master_term: Option<u64>,
    outputs: VecDeque<Output>,
}

/// How long a founder waits between renewals of claims it already has; half a claim's life at most.
const CLAIM_RENEWAL: Duration = Duration::from_secs(2);

impl Join {
    /// One start of a node; `seed` is random in production.
    ///
    /// # Panics
    /// When a store that is no member is started without any waypoint.
    #[must_use]
    pub fn new(config: Config, seed: u64, now: Now) -> Self {
        let is_member = matches!(config.record, Record::Member { .. });
        assert!(
            is_member || !config.waypoints.is_empty(),
            "a fresh store needs a waypoint"
        );
        let mut join = Self {
            config,
            draw: Draw::new(seed),
            phase: Phase::Pausing,
            none_rounds: 0,
            candidates: 0,
            round: BTreeMap::new(),
            reached: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            last_claims: now.mono,
            asked: BTreeMap::new(),
            numbers: 0,
            wake: now.mono,
            told: None,
            joining: None,
            founded: false,
            master_term: None,
            outputs: VecDeque::new(),
        };
        // A restart doesn't know how far the last one came.
        join.confirmed = (0..join.config.waypoints.len()).collect();
        join.follow_record(now.mono);
        join
    }

    /// One input; then drain [`Self::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input) {
        let now = now.mono;
        match input {
            Input::Tick => {}
            Input::Answered { ask, reply } => {
                if let Some(pending) = self.asked.remove(&ask) {
                    self.answered(now, pending.waypoint, reply);
                }
            }
            Input::Persisted { op } => {
                if matches!(self.phase, Phase::Persisting { op: waited } if waited == op) {
                    self.follow_record(now);
                }
            }
            Input::Prepared(cluster) => {
                if let (Phase::Preparing, Record::Founding(claim)) =
                    (&self.phase, &self.config.record)
                    && claim.cluster == cluster
                {
                    self.founded = true;
                    let record = Record::Member {
                        cluster,
                        node: FOUNDER,
                        peers: Vec::new(),
                    };
                    self.persist(record);
                }
            }
            Input::Joined(answer) => self.joined(now, answer),
            Input::Master(term) => {
                let is_news = term.is_some() && term != self.master_term;
                self.master_term = term;
                if is_news && matches!(self.phase, Phase::Member) {
                    self.wake = now;
                }
            }
        }
        self.time_passed(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to tick at the latest, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let answers = self
            .asked
            .values()
            .map(|pending| pending.sent + REQUEST_DEADLINE)
            .min();
        match self.phase {
            Phase::Pausing => Some((self.wake, "ask the waypoints again")),
            Phase::Member if !self.config.waypoints.is_empty() => {
                Some((self.wake, "register at the waypoints"))
            }
            Phase::Joining { .. } => Some((self.wake, "the join request is too old")),
            Phase::Learning { .. }
            | Phase::Claiming { .. }
            | Phase::Confirming { .. }
            | Phase::Withdrawing { .. } => Some((self.wake, "ask again, renew claims")),
            Phase::Asking { .. } | Phase::Persisting { .. } | Phase::Preparing | Phase::Member => {
                answers.map(|at| (at, "a waypoint does not answer"))
            }
        }
    }

    /// What the store says now, as far as it is asked to be synced.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.config.record
    }

    /// Whether this node may serve.
    #[must_use]
    pub const fn is_member(&self) -> bool {
        matches!(self.phase, Phase::Member)
    }

    // --- phases -----------------------------------------------------------------------------------------------------

    /// Starts what the (synced) record says.
    fn follow_record(&mut self, now: Instant) {
        self.asked.clear();
        match self.config.record.clone() {
            Record::Fresh => self.pause(now),
            Record::Founding(_) => {
                self.phase = Phase::Learning {
                    left: (0..self.config.waypoints.len()).collect(),
                };
                self.wake = now;
            }
            Record::Member {
                cluster,
                node,
                peers,
            } => {
                self.phase = Phase::Member;
                self.wake = now;
                let founded = self.founded;
                self.outputs.push_back(Output::Serve {
                    cluster,
                    node,
                    founded,
                    peers,
                });
            }
        }
    }

    fn pause(&mut self, now: Instant) {
        self.phase = Phase::Pausing;
        self.asked.clear();
        let spread = u64::try_from(WAYPOINT_PING.as_nanos()).unwrap_or(u64::MAX);
        self.wake = now + WAYPOINT_PING / 2 + Duration::from_nanos(self.draw.below(spread));
    }

    fn persist(&mut self, record: Record) {
        self.config.record = record.clone();
        self.numbers += 1;
        let op = self.numbers;
        self.phase = Phase::Persisting { op };
        self.outputs.push_back(Output::Persist { op, record });
    }

    fn say(&mut self, waiting: Waiting) {
        if self.told.as_ref() != Some(&waiting) {
            self.told = Some(waiting.clone());
            self.outputs.push_back(Output::Waiting(waiting));
        }
    }

    fn ask(&mut self, now: Instant, waypoint: usize, request: Request) {
        self.numbers += 1;
        self.asked.insert(
            self.numbers,
            Pending {
                waypoint,
                sent: now,
            },
        );
        self.outputs.push_back(Output::Ask {
            waypoint,
            ask: self.numbers,
            request,
        });
    }

    fn time_passed(&mut self, now: Instant) {
        let late: Vec<(u64, usize)> = self
            .asked
            .iter()
            .filter(|(_, pending)| now.since(pending.sent) >= REQUEST_DEADLINE)
            .map(|(ask, pending)| (*ask, pending.waypoint))
            .collect();
        for (ask, waypoint) in late {
            if self.asked.remove(&ask).is_some() {
                self.answered(now, waypoint, None);
            }
        }
        if now < self.wake {
            return;
        }
        match &self.phase {
            Phase::Pausing => {
                self.round.clear();
                let left = self.draw.order(self.config.waypoints.len());
                self.phase = Phase::Asking { left };
                self.ask_next(now);
            }
            Phase::Learning { left } => {
                let left = left.clone();
                for waypoint in left {
                    self.ask(
                        now,
                        waypoint,
                        Request::Who {
                            store: self.config.store,
                        },
                    );
                }
                self.wake = now + WAYPOINT_PING;
            }
            Phase::Claiming { .. } | Phase::Confirming { .. } => self.work_on_claims(now),
            Phase::Withdrawing { left } => {
                let left = left.clone();
                if let Record::Founding(claim) = self.config.record.clone() {
                    for waypoint in left {
                        self.ask(now, waypoint, Request::Withdraw(claim.clone()));
                    }
                }
                self.wake = now + WAYPOINT_PING;
            }
            Phase::Joining { .. } => {
                self.say(Waiting::NoAnswer(String::new()));
                self.pause(now);
            }
            Phase::Member => {
                self.register(now);
                self.wake = now + WAYPOINT_PING;
            }
            Phase::Asking { .. } | Phase::Persisting { .. } | Phase::Preparing => {}
        }
    }

    fn answered(&mut self, now: Instant, waypoint: usize, reply: Option<Reply>) {
        if let Some(reply) = &reply {
            self.reached.insert(waypoint, reply.waypoint);
        }
        match &mut self.phase {
            Phase::Asking { .. } => self.heard_in_round(now, waypoint, reply),
            Phase::Member => self.heard_as_member(reply),
            Phase::Learning { left } => {
                let Some(reply) = reply else {
                    return self.say_unreachable(waypoint);
                };
                let other = match (&reply.answer, &self.config.record) {
                    (
                        Answer::Master { cluster, .. } | Answer::Members { cluster, .. },
                        Record::Founding(claim),
                    ) => Some(*cluster).filter(|cluster| *cluster != claim.cluster),
                    (_, _) => None,
                };
                left.remove(&waypoint);
                let is_done = left.is_empty();
                if let Some(other) = other {
                    self.refused(now, Refusal::Taken(other));
                } else if is_done {
                    let mut order: Vec<usize> = (0..self.config.waypoints.len()).collect();
                    order.sort_by_key(|waypoint| self.reached.get(waypoint).copied());
                    self.phase = Phase::Claiming { order, next: 0 };
                    self.last_claims = now;
                    self.work_on_claims(now);
                }
            }
            Phase::Claiming { .. } | Phase::Confirming { .. } => {
                self.heard_of_claim(now, waypoint, reply);
            }
            Phase::Withdrawing { left } => {
                if reply.is_none() {
                    return self.say_unreachable(waypoint);
                }
                if reply.is_some_and(|reply| reply.answer == Answer::Done) {
                    left.remove(&waypoint);
                }
                if matches!(&self.phase, Phase::Withdrawing { left } if left.is_empty()) {
                    self.give_up_record();
                }
            }
            Phase::Pausing
            | Phase::Persisting { .. }
            | Phase::Preparing
            | Phase::Joining { .. } => {}
        }
    }

    fn say_unreachable(&mut self, waypoint: usize) {
        let name = self
            .config
            .waypoints
            .get(waypoint)
            .cloned()
            .unwrap_or_default();
        self.say(Waiting::Unreachable(name));
    }

    // --- fresh ------------------------------------------------------------------------------------------------------

    fn ask_next(&mut self, now: Instant) {
        let Phase::Asking { left } = &mut self.phase else {
            return;
        };
        match left.pop() {
            Some(waypoint) => self.ask(
                now,
                waypoint,
                Request::Who {
                    store: self.config.store,
                },
            ),
            None => self.judge_round(now),
        }
    }

    fn heard_in_round(&mut self, now: Instant, waypoint: usize, reply: Option<Reply>) {
        let Some(reply) = reply else {
            return self.ask_next(now);
        };
        if self.round.is_empty() {
            self.candidates = reply.candidates;
        }
        self.candidates = self.candidates.min(reply.candidates);
        match &reply.answer {
            Answer::Master {
                cluster, address, ..
            } => {
                let (cluster, address) = (*cluster, address.clone());
                self.join_via(now, 0, address, cluster);
            }
            Answer::Members { cluster, addresses } if !addresses.is_empty() => {
                let count = u64::try_from(addresses.len()).unwrap_or(1);
                let pick = usize::try_from(self.draw.below(count)).unwrap_or(0);
                let (cluster, address) = (*cluster, addresses[pick].clone());
                self.join_via(now, 0, address, cluster);
            }
            Answer::Members { .. }
            | Answer::Claimed(_)
            | Answer::None
            | Answer::Lost(_)
            | Answer::JustStarted
            | Answer::Conflict(_)
            | Answer::Registered { .. }
            | Answer::ClaimGranted
            | Answer::Founded
            | Answer::ClaimRefused(_)
            | Answer::Done
            | Answer::TooLarge => {
                self.round.insert(waypoint, reply.answer);
                self.ask_next(now);
            }
        }
    }

    /// P3: founding needs `None` from every waypoint, three times in a row.
    fn judge_round(&mut self, now: Instant) {
        let missing = (0..self.config.waypoints.len()).find(|w| !self.round.contains_key(w));
        let obstacle = self.round.iter().find_map(|(waypoint, answer)| {
            let name = || {
                self.config
                    .waypoints
                    .get(*waypoint)
                    .cloned()
                    .unwrap_or_default()
            };
            match answer {
                Answer::None => None,
                Answer::JustStarted => Some(Waiting::JustStarted(name())),
                Answer::Lost(cluster) => Some(Waiting::Lost(*cluster)),
                Answer::Claimed(claim) if claim.waypoints != self.sorted_waypoints() => {
                    let ours = self.sorted_waypoints();
                    Some(Waiting::OtherWaypoints {
                        ours,
                        theirs: claim.waypoints.clone(),
                    })
                }
                Answer::Claimed(claim) => Some(Waiting::Claimed(claim.cluster)),
                Answer::Conflict(clusters) => Some(Waiting::Conflict(clusters.clone())),
                Answer::Master { .. }
                | Answer::Members { .. }
                | Answer::Registered { .. }
                | Answer::ClaimGranted
                | Answer::Founded
                | Answer::ClaimRefused(_)
                | Answer::Done
                | Answer::TooLarge => Some(Waiting::Unreachable(name())),
            }
        });
        let missing = missing.filter(|_| !cfg!(planted = "founding_without_all_waypoints"));
        let missing = missing.and_then(|w| self.config.waypoints.get(w).cloned());
        if let Some(waiting) = obstacle.or_else(|| missing.map(Waiting::Unreachable)) {
            self.none_rounds = 0;
            self.say(waiting);
            return self.pause(now);
        }
        self.none_rounds = self.none_rounds.saturating_add(1);
        let (here, expected) = (self.candidates, self.config.expect);
        if self.config.join_only {
            self.say(Waiting::JoinOnly);
        } else if here < expected {
            self.say(Waiting::Expecting { here, expected });
        } else if self.none_rounds < FOUNDING_ROUNDS {
            self.say(Waiting::Nobody);
        } else {
            return self.found();
        }
        self.pause(now);
    }

    fn join_via(&mut self, now: Instant, redirects: u32, address: String, cluster: ClusterId) {
        self.none_rounds = 0;
        self.asked.clear();
        self.phase = Phase::Joining { redirects };
        self.joining = Some(cluster);
        self.wake = now + JOIN_DEADLINE;
        self.outputs.push_back(Output::JoinVia { address, cluster });
    }

    fn joined(&mut self, now: Instant, answer: JoinAnswer) {
        let Phase::Joining { redirects } = self.phase else {
            return;
        };
        match answer {
            JoinAnswer::Accepted { cluster, node } if self.joining == Some(cluster) => {
                self.persist(Record::Member {
                    cluster,
                    node,
                    peers: Vec::new(),
                });
            }
            JoinAnswer::Redirect(address) if redirects < REDIRECTS_MAX => {
                if let Some(cluster) = self.joining {
                    self.join_via(now, redirects + 1, address, cluster);
                }
            }
            JoinAnswer::Refused(why) => {
                self.say(Waiting::JoinRefused(why));
                self.pause(now);
            }
            JoinAnswer::Redirect(address) => {
                self.say(Waiting::NoAnswer(address));
                self.pause(now);
            }
            JoinAnswer::Accepted { .. } | JoinAnswer::Failed => self.pause(now),
        }
    }

    // --- founding ---------------------------------------------------------------------------------------------------

    fn sorted_waypoints(&self) -> Vec<String> {
        let mut names = self.config.waypoints.clone();
        names.sort();
        names
    }

    /// P3 (1): the record is synced before anything is claimed.
    fn found(&mut self) {
        self.none_rounds = 0;
        self.confirmed.clear();
        let claim = Claim {
            cluster: ClusterId(self.draw.wide()),
            nonce: self.draw.wide(),
            waypoints: self.sorted_waypoints(),
        };
        self.persist(Record::Founding(claim));
    }

    fn founder(&self, claim: &Claim) -> Member {
        Member {
            cluster: claim.cluster,
            node: FOUNDER,
            store: self.config.store,
            address: self.config.address.clone(),
            boot: self.config.boot,
            master_term: None,
        }
    }

    /// Asks for the next claim or registration, and now and then for all earlier ones again.
    fn work_on_claims(&mut self, now: Instant) {
        let Record::Founding(claim) = self.config.record.clone() else {
            return;
        };
        let member = self.founder(&claim);
        let found = Request::Found {
            claim: claim.clone(),
            member,
        };
        let claim = Request::Claim(claim);
        let is_renewal = now.since(self.last_claims) >= CLAIM_RENEWAL;
        if is_renewal {
            self.last_claims = now;
        }
        self.wake = now + WAYPOINT_PING;
        let (order, next, is_confirming) = match &self.phase {
            Phase::Claiming { order, next } => (order.clone(), *next, false),
            Phase::Confirming { order, next } => (order.clone(), *next, true),
            Phase::Asking { .. }
            | Phase::Pausing
            | Phase::Persisting { .. }
            | Phase::Learning { .. }
            | Phase::Withdrawing { .. }
            | Phase::Preparing
            | Phase::Joining { .. }
            | Phase::Member => return,
        };
        for (position, waypoint) in order.into_iter().enumerate() {
            if position != next && !(is_renewal && (is_confirming || position < next)) {
                continue;
            }
            if is_confirming && position <= next {
                self.confirmed.insert(waypoint);
                self.ask(now, waypoint, found.clone());
            } else {
                self.ask(now, waypoint, claim.clone());
            }
        }
    }

    fn heard_of_claim(&mut self, now: Instant, waypoint: usize, reply: Option<Reply>) {
        let Some(reply) = reply else {
            return self.say_unreachable(waypoint);
        };
        match (&mut self.phase, reply.answer) {
            (_, Answer::ClaimRefused(Refusal::JustStarted)) => {
                let name = self
                    .config
                    .waypoints
                    .get(waypoint)
                    .cloned()
                    .unwrap_or_default();
                self.say(Waiting::JustStarted(name));
            }
            (_, Answer::ClaimRefused(refusal)) => self.refused(now, refusal),
            (Phase::Claiming { order, next }, Answer::ClaimGranted)
                if order.get(*next) == Some(&waypoint) =>
            {
                *next += 1;
                if *next == order.len() {
                    self.phase = Phase::Confirming {
                        order: core::mem::take(order),
                        next: 0,
                    };
                }
                self.work_on_claims(now);
            }
            (Phase::Confirming { order, next }, Answer::Founded)
                if order.get(*next) == Some(&waypoint) =>
            {
                *next += 1;
                if *next < order.len() {
                    return self.work_on_claims(now);
                }
                // P3 (4): only now, when all accepted.
                if let Record::Founding(claim) = &self.config.record {
                    let cluster = claim.cluster;
                    self.phase = Phase::Preparing;
                    self.asked.clear();
                    self.outputs.push_back(Output::Prepare(cluster));
                }
            }
            _ => {}
        }
    }

    /// P3: a refusal before (4) removes the record, after what this founder may have registered is taken back. Where
    /// another cluster is there already nobody waits for that: a live cluster hides a lost one.
    fn refused(&mut self, now: Instant, refusal: Refusal) {
        let Record::Founding(claim) = self.config.record.clone() else {
            return;
        };
        self.asked.clear();
        let is_taken = matches!(refusal, Refusal::Taken(_));
        self.say(match refusal {
            Refusal::OtherWaypoints { yours, theirs } => Waiting::OtherWaypoints {
                ours: yours,
                theirs,
            },
            Refusal::Claimed | Refusal::Taken(_) | Refusal::Lapsed | Refusal::JustStarted => {
                Waiting::Refused(refusal)
            }
        });
        let mut left = core::mem::take(&mut self.confirmed);
        if is_taken {
            left.clear();
        }
        for waypoint in 0..self.config.waypoints.len() {
            self.ask(now, waypoint, Request::Withdraw(claim.clone()));
        }
        self.wake = now + WAYPOINT_PING;
        if left.is_empty() {
            self.give_up_record();
        } else {
            self.phase = Phase::Withdrawing { left };
        }
    }

    fn give_up_record(&mut self) {
        self.persist(Record::Fresh);
    }

    // --- member -----------------------------------------------------------------------------------------------------

    fn register(&mut self, now: Instant) {
        let Record::Member { cluster, node, .. } = &self.config.record else {
            return;
        };
        let member = Member {
            cluster: *cluster,
            node: *node,
            store: self.config.store,
            address: self.config.address.clone(),
            boot: self.config.boot,
            master_term: self.master_term,
        };
        for waypoint in 0..self.config.waypoints.len() {
            self.ask(now, waypoint, Request::Register(member.clone()));
        }
    }

    fn heard_as_member(&mut self, reply: Option<Reply>) {
        let Some(Reply {
            answer: Answer::Registered { addresses, others },
            ..
        }) = reply
        else {
            return;
        };
        for (cluster, address) in others {
            self.outputs
                .push_back(Output::OtherCluster(cluster, address));
        }
        let own = self.config.address.clone();
        let mut heard: Vec<String> = addresses.into_iter().filter(|a| *a != own).collect();
        heard.sort();
        heard.dedup();
        heard.truncate(PEERS_MAX);
        let Record::Member {
            cluster,
            node,
            peers,
        } = &mut self.config.record
        else {
            return;
        };
        // A waypoint that just started knows nobody: what is known is kept until somebody is heard of.
        if heard.is_empty() || *peers == heard {
            return;
        }
        peers.clone_from(&heard);
        let record = Record::Member {
            cluster: *cluster,
            node: *node,
            peers: heard.clone(),
        };
        self.numbers += 1;
        self.outputs.push_back(Output::Persist {
            op: self.numbers,
            record,
        });
        self.outputs.push_back(Output::Peers(heard));
    }
}

/// The node id of a cluster's founder.
pub const FOUNDER: NodeId = NodeId(1);
