//! What the master tells a node to do with its replicas.
//!
//! Owns the carrying out of directives, each idempotent and one at a time for a group, and the end of a replica.
//! Deliberately decides nothing: one that no longer fits is ignored, and comes again while it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft_rt::watch::WatchReceiver;
use polyfs_core::codec;
use polyfs_core::ids::{GroupId, Lineage, NodeId, ReplicaId};
use polyfs_core::master::controller::Directive;
use polyfs_store::state::StoreError;
use serde::{Deserialize, Serialize};

use super::{Node, NodeError, Peers};
use crate::heartbeat::leader_report;
use crate::raft::replica::Replica;
use crate::runtime::Runtime;
use crate::store::Found;

/// The name of the record that keeps what is gone.
const GONE: &str = "gone";
/// How often it is looked whether a log has been shortened, and how long at most.
const SHORTEN_LOOK: Duration = Duration::from_millis(20);
const SHORTEN_LOOKS: u32 = 100;

/// Which replicas were destroyed here: none of them comes back (P1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Gone {
    /// The highest destroyed replica of each group; ids rise.
    replicas: BTreeMap<GroupId, ReplicaId>,
    /// Lineages whose keys are being deleted.
    lineages: BTreeSet<Lineage>,
}

impl Gone {
    fn decode(bytes: Option<Vec<u8>>) -> Result<Self, StoreError> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        Ok(codec::decode_versioned("gone", 1, &bytes)?)
    }
}

/// A change of the record.
fn changed(
    change: impl FnOnce(&mut Gone),
) -> impl FnOnce(Option<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
    |bytes| {
        let mut gone = Gone::decode(bytes)?;
        change(&mut gone);
        Ok(codec::encode_versioned(1, &gone))
    }
}

/// The group a directive is about.
const fn group_of(directive: &Directive) -> GroupId {
    match directive {
        Directive::CreateReplica { group, .. }
        | Directive::DestroyReplica { group, .. }
        | Directive::AddLearner { group, .. }
        | Directive::ChangeVoters { group, .. }
        | Directive::RemoveLearner { group, .. }
        | Directive::TransferLeader { group, .. } => *group,
    }
}

impl<R: Runtime> Node<R> {
    /// Begins to carry out directives. A group that is still busy with an earlier one ignores the new one.
    pub fn obey(&self, directives: Vec<Directive>) {
        for directive in directives {
            let group = group_of(&directive);
            if !self.inner.busy.lock().insert(group) {
                continue;
            }
            let node = self.clone();
            self.runtime().spawn(async move {
                tracing::debug!(?directive, "carrying out");
                if let Err(error) = node.carry_out(directive).await {
                    tracing::warn!(%group, %error, "a directive could not be carried out");
                }
                node.inner.busy.lock().remove(&group);
            });
        }
    }

    async fn carry_out(&self, directive: Directive) -> Result<(), NodeError> {
        match directive {
            Directive::CreateReplica { group, replica } => self.create_blank(group, replica).await,
            Directive::DestroyReplica { group, replica } => {
                self.destroy_replica(group, replica).await
            }
            Directive::AddLearner {
                group,
                replica,
                node,
            } => self.add_learner(group, replica, node).await,
            Directive::ChangeVoters {
                group,
                from,
                voters,
            } => {
                self.change_voters(group, &from, &voters).await;
                Ok(())
            }
            Directive::RemoveLearner { group, replica } => {
                if let Some(leader) = self.replica(group) {
                    let gone = BTreeSet::from([replica.0]);
                    let change = ChangeMembers::RemoveNodes(gone);
                    let changed = leader.raft().change_membership(change, false).await;
                    // It comes again while it is needed.
                    drop(changed.inspect_err(|error| tracing::debug!(%group, %error, "not yet")));
                }
                Ok(())
            }
            Directive::TransferLeader { group, to } => {
                if let Some(leader) = self.replica(group) {
                    let _ = leader.raft().trigger().transfer_leader(to.0).await;
                }
                Ok(())
            }
        }
    }

    /// A replica that waits for its leader, unless it was destroyed here before (P1): the directive may be late.
    async fn create_blank(&self, group: GroupId, replica: ReplicaId) -> Result<(), NodeError> {
        let gone = self.gone()?.replicas.get(&group).copied();
        let is_gone = gone.is_some_and(|gone| replica <= gone);
        if is_gone && !cfg!(planted = "destroyed_replica_created_again") {
            return Ok(());
        }
        self.give_way(group, replica).await?;
        if self.replica(group).is_some() {
            return Ok(());
        }
        self.create_replica(group, replica, |_| Ok(())).await?;
        Ok(())
    }

    async fn add_learner(
        &self,
        group: GroupId,
        replica: ReplicaId,
        node: NodeId,
    ) -> Result<(), NodeError> {
        let Some(leader) = self.replica(group) else {
            return Ok(());
        };
        let replicas = BTreeMap::from([((group, replica), node)]);
        self.learn(&Peers {
            replicas,
            ..Peers::default()
        })
        .await?;
        if !self.give_by_snapshot(&leader).await? {
            return Ok(());
        }
        let added = leader.raft().add_learner(replica.0, (), false).await;
        // It comes again while it is needed.
        drop(added.inspect_err(|error| tracing::debug!(%group, %error, "not yet")));
        Ok(())
    }

