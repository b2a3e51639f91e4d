//! Finding a cluster from outside: who is there, and where.
//!
//! Owns the round over waypoints and what an operator is told when it leads nowhere. Deliberately joins nothing.

use std::time::Duration;

use polyfs_core::ids::ClusterId;
use polyfs_core::time::Instant;
use thiserror::Error;

use crate::links::cluster_at;
use crate::runtime::Runtime;

/// A cluster that is not found by then is not found.
pub const FIND_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// A cluster, and some of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub cluster: ClusterId,
    /// Where members listen; the master's first, when it is known.
    pub addresses: Vec<String>,
}

/// Why no cluster was found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FindError {
    /// Nobody was named to ask.
    #[error("no waypoint is known: give --waypoint HOST:PORT, or set POLYFS_WAYPOINT")]
    NobodyToAsk,
    /// None of the nodes named answers.
    #[error("no node answers at {0}; check the address, and that polyfs node runs there")]
    NoNode(String),
    /// Members were named and none can be reached.
    #[error(
        "cluster {cluster} is there, but none of its members can be reached: {}; check that this machine can reach them",
        .addresses.join(", ")
    )]
    NoMember {
        /// Which cluster.
        cluster: ClusterId,
        /// Where its members should be.
        addresses: Vec<String>,
    },
}

/// Whom to ask for the cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Finder<R> {
    runtime: R,
    nodes: Vec<String>,
}

impl<R: Runtime> Finder<R> {
    /// Asks nodes whose addresses are known.
    #[must_use]
    pub fn nodes(runtime: R, nodes: Vec<String>) -> Self {
        Self { runtime, nodes }
    }

    /// Asks until somebody knows, at most [`FIND_DEADLINE`].
    ///
    /// # Errors
    /// What the last round came to.
    pub async fn find(&self) -> Result<Found, FindError> {
        let give_up = self.runtime.now().mono + FIND_DEADLINE;
        loop {
            match self.round(give_up).await {
                Ok(found) => return Ok(found),
                Err(error) if self.runtime.now().mono + PAUSE >= give_up => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "no cluster was found yet");
                    self.runtime.sleep(PAUSE).await;
                }
            }
        }
    }

    async fn round(&self, _give_up: Instant) -> Result<Found, FindError> {
        if self.nodes.is_empty() {
            return Err(FindError::NobodyToAsk);
        }
        for address in &self.nodes {
            if let Ok(cluster) = cluster_at(&self.runtime, address).await {
                return Ok(Found {
                    cluster,
                    addresses: self.nodes.clone(),
                });
            }
        }
        Err(FindError::NoNode(self.nodes.join(", ")))
    }
}
