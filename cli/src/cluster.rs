//! Reaching a cluster from a process that is no node of it.
//!
//! Owns the executor of such a process and what it is told on the command line. How a cluster is found is node's.

use std::time::Duration;

use polyfs_node::access::Access;
use polyfs_node::find::{FindError, Finder};
use polyfs_runtime_tokio::TokioRuntime;

use crate::arguments::Cluster;

/// A cluster as such a process reaches it.
pub(crate) type Reached = Access<TokioRuntime>;

/// Finds the cluster that was named.
pub(crate) async fn reach(named: &Cluster) -> Result<Reached, FindError> {
    let runtime = TokioRuntime::new();
    let finder = if named.node.is_empty() {
        Finder::waypoints(runtime.clone(), named.waypoint.clone())
    } else {
        Finder::nodes(runtime.clone(), named.node.clone())
    };
    Access::outside(runtime, finder).await
}

/// Runs `work` on an executor of one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = executor.block_on(work);
    executor.shutdown_timeout(Duration::from_secs(1));
    result
}
