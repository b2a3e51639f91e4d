//! Readings of a simulated machine's boot-time clock.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use crate::context;

/// A reading of the boot-time clock of the machine that took it, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SimInstant(u64);

/// Readings begin here, so that openraft may subtract a few timeouts from the first.
const BASE: u64 = 1_000_000_000_000;

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl SimInstant {
    /// The span from now until then; zero when it has passed.
    pub(crate) fn time_left(self) -> Duration {
        self - <Self as openraft_rt::Instant>::now()
    }
}

impl openraft_rt::Instant for SimInstant {
    fn now() -> Self {
        let reading = context::clock().map_or_else(context::true_now, |clock| clock.local_now());
        Self(BASE + reading)
    }
}

impl Add<Duration> for SimInstant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub<Duration> for SimInstant {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, span: Duration) {
        *self = *self - span;
    }
}

impl Sub for SimInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
