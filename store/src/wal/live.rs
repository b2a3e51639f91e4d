//! How much of each segment is still needed.
//!
//! Owns the counts that decide when a segment is free: a record counts in its segment from the moment it is durable
//! until what replaced or voided it is durable. Deliberately does not know which record it was.

use std::collections::BTreeMap;

use super::segment::{Position, SegmentId};

/// Records and bytes that are needed, by segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live(BTreeMap<SegmentId, Amount>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    records: u64,
    bytes: u64,
}

impl Live {
    pub(crate) fn add(&mut self, at: Position) {
        let amount = self.0.entry(at.segment).or_default();
        amount.records += 1;
        amount.bytes += u64::from(at.bytes);
    }

    pub(crate) fn remove(&mut self, at: Position) {
        let one = Amount {
            records: 1,
            bytes: u64::from(at.bytes),
        };
        self.subtract(at.segment, one);
    }

    pub(crate) fn remove_all(&mut self, released: &Self) {
        for (segment, amount) in &released.0 {
            self.subtract(*segment, *amount);
        }
    }

    fn subtract(&mut self, segment: SegmentId, less: Amount) {
        let amount = self
            .0
            .get_mut(&segment)
            .expect("what is released was counted");
        assert!(amount.records >= less.records, "a record is released once");
        amount.records -= less.records;
        amount.bytes -= less.bytes;
        if amount.records == 0 {
            self.0.remove(&segment);
        }
    }

    /// Bytes needed of a segment.
    pub(crate) fn bytes(&self, segment: SegmentId) -> u64 {
        self.0.get(&segment).map_or(0, |amount| amount.bytes)
    }

    /// The segments that hold something needed.
    pub(crate) fn segments(&self) -> Vec<SegmentId> {
        self.0.keys().copied().collect()
    }
}
