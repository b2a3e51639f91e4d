//! What people and programs read: answers on stdout, errors on stderr.
//!
//! Owns their form, and the exit code of an error. A reader that has gone (`| head -1`) is no failure.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use polyfs_node::find::FindError;
use polyfs_node::join::JoinError;

/// The command was not given what it needs, or what contradicts itself: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The exit code for wrong usage, the same as the argument parser's.
pub(crate) const USAGE: u8 = 2;

/// Wrong usage, as an error.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// Prints a line to stdout.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let printed = writeln!(out, "{text}").and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Says what went wrong; the exit code.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    // Who reads no errors is told by the exit code.
    let _ = writeln!(std::io::stderr(), "polyfs: {}", explain(error));
    if is_usage(error) {
        ExitCode::from(USAGE)
    } else {
        ExitCode::FAILURE
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || matches!(error.downcast_ref(), Some(FindError::NobodyToAsk))
        || matches!(error.downcast_ref(), Some(JoinError::NoWaypoint))
}

/// An error and its causes, each said once: many name their cause themselves.
fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    /// As most of ours: it names its cause, and has it as its source.
    #[derive(Debug)]
    struct Outer(std::fmt::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "the file is damaged ({}): remove it", self.0)
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = std::fmt::Error;
        let said = cause.to_string();
        let error = anyhow::Error::new(Outer(cause)).context("at start");
        let text = explain(&error);
        assert_eq!(text.matches(&said).count(), 1, "{text}");
        assert!(text.starts_with("at start: the file is damaged"), "{text}");
    }

    #[test]
    fn wrong_usage_is_known_behind_what_was_being_done() {
        let failed: anyhow::Result<()> = Err(usage("give --listen"));
        let error = failed.context("the waypoint").expect_err("it failed");
        assert!(is_usage(&error));
        assert!(is_usage(&FindError::NobodyToAsk.into()));
        assert!(!is_usage(&anyhow::anyhow!("the disk is gone")));
    }
}
