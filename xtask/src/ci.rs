//! All of it, as CI runs it: install what is missing, verify, accept.
//!
//! Owns the closing line, `N passed, N failed`, alone and last, which is printed whatever happens before it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::verify::Counts;
use crate::workspace::Workspace;
use crate::{accept, install, verify};

/// CI ends us at 90 minutes; acceptance lines that have not begun by then are failures we still want to report.
const BUDGET: Duration = Duration::from_secs(80 * 60);

/// `cargo xtask ci`.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let counts = all(started + BUDGET).unwrap_or_else(|error| {
        println!("error: {error:#}");
        Counts {
            passed: 0,
            failed: 1,
        }
    });
    println!("took {:.0} s", started.elapsed().as_secs_f64());
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if counts.failed != 0 || counts.passed == 0 {
        // Not an error to report: the closing line has to be the last one.
        std::process::exit(1);
    }
    Ok(())
}

fn all(deadline: Instant) -> Result<Counts> {
    let workspace = Workspace::load()?;
    println!("checking {}", workspace.commit());
    let before = workspace.git(&["status", "--porcelain"])?;
    if let Err(error) = install::install(&accept::packages()) {
        // What was to be installed will be missed by the step or the line that needs it, and said there too.
        println!("install: {error:#}");
    }
    let counts = verify::steps(&workspace);
    let counts = counts.plus(accept::all(&workspace, deadline)?);
    let after = workspace.git(&["status", "--porcelain"])?;
    if before != after {
        bail!("the checks changed the tree, which they must never do:\n{after}");
    }
    Ok(counts)
}
