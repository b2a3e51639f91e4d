//! What the system tells a running command, and the lines that say it is up.
//!
//! Owns the two signals that end it, Ctrl-C and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output;

/// The signals that end a command.
pub(crate) struct End {
    interrupt: Signal,
    terminate: Signal,
}

/// Listens for them from now on.
pub(crate) fn end() -> anyhow::Result<End> {
    Ok(End {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

impl End {
    /// Waits for one of them.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A line on stdout that programs wait for.
pub(crate) fn say(word: &str, what: &str) -> anyhow::Result<()> {
    output::print(&format!("{word} {what}"))
}
