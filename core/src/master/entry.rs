//! What can be proposed to group 0, and what its apply answers.
//!
//! Owns the vocabulary. Everything that is random or comes from a clock travels in the entry (DESIGN section 3).

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::ids::{
    BootNumber, ClusterId, Epoch, GroupId, NodeId, ReplicaId, SessionId, StoreId, VolumeId,
};
use crate::place::{Ino, Place};

/// What a replica is in its group, as the master last heard from the group's leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Receives, has no vote.
    Learner,
    /// Has a vote.
    Voter,
}

/// One entry of group 0.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A store joins, or starts again (P1).
    Join {
        /// The store.
        store: StoreId,
        /// How often it was started.
        boot: BootNumber,
        /// Random, drawn by the process at its start: tells two processes with one boot number apart.
        process: u128,
        /// Where it listens now.
        address: String,
        /// Its failure domain; empty: a zone of its own.
        zone: String,
        /// Bytes it offers.
        capacity: u64,
    },
    /// Its replicas are moved away, or no longer.
    SetDraining {
        /// Which node.
        node: NodeId,
        /// Whether.
        draining: bool,
    },
    /// A new replica of a group, as a learner.
    Place {
        /// Of which group.
        group: GroupId,
        /// On which node, which has none of it.
        node: NodeId,
    },
    /// What the group's leader reported as a replica's role.
    SetRole {
        /// In which group.
        group: GroupId,
        /// Which replica.
        replica: ReplicaId,
        /// What it is.
        role: Role,
    },
    /// A replica that is a member of its group no more, or is lost, is no longer placed. Two such decisions at once could
    /// take away a majority: the second is refused.
    Unplace {
        /// Of which group.
        group: GroupId,
        /// Which replica.
        replica: ReplicaId,
        /// The version of the group this was decided on.
        version: u64,
    },
    /// Draws the ids for the split of a region (P5); asked again, it gives the same ones.
    DrawSplit {
        /// Which region.
        group: GroupId,
        /// The epoch the drawn ids are for.
        epoch: Epoch,
    },
    /// A region's leader reported that it has split as drawn.
    Split {
        /// The region that was cut.
        group: GroupId,
        /// The first place of the new region.
        at: Place,
        /// The epoch of both halves.
        epoch: Epoch,
    },
    /// A new volume; a name that exists gives that volume.
    CreateVolume {
        /// Its name.
        name: String,
        /// Its root, made beforehand.
        root: Ino,
    },
    /// A volume's name goes.
    RemoveVolume {
        /// Its name.
        name: String,
    },
    /// A mount comes. The nonce makes a repetition give the same session. A writing one sets the bit of P3.
    CreateSession {
        /// Its volume's name.
        volume: String,
        /// It changes nothing.
        read_only: bool,
        /// Drawn by the mount.
        nonce: u64,
    },
    /// A session ends: closed, or its life ran out.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// Every region holds that the session is over: nothing remembers it any more.
    ForgetSession {
        /// Which.
        session: SessionId,
    },
    /// A setting of the cluster.
    Set {
        /// Its name.
        name: String,
        /// Its value; empty removes it.
        value: String,
    },
    /// A cluster of one node that never let anybody write gives way to another (P3).
    Dissolve {
        /// To which.
        in_favour_of: ClusterId,
    },
}

/// What apply answers. Refusals change nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done, or it was so before.
    Done,
    /// The store is this node.
    Joined(NodeId),
    /// The store's data is a copy or a rollback: come back with an empty data directory (P1).
    ComeBackEmpty,
    /// The new replica, or the one that is on that node already.
    Placed(ReplicaId),
    /// The ids for a split.
    SplitDrawn {
        /// The new group.
        group: GroupId,
        /// The old replica, and the new group's one on the same node.
        replicas: Vec<(ReplicaId, ReplicaId)>,
    },
    /// The volume.
    Volume(VolumeId, Ino),
    /// The session and its volume's root.
    Session(SessionId, Ino),
    /// There is no such node, group, replica, volume or session, or the report is of an older epoch, or the decision of an
    /// older version.
    NotFound,
    /// The cluster gave way to this one.
    Dissolved(ClusterId),
    /// It can't: sessions have been granted writing, or there is more than one node.
    InUse,
    /// A name or value is too long, or a table is full.
    TooLarge,
}
