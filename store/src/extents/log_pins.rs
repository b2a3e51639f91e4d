//! Which extents the unpurged log refers to.
//!
//! Owns their pins, by reference, for whoever hears from the log what was appended, truncated and purged. Deliberately
//! knows no index: an extent belongs to one record.

use std::collections::BTreeMap;

use super::files::Pin;
use crate::extent_ref::ExtentRef;

/// The pins of all log records.
#[derive(Debug, Default)]
pub struct LogPins {
    pins: BTreeMap<ExtentRef, Pin>,
}

impl LogPins {
    /// Those that opening the store gave.
    #[must_use]
    pub fn new(pins: Vec<Pin>) -> Self {
        Self {
            pins: pins.into_iter().map(|pin| (pin.extent(), pin)).collect(),
        }
    }

    /// A record that points to this extent goes to the log.
    pub fn hold(&mut self, pin: Pin) {
        self.pins.insert(pin.extent(), pin);
    }

    /// Records are gone: only after their truncation or purge is *durable*, else a crash brings back a record whose
    /// extent holds something else (rule 3).
    pub fn release(&mut self, extents: &[ExtentRef]) {
        for extent in extents {
            self.pins.remove(extent);
        }
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }
}
