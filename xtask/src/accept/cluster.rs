//! A cluster for a line: a waypoint, nodes and mounts, each a process of its own on loopback.
//!
//! Owns which node listens where and keeps its data where, and what `polyfs status` says of them. Deliberately knows the
//! binary by its command line and output alone.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::mount::{Mount, START_LIMIT, STOP_LIMIT, fresh_log};
use crate::process::{self, Daemon, Echo};

/// How long members may take to agree that all is well, catching up included.
pub(super) const HEAL_LIMIT: Duration = Duration::from_secs(90);
const STATUS_LIMIT: Duration = Duration::from_secs(20);
const FSCK_LIMIT: Duration = Duration::from_secs(120);
/// What each node offers: what `statfs` says then depends on PolyFS alone, not on what others do to the disk.
const CAPACITY: &str = "16GiB";
/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(100);
/// What must stay as it is is watched for so long: the controller acts within a second of its reasons.
const WATCH: Duration = Duration::from_secs(4);

/// What `polyfs status --json` says.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    pub(super) health: String,
    pub(super) why: Vec<String>,
    pub(super) master: Option<u64>,
    pub(super) mrg: Mrg,
    pub(super) nodes: Vec<NodeLine>,
    pub(super) regions: Regions,
}

#[derive(Debug, Deserialize)]
pub(super) struct Mrg {
    pub(super) members: Vec<u64>,
}

/// A node as listed.
#[derive(Debug, Deserialize)]
pub(super) struct NodeLine {
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) state: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Regions {
    pub(super) under_replicated: u64,
    pub(super) unavailable: u64,
}

struct Node {
    data: PathBuf,
    address: String,
    daemon: Option<Daemon>,
}

/// A waypoint and some nodes.
pub(crate) struct Cluster {
    binary: PathBuf,
    home: PathBuf,
    /// host:port.
    pub(crate) waypoint: String,
    nodes: Vec<Node>,
    // Dropped after the nodes, so that they can still sign off.
    door: Option<Daemon>,
}

