//! The state of all groups on this node, and how entries reach it.
//!
//! Owns apply: a batch of entries is one commit, in memory, which carries the applied log id and the membership with it;
//! and, in a file of its own, the checkpoint, which makes commits durable (P10, rules 2 and 4). Deliberately knows no
//! command: a [`Machine`] does.

mod apply;
mod checkpoint;
mod fetched;
mod reads;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use polyfs_core::codec;
use polyfs_core::ids::{GroupId, Lineage, ReplicaId};
use polyfs_core::region::kv::{Kv, KvError, KvRead};
use polyfs_core::request::Leadership;
use polyfs_core::time::Now;
use polyfs_store::state::{GroupRecord, SpaceLevel, StateDb, StoreError};
use polyfs_store::wal::{LogError, Pressure};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::inodes::Inodes;
use super::kv::BatchKv;
use super::log_driver::SharedLog;
use super::snapshot::Snapshot;
use super::types::{
    GroupApplied, GroupCommand, LogId, SnapshotMeta, StoredMembership, TypeConfig, entry_bytes,
};
use crate::group::Leading;
use crate::node::Room;
use crate::notify::Bell;
use crate::runtime::{Lane, Runtime};

pub use checkpoint::CheckpointError;
pub(crate) use fetched::{Fetched, Part, Waiting};
pub(crate) use reads::ChunkPart;

/// Entries applied in one commit at most ...
const BATCH_ENTRIES_MAX: usize = 256;
/// ... and their bytes.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Keys of an old lineage deleted in one commit, and the pause between two.
const FORGET_AT_ONCE: usize = 512;
const FORGET_PAUSE: Duration = Duration::from_millis(20);
/// With so many bytes of state in memory alone a checkpoint is made at once ...
const PENDING_BYTES_ASK: usize = 32 << 20;
/// ... and with so many commits wait for it, by such pauses ...
const PENDING_BYTES_MAX: usize = 4 * PENDING_BYTES_ASK;
const PENDING_PAUSE: Duration = Duration::from_millis(10);
/// ... but no more than so many: whatever keeps the checkpoint may be waiting for a commit.
const PENDING_PAUSES: u32 = 100;
/// The version of [`ReplicaRecord`]'s encoding.
const RECORD_VERSION: u8 = 1;

/// What a group's entries do: a pure function of state and entry.
pub trait Machine: Send + Sync + 'static {
    /// Applies one command.
    ///
    /// # Errors
    /// Only when the store fails: the replica stops then. What an entry may not do is an answer, not an error.
    fn apply(&self, kv: &mut dyn Kv, command: &GroupCommand) -> Result<GroupApplied, KvError>;

    /// What this group's leader does besides; `None` when nothing.
    ///
    /// # Errors
    /// When the state can't be read.
    fn lead(
        &self,
        leadership: Leadership,
        seed: u64,
        now: Now,
        state: &dyn KvRead,
    ) -> Result<Option<Box<dyn Leading>>, KvError> {
        let _ = (leadership, seed, now, state);
        Ok(None)
    }
}

/// What is kept of a replica beside its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Who it is in its group (P1).
    pub replica: ReplicaId,
    /// What its keys begin with (P5).
    pub lineage: Lineage,
    /// The last entry its state contains.
    pub applied: Option<LogId>,
    /// The last membership among those.
    pub membership: StoredMembership,
}

impl ReplicaRecord {
    /// A replica that has nothing yet.
    #[must_use]
    pub fn blank(replica: ReplicaId, lineage: Lineage) -> Self {
        Self {
            replica,
            lineage,
            applied: None,
            membership: StoredMembership::default(),
        }
    }

    pub(super) fn decode(record: &GroupRecord) -> Result<Self, StoreError> {
        let decoded = codec::decode_versioned("replica record", RECORD_VERSION, &record.bytes);
        Ok(decoded?)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode_versioned(RECORD_VERSION, self)
    }

    pub(super) fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index())
    }

    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }
}

/// The state of all groups on this node. Cheap to clone.
pub struct SharedState<R: Runtime> {
    inner: Arc<Inner<R>>,
}

