//! The discovery service: who is master, and may a fresh node found a cluster? (P3)
//!
//! Owns registrations of members, candidates, founding claims, and what a waypoint forgets when. Deliberately knows
//! nothing about Raft: it believes the highest term it was told, and a wrong answer of it costs time, never data.
//!
//! ```text
//! nobody --Claim--> claimed (10 s) --Found--> registered --60 s unheard--> lost --Forget--> nobody
//! ```
//! Requests arrive with a token that names their connection; each is answered once under that token. An answer that
//! needs the state file is held until [`Input::Remembered`].

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::ids::{BootNumber, ClusterId, NodeId, StoreId};
use crate::limits::{CLAIM_LIFE, WAYPOINT_FORGET, WAYPOINT_WARM_UP};
use crate::time::{Instant, Now};

/// Members remembered of all clusters together; the longest unheard gives way.
pub const MEMBERS_MAX: usize = 4096;
/// Fresh nodes counted at a time; more are not counted.
pub const CANDIDATES_MAX: usize = 1024;
/// Addresses in one answer.
pub const ADDRESSES_MAX: usize = 64;
/// Lost clusters remembered.
pub const LOST_MAX: usize = 16;
/// Answers that wait for the state file; who waits longest has given up by then.
pub const HELD_MAX: usize = 1024;
/// Withdrawn claims remembered, against their own late messages.
pub const WITHDRAWN_MAX: usize = 256;
/// The longest address and the longest waypoint list that are taken.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// See [`ADDRESS_BYTES_MAX`].
pub const WAYPOINTS_MAX: usize = 16;

/// One start of a waypoint, drawn at random; founders claim in the order of these.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct WaypointId(pub u128);

/// What a member says of itself, every 500 ms, to every waypoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node id there.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// Where it listens now.
    pub address: String,
    /// This start of it; a registration with a lower one is old and ignored.
    pub boot: BootNumber,
    /// The term it leads group 0 in, when it is the master.
    pub master_term: Option<u64>,
}

/// A founder's claim: one attempt to found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The cluster to be.
    pub cluster: ClusterId,
    /// Drawn for this attempt.
    pub nonce: u128,
    /// All waypoints of the founder's configuration, sorted.
    pub waypoints: Vec<String>,
}

/// What can be asked of a waypoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// A fresh node asks who is there, and counts as a candidate.
    Who {
        /// Its store.
        store: StoreId,
    },
    /// A mount or a tool asks who is there; it counts as nothing.
    Where,
    /// A member is there.
    Register(Member),
    /// A founder claims, or renews its claim.
    Claim(Claim),
    /// A founder turns its claim into its registration.
    Found {
        /// The very claim.
        claim: Claim,
        /// The founder, as it will be.
        member: Member,
    },
    /// A founder that was refused gives up: its claim and the registration made from it go.
    Withdraw(Claim),
    /// The operator says that a lost cluster won't come back. Answered with [`Answer::Done`], with [`Answer::Members`] when
    /// some of it are heard, and with [`Answer::None`] when it is not known here.
    Forget(ClusterId),
}

/// An answer, with what every answer tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Who answers.
    pub waypoint: WaypointId,
    /// Fresh nodes that asked within the last 10 s.
    pub candidates: u32,
    /// The answer.
    pub answer: Answer,
}

/// What a waypoint answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The cluster's master, by the highest term.
    Master {
        /// Its cluster.
        cluster: ClusterId,
        /// Where it listens, or did: it may have died since.
        address: String,
        /// Where the other members listen, at most [`ADDRESSES_MAX`].
        others: Vec<String>,
    },
    /// Members, none of which said it is the master.
    Members {
        /// Their cluster.
        cluster: ClusterId,
        /// Where they listen.
        addresses: Vec<String>,
    },
    /// Somebody is founding.
    Claimed(Claim),
    /// Nobody is there.
    None,
    /// A cluster was there and is not heard any more.
    Lost(ClusterId),
    /// Ask again: too short a time has passed since the start.
    JustStarted,
    /// Members of two clusters are there: a fresh node joins neither.
    Conflict(Vec<ClusterId>),
    /// To [`Request::Register`]: members of the same cluster, and other clusters that are there.
    Registered {
        /// Where the others of the cluster listen, the master's first.
        addresses: Vec<String>,
        /// Another cluster and where to reach it.
        others: Vec<(ClusterId, String)>,
    },
    /// The claim stands.
    ClaimGranted,
    /// The claim was turned into a registration.
    Founded,
    /// The claim does not stand.
    ClaimRefused(Refusal),
    /// To [`Request::Withdraw`] and [`Request::Forget`].
    Done,
    /// The request is larger than a waypoint takes.
    TooLarge,
}

