//! What every change must satisfy, in one command; and the one that mends what a machine can mend.
//!
//! Owns the list of steps. [`verify`] never writes to the tree; [`fix`] may. Results are counted so that
//! [`crate::ci`] can close with them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, Echo, Finished};
use crate::workspace::Workspace;
use crate::{install, tidy};

/// How many checks held. A step that is no test run counts only when it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests, or lines, that passed.
    pub(crate) passed: u64,
    /// Tests, lines or steps that failed.
    pub(crate) failed: u64,
}

impl Counts {
    const STEP_FAILED: Self = Self {
        passed: 0,
        failed: 1,
    };

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
        }
    }
}

struct Step {
    name: &'static str,
    hint: &'static str,
    run: fn(&Workspace) -> Result<Counts>,
}

const MINUTE: Duration = Duration::from_secs(60);

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        hint: "cargo xtask fix",
        run: |workspace| step(workspace, &["fmt", "--all", "--check"], 2),
    },
    Step {
        name: "tidy",
        hint: "each line above says what to do",
        run: |workspace| tidy::check(workspace).map(|()| Counts::default()),
    },
    Step {
        name: "clippy",
        hint: "cargo xtask fix mends some of it",
        run: |workspace| {
            let arguments = ["clippy", "--locked", "--workspace", "--all-targets"];
            step(
                workspace,
                &[&arguments[..], &["--", "-D", "warnings"]].concat(),
                20,
            )
        },
    },
    Step {
        name: "docs",
        hint: "mend the documentation comment it names",
        run: docs,
    },
    Step {
        name: "tests",
        hint: "run one again with cargo nextest run -p PACKAGE NAME",
        run: tests,
    },
    Step {
        name: "doctests",
        hint: "run them again with cargo test --doc -p PACKAGE",
        run: doctests,
    },
    Step {
        name: "deny",
        hint: "deny.toml says which licences, sources and crates are allowed, and why",
        run: deny,
    },
];

/// Runs every step, also after a failed one, and says which failed.
pub(crate) fn steps(workspace: &Workspace) -> Counts {
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    for Step { name, hint, run } in STEPS {
        println!("--- {name}");
        let started = Instant::now();
        let result = run(workspace).unwrap_or_else(|error| {
            println!("{error:#}");
            Counts::STEP_FAILED
        });
        counts = counts.plus(result);
        let word = if result.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "--- {name}: {word} ({:.1} s)",
            started.elapsed().as_secs_f64()
        );
        if result.failed != 0 {
            failures.push(format!("{name}: {hint}"));
        }
    }
    for failure in failures {
        println!("failed: {failure}");
    }
    counts
}

/// `cargo xtask verify`.
pub(crate) fn verify() -> Result<()> {
    let counts = steps(&Workspace::load()?);
    println!("{} tests passed, {} failed", counts.passed, counts.failed);
    if counts.failed != 0 {
        bail!("verify failed");
    }
    Ok(())
}

/// `cargo xtask fix`.
pub(crate) fn fix() -> Result<()> {
    let workspace = Workspace::load()?;
    let clippy = ["clippy", "--fix", "--allow-dirty", "--allow-staged"];
    for arguments in [
        &[&clippy[..], &["--workspace", "--all-targets"]].concat()[..],
        &["fmt", "--all"],
    ] {
        let finished = process::run(&mut workspace.cargo(arguments), 20 * MINUTE, Echo::Show)?;
        if !finished.success() {
            bail!("cargo {} failed", arguments.join(" "));
        }
    }
    Ok(())
}

fn step(workspace: &Workspace, arguments: &[&str], minutes: u32) -> Result<Counts> {
    succeeded(&process::run(
        &mut workspace.cargo(arguments),
        MINUTE * minutes,
        Echo::Show,
    )?)
}

fn succeeded(finished: &Finished) -> Result<Counts> {
    match finished.status {
        Some(status) if status.success() => Ok(Counts::default()),
        Some(status) => bail!("{status}"),
        None => bail!("stopped by its time limit"),
    }
}

fn docs(workspace: &Workspace) -> Result<Counts> {
    // --config adds to the flags of .cargo/config.toml; RUSTDOCFLAGS would replace them.
    let deny = "build.rustdocflags=[\"-D\",\"warnings\"]";
    let arguments = ["doc", "--locked", "--workspace", "--no-deps"];
    let more = ["--document-private-items", "--config", deny];
    step(workspace, &[&arguments[..], &more].concat(), 20)
}

