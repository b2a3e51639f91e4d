//! What status says: is everything served, and does everything have its copies?
//!
//! A group without a living majority of its voters, or whose leader is not heard, is unavailable. A group with fewer
//! living voters than it should have, three at the least, is under-replicated, also in a cluster that has fewer than
//! three nodes: a cluster of one node is `degraded: one copy` by design, and says so. A node that is not heard degrades. A
//! replica that its own node does not report (retired) is no living copy; one whose disk failed a sync (suspect) serves, and
//! is no copy to rely on.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::decide::seats;
use super::{Ailment, Controller, Liveness, MasterState};
use crate::ids::ReplicaId;
use crate::limits::REGION_REPLICAS_GOAL;
use crate::time::Instant;

/// In one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// Every group has all its copies, three or more, and every node is heard.
    Ok,
    /// Everything is served, something has fewer copies than it should.
    Degraded,
    /// Something is not served.
    Unavailable,
}

/// The whole answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// In one word.
    pub verdict: Verdict,
    /// In sentences; empty when it is ok.
    pub why: Vec<String>,
    /// Groups with fewer living copies than they should have.
    pub under_replicated: usize,
    /// Groups that are not served.
    pub unavailable: usize,
}

impl Controller {
    /// The health of the cluster as this master sees it; a new master sees little until the nodes have reported.
    #[must_use]
    pub fn health(&self, now: Instant, state: &MasterState) -> Health {
        let alive = |node| self.liveness(now, node) == Liveness::Alive;
        let usable = state
            .nodes
            .iter()
            .filter(|(id, node)| !node.draining && self.liveness(now, **id) != Liveness::Dead);
        let usable = usable.count();
        let (mut under_replicated, mut unavailable, mut single_vote, mut suspect) = (0, 0, 0, 0);
        for (id, group) in &state.groups {
            let Some((_, _, leader)) = self.leader(now, *id) else {
                unavailable += 1;
                continue;
            };
            let placed = |voter: &ReplicaId| group.replicas.get(voter);
            let living = leader.voters().into_iter().filter(|voter| {
                placed(voter).is_some_and(|placed| alive(placed.node))
                    && self.ailment(*id, *voter) != Some(Ailment::Missing)
            });
            let living: Vec<ReplicaId> = living.collect();
            let sound = living.iter().filter(|v| self.ailment(*id, **v).is_none());
            let (sound, all) = (sound.count(), leader.voters().len());
            suspect += living.len() - sound;
            unavailable += usize::from(living.len() * 2 <= all);
            let should = seats(*id, usable).max(REGION_REPLICAS_GOAL);
            under_replicated += usize::from(sound < should);
            single_vote += usize::from(all == 1 && state.nodes.len() > 1);
        }
        let mut why = Vec::new();
        if unavailable > 0 {
            why.push(format!(
                "{unavailable} groups have no leader or no living majority"
            ));
        }
        if under_replicated > 0 && state.nodes.len() == 1 {
            why.push("one copy: add two nodes to survive the loss of one".into());
        } else if under_replicated > 0 {
            why.push(format!(
                "{under_replicated} groups have fewer living copies than they should"
            ));
        }
        if suspect > 0 {
            why.push(format!(
                "{suspect} replicas are on a disk that failed a sync: they serve, and are replaced once others can do without them"
            ));
        }
        if single_vote > 0 {
            why.push(format!(
                "one disk holds the only vote of {single_vote} groups"
            ));
        }
        let mut all_heard = true;
        for (id, node) in state.nodes.iter().filter(|(id, _)| !alive(**id)) {
            why.push(format!("node {id} at {} is not heard", node.address));
            all_heard = false;
        }
        let verdict = if unavailable > 0 {
            Verdict::Unavailable
        } else if under_replicated > 0 || !all_heard {
            Verdict::Degraded
        } else {
            Verdict::Ok
        };
        Health {
            verdict,
            why,
            under_replicated,
            unavailable,
        }
    }
}
