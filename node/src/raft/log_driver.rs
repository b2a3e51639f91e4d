//! The node's log in motion: one batch of all groups' records in flight (P10).
//!
//! Owns the tasks that write batches and the payloads that go to extents, and whoever waits for durability. What is
//! appended can be read at once; replication never waits for this disk. Deliberately knows no group's rules: those
//! are [`super::log`]'s.
//!
//! When the log is full an append waits in memory, where it can be read as well, until a checkpoint and the purges after
//! it have made room: a full log refuses new work of clients, but never ends a replica.
//!
//! ```text
//!  append ──small──▶ LogIndex ─take_batch─▶ Lane::Log ─written─▶ waiting callbacks
//!     └──large──▶ staged ─▶ extent written and synced (Lane::Read) ─▶ LogIndex
//! ```

mod bulk;
mod segments;
mod standstill;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use openraft::storage::IOFlushed;
use openraft_rt::AsyncRuntime;
use parking_lot::{Mutex, MutexGuard};
use polyfs_core::ids::GroupId;
use polyfs_core::limits::{EXTENT_PAYLOAD_BYTES_MIN, STALLED_DISK};
use polyfs_core::time::Instant;
use polyfs_store::extent_ref::ExtentRef;
use polyfs_store::extents::{DataFiles, Pin};
use polyfs_store::wal::{
    Batch, Log, LogEntry, LogError, LogIndex, LogReader, LogWriter, PayloadRef, Pressure, Record,
    SyncedExtent, Ticket, Written,
};

use self::bulk::{in_log, write_extents};
use self::standstill::For;
use super::types::TypeConfig;
use crate::health::{Health, NodeEnd};
use crate::notify::Bell;
use crate::runtime::{Lane, Runtime};

/// When the log falls idle the mark is written alone after this (P10).
const MARK_AFTER: Duration = Duration::from_millis(10);
/// Payloads of extents kept in memory for replication and apply, in bytes.
const BULK_BYTES_MAX: usize = 64 << 20;
/// How long a full log waits before it tries again.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// A full disk is looked at again after this: a try may write much.
const DISK_FULL_PAUSE: Duration = Duration::from_millis(500);

/// The log of a node, shared by its groups. Cheap to clone.
pub struct SharedLog<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for SharedLog<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<R: Runtime> {
    runtime: R,
    dir: Arc<R::Dir>,
    data: Arc<DataFiles<R::Dir>>,
    books: Mutex<Books<R>>,
    writer: Mutex<LogWriter<R::Dir>>,
    reader: LogReader<R::Dir>,
    work: Bell,
    bulk_work: Bell,
    health: Health,
    tight: Bell,
    /// A segment is being made.
    growing: AtomicBool,
    stopped: AtomicBool,
    leaving: AtomicBool,
}

/// Who waits for a record to be durable.
pub(super) enum Waiter<R: Runtime> {
    Flushed(IOFlushed<TypeConfig<R>>),
    Told(oneshot::Sender<Result<(), LogError>>),
}

impl<R: Runtime> Waiter<R> {
    fn tell(self, result: Result<(), LogError>) {
        match self {
            Self::Flushed(callback) => callback.io_completed(result.map_err(io::Error::other)),
            // Whoever asked may have gone.
            Self::Told(sender) => drop(sender.send(result)),
        }
    }
}

/// An append that waits for its payloads to be in extents.
struct Staged<R: Runtime> {
    group: GroupId,
    entries: VecDeque<StagedEntry>,
    waiter: Option<Waiter<R>>,
}

/// An append whose payloads are in extents, one pin or none for each of its entries.
struct Stored<R: Runtime> {
    append: Staged<R>,
    pins: Pins,
}

/// One for each entry of an append, where its payload has an extent.
type Pins = VecDeque<Option<Pin>>;

/// An entry that is not in the index yet.
#[derive(Clone)]
pub(super) struct StagedEntry {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) head: Bytes,
    pub(super) payload: Bytes,
    /// Which append it came with: a truncated entry's successor has another.
    stage: u64,
}

