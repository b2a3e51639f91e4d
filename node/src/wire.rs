//! What goes over a connection: every frame's header.
//!
//! Owns the format between nodes, and between mounts and nodes. Bulk bytes follow a header as the frame's payload.
//! Deliberately knows neither runtime nor openraft's request types, which name one: [`crate::raft`] translates.

use std::collections::BTreeMap;

use bytes::Bytes;
use polyfs_core::client::port::{MasterReply, MasterRequest};
use polyfs_core::codec::{self, DecodeError};
use polyfs_core::ids::{
    BootNumber, ClusterId, GroupId, NodeId, Renewal, ReplicaId, SessionId, StoreId,
};
use polyfs_core::master::controller::Directive;
use polyfs_core::place::Ino;
use polyfs_core::request::{Answer, Assertion, Recall, Renewed, Request};
use polyfs_core::waypoint;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::heartbeat::{Heard, Heartbeat};
use crate::raft::types::{LogId, SnapshotMeta, Vote};
use crate::runtime::Frame;

/// The version of this format. Another one is refused at the first frame.
pub const WIRE_VERSION: u16 = 2;

/// The header of a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The first frame of whoever dials.
    Hello(Hello),
    /// The first frame of whoever accepted.
    Welcome(Result<NodeIdentity, HelloRefusal>),
    /// A question that gets one answer.
    Call {
        /// Unique on this connection and in this direction.
        id: u64,
        /// What is asked.
        body: Call,
    },
    /// The answer to a question.
    Reply {
        /// Which.
        id: u64,
        /// What.
        body: Reply,
    },
    /// Entries for a follower, in order on their stream; the entries' payloads are the frame's.
    Append {
        /// Between which replicas.
        ends: Ends,
        /// Unique on this connection and in this direction.
        stream: u64,
        /// What.
        head: AppendHead,
    },
    /// What became of the stream's next append.
    Appended {
        /// Which stream.
        stream: u64,
        /// How far it matches, or why it ends here.
        result: Result<Option<LogId>, AppendStop>,
    },
    /// The stream is over: its sender has gone.
    AppendEnd {
        /// Which.
        stream: u64,
    },
    /// A leader wants a lease back.
    Recall {
        /// From whom.
        session: SessionId,
        /// What.
        recall: Recall,
    },
    /// A leader asks which of these inodes are not held open.
    AskOpen {
        /// Whom.
        session: SessionId,
        /// Which.
        inos: Vec<Ino>,
    },
    /// The only question on a connection to a waypoint.
    Ask {
        /// [`WIRE_VERSION`].
        version: u16,
        /// What is asked.
        request: waypoint::Request,
    },
    /// Its answer.
    Told(Result<waypoint::Reply, HelloRefusal>),
}

/// Who dials, and whom they think they dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`WIRE_VERSION`].
    pub version: u16,
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which node is expected to answer; `None` when any will do.
    pub expects: Option<NodeId>,
    /// Who dials.
    pub from: Dialler,
}

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialler {
    /// Another node.
    Node(NodeIdentity),
    /// A mount on a machine without a node.
    Mount,
}

/// A node as it presents itself (P1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node id.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// Which start of the store it is.
    pub boot: BootNumber,
}

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum HelloRefusal {
    /// Another format.
    #[error("the other side speaks wire version {0}: upgrade the older one")]
    Version(u16),
    /// Another cluster.
    #[error("the other side belongs to cluster {0}")]
    Cluster(ClusterId),
    /// Another node answers at that address.
    #[error("node {0} answers at that address")]
    OtherNode(NodeId),
    /// That node id belongs to another store, or to a later start of it: a copy, or a rollback (P1). Says this node.
    #[error("another store, or a later start of it, goes by that node id: come back empty")]
    Copy(NodeId),
    /// The dialler and the node are the same.
    #[error("a node does not talk to itself over the network")]
    Myself,
    /// A node was expected.
    #[error("that is a waypoint's address: a node's is wanted")]
    IsWaypoint,
    /// A waypoint was expected.
    #[error("that is a node's address: a waypoint's is wanted")]
    IsNode,
}

/// Both ends of a Raft message: a receiver that is not exactly `to` refuses (P1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// The group.
    pub group: GroupId,
    /// The sender.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
}

/// Questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// Between replicas of a group.
    Raft {
        /// Which.
        ends: Ends,
        /// What.
        body: RaftCall,
    },
    /// To the leader of a region; bulk bytes are the frame's payload.
    Request(Request),
    /// A mount's lease frame: all its leases at this node.
    RenewLeases {
        /// Whose.
        session: SessionId,
        /// Under which renewal number.
        renewal: Renewal,
        /// What it asserts to leaders here.
        assertions: Vec<Assertion>,
    },
    /// To the master.
    Master(MasterRequest),
    /// To any node: where the others are, as far as it knows.
    Members,
    /// A node to the master.
    Heartbeat(Heartbeat),
    /// The master to a node.
    Direct(Vec<Directive>),
    /// The master to the leader of a region: these sessions are over.
    EndSessions {
        /// Which region.
        group: GroupId,
        /// Which sessions.
        sessions: Vec<SessionId>,
    },
}

