//! Lines about independent suites: other people's idea of what a filesystem must do, on a mount of three nodes.
//!
//! The suites lie outside this repository, in `suites/` of the directory that [`Workspace::shared`] names; each has an
//! `install.sh` and a `run.sh MOUNTPOINT OUTDIR` whose last line counts. What each must reach is a constant here.
//!
//! [`Workspace::shared`]: crate::workspace::Workspace::shared

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::cluster::Cluster;
use super::{Context, Figure, Line, Needs, up};
use crate::install;
use crate::process;

/// One suite, and what it must reach.
struct Suite {
    name: &'static str,
    passed_min: u32,
    failed_max: u32,
    limit: Duration,
}

const FSX_SUITE: Suite = Suite {
    name: "fsx-rs",
    passed_min: 14,
    failed_max: 0,
    limit: Duration::from_secs(10 * 60),
};
/// ext4 passes 385, the best FUSE filesystem measured 383.
const PJDFSTEST_SUITE: Suite = Suite {
    name: "pjdfstest-rs",
    passed_min: 370,
    failed_max: 15,
    limit: Duration::from_secs(10 * 60),
};
const APPS_SUITE: Suite = Suite {
    name: "apps",
    passed_min: 6,
    failed_max: 1,
    limit: Duration::from_secs(12 * 60),
};
/// Processes of their own, as everybody runs it.
const NODES: usize = 3;
const INSTALL_LIMIT: Duration = Duration::from_secs(10 * 60);
/// For a line: the suite, its installation, start and stop.
const LINE_LIMIT: Duration = Duration::from_secs(25 * 60);

/// fsx.
pub(super) const FSX: Line = Line {
    id: "suite-fsx",
    title: "fsx: random reads, writes, mappings, truncations and holes against a copy",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LINE_LIMIT,
    run: |context| suite(context, &FSX_SUITE),
};

/// pjdfstest.
pub(super) const PJDFSTEST: Line = Line {
    id: "suite-pjdfstest",
    title: "pjdfstest: POSIX semantics, case by case",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LINE_LIMIT,
    run: |context| suite(context, &PJDFSTEST_SUITE),
};

/// Programs people run.
pub(super) const APPS: Line = Line {
    id: "suite-apps",
    title: "git, tar, rsync, SQLite, RocksDB, PostgreSQL, make and Python's own file tests",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LINE_LIMIT,
    run: |context| suite(context, &APPS_SUITE),
};

fn suite(context: &Context, suite: &Suite) -> Result<Figure> {
    let home = context.shared.join("suites").join(suite.name);
    if !home.join("run.sh").is_file() {
        bail!(
            "{} is not there; set POLYFS_SHARED to the directory that holds suites/",
            home.join("run.sh").display()
        );
    }
    let run = |script: &str, arguments: &[&Path], limit: Duration| {
        let mut command = process::command("bash");
        command
            .arg(home.join(script))
            .args(arguments)
            .env("POLYFS_SUITES_DIR", install::cache().join("suites"))
            // What a suite builds has nothing to do with our flags and target directory.
            .env_remove("CARGO_TARGET_DIR")
            .env("RUNLEVEL", "1")
            .current_dir("/");
        process::check(&format!("{}/{script}", suite.name), &mut command, limit)
    };
    run("install.sh", &[], INSTALL_LIMIT)?;
    let cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
    let mount = cluster.mount("m")?;
    let results = context.directory("results")?;
    let output = run("run.sh", &[&mount.point, &results], suite.limit)?;
    let (passed, failed, skipped) = totals(&output).with_context(|| {
        format!(
            "its last line counts nothing:\n{}",
            process::tail(&output, 10)
        )
    })?;
    let failures = std::fs::read_to_string(results.join("failed.txt")).unwrap_or_default();
    ensure!(
        passed >= suite.passed_min && failed <= suite.failed_max,
        "passed {passed}, failed {failed}, skipped {skipped}; it must pass {} and may fail {}:\n{failures}",
        suite.passed_min,
        suite.failed_max
    );
    mount.stop()?;
    cluster.fsck()?;
    let names: Vec<&str> = failures
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .take(4)
        .collect();
    let more = format!("{failed} failed, {skipped} skipped {}", names.join(" "));
    Ok(Figure::new(f64::from(passed), "passed", more.trim()))
}

/// Reads the last `passed N failed M skipped K`.
fn totals(output: &str) -> Option<(u32, u32, u32)> {
    let line = output.lines().rfind(|line| line.starts_with("passed "))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["passed", passed, "failed", failed, "skipped", skipped] => Some((
            passed.parse().ok()?,
            failed.parse().ok()?,
            skipped.parse().ok()?,
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::totals;

    #[test]
    fn the_closing_line_is_read() {
        let output = "noise\npassed 14 failed 0 skipped 2\nmore noise";
        assert_eq!(totals(output), Some((14, 0, 2)));
        assert_eq!(totals("passed some failed none"), None);
    }
}
