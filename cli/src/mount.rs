//! `polyfs mount`: a cluster's filesystem in a process of its own.
//!
//! Owns the order of coming up. How it goes into the background is [`background`]'s.

use std::time::Duration;

use anyhow::bail;
use polyfs_core::place::Ino;
use polyfs_node::client::{self, ClientHandle};

use crate::arguments::Mount;
use crate::{background, cluster, signals, up};

/// A master that does not answer by then is not there.
const MASTER_DEADLINE: Duration = Duration::from_secs(4);

/// Whether this process only starts the one that serves.
pub(crate) fn goes_to_background(options: &Mount) -> bool {
    options.daemon && !background::is_child()
}

/// Runs until told to stop, or until it is mounted when it goes on in the background.
pub(crate) fn run(options: &Mount) -> anyhow::Result<()> {
    if goes_to_background(options) {
        return background::start();
    }
    if background::is_child() {
        background::stay_with_parent()?;
    }
    // What is wrong with the mountpoint is said before anybody is looked for.
    polyfs_fuse::check(&options.mountpoint)?;
    cluster::block_on(mount(options))
}

async fn mount(options: &Mount) -> anyhow::Result<()> {
    let mut end = signals::end()?;
    let (client, root) = tokio::select! {
        biased;
        () = end.wait() => return Ok(()),
        opened = open(options) => opened?,
    };
    let mounted = up::mount(client, root, &options.mountpoint, options.read_only).await?;
    if background::is_child() {
        background::let_go()?;
    }
    up::serve(mounted, std::future::pending(), end).await
}

async fn open(options: &Mount) -> anyhow::Result<(ClientHandle, Ino)> {
    let access = cluster::reach(&options.cluster).await?;
    let config = up::client_config(options.read_only);
    let opened = client::open_through(access, config);
    match tokio::time::timeout(MASTER_DEADLINE, opened).await {
        Ok(opened) => Ok(opened?),
        Err(_) => bail!(
            "the cluster has no master that answers; polyfs status says why, and it may help to try again"
        ),
    }
}
