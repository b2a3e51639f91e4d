//! Running seeds of a simulation, each range in a process of its own.
//!
//! Owns how seeds are handed to a test (`POLYFS_SEED`, `POLYFS_SEEDS`) and how a failing one is found and reported.
//! What a seed means is the test's business. A seed that is run twice in one process may differ, so a failing range is
//! run again seed by seed, each in a fresh process.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
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
    /// Of the machine floor: how much goes wrong [default: each in turn]
    #[arg(long, value_enum)]
    weather: Option<Weather>,
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

/// The floors of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Floor {
    /// State machines on a toy network, one thread
    Machine,
    /// A whole node on a simulated runtime: power cuts of the only one
    Node,
    /// Clusters of whole nodes on a simulated runtime
    Cluster,
}

/// What the machine floor knows as weather.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Weather {
    /// Nothing goes wrong: one mount, one call at a time
    Calm,
    /// Nothing goes wrong, mounts meet
    Crowded,
    /// Messages are lost, nodes crash and are cut off
    Rough,
    /// Rough, with more late requests and mounts that stand still
    Stormy,
    /// Rough, and regions get new epochs all the time
    Regrown,
}

impl Weather {
    const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Crowded => "crowded",
            Self::Rough => "rough",
            Self::Stormy => "stormy",
            Self::Regrown => "regrown",
        }
    }
}

impl Floor {
    fn package(self) -> &'static str {
        match self {
            Self::Machine => "polyfs-model",
            Self::Node | Self::Cluster => "polyfs-sim-tests",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Node => "node",
            Self::Cluster => "cluster",
        }
    }

    /// How many seeds one process may run.
    fn seeds_per_process(self) -> u64 {
        match self {
            Self::Machine => 200,
            Self::Node | Self::Cluster => 1,
        }
    }
}

/// What a process runs, but for its seeds.
struct Finder {
    floor: Floor,
    weather: Option<Weather>,
    binary: PathBuf,
}

/// The words for libtest that name a floor's tests.
fn tests_of(floor: Floor, weather: Option<Weather>) -> Vec<String> {
    match (floor, weather) {
        (Floor::Machine, Some(weather)) => vec![format!("seeds_in_{}", weather.name())],
        (Floor::Machine, None) => vec!["seeds_in_".into()],
        (Floor::Node, _) => vec!["seeds".into(), "--exact".into()],
        (Floor::Cluster, _) => vec!["clusters::seeds_".into()],
    }
}

/// The integration test of a floor's package that runs seeds.
const TEST_BINARY: &str = "sim";
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
    let floor = arguments.floor;
    ensure!(
        floor == Floor::Machine || arguments.weather.is_none(),
        "--weather is the machine floor's: whole nodes draw their faults by the seed"
    );
    let finder = Finder {
        floor,
        weather: arguments.weather,
        binary: build(&workspace, floor, arguments.release)?,
    };
    let commit = workspace.commit();
    if let Some(seed) = arguments.seed {
        println!("seed {seed} of {} at {commit}", floor.name());
        let finished = finder.attempt(&(seed..seed + 1), Echo::Show)?;
        ensure!(finished, "seed {seed} fails");
        return Ok(());
    }
    let started = Instant::now();
    let swarm = Swarm {
        finder,
        commit,
        fail_fast: arguments.fail_fast,
        open: Mutex::new(pieces(&arguments.seeds, floor, arguments.jobs)),
        failed: Mutex::new(Vec::new()),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs.max(1))
            .map(|_| scope.spawn(|| swarm.work()))
            .collect();
        let mut ended = workers.into_iter().map(|worker| worker.join());
        ended.try_for_each(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let failed = swarm
        .failed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds of {} at {}, {} failing, {:.1} s",
        arguments.seeds.end - arguments.seeds.start,
        floor.name(),
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
    finder: Finder,
    commit: String,
    fail_fast: bool,
    open: Mutex<VecDeque<Range<u64>>>,
    failed: Mutex<Vec<u64>>,
}

impl Swarm {
    /// Works until nothing is left. A process that could not be started or ran no test is no failing seed: it is an error.
    fn work(&self) -> Result<()> {
        loop {
            let next = self
                .open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(piece) = next else {
                return Ok(());
            };
            if self.finder.attempt(&piece, Echo::Hide)? {
                continue;
            }
            let mut found = Vec::new();
            for seed in piece.clone() {
                if !self.finder.attempt(&(seed..seed + 1), Echo::Hide)? {
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
        let floor = self.finder.floor.name();
        let weather = self.finder.weather;
        let weather = weather.map_or(String::new(), |of| format!(" --weather {}", of.name()));
        for seed in seeds {
            println!(
                "FAILED seed {seed} of {floor} at {}; replay: cargo xtask sim --floor {floor}{weather} --seed {seed}",
                self.commit,
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

impl Finder {
    /// One process for a range; whether it passed.
    fn attempt(&self, seeds: &Range<u64>, echo: Echo) -> Result<bool> {
        let mut command = process::command(&self.binary);
        command.args(tests_of(self.floor, self.weather));
        command.args(["--nocapture", "--test-threads", "1"]);
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
            "{} has no test for the floor {}",
            self.binary.display(),
            self.floor.name()
        );
        Ok(finished.success())
    }
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
    use clap::ValueEnum as _;

    #[test]
    fn a_range_is_cut_without_gap_or_overlap() {
        for (seeds, floor) in [
            (5..6, Floor::Machine),
            (0..1_001, Floor::Machine),
            (7..30, Floor::Node),
            (7..30, Floor::Cluster),
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

    /// A test that is renamed must not make the command find nothing.
    #[test]
    fn every_floor_has_its_tests() {
        let workspace = Workspace::load().expect("this workspace");
        let source = |package: &str, file: &str| {
            let folder = workspace.package(package).expect("a package").folder();
            std::fs::read_to_string(folder.join("tests").join(file)).expect("its test")
        };
        let machine = source("polyfs-model", "sim.rs");
        for weather in Weather::value_variants() {
            let name = &tests_of(Floor::Machine, Some(*weather))[0];
            assert!(machine.contains(&format!("\nfn {name}")), "{name}");
        }
        assert!(source("polyfs-sim-tests", "sim.rs").contains("\nfn seeds()"));
        assert!(source("polyfs-sim-tests", "clusters/mod.rs").contains("\nfn seeds_0()"));
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        assert_eq!(parse_range("3..5"), Ok(3..5));
        assert!(parse_range("5..5").is_err() && parse_range("5").is_err());
    }
}
