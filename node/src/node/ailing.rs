//! What a node does about a disk that lies or fails (P1, P10).
//!
//! Owns the answers: a damaged replica is retired, durably and for good, its bytes kept, while everything else goes on;
//! where nobody else could serve the node ends instead, as it does after a failed sync. What was verified after one is
//! suspect: it serves, and leaves the votes to others for a while. Deliberately rebuilds nothing: a retired or suspect
//! replica is replaced by another id, on the master's word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft_rt::watch::WatchReceiver;
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_store::disk::DiskError;

use super::{Node, NodeError};
use crate::health::{Damage, NodeEnd};
use crate::raft::replica::Replica;
use crate::retired::{self, Mark, Marked};
use crate::runtime::{Lane, Runtime};
use crate::store::Found;

/// A mark that found no room is written again after this.
const FULL_PAUSE: Duration = Duration::from_millis(500);

impl<R: Runtime> Node<R> {
    /// Replicas here that never speak again, and why.
    #[must_use]
    pub fn lost(&self) -> BTreeMap<(GroupId, ReplicaId), String> {
        self.inner.retired.lock().clone()
    }

    pub(super) fn is_retired(&self, group: GroupId, id: ReplicaId) -> bool {
        self.inner.retired.lock().contains_key(&(group, id)) && !cfg!(planted = "retired_speaks")
    }

    /// Whether a sync failed under a replica: it serves, and is to be replaced.
    #[must_use]
    pub fn is_suspect(&self, group: GroupId, id: ReplicaId) -> bool {
        self.inner.suspect.lock().contains_key(&(group, id))
    }

