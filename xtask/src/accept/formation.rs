//! Lines about clusters that form and grow by themselves.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::cluster::Cluster;
use super::tree::content;
use super::{Context, Figure, Line, Needs, up};

/// From starting the processes to all of them ready: what we aim at; a failure only well beyond it.
const READY_AIM: Duration = Duration::from_secs(5);
const READY_MAX: Duration = Duration::from_secs(3 * READY_AIM.as_secs());

/// Three processes.
pub(super) const START: Line = Line {
    id: "cluster-start",
    title: "a waypoint and three nodes started together are ready, and soon healthy",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(180),
    run: start,
};

/// Five, then seven nodes.
pub(super) const MEMBERS: Line = Line {
    id: "cluster-members",
    title: "five nodes have a master group of five, seven nodes still one of five",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(400),
    run: members,
};

/// From one node to three.
pub(super) const GROW: Line = Line {
    id: "cluster-grow",
    title: "one node, then two more: only then healthy, and the first can die without a loss",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(400),
    run: grow,
};

fn start(context: &Context) -> Result<Figure> {
    let started = Instant::now();
    let cluster = Cluster::start(&context.binary, &context.scratch, 3)?;
    let took = started.elapsed();
    let healthy = cluster.heal(3)?;
    let status = cluster.status()?;
    ensure!(status.mrg.members.len() == 3, "{status:#?}");
    let more = format!("healthy {:.2} s later, aim 5 s", healthy.as_secs_f64());
    Figure::within(took, READY_MAX, &more)
}

fn members(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::start(&context.binary, &context.scratch, 5)?;
    let of_five =
        |status: &super::cluster::Status| status.mrg.members.len() == 5 && status.health == "ok";
    let five = cluster.until("a master group of five", of_five)?;
    let before = cluster.status()?.mrg.members;
    cluster.add(2)?;
    cluster.heal(7)?;
    let status = cluster.status()?;
    ensure!(status.mrg.members.len() == 5, "{status:#?}");
    cluster.stays("the master group of before", |status| {
        status.mrg.members == before
    })?;
    ensure!(status.regions.under_replicated == 0 && status.regions.unavailable == 0);
    Ok(Figure::new(five.as_secs_f64(), "s", "to a group of five"))
}

const FILES: u64 = 200;

fn grow(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::start(&context.binary, &context.scratch, 1)?;
    let mount = cluster.mount("m")?;
    let bytes = |number: u64| content(number, number * 997 % 40_000);
    for number in 0..FILES {
        std::fs::write(mount.point.join(format!("file-{number}")), bytes(number))?;
    }
    let large = content(1, 20_000_000);
    std::fs::write(mount.point.join("large"), &large)?;
    context.bash(
        "sync",
        r#"sync -f "$1""#,
        &[&mount.point],
        Duration::from_secs(60),
    )?;
    cluster.until(
        "one node alone calls itself degraded, and says why",
        |status| status.health == "degraded" && !status.why.is_empty(),
    )?;
    cluster.add(1)?;
    cluster.stays("not healthy with two nodes", |status| status.health != "ok")?;
    cluster.add(1)?;
    let healed = cluster.heal(3)?;
    let status = cluster.status()?;
    ensure!(status.regions.under_replicated == 0 && status.mrg.members.len() == 3);
    cluster.kill(0)?;
    for number in 0..FILES {
        let found = std::fs::read(mount.point.join(format!("file-{number}")))?;
        ensure!(found == bytes(number), "file {number} changed");
    }
    ensure!(std::fs::read(mount.point.join("large"))? == large);
    std::fs::write(mount.point.join("after"), b"the first node is gone")?;
    // By a mount that knows nothing of what was.
    let fresh = cluster.mount("m2")?;
    for number in 0..FILES {
        let found = std::fs::read(fresh.point.join(format!("file-{number}")))?;
        ensure!(found == bytes(number), "file {number} is another now");
    }
    ensure!(std::fs::read(fresh.point.join("large"))? == large);
    cluster.fsck()?;
    fresh.stop()?;
    mount.stop()?;
    let more = "to three replicas of everything, then the first node killed";
    Ok(Figure::new(healed.as_secs_f64(), "s", more))
}