/// A payload that is in an extent and still in memory.
struct Bulk {
    term: u64,
    payload: Bytes,
}

/// Everything under the one lock.
pub(super) struct Books<R: Runtime> {
    pub(super) index: LogIndex,
    waiting: BTreeMap<Ticket, Vec<Waiter<R>>>,
    staged: VecDeque<Staged<R>>,
    /// Their payloads are synced: next, as there is room.
    ready: VecDeque<Stored<R>>,
    pub(super) staged_entries: BTreeMap<GroupId, BTreeMap<u64, StagedEntry>>,
    next_stage: u64,
    bulk: BTreeMap<(GroupId, u64), Bulk>,
    bulk_order: VecDeque<(GroupId, u64)>,
    bulk_bytes: usize,
    pins: BTreeMap<ExtentRef, Pin>,
    /// Committed indexes and log ids that wait for company, or for their entries.
    committed: BTreeMap<GroupId, (u64, Bytes)>,
    last_ticket: Ticket,
    writing_since: Option<Instant>,
    /// The log is full, and staged entries wait until it is not.
    no_room: bool,
    /// Who waits for room on the disk, and since when.
    no_disk: BTreeMap<(GroupId, For), Instant>,
    failure: Option<LogError>,
}

impl<R: Runtime> Books<R> {
    /// Queues a record.
    pub(super) fn push(&mut self, record: Record) -> Result<Ticket, LogError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.last_ticket = self.index.push(record)?;
        Ok(self.last_ticket)
    }

    fn wait(&mut self, ticket: Ticket, waiter: Waiter<R>) {
        if self.index.durable() >= ticket {
            waiter.tell(Ok(()));
        } else {
            self.waiting.entry(ticket).or_default().push(waiter);
        }
    }

    /// Forgets staged entries from an index on.
    pub(super) fn unstage(&mut self, group: GroupId, from_index: u64) {
        if let Some(entries) = self.staged_entries.get_mut(&group) {
            entries.split_off(&from_index);
            if entries.is_empty() {
                self.staged_entries.remove(&group);
            }
        }
    }

    /// Forgets staged entries up to an index: what is purged needs no place.
    pub(super) fn unstage_upto(&mut self, group: GroupId, upto_index: u64) {
        if let Some(entries) = self.staged_entries.get_mut(&group) {
            entries.retain(|index, _| *index > upto_index);
            if entries.is_empty() {
                self.staged_entries.remove(&group);
            }
        }
    }

    fn fail(&mut self, error: &LogError) {
        self.failure = Some(error.clone());
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        let staged = std::mem::take(&mut self.staged).into_iter();
        let ready = std::mem::take(&mut self.ready).into_iter();
        let staged = ready.map(|stored| stored.append).chain(staged);
        for waiter in waiting.chain(staged.filter_map(|staged| staged.waiter)) {
            waiter.tell(Err(error.clone()));
        }
    }
}

impl<R: Runtime> SharedLog<R> {
    /// Takes a recovered log into use and starts its tasks. `pins` hold the extents that its records refer to.
    pub fn start(
        runtime: R,
        dir: Arc<R::Dir>,
        log: Log<R::Dir>,
        data: Arc<DataFiles<R::Dir>>,
        pins: Vec<Pin>,
    ) -> Self {
        let books = Books {
            index: log.index,
            waiting: BTreeMap::new(),
            staged: VecDeque::new(),
            ready: VecDeque::new(),
            staged_entries: BTreeMap::new(),
            next_stage: 0,
            bulk: BTreeMap::new(),
            bulk_order: VecDeque::new(),
            bulk_bytes: 0,
            pins: pins.into_iter().map(|pin| (pin.extent(), pin)).collect(),
            committed: BTreeMap::new(),
            last_ticket: Ticket(0),
            writing_since: None,
            no_room: false,
            no_disk: BTreeMap::new(),
            failure: None,
        };
        let inner = Inner {
            runtime: runtime.clone(),
            dir,
            data,
            books: Mutex::new(books),
            writer: Mutex::new(log.writer),
            reader: log.reader,
            work: Bell::default(),
            bulk_work: Bell::default(),
            health: Health::default(),
            tight: Bell::default(),
            growing: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        };
        let shared = Self {
            inner: Arc::new(inner),
        };
        runtime.spawn(Arc::clone(&shared.inner).write_batches());
        runtime.spawn(Arc::clone(&shared.inner).write_payloads());
        shared
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books<R>> {
        self.inner.books.lock()
    }

    pub(super) fn reader(&self) -> &LogReader<R::Dir> {
        &self.inner.reader
    }

    /// Where the groups of this node report damage.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.inner.health
    }

