//! Lines about everything dying at once: three nodes, their waypoint and the mount.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::cluster::Cluster;
use super::durability::{self, Victim};
use super::mount::Mount;
use super::tree::content;
use super::{Context, Line, Needs, up};

const NODES: usize = 3;

/// Ten times.
pub(super) const KILL: Line = Line {
    id: "cluster-kill9",
    title: "ten times kill -9 of everything while writing: all acknowledged is there, fsck is clean",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(900),
    run: |context| durability::rounds(&mut Everything::start(context, false)?),
};

/// And nobody is where it was.
pub(super) const MOVE: Line = Line {
    id: "cluster-move",
    title: "the same with every process on a new address: the members find each other",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(900),
    run: |context| durability::rounds(&mut Everything::start(context, true)?),
};

struct Everything {
    cluster: Cluster,
    moves: bool,
    runs: bool,
}

impl Everything {
    fn start(context: &Context, moves: bool) -> Result<Self> {
        let cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
        let mount = cluster.mount("m")?;
        std::fs::write(mount.point.join("first"), content(0, 100_000))?;
        mount.stop()?;
        Ok(Self {
            cluster,
            moves,
            runs: true,
        })
    }
}

impl Victim for Everything {
    fn start(&mut self) -> Result<Mount> {
        if !self.runs {
            self.cluster.start_again()?;
            self.runs = true;
        }
        self.cluster.mount("m")
    }

    fn kill(&mut self, mount: Mount) -> Result<()> {
        // All at once: it stands still while the nodes die, and sees none of it.
        let served = mount.id().context("it runs")?;
        let served = nix::unistd::Pid::from_raw(i32::try_from(served)?);
        nix::sys::signal::kill(served, nix::sys::signal::Signal::SIGSTOP)?;
        self.cluster.kill_all()?;
        self.runs = false;
        mount.kill()?;
        if self.moves {
            self.cluster.move_away()?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        self.cluster.heal(NODES)?;
        self.cluster.fsck()
    }
}
