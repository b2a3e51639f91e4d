//! The line about what PolyFS costs while nobody uses it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::cluster::Cluster;
use super::{Context, Figure, Line, Needs, up};

const WATCHED: Duration = Duration::from_secs(60);
/// Of one core, in all: what we aim at; a failure only well beyond it.
const PERCENT_AIM: f64 = 3.0;
const PERCENT_MAX: f64 = 3.0 * PERCENT_AIM;
/// Resident, in all.
const BYTES_MAX: u64 = 200_000_000;

/// Three nodes that rest.
pub(super) const IDLE: Line = Line {
    id: "cluster-idle",
    title: "three idle nodes without a mount use next to nothing",
    needs: Needs::Nothing,
    packages: up::PACKAGES,
    limit: Duration::from_secs(300),
    run: idle,
};

fn idle(context: &Context) -> Result<Figure> {
    let cluster = Cluster::whole(&context.binary, &context.scratch, 3)?;
    let (before, _) = cluster.cost()?;
    std::thread::sleep(WATCHED);
    let (after, bytes) = cluster.cost()?;
    let percent = (after - before) / WATCHED.as_secs_f64() * 100.0;
    ensure!(percent <= PERCENT_MAX, "{percent:.1}% of a core");
    ensure!(bytes <= BYTES_MAX, "{} MB resident", bytes / 1_000_000);
    let more = format!(
        "of a core, aim {PERCENT_AIM}; {} MB resident",
        bytes / 1_000_000
    );
    Ok(Figure::new(percent, "%", &more))
}