struct Inner<R: Runtime> {
    runtime: R,
    db: StateDb<R::Dir>,
    /// Applies take turns with each other and with a checkpoint's beginning; whoever waits does so without holding a
    /// thread.
    turn: futures::lock::Mutex<()>,
    /// Rung when much state is in memory alone.
    crowded: Bell,
    /// One checkpoint at a time: whoever asks for one is answered when what it means is durable, not when somebody else
    /// has begun to see to it.
    checkpointing: futures::lock::Mutex<()>,
    changed: AtomicBool,
    /// The disk is full but for the reserve (P10).
    reserve_only: AtomicBool,
    /// The most this node offers for file data, bytes; `u64::MAX`: whatever the disk has.
    capacity: AtomicU64,
    /// What the last checkpoint made durable of each replica: nothing else may be reported to openraft as snapshot.
    durable: Mutex<BTreeMap<GroupId, ReplicaRecord>>,
    /// Applied indexes that came by snapshot: no log led there.
    by_snapshot: Mutex<BTreeMap<GroupId, u64>>,
    /// How many files of the log are noted: fewer at a start are a loss.
    log_segments: AtomicUsize,
}

impl<R: Runtime> Clone for SharedState<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<R: Runtime> SharedState<R> {
    /// Takes an opened database into use. What it holds now is durable.
    ///
    /// # Errors
    /// When what it says of a group can't be read.
    pub fn new(runtime: R, db: StateDb<R::Dir>) -> Result<Self, StoreError> {
        let mut durable = BTreeMap::new();
        for (group, record) in db.view()?.groups()? {
            durable.insert(group, ReplicaRecord::decode(&record)?);
        }
        let inner = Inner {
            runtime,
            db,
            turn: futures::lock::Mutex::new(()),
            crowded: Bell::default(),
            checkpointing: futures::lock::Mutex::new(()),
            changed: AtomicBool::new(false),
            reserve_only: AtomicBool::new(false),
            capacity: AtomicU64::new(u64::MAX),
            durable: Mutex::new(durable),
            by_snapshot: Mutex::default(),
            log_segments: AtomicUsize::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub(super) fn db(&self) -> &StateDb<R::Dir> {
        &self.inner.db
    }

    pub(super) fn mark_changed(&self) {
        self.inner.changed.store(true, Ordering::Release);
        let db = &self.inner.db;
        if db.pending_bytes() > PENDING_BYTES_ASK || db.pages_crowd() {
            self.inner.crowded.ring();
        }
    }

    /// Waits until much state is in memory alone: a checkpoint is due; for one task.
    pub async fn crowded(&self) {
        self.inner.crowded.rung().await;
    }

    /// Waits for the turn to commit: one commit is made at a time, and none while a checkpoint freezes what there is.
    /// When memory holds far more than it should, the checkpoint that is due goes first.
    pub(super) async fn turn(&self) -> futures::lock::MutexGuard<'_, ()> {
        for _ in 0..PENDING_PAUSES {
            if self.inner.db.pending_bytes() <= PENDING_BYTES_MAX {
                break;
            }
            self.inner.crowded.ring();
            self.inner.runtime.sleep(PENDING_PAUSE).await;
        }
        self.inner.turn.lock().await
    }

    /// Offers at most `bytes` for file data, however large the disk is.
    pub fn offer_at_most(&self, bytes: u64) {
        self.inner.capacity.store(bytes, Ordering::Release);
    }

    /// Room for file data: what the data files hold free, and what the disk still has, less the reserve; at most what
    /// the node offers.
    #[must_use]
    pub fn room(&self) -> Room {
        let usage = self.inner.db.data().usage();
        let disk = self.inner.db.reserve().free_beyond().unwrap_or(0);
        let capacity = self.inner.capacity.load(Ordering::Acquire);
        let free = usage.free - usage.holes + disk;
        Room {
            total: (usage.used + free).min(capacity),
            free: free.min(capacity.saturating_sub(usage.used)),
        }
    }

    /// Bytes of file data that are kept for the log (or a reader) alone: overwritten or deleted since.
    #[must_use]
    pub fn kept_by_log(&self) -> u64 {
        self.inner.db.data().usage().kept
    }

    /// Looks how full the disk is; when it has room again the reserve is filled up first. Cheap while there is room. A
    /// node that holds all it offers is as full.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn look_at_space(&self) -> Result<(), StoreError> {
        let mut level = self.inner.db.space_level()?;
        if level == SpaceLevel::Reserve {
            let db = self.inner.db.clone();
            let filled = self.inner.runtime.blocking(Lane::Checkpoint, move || {
                db.refill_reserve()?;
                db.space_level()
            });
            level = filled.await?;
        }
        let full = (level == SpaceLevel::Reserve || self.room().free == 0)
            && !cfg!(planted = "reserve_ignored");
        if self.inner.reserve_only.swap(full, Ordering::AcqRel) != full {
            tracing::warn!(
                full,
                "the disk is full but for the reserve, or has room again"
            );
        }
        Ok(())
    }

