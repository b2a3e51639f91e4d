//! Acceptance lines: what PolyFS must show, each a check with a figure, run against the real binary.
//!
//! Owns the table of lines ([`TABLE`]) and nothing about how one is carried out: the topics do that, one file each,
//! with [`context`] and [`mount`] as their tools, and [`runner`] runs each line in a process of its own. A line that
//! does not exist yet is not in the table; one that exists but is not expected to hold yet is `Planned`: listed,
//! compiled, run only when asked for.

mod bad_input;
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

/// Whether a line is expected to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// CI fails when it does not.
    Enabled,
    /// Compiled and listed; run with `--planned`.
    Planned,
}

use Stage::{Enabled, Planned};

/// Every line there is, in the order they run. This table decides what CI holds us to.
const TABLE: &[(Stage, &Line)] = &[
    (Enabled, &build::CLEAN),
    (Enabled, &build::VERSION),
    (Enabled, &build::WRONG_ARGUMENT),
    (Enabled, &up::START),
    (Enabled, &up::STOP),
    (Enabled, &up::POSIX),
    (Enabled, &up::OTHER_USER),
    (Enabled, &tree::COPY),
    (Enabled, &durability::KILL),
    (Enabled, &databases::SQLITE),
    (Enabled, &databases::POSTGRES),
    (Enabled, &suites::FSX),
    (Enabled, &suites::PJDFSTEST),
    (Enabled, &suites::APPS),
    (Enabled, &formation::START),
    (Enabled, &formation::GROW),
    (Enabled, &formation::MEMBERS),
    (Enabled, &sharing::SHARED),
    (Enabled, &sharing::TREE),
    (Enabled, &faults::KILL),
    (Enabled, &faults::PAUSE),
    (Enabled, &faults::QUICK),
    (Enabled, &faults::MAJORITY),
    (Enabled, &powercut::KILL),
    (Enabled, &powercut::MOVE),
    (Enabled, &live::SQLITE),
    (Enabled, &live::POSTGRES),
    (Enabled, &bad_input::NETWORK),
    (Enabled, &bad_input::STRANGER),
    (Enabled, &bad_input::MOUNTPOINT),
    (Enabled, &bad_input::DATA),
    (Enabled, &bad_input::FULL),
    (Enabled, &damage::SINGLE),
    (Enabled, &damage::THREE),
    (Enabled, &idle::IDLE),
];

/// `cargo xtask accept`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only list the lines, and whether each is enabled
    #[arg(long)]
    list: bool,
    /// Only lines whose id contains this
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Run planned lines too
    #[arg(long)]
    planned: bool,
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

/// The Debian packages that the enabled lines use.
pub(crate) fn packages() -> Vec<&'static str> {
    let enabled = TABLE.iter().filter(|(stage, _)| *stage == Enabled);
    let mut packages: Vec<&str> = enabled
        .flat_map(|(_, line)| line.packages)
        .copied()
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Runs every enabled line, for CI; those that could not begin before `deadline` fail.
pub(crate) fn all(workspace: &Workspace, deadline: Instant) -> Result<Counts> {
    let lines: Vec<&Line> = TABLE
        .iter()
        .filter(|(stage, _)| *stage == Enabled)
        .map(|(_, line)| *line)
        .collect();
    println!("--- accept");
    let options = runner::Options {
        deadline: Some(deadline),
        ..runner::Options::default()
    };
    let outcomes = runner::run(workspace, &lines, &options)?;
    runner::print_table(&outcomes);
    Ok(runner::counts(&outcomes))
}

/// `cargo xtask accept`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chosen = TABLE.iter().filter(|(_, line)| {
        let pattern = arguments.only.as_deref().unwrap_or_default();
        line.id.contains(pattern)
    });
    if arguments.list {
        for (stage, line) in chosen {
            let word = if *stage == Enabled {
                "enabled"
            } else {
                "planned"
            };
            println!("{:<16} {word:<8} {}", line.id, line.title);
        }
        return Ok(());
    }
    let lines: Vec<&Line> = chosen
        .filter(|(stage, _)| *stage == Enabled || arguments.planned)
        .map(|(_, line)| *line)
        .collect();
    if lines.is_empty() {
        bail!(
            "no such line among those enabled; --list shows all, --planned runs planned ones too"
        );
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
    TABLE
        .iter()
        .map(|(_, line)| *line)
        .find(|line| line.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_plain() {
        let mut ids: Vec<&str> = TABLE.iter().map(|(_, line)| line.id).collect();
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