impl Cluster {
    /// Starts a waypoint and `nodes` nodes side by side, until all say `ready`.
    pub(crate) fn start(binary: &Path, home: &Path, nodes: usize) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        let mut cluster = Self {
            binary: binary.to_owned(),
            home: home.to_owned(),
            waypoint: String::new(),
            nodes: Vec::new(),
            door: None,
        };
        cluster.start_waypoint()?;
        cluster.add(nodes)?;
        Ok(cluster)
    }

    /// Starts one like [`Self::start`], and waits until everything has all its replicas.
    pub(crate) fn whole(binary: &Path, home: &Path, nodes: usize) -> Result<Self> {
        let cluster = Self::start(binary, home, nodes)?;
        cluster.heal(nodes)?;
        Ok(cluster)
    }

    fn start_waypoint(&mut self) -> Result<()> {
        self.waypoint = free_address()?;
        let mut command = process::command(&self.binary);
        command.args(["waypoint", "--listen", &self.waypoint]);
        let log = fresh_log(&self.home, "waypoint");
        self.door = Some(Daemon::start("waypoint", &mut command, &log)?);
        Ok(())
    }

    /// Starts more nodes, until all of them say `ready`.
    pub(super) fn add(&mut self, nodes: usize) -> Result<()> {
        let first = self.nodes.len();
        for index in first..first + nodes {
            self.nodes.push(Node {
                data: self.home.join(format!("n{}", index + 1)),
                address: free_address()?,
                daemon: None,
            });
            self.launch(index)?;
        }
        (first..first + nodes).try_for_each(|index| self.ready(index))
    }

    /// Starts a node without waiting for it.
    pub(super) fn launch(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let mut command = process::command(&self.binary);
        command.arg("node").arg("--data").arg(&node.data);
        command.args(["--listen", &node.address, "--waypoint", &self.waypoint]);
        command.args(["--capacity", CAPACITY]);
        let name = format!("node-{}", index + 1);
        let log = fresh_log(&self.home, &name);
        node.daemon = Some(Daemon::start(&name, &mut command, &log)?);
        Ok(())
    }

    /// Waits until a launched node serves.
    pub(super) fn ready(&mut self, index: usize) -> Result<()> {
        let daemon = self.nodes[index].daemon.as_mut();
        let daemon = daemon.context("the node is not running")?;
        daemon.wait_line("ready", START_LIMIT).map(drop)
    }

    /// Sends a node a signal.
    pub(super) fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let daemon = self.nodes[index].daemon.as_ref();
        daemon.context("the node is not running")?.signal(signal)
    }

    /// kill -9 of one node.
    pub(super) fn kill(&mut self, index: usize) -> Result<()> {
        let daemon = self.nodes[index].daemon.take();
        let mut daemon = daemon.context("the node is not running")?;
        daemon.signal(Signal::SIGKILL)?;
        daemon.wait(STOP_LIMIT).map(drop)
    }

    /// kill -9 of every node, all at once, and of the waypoint.
    pub(super) fn kill_all(&mut self) -> Result<()> {
        let nodes = self.nodes.iter_mut().filter_map(|node| node.daemon.take());
        let mut daemons: Vec<Daemon> = nodes.chain(self.door.take()).collect();
        for daemon in &daemons {
            daemon.signal(Signal::SIGKILL)?;
        }
        for daemon in &mut daemons {
            daemon.wait(STOP_LIMIT)?;
        }
        Ok(())
    }

    /// After [`Self::kill_all`]: everything again, on the same data; a new waypoint knows nothing.
    pub(super) fn start_again(&mut self) -> Result<()> {
        self.start_waypoint()?;
        for index in 0..self.nodes.len() {
            self.launch(index)?;
        }
        (0..self.nodes.len()).try_for_each(|index| self.ready(index))
    }

    /// Every node gets a new address, to be used by its next start.
    pub(super) fn move_away(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.address = free_address()?;
        }
        Ok(())
    }

    /// A mount at `name` in a process of its own.
    pub(super) fn mount(&self, name: &str) -> Result<Mount> {
        let point = self.home.join(name);
        Mount::of_cluster(&self.binary, &point, &self.waypoint, &self.home)
    }

    /// What the cluster says of itself.
    pub(super) fn status(&self) -> Result<Status> {
        let text = self.ask(&["status", "--json"], STATUS_LIMIT)?;
        serde_json::from_str(&text).with_context(|| format!("polyfs status --json says\n{text}"))
    }

    /// Waits until health is `ok` with `nodes` nodes known, and says how long that took.
    pub(super) fn heal(&self, nodes: usize) -> Result<Duration> {
        self.until("health is ok", |status| {
            status.health == "ok" && status.nodes.len() == nodes
        })
    }

    /// Waits until the status satisfies `good`, and says how long that took.
    pub(super) fn until(&self, what: &str, good: impl Fn(&Status) -> bool) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&good) {
                return Ok(started.elapsed());
            }
            if started.elapsed() > HEAL_LIMIT {
                bail!("not in {} s: {what}; {status:#?}", HEAL_LIMIT.as_secs());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Looks for [`WATCH`] whether the status goes on satisfying `good`.
    pub(super) fn stays(&self, what: &str, good: impl Fn(&Status) -> bool) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < WATCH {
            let status = self.status()?;
            ensure!(good(&status), "it did not stay so: {what}; {status:#?}");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// `polyfs fsck` must find nothing.
    pub(super) fn fsck(&self) -> Result<()> {
        let found = self.ask(&["fsck", "--json"], FSCK_LIMIT);
        found.context("fsck").map(drop)
    }

    fn ask(&self, arguments: &[&str], limit: Duration) -> Result<String> {
        let mut command = process::command(&self.binary);
        command
            .args(arguments)
            .args(["--waypoint", &self.waypoint])
            .stderr(std::process::Stdio::inherit());
        let finished = process::run(&mut command, limit, Echo::Hide)?;
        // `status` of a cluster that is not well may say so by its exit code too; what it prints decides.
        let text = finished.text.clone();
        if arguments.first() == Some(&"status") && text.contains('{') {
            let start = text.find('{').unwrap_or(0);
            let end = text.rfind('}').map_or(text.len(), |end| end + 1);
            return Ok(text[start..end].to_owned());
        }
        ensure!(finished.success(), "{arguments:?}:\n{}", finished.tail());
        Ok(text)
    }

    /// Processor time that the nodes have used so far, and the memory they occupy: seconds, bytes.
    pub(super) fn cost(&self) -> Result<(f64, u64)> {
        let (mut seconds, mut bytes) = (0.0, 0);
        for node in &self.nodes {
            let daemon = node.daemon.as_ref().context("the node is not running")?;
            let (used, resident) = cost_of(daemon.id())?;
            seconds += used;
            bytes += resident;
        }
        Ok((seconds, bytes))
    }

    /// Where a node keeps its data.
    pub(super) fn data(&self, index: usize) -> &Path {
        &self.nodes[index].data
    }

    /// Whether a node is the master.
    pub(super) fn is_master(&self, index: usize) -> Result<bool> {
        let status = self.status()?;
        let line = status
            .nodes
            .iter()
            .find(|line| line.address == self.address(index));
        let line = line.context("status does not list the node")?;
        Ok(status.master == Some(line.id))
    }

    /// Waits until the master has noticed that a node is not there.
    pub(super) fn missed(&self, index: usize) -> Result<Duration> {
        self.until("a node is missed", |status| {
            let mut lines = status.nodes.iter();
            lines.any(|line| line.address == self.address(index) && line.state != "alive")
        })
    }

    /// Where a node listens.
    pub(super) fn address(&self, index: usize) -> &str {
        &self.nodes[index].address
    }
}

/// An address on loopback that nobody listens at.
pub(super) fn free_address() -> Result<String> {
    let probe = TcpListener::bind("127.0.0.1:0")?;
    Ok(probe.local_addr()?.to_string())
}

/// proc(5): user and system time in ticks of 10 ms are fields 14 and 15 of stat; resident pages are in status.
fn cost_of(id: u32) -> Result<(f64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after_name = stat.rsplit(')').next().context("stat without a name")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |field: usize| -> Result<u32> { Ok(fields[field - 3].parse()?) };
    let seconds = f64::from(ticks(14)? + ticks(15)?) / 100.0;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.context("no VmRSS")?.parse()?;
    Ok((seconds, kib * 1024))
}