    pub(super) fn runtime(&self) -> &R {
        &self.inner.runtime
    }

    pub(super) fn data(&self) -> &Arc<DataFiles<R::Dir>> {
        &self.inner.data
    }

    /// Appends entries of a group: readable when this returns, `waiter` is told when they are durable.
    pub(super) fn append(
        &self,
        group: GroupId,
        entries: Vec<(u64, u64, Bytes, Bytes)>,
        waiter: Waiter<R>,
    ) -> Result<(), LogError> {
        let mut books = self.books();
        let large = entries
            .iter()
            .any(|entry| entry.3.len() >= EXTENT_PAYLOAD_BYTES_MIN);
        // Behind what waits already.
        if large || books.staged_entries.contains_key(&group) {
            books.stage(group, entries, waiter);
            drop(books);
            self.inner.bulk_work.ring();
            return Ok(());
        }
        let mut ticket = books.last_ticket;
        let mut entries = entries.into_iter();
        while let Some((index, term, head, payload)) = entries.next() {
            if books.is_full() {
                // It waits, and so does what comes behind it: a full log ends no replica (P10).
                let rest = std::iter::once((index, term, head, payload)).chain(entries);
                books.stage(group, rest.collect(), waiter);
                drop(books);
                self.inner.work.ring();
                self.inner.bulk_work.ring();
                return Ok(());
            }
            let payload = in_log(payload);
            let entry = LogEntry {
                index,
                term,
                head,
                payload,
            };
            ticket = books.push(Record::Entry { group, entry })?;
        }
        books.wait(ticket, waiter);
        drop(books);
        self.inner.work.ring();
        Ok(())
    }

    /// Queues a record that nobody waits for.
    pub(super) fn push(&self, record: Record) -> Result<(), LogError> {
        self.books().push(record)?;
        self.inner.work.ring();
        Ok(())
    }

    /// Queues a record and waits until it is durable.
    pub async fn push_durably(&self, record: Record) -> Result<(), LogError> {
        let (sender, told) = oneshot::channel();
        {
            let mut books = self.books();
            let ticket = books.push(record)?;
            books.wait(ticket, Waiter::Told(sender));
        }
        self.inner.work.ring();
        told.await.unwrap_or(Err(LogError::Poisoned))
    }

