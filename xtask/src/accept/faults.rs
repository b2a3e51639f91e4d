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
/// How long a node is away at least: longer than elections, leases and what the master takes for silence, which ends after
/// 5 s, so that it comes back to others that have gone on without it.
const OUTAGE: Duration = Duration::from_secs(6);

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
            load.await_outage(ACKS, OUTAGE)?;
            cluster.missed(node)?;
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
            let waited = load.await_outage(ACKS, OUTAGE);
            let missed = cluster.missed(node);
            cluster.signal(node, Signal::SIGCONT)?;
            waited.and(missed.map(drop))
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
    // Who leads stays until it is hit, and each is hit: every leader of before is among them, the master's group's too.
    let mut masters = 0;
    for node in 0..NODES {
        masters += usize::from(cluster.is_master(node)?);
        let done = harm(&mut cluster, node, &load);
        done.with_context(|| format!("node {}", node + 1))?;
        caught_up = caught_up.max(cluster.heal(NODES)?);
        load.await_acks(ACKS)?;
    }
    let report = load.end(&two.point)?;
    ensure!(masters > 0, "no master was among them");
    cluster.fsck()?;
    needs_nobody(&mut cluster, report.acks)?;
    one.stop()?;
    two.stop()?;
    let more = format!(
        "longest gap, aim {} s; {} fsyncs; healthy again within {:.1} s; {masters} were master",
        GAP_AIM.as_secs(),
        report.acks,
        caught_up.as_secs_f64()
    );
    Figure::within(report.longest, GAP_MAX, &more)
}

/// Who has come back has caught up: whichever node is away, the other two have everything.
fn needs_nobody(cluster: &mut Cluster, acks: u64) -> Result<()> {
    for node in 0..NODES {
        cluster.kill(node)?;
        let fresh = cluster.mount(&format!("without-{}", node + 1))?;
        let journal = std::fs::read(fresh.point.join("journal"))?;
        ensure!(
            journal == Load::journal_of(acks),
            "without node {} the journal is another",
            node + 1
        );
        fresh.stop()?;
        cluster.launch(node)?;
        cluster.ready(node)?;
        cluster.heal(NODES)?;
    }
    Ok(())
}

fn quick(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
    let (one, two) = (cluster.mount("m1")?, cluster.mount("m2")?);
    let (mut files, mut masters, mut longest) = (0, 0, Duration::ZERO);
    for round in 0..2 * NODES {
        let node = round % NODES;
        masters += usize::from(cluster.is_master(node)?);
        for _ in 0..20 {
            write_synced(&one.point.join(format!("file-{files}")), files)?;
            files += 1;
        }
        let killed = Instant::now();
        cluster.kill(node)?;
        cluster.launch(node)?;
        longest = longest.max(killed.elapsed());
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
    ensure!(masters > 0, "no master was among them");
    ensure!(longest < RESTART_MAX, "a restart took {longest:?}");
    cluster.fsck()?;
    one.stop()?;
    two.stop()?;
    let more = format!(
        "started again within {} ms; {masters} were master; everything read at once",
        longest.as_millis()
    );
    Ok(Figure::count(2 * NODES, "kills", &more))
}

/// From the kill to the next start: 200 ms are the aim.
const RESTART_MAX: Duration = Duration::from_millis(3 * 200);

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
