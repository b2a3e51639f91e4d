//! Lines about the repository itself: what a stranger gets from a fresh clone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::mount::Mount;
use super::{Context, Figure, Line, Needs, up};
use crate::process;

/// A clean checkout builds and runs.
pub(super) const CLEAN: Line = Line {
    id: "build-clean",
    title: "in a clean checkout the README's first command gives a mounted filesystem",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(30 * 60),
    run: clean,
};

/// The binary knows its version.
pub(super) const VERSION: Line = Line {
    id: "cli-version",
    title: "polyfs --version names the workspace's version",
    needs: Needs::Nothing,
    packages: &[],
    limit: Duration::from_secs(60),
    run: version,
};

/// A typing mistake gets an answer.
pub(super) const WRONG_ARGUMENT: Line = Line {
    id: "cli-wrong-args",
    title: "a wrong argument ends with exit code 2 and says which",
    needs: Needs::Nothing,
    packages: &[],
    limit: Duration::from_secs(60),
    run: wrong_argument,
};

/// What README.md tells a newcomer to run; here at another mount point.
const FIRST_COMMAND: &str = "cargo run --release -- up /mnt";

/// Builds HEAD from a fresh clone and runs it; in a work tree that *is* a clean checkout, right there, sharing its build.
fn clean(context: &Context) -> Result<Figure> {
    let git = |arguments: &[&str]| {
        let mut command = process::command("git");
        command.args(arguments).current_dir(&context.root);
        process::check("git", &mut command, Duration::from_secs(300))
    };
    let pristine = git(&["status", "--porcelain"])?.trim().is_empty();
    let tree = if pristine {
        context.root.clone()
    } else {
        let clone = context.scratch.join("clone");
        let target = clone.to_string_lossy();
        git(&["clone", "--quiet", "--no-hardlinks", ".", &target])?;
        clone
    };
    let readme = std::fs::read_to_string(tree.join("README.md"))?;
    for command in [FIRST_COMMAND, "cargo test --workspace"] {
        ensure!(readme.contains(command), "README.md has no `{command}`");
    }
    let cargo = |arguments: &[&str]| {
        let mut command = process::command("cargo");
        command
            .args(["run", "--release", "--quiet", "--"])
            .args(arguments)
            .env("CARGO_TARGET_DIR", &context.target)
            .current_dir(&tree);
        command
    };
    let started = Instant::now();
    let limit = Duration::from_secs(25 * 60);
    process::check("cargo run", &mut cargo(&["--version"]), limit)?;
    let built = started.elapsed();
    let point = context.scratch.join("mnt");
    let mut command = cargo(&["up"]);
    command
        .arg(&point)
        .arg("--data")
        .arg(context.directory("data")?);
    let mount = Mount::start(FIRST_COMMAND, &mut command, &point, &context.scratch)?;
    std::fs::write(point.join("first"), b"written")?;
    ensure!(std::fs::read(point.join("first"))? == b"written");
    mount.stop()?;
    let place = if pristine {
        "in this checkout, sharing the build of the binary under test"
    } else {
        "in a clone, dependencies cached"
    };
    Ok(Figure::new(built.as_secs_f64(), "s", place))
}

fn version(context: &Context) -> Result<Figure> {
    let mut command = process::command(&context.binary);
    command.arg("--version");
    let text = process::check("polyfs --version", &mut command, Duration::from_secs(10))?;
    let expected = format!("polyfs {}", env!("CARGO_PKG_VERSION"));
    ensure!(
        text.trim().starts_with(&expected),
        "it printed `{}`, not `{expected}`",
        text.trim()
    );
    Ok(Figure::count(1, "line", text.trim()))
}

fn wrong_argument(context: &Context) -> Result<Figure> {
    let mut command = process::command(&context.binary);
    command.args(["up", "/nowhere", "--no-such-option"]);
    let finished = process::run(&mut command, Duration::from_secs(10), process::Echo::Hide)?;
    let code = finished.status.and_then(|status| status.code());
    ensure!(code == Some(2), "exit code {code:?}\n{}", finished.tail());
    ensure!(
        finished.text.contains("--no-such-option"),
        "it does not name the argument:\n{}",
        finished.tail()
    );
    Ok(Figure::count(2, "exit code", ""))
}
