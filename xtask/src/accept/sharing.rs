//! Lines about two mounts of one filesystem, each in a process of its own, on three nodes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::cluster::Cluster;
use super::tree::generate;
use super::{Context, Figure, Line, Needs};

const PACKAGES: &[&str] = &["fuse3", "python3"];
const LIMIT: Duration = Duration::from_secs(300);

/// What one does, the other sees.
pub(super) const SHARED: Line = Line {
    id: "cluster-share",
    title: "what one mount writes the other reads at once; locks hold across mounts",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(400),
    run: shared,
};

/// A tree copied by one, compared and removed by the other.
pub(super) const TREE: Line = Line {
    id: "cluster-tree",
    title: "cp -a of 5,000 files equals on the other mount; rm -rf gives the space back",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(900),
    run: tree,
};

/// The far ends.
pub(super) const LIMITS: Line = Line {
    id: "cluster-limits",
    title: "8 TiB of holes, punches, exchange, suid, 100,000 entries: done by one mount, seen by the other",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(400),
    run: limits,
};

fn shared(context: &Context) -> Result<Figure> {
    on_two_mounts(context, include_str!("scripts/two-mounts.py"), "both done")
}

fn limits(context: &Context) -> Result<Figure> {
    on_two_mounts(context, include_str!("scripts/limits.py"), "all done")
}

/// Runs a script with both mount points as its arguments, whose last line must be this.
fn on_two_mounts(context: &Context, script: &str, last: &str) -> Result<Figure> {
    let cluster = Cluster::whole(&context.binary, &context.scratch, 3)?;
    let (one, two) = (cluster.mount("m1")?, cluster.mount("m2")?);
    let file = context.scratch.join("script.py");
    std::fs::write(&file, script)?;
    let arguments = [&file, &one.point, &two.point];
    let output = context.bash("two mounts", r#"python3 "$@""#, &arguments, LIMIT)?;
    ensure!(
        output.lines().last() == Some(last),
        "it ended early:\n{output}"
    );
    let steps = output
        .lines()
        .filter(|line| line.starts_with("ok "))
        .count();
    cluster.fsck()?;
    one.stop()?;
    two.stop()?;
    Ok(Figure::count(steps, "steps", ""))
}

/// Free space may differ by this much after everything was removed: tables, logs, what is reclaimed lazily.
const SPACE_SLACK: u64 = 24 << 20;
/// The tree takes at least this much while it is there, bytes: it has 110 MB.
const TREE_BYTES_MIN: u64 = 100_000_000;

fn free(context: &Context, point: &std::path::Path) -> Result<u64> {
    let text = context.bash("statfs", r#"stat -f -c '%f %S' "$1""#, &[point], LIMIT)?;
    let numbers: Vec<u64> = text.split_whitespace().flat_map(str::parse).collect();
    ensure!(numbers.len() == 2, "stat -f says {text:?}");
    Ok(numbers[0] * numbers[1])
}

fn tree(context: &Context) -> Result<Figure> {
    let source = context.directory("source")?;
    generate(&source)?;
    let cluster = Cluster::whole(&context.binary, &context.scratch, 3)?;
    let (one, two) = (cluster.mount("m1")?, cluster.mount("m2")?);
    let before = free(context, &one.point)?;
    let target = one.point.join("target");
    let started = Instant::now();
    context.bash("cp -a", r#"cp -a "$1" "$2""#, &[&source, &target], LIMIT)?;
    let took = started.elapsed();
    context.compare(&source, &two.point.join("target"), LIMIT)?;
    let full = free(context, &two.point)?;
    ensure!(
        full + TREE_BYTES_MIN <= before,
        "of {before} bytes free before the copy {full} are free with it"
    );
    let started = Instant::now();
    context.bash(
        "rm -rf",
        r#"rm -rf "$1""#,
        &[two.point.join("target")],
        LIMIT,
    )?;
    let removed = started.elapsed();
    ensure!(
        std::fs::read_dir(&one.point)?.next().is_none(),
        "something is left"
    );
    let started = Instant::now();
    while free(context, &one.point)? + SPACE_SLACK < before {
        ensure!(
            started.elapsed() < Duration::from_secs(60),
            "of {before} bytes free before only {} came back ({full} while it was there)",
            free(context, &one.point)?
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let back = free(context, &one.point)?;
    one.stop()?;
    two.stop()?;
    let more = format!(
        "rm -rf {:.2} s; {} MB less free with it, {} after it",
        removed.as_secs_f64(),
        (before - full) / 1_000_000,
        before.saturating_sub(back) / 1_000_000
    );
    Ok(Figure::new(took.as_secs_f64(), "s", &more))
}