/// Why a claim was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// Another founder was first.
    Claimed,
    /// Another founder was first, and it names other waypoints than this one: the configurations differ.
    OtherWaypoints {
        /// What this claim names.
        yours: Vec<String>,
        /// What the standing claim names.
        theirs: Vec<String>,
    },
    /// A cluster is there, or was.
    Taken(ClusterId),
    /// The claim ran out, was withdrawn, or was never made here.
    Lapsed,
    /// The waypoint just started.
    JustStarted,
}

/// Names the connection a request came by.
pub type Token = u64;

/// What happens to a waypoint.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// A request arrived.
    Request {
        /// To answer by.
        from: Token,
        /// The request.
        body: Request,
    },
    /// The state file holds what the last [`Output::Remember`] said.
    Remembered,
}

/// What a waypoint wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Answer.
    Reply {
        /// By this connection.
        to: Token,
        /// With this.
        reply: Reply,
    },
    /// Write the state file, sync it, then say [`Input::Remembered`]. Only when a state file was given.
    Remember(Option<ClusterId>),
}

/// How a waypoint is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// This start's id.
    pub id: WaypointId,
    /// Whether there is a state file.
    pub state_file: bool,
    /// What it says.
    pub remembered: Option<ClusterId>,
    /// Inside `polyfs up`, where nobody can have registered before: no `JustStarted`.
    pub skip_warm_up: bool,
}

struct Heard {
    member: Member,
    at: Instant,
    /// The claim that made it, until the member registers by itself.
    founded_by: Option<u128>,
}

/// The machine.
pub struct Waypoint {
    config: Config,
    warm_until: Instant,
    members: BTreeMap<StoreId, Heard>,
    lost: BTreeSet<ClusterId>,
    claim: Option<(Claim, Instant)>,
    candidates: BTreeMap<StoreId, Instant>,
    withdrawn: VecDeque<u128>,
    remembered: Option<ClusterId>,
    writing: bool,
    held: VecDeque<(Token, Reply)>,
    outputs: VecDeque<Output>,
}

impl Waypoint {
    /// Starts with nothing but what the state file says.
    #[must_use]
    pub fn new(config: Config, now: Now) -> Self {
        let warm_until = if config.skip_warm_up {
            now.mono
        } else {
            now.mono + WAYPOINT_WARM_UP
        };
        let remembered = config.remembered;
        Self {
            config,
            warm_until,
            members: BTreeMap::new(),
            lost: remembered.into_iter().collect(),
            claim: None,
            candidates: BTreeMap::new(),
            withdrawn: VecDeque::new(),
            remembered,
            writing: false,
            held: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// One input; then drain [`Self::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input) {
        self.forget(now.mono);
        match input {
            Input::Tick => {}
            Input::Remembered => {
                self.writing = false;
                self.remember();
                if !self.writing {
                    while let Some((to, reply)) = self.held.pop_front() {
                        self.outputs.push_back(Output::Reply { to, reply });
                    }
                }
            }
            Input::Request { from, body } => {
                let answer = if is_bounded(&body) {
                    self.answer(now.mono, body)
                } else {
                    Answer::TooLarge
                };
                self.remember();
                let candidates = u32::try_from(self.candidates.len()).unwrap_or(u32::MAX);
                let reply = Reply {
                    waypoint: self.config.id,
                    candidates,
                    answer,
                };
                if self.writing {
                    self.held.push_back((from, reply));
                    if self.held.len() > HELD_MAX {
                        self.held.pop_front();
                    }
                } else {
                    self.outputs.push_back(Output::Reply { to: from, reply });
                }
            }
        }
        self.check_invariants();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to tick: nothing is said unasked, so only to keep the tables small.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let oldest = self.members.values().map(|heard| heard.at).min()?;
        Some((
            oldest + WAYPOINT_FORGET,
            "a member may be unheard for too long",
        ))
    }

    /// The clusters that are lost here, for status.
    pub fn lost(&self) -> impl Iterator<Item = ClusterId> + '_ {
        self.lost.iter().copied()
    }

