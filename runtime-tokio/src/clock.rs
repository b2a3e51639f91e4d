//! The machine's two clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use polyfs_core::time::{Instant, Now, Timestamp};

/// Both clocks, read together.
pub(crate) fn now() -> Now {
    Now {
        mono: boottime(),
        wall: wall(),
    }
}

/// CLOCK_BOOTTIME, not the standard library's CLOCK_MONOTONIC: a lease must run out while the machine sleeps (P8).
#[expect(
    unsafe_code,
    reason = "the standard library does not read CLOCK_BOOTTIME"
)]
fn boottime() -> Instant {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that the call fills in; it keeps no pointer.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "Linux has had CLOCK_BOOTTIME since 2.6.39");
    let seconds = u64::try_from(time.tv_sec).expect("time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
    Instant(seconds * 1_000_000_000 + nanos)
}

fn wall() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => {
            Timestamp {
                seconds: 0,
                nanos: 0,
            } + since
        }
        Err(before) => {
            let span = before.duration();
            let whole = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
            match span.subsec_nanos() {
                0 => Timestamp {
                    seconds: -whole,
                    nanos: 0,
                },
                nanos => Timestamp {
                    seconds: -whole - 1,
                    nanos: 1_000_000_000 - nanos,
                },
            }
        }
    }
}
