//! Logs: `tracing` events as lines on stderr.

use tracing_subscriber::EnvFilter;

/// What is logged unless asked otherwise.
const DEFAULT: &str = "warn,openraft=error";

/// Starts logging; a filter that makes no sense is said and replaced by the default.
pub(crate) fn start(filter: Option<&str>) {
    let wanted = filter.unwrap_or(DEFAULT);
    let parsed = EnvFilter::try_new(wanted);
    let bad = parsed.is_err();
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    if bad {
        tracing::warn!(
            filter = wanted,
            "this log filter makes no sense and is ignored"
        );
    }
}