    /// What a founding wrote is in no log: a blank replica must begin with a snapshot, so the log's first entries go
    /// before one is added. Whether they are gone.
    async fn give_by_snapshot(&self, leader: &Replica<R>) -> Result<bool, NodeError> {
        let is_purged = || {
            let metrics = leader.raft().metrics();
            metrics.borrow_watched().purged.is_some()
        };
        if is_purged() || cfg!(planted = "blank_replica_fed_by_log") {
            return Ok(true);
        }
        self.checkpoint().await?;
        let applied = leader.raft().metrics().borrow_watched().last_applied;
        let Some(applied) = applied.map(|id| id.index()) else {
            return Ok(false);
        };
        // A replica that is stopping needs no shorter log.
        let _ = leader.raft().trigger().snapshot().await;
        for _ in 0..SHORTEN_LOOKS {
            if is_purged() {
                return Ok(true);
            }
            let snapshot = leader.raft().metrics().borrow_watched().snapshot;
            if let Some(snapshot) = snapshot {
                let upto = snapshot.index().min(applied);
                let _ = leader.raft().trigger().purge_log(upto).await;
            }
            self.runtime().sleep(SHORTEN_LOOK).await;
        }
        Ok(is_purged())
    }

    /// One joint change, if it still fits; a joint change left behind is finished.
    async fn change_voters(
        &self,
        group: GroupId,
        from: &BTreeSet<ReplicaId>,
        voters: &BTreeSet<ReplicaId>,
    ) {
        let Some(leader) = self.replica(group) else {
            return;
        };
        if !leader_report(&leader).is_some_and(|report| report.may_change(from, voters)) {
            return;
        }
        let goal: BTreeSet<u64> = voters.iter().map(|replica| replica.0).collect();
        let changed = leader.raft().change_membership(goal, false).await;
        if let Err(error) = changed {
            tracing::debug!(%group, %error, "the voters are not changed yet");
        }
    }

    /// Ends a replica for good: its state and log go, its id never comes back (P1). Whatever a crash leaves is cleared
    /// away at the next start.
    ///
    /// # Errors
    /// Failures of log and state.
    pub async fn destroy_replica(
        &self,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<(), NodeError> {
        let held = {
            let mut groups = self.inner.groups.lock();
            match groups.get(&group) {
                Some(held) if held.replica().id() == replica => groups.remove(&group),
                Some(_) | None => None,
            }
        };
        let Some(held) = held else { return Ok(()) };
        held.stop();
        held.replica().state().end();
        held.replica().close().await;
        let ground = &self.inner.ground;
        let lineage = held.replica().state().record().lineage;
        let note = |gone: &mut Gone| {
            gone.replicas.insert(group, replica);
            gone.lineages.insert(lineage);
        };
        ground.state.remove(group, GONE, changed(note)).await?;
        // The state first: a state without its log would have forgotten its vote.
        // Nobody takes up again what was given up here.
        let wanted = || !self.is_stopped();
        ground.state.checkpoint_in_time(&ground.log, wanted).await?;
        ground.log.forget_group_durably(group).await?;
        self.runtime().spawn(self.clone().delete_lineage(lineage));
        Ok(())
    }

    fn gone(&self) -> Result<Gone, NodeError> {
        Ok(Gone::decode(self.inner.ground.state.get_node(GONE)?)?)
    }

    async fn delete_lineage(self, lineage: Lineage) {
        let ground = &self.inner.ground;
        if !ground.state.delete_lineage(self.runtime(), lineage).await {
            return;
        }
        let forget = |gone: &mut Gone| {
            gone.lineages.remove(&lineage);
        };
        if let Err(error) = ground.state.update_node(GONE, changed(forget)).await {
            tracing::warn!(%error, "a deleted lineage is still noted");
        }
    }

    /// Lineages that no replica here stands on: of snapshots on their way in, and what is being deleted.
    ///
    /// # Errors
    /// When the state can't be read.
    pub fn unused_lineages(&self) -> Result<BTreeSet<Lineage>, NodeError> {
        Ok(self.inner.ground.state.unused_lineages()?)
    }

    /// Goes on with what a crash interrupted.
    pub(super) fn clear_away(&self, found: &Found) -> Result<(), NodeError> {
        let gone = self.gone()?;
        let state = &self.inner.ground.state;
        for lineage in self.unused_lineages()? {
            // Of a damaged one it can't be told what it refers to: its bytes are kept.
            if !gone.lineages.contains(&lineage) && !found.lineages.contains_key(&lineage) {
                tracing::info!(%lineage, "what a crash left behind is cleared away");
                state.forget_lineage(self.runtime(), lineage);
            }
        }
        let lost = self.lost();
        for group in gone.replicas.keys() {
            // What a retired replica has is kept, an earlier one's end or not.
            let keeps = lost.keys().any(|(of, _)| of == group);
            if self.replica(*group).is_none() && !keeps {
                self.inner.ground.log.forget_group(*group)?;
            }
        }
        for lineage in gone.lineages {
            self.runtime().spawn(self.clone().delete_lineage(lineage));
        }
        Ok(())
    }
}