    /// Queues the end of a group that this node holds no longer, if the log still knows it.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn forget_group(&self, group: GroupId) -> Result<(), LogError> {
        let mut books = self.books();
        books.unstage(group, 0);
        if books.index.group(group).is_some() {
            books.push(Record::Destroy { group })?;
            self.inner.work.ring();
        }
        Ok(())
    }

    /// The same, known or not; durable when this returns. What still waits for room does not come after it.
    ///
    /// # Errors
    /// When the log has failed.
    pub async fn forget_group_durably(&self, group: GroupId) -> Result<(), LogError> {
        self.books().unstage(group, 0);
        self.push_durably(Record::Destroy { group }).await
    }

    /// What a group's replica still waits to have written nobody wants: it speaks no more. What is written stays.
    pub fn give_up(&self, group: GroupId) {
        self.books().unstage(group, 0);
    }

    /// Notes a group's committed log id, to be written along with something else.
    pub(super) fn note_committed(&self, group: GroupId, index: u64, bytes: Bytes) {
        self.books().committed.insert(group, (index, bytes));
    }

    /// The node is about to end: nobody waits for room any more.
    pub fn leave(&self) {
        self.inner.leaving.store(true, Ordering::Release);
    }

    /// Groups whose entries hold the oldest segment.
    #[must_use]
    pub fn holders(&self) -> Vec<GroupId> {
        let holders = self.books().index.holders();
        holders.into_iter().map(|(group, ..)| group).collect()
    }

    /// Waits until the log needs room: a checkpoint is due; for one task.
    pub async fn needs_room(&self) {
        self.inner.tight.rung().await;
    }

    /// How much room the log has.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.books().index.pressure()
    }

    /// How many files it has.
    pub(super) fn segments(&self) -> usize {
        self.books().index.segments()
    }

    /// Why the log can't go on, once it can't: the node answers nothing more (P10).
    #[must_use]
    pub fn failure(&self) -> Option<LogError> {
        self.books().failure.clone()
    }

    /// Whether it is at its end, or close to it.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let is = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        is(&self.inner.leaving) || is(&self.inner.stopped)
    }

    /// Ends the tasks; what waits is not written.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        self.inner.work.ring();
        self.inner.bulk_work.ring();
    }
}

impl<R: Runtime> Books<R> {
    fn stage(&mut self, group: GroupId, entries: Vec<(u64, u64, Bytes, Bytes)>, waiter: Waiter<R>) {
        self.next_stage += 1;
        let stage = self.next_stage;
        let entry = |(index, term, head, payload)| StagedEntry {
            index,
            term,
            head,
            payload,
            stage,
        };
        let entries: VecDeque<_> = entries.into_iter().map(entry).collect();
        if !entries.is_empty() {
            let here = self.staged_entries.entry(group).or_default();
            here.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
        }
        self.staged.push_back(Staged {
            group,
            entries,
            waiter: Some(waiter),
        });
    }

    /// What waits for its payloads' place. What was truncated or purged meanwhile needs none: it must not keep others
    /// waiting for room.
    fn take_staged(&mut self) -> VecDeque<Staged<R>> {
        let mut staged = std::mem::take(&mut self.staged);
        for append in &mut staged {
            let here = self.staged_entries.get(&append.group);
            let stage = |index| Some(here?.get(&index)?.stage);
            for entry in &mut append.entries {
                let wanted = stage(entry.index) == Some(entry.stage);
                if !wanted && !cfg!(planted = "unwanted_payload_waits") {
                    entry.payload = Bytes::new();
                }
            }
        }
        staged
    }

    fn is_full(&self) -> bool {
        self.index.pressure() == Pressure::Full && !cfg!(planted = "full_log_ends_replica")
    }

    /// Puts appends whose payloads are synced into the index, as far as there is room; true when all are there.
    fn index_ready(&mut self) -> bool {
        while let Some(mut stored) = self.ready.pop_front() {
            match self.index_stored(&mut stored) {
                Ok(true) => {
                    if let Some(waiter) = stored.append.waiter.take() {
                        self.wait(self.last_ticket, waiter);
                    }
                }
                Ok(false) => {
                    self.ready.push_front(stored);
                    return false;
                }
                Err(error) => {
                    self.ready.push_front(stored);
                    self.fail(&error);
                }
            }
        }
        true
    }

    /// The same for one; false when there is no room for all of it.
    fn index_stored(&mut self, stored: &mut Stored<R>) -> Result<bool, LogError> {
        let group = stored.append.group;
        while let Some(entry) = stored.append.entries.front() {
            let here = self.staged_entries.get_mut(&group);
            let current = here.and_then(|here| here.get(&entry.index));
            // Else truncated or purged meanwhile.
            let wanted = current.is_some_and(|current| current.stage == entry.stage);
            if wanted && self.is_full() {
                return Ok(false);
            }
            let entry = stored.append.entries.pop_front();
            let pin = stored.pins.pop_front().flatten();
            if let Some(entry) = entry.filter(|_| wanted) {
                self.forget_staged(group, entry.index);
                self.index_staged(group, entry, pin)?;
            }
        }
        Ok(true)
    }

