//! What the system tells a running command, and the lines that say it is up.
//!
//! Owns the signals that end it: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed, unless it was started to outlive
//! that (nohup(1)). A command listens once, from its start on: what arrives at any time ends it.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output;

/// The signals that end a command.
pub(crate) struct End {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Option<Signal>,
}

/// Listens for them from now on.
pub(crate) fn end() -> anyhow::Result<End> {
    let hang_up = (!ignores_hang_up()).then(|| signal(SignalKind::hangup()));
    Ok(End {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        hang_up: hang_up.transpose()?,
    })
}

impl End {
    /// Waits for one of them. Those that came since it was made count.
    pub(crate) async fn wait(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hang_up => {}
        }
    }
}

/// Whether SIGHUP, the first signal, was ignored when this process was started (proc_pid_status(5), SigIgn).
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// A line on stdout that programs wait for.
pub(crate) fn say(word: &str, what: &str) -> anyhow::Result<()> {
    output::print(&format!("{word} {what}"))
}
