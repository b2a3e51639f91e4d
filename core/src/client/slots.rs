//! The session's slots: what makes an operation happen once (P6).
//!
//! Owns which slots are free and the sequence each has reached. Knows no operation.

use alloc::collections::{BTreeMap, VecDeque};

use crate::limits::SLOTS_PER_SESSION;
use crate::request::SlotUse;

/// Free and used slots. At most one operation is outstanding in each.
#[derive(Debug)]
pub(super) struct Slots {
    free: VecDeque<u8>,
    reached: BTreeMap<u8, u64>,
}

impl Slots {
    /// All free.
    pub(super) fn new() -> Self {
        Self {
            free: (0..SLOTS_PER_SESSION).collect(),
            reached: BTreeMap::new(),
        }
    }

    /// A slot with a fresh sequence, if one is free. The last one is for what gives something back: two mounts all of whose
    /// slots wait for each other's locks would wait for ever.
    pub(super) fn take(&mut self, gives_back: bool) -> Option<SlotUse> {
        if self.free.len() <= usize::from(!gives_back) {
            return None;
        }
        let slot = self.free.pop_front()?;
        Some(self.advance(slot))
    }

    /// The next sequence of a slot.
    pub(super) fn advance(&mut self, slot: u8) -> SlotUse {
        let sequence = self.reached.entry(slot).or_insert(0);
        *sequence += 1;
        SlotUse {
            slot,
            sequence: *sequence,
        }
    }

    /// Its operation has ended.
    pub(super) fn give_back(&mut self, slot: u8) {
        assert!(
            !self.free.contains(&slot),
            "a slot has one operation outstanding (P6)"
        );
        self.free.push_back(slot);
    }
}