    fn index_staged(
        &mut self,
        group: GroupId,
        entry: StagedEntry,
        pin: Option<Pin>,
    ) -> Result<(), LogError> {
        let StagedEntry {
            index,
            term,
            head,
            payload,
            ..
        } = entry;
        let payload = match pin {
            None => in_log(payload),
            Some(pin) => {
                let extent = pin.extent();
                self.keep_bulk(group, index, term, payload);
                self.pins.insert(extent, pin);
                PayloadRef::Extent(SyncedExtent::after_sync(extent))
            }
        };
        let entry = LogEntry {
            index,
            term,
            head,
            payload,
        };
        self.push(Record::Entry { group, entry })?;
        Ok(())
    }

    fn forget_staged(&mut self, group: GroupId, index: u64) {
        if let Some(here) = self.staged_entries.get_mut(&group) {
            here.remove(&index);
            if here.is_empty() {
                self.staged_entries.remove(&group);
            }
        }
    }

    /// Queues the committed ids whose entries are in the index. One that overtook its entries, which may wait for their
    /// payloads or for room, would tell the next start to apply what is not there.
    fn push_committed(&mut self) -> Result<(), LogError> {
        for (group, (index, bytes)) in std::mem::take(&mut self.committed) {
            let Some(state) = self.index.group(group) else {
                continue;
            };
            let last = state.entries.map(|entries| entries.last);
            let last = last.max(state.purged.map(|(purged, _)| purged));
            if last >= Some(index) {
                self.push(Record::Committed { group, bytes })?;
            } else {
                self.committed.insert(group, (index, bytes));
            }
        }
        Ok(())
    }

    /// What is to be written next, with the committed ids that wait for company.
    fn take_batch(&mut self, alone: bool) -> Result<Option<Batch>, LogError> {
        if self.index.has_work() || alone {
            self.push_committed()?;
        }
        match self.index.take_batch()? {
            Some(batch) => Ok(Some(batch)),
            None if alone => self.index.take_mark(),
            None => Ok(None),
        }
    }

    fn written(&mut self, batch: Batch, written: Written) {
        let settled = self.index.written(batch, written);
        for extent in settled.abandoned.iter().chain(&settled.released) {
            self.pins.remove(extent);
        }
        let later = self.waiting.split_off(&Ticket(settled.durable.0 + 1));
        let told = std::mem::replace(&mut self.waiting, later);
        for waiter in told.into_values().flatten() {
            waiter.tell(Ok(()));
        }
    }
}

/// How a batch ended.
enum Outcome {
    Written(Batch, Written),
    Full(Batch),
    Failed(LogError),
}

impl<R: Runtime> Inner<R> {
    async fn write_batches(self: Arc<Self>) {
        let mut idle = false;
        while !self.stopped.load(Ordering::Acquire) {
            let taken = {
                let mut books = self.books.lock();
                let taken = books.take_batch(idle);
                // One for which there was no room counts from when it was first tried.
                let since = books.writing_since.unwrap_or(self.runtime.now().mono);
                books.writing_since = matches!(taken, Ok(Some(_))).then_some(since);
                taken
            };
            match taken {
                Ok(Some(batch)) => {
                    if !self.write_one(batch).await {
                        return;
                    }
                    self.carry_forward().await;
                    idle = false;
                }
                Ok(None) if idle => {
                    self.work.rung().await;
                    self.carry_forward().await;
                    idle = false;
                }
                Ok(None) => {
                    let waited = R::Async::timeout(MARK_AFTER, self.work.rung()).await;
                    idle = waited.is_err();
                }
                Err(error) => {
                    self.books.lock().fail(&error);
                    return self
                        .health
                        .end(NodeEnd::Poisoned(format!("the log: {error}")));
                }
            }
        }
    }