    fn answer(&mut self, now: Instant, body: Request) -> Answer {
        match body {
            Request::Who { store } => {
                if self.candidates.len() < CANDIDATES_MAX || self.candidates.contains_key(&store) {
                    self.candidates.insert(store, now);
                }
                self.who(now)
            }
            Request::Where => self.who(now),
            Request::Register(member) => self.register(now, member),
            Request::Claim(claim) => match self.check_claim(now, &claim) {
                Ok(()) => {
                    self.claim = Some((claim, now));
                    Answer::ClaimGranted
                }
                Err(refusal) => Answer::ClaimRefused(refusal),
            },
            Request::Found { claim, member } => self.found(now, &claim, member),
            Request::Withdraw(claim) => {
                self.withdraw(&claim);
                Answer::Done
            }
            Request::Forget(cluster) => self.give_up(cluster),
        }
    }

    /// Only a cluster that nobody is heard of any more can be forgotten.
    fn give_up(&mut self, cluster: ClusterId) -> Answer {
        let addresses = self.addresses(cluster);
        if !addresses.is_empty() {
            return Answer::Members { cluster, addresses };
        }
        if self.lost.remove(&cluster) {
            Answer::Done
        } else {
            Answer::None
        }
    }

    fn who(&self, now: Instant) -> Answer {
        let clusters = self.clusters();
        if let Some(&cluster) = clusters.iter().next() {
            if clusters.len() > 1 {
                return Answer::Conflict(clusters.into_iter().take(ADDRESSES_MAX).collect());
            }
            return match self.master(cluster) {
                Some(master) => Answer::Master {
                    cluster,
                    address: master.address.clone(),
                    others: self.addresses(cluster).into_iter().skip(1).collect(),
                },
                None => Answer::Members {
                    cluster,
                    addresses: self.addresses(cluster),
                },
            };
        }
        if now < self.warm_until {
            return Answer::JustStarted;
        }
        if let Some(&cluster) = self.lost.first() {
            return Answer::Lost(cluster);
        }
        match &self.claim {
            Some((claim, _)) => Answer::Claimed(claim.clone()),
            None => Answer::None,
        }
    }

    fn register(&mut self, now: Instant, member: Member) -> Answer {
        let cluster = member.cluster;
        let is_old = self.members.get(&member.store).is_some_and(|heard| {
            heard.member.cluster == cluster && heard.member.boot > member.boot
        });
        if !is_old {
            self.insert(now, member, None);
        }
        let others = self
            .clusters()
            .into_iter()
            .filter(|other| *other != cluster);
        let others = others
            .take(ADDRESSES_MAX)
            .map(|other| {
                (
                    other,
                    self.addresses(other).into_iter().next().unwrap_or_default(),
                )
            })
            .collect();
        Answer::Registered {
            addresses: self.addresses(cluster),
            others,
        }
    }

    /// P3 (2): compare-and-set from `None`; the same claim again, or one of the cluster that is there, renews.
    fn check_claim(&self, now: Instant, claim: &Claim) -> Result<(), Refusal> {
        if self.withdrawn.contains(&claim.nonce) {
            return Err(Refusal::Lapsed);
        }
        let known = self.clusters();
        if let Some(other) = known
            .iter()
            .chain(&self.lost)
            .find(|c| **c != claim.cluster)
        {
            return Err(Refusal::Taken(*other));
        }
        if let Some((standing, _)) = &self.claim
            && standing.nonce != claim.nonce
        {
            if standing.waypoints != claim.waypoints {
                let (yours, theirs) = (claim.waypoints.clone(), standing.waypoints.clone());
                return Err(Refusal::OtherWaypoints { yours, theirs });
            }
            return Err(Refusal::Claimed);
        }
        if now < self.warm_until && known.is_empty() {
            return Err(Refusal::JustStarted);
        }
        Ok(())
    }

    /// P3 (3): a claim becomes a registration only while that very claim stands.
    fn found(&mut self, now: Instant, claim: &Claim, member: Member) -> Answer {
        if !cfg!(planted = "founding_claim_unchecked") {
            if let Err(refusal) = self.check_claim(now, claim) {
                return Answer::ClaimRefused(refusal);
            }
            let stands = self
                .claim
                .as_ref()
                .is_some_and(|(c, _)| c.nonce == claim.nonce)
                || self.clusters().contains(&claim.cluster);
            if !stands {
                return Answer::ClaimRefused(Refusal::Lapsed);
            }
        }
        self.claim = None;
        self.insert(now, member, Some(claim.nonce));
        Answer::Founded
    }

    /// Takes back what this very claim made. A founder that has served registers by itself, and never withdraws.
    fn withdraw(&mut self, claim: &Claim) {
        if self
            .claim
            .as_ref()
            .is_some_and(|(standing, _)| standing.nonce == claim.nonce)
        {
            self.claim = None;
        }
        self.members
            .retain(|_, heard| heard.founded_by != Some(claim.nonce));
        if !self.clusters().contains(&claim.cluster) {
            self.lost.remove(&claim.cluster);
        }
        if !self.withdrawn.contains(&claim.nonce) {
            self.withdrawn.push_back(claim.nonce);
        }
        if self.withdrawn.len() > WITHDRAWN_MAX {
            self.withdrawn.pop_front();
        }
    }

