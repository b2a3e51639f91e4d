//! The log's memory: what it holds, what waits to be written, and recent entries.
//!
//! Owns the queue of records, the tickets, the index of all groups' entries and the cache. Everything here is quick
//! and touches no disk: asynchronous code uses it under a mutex, the writer meets it only in [`LogIndex::take_batch`]
//! and [`LogIndex::written`]. An append can be read as soon as it is queued, long before it is durable.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use polyfs_core::ids::GroupId;
use polyfs_core::limits::EXTENT_PAYLOAD_BYTES_MIN;

use super::batch::BATCH_HEADER_BYTES;
use super::carry::Carrying;
use super::error::{LogError, Poison};
use super::group::{GroupLog, Release, Slot};
use super::live::Live;
use super::record::{LogEntry, PayloadRef, Record};
use super::segment::{Position, SegmentId};
use super::{LogConfig, Ticket};
use crate::extent_ref::ExtentRef;

/// The order of cached entries is swept of entries that are gone when it has doubled, and not below this length.
const CACHE_SWEEP_MIN: usize = 1024;

/// A record that waits to be written, and what its durability brings about.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) ticket: Ticket,
    pub(crate) record: Record,
    /// Which group of that id.
    pub(crate) incarnation: Ticket,
    /// For entries: the ticket of the append (a copy that is carried forward has a later ticket of its own).
    pub(crate) append: Ticket,
    pub(crate) release: Release,
}

/// What goes to disk in one write and one sync. Empty: the mark alone.
#[derive(Debug)]
pub struct Batch {
    pub(crate) items: Vec<Queued>,
    /// Segments that hold something needed; the others are free once this batch is durable.
    pub(crate) live: Vec<SegmentId>,
}

impl Batch {
    /// How many records it has.
    #[must_use]
    pub fn records(&self) -> usize {
        self.items.len()
    }
}

/// The segments as the writer knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In use, oldest first; the last is being written.
    pub in_use: Vec<SegmentId>,
    /// How many can be written into next.
    pub reusable: usize,
}

/// What the writer did with a batch.
#[derive(Debug)]
pub struct Written {
    pub(crate) positions: Vec<Position>,
    pub(crate) layout: Layout,
}

/// What has become durable, and what the log therefore no longer refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Every push up to this ticket is durable.
    pub durable: Ticket,
    /// Extents of truncated entries: nothing else ever referred to them.
    pub abandoned: Vec<ExtentRef>,
    /// Extents of purged entries and destroyed groups: the state may refer to them.
    pub released: Vec<ExtentRef>,
}

/// An entry as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was cached.
    Cached(LogEntry),
    /// It must be loaded from its segment: see [`super::LogReader::load`].
    Stored(Located),
}

/// Where a stored entry is, and what must be found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Whose.
    pub group: GroupId,
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Where.
    pub at: Position,
}

/// What the log knows of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The latest `Create`; None for a group whose birth this log has not seen (P5).
    pub created: Option<Bytes>,
    /// The latest vote.
    pub vote: Option<Bytes>,
    /// The latest committed log id.
    pub committed: Option<Bytes>,
    /// The last purged index and log id.
    pub purged: Option<(u64, Bytes)>,
    /// First and last index, and the last term.
    pub entries: Option<Entries>,
}

/// How an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It and all before it are durable, or were purged.
    Durable,
    /// They will be when everything up to this ticket is.
    Queued(Ticket),
    /// The log has no such entry.
    Unknown,
}

/// Which entries a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// The first index.
    pub first: u64,
    /// The last index.
    pub last: u64,
    /// The last entry's term.
    pub last_term: u64,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Enough.
    None,
    /// Time to snapshot and purge the groups of [`LogIndex::holders`], and to refuse new work of clients.
    High,
    /// Appends are refused; truncations, purges, votes and the like are still taken (P10, Full disk).
    Full,
}

/// The log's shared memory.
#[derive(Debug)]
pub struct LogIndex {
    pub(crate) config: LogConfig,
    pub(crate) segment_bytes: u64,
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    pub(crate) last_ticket: Ticket,
    pub(crate) durable: Ticket,
    in_flight: bool,
    pub(crate) mark_due: bool,
    cache: VecDeque<(GroupId, u64, Ticket)>,
    cache_sweep_at: usize,
    cached_bytes: usize,
    pub(crate) live: Live,
    pub(crate) layout: Layout,
    pub(crate) carrying: Option<Carrying>,
    poison: Poison,
}

