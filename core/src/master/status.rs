//! How the cluster is doing, in numbers and sentences: what `polyfs status` shows.
//!
//! Owns the answer's shape and its making from state and reports. Deliberately decides nothing: the verdict is
//! [`health`](super::controller::health)'s.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::controller::health::Verdict;
use super::controller::{Controller, Liveness};
use super::state::MasterState;
use crate::ids::{ClusterId, GroupId, NodeId};
use crate::request::Space;
use crate::time::Instant;

/// How the cluster is doing, as its master sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// In one word.
    pub health: Verdict,
    /// Why it is not ok, in sentences; empty when it is.
    pub why: Vec<String>,
    /// The node that answers.
    pub master: NodeId,
    /// Group 0.
    pub mrg: MrgStatus,
    /// All nodes that joined, by id.
    pub nodes: Vec<NodeLine>,
    /// All regions, counted.
    pub regions: RegionCounts,
}

/// Group 0: the master's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MrgStatus {
    /// The nodes that vote in it.
    pub members: Vec<NodeId>,
    /// The node that leads it.
    pub leader: NodeId,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeLine {
    /// Its id.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
    /// Its failure domain; empty: a zone of its own.
    pub zone: String,
    /// How it is.
    pub state: NodeState,
    /// The version it runs; empty while it is not heard.
    pub version: String,
    /// Bytes of file data it holds.
    pub used_bytes: u64,
    /// Bytes it can hold.
    pub capacity_bytes: u64,
}

/// How a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum NodeState {
    /// Heard lately.
    Alive,
    /// Not heard for a few seconds.
    Silent,
    /// Not heard for so long that its replicas are placed elsewhere.
    Dead,
    /// Its replicas are being moved away.
    Draining,
    /// Heard, but its disk keeps the log waiting: it leads nothing.
    Stalled,
}

/// All regions, counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegionCounts {
    /// Of names and attributes.
    pub meta: usize,
    /// Of content.
    pub data: usize,
    /// Groups, group 0 too, that have fewer living copies than they should.
    pub under_replicated: usize,
    /// Groups, group 0 too, that are not served.
    pub unavailable: usize,
}

/// What a node says of itself with each heartbeat, beside its replicas.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vitals {
    /// The version it runs.
    pub version: String,
    /// Where it listens.
    pub address: String,
    /// Bytes of file data it holds.
    pub used_bytes: u64,
    /// Bytes it can hold.
    pub capacity_bytes: u64,
    /// Its disk keeps the log waiting.
    pub log_stalled: bool,
}

impl ClusterStatus {
    /// The status as the master `me` sees it; `vitals` are the last heard of each node.
    #[must_use]
    pub fn new(
        me: NodeId,
        state: &MasterState,
        controller: &Controller,
        vitals: &BTreeMap<NodeId, Vitals>,
        now: Instant,
    ) -> Self {
        let health = controller.health(now, state);
        let mut regions = RegionCounts {
            under_replicated: health.under_replicated,
            unavailable: health.unavailable,
            ..RegionCounts::default()
        };
        for (space, _) in state.groups.values().filter_map(|group| group.region) {
            match space {
                Space::Meta => regions.meta += 1,
                Space::Data => regions.data += 1,
            }
        }
        let line = |(id, node): (&NodeId, &super::state::Node)| {
            let heard = vitals.get(id).cloned().unwrap_or_default();
            let known_capacity = if heard.capacity_bytes > 0 {
                heard.capacity_bytes
            } else {
                node.capacity
            };
            NodeLine {
                id: *id,
                address: node.address.clone(),
                zone: node.zone.clone(),
                state: match controller.liveness(now, *id) {
                    Liveness::Dead => NodeState::Dead,
                    Liveness::Silent => NodeState::Silent,
                    Liveness::Alive if node.draining => NodeState::Draining,
                    Liveness::Alive if heard.log_stalled => NodeState::Stalled,
                    Liveness::Alive => NodeState::Alive,
                },
                version: heard.version,
                used_bytes: heard.used_bytes,
                capacity_bytes: known_capacity,
            }
        };
        Self {
            cluster_id: state.header.cluster,
            health: health.verdict,
            why: health.why,
            master: me,
            mrg: MrgStatus {
                members: mrg_members(state, controller, now),
                leader: me,
            },
            nodes: state.nodes.iter().map(line).collect(),
            regions,
        }
    }
}

/// The nodes with a vote in group 0, as its leader reported, or else as the state has it.
fn mrg_members(state: &MasterState, controller: &Controller, now: Instant) -> Vec<NodeId> {
    let Some(group) = state.groups.get(&GroupId::MASTER) else {
        return Vec::new();
    };
    let reported = controller.leader(now, GroupId::MASTER);
    let voters = reported.map(|(_, _, leader)| leader.voters());
    let votes = |replica, role| {
        voters
            .as_ref()
            .map_or(role == super::entry::Role::Voter, |voters| {
                voters.contains(&replica)
            })
    };
    let members = group.replicas.iter();
    members
        .filter(|(id, placed)| votes(**id, placed.role))
        .map(|(_, placed)| placed.node)
        .collect()
}