    /// Whether the disk is full but for the reserve: only what frees space is taken (P10).
    #[must_use]
    pub fn reserve_only(&self) -> bool {
        self.inner.reserve_only.load(Ordering::Acquire)
    }

    /// What is kept of a replica; `None` when the state has no such group.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn record(&self, group: GroupId) -> Result<Option<ReplicaRecord>, StoreError> {
        let record = self.inner.db.view()?.get_group(group)?;
        record
            .map(|record| ReplicaRecord::decode(&record))
            .transpose()
    }

    /// What is kept of all replicas.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn records(&self) -> Result<Vec<(GroupId, ReplicaRecord)>, StoreError> {
        let groups = self.inner.db.view()?.groups()?;
        let decode = |(group, record)| Ok((group, ReplicaRecord::decode(&record)?));
        groups.into_iter().map(decode).collect()
    }

    /// A record of the node itself.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn get_node(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.view()?.get_node(name)
    }

    /// Sets a record of the node itself; durable with the next checkpoint.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn set_node(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let _turn = self.turn().await;
        self.write_node(name, bytes)
    }

    /// The same for whoever has the turn.
    fn write_node(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut batch = self.inner.db.begin()?;
        batch.set_node(name, bytes)?;
        batch.commit()?;
        self.mark_changed();
        Ok(())
    }

    /// Changes a record of the node itself; durable with the next checkpoint.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn update_node(
        &self,
        name: &str,
        change: impl FnOnce(Option<Vec<u8>>) -> Result<Vec<u8>, StoreError> + Send,
    ) -> Result<(), StoreError> {
        let _turn = self.turn().await;
        let mut batch = self.inner.db.begin()?;
        let bytes = change(batch.get_node(name)?)?;
        batch.set_node(name, &bytes)?;
        batch.commit()?;
        self.mark_changed();
        Ok(())
    }

    /// Removes a group, and changes a record of the node in the same commit. Its lineage's keys stay until deleted.
    /// Durable with the next checkpoint.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn remove(
        &self,
        group: GroupId,
        name: &str,
        change: impl FnOnce(Option<Vec<u8>>) -> Result<Vec<u8>, StoreError> + Send,
    ) -> Result<(), StoreError> {
        let _turn = self.turn().await;
        let mut batch = self.inner.db.begin()?;
        let bytes = change(batch.get_node(name)?)?;
        batch.delete_group(group)?;
        batch.set_node(name, &bytes)?;
        batch.commit()?;
        self.inner.durable.lock().remove(&group);
        self.inner.by_snapshot.lock().remove(&group);
        self.mark_changed();
        Ok(())
    }

    /// Deletes what is left of a lineage that nobody uses any more, beside everything else (P5).
    pub(crate) fn forget_lineage(&self, runtime: &R, lineage: Lineage) {
        let (state, pause) = (self.clone(), runtime.clone());
        runtime.spawn(async move {
            state.delete_lineage(&pause, lineage).await;
        });
    }

    /// Lineages that no replica stands on: what a crash left of a snapshot on its way in, of one that was replaced, or of
    /// a replica that another came for. Only before anything is received.
    ///
    /// # Errors
    /// When the state can't be read.
    pub fn unused_lineages(&self) -> Result<BTreeSet<Lineage>, StoreError> {
        let mut unused = self.inner.db.view()?.lineages()?;
        for (_, record) in self.records()? {
            unused.remove(&record.lineage);
        }
        Ok(unused)
    }

    /// Deletes what is left of a lineage that nobody uses any more, a little at a time (P5); false when that failed.
    pub async fn delete_lineage(&self, runtime: &R, lineage: Lineage) -> bool {
        loop {
            {
                let _turn = self.turn().await;
                let deleted = self.inner.db.begin().and_then(|mut batch| {
                    let done = batch.delete_lineage(lineage, FORGET_AT_ONCE)?;
                    batch.commit()?;
                    Ok(done)
                });
                self.mark_changed();
                match deleted {
                    Ok(false) => {}
                    Ok(true) => return true,
                    Err(error) => {
                        tracing::warn!(%error, "a lineage is not deleted");
                        return false;
                    }
                }
            }
            runtime.sleep(FORGET_PAUSE).await;
        }
    }

    /// What the last checkpoint made durable of a replica.
    pub(super) fn durable(&self, group: GroupId) -> Option<ReplicaRecord> {
        self.inner.durable.lock().get(&group).cloned()
    }

    /// A replica that never speaks again keeps its state as it is: no log has to lead there.
    pub fn keep_as_is(&self, group: GroupId, record: &ReplicaRecord) {
        let mut kept = self.inner.by_snapshot.lock();
        kept.insert(group, record.applied_index());
    }

    /// Why nothing more is to be believed of the state, if so (P10).
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.inner.db.poisoned()
    }

    /// Sets what is kept of a replica, together with its first state. Durable with the next checkpoint.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn create(
        &self,
        group: GroupId,
        record: &ReplicaRecord,
        fill: impl FnOnce(&mut dyn Kv) -> Result<(), KvError> + Send,
    ) -> Result<(), CreateError> {
        let _turn = self.turn().await;
        let mut batch = self.inner.db.begin()?;
        fill(&mut BatchKv::new(batch.lineage(record.lineage)?))?;
        batch.set_group(group, record.applied_index(), &record.encode())?;
        batch.commit()?;
        self.mark_changed();
        Ok(())
    }
}

