//! Making room: what still holds the oldest segment is carried forward.
//!
//! Owns the rule of P10, "when few quiet groups hold the oldest one, what they need is copied forward or purged":
//! little is copied into the queue, again as new records; much is left, and its holders are named for the node to
//! purge. A copy counts instead of the original only when it is durable. Deliberately reads no disk itself.

use polyfs_core::ids::GroupId;

use super::Ticket;
use super::group::{GroupLog, Release};
use super::index::{Found, LogIndex, Pressure, Queued, look};
use super::record::{LogEntry, Record};
use super::segment::SegmentId;

/// A segment whose content is on its way to the log's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carrying {
    segment: SegmentId,
    until: Ticket,
}

/// What has to be copied for the oldest segment to become free.
#[derive(Debug)]
pub struct CarryPlan {
    segment: SegmentId,
    entries: Vec<Planned>,
    /// The entries, where they are now: load the stored ones, in this order.
    pub found: Vec<Found>,
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    group: GroupId,
    append: Ticket,
}

impl LogIndex {
    /// How much room the log has.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        // What waits will take room as well, with some waste at the ends of batches and segments.
        let waiting = 2 * self.queued_bytes() as u64 / self.segment_bytes;
        let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
        match (self.layout.reusable + self.growable()).saturating_sub(waiting) {
            0 | 1 => Pressure::Full,
            left if left <= self.high() => Pressure::High,
            _ => Pressure::None,
        }
    }

    /// With this many segments left or fewer it is time to make room: a quarter of a small log, 3 of 16.
    fn high(&self) -> usize {
        (self.config.segments_max / 4).min(3)
    }

    /// The disk has no room for another segment: what there is must do, until the next start.
    pub fn stop_growing(&mut self) {
        self.config.segments_max = self.layout.in_use.len() + self.layout.reusable;
    }

    pub(crate) fn growable(&self) -> usize {
        let segments = self.layout.in_use.len() + self.layout.reusable;
        self.config.segments_max.saturating_sub(segments)
    }

    /// What to copy so that the oldest segment becomes free; None when there is room, when it is under way, or when it
    /// would be too much (then [`Self::holders`] are to be purged, or a segment made). Load its stored entries
    /// and hand both to [`Self::carry`].
    #[must_use]
    pub fn plan_carry(&self) -> Option<CarryPlan> {
        let [segment, _, ..] = self.layout.in_use[..] else {
            return None;
        };
        let busy = self
            .carrying
            .is_some_and(|carrying| carrying.segment == segment && carrying.until > self.durable);
        // Cheaper than another segment: little; when there can be no other: up to half.
        let part = if self.growable() > 0 { 16 } else { 2 };
        let bytes = self.live.bytes(segment);
        // Early enough that appends are not refused meanwhile.
        let wanted = if self.growable() > 0 {
            self.config.segments_spare
        } else {
            self.high() + 1
        };
        let enough_room = self.layout.reusable >= wanted;
        if busy || enough_room || bytes == 0 || bytes > self.segment_bytes / part {
            return None;
        }
        let mut plan = CarryPlan {
            segment,
            entries: Vec::new(),
            found: Vec::new(),
        };
        for (id, group) in &self.groups {
            for (index, slot) in &group.slots {
                if slot.at.is_some_and(|at| at.segment == segment) {
                    plan.entries.push(Planned {
                        group: *id,
                        append: slot.ticket,
                    });
                    plan.found.push(look(*id, *index, slot));
                }
            }
        }
        Some(plan)
    }

    /// Queues the copies of a plan; `entries` are its entries, loaded, in its order. What has been truncated or purged
    /// since is left out.
    ///
    /// # Panics
    /// When `entries` are not the plan's.
    pub fn carry(&mut self, plan: &CarryPlan, entries: Vec<LogEntry>) {
        assert_eq!(
            plan.entries.len(),
            entries.len(),
            "every planned entry was loaded"
        );
        for (planned, entry) in plan.entries.iter().zip(entries) {
            let group = self.groups.get(&planned.group);
            let slot = group.and_then(|group| group.slots.get(&entry.index));
            let Some(_) = slot.filter(|slot| slot.ticket == planned.append) else {
                continue;
            };
            let record = Record::Entry {
                group: planned.group,
                entry,
            };
            self.enqueue_copy(record, Some(planned.append));
        }
        let holders = self
            .groups
            .iter()
            .filter(|(_, group)| group.state_in(plan.segment));
        let copies: Vec<Record> = holders
            .flat_map(|(id, group)| state_records(*id, group, plan.segment))
            .collect();
        for record in copies {
            self.enqueue_copy(record, None);
        }
        let until = self.last_ticket;
        self.carrying = Some(Carrying {
            segment: plan.segment,
            until,
        });
    }

    fn enqueue_copy(&mut self, record: Record, append: Option<Ticket>) {
        let ticket = self.draw_ticket();
        let incarnation = self.groups[&record.group()].incarnation;
        let append = append.unwrap_or(ticket);
        let release = Release::default();
        self.enqueue(Queued {
            ticket,
            record,
            incarnation,
            append,
            release,
        });
    }

    /// The groups whose entries hold the oldest segment, with the bytes each holds there and the index up to which
    /// each would have to be purged.
    #[must_use]
    pub fn holders(&self) -> Vec<(GroupId, u64, u64)> {
        let [segment, _, ..] = self.layout.in_use[..] else {
            return Vec::new();
        };
        let mut holders = Vec::new();
        for (id, group) in &self.groups {
            let here = |at: super::Position| at.segment == segment;
            let held = group
                .slots
                .iter()
                .filter(|(_, slot)| slot.at.is_some_and(here));
            let (bytes, last) = held.fold((0, None), |(bytes, _), (index, slot)| {
                (bytes + u64::from(slot.bytes), Some(*index))
            });
            if let Some(last) = last {
                holders.push((*id, bytes, last));
            }
        }
        holders
    }
}

fn state_records(id: GroupId, group: &GroupLog, segment: SegmentId) -> Vec<Record> {
    let here = |latest: &super::group::Latest| {
        let there = latest.at.is_some_and(|at| at.segment == segment);
        latest.bytes.clone().filter(|_| there)
    };
    let mut records = Vec::new();
    records.extend(here(&group.created).map(|bytes| Record::Create { group: id, bytes }));
    records.extend(here(&group.vote).map(|bytes| Record::Vote { group: id, bytes }));
    records.extend(here(&group.committed).map(|bytes| Record::Committed { group: id, bytes }));
    if let Some((upto_index, bytes)) = group.purged_index.zip(here(&group.purged)) {
        records.push(Record::Purge {
            group: id,
            upto_index,
            bytes,
        });
    }
    records
}
