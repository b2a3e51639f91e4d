//! Planted bugs: a rule is broken on purpose, and the test that guards it must notice.
//!
//! Owns the table `xtask/planted.toml`, the hunt for each bug and the table of what was found. How a broken build is made
//! is [`build`]'s business.

mod build;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use self::build::Broken;
use crate::process::{self, Echo};
use crate::workspace::Workspace;

const FILE: &str = "xtask/planted.toml";
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// `cargo xtask planted`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the bugs whose name contains this
    name: Option<String>,
    /// Only list them
    #[arg(long)]
    list: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    planted: Vec<Planted>,
}

/// One planted bug and the test that must find it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Planted {
    /// As in `cfg!(planted = "NAME")`.
    name: String,
    /// The rule it breaks.
    rule: String,
    /// The package whose test finds it.
    package: String,
    /// The package's test binary, or `lib`; all of them when it is not said.
    target: Option<String>,
    /// Which tests of the package: a filter as `cargo test` takes it.
    test: String,
    /// The seeds that a randomised test is given, as A..B, B not included.
    seeds: Option<String>,
    /// What the failure must say, so that it is no other.
    says: Option<String>,
    /// What else the test is given.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// It must be found within this, the build not counted.
    budget_seconds: u64,
}

/// A bug that was found.
struct Found {
    took: Duration,
    /// Of a randomised test: the first seed that found it, and how many were tried up to that.
    seed: Option<(u64, u64)>,
}

/// Plants each bug and reports whether it was found.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::load()?;
    let text = std::fs::read_to_string(workspace.root.join(FILE)).context(FILE)?;
    let table: Table = toml::from_str(&text).context(FILE)?;
    let pattern = arguments.name.as_deref().unwrap_or_default();
    let chosen: Vec<&Planted> = table
        .planted
        .iter()
        .filter(|planted| planted.name.contains(pattern))
        .collect();
    ensure!(
        !chosen.is_empty() || pattern.is_empty(),
        "{FILE} has no bug named like `{pattern}`"
    );
    let mut missed = Vec::new();
    if !arguments.list {
        println!(
            "{:<30} {:<9} {:<14} {:>7}  rule",
            "bug", "", "seeds", "seconds"
        );
    }
    for planted in &chosen {
        if arguments.list {
            println!("{:<30} {}", planted.name, planted.rule);
            continue;
        }
        match hunt(&workspace, planted) {
            Ok(found) => println!("{}", line(planted, &found)),
            Err(error) => {
                println!("{:<30} NOT FOUND: {error:#}", planted.name);
                missed.push(planted.name.as_str());
            }
        }
    }
    if !missed.is_empty() {
        bail!("not found: {}", missed.join(", "));
    }
    println!("{} planted bugs", chosen.len());
    Ok(())
}

fn line(planted: &Planted, found: &Found) -> String {
    let seeds = found.seed.map_or_else(
        || "-".to_owned(),
        |(first, tried)| format!("{tried} (to {first})"),
    );
    let seconds = found.took.as_secs_f64();
    format!(
        "{:<30} {:<9} {seeds:<14} {seconds:>7.1}  {}",
        planted.name, "found", planted.rule
    )
}

/// Builds with the bug and runs its finder, which must fail.
fn hunt(workspace: &Workspace, planted: &Planted) -> Result<Found> {
    let broken = Broken::plant(workspace, &planted.name)?;
    let target: Vec<&str> = match planted.target.as_deref() {
        None => Vec::new(),
        Some("lib") => vec!["--lib"],
        Some(name) => vec!["--test", name],
    };
    let cargo = |extra: &[&str]| {
        let task = ["test", "--locked", "--package", &planted.package];
        let mut command = workspace.cargo(&task);
        command.args(&target).args(extra).envs(&planted.env);
        if let Some(seeds) = &planted.seeds {
            // Each test gives up at its first failure: together they tell the first seed that finds the bug.
            command
                .env("POLYFS_SEEDS", seeds)
                .env("POLYFS_FAILURES", "1");
        }
        broken.dress(&mut command);
        command
    };
    // A broken build that does not compile finds nothing.
    let built = process::check("the build", &mut cargo(&["--no-run"]), BUILD_LIMIT);
    built.inspect_err(|_| broken.forget_partial())?;
    // Said as it happens: a finder that is ended at its limit may have found it.
    let mut finder = cargo(&["--no-fail-fast", "--", "--nocapture", &planted.test]);
    let started = Instant::now();
    let limit = Duration::from_secs(planted.budget_seconds);
    let finished = process::run(&mut finder, limit, Echo::Hide)?;
    let took = started.elapsed();
    let ran = tests_run(&finished.text);
    ensure!(
        ran > 0,
        "no test of {} is named like `{}`:\n{}",
        planted.package,
        planted.test,
        finished.tail()
    );
    let seed = first_seed(&finished.text);
    match finished.status {
        // With one seed found the others need not end.
        None if seed.is_none() => bail!("the budget of {} s is used up", planted.budget_seconds),
        Some(status) if status.success() => bail!("{ran} tests ran and all passed"),
        _ => {}
    }
    if let Some(says) = &planted.says {
        ensure!(
            finished.text.contains(says),
            "it failed otherwise than by `{says}`:\n{}",
            finished.tail()
        );
    }
    let Some(seeds) = &planted.seeds else {
        return Ok(Found { took, seed: None });
    };
    let first = seed.with_context(|| format!("no seed failed:\n{}", finished.tail()))?;
    let from = seeds.split("..").next().and_then(|from| from.parse().ok());
    let from: u64 = from.context("seeds are A..B")?;
    let tried = first.saturating_sub(from) + 1;
    let seed = Some((first, tried));
    Ok(Found { took, seed })
}

/// How many tests `cargo test` says it ran.
fn tests_run(text: &str) -> u32 {
    let count = |line: &str| {
        let count = line.strip_prefix("running ")?.split(' ').next()?;
        count.parse::<u32>().ok()
    };
    text.lines().filter_map(count).sum()
}

/// The lowest seed of which a test says that it failed: `seed N failed: why`.
fn first_seed(text: &str) -> Option<u64> {
    let seed = |line: &str| {
        let (seed, _) = line.strip_prefix("seed ")?.split_once(" failed: ")?;
        seed.parse::<u64>().ok()
    };
    text.lines().filter_map(seed).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_failed_seed_counts() {
        let text = "seed 7: 3 nodes\nseed 12 failed: x\nseed 9 failed: y\nrunning 4 tests\n";
        assert_eq!((first_seed(text), tests_run(text)), (Some(9), 4));
    }
}
