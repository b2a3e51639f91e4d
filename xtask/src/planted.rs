//! Planted bugs: a rule is broken on purpose, and the test that guards it must notice.
//!
//! Owns the table `xtask/planted.toml` and how a broken build is made: `--cfg planted="NAME"` is added for the crates
//! of this workspace alone, by a compiler wrapper in a target directory of its own, so that dependencies are built once
//! for all names and the product never sees a broken build. (A cargo feature would leak into the product, and
//! `build.rustflags` would build every dependency again for each name.)

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

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
    /// Which tests of the package: a filter as `cargo test` takes it.
    test: String,
    /// What the test is given.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// It must be found within this.
    budget_seconds: u64,
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
    for planted in &chosen {
        if arguments.list {
            println!("{:<32} {}", planted.name, planted.rule);
            continue;
        }
        match hunt(&workspace, planted) {
            Ok(took) => println!("{:<32} found in {:.1} s", planted.name, took.as_secs_f64()),
            Err(error) => {
                println!("{:<32} NOT FOUND: {error:#}", planted.name);
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

/// Builds with the bug and runs its finder, which must fail; how long that took.
fn hunt(workspace: &Workspace, planted: &Planted) -> Result<Duration> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    ensure!(
        !planted.name.is_empty() && planted.name.chars().all(plain),
        "a name has letters, digits, _ and - only"
    );
    let wrapper = wrapper(workspace, &planted.name)?;
    let cargo = |extra: &[&str]| {
        let mut command = workspace.cargo(&["test", "--locked", "--package", &planted.package]);
        command
            .args(extra)
            .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
            .env("CARGO_TARGET_DIR", workspace.target.join("planted"))
            .envs(&planted.env);
        command
    };
    // A broken build that does not compile finds nothing.
    process::check("the build", &mut cargo(&["--no-run"]), BUILD_LIMIT)?;
    let mut finder: Command = cargo(&["--no-fail-fast", "--", &planted.test]);
    let started = Instant::now();
    let limit = Duration::from_secs(planted.budget_seconds);
    let finished = process::run(&mut finder, limit, Echo::Hide)?;
    let took = started.elapsed();
    let ran = finished
        .text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("running ")?
                .split(' ')
                .next()?
                .parse::<u32>()
                .ok()
        })
        .sum::<u32>();
    ensure!(
        ran > 0,
        "no test of {} is named like `{}`:\n{}",
        planted.package,
        planted.test,
        finished.tail()
    );
    match finished.status {
        None => bail!("the budget of {} s is used up", planted.budget_seconds),
        Some(status) if status.success() => bail!("{ran} tests ran and all passed"),
        Some(_) => Ok(took),
    }
}

/// A compiler wrapper for one name. Cargo keeps what different wrappers built apart.
fn wrapper(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let directory = workspace.target.join("planted/wrappers");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(name);
    let text = format!("#!/bin/sh\nexec \"$@\" --cfg 'planted=\"{name}\"'\n");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(path);
    }
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
