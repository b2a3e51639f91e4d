//! Runs lines one after the other, each in a process of its own, and cleans up after each whatever became of it.
//!
//! A mount that hangs can hang whoever touches it, so the line's process touches it and this one only waits: at the
//! line's limit it is killed, then what it had started (by the ids it noted), then what it had mounted.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use super::{Context, Figure, Line, Needs, context, find};
use crate::install;
use crate::process::{self, Echo, ledger, orphans};
use crate::verify::Counts;
use crate::workspace::Workspace;

const RESULT: &str = "result.json";
/// A run's work directory is called this and its process id. Short, as are the names below it: the path of a socket
/// on a mount has room for 107 bytes, and suites make deep ones.
const PREFIX: &str = "pfs-";
/// How long a line that began before the deadline may go on after it.
const LATE: Duration = Duration::from_secs(5 * 60);
const BUILD_LIMIT: Duration = Duration::from_secs(25 * 60);

/// How lines are run.
#[derive(Default)]
pub(super) struct Options {
    /// Instead of building polyfs.
    pub(super) binary: Option<PathBuf>,
    /// Leave work directories.
    pub(super) keep: bool,
    /// Print nothing while running.
    pub(super) quiet: bool,
    /// Lines that have not begun by then fail.
    pub(super) deadline: Option<Instant>,
}

