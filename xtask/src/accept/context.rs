//! What a line is given, and what it gives back.
//!
//! Owns the work directory's layout and the small vocabulary of lines: run a script, read a tree, state a figure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::process;

/// What a line works with.
pub(crate) struct Context {
    /// The repository's root.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// The directory that holds suites/ and bench/.
    pub(crate) shared: PathBuf,
    /// The release build of polyfs.
    pub(crate) binary: PathBuf,
    /// An empty directory of the line's own, on a real disk, which others may enter.
    pub(crate) scratch: PathBuf,
}

impl Context {
    /// A directory below the work directory, made if it is not there.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Runs a bash script that must succeed; what it printed.
    pub(crate) fn bash<S: AsRef<std::ffi::OsStr>>(
        &self,
        name: &str,
        script: &str,
        arguments: &[S],
        limit: Duration,
    ) -> Result<String> {
        let mut command = process::bash(script, arguments);
        command.current_dir(&self.scratch);
        process::check(name, &mut command, limit)
    }

    /// Everything below a directory that a copy must keep: names, kinds, modes, owners, times, link targets, and the
    /// checksum of each file's content. One line each, sorted.
    pub(crate) fn listing(&self, tree: &Path, limit: Duration) -> Result<String> {
        let script = r#"export LC_ALL=C; cd "$1"
            find . -type f -print0 | sort -z | xargs -0 -r sha256sum
            find . -type f -printf '%p f %m %U %G %T@ %s %n\n' -o -type d -printf '%p d %m %U %G %T@\n' \
                -o -printf '%p %y %m %U %G %T@ %l\n' | sort"#;
        self.bash("listing", script, &[tree], limit)
    }

    /// Fails, showing the first differences, unless both trees are equal (see [`Self::listing`]).
    pub(crate) fn compare(&self, one: &Path, two: &Path, limit: Duration) -> Result<usize> {
        let (first, second) = (self.listing(one, limit)?, self.listing(two, limit)?);
        let only = |a: &str, b: &str| -> Vec<String> {
            let lines: std::collections::BTreeSet<&str> = b.lines().collect();
            let missing = a.lines().filter(|line| !lines.contains(line));
            missing.take(5).map(str::to_owned).collect()
        };
        if first != second {
            bail!(
                "the trees differ; only in {}: {:#?}; only in {}: {:#?}",
                one.display(),
                only(&first, &second),
                two.display(),
                only(&second, &first)
            );
        }
        Ok(first.lines().count())
    }
}

/// What a line measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// For people.
    pub(crate) text: String,
    /// For machines, in `unit`.
    pub(crate) value: f64,
    /// `s`, `files`, ...
    pub(crate) unit: String,
}

impl Figure {
    /// A number with its unit, and what else is worth saying.
    pub(crate) fn new(value: f64, unit: &str, more: &str) -> Self {
        let number = if value.fract() == 0.0 {
            format!("{value:.0}")
        } else {
            format!("{value:.2}")
        };
        let text = if more.is_empty() {
            format!("{number} {unit}")
        } else {
            format!("{number} {unit}, {more}")
        };
        Self {
            text,
            value,
            unit: unit.to_owned(),
        }
    }

    /// A count of things.
    pub(crate) fn count(value: usize, unit: &str, more: &str) -> Self {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        Self::new(f64::from(value), unit, more)
    }

    /// A time that must not pass `limit`.
    pub(crate) fn within(took: Duration, limit: Duration, more: &str) -> Result<Self> {
        ensure!(
            took <= limit,
            "took {:.2} s, at most {:.2} s",
            took.as_secs_f64(),
            limit.as_secs_f64()
        );
        Ok(Self::new(took.as_secs_f64(), "s", more))
    }
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(path: &Path) -> bool {
    mounts().iter().any(|mounted| mounted == path)
}

/// Every mount point of this machine, deepest last.
pub(crate) fn mounts() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    points
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .collect()
}
