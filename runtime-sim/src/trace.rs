//! What happened in a run, as a number by which two runs of one seed can be compared.

use std::fmt::Write;

/// The fingerprint of a run so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// A hash over all events and the times they happened at.
    pub hash: u64,
    /// How many there were.
    pub events: u64,
}

/// Gathers events.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) trace: Trace,
    /// The events in words, if they are wanted.
    pub(crate) text: Option<Vec<String>>,
}

impl Recorder {
    /// Adds an event that happened at `now` (nanoseconds).
    pub(crate) fn record(&mut self, now: u64, what: &'static str, numbers: &[u64]) {
        let mut hash = self.trace.hash;
        let mut mix = |word: u64| {
            hash = (hash ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        };
        mix(now);
        for byte in what.bytes() {
            mix(u64::from(byte));
        }
        for number in numbers {
            mix(*number);
        }
        self.trace.hash = hash;
        self.trace.events += 1;
        if let Some(text) = &mut self.text {
            let mut line = format!("{now:>15} {what}");
            for number in numbers {
                write!(line, " {number}").expect("a string takes everything");
            }
            text.push(line);
        }
    }
}