/// What a node knows of its cluster without asking anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Where nodes can be dialled.
    pub addresses: BTreeMap<NodeId, String>,
    /// Who leads group 0.
    pub master: Option<NodeId>,
    /// Groups with a replica there whose leader is not known.
    pub unled: Vec<GroupId>,
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Of a replica.
    Raft(RaftReply),
    /// Of a region; bytes read are the frame's payload.
    Answer(Answer),
    /// What the leaders here confirm of a frame.
    LeasesRenewed(Vec<Renewed>),
    /// Of the master.
    Master(MasterReply),
    /// The master is elsewhere.
    NotMaster {
        /// Where, if known.
        leader: Option<NodeId>,
    },
    /// What a node knows of the others.
    Members(Members),
    /// Of whoever got a heartbeat.
    Heard(Heard),
    /// The directives have arrived.
    Directed,
    /// Which of the sessions the region holds to be over by now.
    SessionsOver(Vec<SessionId>),
    /// Nobody here can answer that.
    Refused(Refused),
}

/// Why nobody here can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refused {
    /// The group has no replica here, or another one than was meant (P1).
    #[error("no such replica here")]
    NoReplica,
    /// The sender is not who holds that replica.
    #[error("the sender does not hold the replica it speaks for")]
    NotYours,
    /// The process has just started: it grants no vote for one leader lease (P2).
    #[error("just started: no votes yet")]
    JustStarted,
    /// The replica or node is stopping, or has failed.
    #[error("stopping")]
    Stopping,
    /// Too much waits already.
    #[error("overloaded")]
    Overloaded,
}

/// What replicas ask each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RaftCall {
    /// RequestVote.
    Vote(VoteAsk),
    /// The same, changing nothing.
    PreVote(VoteAsk),
    /// AppendEntries, alone: heartbeats.
    Append(AppendHead),
    /// Lead, please.
    Transfer {
        /// The leader that hands over.
        from: Vote,
        /// To whom.
        to: u64,
        /// What the follower must have first.
        last: Option<LogId>,
    },
    /// How much of this snapshot is there already; `from_leader` is the sender's vote.
    SnapshotBegin {
        /// Who sends it.
        from_leader: Vote,
        /// Which snapshot.
        meta: SnapshotMeta,
    },
    /// Some pairs, in order, and the bytes of chunks. The payload holds the chunks' bytes.
    SnapshotPiece(SnapshotPiece),
    /// All pieces were sent: make it current.
    SnapshotEnd {
        /// Who sends it.
        from_leader: Vote,
        /// Which snapshot.
        meta: SnapshotMeta,
        /// How many pieces it has: a late end must not make a later transfer's beginning current.
        pieces: u64,
    },
}

/// A candidate's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteAsk {
    /// Whom to vote for.
    pub vote: Vote,
    /// The candidate's last entry.
    pub last: Option<LogId>,
    /// The old leader has asked for it.
    pub transfer: bool,
}

/// AppendEntries without the entries' payloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendHead {
    /// The leader's vote.
    pub vote: Vote,
    /// What precedes the entries.
    pub prev: Option<LogId>,
    /// How far the leader has committed.
    pub commit: Option<LogId>,
    /// How far this follower has acknowledged to this leadership, as far as the leader knows: who lacks any of it has lost
    /// what it promised (P10).
    pub acknowledged: Option<LogId>,
    /// The entries.
    pub entries: Vec<EntryHead>,
}

/// An entry without its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryHead {
    /// Its term.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// Its head.
    pub head: Bytes,
    /// How many of the frame's payload bytes are its own.
    pub payload_bytes: u32,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPiece {
    /// The snapshot's last entry.
    pub last: Option<LogId>,
    /// The number of the piece, from 0.
    pub number: u64,
    /// Keys and values.
    pub pairs: Vec<(Bytes, Bytes)>,
    /// Chunks: key, offset, and how many of the frame's payload bytes belong there.
    pub chunks: Vec<(Bytes, u64, u32)>,
}

/// What replicas answer each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RaftReply {
    /// Of a vote or pre-vote.
    Vote {
        /// The voter's vote now.
        vote: Vote,
        /// Whether it is granted.
        granted: bool,
        /// The voter's last entry.
        last: Option<LogId>,
    },
    /// Of a heartbeat.
    Append(Result<Option<LogId>, AppendStop>),
    /// Of a transfer.
    Transfer(Result<(), TransferRefusal>),
    /// How many pieces of a snapshot are there.
    SnapshotAt(u64),
    /// It is current; the replica's vote.
    SnapshotDone(Vote),
}

/// Why an append stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendStop {
    /// The follower's log does not have this entry.
    Conflict(LogId),
    /// The follower has voted for somebody later.
    HigherVote(Vote),
    /// The replica is not there, or has failed.
    Refused(Refused),
}

/// Why a leadership is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as openraft's TransferLeaderError")]
pub enum TransferRefusal {
    VoteChanged {
        expected: Vote,
        actual: Vote,
    },
    LogNotFlushed {
        expected: Option<LogId>,
        actual: Option<LogId>,
    },
}

impl Message {
    /// The frame of this header and a payload.
    #[must_use]
    pub fn frame(&self, payload: Vec<Bytes>) -> Frame {
        Frame {
            header: codec::encode(self).into(),
            payload,
        }
    }

    /// The header and payload of a frame.
    ///
    /// # Errors
    /// When the header is none of ours.
    pub fn of(frame: Frame) -> Result<(Self, Bytes), DecodeError> {
        let message = codec::decode("message", &frame.header)?;
        Ok((
            message,
            frame.payload.into_iter().next().unwrap_or_default(),
        ))
    }
}
