//! Warnings and errors of one kind are written once in a while, with a count of those left out.
//!
//! What goes wrong often goes wrong a thousand times. Two events are of one kind when they come from the same line of
//! code and say the same but for numbers. Owns the counting; how an event looks is the inner format's.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// One of a kind is written at most this often.
const EVERY: Duration = Duration::from_secs(10);
/// Kinds kept apart; beyond that all are forgotten, and each may be written again.
const KINDS_MAX: usize = 1024;

/// A format that leaves out repetitions.
pub(super) struct Sparing<F> {
    inner: F,
    seen: Mutex<Seen>,
}

impl<F> Sparing<F> {
    pub(super) fn new(inner: F) -> Self {
        Self {
            inner,
            seen: Mutex::default(),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Sparing<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return self.inner.format_event(context, writer, event);
        }
        let mut kind = Kind {
            place: (metadata.file().unwrap_or_default(), metadata.line()),
            message: String::new(),
        };
        event.record(&mut kind);
        let left_out = {
            let mut seen = self.seen.lock().expect("nothing panics under this lock");
            seen.admit(kind, Instant::now())
        };
        // Nothing written is no line.
        let Some(left_out) = left_out else {
            return Ok(());
        };
        self.inner.format_event(context, writer.by_ref(), event)?;
        if left_out > 0 {
            writeln!(writer, "    ({left_out} more like this were left out)")?;
        }
        Ok(())
    }
}

/// What makes two events the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    place: (&'static str, Option<u32>),
    message: String,
}

impl Visit for Kind {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
            self.message.retain(|c| !c.is_ascii_digit());
        }
    }
}

/// When one of a kind was written last, and how many were not since.
#[derive(Default)]
struct Seen(HashMap<Kind, (Instant, u64)>);

impl Seen {
    /// How many were left out before this one, or nothing when it is left out itself.
    fn admit(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        if let Some((written, left_out)) = self.0.get_mut(&kind) {
            if now.duration_since(*written) < EVERY {
                *left_out += 1;
                return None;
            }
            *written = now;
            return Some(std::mem::take(left_out));
        }
        if self.0.len() >= KINDS_MAX {
            self.0.clear();
        }
        self.0.insert(kind, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    fn kind(message: &str) -> Kind {
        Kind {
            place: ("a.rs", Some(1)),
            message: message.to_owned(),
        }
    }

    #[test]
    fn one_in_ten_seconds_and_a_count() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        assert_eq!(seen.admit(kind("a"), start), Some(0));
        for ms in 1..120 {
            let at = start + Duration::from_millis(ms * 83);
            assert_eq!(seen.admit(kind("a"), at), None);
        }
        assert_eq!(seen.admit(kind("b"), start + EVERY / 2), Some(0));
        assert_eq!(seen.admit(kind("a"), start + EVERY), Some(119));
        assert_eq!(seen.admit(kind("a"), start + EVERY + EVERY / 2), None);
    }

    #[test]
    fn many_kinds_take_bounded_memory() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        for number in 0..10_000 {
            assert_eq!(seen.admit(kind(&format!("{number}")), now), Some(0));
            assert!(seen.0.len() <= KINDS_MAX);
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a test").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn warnings_that_differ_in_numbers_are_one_line_and_others_are_not_touched() {
        let lines = Lines::default();
        let out = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Sparing::new(tracing_subscriber::fmt::format()))
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..100 {
                tracing::warn!("number {number} has failed");
                tracing::info!("number {number} is told");
            }
            for what in ["this", "that"] {
                tracing::warn!("{what} has failed");
            }
        });
        let text = String::from_utf8(lines.0.lock().expect("a test").clone()).expect("text");
        assert_eq!(text.matches("WARN").count(), 3, "{text}");
        assert_eq!(text.matches("INFO").count(), 100, "{text}");
    }
}
