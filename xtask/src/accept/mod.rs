//! Acceptance lines: what PolyFS must show, each a check with a figure, run against the real binary.
//!
//! Owns the table of lines ([`TABLE`]) and nothing about how one is carried out: the topics do that, one file each,
//! with [`context`] and [`mount`] as their tools, and [`runner`] runs each line in a process of its own. A line that
//! does not exist yet is not in the table.

mod bad_input;
mod bad_usage;
mod build;
pub(crate) mod cluster;
mod context;
mod damage;
mod databases;
mod durability;
mod faults;
mod formation;
mod idle;
mod live;
mod load;
pub(crate) mod mount;
mod powercut;
mod runner;
mod sharing;
mod suites;
mod tree;
mod up;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub(crate) use context::{Context, Figure, is_mounted};
pub(crate) use runner::{LineArguments, run_line};

use crate::verify::Counts;
use crate::workspace::Workspace;

/// One acceptance line.
pub(crate) struct Line {
    /// Short and stable: what `--only` matches.
    pub(crate) id: &'static str,
    /// What it shows, as a sentence.
    pub(crate) title: &'static str,
    /// What the machine must offer.
    pub(crate) needs: Needs,
    /// Debian packages it uses.
    pub(crate) packages: &'static [&'static str],
    /// When it is given up, hung or not.
    pub(crate) limit: Duration,
    /// Carries it out.
    pub(crate) run: fn(&Context) -> Result<Figure>,
}

/// What a line needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing special.
    Nothing,
    /// root and /dev/fuse.
    Mount,
}

/// Every line there is, in the order they run. This table decides what CI holds us to.
const TABLE: &[&Line] = &[
    &build::CLEAN,
    &build::VERSION,
    &build::WRONG_ARGUMENT,
    &up::START,
    &up::STOP,
    &up::REPLACED,
    &up::SIGNALS,
    &up::POSIX,
    &up::OTHER_USER,
    &tree::COPY,
    &durability::KILL,
    &databases::SQLITE,
    &databases::POSTGRES,
    &suites::FSX,
    &suites::PJDFSTEST,
    &suites::APPS,
    &formation::START,
    &formation::GROW,
    &formation::MEMBERS,
    &sharing::SHARED,
    &sharing::LIMITS,
    &sharing::TREE,
    &faults::KILL,
    &faults::PAUSE,
    &faults::QUICK,
    &faults::MAJORITY,
    &powercut::KILL,
    &powercut::MOVE,
    &live::SQLITE,
    &live::POSTGRES,
    &bad_input::NETWORK,
    &bad_input::STRANGER,
    &bad_input::MOUNTPOINT,
    &bad_input::DATA,
    &bad_input::FULL,
    &bad_usage::FLAGS,
    &bad_usage::MOUNTS,
    &bad_usage::LOSSES,
    &damage::SINGLE,
    &damage::THREE,
    &idle::IDLE,
];

/// `cargo xtask accept`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only list the lines
    #[arg(long)]
    list: bool,
    /// Only lines whose id contains this
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Print results as JSON
    #[arg(long)]
    json: bool,
    /// Use this binary instead of building polyfs in release
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Leave the work directory in place
    #[arg(long)]
    keep: bool,
}

/// The Debian packages that the lines use.
pub(crate) fn packages() -> Vec<&'static str> {
    let used = TABLE.iter().flat_map(|line| line.packages);
    let mut packages: Vec<&str> = used.copied().collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Runs every line, for CI; those that could not begin before `deadline` fail.
pub(crate) fn all(workspace: &Workspace, deadline: Instant) -> Result<Counts> {
    println!("--- accept");
    let options = runner::Options {
        deadline: Some(deadline),
        ..runner::Options::default()
    };
    let outcomes = runner::run(workspace, TABLE, &options)?;
    runner::print_table(&outcomes);
    Ok(runner::counts(&outcomes))
}

/// `cargo xtask accept`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let pattern = arguments.only.as_deref().unwrap_or_default();
    let chosen = TABLE.iter().filter(|line| line.id.contains(pattern));
    let lines: Vec<&Line> = chosen.copied().collect();
    if lines.is_empty() {
        bail!("no such line; --list shows all");
    }
    if arguments.list {
        for line in lines {
            println!("{:<16} {}", line.id, line.title);
        }
        return Ok(());
    }
    let options = runner::Options {
        binary: arguments.binary.clone(),
        keep: arguments.keep,
        quiet: arguments.json,
        deadline: None,
    };
    let outcomes = runner::run(&Workspace::load()?, &lines, &options)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        runner::print_table(&outcomes);
    }
    if runner::counts(&outcomes).failed != 0 {
        bail!("not all lines hold");
    }
    Ok(())
}

/// The line of that id.
fn find(id: &str) -> Option<&'static Line> {
    TABLE.iter().copied().find(|line| line.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_plain() {
        let mut ids: Vec<&str> = TABLE.iter().map(|line| line.id).collect();
        let plain = |id: &&str| {
            id.chars()
                .all(|c| c.is_ascii_lowercase() || "-0123456789".contains(c))
        };
        assert!(ids.iter().all(plain));
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
