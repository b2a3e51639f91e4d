//! Comparison with a native disk and with GlusterFS, on this machine, side by side.
//!
//! Owns the starting of three nodes and a mount for the harness, which lies outside this repository in `bench/` of the
//! directory that [`Workspace::shared`] names and says how it measures; what must hold of its figures is [`verdict`]'s.
//! Takes long and wants idle CPUs; not part of CI.

mod verdict;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use self::verdict::Results;
use crate::accept::cluster::Cluster;
use crate::accept::is_mounted;
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
    /// Use this binary instead of building polyfs in release
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where the results go (JSON); the table is printed
    #[arg(long, default_value = "/var/tmp/polyfs-bench.json")]
    out: PathBuf,
    /// Put the table into docs/performance.md
    #[arg(long)]
    write: bool,
    /// Measure nothing: report on the results of an earlier run
    #[arg(long)]
    report: bool,
    /// Given to the harness as it is
    #[arg(last = true)]
    more: Vec<String>,
}

const NODES: usize = 3;
const LIMIT: Duration = Duration::from_secs(4 * 3600);
const SHORT: Duration = Duration::from_secs(300);
/// Between these lines of docs/performance.md lies what a run wrote.
const MARKS: (&str, &str) = (
    "<!-- begin: cargo xtask bench --write -->\n",
    "<!-- end -->\n",
);

/// Starts everything, measures, and takes everything down.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::load()?;
    let harness = workspace.shared().join("bench");
    ensure!(
        harness.join("bench.py").is_file(),
        "{} is not there; set POLYFS_SHARED to the directory that holds bench/",
        harness.join("bench.py").display()
    );
    if !arguments.report {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "mounting and dropping caches needs root"
        );
        everything(arguments, &workspace, &harness)?;
    }
    report(arguments, &workspace, &harness)
}

fn everything(arguments: &Arguments, workspace: &Workspace, harness: &Path) -> Result<()> {
    let built = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => {
            let mut build = workspace.cargo(&["build", "--release", "--package", "polyfs-cli"]);
            process::check("the release build", &mut build, Duration::from_secs(1800))?;
            workspace.target.join("release/polyfs")
        }
    };
    let home = PathBuf::from(format!("/var/tmp/polyfs-bench-{}", std::process::id()));
    std::fs::create_dir_all(&home)?;
    // A path of its own tells its processes from those of other clusters on this machine.
    let binary = home.join("polyfs");
    std::fs::copy(&built, &binary).with_context(|| built.display().to_string())?;
    let result = measure(arguments, &binary, &home, harness);
    let stopped = match arguments.no_glusterfs {
        true => Ok(()),
        false => peer(harness, "stop-glusterfs.sh", &["--wipe"]),
    };
    result.and(stopped)?;
    std::fs::remove_dir_all(&home)?;
    Ok(())
}

fn measure(arguments: &Arguments, binary: &Path, home: &Path, harness: &Path) -> Result<()> {
    let native = home.join("native");
    std::fs::create_dir_all(&native)?;
    let cluster = Cluster::whole(binary, &home.join("cluster"), NODES)?;
    let mount = Remountable::new(binary, home, &cluster.waypoint)?;
    println!("{NODES} nodes, mounted at {}", mount.point.display());
    let mut command = process::command("python3");
    command.arg(harness.join("bench.py"));
    target(&mut command, "native", &native, None);
    target(&mut command, "polyfs", &mount.point, Some(mount.again()));
    let of = |role: &str| format!("^{} {role} ", binary.display());
    let procs = format!("polyfs={}::{}", of("(waypoint|node)"), of("mount"));
    command.arg("--procs").arg(procs);
    if !arguments.no_glusterfs {
        peer(harness, "start-glusterfs.sh", &[])?;
        let root = std::env::var("PEERS_ROOT").unwrap_or_else(|_| "/tmp/polyfs-peers".to_owned());
        let point = Path::new(&root).join("mnt/glusterfs");
        let again = harness.join("peers/remount.sh");
        let again = format!("bash {} glusterfs", again.display());
        target(&mut command, "glusterfs", &point, Some(again));
    }
    command
        .arg(if arguments.full { "--full" } else { "--quick" })
        .arg("--scratch")
        .arg(home.join("scratch"))
        .arg("--out")
        .arg(&arguments.out)
        .args(&arguments.more);
    let finished = process::run(&mut command, LIMIT, Echo::Show)?;
    ensure!(finished.success(), "the harness failed");
    mount.stop()
}