    /// Writes a batch; false when the log can't go on.
    async fn write_one(self: &Arc<Self>, batch: Batch) -> bool {
        let lane = Arc::clone(self);
        let written = self.runtime.blocking(Lane::Log, move || {
            let mut writer = lane.writer.lock();
            match writer.write(&batch) {
                Ok(written) => Outcome::Written(batch, written),
                Err(LogError::Full) => Outcome::Full(batch),
                Err(error) => Outcome::Failed(error),
            }
        });
        let outcome = written.await;
        let full = matches!(outcome, Outcome::Full(_));
        {
            let mut books = self.books.lock();
            match outcome {
                Outcome::Written(batch, written) => {
                    books.writing_since = None;
                    books.written(batch, written);
                    if books.index.pressure() > Pressure::None {
                        self.tight.ring();
                    }
                }
                Outcome::Full(batch) => books.index.put_back(batch),
                Outcome::Failed(error) => {
                    books.fail(&error);
                    self.health
                        .end(NodeEnd::Poisoned(format!("the log: {error}")));
                    return false;
                }
            }
        }
        self.grow_if_short().await;
        if full {
            self.runtime.sleep(FULL_PAUSE).await;
        }
        true
    }

    /// Writes payloads to extents, and hands their appends on when they are synced (rule 1).
    async fn write_payloads(self: Arc<Self>) {
        loop {
            self.bulk_work.rung().await;
            loop {
                if self.stopped.load(Ordering::Acquire) {
                    return;
                }
                let staged = self.books.lock().take_staged();
                if staged.is_empty() {
                    break;
                }
                let lane = Arc::clone(&self);
                let written = self.runtime.blocking(Lane::Read, move || {
                    let pins = write_extents(&lane.data, &staged);
                    (staged, pins)
                });
                let (staged, pins) = written.await;
                match pins {
                    Ok(pins) => self.payloads_written(staged, pins).await,
                    Err(error) => {
                        let mut books = self.books.lock();
                        books.staged = staged;
                        books.fail(&error);
                        let why = format!("a payload could not be stored: {error}");
                        self.health.end(NodeEnd::Poisoned(why));
                        return;
                    }
                }
            }
        }
    }

    /// Appends go on whose payloads found room. The others wait for it: it ends no replica, and a leader goes on without
    /// this one if it can (P10).
    async fn payloads_written(&self, staged: VecDeque<Staged<R>>, pins: Vec<Option<Pins>>) {
        let (mut waiting, mut groups) = (VecDeque::new(), BTreeSet::new());
        {
            let mut books = self.books.lock();
            for (append, pins) in staged.into_iter().zip(pins) {
                match pins {
                    Some(pins) => books.ready.push_back(Stored { append, pins }),
                    None => waiting.push_back(append),
                }
            }
            let with_entries = waiting.iter().filter(|append| !append.entries.is_empty());
            groups.extend(with_entries.map(|append| append.group));
            books.payloads_wait(&groups, self.runtime.now().mono);
        }
        self.enter().await;
        if waiting.is_empty() {
            return;
        }
        {
            let mut books = self.books.lock();
            waiting.append(&mut books.staged);
            books.staged = waiting;
            books.no_room = true;
            books.refuse_barriers();
        }
        tracing::warn!(?groups, "the disk is full: payloads wait for room");
        self.tight.ring();
        self.runtime.sleep(DISK_FULL_PAUSE).await;
    }

    /// Puts appends into the index when there is room: not before. A checkpoint and the purges after it make it.
    async fn enter(&self) {
        loop {
            {
                let mut books = self.books.lock();
                books.no_room = !books.index_ready();
                if books.no_room {
                    books.refuse_barriers();
                }
                // The writer also carries forward, and frees what was purged.
                self.work.ring();
                if !books.no_room || self.stopped.load(Ordering::Acquire) {
                    return;
                }
            }
            self.tight.ring();
            self.runtime.sleep(FULL_PAUSE).await;
        }
    }
}