fn tests(workspace: &Workspace) -> Result<Counts> {
    install::find("cargo-nextest").context("cargo-nextest is missing: cargo xtask install")?;
    let arguments = ["nextest", "run", "--locked", "--workspace"];
    let more = ["--no-fail-fast", "--hide-progress-bar"];
    let mut command = workspace.cargo(&[&arguments[..], &more].concat());
    with_tools(&mut command)?;
    let finished = process::run(&mut command, 45 * MINUTE, Echo::Show)?;
    let counts = nextest_counts(&finished.text);
    match counts {
        Some(counts) if finished.success() || counts.failed > 0 => Ok(counts),
        Some(counts) => {
            println!("the run failed though no test did");
            Ok(counts.plus(Counts::STEP_FAILED))
        }
        None => bail!("the tests did not run to their end"),
    }
}

fn with_tools(command: &mut std::process::Command) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(install::cache().join("bin")).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(all)?);
    Ok(())
}

/// Reads nextest's closing line: `Summary [ 1.2s] 9 tests run: 8 passed (1 slow), 1 failed, 2 skipped`. Whatever is
/// neither passed nor skipped failed: failed, timed out, could not be started. Tests of `5/9 tests run` that were not
/// run failed too.
fn nextest_counts(text: &str) -> Option<Counts> {
    let line = text
        .lines()
        .rfind(|line| line.trim_start().starts_with("Summary ["))?;
    let (before, after) = line.split_once(" run: ")?;
    let mut counts = Counts::default();
    for part in after.split(',') {
        let mut words = part.split_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        match words.next()? {
            "passed" => counts.passed += number,
            "skipped" => {}
            _ => counts.failed += number,
        }
    }
    let ratio = before
        .split_whitespace()
        .find_map(|word| word.split_once('/'));
    if let Some((run, all)) = ratio
        && let (Ok(run), Ok(all)) = (run.parse::<u64>(), all.parse::<u64>())
    {
        counts.failed += all.saturating_sub(run);
    }
    Some(counts)
}

fn doctests(workspace: &Workspace) -> Result<Counts> {
    let arguments = ["test", "--locked", "--workspace", "--doc", "--no-fail-fast"];
    let finished = process::run(&mut workspace.cargo(&arguments), 20 * MINUTE, Echo::Hide)?;
    let counts = libtest_counts(&finished.text);
    if !finished.success() {
        println!("{}", process::tail(&finished.text, 80));
    }
    match (finished.success(), counts.failed) {
        (true, _) | (false, 1..) => Ok(counts),
        (false, 0) => bail!("the doctests did not run to their end"),
    }
}

/// Adds up lines such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn libtest_counts(text: &str) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines() {
        let Some((_, after)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            continue;
        };
        for part in after.split(';') {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => counts.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => counts.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    counts
}

fn deny(workspace: &Workspace) -> Result<Counts> {
    let program = install::find("cargo-deny")
        .context("cargo-deny is missing: cargo xtask install (about 3 minutes, once)")?;
    let mut command = process::command(program);
    command
        .args(["--workspace", "--locked", "check", "--hide-inclusion-graph"])
        .args(["bans", "licenses", "sources"])
        .current_dir(&workspace.root);
    // Its warnings (two versions of a crate, say) are for who asks it directly.
    let finished = process::run(&mut command, 10 * MINUTE, Echo::Hide)?;
    if !finished.success() {
        println!("{}", finished.text);
    }
    succeeded(&finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_nextest_is_read() {
        let of = |line: &str| nextest_counts(line).map(|counts| (counts.passed, counts.failed));
        let passed = "     Summary [   0.035s] 9 tests run: 9 passed (1 slow), 2 skipped";
        assert_eq!(of(passed), Some((9, 0)));
        let mixed =
            "x\n  Summary [  61.0s] 9 tests run: 6 passed, 1 failed, 2 timed out, 0 skipped";
        assert_eq!(of(mixed), Some((6, 3)));
        let cut = "  Summary [  61.0s] 5/9 tests run: 4 passed, 1 failed, 0 skipped";
        assert_eq!(of(cut), Some((4, 5)));
        assert_eq!(of("error: could not compile"), None);
    }

    #[test]
    fn the_closing_lines_of_libtest_are_added_up() {
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored";
        assert_eq!(
            libtest_counts(text),
            Counts {
                passed: 4,
                failed: 2
            }
        );
    }
}