    /// Retires what this start found damaged; an error where nobody else could serve.
    pub(super) async fn retire_found(&self, found: &Found) -> Result<(), NodeError> {
        for (group, record) in self.inner.ground.state.records()? {
            if self.is_retired(group, record.replica) {
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
        let who = (group, id);
        self.inner.retired.lock().insert(who, what.to_owned());
        self.write_retired().await
    }

    async fn write_retired(&self) -> Result<(), NodeError> {
        let node = self.clone();
        let written = self.runtime().blocking(Lane::Checkpoint, move || {
            // Looked at in the lane's order: an older list must not come last.
            let mark = node.inner.retired.lock().clone();
            retired::write(&*node.inner.dir, Mark::Retired, &mark)
        });
        Ok(written.await?)
    }

    /// Whether a replica that was opened is suspect: a sync failed under it.
    pub(super) fn suspects(&self, opened: &Replica<R>, found: &Found) -> bool {
        let (group, replica) = (opened.group(), opened.id());
        let mut suspect = self.inner.suspect.lock();
        if let Some(why) = &found.poisoned
            && !cfg!(planted = "poison_forgotten")
        {
            tracing::warn!(%group, %replica, why, "a sync failed before this start: this replica was verified, and serves until it is replaced");
            suspect.insert((group, replica), why.clone());
        }
        suspect.contains_key(&(group, replica))
    }

    /// Everything was verified: who is suspect is written down, and then the poison is forgotten.
    pub(super) async fn note_suspects(&self, found: &Found) -> Result<(), NodeError> {
        let held: BTreeSet<_> = {
            let records = self.inner.ground.state.records()?;
            let held = records.into_iter();
            held.map(|(group, record)| (group, record.replica))
                .collect()
        };
        let suspect = {
            let mut suspect = self.inner.suspect.lock();
            suspect.retain(|id, _| held.contains(id));
            suspect.clone()
        };
        // After poison in any case: the list may have been damaged.
        if found.poisoned.is_some() || suspect != found.suspect {
            self.write_suspects(suspect).await?;
        }
        if let Some(why) = &found.poisoned {
            tracing::info!(
                why,
                "a sync failed before this start; everything here was verified"
            );
            retired::clear_poison(&*self.inner.dir)?;
        }
        Ok(())
    }

    async fn write_suspects(&self, suspect: Marked) -> Result<(), NodeError> {
        let dir = Arc::clone(&self.inner.dir);
        let written = self.runtime().blocking(Lane::Checkpoint, move || {
            retired::write(&*dir, Mark::Suspect, &suspect)
        });
        Ok(written.await?)
    }

    /// P10: a suspect replica ends when another is to take its place here.
    pub(super) async fn give_way(&self, group: GroupId, to: ReplicaId) -> Result<(), NodeError> {
        let Some(held) = self.replica(group).map(|held| held.id()) else {
            return Ok(());
        };
        if held >= to || !self.is_suspect(group, held) {
            return Ok(());
        }
        self.destroy_replica(group, held).await?;
        let left = {
            let mut suspect = self.inner.suspect.lock();
            suspect.remove(&(group, held));
            suspect.clone()
        };
        self.write_suspects(left).await
    }

    /// P1: a retired id is not made again; what the log still says of its group goes before another comes.
    pub(super) fn make_way(&self, group: GroupId, id: ReplicaId) -> Result<(), NodeError> {
        if self.lost().contains_key(&(group, id)) {
            return Err(NodeError::Retired(group, id));
        }
        // Also of one whose destruction was broken off: no replica, so nothing in the log counts.
        self.inner.ground.log.forget_group(group)?;
        Ok(())
    }

    /// Waits for what groups report of the disk, and acts on it.
    pub(super) async fn watch_health(self) {
        while !self.is_stopped() {
            self.health().news().await;
            for damage in self.health().take_damage() {
                self.lose(damage).await;
            }
            if let Some(end) = self.health().ended() {
                return self.fall_silent(&end).await;
            }
        }
    }

    /// A replica has met damage: it goes, unless nobody else could serve.
    async fn lose(&self, damage: Damage) {
        let Damage {
            group,
            told_of,
            what,
        } = damage;
        let Some(ailing) = self.group(group) else {
            return;
        };
        let replica = ailing.replica();
        if told_of.is_some_and(|id| id != replica.id()) {
            // Another has taken its place meanwhile.
            return;
        }
        let takes_itself_for_alone = cfg!(planted = "broken_takes_itself_for_alone");
        let alone = || {
            let metrics = replica.raft().metrics();
            let metrics = metrics.borrow_watched();
            let voters: Vec<_> = metrics.membership_config.voter_ids().collect();
            voters == [replica.id().0] || (voters.is_empty() && takes_itself_for_alone)
        };
        // Where somebody else leads it is not alone, whatever is left of its log says.
        if (told_of.is_none() || takes_itself_for_alone) && alone() {
            return self.health().end(NodeEnd::OnlyVoter { group, what });
        }
        // Silent first: the mark may take long on such a disk.
        self.inner.groups.lock().remove(&group);
        ailing.stop();
        replica.state().end();
        replica.close().await;
        let record = replica.state().record();
        self.inner.ground.state.keep_as_is(group, &record);
        self.inner.ground.log.give_up(group);
        match self.retire(group, replica.id(), &what).await {
            Ok(()) => {}
            Err(NodeError::Disk(DiskError::Full)) => {
                self.runtime()
                    .spawn(self.clone().retire_when_there_is_room());
            }
            Err(error) => self.health().end(NodeEnd::Poisoned(error.to_string())),
        }
    }

    /// A full disk is no failed one. Until the mark is written the replica is silent in this process; the next finds out
    /// again what this one did.
    async fn retire_when_there_is_room(self) {
        while !self.is_stopped() {
            self.runtime().sleep(FULL_PAUSE).await;
            match self.write_retired().await {
                Ok(()) => return,
                Err(NodeError::Disk(DiskError::Full)) => {}
                Err(error) => return self.health().end(NodeEnd::Poisoned(error.to_string())),
            }
        }
    }

    /// P10: a failed sync poisons the node: it answers nothing more, and says so to the next start.
    async fn fall_silent(&self, end: &NodeEnd) {
        self.links().stop();
        self.inner.ground.log.leave();
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
