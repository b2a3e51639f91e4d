//! Random draws of the simulation itself, all from madsim's seeded generator.
//!
//! What is drawn after the simulation has ended (destructors of tasks that never ran to their end) is zero.

use std::ops::Range;
use std::time::Duration;

use madsim::rand::RngCore;

/// 64 random bits.
pub(crate) fn bits() -> u64 {
    if madsim::runtime::Handle::try_current().is_err() {
        return 0;
    }
    madsim::rand::thread_rng().next_u64()
}

/// A number below `limit`, or 0 when that is 0. The bias of the remainder does not matter here.
pub(crate) fn below(limit: u64) -> u64 {
    if limit == 0 { 0 } else { bits() % limit }
}

/// As [`below`], for lengths and places in memory.
pub(crate) fn index(limit: usize) -> usize {
    usize::try_from(below(limit as u64)).expect("below a usize")
}

/// Whether something happens that happens so many times in a million. Draws nothing when it never does.
pub(crate) fn happens(per_million: u32) -> bool {
    per_million > 0 && below(1_000_000) < u64::from(per_million)
}

/// A span within the range, or its start when it is empty.
pub(crate) fn span(range: &Range<Duration>) -> Duration {
    let width = range.end.saturating_sub(range.start);
    if width.is_zero() {
        return range.start;
    }
    range.start + Duration::from_nanos(below(u64::try_from(width.as_nanos()).unwrap_or(u64::MAX)))
}
