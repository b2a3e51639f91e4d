//! The way into the background: the same command in a child, whose first line says that it is mounted.
//!
//! Owns the bond between the two. Until it is mounted the child ends with its parent, and what it says on stderr is the
//! parent's to tell, kept in memory of the kernel's that has no name (memfd_create(2)); after that it has neither parent,
//! terminal nor working directory.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, getppid};

use crate::output::{self, USAGE};

/// Set for the child that serves, to its parent's id: it has the same arguments and configuration file, and must start no
/// child of its own.
const IN_BACKGROUND: &str = "POLYFS_IN_BACKGROUND";

/// Whether this process is the one that serves.
pub(crate) fn is_child() -> bool {
    std::env::var_os(IN_BACKGROUND).is_some()
}

/// Starts the same command as a child of its own process group and waits until it says that it is mounted.
pub(crate) fn start() -> anyhow::Result<()> {
    let said = memfd_create(c"polyfs-mount", MFdFlags::MFD_CLOEXEC);
    let said = File::from(said.context("no memory for what the mount's process says")?);
    let child = start_child(said.try_clone()?)?;
    wait_mounted(child, said)
}

fn start_child(stderr: File) -> anyhow::Result<Child> {
    let binary = std::env::current_exe().context("the polyfs binary can't be found again")?;
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|word| word != "--daemon" && word != "--daemon=true");
    let child = Command::new(binary)
        .args(arguments)
        .env(IN_BACKGROUND, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .process_group(0)
        .spawn();
    child.context("the mount's process can't be started")
}

fn wait_mounted(mut child: Child, mut said: File) -> anyhow::Result<()> {
    let stdout = child.stdout.take().expect("it was asked for");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.starts_with("mounted ") {
        return output::print(line.trim_end());
    }
    let status = child.wait()?;
    let mut bytes = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    let text = text.strip_prefix("polyfs: ").unwrap_or(text);
    if text.is_empty() {
        bail!("the mount's process ended: {status}; run it without --daemon to see why");
    }
    if status.code() == Some(i32::from(USAGE)) {
        return Err(output::usage(text));
    }
    bail!("{}", text.to_owned())
}

/// A parent that is interrupted takes the child with it.
pub(crate) fn stay_with_parent() -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGTERM)?;
    let parent = std::env::var(IN_BACKGROUND).unwrap_or_default();
    ensure!(
        parent == getppid().to_string(),
        "who started this mount has ended"
    );
    Ok(())
}

/// It is mounted: nobody is listened to, written to or stood on any more. Logs go where --log-file says.
pub(crate) fn let_go() -> anyhow::Result<()> {
    set_pdeathsig(None)?;
    std::env::set_current_dir("/")?;
    dup2_stderr(File::options().write(true).open("/dev/null")?)?;
    Ok(())
}