    fn insert(&mut self, now: Instant, member: Member, founded_by: Option<u128>) {
        self.candidates.remove(&member.store);
        self.claim = self
            .claim
            .take()
            .filter(|(claim, _)| claim.cluster == member.cluster);
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&member.store) {
            let oldest = self
                .members
                .iter()
                .min_by_key(|(_, heard)| heard.at)
                .map(|(id, _)| *id);
            if let Some(gone) = oldest.and_then(|oldest| self.members.remove(&oldest)) {
                self.lose(gone.member.cluster);
            }
        }
        // After the one that had to go: it may have been the last of the same cluster.
        self.lost.remove(&member.cluster);
        self.members.insert(
            member.store,
            Heard {
                member,
                at: now,
                founded_by,
            },
        );
    }

    fn lose(&mut self, cluster: ClusterId) {
        if !self.clusters().contains(&cluster) {
            self.lost.insert(cluster);
            if self.lost.len() > LOST_MAX {
                self.lost.pop_first();
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        self.candidates.retain(|_, at| now.since(*at) < CLAIM_LIFE);
        self.claim = self
            .claim
            .take()
            .filter(|(_, at)| now.since(*at) < CLAIM_LIFE);
        let silent: Vec<StoreId> = self
            .members
            .iter()
            .filter(|(_, heard)| now.since(heard.at) >= WAYPOINT_FORGET)
            .map(|(store, _)| *store)
            .collect();
        for store in silent {
            if let Some(gone) = self.members.remove(&store) {
                self.lose(gone.member.cluster);
            }
        }
    }

    /// Keeps the state file at the cluster last seen. A cluster that is merely lost stays written down.
    fn remember(&mut self) {
        let clusters = self.clusters();
        let kept = self
            .remembered
            .filter(|c| clusters.contains(c) || self.lost.contains(c));
        let wanted = kept
            .filter(|c| clusters.is_empty() || clusters.contains(c))
            .or_else(|| clusters.first().copied())
            .or_else(|| self.lost.first().copied());
        if !self.config.state_file || self.writing || wanted == self.remembered {
            return;
        }
        self.remembered = wanted;
        self.writing = true;
        self.outputs.push_back(Output::Remember(wanted));
    }

    fn clusters(&self) -> BTreeSet<ClusterId> {
        self.members
            .values()
            .map(|heard| heard.member.cluster)
            .collect()
    }

    fn master(&self, cluster: ClusterId) -> Option<&Member> {
        let members = self.members.values().map(|heard| &heard.member);
        members
            .filter(|member| member.cluster == cluster && member.master_term.is_some())
            .max_by_key(|member| member.master_term)
    }

    fn addresses(&self, cluster: ClusterId) -> Vec<String> {
        let master = self.master(cluster);
        let mut all: Vec<String> = master.map(|m| m.address.clone()).into_iter().collect();
        for heard in self
            .members
            .values()
            .filter(|heard| heard.member.cluster == cluster)
        {
            if all.len() < ADDRESSES_MAX && master.is_none_or(|m| m.store != heard.member.store) {
                all.push(heard.member.address.clone());
            }
        }
        all
    }

    fn check_invariants(&self) {
        assert!(
            self.members.len() <= MEMBERS_MAX,
            "the table of members is bounded"
        );
        assert!(
            self.lost.len() <= LOST_MAX,
            "the table of lost clusters is bounded"
        );
        assert!(
            self.clusters().intersection(&self.lost).next().is_none(),
            "a cluster with a living member is not lost"
        );
    }
}

fn is_bounded(request: &Request) -> bool {
    let claim_ok = |claim: &Claim| {
        claim.waypoints.len() <= WAYPOINTS_MAX
            && claim
                .waypoints
                .iter()
                .all(|name| name.len() <= ADDRESS_BYTES_MAX)
    };
    match request {
        Request::Register(member) => member.address.len() <= ADDRESS_BYTES_MAX,
        Request::Claim(claim) | Request::Withdraw(claim) => claim_ok(claim),
        Request::Found { claim, member } => {
            claim_ok(claim) && member.address.len() <= ADDRESS_BYTES_MAX
        }
        Request::Who { .. } | Request::Where | Request::Forget(_) => true,
    }
}

#[cfg(test)]
mod tests;
