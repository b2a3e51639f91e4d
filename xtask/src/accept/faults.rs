//! Lines about nodes that die, stop or are cut short while applications work: nobody notices more than a pause.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::cluster::Cluster;
use super::load::Load;
use super::tree::content;
use super::{Context, Figure, Line, Needs};

const PACKAGES: &[&str] = &["fuse3", "git"];
const NODES: usize = 3;
/// The longest pause that a fault in a minority may show as; a failure only well beyond it.
const GAP_AIM: Duration = Duration::from_secs(3);
const GAP_MAX: Duration = Duration::from_secs(3 * GAP_AIM.as_secs());
/// fsyncs before and after each fault.
const ACKS: u64 = 40;

/// Each node in turn.
pub(super) const KILL: Line = Line {
    id: "fault-kill",
    title: "kill -9 of each node in turn under cp -a, git clone and a write+fsync loop: no call fails",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(900),
    run: |context| {
        in_turn(context, &|cluster, node, load| {
            cluster.kill(node)?;
            load.await_acks(ACKS)?;
            cluster.launch(node)?;
            cluster.ready(node)
        })
    },
};

/// A node that hangs is like a dead one.
pub(super) const PAUSE: Line = Line {
    id: "fault-pause",
    title: "SIGSTOP of each node in turn under the same load: no call fails",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(900),
    run: |context| {
        in_turn(context, &|cluster, node, load| {
            cluster.signal(node, Signal::SIGSTOP)?;
            let waited = load.await_acks(ACKS);
            cluster.signal(node, Signal::SIGCONT)?;
            waited
        })
    },
};

/// Back before anybody has noticed.
pub(super) const QUICK: Line = Line {
    id: "fault-quick",
    title: "each node killed and started again at once: what was acknowledged is read at once",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(400),
    run: quick,
};

/// Two of three gone.
pub(super) const MAJORITY: Line = Line {
    id: "fault-majority",
    title: "without a majority calls fail with EIO, status says why, and service resumes by itself",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(400),
    run: majority,
};

type Harm = dyn Fn(&mut Cluster, usize, &Load) -> Result<()>;

fn in_turn(context: &Context, harm: &Harm) -> Result<Figure> {
    let mut cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
    let (one, two) = (cluster.mount("m1")?, cluster.mount("m2")?);
    let load = Load::all(context, &one.point, &two.point)?;
    load.await_acks(ACKS)?;
    let mut caught_up = Duration::ZERO;
    for node in 0..NODES {
        let done = harm(&mut cluster, node, &load);
        done.with_context(|| format!("node {}", node + 1))?;
        caught_up = caught_up.max(cluster.heal(NODES)?);
        load.await_acks(ACKS)?;
    }
    let report = load.end(&two.point)?;
    cluster.fsck()?;
    one.stop()?;
    two.stop()?;
    let more = format!(
        "longest gap, aim {} s; {} fsyncs; healthy again within {:.1} s",
        GAP_AIM.as_secs(),
        report.acks,
        caught_up.as_secs_f64()
    );
    Figure::within(report.longest, GAP_MAX, &more)
}

fn quick(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
    let (one, two) = (cluster.mount("m1")?, cluster.mount("m2")?);
    let mut files = 0;
    for round in 0..2 * NODES {
        let node = round % NODES;
        for _ in 0..20 {
            write_synced(&one.point.join(format!("file-{files}")), files)?;
            files += 1;
        }
        cluster.kill(node)?;
        cluster.launch(node)?;
        for number in 0..files {
            let found = std::fs::read(two.point.join(format!("file-{number}")))?;
            ensure!(
                found == content(number, number * 311 % 9_000),
                "file {number} is not what fsync acknowledged before kill {round}"
            );
        }
        cluster.ready(node)?;
        cluster.heal(NODES)?;
    }
    one.stop()?;
    two.stop()?;
    let kills = 2 * NODES;
    Ok(Figure::new(
        f64::from(u32::try_from(kills)?),
        "kills",
        "everything read at once",
    ))
}

fn write_synced(path: &Path, number: u64) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path)?;
    file.write_all(&content(number, number * 311 % 9_000))?;
    Ok(file.sync_all()?)
}

/// A call gives up after this with EIO; a failure only well beyond it.
const GIVE_UP_AIM: Duration = Duration::from_secs(30);
const GIVE_UP_MAX: Duration = Duration::from_secs(3 * GIVE_UP_AIM.as_secs());

fn majority(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
    let mount = cluster.mount("m1")?;
    write_synced(&mount.point.join("before"), 1)?;
    cluster.kill(0)?;
    cluster.kill(1)?;
    let started = Instant::now();
    let failed = std::fs::create_dir(mount.point.join("meanwhile"));
    let took = started.elapsed();
    let error = failed.err().context("mkdir succeeded without a majority")?;
    ensure!(
        error.raw_os_error() == Some(nix::libc::EIO),
        "mkdir without a majority fails with {error}"
    );
    let status = cluster.status()?;
    ensure!(
        status.health == "unavailable" && !status.why.is_empty(),
        "without a majority status says {status:#?}"
    );
    for node in 0..2 {
        cluster.launch(node)?;
    }
    for node in 0..2 {
        cluster.ready(node)?;
    }
    cluster.heal(NODES)?;
    write_synced(&mount.point.join("after"), 2)?;
    ensure!(std::fs::read(mount.point.join("before"))? == content(1, 311));
    mount.stop()?;
    Figure::within(
        took,
        GIVE_UP_MAX,
        "until EIO, aim 30 s; then it went on by itself",
    )
}
