//! One group's part of the log, in memory.
//!
//! Owns which entries there are, where they lie, and the latest vote, committed, purged and birth records. A change
//! is seen here as soon as it is queued; what it makes superfluous is released only when it is durable. Deliberately
//! knows neither queue nor disk.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Ticket;
use super::index::slot_bytes;
use super::live::Live;
use super::record::{LogEntry, PayloadRef};
use super::segment::{Position, SegmentId};
use crate::extent_ref::ExtentRef;

/// A small value of which only the latest counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latest {
    /// As last queued.
    pub(crate) bytes: Option<Bytes>,
    /// Where the last durable one is.
    pub(crate) at: Option<Position>,
}

impl Latest {
    /// A newer one is durable: it counts instead of the older.
    pub(crate) fn settle(&mut self, at: Position, live: &mut Live) {
        if let Some(old) = self.at.replace(at) {
            live.remove(old);
        }
        live.add(at);
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The ticket of its append: tells it from another entry that had the same index.
    pub(crate) ticket: Ticket,
    pub(crate) term: u64,
    /// Its size in the log.
    pub(crate) bytes: u32,
    /// Where its last durable copy is; None until the first is.
    pub(crate) at: Option<Position>,
    /// Its content while it is cached.
    pub(crate) cached: Option<Box<(Bytes, PayloadRef)>>,
}

/// What a truncation, purge or destruction makes superfluous once it is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Release {
    pub(crate) live: Live,
    pub(crate) extents: Vec<ExtentRef>,
    pub(crate) cached_bytes: usize,
}

impl Release {
    fn take(&mut self, at: Option<Position>) {
        if let Some(at) = at {
            self.live.add(at);
        }
    }

    fn take_slot(&mut self, slot: &Slot) {
        self.take(slot.at);
        if slot.cached.is_some() {
            self.cached_bytes += slot_bytes(slot);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct GroupLog {
    /// The ticket of the record that began it: tells it from an earlier group of the same id.
    pub(crate) incarnation: Ticket,
    pub(crate) created: Latest,
    pub(crate) vote: Latest,
    pub(crate) committed: Latest,
    pub(crate) purged: Latest,
    pub(crate) purged_index: Option<u64>,
    pub(crate) slots: BTreeMap<u64, Slot>,
    /// Extents of the entries that have one.
    pub(crate) extents: BTreeMap<u64, ExtentRef>,
}

impl GroupLog {
    pub(crate) fn new(incarnation: Ticket) -> Self {
        Self {
            incarnation,
            created: Latest::default(),
            vote: Latest::default(),
            committed: Latest::default(),
            purged: Latest::default(),
            purged_index: None,
            slots: BTreeMap::new(),
            extents: BTreeMap::new(),
        }
    }

    /// The index that the next entry must have; None when any will do.
    pub(crate) fn next_index(&self) -> Option<u64> {
        self.slots
            .keys()
            .next_back()
            .copied()
            .or(self.purged_index)
            .map(|last| last.saturating_add(1))
    }

    /// Whether the entries follow each other, from the purged one on.
    pub(crate) fn is_contiguous(&self) -> bool {
        let Some((first, _)) = self.slots.first_key_value() else {
            return true;
        };
        let (last, _) = self.slots.last_key_value().expect("there is a first");
        last - first == self.slots.len() as u64 - 1
            && self
                .purged_index
                .is_none_or(|purged| purged.checked_add(1) == Some(*first))
    }

    /// Puts an entry at its index; gives back what was there (at recovery: an older copy of the same).
    pub(crate) fn insert(&mut self, entry: &LogEntry, slot: Slot) -> Option<Slot> {
        if let PayloadRef::Extent(synced) = &entry.payload {
            self.extents.insert(entry.index, synced.get());
        } else {
            self.extents.remove(&entry.index);
        }
        self.slots.insert(entry.index, slot)
    }

    pub(crate) fn truncate(&mut self, from_index: u64) -> Release {
        let slots = self.slots.split_off(&from_index);
        release(&slots, self.extents.split_off(&from_index))
    }

    pub(crate) fn purge(&mut self, upto_index: u64) -> Release {
        let Some(first_kept) = upto_index.checked_add(1) else {
            return self.truncate(0);
        };
        let kept = self.slots.split_off(&first_kept);
        let gone = std::mem::replace(&mut self.slots, kept);
        let kept = self.extents.split_off(&first_kept);
        release(&gone, std::mem::replace(&mut self.extents, kept))
    }

    /// Everything it holds.
    pub(crate) fn destroy(mut self) -> Release {
        let mut all = self.truncate(0);
        for latest in [&self.created, &self.vote, &self.committed, &self.purged] {
            all.take(latest.at);
        }
        all
    }

    /// Whether one of the latest values lies in `segment`.
    pub(crate) fn state_in(&self, segment: SegmentId) -> bool {
        [&self.created, &self.vote, &self.committed, &self.purged]
            .iter()
            .any(|latest| latest.at.is_some_and(|at| at.segment == segment))
    }
}

fn release(slots: &BTreeMap<u64, Slot>, extents: BTreeMap<u64, ExtentRef>) -> Release {
    let mut all = Release {
        extents: extents.into_values().collect(),
        ..Release::default()
    };
    for slot in slots.values() {
        all.take_slot(slot);
    }
    all
}
