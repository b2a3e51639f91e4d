//! Logs: `tracing` events as lines on stderr, or in a file.
//!
//! Owns where they go, and that a warning which repeats itself is not all that can be read: see [`sparing`].

mod sparing;

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use sparing::Sparing;

/// What is logged unless asked otherwise.
const DEFAULT: &str = "warn,openraft=error";

/// Starts logging. An empty filter is none: a variable of the environment may be set to nothing.
pub(crate) fn start(filter: Option<&str>, file: Option<&Path>) -> anyhow::Result<()> {
    let wanted = filter.filter(|filter| !filter.trim().is_empty());
    let filter = EnvFilter::try_new(wanted.unwrap_or(DEFAULT))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let format = Sparing::new(tracing_subscriber::fmt::format());
    match file {
        None => lines
            .event_format(format)
            .with_writer(std::io::stderr)
            .init(),
        Some(path) => {
            let opened = File::options().create(true).append(true).open(path);
            let opened = opened
                .with_context(|| format!("the log file {} can't be opened", path.display()))?;
            lines
                .with_ansi(false)
                .event_format(format)
                .with_writer(Mutex::new(opened))
                .init();
        }
    }
    Ok(())
}
