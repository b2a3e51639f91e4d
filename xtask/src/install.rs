//! What checks need beyond cargo, rustc, git and gcc; installed once, quick when present.
//!
//! Owns the two cargo programs and where they live; which Debian packages are wanted is said by the acceptance lines
//! that want them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::process::{self, Echo};

/// A program from the crate registry. Versions are pinned: a new release must not break an old commit.
struct Tool {
    name: &'static str,
    version: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "cargo-nextest",
        version: "0.9.143",
    },
    Tool {
        name: "cargo-deny",
        version: "0.20.2",
    },
];

const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);
const APT_LIMIT: Duration = Duration::from_secs(10 * 60);

/// A directory outside the clone that outlives it: `POLYFS_CACHE`, or one in /var/tmp.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("POLYFS_CACHE")
        .map_or_else(|| PathBuf::from("/var/tmp/polyfs-tools"), PathBuf::from)
}

/// Where a program is, if it is.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(cache().join("bin"))
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Installs what is missing: `packages` from Debian, the tools from the crate registry, rustfmt and clippy.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    debian(packages)?;
    device()?;
    for component in ["rustfmt", "clippy"] {
        toolchain(component)?;
    }
    for tool in TOOLS {
        if find(tool.name).is_none() {
            cargo_install(tool)?;
        }
    }
    Ok(())
}

fn cargo_install(tool: &Tool) -> Result<()> {
    println!("installing {} {}", tool.name, tool.version);
    // Not from the work tree: its .cargo/config.toml is for our own crates.
    let mut command = process::command("cargo");
    command
        .args(["install", "--locked", "--quiet", "--version", tool.version])
        .arg("--root")
        .arg(cache())
        .arg(tool.name)
        .env("CARGO_TARGET_DIR", cache().join("build"))
        .current_dir("/");
    process::check(tool.name, &mut command, BUILD_LIMIT)?;
    ensure!(
        find(tool.name).is_some(),
        "{} was installed but can't be found",
        tool.name
    );
    Ok(())
}

fn toolchain(component: &str) -> Result<()> {
    let name = if component == "clippy" {
        "cargo-clippy"
    } else {
        "rustfmt"
    };
    let works = |program: &str| {
        process::run(
            process::command(program).arg("--version"),
            Duration::from_secs(60),
            Echo::Hide,
        )
        .is_ok_and(|finished| finished.success())
    };
    if works(name) {
        return Ok(());
    }
    let mut command = process::command("rustup");
    command.args(["component", "add", component]);
    process::check("rustup component add", &mut command, APT_LIMIT)?;
    ensure!(works(name), "{component} does not work: install it");
    Ok(())
}

/// Those of `packages` that are not installed.
pub(crate) fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let present = |package: &str| {
        Command::new("dpkg-query")
            .args(["-W", "-f=${db:Status-Status}", package])
            .output()
            .is_ok_and(|output| output.stdout == b"installed")
    };
    packages
        .iter()
        .copied()
        .filter(|package| !present(package))
        .collect()
}

fn debian(packages: &[&str]) -> Result<()> {
    let wanted = missing(packages);
    if wanted.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "missing Debian packages; run as root: apt-get install {}",
            wanted.join(" ")
        );
    }
    println!("installing {}", wanted.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = process::command("apt-get");
        command
            .args(["-o", "DPkg::Lock::Timeout=300"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Debian's own servers of these packages are not wanted: lines start what they need.
            .env("RUNLEVEL", "1");
        command
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&wanted);
    if process::run(&mut apt(&install), APT_LIMIT, Echo::Hide)?.success() {
        return Ok(());
    }
    // The package index may be absent or old.
    process::check("apt-get update", &mut apt(&["update"]), APT_LIMIT)?;
    process::check("apt-get install", &mut apt(&install), APT_LIMIT)?;
    Ok(())
}

/// Makes /dev/fuse where a container came without the node but its kernel knows the driver.
fn device() -> Result<()> {
    if Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let script =
        "modprobe fuse 2>/dev/null || true; [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229";
    process::check(
        "mknod /dev/fuse",
        &mut process::bash(script, &[""; 0]),
        APT_LIMIT,
    )?;
    Ok(())
}