impl LogIndex {
    /// How many segments the log had when the last batch was written.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.layout.in_use.len() + self.layout.reusable
    }

    pub(crate) fn new(config: LogConfig, segment_bytes: u64, poison: Poison) -> Self {
        Self {
            config,
            segment_bytes,
            groups: BTreeMap::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            last_ticket: Ticket(0),
            durable: Ticket(0),
            in_flight: false,
            mark_due: false,
            cache: VecDeque::new(),
            cache_sweep_at: CACHE_SWEEP_MIN,
            cached_bytes: 0,
            live: Live::default(),
            layout: Layout::default(),
            carrying: None,
            poison,
        }
    }

    /// Queues a record. It counts at once for reading; it is durable when [`Settled::durable`] has reached the ticket.
    ///
    /// # Errors
    /// `Full` for an entry when there is hardly room left; `TooLarge`; `Poisoned`.
    ///
    /// # Panics
    /// When the record breaks Raft's law for logs: an entry that does not follow the last, a purged index touched, a
    /// payload that belongs into an extent.
    pub fn push(&mut self, record: Record) -> Result<Ticket, LogError> {
        self.poison.check()?;
        let bytes = record.encoded_bytes();
        let bytes_max = self.config.batch_bytes_max - BATCH_HEADER_BYTES;
        if bytes > bytes_max {
            return Err(LogError::TooLarge { bytes, bytes_max });
        }
        if matches!(record, Record::Entry { .. }) && self.pressure() == Pressure::Full {
            return Err(LogError::Full);
        }
        self.check_laws(&record);
        let queued = self.admit(record);
        Ok(self.enqueue(queued))
    }

    fn check_laws(&self, record: &Record) {
        if let Record::Entry { entry, .. } = record
            && let PayloadRef::InLog(bytes) = &entry.payload
        {
            assert!(
                bytes.len() < EXTENT_PAYLOAD_BYTES_MIN,
                "a large payload is written once, to an extent (P10)"
            );
        }
        let Some(group) = self.groups.get(&record.group()) else {
            return;
        };
        match record {
            Record::Entry { entry, .. } => {
                if let Some(next) = group.next_index() {
                    assert_eq!(
                        entry.index, next,
                        "a group's log has no holes and no overlaps"
                    );
                }
            }
            Record::Truncate { from_index, .. } => assert!(
                group.purged_index.is_none_or(|purged| *from_index > purged),
                "purged entries are committed and never truncated"
            ),
            Record::Purge { upto_index, .. } => assert!(
                group
                    .purged_index
                    .is_none_or(|purged| *upto_index >= purged),
                "a group is never purged backwards"
            ),
            Record::Vote { .. }
            | Record::Committed { .. }
            | Record::Create { .. }
            | Record::Destroy { .. } => {}
        }
    }

    pub(crate) fn enqueue(&mut self, queued: Queued) -> Ticket {
        let ticket = queued.ticket;
        self.queue_bytes += queued.record.encoded_bytes();
        self.queue.push_back(queued);
        self.evict();
        ticket
    }

    pub(crate) fn draw_ticket(&mut self) -> Ticket {
        self.last_ticket = Ticket(self.last_ticket.0 + 1);
        self.last_ticket
    }

    /// Gives a record its ticket and its effect in memory.
    pub(crate) fn admit(&mut self, record: Record) -> Queued {
        let ticket = self.draw_ticket();
        let id = record.group();
        let mut release = Release::default();
        let incarnation = if matches!(record, Record::Destroy { .. }) {
            let gone = self.groups.remove(&id);
            let incarnation = gone.as_ref().map_or(ticket, |group| group.incarnation);
            release = gone.map(GroupLog::destroy).unwrap_or_default();
            incarnation
        } else {
            let group = self
                .groups
                .entry(id)
                .or_insert_with(|| GroupLog::new(ticket));
            match &record {
                Record::Entry { entry, .. } => self.admit_entry(id, entry, ticket),
                Record::Vote { bytes, .. } => group.vote.bytes = Some(bytes.clone()),
                Record::Committed { bytes, .. } => group.committed.bytes = Some(bytes.clone()),
                Record::Create { bytes, .. } => group.created.bytes = Some(bytes.clone()),
                Record::Truncate { from_index, .. } => release = group.truncate(*from_index),
                Record::Purge {
                    upto_index, bytes, ..
                } => {
                    group.purged.bytes = Some(bytes.clone());
                    group.purged_index = Some(*upto_index);
                    release = group.purge(*upto_index);
                }
                Record::Destroy { .. } => {}
            }
            self.groups[&id].incarnation
        };
        self.cached_bytes -= release.cached_bytes;
        Queued {
            ticket,
            record,
            incarnation,
            append: ticket,
            release,
        }
    }

    fn admit_entry(&mut self, id: GroupId, entry: &LogEntry, ticket: Ticket) {
        let group = self.groups.get_mut(&id).expect("the caller made it");
        let record = Record::Entry {
            group: id,
            entry: entry.clone(),
        };
        let bytes = record.encoded_bytes();
        let slot = Slot {
            ticket,
            term: entry.term,
            bytes: u32::try_from(bytes).expect("a record fits a batch"),
            at: None,
            cached: Some(Box::new((entry.head.clone(), entry.payload.clone()))),
        };
        if let Some(old) = group.insert(entry, slot) {
            // Only recovery comes here: the older copy of an entry that was carried forward.
            old.at.into_iter().for_each(|at| self.live.remove(at));
            self.cached_bytes -= old.cached.as_ref().map_or(0, |_| slot_bytes(&old));
        }
        self.cached_bytes += bytes;
        self.cache.push_back((id, entry.index, ticket));
    }

    /// Drops the oldest cached entries beyond the limit; what is not durable yet stays, as it is nowhere else.
    pub(crate) fn evict(&mut self) {
        while self.cached_bytes > self.config.cache_bytes_max {
            let Some(oldest) = self.cache.front().copied() else {
                break;
            };
            if let Some(slot) = self.cached_slot(oldest) {
                if slot.at.is_none() {
                    break;
                }
                slot.cached = None;
                self.cached_bytes -= slot_bytes(slot);
            }
            self.cache.pop_front();
        }
        if self.cache.len() >= self.cache_sweep_at {
            let mut cache = std::mem::take(&mut self.cache);
            cache.retain(|entry| self.cached_slot(*entry).is_some());
            self.cache = cache;
            self.cache_sweep_at = CACHE_SWEEP_MIN.max(2 * self.cache.len());
        }
    }

    /// The entry that a note in the cache's order is about; None when it is gone.
    fn cached_slot(&mut self, (id, index, ticket): (GroupId, u64, Ticket)) -> Option<&mut Slot> {
        let slot = self.groups.get_mut(&id)?.slots.get_mut(&index)?;
        (slot.ticket == ticket && slot.cached.is_some()).then_some(slot)
    }

    /// The next batch: as much of the queue as [`LogConfig::batch_bytes_max`] allows. None when nothing waits or a
    /// batch is in flight.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn take_batch(&mut self) -> Result<Option<Batch>, LogError> {
        self.poison.check()?;
        if self.in_flight || self.queue.is_empty() {
            return Ok(None);
        }
        let mut bytes = BATCH_HEADER_BYTES;
        let mut items = Vec::new();
        while let Some(next) = self.queue.front() {
            bytes += next.record.encoded_bytes();
            if bytes > self.config.batch_bytes_max && !items.is_empty() {
                break;
            }
            self.queue_bytes -= next.record.encoded_bytes();
            items.extend(self.queue.pop_front());
        }
        self.in_flight = true;
        Ok(Some(Batch {
            items,
            live: self.live.segments(),
        }))
    }

    /// The mark, to be written alone when the log has been idle for up to 10 ms (P10). None when it is written
    /// already, or something waits or is in flight.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn take_mark(&mut self) -> Result<Option<Batch>, LogError> {
        self.poison.check()?;
        if self.in_flight || !self.queue.is_empty() || !self.mark_due {
            return Ok(None);
        }
        self.in_flight = true;
        Ok(Some(Batch {
            items: Vec::new(),
            live: self.live.segments(),
        }))
    }

    /// Takes note that a batch is durable.
    pub fn written(&mut self, batch: Batch, written: Written) -> Settled {
        assert!(self.in_flight, "one batch is in flight");
        self.in_flight = false;
        self.mark_due = !batch.items.is_empty();
        self.layout = written.layout;
        let mut settled = Settled::default();
        for (item, at) in batch.items.into_iter().zip(written.positions) {
            self.settle(item, at, &mut settled);
        }
        // A freed segment is usable only after one more batch; without traffic the mark is that batch.
        self.mark_due |= self.oldest_is_free();
        settled.durable = self.durable;
        self.evict();
        settled
    }

    fn oldest_is_free(&self) -> bool {
        self.layout.in_use.len() > 1
            && self
                .layout
                .in_use
                .first()
                .is_some_and(|oldest| self.live.bytes(*oldest) == 0)
    }

    /// Gives back a batch that the writer refused with [`LogError::Full`]: it is next again.
    pub fn put_back(&mut self, batch: Batch) {
        assert!(self.in_flight, "one batch is in flight");
        self.in_flight = false;
        for item in batch.items.into_iter().rev() {
            self.queue_bytes += item.record.encoded_bytes();
            self.queue.push_front(item);
        }
    }

    /// Takes note that one record is durable at `at`.
    pub(crate) fn settle(&mut self, item: Queued, at: Position, settled: &mut Settled) {
        self.durable = self.durable.max(item.ticket);
        let group = self.groups.get_mut(&item.record.group());
        let group = group.filter(|group| group.incarnation == item.incarnation);
        let live = &mut self.live;
        match (&item.record, group) {
            (Record::Entry { entry, .. }, Some(group)) => {
                let slot = group.slots.get_mut(&entry.index);
                if let Some(slot) = slot.filter(|slot| slot.ticket == item.append) {
                    slot.at
                        .replace(at)
                        .into_iter()
                        .for_each(|old| live.remove(old));
                    live.add(at);
                }
            }
            (Record::Vote { .. }, Some(group)) => group.vote.settle(at, live),
            (Record::Committed { .. }, Some(group)) => group.committed.settle(at, live),
            (Record::Create { .. }, Some(group)) => group.created.settle(at, live),
            (Record::Purge { .. }, Some(group)) => group.purged.settle(at, live),
            (Record::Truncate { .. } | Record::Destroy { .. }, _) | (_, None) => {}
        }
        self.live.remove_all(&item.release.live);
        if matches!(item.record, Record::Truncate { .. }) {
            settled.abandoned.extend(item.release.extents);
        } else {
            settled.released.extend(item.release.extents);
        }
    }

    /// Every push up to this ticket is durable.
    #[must_use]
    pub fn durable(&self) -> Ticket {
        self.durable
    }

    /// Bytes that wait to be written: the node bounds them by refusing work.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// How far an entry has got.
    #[must_use]
    pub fn standing(&self, group: GroupId, index: u64, term: u64) -> Standing {
        let Some(log) = self.groups.get(&group) else {
            return Standing::Unknown;
        };
        if log.purged_index.is_some_and(|purged| purged >= index) {
            return Standing::Durable;
        }
        match log.slots.get(&index).filter(|slot| slot.term == term) {
            Some(slot) if slot.ticket <= self.durable => Standing::Durable,
            Some(slot) => Standing::Queued(slot.ticket),
            None => Standing::Unknown,
        }
    }

    /// Whether something waits that [`Self::take_batch`] would give.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() && !self.in_flight
    }

    /// All groups, in order.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    /// What is known of a group; None when it has no record.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<GroupState> {
        let group = self.groups.get(&id)?;
        let entries = group
            .slots
            .first_key_value()
            .zip(group.slots.last_key_value());
        Some(GroupState {
            created: group.created.bytes.clone(),
            vote: group.vote.bytes.clone(),
            committed: group.committed.bytes.clone(),
            purged: group.purged_index.zip(group.purged.bytes.clone()),
            entries: entries.map(|((first, _), (last, slot))| Entries {
                first: *first,
                last: *last,
                last_term: slot.term,
            }),
        })
    }

    /// Extents that entries refer to, of all groups.
    #[must_use]
    pub fn extents(&self) -> Vec<ExtentRef> {
        self.groups
            .values()
            .flat_map(|group| group.extents.values().copied())
            .collect()
    }

    /// Entries of `range`, in order, at least one and then as many as `bytes_max` allows (sizes in the log: a payload
    /// in an extent counts as its pointer). Ends early where the group's log does.
    ///
    /// # Errors
    /// `NotFound` when the first of a range that is not empty is missing; `Poisoned`.
    pub fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Found>, LogError> {
        self.poison.check()?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let missing = LogError::NotFound {
            group,
            index: range.start,
        };
        let log = self.groups.get(&group).ok_or_else(|| missing.clone())?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (index, slot) in log.slots.range(range.clone()) {
            if found.is_empty() && *index != range.start {
                break;
            }
            bytes += slot_bytes(slot);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(look(group, *index, slot));
        }
        if found.is_empty() {
            Err(missing)
        } else {
            Ok(found)
        }
    }

    /// Whether an entry is still where it was: ask after a load has failed, since a purged entry's segment may have
    /// been written anew in between.
    #[must_use]
    pub fn is_current(&self, located: &Located) -> bool {
        self.groups
            .get(&located.group)
            .and_then(|group| group.slots.get(&located.index))
            .is_some_and(|slot| slot.at == Some(located.at))
    }
}

/// An entry's size in the log, in bytes.
pub(crate) fn slot_bytes(slot: &Slot) -> usize {
    usize::try_from(slot.bytes).expect("usize has at least 32 bits")
}

pub(crate) fn look(group: GroupId, index: u64, slot: &Slot) -> Found {
    match &slot.cached {
        Some(content) => {
            let (head, payload) = content.as_ref().clone();
            Found::Cached(LogEntry {
                index,
                term: slot.term,
                head,
                payload,
            })
        }
        None => {
            let at = slot.at.expect("what is not durable is cached");
            Found::Stored(Located {
                group,
                index,
                term: slot.term,
                at,
            })
        }
    }
}