/// Why a replica's first state could not be set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CreateError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state.
    #[error(transparent)]
    State(#[from] KvError),
}

/// One group's state machine, as openraft wants it.
pub struct GroupState<R: Runtime> {
    pub(super) shared: SharedState<R>,
    pub(super) log: SharedLog<R>,
    pub(super) group: GroupId,
    machine: Arc<dyn Machine>,
    record: Arc<Mutex<ReplicaRecord>>,
    pub(super) inodes: Arc<Inodes>,
    waiting: Arc<Waiting>,
    in_use: Arc<AtomicBool>,
    lacks_room: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl<R: Runtime> Clone for GroupState<R> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            log: self.log.clone(),
            group: self.group,
            machine: Arc::clone(&self.machine),
            record: Arc::clone(&self.record),
            inodes: Arc::clone(&self.inodes),
            waiting: Arc::clone(&self.waiting),
            in_use: Arc::clone(&self.in_use),
            lacks_room: Arc::clone(&self.lacks_room),
            ended: Arc::clone(&self.ended),
        }
    }
}

impl<R: Runtime> GroupState<R> {
    /// The state machine of a replica whose record is `record`.
    #[must_use]
    pub fn new(
        shared: SharedState<R>,
        log: SharedLog<R>,
        group: GroupId,
        machine: Arc<dyn Machine>,
        record: ReplicaRecord,
    ) -> Self {
        Self {
            shared,
            log,
            group,
            machine,
            record: Arc::new(Mutex::new(record)),
            inodes: Arc::default(),
            waiting: Arc::default(),
            in_use: Arc::default(),
            lacks_room: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Who votes in the group, as applied.
    pub(super) fn voters(&self) -> Vec<ReplicaId> {
        let record = self.record.lock();
        record.membership.voter_ids().map(ReplicaId).collect()
    }

    /// The last entry that was applied here; 0 before the first.
    pub(super) fn applied_index(&self) -> u64 {
        self.record.lock().applied_index()
    }

    /// What is kept of the replica, as applied.
    #[must_use]
    pub fn record(&self) -> ReplicaRecord {
        self.record.lock().clone()
    }

    /// Whether the disk is full but for the reserve.
    #[must_use]
    pub fn reserve_only(&self) -> bool {
        self.shared.reserve_only()
    }

    /// Whether new entries would wait for room in the node's log.
    #[must_use]
    pub fn log_is_full(&self) -> bool {
        self.log.pressure() == Pressure::Full
    }

    /// Whether this node has an entry durably, in its log or as state: what may be acknowledged.
    pub(super) async fn is_durable(&self, id: LogId) -> Result<bool, LogError> {
        let applied = self
            .shared
            .durable(self.group)
            .and_then(|record| record.applied);
        if applied.is_some_and(|applied| applied.index() >= id.index()) {
            return Ok(true);
        }
        self.log.is_durable(self.group, id).await
    }

    /// Whether it was not opened for want of room on the disk.
    pub(super) fn lacks_room(&self) -> bool {
        self.lacks_room.load(Ordering::Acquire) && !cfg!(planted = "full_disk_prevents_start")
    }

    /// The replica was opened.
    pub(super) fn begin(&self) {
        self.in_use.store(true, Ordering::Release);
    }

    /// The replica goes for good: what openraft still has to apply, which it may do after it was shut down, must not bring
    /// its record back.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.log.waits_for_disk(self.group, false);
    }

    /// To be asked while one has the turn that the record's deletion takes too.
    fn not_ended(&self) -> io::Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(io::Error::other("this replica was destroyed"));
        }
        Ok(())
    }

    /// What the store fails with here concerns the node: nothing is applied any more.
    fn failed(&self, error: StoreError) -> io::Error {
        self.log.health().store_failed(self.group, &error);
        io::Error::other(error)
    }
}

