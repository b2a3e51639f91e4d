//! Mounts for a line: `polyfs up`, or `polyfs mount` of a cluster, each a process of its own.
//!
//! Owns the way these processes are started and known to be ready; dropping one stops and unmounts it. Deliberately
//! knows the binary by its command line and output alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::is_mounted;
use crate::process::{self, Daemon, Echo};

/// When a start is given up. Lines that measure starts have stricter limits.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);
/// When a clean stop is given up.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A process that serves a mount point.
pub(crate) struct Mount {
    daemon: Option<Daemon>,
    /// Where.
    pub(crate) point: PathBuf,
    /// From start to the line that says it is mounted.
    pub(crate) took: Duration,
    /// Its dead mount is for somebody else to find.
    left: bool,
}

impl Mount {
    /// `polyfs up POINT --data DATA`, until it says `mounted`. Log and ledger lie in `logs`.
    pub(crate) fn up(binary: &Path, point: &Path, data: &Path, logs: &Path) -> Result<Self> {
        let mut command = process::command(binary);
        command.arg("up").arg(point).arg("--data").arg(data);
        Self::start("polyfs up", &mut command, point, logs)
    }

    /// `polyfs mount POINT --waypoint WAYPOINT`, until it says `mounted`.
    pub(crate) fn of_cluster(
        binary: &Path,
        point: &Path,
        waypoint: &str,
        logs: &Path,
    ) -> Result<Self> {
        let mut command = process::command(binary);
        command
            .arg("mount")
            .arg(point)
            .args(["--waypoint", waypoint]);
        Self::start("polyfs mount", &mut command, point, logs)
    }

    /// A command that mounts `point` and says `mounted`, until it does.
    pub(crate) fn start(
        name: &str,
        command: &mut std::process::Command,
        point: &Path,
        logs: &Path,
    ) -> Result<Self> {
        if !is_mounted(point) {
            std::fs::create_dir_all(point)?;
        }
        let started = Instant::now();
        let log = fresh_log(logs, "mount");
        let mut mount = Self {
            daemon: Some(Daemon::start(name, command, &log)?),
            point: point.to_owned(),
            took: Duration::ZERO,
            left: false,
        };
        mount.daemon()?.wait_line("mounted", START_LIMIT)?;
        mount.took = started.elapsed();
        ensure!(
            is_mounted(point),
            "{name} says `mounted`, but nothing is at {}",
            point.display()
        );
        Ok(mount)
    }

    fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("it was stopped before")
    }

    /// SIGTERM; fails unless it unmounts and ends with exit code 0. How long that took.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        let started = Instant::now();
        let point = self.point.clone();
        let daemon = self.daemon()?;
        daemon.signal(Signal::SIGTERM)?;
        let status = daemon.wait(STOP_LIMIT)?;
        ensure!(
            status.success(),
            "after SIGTERM: {status}\n{}",
            daemon.output()
        );
        ensure!(!is_mounted(&point), "{} stayed mounted", point.display());
        Ok(started.elapsed())
    }

    /// kill -9. The dead mount stays, as it does after a crash: programs that still run get errors there, and the next
    /// start replaces it, whatever the kernel remembers of it.
    pub(crate) fn kill(mut self) -> Result<()> {
        let (point, ended) = (self.point.clone(), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&ended);
        // Asked to its last moment, so that the kernel remembers something.
        std::thread::spawn(move || ask_until(&until, &point));
        let daemon = self.daemon()?;
        let killed = daemon
            .signal(Signal::SIGKILL)
            .and_then(|()| daemon.wait(STOP_LIMIT));
        ended.store(true, Relaxed);
        killed?;
        self.daemon = None;
        self.left = true;
        ensure!(
            is_mounted(&self.point),
            "{} is not mounted any more after kill -9",
            self.point.display()
        );
        Ok(())
    }

    /// The id of the process that serves it.
    pub(crate) fn id(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::id)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        // The process first: it unmounts by itself when it can.
        self.daemon = None;
        unmount(&self.point);
    }
}

fn ask_until(ended: &AtomicBool, point: &Path) {
    let mut answers = true;
    while answers && !ended.load(Relaxed) {
        answers = std::fs::metadata(point).is_ok();
    }
}

/// Takes a mount away even if nobody answers behind it.
fn unmount(point: &Path) {
    if is_mounted(point) {
        let mut command = process::command("umount");
        command.arg("-l").arg(point);
        let _checked_by_the_caller =
            process::run(&mut command, Duration::from_secs(10), Echo::Hide);
    }
}

/// A log file that does not exist yet.
pub(super) fn fresh_log(logs: &Path, name: &str) -> PathBuf {
    let mut number = 0;
    loop {
        let path = logs.join(format!("{name}-{number}.log"));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}
