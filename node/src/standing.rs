//! Whether a node is still who it was: the master hears of each start of its store, and a store of before is noticed (P1).
//!
//! Owns the watch and the evidence. Deliberately ends nothing: whoever started the node is told why it must not go on.
//!
//! A data directory of a time when the cluster was one node elects itself and asks nobody, so the master's answer is no
//! evidence: it is the master. Then others are: one whose id this master never gave was let in by a later self. That such
//! a node refuses it is none: the one of before refuses the true ones as well.

use futures::channel::oneshot;
use openraft_rt::watch::WatchReceiver;
use polyfs_core::client::port::{Joiner, MasterReply, MasterRequest};
use polyfs_core::ids::GroupId;

use crate::join::{JoinError, LOOK_EVERY};
use crate::machines;
use crate::node::Node;
use crate::runtime::Runtime;

/// A node, and how it introduces itself.
pub(crate) struct Standing<R: Runtime> {
    pub(crate) node: Node<R>,
    pub(crate) joiner: Joiner,
}

impl<R: Runtime> Standing<R> {
    /// Watches for as long as the node runs; tells why it must not go on, if it must not.
    pub(crate) async fn watch(self, tell: oneshot::Sender<JoinError>) {
        let mut announced = false;
        while !self.node.is_stopped() {
            let refused = !announced && self.announce(&mut announced).await;
            if refused || self.node.is_of_before() {
                // Whoever started this node may have gone.
                let _ = tell.send(JoinError::ComeBackEmpty);
                return;
            }
            self.node.runtime().sleep(LOOK_EVERY).await;
        }
    }

    /// The master hears of this start of the store; whether it refuses it.
    async fn announce(&self, announced: &mut bool) -> bool {
        let request = MasterRequest::Join(self.joiner.clone());
        match self.node.ask_master(request).await {
            Some(MasterReply::Joined(node)) if node == self.node.identity().node => {
                *announced = true;
                false
            }
            Some(MasterReply::ComeBackEmpty | MasterReply::Joined(_)) => true,
            _ => false,
        }
    }
}

impl<R: Runtime> Node<R> {
    /// P1: whether this node is master by its own vote alone, and a member has come whose id it never gave.
    #[must_use]
    pub fn is_of_before(&self) -> bool {
        let highest = self.links().highest_met();
        let Some(replica) = self.replica(GroupId::MASTER) else {
            return false;
        };
        let rules_alone = {
            let metrics = replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            let mut voters = metrics.membership_config.voter_ids();
            // All it ever ordered is applied: the first thing a leader orders comes after everything before it.
            replica.raft().is_leader()
                && voters.all(|voter| voter == replica.id().0)
                && metrics
                    .last_applied
                    .is_some_and(|applied| applied.leader_id.term == metrics.current_term)
        };
        let read = rules_alone.then(|| replica.state().read(machines::master_state));
        let is_of_before = matches!(read, Some(Ok(state)) if state.header.last_node < highest);
        is_of_before && !cfg!(planted = "old_self_reigns")
    }
}
