//! What goes into a starting node and what comes out.
//!
//! Owns the vocabulary between [`Join`](super::Join) and its driver, and the reasons for waiting as people read them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::ids::{BootNumber, ClusterId, NodeId, StoreId};
use crate::waypoint::{Claim, Refusal, Reply, Request};

/// What the data directory says about this store's place in the world; synced as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Record {
    /// No cluster. Whatever was prepared for one is to be removed together with its record.
    #[default]
    Fresh,
    /// Founding: goes on at the claim after a restart.
    Founding(Claim),
    /// A member for good.
    Member {
        /// Of this cluster.
        cluster: ClusterId,
        /// Under this node id.
        node: NodeId,
        /// Where other members listened last.
        peers: Vec<String>,
    },
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// The waypoints' names, resolved anew at each question; at most 16, and at least one for a fresh store.
    pub waypoints: Vec<String>,
    /// Where this node can be reached.
    pub address: String,
    /// This store.
    pub store: StoreId,
    /// This start of it.
    pub boot: BootNumber,
    /// Founding waits for this many fresh nodes (`--expect`); 1 does not wait.
    pub expect: u32,
    /// Never found (`--join-only`).
    pub join_only: bool,
    /// What the store says.
    pub record: Record,
}

/// Why a node is not serving yet; its text is for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// A waypoint does not answer. Founding needs all of them.
    Unreachable(String),
    /// A waypoint just started.
    JustStarted(String),
    /// A cluster was here and is not heard.
    Lost(ClusterId),
    /// Another node is founding.
    Claimed(ClusterId),
    /// Two clusters answer.
    Conflict(Vec<ClusterId>),
    /// Another founder was configured with other waypoints.
    OtherWaypoints {
        /// Ours.
        ours: Vec<String>,
        /// The other's.
        theirs: Vec<String>,
    },
    /// `--expect`.
    Expecting {
        /// Fresh nodes that are here.
        here: u32,
        /// Fresh nodes that are expected.
        expected: u32,
    },
    /// Nobody is there, and `--join-only` was given.
    JoinOnly,
    /// Nobody is there; asking again before founding.
    Nobody,
    /// The claim has to be repeated or withdrawn.
    Refused(Refusal),
    /// A member does not answer, or sent us round in circles.
    NoAnswer(String),
    /// The cluster refuses this store.
    JoinRefused(String),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(name) => write!(
                f,
                "waypoint {name} does not answer; founding a cluster needs all of them: start it, or \
                 remove it from the list"
            ),
            Self::JustStarted(name) => write!(f, "waypoint {name} just started; asking again"),
            Self::Lost(cluster) => write!(
                f,
                "cluster {cluster} was here and is not heard any more: start its nodes, or, if it is gone \
                 for good, run `polyfs waypoint forget {cluster}`"
            ),
            Self::Claimed(cluster) => write!(f, "another node is founding cluster {cluster}"),
            Self::Conflict(clusters) => {
                write!(
                    f,
                    "more than one cluster answers: {clusters:?}; decide which one stays"
                )
            }
            Self::OtherWaypoints { ours, theirs } => write!(
                f,
                "another founder lists other waypoints: ours {ours:?}, theirs {theirs:?}; make the lists equal"
            ),
            Self::Expecting { here, expected } => {
                write!(f, "{here} of {expected} expected nodes are here")
            }
            Self::JoinOnly => write!(f, "no cluster is there yet, and --join-only was given"),
            Self::Nobody => write!(f, "no cluster is there; asking again before founding one"),
            Self::Refused(refusal) => write!(f, "a waypoint refused our claim: {refusal:?}"),
            Self::NoAnswer(address) => write!(f, "member {address} does not answer"),
            Self::JoinRefused(why) => write!(f, "the cluster refuses this store: {why}"),
        }
    }
}

/// What came of a join request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JoinAnswer {
    /// This store is a node now, or was before.
    Accepted {
        /// Of this cluster.
        cluster: ClusterId,
        /// Under this id.
        node: NodeId,
    },
    /// The master is elsewhere.
    Redirect(String),
    /// No, and why.
    Refused(String),
    /// Nothing, within the deadline.
    Failed,
}

/// What happens to a starting or serving node.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// A waypoint answered, or `None`: it could not be reached in time.
    Answered {
        /// The number of the question.
        ask: u64,
        /// What it said.
        reply: Option<Reply>,
    },
    /// A record is synced.
    Persisted {
        /// Its number.
        op: u64,
    },
    /// The groups of the new cluster are ready to start.
    Prepared(ClusterId),
    /// What came of [`Output::JoinVia`].
    Joined(JoinAnswer),
    /// This node leads group 0 in a term, or does not.
    Master(Option<u64>),
}

/// What a starting or serving node wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask a waypoint; resolve its name now.
    Ask {
        /// Its index in the configuration.
        waypoint: usize,
        /// To answer by.
        ask: u64,
        /// The question.
        request: Request,
    },
    /// Write and sync the record.
    Persist {
        /// To confirm by.
        op: u64,
        /// The record.
        record: Record,
    },
    /// Create the groups of a new cluster, synced but not started; repeated after a crash, and then a no-op.
    Prepare(ClusterId),
    /// Ask a member to let this store in.
    JoinVia {
        /// Where it listens.
        address: String,
        /// Which cluster it should be of.
        cluster: ClusterId,
    },
    /// Start the groups and serve.
    Serve {
        /// The cluster.
        cluster: ClusterId,
        /// This node.
        node: NodeId,
        /// Whether this node just founded it.
        founded: bool,
        /// Where other members listened last.
        peers: Vec<String>,
    },
    /// Where other members listen now.
    Peers(Vec<String>),
    /// Another cluster is there; the one-node rule of P3 decides what to do.
    OtherCluster(ClusterId, String),
    /// For status: why it takes so long.
    Waiting(Waiting),
}
