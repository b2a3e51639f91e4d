//! Names of things: newtypes, so that one can't be passed for another.
//!
//! Owns the identifiers of PROTOCOLS P1 and what each of them promises. Who draws an identifier is said at each; none
//! is ever drawn here.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, $format, self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, $format, self.0) }
        }
    };
}

id!(
    /// A cluster, drawn at random by the node that founds it (P3).
    ClusterId(u128), "{:032x}"
);
id!(
    /// One store: one data directory, drawn at random and synced before the node's first join request (P1).
    StoreId(u128), "{:032x}"
);
id!(
    /// A node of a cluster, given out by the master when a store joins; 0 is never given out.
    NodeId(u64), "n{}"
);
id!(
    /// How often a store was started; raised and synced before a start says anything (P1).
    BootNumber(u64), "boot {}"
);
id!(
    /// A Raft group: 0 is the Master Raft Group, every other one is a region.
    GroupId(u64), "g{}"
);
id!(
    /// One placement of a group on a node, drawn by the master; openraft's `NodeId` in that group (P1).
    ReplicaId(u64), "r{}"
);
id!(
    /// One mount's identity in the cluster, drawn by the master; 0 stands for the cluster itself.
    SessionId(u64), "s{}"
);
id!(
    /// The number of a session's life renewals: a request older than the last but one is refused (P8).
    Renewal(u64), "renewal {}"
);
id!(
    /// A named tree with its own root.
    VolumeId(u32), "v{}"
);
id!(
    /// The version of a region's range; raised by each split, never lowered.
    Epoch(u64), "e{}"
);
id!(
    /// The number that shuts a dead lease holder out; raised by each takeover, per inode (P8).
    Fence(u64), "f{}"
);
id!(
    /// The lineage of stored keys: two replicas never share a stored key (P5).
    Lineage(u64), "l{}"
);

impl GroupId {
    /// The Master Raft Group.
    pub const MASTER: Self = Self(0);
}

impl SessionId {
    /// The cluster itself: what the controller, coordinators and reclaim do in a region.
    pub const CLUSTER: Self = Self(0);
}
