//! Making the state durable, in the only order that is safe (P10, rules 2 and 4).
//!
//! ```text
//!   prepare: freeze what is pending; commits go on in a fresh generation over it
//!   caller:  syncs the log through plan.groups()
//!   commit:  log synced? ─▶ write fresh pages ─▶ sync data files ─▶ all of it in one durable redb commit ─▶ let it go
//!            ─▶ space dropped before the freeze is reusable
//! ```
//! Owns the order. What is frozen changes no more, so neither the log nor the data files need be chased. Deliberately
//! knows no clock: when a checkpoint is due (every second, 64 MiB of log, or much in memory) is the node's.

use std::collections::BTreeMap;
use std::sync::Arc;

use polyfs_core::ids::GroupId;
use redb::{Durability, ReadableTable, WriteTransaction};

use super::caught::Held;
use super::db::Inner;
use super::error::StoreError;
use super::layers::{Groups, Kept, Layers, Node, Pages, State};
use super::pending::Tables;
use super::record::{GroupRecord, NODE, Tag, seal, unseal};
use super::shelf::{Base, Turn};
use crate::disk::Dir;

/// The name, among the node's records, of the number of checkpoints so far: so each of them changes something.
const COUNT: &str = "checkpoints";

/// A checkpoint about to be made: what it will hold is frozen. Dropped, nothing has happened.
pub struct CheckpointPlan<D: Dir> {
    inner: Arc<Inner<D>>,
    groups: BTreeMap<GroupId, GroupRecord>,
    epoch: u64,
    settled: bool,
    // Ends when what was frozen is settled or thawed.
    _turn: Turn,
}

/// What is durable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The applied index of each group: its log may be purged up to here, and replay begins after it.
    pub applied: BTreeMap<GroupId, u64>,
}

impl<D: Dir> Drop for CheckpointPlan<D> {
    fn drop(&mut self) {
        if !self.settled && !std::thread::panicking() {
            self.inner.shelf().thaw();
        }
    }
}

impl<D: Dir> CheckpointPlan<D> {
    pub(super) fn prepare(inner: Arc<Inner<D>>) -> Result<Self, StoreError> {
        inner.poison.check()?;
        let turn = inner.checkpointing.take();
        // Between two batches: what is frozen is whole commits, and nobody's blocks are half taken.
        let writing = inner.writing.take();
        let (sight, epoch) = {
            let mut shelf = inner.shelf();
            // What was retired in an earlier epoch belongs to commits that this one makes durable.
            (shelf.freeze(), inner.data.freeze())
        };
        drop(writing);
        let mut plan = Self {
            inner,
            groups: BTreeMap::new(),
            epoch,
            settled: false,
            _turn: turn,
        };
        let layers = Layers {
            inner: &plan.inner,
            own: None,
            sight: &sight,
        };
        plan.groups = layers.groups()?.into_iter().collect();
        Ok(plan)
    }

    /// What is kept of each group; its log must be synced through the applied index.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<GroupId, GroupRecord> {
        &self.groups
    }

    /// Makes everything durable that was committed before the plan was made. `log_synced` says through which index a
    /// group's log is.
    ///
    /// # Errors
    /// `CheckpointAheadOfLog` when a log is behind its state: nothing has become durable, sync it and plan again.
    /// Failures of the disk poison the store.
    pub fn commit(mut self, log_synced: impl Fn(GroupId) -> u64) -> Result<Checkpoint, StoreError> {
        self.inner.poison.check()?;
        for (&group, &GroupRecord { applied, .. }) in &self.groups {
            let synced = log_synced(group);
            if synced < applied && !cfg!(planted = "checkpoint_ahead_of_log") {
                return Err(StoreError::CheckpointAheadOfLog {
                    group,
                    applied,
                    synced,
                });
            }
        }
        self.inner.data.write_fresh()?;
        if !cfg!(planted = "data_unsynced_at_checkpoint") {
            self.inner.data.sync_files()?;
        }
        let base = self.inner.write_frozen()?;
        self.settled = true;
        let gone = self.inner.shelf().settle(base);
        drop(gone);
        self.inner.data.durable_through(self.epoch);
        let groups = std::mem::take(&mut self.groups).into_iter();
        Ok(Checkpoint {
            applied: groups
                .map(|(group, record)| (group, record.applied))
                .collect(),
        })
    }
}

impl<D: Dir> Inner<D> {
    /// Writes the frozen generation in one durable commit; returns the tables with it.
    fn write_frozen(&self) -> Result<Base, StoreError> {
        let frozen = self.shelf().frozen();
        let txn = self.ask(|| self.database.begin_write())?;
        let mut txn = Held::new(txn, &self.poison);
        self.ask(|| {
            txn.set_quick_repair(true);
            txn.set_durability(Durability::Immediate)
        })?;
        if let Some(frozen) = frozen {
            let tables = frozen.read();
            self.write_table::<State>(&txn, &tables)?;
            self.write_table::<Pages>(&txn, &tables)?;
            self.write_table::<Groups>(&txn, &tables)?;
            self.write_table::<Node>(&txn, &tables)?;
        }
        self.count(&txn)?;
        self.ask(|| txn.into_inner().commit())?;
        Base::open(&self.database, &self.poison)
    }

    fn write_table<K: Kept>(
        &self,
        txn: &WriteTransaction,
        tables: &Tables,
    ) -> Result<(), StoreError> {
        let mut stored = Held::new(self.ask(|| txn.open_table(K::TABLE))?, &self.poison);
        for (key, value) in K::layer(tables).newest() {
            match value {
                Some(value) => {
                    let sealed = K::encode(value, |bytes| seal(K::TAG, key, bytes));
                    self.ask(|| stored.insert(&key[..], &sealed[..]).map(drop))?;
                }
                None => self.ask(|| stored.remove(&key[..]).map(drop))?,
            }
        }
        Ok(())
    }

    fn count(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut table = Held::new(self.ask(|| txn.open_table(NODE))?, &self.poison);
        let key = COUNT.as_bytes();
        let count = self.ask_all(|| {
            let stored = table.get(key).map_err(|error| self.failed(error))?;
            let bytes = stored
                .as_ref()
                .map(|stored| unseal(Tag::Node, key, stored.value()));
            let bytes = bytes.transpose()?.and_then(|bytes| bytes.try_into().ok());
            Ok(bytes.map_or(0, u64::from_le_bytes) + 1)
        })?;
        let sealed = seal(Tag::Node, key, &count.to_le_bytes());
        self.ask(|| table.insert(key, &sealed[..]).map(drop))
    }

    /// What a database does that makes pending commits durable when it is dropped: rule 5 planted.
    pub(super) fn spill(&self) {
        if self.shelf().frozen().is_none() {
            self.shelf().freeze();
        }
        let _ = self.write_frozen();
    }
}