impl<R: Runtime> RaftStateMachine<TypeConfig<R>> for GroupState<R> {
    type SnapshotData = Snapshot<R>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let record = self.record.lock();
        Ok((record.applied, record.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig<R>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut batch = vec![first?];
            let mut bytes = entry_bytes(&batch[0].0);
            while batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
                let Some(Some(next)) = entries.next().now_or_never() else {
                    break;
                };
                let next = next?;
                bytes += entry_bytes(&next.0);
                batch.push(next);
            }
            self.apply_batch(batch).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Snapshot<R>,
    ) -> Result<(), io::Error> {
        let lineage = snapshot.staged().ok_or_else(|| {
            io::Error::other("a snapshot is installed where it was staged, nowhere else")
        })?;
        let old;
        {
            let _turn = self.shared.turn().await;
            self.not_ended()?;
            let mut record = self.record();
            old = record.lineage;
            record.lineage = lineage;
            record.applied = meta.last_log_id;
            record.membership = meta.last_membership.clone();
            let failed = |error| self.failed(error);
            let mut batch = self.shared.db().begin().map_err(failed)?;
            let set = batch.set_group(self.group, record.applied_index(), &record.encode());
            set.map_err(failed)?;
            batch.commit().map_err(failed)?;
            let mut by_snapshot = self.shared.inner.by_snapshot.lock();
            by_snapshot.insert(self.group, record.applied_index());
            *self.record.lock() = record;
            self.inodes.forget();
            self.shared.mark_changed();
        }
        // openraft purges the log once this returns: what it replaces must be durable.
        let wanted = || !self.ended.load(Ordering::Acquire) && !self.log.is_leaving();
        self.shared
            .checkpoint_in_time(&self.log, wanted)
            .await
            .map_err(io::Error::other)?;
        self.shared.forget_lineage(self.log.runtime(), old);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<super::snapshot::SnapshotOf<R>>, io::Error> {
        super::snapshot::pin(&self.shared, self.group, self.log.health()).map_err(io::Error::other)
    }
}

impl<R: Runtime> RaftSnapshotBuilder<TypeConfig<R>> for GroupState<R> {
    type SnapshotData = Snapshot<R>;

    /// Nothing is built: it tells openraft how far the log may be purged, which is what a checkpoint made durable.
    async fn build_snapshot(&mut self) -> Result<super::snapshot::SnapshotOf<R>, io::Error> {
        let durable = self
            .shared
            .durable(self.group)
            .filter(|record| record.applied.is_some());
        let durable = durable.ok_or_else(|| io::Error::other("nothing is durable yet"))?;
        Ok(super::snapshot::SnapshotOf::<R> {
            meta: durable.meta(),
            snapshot: Snapshot::Known,
        })
    }
}