/// A file system to be measured, and the command that empties its client's caches.
fn target(command: &mut Command, name: &str, point: &Path, again: Option<String>) {
    command.arg("--mount");
    command.arg(format!("{name}={}", point.display()));
    if let Some(again) = again {
        command.arg("--remount").arg(format!("{name}={again}"));
    }
}

/// The mount under measurement: a process in the background that a script replaces, so that its caches are empty.
struct Remountable {
    point: PathBuf,
    script: PathBuf,
}

impl Remountable {
    fn new(binary: &Path, home: &Path, waypoint: &str) -> Result<Self> {
        let mount = Self {
            point: home.join("below/mnt"),
            script: home.join("remount.sh"),
        };
        // Nothing can be written where the mount should be while it is away: a figure would be the native disk's.
        let below = home.join("below");
        std::fs::create_dir_all(&below)?;
        let tmpfs = ["-t", "tmpfs", "-o", "size=64k", "polyfs-bench"];
        sh("mount", &tmpfs, &below)?;
        std::fs::create_dir_all(&mount.point)?;
        sh("mount", &["-o", "remount,ro"], &below)?;
        let (point, binary) = (mount.point.display(), binary.display());
        let log = home.join("mount.log");
        let script = format!(
            "set -e\nif mountpoint -q {point}; then {binary} umount {point}; fi\n\
             while pgrep -f '^{binary} mount ' > /dev/null; do sleep 0.1; done\n\
             exec {binary} mount {point} --waypoint {waypoint} --daemon --log-file {}\n",
            log.display()
        );
        std::fs::write(&mount.script, script)?;
        let mut command = process::command("bash");
        command.arg(&mount.script);
        process::check("mount", &mut command, SHORT)?;
        Ok(mount)
    }

    fn again(&self) -> String {
        format!("bash {}", self.script.display())
    }

    fn stop(self) -> Result<()> {
        sh("umount", &[], &self.point)
    }
}

fn sh(program: &str, options: &[&str], path: &Path) -> Result<()> {
    let mut command = process::command(program);
    command.args(options).arg(path);
    process::check(program, &mut command, SHORT).map(drop)
}

impl Drop for Remountable {
    fn drop(&mut self) {
        let below = self.point.parent().map(Path::to_path_buf);
        for path in [Some(self.point.clone()), below].into_iter().flatten() {
            if is_mounted(&path) {
                let _nobody_is_left_to_tell = sh("umount", &["-l"], &path);
            }
        }
    }
}

/// Prints the table and what it means, and writes both down when asked to.
fn report(arguments: &Arguments, workspace: &Workspace, harness: &Path) -> Result<()> {
    let mut command = process::command("python3");
    command
        .arg(harness.join("bench.py"))
        .arg("--report")
        .arg(&arguments.out);
    let table = process::check("the report", &mut command, SHORT)?;
    let results = Results::load(&arguments.out)?;
    let verdict = results.verdict();
    let mut text = String::new();
    writeln!(text, "{}\n", results.circumstances())?;
    writeln!(text, "{}\n", table.trim_end())?;
    writeln!(text, "What must hold:\n")?;
    for demand in &verdict {
        writeln!(text, "{}", demand.text)?;
    }
    println!("{text}");
    if arguments.write {
        write_down(&workspace.root.join("docs/performance.md"), &text)?;
    }
    let broken = verdict.iter().filter(|demand| !demand.holds).count();
    ensure!(broken == 0, "{broken} demands do not hold");
    Ok(())
}

fn write_down(page: &Path, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let lost = || format!("{} has lost its marks", page.display());
    let (before, rest) = old.split_once(MARKS.0).with_context(lost)?;
    let (_, after) = rest.split_once(MARKS.1).with_context(lost)?;
    let new = format!("{before}{}\n{text}\n{}{after}", MARKS.0, MARKS.1);
    Ok(std::fs::write(page, new)?)
}

fn peer(harness: &Path, script: &str, options: &[&str]) -> Result<()> {
    let mut command = process::command("bash");
    command
        .arg(harness.join("peers").join(script))
        .args(options);
    process::check(script, &mut command, SHORT)?;
    Ok(())
}
