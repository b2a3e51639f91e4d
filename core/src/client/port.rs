//! What goes into a client and what comes out.
//!
//! Owns the vocabulary between [`Client`](super) and its driver. Calls and their answers are in [`crate::vfs`], requests
//! to regions in [`crate::request`], those to the master here.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attr::Name;
use crate::ids::{BootNumber, Epoch, GroupId, NodeId, Renewal, ReplicaId, SessionId, StoreId};
use crate::master::status::ClusterStatus;
use crate::place::{Ino, Places};
use crate::request::{Answer, Assertion, Recall, Renewed, Request, Space};
use crate::vfs::{Call, FsStats, Outcome};

/// The driver's name for a call that waits for its outcome: each gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// The client's name for a message it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// Where a region's replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPlace {
    /// The replica.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
}

/// One line of the region map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionLine {
    /// Its group.
    pub group: GroupId,
    /// Meta or data.
    pub space: Space,
    /// What it holds.
    pub places: Places,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its replicas.
    pub replicas: Vec<ReplicaPlace>,
    /// Who leads it, as far as the master has heard.
    pub leader: Option<NodeId>,
}

/// What a mount asks of the master. The driver finds the master; a request that can't be delivered is answered with
/// `Input::MasterSilent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterRequest {
    /// A new session for a volume. The nonce makes a repetition give the same session.
    OpenSession {
        /// Which volume.
        volume: String,
        /// It will change nothing.
        read_only: bool,
        /// Drawn at random by the mount.
        nonce: u64,
    },
    /// The session lives on.
    Renew {
        /// Which.
        session: SessionId,
        /// The last renewal number it knows.
        renewal: Renewal,
    },
    /// The mount goes, having given everything back.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// The region map.
    Map,
    /// Space in the cluster.
    Stats,
    /// How the cluster is doing.
    Status,
    /// A store wants to be a node, or is one and has started again (P1).
    Join(Joiner),
}

/// A store that comes to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    /// Which store.
    pub store: StoreId,
    /// Which start of it.
    pub boot: BootNumber,
    /// Drawn by this process: another one with the same boot number is a copy.
    pub process: u128,
    /// Where it listens.
    pub address: String,
    /// Its failure domain.
    pub zone: String,
    /// Bytes it offers; 0: what its disk has.
    pub capacity: u64,
}

/// What the master answers a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterReply {
    /// A session.
    Opened {
        /// Its id.
        session: SessionId,
        /// Its first renewal number.
        renewal: Renewal,
        /// The root of its volume.
        root: Ino,
    },
    /// It lives on, under this number.
    Renewed(Renewal),
    /// It is closed.
    Closed,
    /// There is no such session (any more).
    SessionOver,
    /// There is no such volume.
    NoVolume,
    /// All regions.
    Map(Vec<RegionLine>),
    /// Space.
    Stats(FsStats),
    /// How the cluster is doing.
    Status(ClusterStatus),
    /// The store is this node.
    Joined(NodeId),
    /// The store's data is a copy or a rollback: it must come back with an empty data directory (P1).
    ComeBackEmpty,
}

/// What happens to a client.
#[derive(Clone, Debug)]
pub enum Input {
    /// A call of the mount.
    Call {
        /// Its name.
        id: CallId,
        /// The call.
        call: Call,
    },
    /// The caller of a waiting call has died or was interrupted: a blocked lock is not wanted any more.
    Cancel {
        /// Which.
        id: CallId,
    },
    /// A region answered.
    Answer {
        /// Which message.
        message: MessageId,
        /// What.
        answer: Answer,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// A message to a node could not be delivered, or its connection broke before an answer.
    Undelivered {
        /// Which.
        message: MessageId,
    },
    /// The master answered.
    MasterAnswer {
        /// Which message.
        message: MessageId,
        /// What.
        reply: MasterReply,
    },
    /// The master could not be found or did not answer.
    MasterSilent {
        /// Which message.
        message: MessageId,
    },
    /// A node confirmed this mount's lease frame.
    LeasesRenewed {
        /// Which frame.
        message: MessageId,
        /// By whom.
        node: NodeId,
        /// For which of its leaderships: leases that others granted are not renewed.
        by: Vec<Renewed>,
    },
    /// A leader wants a lease back.
    Recall {
        /// At which node it leads.
        node: NodeId,
        /// What it wants.
        recall: Recall,
    },
    /// A leader asks which of these inodes, whose last names are gone, are not open here: answered with
    /// `MetaOp::NotOpen`, naming those.
    AskOpen {
        /// Which.
        inos: Vec<Ino>,
    },
    /// The kernel has dropped what `Output::Invalidate` named.
    Invalidated {
        /// Which.
        ino: Ino,
    },
    /// The mount is being taken down: write back everything, give everything back, then say `Output::Gone`.
    Unmount,
    /// Time has passed. Spurious ones do nothing.
    Tick,
}

/// What a client wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// The outcome of a call.
    Reply {
        /// Which.
        id: CallId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A request for a replica on a node; `Answer` or `Undelivered` follows.
    Send {
        /// Its name.
        message: MessageId,
        /// To which node.
        node: NodeId,
        /// What.
        request: Request,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// A request for the master.
    SendMaster {
        /// Its name.
        message: MessageId,
        /// What.
        request: MasterRequest,
    },
    /// This mount's lease frame for a node: renews all leases held there. `LeasesRenewed` follows, or `Undelivered`.
    RenewLeases {
        /// Its name.
        message: MessageId,
        /// To which node.
        node: NodeId,
        /// Whose.
        session: SessionId,
        /// Under which renewal number.
        renewal: Renewal,
        /// What it asserts to leaders there.
        assertions: Vec<Assertion>,
    },
    /// The kernel must drop its pages and attributes of an inode; `Invalidated` follows.
    Invalidate {
        /// Which.
        ino: Ino,
    },
    /// The kernel must drop the attributes of an inode that it was told it may keep (`Client::keep_attr`), before
    /// anything that follows is carried out. That waits for nothing: the inode has no page that is being read.
    DropAttr {
        /// Which.
        ino: Ino,
    },
    /// What was written to a file here and had not been committed can't be saved any more, in whole or in part: whoever
    /// has it open for writing hears it once.
    Lost {
        /// Which.
        ino: Ino,
    },
    /// The session is open and the root is known: calls can be made.
    Mounted {
        /// The root of the volume.
        root: Ino,
    },
    /// The mount can't be made.
    Refused {
        /// Why: no such volume.
        volume: Name,
    },
    /// After `Input::Unmount`: nothing is left to do.
    Gone,
}
