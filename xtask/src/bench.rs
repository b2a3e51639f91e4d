//! Comparison with a native disk and with GlusterFS, on this machine, side by side.
//!
//! Owns the starting of three nodes and a mount for the harness, which lies outside this repository in `bench/` of the
//! directory that [`Workspace::shared`] names and says how it measures. Takes long and wants idle CPUs; not part of CI.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::accept::cluster::Cluster;
use crate::accept::mount::Mount;
use crate::process::{self, Echo};
use crate::workspace::Workspace;

/// `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The harness's long profile instead of its quick one
    #[arg(long)]
    full: bool,
    /// Leave GlusterFS out
    #[arg(long)]
    no_glusterfs: bool,
    /// Where the results go (JSON); the table is printed
    #[arg(long, default_value = "/var/tmp/polyfs-bench.json")]
    out: PathBuf,
    /// Given to the harness as it is
    #[arg(last = true)]
    more: Vec<String>,
}

const NODES: usize = 3;
const LIMIT: Duration = Duration::from_secs(4 * 3600);
const SHORT: Duration = Duration::from_secs(300);

/// Starts everything, measures, and takes everything down.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "mounting and dropping caches needs root"
    );
    let workspace = Workspace::load()?;
    let harness = workspace.shared().join("bench");
    ensure!(
        harness.join("bench.py").is_file(),
        "{} is not there; set POLYFS_SHARED to the directory that holds bench/",
        harness.join("bench.py").display()
    );
    let mut build = workspace.cargo(&["build", "--release", "--package", "polyfs-cli"]);
    process::check("the release build", &mut build, Duration::from_secs(1800))?;
    let binary = workspace.target.join("release/polyfs");
    let home = PathBuf::from(format!("/var/tmp/polyfs-bench-{}", std::process::id()));
    let result = measure(arguments, &binary, &home, &harness);
    if !arguments.no_glusterfs {
        let stopped = peer(&harness, "stop-glusterfs.sh");
        result.and(stopped)?;
    } else {
        result?;
    }
    std::fs::remove_dir_all(&home)?;
    Ok(())
}

fn measure(arguments: &Arguments, binary: &Path, home: &Path, harness: &Path) -> Result<()> {
    let native = home.join("native");
    std::fs::create_dir_all(&native)?;
    let cluster = Cluster::start(binary, &home.join("cluster"), NODES)?;
    let point = home.join("mnt");
    let mount = Mount::of_cluster(binary, &point, &cluster.waypoint, home)?;
    println!("{} nodes, mounted at {}", cluster.size(), point.display());
    let mut command = process::command("python3");
    command
        .arg(harness.join("bench.py"))
        .arg("--mount")
        .arg(format!("native={}", native.display()))
        .arg("--mount")
        .arg(format!("polyfs={}", mount.point.display()));
    if !arguments.no_glusterfs {
        peer(harness, "start-glusterfs.sh")?;
        let root = std::env::var("PEERS_ROOT").unwrap_or_else(|_| "/tmp/polyfs-peers".to_owned());
        command
            .arg("--mount")
            .arg(format!("glusterfs={root}/mnt/glusterfs"));
    }
    command
        .arg(if arguments.full { "--full" } else { "--quick" })
        .arg("--out")
        .arg(&arguments.out)
        .args(&arguments.more);
    let finished = process::run(&mut command, LIMIT, Echo::Show)?;
    ensure!(finished.success(), "the harness failed");
    mount.stop()?;
    let mut report = process::command("python3");
    report
        .arg(harness.join("bench.py"))
        .arg("--report")
        .arg(&arguments.out);
    println!("{}", process::check("the report", &mut report, SHORT)?);
    Ok(())
}

fn peer(harness: &Path, script: &str) -> Result<()> {
    let mut command = process::command("bash");
    command.arg(harness.join("peers").join(script));
    process::check(script, &mut command, SHORT)?;
    Ok(())
}
