//! Time as an argument.
//!
//! Owns the two notions of time: a monotonic [`Instant`] to wait by, and a wall-clock [`Timestamp`] to stamp files
//! with. Nothing here reads a clock. Offsets between the clocks of two machines are never trusted (P8).

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Nanoseconds of a machine's boot-time clock (CLOCK_BOOTTIME: it goes on while the machine sleeps). Only comparable
/// on the machine that read it; never sent to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The time from `earlier` to `self`, or zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// A point of wall-clock time as a file carries it: seconds since 1970-01-01T00:00:00Z, negative before, and
/// nanoseconds in 0..1_000_000_000 counted forward from there (POSIX `struct timespec`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// 0..1_000_000_000.
    pub nanos: u32,
}

impl Timestamp {
    /// The next representable point: one nanosecond later.
    #[must_use]
    pub fn next(self) -> Self {
        self + Duration::from_nanos(1)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        let nanos = self.nanos + span.subsec_nanos();
        let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self {
            seconds: self
                .seconds
                .saturating_add(seconds)
                .saturating_add(i64::from(nanos / 1_000_000_000)),
            nanos: nanos % 1_000_000_000,
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanos)
    }
}

/// Both clocks of a machine, read together by a runtime and handed to a state machine with its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// To wait by.
    pub mono: Instant,
    /// To stamp with.
    pub wall: Timestamp,
}
