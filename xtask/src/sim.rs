//! Running seeds of a simulation, each range in a process of its own.
//!
//! Owns how seeds are handed to a test (`POLYFS_SEED`, `POLYFS_SEEDS`) and how a failing one is found and reported.
//! What a seed means is the test's business. A seed that is run twice in one process may differ, so a failing range is
//! run again seed by seed, each in a fresh process.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{self, Echo};
use crate::workspace::Workspace;

/// `cargo xtask sim`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which simulation
    #[arg(long, value_enum, default_value = "machine")]
    floor: Floor,
    /// One seed, shown in full: replays a failure
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// A range of seeds, the end not included
    #[arg(long, value_name = "A..B", default_value = "0..100", value_parser = parse_range)]
    seeds: Range<u64>,
    /// Processes side by side
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Build with optimisation: worth it from some minutes of seeds on
    #[arg(long)]
    release: bool,
    /// Stop after the first failing seed
    #[arg(long)]
    fail_fast: bool,
}

/// The two floors of the simulation.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Floor {
    /// State machines on a toy network, one thread
    Machine,
    /// Whole nodes on a simulated runtime
    Node,
}

impl Floor {
    fn package(self) -> &'static str {
        match self {
            Self::Machine => "polyfs-model",
            Self::Node => "polyfs-sim-tests",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Node => "node",
        }
    }

    /// How many seeds one process may run.
    fn seeds_per_process(self) -> u64 {
        match self {
            Self::Machine => 200,
            Self::Node => 1,
        }
    }
}

/// The integration test of a floor's package that runs seeds, and the function in it.
const TEST_BINARY: &str = "sim";
const TEST_NAME: &str = "seeds";
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// For one process, whatever it runs.
const RANGE_LIMIT: Duration = Duration::from_secs(30 * 60);

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text
        .split_once("..")
        .ok_or("write it as A..B, B not included")?;
    let number = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    let range: Range<u64> = number(start)?..number(end)?;
    if range.is_empty() {
        return Err("the range is empty".to_owned());
    }
    Ok(range)
}

/// Runs what was asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::load()?;
    let binary = build(&workspace, arguments.floor, arguments.release)?;
    let commit = workspace.commit();
    if let Some(seed) = arguments.seed {
        println!("seed {seed} of {} at {commit}", arguments.floor.name());
        let finished = attempt(&binary, &(seed..seed + 1), Echo::Show)?;
        ensure!(finished, "seed {seed} fails");
        return Ok(());
    }
    let started = Instant::now();
    let swarm = Swarm {
        binary,
        floor: arguments.floor,
        commit,
        fail_fast: arguments.fail_fast,
        open: Mutex::new(pieces(&arguments.seeds, arguments.floor, arguments.jobs)),
        failed: Mutex::new(Vec::new()),
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| swarm.work());
        }
    });
    let failed = swarm
        .failed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds of {} at {}, {} failing, {:.1} s",
        arguments.seeds.end - arguments.seeds.start,
        arguments.floor.name(),
        swarm.commit,
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    if !failed.is_empty() {
        bail!("failing seeds: {failed:?}");
    }
    Ok(())
}

/// Cuts a range so that every process has work and none too much.
fn pieces(seeds: &Range<u64>, floor: Floor, jobs: usize) -> VecDeque<Range<u64>> {
    let jobs = u64::try_from(jobs.max(1)).unwrap_or(1);
    let fair = (seeds.end - seeds.start).div_ceil(jobs * 4).max(1);
    let size = fair.min(floor.seeds_per_process());
    let mut pieces = VecDeque::new();
    let mut start = seeds.start;
    while start < seeds.end {
        let end = seeds.end.min(start.saturating_add(size));
        pieces.push_back(start..end);
        start = end;
    }
    pieces
}

struct Swarm {
    binary: PathBuf,
    floor: Floor,
    commit: String,
    fail_fast: bool,
    open: Mutex<VecDeque<Range<u64>>>,
    failed: Mutex<Vec<u64>>,
}

impl Swarm {
    fn work(&self) {
        loop {
            let next = self
                .open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(piece) = next else { return };
            if attempt(&self.binary, &piece, Echo::Hide).unwrap_or(false) {
                continue;
            }
            let mut found = Vec::new();
            for seed in piece.clone() {
                if !attempt(&self.binary, &(seed..seed + 1), Echo::Hide).unwrap_or(false) {
                    found.push(seed);
                    if self.fail_fast {
                        break;
                    }
                }
            }
            if found.is_empty() {
                // Some state outlived a seed: a defect of the simulation itself.
                println!("seeds {piece:?} fail together, but none alone");
                found.push(piece.start);
            }
            self.report(&found);
        }
    }

    fn report(&self, seeds: &[u64]) {
        for seed in seeds {
            println!(
                "FAILED seed {seed} of {} at {}; replay: cargo xtask sim --floor {} --seed {seed}",
                self.floor.name(),
                self.commit,
                self.floor.name()
            );
        }
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(seeds);
        if self.fail_fast {
            self.open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
    }
}

/// One process for a range; whether it passed.
fn attempt(binary: &Path, seeds: &Range<u64>, echo: Echo) -> Result<bool> {
    let mut command = process::command(binary);
    command.args([TEST_NAME, "--exact", "--nocapture", "--include-ignored"]);
    if seeds.end - seeds.start == 1 {
        command.env("POLYFS_SEED", seeds.start.to_string());
        command.env_remove("POLYFS_SEEDS");
    } else {
        command.env("POLYFS_SEEDS", format!("{}..{}", seeds.start, seeds.end));
        command.env_remove("POLYFS_SEED");
    }
    let finished = process::run(&mut command, RANGE_LIMIT, echo)?;
    ensure!(
        !finished.text.contains("running 0 tests"),
        "{} has no test named `{TEST_NAME}`",
        binary.display()
    );
    Ok(finished.success())
}

/// Builds the floor's test binary; where it is.
fn build(workspace: &Workspace, floor: Floor, release: bool) -> Result<PathBuf> {
    let package = floor.package();
    let folder = workspace
        .package(package)
        .with_context(|| format!("there is no {package}"))?
        .folder();
    ensure!(
        folder.join(format!("tests/{TEST_BINARY}.rs")).is_file(),
        "{}/tests/{TEST_BINARY}.rs does not exist yet",
        folder.display()
    );
    let mut command = workspace.cargo(&["test", "--no-run", "--package", package]);
    command.args(["--test", TEST_BINARY, "--message-format", "json"]);
    if release {
        command.arg("--release");
    }
    let text = process::check("the build", &mut command, BUILD_LIMIT)?;
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == TEST_BINARY)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo did not say where the test binary is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_without_gap_or_overlap() {
        for (seeds, floor) in [
            (5..6, Floor::Machine),
            (0..1_001, Floor::Machine),
            (7..30, Floor::Node),
        ] {
            let pieces = pieces(&seeds, floor, 2);
            let flat: Vec<u64> = pieces.iter().cloned().flatten().collect();
            assert_eq!(flat, seeds.clone().collect::<Vec<_>>());
            assert!(
                pieces
                    .iter()
                    .all(|piece| piece.end - piece.start <= floor.seeds_per_process())
            );
        }
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        assert_eq!(parse_range("3..5"), Ok(3..5));
        assert!(parse_range("5..5").is_err() && parse_range("5").is_err());
    }
}
