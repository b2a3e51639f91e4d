//! `polyfs waypoint`: the discovery service, and the word that a lost cluster won't come back.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use polyfs_core::ids::ClusterId;
use polyfs_core::waypoint::{Answer, Request};
use polyfs_node::waypoint::{WaypointConfig, ask, serve};
use polyfs_runtime_tokio::{TokioDir, TokioRuntime};

use crate::arguments::{Forget, WaypointCommand, WaypointOptions};
use crate::output::{self, usage};
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
    let (mut forgot, mut failed) = (false, Vec::new());
    // One that is down must not keep the others from being told.
    for waypoint in &options.waypoint {
        match tell(&runtime, waypoint, ClusterId(cluster)).await {
            Ok(()) => {
                forgot = true;
                output::print(&format!("forgotten by {waypoint}"))?;
            }
            Err(Untold::Unknown) if forgot => {}
            Err(untold) => failed.push(format!("{waypoint} {untold}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Why a waypoint did not forget.
#[derive(Debug)]
enum Untold {
    Unknown,
    Heard(Vec<String>),
    Failed(String),
}

impl Display for Untold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => write!(f, "knows no such cluster"),
            Self::Heard(addresses) => write!(
                f,
                "has heard nodes of it within the last minute, at {}: stop them, and try again a minute later",
                addresses.join(", ")
            ),
            Self::Failed(why) => write!(f, "was not told: {why}"),
        }
    }
}

async fn tell(runtime: &TokioRuntime, waypoint: &str, cluster: ClusterId) -> Result<(), Untold> {
    match ask(runtime, waypoint, Request::Forget(cluster)).await {
        Ok(reply) => match reply.answer {
            Answer::Done => Ok(()),
            Answer::Members { addresses, .. } => Err(Untold::Heard(addresses)),
            _ => Err(Untold::Unknown),
        },
        Err(error) => Err(Untold::Failed(error.to_string())),
    }
}
