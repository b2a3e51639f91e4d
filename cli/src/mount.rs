//! `polyfs mount`: a cluster's filesystem in a process of its own.
//!
//! Owns the order of coming up, and the way into the background: the same command in a child, whose first line says that
//! it is mounted.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use polyfs_node::client;

use crate::arguments::Mount;
use crate::output::{self, USAGE};
use crate::{cluster, up};

/// A master that does not answer by then is not there.
const MASTER_DEADLINE: Duration = Duration::from_secs(4);

/// Set for the child that serves: it has the same arguments and configuration file, and must start no child of its own.
const IN_BACKGROUND: &str = "POLYFS_IN_BACKGROUND";

/// Whether this process only starts the one that serves.
pub(crate) fn goes_to_background(options: &Mount) -> bool {
    options.daemon && std::env::var_os(IN_BACKGROUND).is_none()
}

/// Runs until told to stop, or until it is mounted when it goes on in the background.
pub(crate) fn run(options: &Mount) -> anyhow::Result<()> {
    if goes_to_background(options) {
        return in_background(options.log_file.as_deref());
    }
    // What is wrong with the mountpoint is said before anybody is looked for.
    polyfs_fuse::check(&options.mountpoint)?;
    cluster::block_on(mount(options))
}

async fn mount(options: &Mount) -> anyhow::Result<()> {
    let access = cluster::reach(&options.cluster).await?;
    let config = up::client_config(options.read_only);
    let opened = client::open_through(access, config);
    let Ok(opened) = tokio::time::timeout(MASTER_DEADLINE, opened).await else {
        bail!(
            "the cluster has no master that answers; polyfs status says why, and it may help to try again"
        );
    };
    let (client, root) = opened?;
    let mounted = up::mount(client, root, &options.mountpoint, options.read_only).await?;
    up::serve(mounted, std::future::pending()).await
}

/// Starts the same command as a child of its own process group and waits until it says that it is mounted.
fn in_background(log_file: Option<&Path>) -> anyhow::Result<()> {
    let said = std::env::temp_dir().join(format!("polyfs-mount-{}.log", std::process::id()));
    let stderr =
        File::create(&said).with_context(|| format!("{} can't be made", said.display()))?;
    let started = start_child(stderr);
    let result = started.and_then(|child| wait_mounted(child, &said));
    // A living child keeps the file it writes to; its logs are wanted only where --log-file says.
    if std::fs::remove_file(&said).is_err() {
        tracing::debug!(path = %said.display(), "a temporary file stays");
    }
    if log_file.is_none() {
        tracing::debug!("the mount's logs are dropped; --log-file keeps them");
    }
    result
}

fn start_child(stderr: File) -> anyhow::Result<Child> {
    let binary = std::env::current_exe().context("the polyfs binary can't be found again")?;
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|word| word != "--daemon" && word != "--daemon=true");
    let child = Command::new(binary)
        .args(arguments)
        .env(IN_BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .process_group(0)
        .spawn();
    child.context("the mount's process can't be started")
}

fn wait_mounted(mut child: Child, said: &Path) -> anyhow::Result<()> {
    let stdout = child.stdout.take().expect("it was asked for");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.starts_with("mounted ") {
        return output::print(line.trim_end());
    }
    let status = child.wait()?;
    let text = std::fs::read_to_string(said).unwrap_or_default();
    let text = text.trim();
    let text = text.strip_prefix("polyfs: ").unwrap_or(text);
    if text.is_empty() {
        bail!("the mount's process ended: {status}; run it without --daemon to see why");
    }
    if status.code() == Some(i32::from(USAGE)) {
        return Err(output::usage(text));
    }
    bail!("{text}")
}
