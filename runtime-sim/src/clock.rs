//! One machine's clocks: a boot-time clock with an offset and a rate of its own, and a wall clock with a skew.
//!
//! Deliberately separate from true time, which only the simulation knows: what a node computes from its clocks must
//! hold for every offset, and for every rate within the drift bound of `core::limits` (P8).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polyfs_core::time::{Instant, Now, Timestamp};

use crate::context;

/// When simulations begin on the wall: 2027-01-15T08:00:00Z.
const EPOCH: Timestamp = Timestamp {
    seconds: 1_800_000_000,
    nanos: 0,
};
const MILLION: i64 = 1_000_000;

/// A machine's clocks. Clones are the same clocks.
#[derive(Clone, Debug)]
pub struct MachineClock(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// The local reading, in nanoseconds, when true time was `since`; from then on it runs at `rate`.
    reading: u64,
    since: u64,
    /// Parts per million: 1_000_000 is true time.
    rate: i64,
    /// Nanoseconds that the wall clock is ahead of the truth.
    wall_skew: i64,
}

impl State {
    fn local(&self, now: u64) -> u64 {
        self.reading + scale(now.saturating_sub(self.since), self.rate, MILLION)
    }
}

/// `value * numerator / denominator`, rounded down, without overflow for spans of centuries.
fn scale(value: u64, numerator: i64, denominator: i64) -> u64 {
    let scaled = i128::from(value) * i128::from(numerator) / i128::from(denominator);
    u64::try_from(scaled).expect("rates are positive and simulations short")
}

impl MachineClock {
    /// A clock that shows the truth, `offset` ahead.
    pub(crate) fn new(offset: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            reading: nanos(offset),
            since: context::true_now(),
            rate: MILLION,
            wall_skew: 0,
        })))
    }

    /// Lets the boot-time clock run this much faster (or slower, when negative) than the truth, from now on. Sleeps
    /// that have begun end as they would have.
    ///
    /// # Panics
    /// When it would stand still or run backwards: clocks don't, in this protocol.
    pub fn set_drift_ppm(&self, ppm: i32) {
        let rate = MILLION + i64::from(ppm);
        assert!(rate > 0, "a boot-time clock never runs backwards");
        let now = context::true_now();
        let mut state = self.0.lock();
        state.reading = state.local(now);
        state.since = now;
        state.rate = rate;
    }

    /// Sets how far the wall clock is ahead of the truth, in nanoseconds; negative: behind. May jump either way.
    pub fn set_wall_skew(&self, nanos: i64) {
        self.0.lock().wall_skew = nanos;
    }

    /// Starts the boot-time clock anew, as a machine's start does.
    pub(crate) fn restart(&self, offset: Duration) {
        let mut state = self.0.lock();
        state.reading = nanos(offset);
        state.since = context::true_now();
    }

    /// Both clocks now.
    #[must_use]
    pub fn now(&self) -> Now {
        let now = context::true_now();
        let state = *self.0.lock();
        Now {
            mono: Instant(state.local(now)),
            wall: wall(now, state.wall_skew),
        }
    }

    /// The boot-time clock's reading, in nanoseconds.
    pub(crate) fn local_now(&self) -> u64 {
        self.0.lock().local(context::true_now())
    }

    /// How long a span of this clock truly takes; rounded up, so that nothing wakes too early.
    pub(crate) fn true_span(&self, local: Duration) -> Duration {
        let rate = self.0.lock().rate;
        if rate == MILLION {
            return local;
        }
        Duration::from_nanos(scale(nanos(local), MILLION, rate).saturating_add(2))
    }
}

fn nanos(span: Duration) -> u64 {
    // A bound that keeps sums of a few of these within u64: no simulation lasts a century.
    u64::try_from(span.as_nanos())
        .unwrap_or(u64::MAX)
        .min(u64::MAX / 4)
}

fn wall(now: u64, skew: i64) -> Timestamp {
    let since = i128::from(now) + i128::from(skew);
    let seconds = i64::try_from(since.div_euclid(1_000_000_000)).expect("within centuries");
    let nanos = u32::try_from(since.rem_euclid(1_000_000_000)).expect("below a second");
    Timestamp {
        seconds: EPOCH.seconds + seconds,
        nanos,
    }
}
