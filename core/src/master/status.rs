//! How the cluster is doing, in numbers and sentences: what `polyfs status` shows.
//!
//! Owns the answer's shape and its making from state and reports. Deliberately decides nothing: the verdict is
//! [`health`](super::controller::health)'s.

use alloc::collections::BTreeMap;
use alloc::format;
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
    /// Inodes in the regions that it leads, as far as they are counted.
    pub inodes: u64,
}

impl ClusterStatus {
    /// The status as the master `me` sees it; `vitals` are the last heard of each node. `commits` says whether group 0 has
    /// just committed an entry: a leader that is one, and can write nothing, is none.
    #[must_use]
    pub fn new(
        me: NodeId,
        state: &MasterState,
        controller: &Controller,
        vitals: &BTreeMap<NodeId, Vitals>,
        commits: bool,
        now: Instant,
    ) -> Self {
        let mut health = controller.health(now, state);
        let stalled = state.nodes.iter().filter(|(id, _)| {
            let heard = vitals.get(id).is_some_and(|vitals| vitals.log_stalled);
            heard && controller.liveness(now, **id) == Liveness::Alive
        });
        for (id, node) in stalled {
            health.verdict = health.verdict.max(Verdict::Degraded);
            health.why.push(format!(
                "the disk of node {id} at {} keeps its log waiting: look at that disk",
                node.address
            ));
        }
        if !commits {
            health.verdict = Verdict::Unavailable;
            health.unavailable = health.unavailable.max(1);
            health.why.push(
                "the master can't commit: no majority of its group writes its log; look at the disks and the network of its members"
                    .into(),
            );
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootNumber, StoreId};
    use crate::master::controller::{Input, NodeReport};
    use crate::master::state::Founder;
    use crate::place::Ino;
    use crate::time::Now;

    #[test]
    fn a_master_that_can_not_commit_is_never_ok_and_a_stalled_disk_is_named() {
        let founder = Founder {
            store: StoreId(1),
            boot: BootNumber(1),
            process: 1,
            address: "a:1".into(),
            zone: String::new(),
            capacity: 0,
        };
        let state = MasterState::found(ClusterId(1), founder, Ino(1 << 32));
        let (now, mut vitals) = (Now::default(), BTreeMap::new());
        let mut controller = Controller::new(now);
        let report = NodeReport {
            node: NodeId(1),
            replicas: Vec::new(),
        };
        controller.handle_input(now, &state, Input::Report(report));
        let status = |vitals: &BTreeMap<_, _>, commits| {
            ClusterStatus::new(NodeId(1), &state, &controller, vitals, commits, now.mono)
        };
        let says = |status: &ClusterStatus, what: &str| {
            status.why.iter().filter(|why| why.contains(what)).count()
        };
        assert_eq!(says(&status(&vitals, true), "commit"), 0);
        let stuck = status(&vitals, false);
        assert_eq!(stuck.health, Verdict::Unavailable);
        assert_eq!(says(&stuck, "can't commit"), 1);
        assert!(stuck.regions.unavailable > 0);
        let stalled = Vitals {
            log_stalled: true,
            ..Vitals::default()
        };
        vitals.insert(NodeId(1), stalled);
        let stalled = status(&vitals, true);
        assert!(stalled.health >= Verdict::Degraded);
        assert_eq!(says(&stalled, "a:1 keeps its log waiting"), 1);
    }
}
