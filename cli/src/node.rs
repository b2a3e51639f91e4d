//! `polyfs node`: this machine's part of a cluster.
//!
//! Owns the order of a node's life, with a mount in the same process if one is wanted.

use polyfs_node::join::JoinConfig;
use polyfs_runtime_tokio::TokioRuntime;

use crate::arguments::NodeOptions;
use crate::output::usage;
use crate::serving::{Ground, Serving, is_unspecified, warn_if_open};
use crate::{apart, cluster, signals, up};

/// Runs until told to stop.
pub(crate) fn run(options: &NodeOptions) -> anyhow::Result<()> {
    if is_unspecified(&options.listen) && options.advertise.is_none() {
        return Err(usage(format!(
            "--listen {} is no address that others can dial: add --advertise HOST:PORT with this machine's own",
            options.listen
        )));
    }
    if let Some(mountpoint) = &options.mount {
        // What is wrong with the mountpoint is said before anything is started.
        polyfs_fuse::check(mountpoint)?;
        apart::check(&options.data, mountpoint)?;
    }
    cluster::block_on(serve(options))
}

async fn serve(options: &NodeOptions) -> anyhow::Result<()> {
    warn_if_open(&options.listen);
    let runtime = TokioRuntime::new();
    let advertise = options.advertise.as_deref();
    let ground = Ground::open(&runtime, &options.data, &options.listen, advertise).await?;
    let config = JoinConfig {
        waypoints: options.waypoint.clone(),
        address: ground.address.clone(),
        zone: options.zone.clone().unwrap_or_default(),
        capacity: options.capacity.unwrap_or(0),
        expect: options.expect.unwrap_or(1),
        join_only: options.join_only,
    };
    let mut end = signals::end()?;
    let mut serving = tokio::select! {
        biased;
        () = end.wait() => return Ok(()),
        serving = ground.serve(config) => serving?,
    };
    signals::say("ready", &serving.node.address())?;
    let result = match &options.mount {
        Some(mountpoint) => {
            let node = serving.node.clone();
            up::mount_and_serve(node, serving.over(), mountpoint, end).await
        }
        None => until_end(&mut serving, end).await,
    };
    serving.stop().await;
    result
}

async fn until_end(serving: &mut Serving, mut end: signals::End) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = end.wait() => Ok(()),
        why = serving.over() => Err(why),
    }
}
