//! What a node does about a disk that lies or fails (P1, P10).
//!
//! Owns the answers: a damaged replica is retired, durably and for good, its bytes kept, while everything else goes on;
//! where nobody else could serve the node ends instead, as it does after a failed sync. Deliberately rebuilds nothing: a
//! retired replica is replaced by another id, on the master's word.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft_rt::watch::WatchReceiver;
use polyfs_core::ids::{GroupId, ReplicaId};

use super::{Node, NodeError};
use crate::health::NodeEnd;
use crate::raft::replica::Replica;
use crate::retired;
use crate::runtime::{Lane, Runtime};
use crate::store::Found;

impl<R: Runtime> Node<R> {
    /// Replicas here that never speak again, or not until they are replaced, and why.
    #[must_use]
    pub fn lost(&self) -> BTreeMap<(GroupId, ReplicaId), String> {
        let mut lost = self.inner.retired.lock().replicas.clone();
        lost.extend(self.inner.silenced.lock().clone());
        lost
    }

    /// Retires what this start found damaged; an error where nobody else could serve.
    pub(super) async fn retire_found(&self, found: &Found) -> Result<(), NodeError> {
        for (group, record) in self.inner.ground.state.records()? {
            if self.inner.retired.lock().has(group, record.replica) {
                continue;
            }
            let what = found.logs.get(&group);
            let Some(what) = what.or_else(|| found.lineages.get(&record.lineage)) else {
                continue;
            };
            let voters: Vec<_> = record.membership.voter_ids().collect();
            if voters.is_empty() || voters == [record.replica.0] {
                let what = what.clone();
                return Err(NodeEnd::OnlyVoter { group, what }.into());
            }
            self.retire(group, record.replica, what).await?;
        }
        Ok(())
    }

    /// Writes down, for good, that a replica never speaks again.
    async fn retire(&self, group: GroupId, id: ReplicaId, what: &str) -> Result<(), NodeError> {
        tracing::warn!(%group, replica = %id, what, "stored bytes of a replica are damaged: it is retired, its bytes are kept; the group's other replicas serve, and another has to be placed");
        let mark = {
            let mut retired = self.inner.retired.lock();
            retired.replicas.insert((group, id), what.to_owned());
            retired.clone()
        };
        let dir = Arc::clone(&self.inner.dir);
        let written = self
            .runtime()
            .blocking(Lane::Checkpoint, move || mark.write(&*dir));
        Ok(written.await?)
    }

    /// A replica whose disk failed a sync says nothing: others may count on what it has lost. It is kept, unopened.
    pub(super) async fn silence(&self, replica: &Replica<R>, why: &str) {
        let (group, id) = (replica.group(), replica.id());
        tracing::warn!(%group, replica = %id, why, "a sync failed before this start: this replica stays silent until it is replaced");
        replica.close().await;
        let record = replica.state().record();
        self.inner.ground.state.keep_as_is(group, &record);
        self.inner
            .silenced
            .lock()
            .insert((group, id), why.to_owned());
    }

    /// Everything was verified, and nobody has to stay silent: the poison is forgotten.
    pub(super) fn unpoison(&self, found: &Found) -> Result<(), NodeError> {
        if let Some(why) = &found.poisoned
            && self.inner.silenced.lock().is_empty()
        {
            tracing::info!(
                why,
                "a sync failed before this start; everything here was verified"
            );
            retired::clear_poison(&*self.inner.dir)?;
        }
        Ok(())
    }

    /// P1: a retired id is not made again; what the log still says of its group goes before another comes.
    pub(super) fn make_way(&self, group: GroupId, id: ReplicaId) -> Result<(), NodeError> {
        let lost = self.lost();
        if lost.contains_key(&(group, id)) {
            return Err(NodeError::Retired(group, id));
        }
        // Also of one whose destruction was broken off: no replica, so nothing in the log counts.
        self.inner.ground.log.forget_group(group)?;
        if lost.keys().any(|(of, _)| *of == group) {
            self.inner.silenced.lock().retain(|(of, _), _| *of != group);
        }
        Ok(())
    }

    /// Waits for what groups report of the disk, and acts on it.
    pub(super) async fn watch_health(self) {
        while !self.is_stopped() {
            self.health().news().await;
            for (group, what) in self.health().take_corrupt() {
                self.lose(group, &what).await;
            }
            if let Some(end) = self.health().ended() {
                return self.fall_silent(&end).await;
            }
        }
    }

    /// A replica has met damage: it goes, unless nobody else could serve.
    async fn lose(&self, group: GroupId, what: &str) {
        let Some(ailing) = self.group(group) else {
            return;
        };
        let replica = ailing.replica();
        let alone = {
            let metrics = replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            let mut voters = metrics.membership_config.voter_ids();
            voters.all(|voter| voter == replica.id().0)
        };
        if alone {
            let what = what.to_owned();
            return self.health().end(NodeEnd::OnlyVoter { group, what });
        }
        // Silent first: the mark may take long on such a disk.
        self.inner.groups.lock().remove(&group);
        ailing.stop();
        replica.close().await;
        let record = replica.state().record();
        self.inner.ground.state.keep_as_is(group, &record);
        if let Err(error) = self.retire(group, replica.id(), what).await {
            self.health().end(NodeEnd::Poisoned(error.to_string()));
        }
    }

    /// P10: a failed sync poisons the node: it answers nothing more, and says so to the next start.
    async fn fall_silent(&self, end: &NodeEnd) {
        self.links().stop();
        for group in self.groups() {
            group.stop();
            group.replica().close().await;
        }
        if let NodeEnd::Poisoned(why) = end {
            let (dir, why) = (Arc::clone(&self.inner.dir), why.clone());
            let written = self
                .runtime()
                .blocking(Lane::Checkpoint, move || retired::write_poison(&*dir, &why));
            if let Err(error) = written.await {
                tracing::warn!(%error, "not even the file POISON could be written");
            }
        }
        self.stop().await;
        self.health().silent();
    }

    /// A replica that never speaks again keeps its bytes, but not at the price of a log without room: its state stays,
    /// its records go.
    pub(super) fn drop_lost_logs(&self) {
        for group in self.inner.ground.log.holders() {
            if self.group(group).is_none() && self.lost().keys().any(|(of, _)| *of == group) {
                tracing::warn!(%group, "the log needs room: the records of a lost replica are dropped, its state is kept");
                // A log that has failed needs no room.
                let _ = self.inner.ground.log.forget_group(group);
            }
        }
    }

    /// Any failure of a checkpoint but a full disk ends the node, sooner or later by itself: then now.
    pub(super) fn checkpoint_failed(&self, error: &NodeError) {
        tracing::warn!(%error, "no checkpoint");
        if let NodeError::State(error)
        | NodeError::Checkpoint(crate::raft::state::CheckpointError::Store(error)) = error
        {
            self.health().node_failed(error);
        }
        if let Some(why) = self.inner.ground.state.poisoned() {
            self.health().end(NodeEnd::Poisoned(why));
        }
    }
}
