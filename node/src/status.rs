//! How a cluster is doing, asked from outside: of its master, or of whoever is left.
//!
//! Owns what is said when no master answers. Deliberately judges nothing that the master can judge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polyfs_core::client::port::{MasterReply, MasterRequest};
use polyfs_core::ids::{ClusterId, GroupId, NodeId};
use polyfs_core::master::controller::health::Verdict;
use polyfs_core::master::status::ClusterStatus;

use crate::access::Access;
use crate::runtime::Runtime;

/// A cluster that elects a master is given this long.
const PATIENCE: Duration = Duration::from_secs(4);

/// A new master hears of all that lives within this: before that it may take what lives for gone.
const UNHEARD: Duration = Duration::from_millis(1500);
/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The master answered.
    Cluster(ClusterStatus),
    /// No master answers: these nodes do, and those don't.
    Headless(Headless),
}

/// What is left of a cluster without a master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headless {
    /// Which.
    pub cluster: ClusterId,
    /// Nodes that answer, and where.
    pub reachable: BTreeMap<NodeId, String>,
    /// Nodes that don't.
    pub unreachable: BTreeMap<NodeId, String>,
    /// Where the waypoints say that members are, when nobody answers who could say which.
    pub nobody_at: Vec<String>,
    /// Groups of which no node that answers knows a leader.
    pub unled: BTreeSet<GroupId>,
}

impl Headless {
    /// Why the cluster is not served, in sentences.
    #[must_use]
    pub fn why(&self) -> Vec<String> {
        let gone = self.unreachable.iter();
        let gone = gone.map(|(node, at)| format!("{node} at {at}"));
        let gone: Vec<String> = gone.chain(self.nobody_at.iter().cloned()).collect();
        let here = self.reachable.len();
        let mut why = vec![format!(
            "no master answers: {here} of {} nodes can be reached, and no majority of the master's group is among them",
            here + gone.len()
        )];
        if !gone.is_empty() {
            why.push(format!(
                "not reached: {}; start them again",
                gone.join(", ")
            ));
        }
        let regions = self.unled.iter().filter(|group| **group != GroupId::MASTER);
        let regions: Vec<String> = regions.map(ToString::to_string).collect();
        if !regions.is_empty() {
            why.push(format!("regions without a leader: {}", regions.join(", ")));
        }
        why
    }
}

/// Asks how the cluster is doing.
pub async fn look<R: Runtime>(access: &Access<R>) -> Known {
    let begun = access.runtime().now().mono;
    while access.runtime().now().mono < begun + PATIENCE {
        let Some(MasterReply::Status(status)) = access.ask_master(MasterRequest::Status).await
        else {
            continue;
        };
        let settled = access.runtime().now().mono >= begun + UNHEARD;
        if settled || status.health != Verdict::Unavailable {
            return Known::Cluster(status);
        }
        access.runtime().sleep(PAUSE).await;
    }
    let mut headless = Headless {
        cluster: access.cluster(),
        reachable: BTreeMap::new(),
        unreachable: BTreeMap::new(),
        nobody_at: Vec::new(),
        unled: BTreeSet::new(),
    };
    for (node, address) in access.links().addresses() {
        match access.members_of(node).await {
            Some(members) => {
                headless.reachable.insert(node, address);
                headless.unled.extend(members.unled);
            }
            None => drop(headless.unreachable.insert(node, address)),
        }
    }
    Known::Headless(headless)
}
