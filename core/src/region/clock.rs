//! The region's clock: the time each entry is stamped with (P9).
//!
//! Owns that stamps rise strictly from entry to entry of a region, whatever the leaders' clocks say.

use super::key;
use super::kv::{Kv, KvError};
use crate::time::Timestamp;

/// The stamp for an entry accepted at `time`; it is noted as the last.
pub(super) fn stamp(state: &mut dyn Kv, time: Timestamp) -> Result<Timestamp, KvError> {
    let last: Timestamp = super::read(state, "clock", &key::clock())?.unwrap_or_default();
    let stamp = if time > last { time } else { last.next() };
    super::write(state, &key::clock(), &stamp)?;
    Ok(stamp)
}
