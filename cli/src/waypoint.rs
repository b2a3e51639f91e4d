//! `polyfs waypoint`: the discovery service, and the word that a lost cluster won't come back.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use polyfs_core::ids::ClusterId;
use polyfs_core::waypoint::Request;
use polyfs_node::waypoint::{WaypointConfig, ask, serve};
use polyfs_runtime_tokio::{TokioDir, TokioRuntime};

use crate::arguments::{Forget, WaypointCommand, WaypointOptions};
use crate::output::usage;
use crate::serving::warn_if_open;
use crate::{cluster, signals};

/// Serves until told to stop, or forgets.
pub(crate) fn run(options: &WaypointOptions) -> anyhow::Result<()> {
    match (&options.command, &options.listen) {
        (Some(WaypointCommand::Forget(forget)), _) => cluster::block_on(forget_at(forget)),
        (None, Some(listen)) => cluster::block_on(run_at(listen, options.state.as_deref())),
        (None, None) => Err(usage(
            "--listen HOST:PORT is missing: where should the waypoint listen?",
        )),
    }
}

async fn run_at(listen: &str, state: Option<&Path>) -> anyhow::Result<()> {
    warn_if_open(listen);
    let runtime = TokioRuntime::new();
    let state = state.map(state_file).transpose()?;
    let config = WaypointConfig {
        state,
        skip_warm_up: false,
    };
    let mut end = signals::end()?;
    let address = serve(&runtime, listen, config)
        .await
        .with_context(|| format!("the waypoint at {listen}"))?;
    signals::say("ready", &address)?;
    end.wait().await;
    Ok(())
}

fn state_file(path: &Path) -> anyhow::Result<(Arc<TokioDir>, String)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} names no file", path.display()))?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(parent)
        .with_context(|| format!("{} can't be made", parent.display()))?;
    let dir = TokioDir::open(parent).with_context(|| parent.display().to_string())?;
    Ok((Arc::new(dir), name.to_owned()))
}

async fn forget_at(options: &Forget) -> anyhow::Result<()> {
    let drawn = u128::from_str_radix(options.cluster.trim_start_matches("0x"), 16);
    let cluster = drawn.map_err(|_| {
        usage(format!(
            "{} is no cluster id: it is the hexadecimal number that messages name",
            options.cluster
        ))
    })?;
    if options.waypoint.is_empty() {
        return Err(usage(
            "no waypoint is known: give --waypoint HOST:PORT, or set POLYFS_WAYPOINT",
        ));
    }
    let runtime = TokioRuntime::new();
    for waypoint in &options.waypoint {
        let told = ask(&runtime, waypoint, Request::Forget(ClusterId(cluster))).await;
        told.with_context(|| format!("waypoint {waypoint} was not told"))?;
    }
    Ok(())
}