/// What became of a line.
#[derive(Serialize)]
pub(super) struct Outcome {
    id: &'static str,
    title: &'static str,
    result: Verdict,
    figure: Option<Figure>,
    detail: String,
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// `accept-line`: one line, in this process.
#[derive(clap::Args)]
pub(crate) struct LineArguments {
    id: String,
    #[arg(long)]
    binary: PathBuf,
    #[arg(long)]
    scratch: PathBuf,
}

/// Carries out one line; its figure goes to a file in its work directory.
pub(crate) fn run_line(arguments: &LineArguments) -> Result<()> {
    let line = find(&arguments.id).context("no such line")?;
    let workspace = Workspace::load()?;
    let context = Context {
        shared: workspace.shared(),
        target: workspace.target,
        root: workspace.root,
        binary: arguments.binary.clone(),
        scratch: arguments.scratch.clone(),
    };
    let figure = (line.run)(&context)?;
    std::fs::write(
        context.scratch.join(RESULT),
        serde_json::to_string(&figure)?,
    )?;
    Ok(())
}

/// Runs `lines` in order.
pub(super) fn run(
    workspace: &Workspace,
    lines: &[&'static Line],
    options: &Options,
) -> Result<Vec<Outcome>> {
    let binary = match &options.binary {
        Some(path) => path.canonicalize().context("--binary")?,
        None => build(workspace)?,
    };
    let home = tempdir()?;
    let mut outcomes = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let started = Instant::now();
        let scratch = home.join(number.to_string());
        let (result, figure, detail) = judge(line, &binary, &scratch, options);
        let outcome = Outcome {
            id: line.id,
            title: line.title,
            result,
            figure,
            detail,
            seconds: started.elapsed().as_secs_f64(),
        };
        if !options.quiet {
            println!("{}", describe(&outcome));
        }
        outcomes.push(outcome);
        clean(&scratch, options.keep);
    }
    if options.keep {
        eprintln!("kept {}", home.display());
    } else {
        let _not_empty = std::fs::remove_dir(&home);
    }
    Ok(outcomes)
}

fn describe(outcome: &Outcome) -> String {
    let figure = outcome
        .figure
        .as_ref()
        .map_or("", |figure| figure.text.as_str());
    let mut text = format!(
        "{:<16} {:<8} {figure}{}",
        outcome.id,
        outcome.result.word(),
        outcome.detail.lines().next().unwrap_or_default()
    );
    if outcome.result == Verdict::Failed {
        for line in outcome.detail.lines().skip(1) {
            text.push_str("\n    ");
            text.push_str(line);
        }
    }
    text
}

/// What line, result and figure, one row each.
pub(super) fn print_table(outcomes: &[Outcome]) {
    println!("\n{:<16} {:<8} figure", "line", "result");
    for outcome in outcomes {
        let figure = match &outcome.figure {
            Some(figure) => figure.text.as_str(),
            None => outcome.detail.lines().next().unwrap_or_default(),
        };
        println!("{:<16} {:<8} {figure}", outcome.id, outcome.result.word());
    }
    println!();
}

/// Skipped lines count as neither; in CI nothing is skipped.
pub(super) fn counts(outcomes: &[Outcome]) -> Counts {
    let count = |verdict| {
        let same = outcomes.iter().filter(|outcome| outcome.result == verdict);
        u64::try_from(same.count()).unwrap_or(u64::MAX)
    };
    Counts {
        passed: count(Verdict::Passed),
        failed: count(Verdict::Failed),
    }
}

/// Whether a missing condition is a failure.
fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

fn judge(
    line: &Line,
    binary: &Path,
    scratch: &Path,
    options: &Options,
) -> (Verdict, Option<Figure>, String) {
    if options
        .deadline
        .is_some_and(|deadline| Instant::now() > deadline)
    {
        return (Verdict::Failed, None, "no time was left for it".to_owned());
    }
    if let Some(missing) = unmet(line) {
        let verdict = if in_ci() {
            Verdict::Failed
        } else {
            Verdict::Skipped
        };
        return (verdict, None, missing);
    }
    let left = options.deadline.map_or(line.limit, |deadline| {
        deadline.saturating_duration_since(Instant::now()) + LATE
    });
    match attempt(line, binary, scratch, line.limit.min(left)) {
        Ok(figure) => (Verdict::Passed, Some(figure), String::new()),
        Err(error) => (Verdict::Failed, None, format!("{error:#}")),
    }
}

fn unmet(line: &Line) -> Option<String> {
    if line.needs == Needs::Mount {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        if !Path::new("/dev/fuse").exists() {
            return Some("needs /dev/fuse".to_owned());
        }
    }
    let packages = install::missing(line.packages);
    if !packages.is_empty() {
        return Some(format!("needs: apt-get install {}", packages.join(" ")));
    }
    None
}

fn attempt(line: &Line, binary: &Path, scratch: &Path, limit: Duration) -> Result<Figure> {
    std::fs::create_dir_all(scratch)?;
    std::fs::set_permissions(scratch, std::fs::Permissions::from_mode(0o755))?;
    // By process id: the file itself may be replaced by a build while lines run.
    let own = format!("/proc/{}/exe", std::process::id());
    let mut command = process::command(own);
    command
        .args(["accept-line", line.id])
        .arg("--binary")
        .arg(binary)
        .arg("--scratch")
        .arg(scratch)
        .env(orphans::MARK, scratch);
    let finished = process::run(&mut command, limit, Echo::Hide)?;
    match finished.status {
        Some(status) if status.success() => {}
        Some(_) => bail!("{}", finished.text.trim().trim_start_matches("error: ")),
        None => bail!("no end within {} s\n{}", limit.as_secs(), finished.tail()),
    }
    let text = std::fs::read_to_string(scratch.join(RESULT))?;
    Ok(serde_json::from_str(&text)?)
}

/// Ends what the line left running, unmounts what it left mounted, removes its work directory.
fn clean(scratch: &Path, keep: bool) {
    ledger::kill_all(scratch);
    orphans::end(scratch);
    for point in context::mounts().iter().rev() {
        if point.starts_with(scratch) {
            let mut command = process::command("umount");
            command.arg("-l").arg(point);
            let _said_below = process::run(&mut command, Duration::from_secs(10), Echo::Hide);
        }
    }
    let still = context::mounts()
        .iter()
        .any(|point| point.starts_with(scratch));
    if still {
        eprintln!("{} is still mounted and was left alone", scratch.display());
    } else if !keep {
        let _left_behind = std::fs::remove_dir_all(scratch);
    }
}

/// Builds the release binary.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let arguments = ["build", "--locked", "--release", "--package", "polyfs-cli"];
    let mut command = workspace.cargo(&arguments);
    process::check("the release build", &mut command, BUILD_LIMIT)?;
    let binary = workspace.target.join("release/polyfs");
    ensure!(binary.is_file(), "{} was not built", binary.display());
    Ok(binary)
}

/// Cleans up after runs that were killed themselves.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_string_lossy();
        let Some(id) = owner.strip_prefix(PREFIX) else {
            continue;
        };
        if id.parse::<u32>().is_err() || Path::new("/proc").join(id).exists() {
            continue;
        }
        for line in std::fs::read_dir(entry.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            clean(&line.path(), false);
        }
        let _not_empty = std::fs::remove_dir(entry.path());
    }
}

/// A work directory on a real disk (not a tmpfs, which knows no O_DIRECT), which any user may enter.
fn tempdir() -> Result<PathBuf> {
    let parent = std::env::var_os("POLYFS_ACCEPT_DIR")
        .map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
        // As /proc/self/mounts spells it: nothing mounted below must be overlooked.
        .canonicalize()
        .context("POLYFS_ACCEPT_DIR")?;
    sweep(&parent);
    let path = parent.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
