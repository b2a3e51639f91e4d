//! Finding a cluster from outside: who is there, and where.
//!
//! Owns the round over waypoints and what an operator is told when it leads nowhere. Deliberately joins nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use openraft_rt::AsyncRuntime;
use polyfs_core::ids::ClusterId;
use polyfs_core::waypoint::{Answer, Request};
use thiserror::Error;

use crate::links::cluster_at;
use crate::runtime::Runtime;
use crate::waypoint::ask;

/// A cluster that is not found by then is not found.
pub const FIND_DEADLINE: Duration = Duration::from_secs(4);
/// One waypoint has this long to answer.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
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
    /// None of the waypoints answers.
    #[error(
        "no waypoint answers: {}; check the address, and that polyfs waypoint runs there and can be reached",
        list(.0)
    )]
    NoWaypoint(Vec<(String, String)>),
    /// All that answer know of nobody.
    #[error("the waypoints {} know of no cluster; start a node: polyfs node --waypoint ...", .0.join(", "))]
    NoCluster(Vec<String>),
    /// A cluster is being made, or a waypoint has just started.
    #[error("the waypoints {} know of no cluster yet; try again in a few seconds", .0.join(", "))]
    NotYet(Vec<String>),
    /// A cluster was there, and no node of it is heard any more.
    #[error(
        "cluster {0} was there, and none of its nodes is heard any more; start its nodes again"
    )]
    Lost(ClusterId),
    /// Members of several clusters register at the same waypoints.
    #[error(
        "several clusters use these waypoints ({}); give each its own",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Conflict(Vec<ClusterId>),
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

fn list(failures: &[(String, String)]) -> String {
    let each = failures
        .iter()
        .map(|(at, why)| format!("{at} ({why})"))
        .collect::<Vec<_>>();
    each.join(", ")
}

/// What one waypoint said, or why it said nothing.
type Said = (String, Result<Answer, String>);

/// What all waypoints' answers come to: masters before other members before anything that is no cluster.
fn judge(said: Vec<Said>) -> Result<Found, FindError> {
    let mut members: Option<Found> = None;
    let mut masters = 0;
    let mut bad = None;
    let (mut silent, mut nobody, mut pending) = (Vec::new(), Vec::new(), false);
    for (waypoint, answer) in said {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                silent.push((waypoint, why));
                continue;
            }
        };
        nobody.push(waypoint);
        match answer {
            Answer::Master {
                cluster,
                address,
                others,
            } => {
                let found = members.get_or_insert(Found {
                    cluster,
                    addresses: Vec::new(),
                });
                // Another waypoint may know a later master: both are members. All of them may have died.
                found.addresses.insert(masters, address);
                found.addresses.extend(others);
                masters += 1;
            }
            Answer::Members { cluster, addresses } => {
                let found = members.get_or_insert(Found {
                    cluster,
                    addresses: Vec::new(),
                });
                found.addresses.extend(addresses);
            }
            Answer::Conflict(clusters) => bad = Some(FindError::Conflict(clusters)),
            Answer::Lost(cluster) => bad = bad.or(Some(FindError::Lost(cluster))),
            Answer::Claimed(_) | Answer::JustStarted => pending = true,
            _ => {}
        }
    }
    if let Some(mut found) = members {
        let mut seen = BTreeSet::new();
        found
            .addresses
            .retain(|address| seen.insert(address.clone()));
        return Ok(found);
    }
    match bad {
        Some(error) => Err(error),
        None if pending => Err(FindError::NotYet(nobody)),
        None if nobody.is_empty() => Err(FindError::NoWaypoint(silent)),
        None => Err(FindError::NoCluster(nobody)),
    }
}

/// Whom to ask for the cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Finder<R> {
    runtime: R,
    waypoints: Vec<String>,
    nodes: Vec<String>,
}

impl<R: Runtime> Finder<R> {
    /// Asks waypoints.
    #[must_use]
    pub fn waypoints(runtime: R, waypoints: Vec<String>) -> Self {
        let nodes = Vec::new();
        Self {
            runtime,
            waypoints,
            nodes,
        }
    }

    /// Asks nodes whose addresses are known.
    #[must_use]
    pub fn nodes(runtime: R, nodes: Vec<String>) -> Self {
        let waypoints = Vec::new();
        Self {
            runtime,
            waypoints,
            nodes,
        }
    }

    /// Asks until somebody knows, at most [`FIND_DEADLINE`].
    ///
    /// # Errors
    /// What the last round came to.
    pub async fn find(&self) -> Result<Found, FindError> {
        let give_up = self.runtime.now().mono + FIND_DEADLINE;
        loop {
            let left = give_up.since(self.runtime.now().mono);
            let error = match self.round(left).await {
                Ok(found) => return Ok(found),
                Err(error @ FindError::NobodyToAsk) => return Err(error),
                Err(error) => error,
            };
            if self.runtime.now().mono + PAUSE >= give_up {
                return Err(error);
            }
            tracing::debug!(%error, "no cluster was found yet");
            self.runtime.sleep(PAUSE).await;
        }
    }

    async fn round(&self, left: Duration) -> Result<Found, FindError> {
        if self.nodes.is_empty() && self.waypoints.is_empty() {
            return Err(FindError::NobodyToAsk);
        }
        for address in &self.nodes {
            let asked = R::Async::timeout(left, cluster_at(&self.runtime, address));
            if let Ok(Ok(cluster)) = asked.await {
                return Ok(Found {
                    cluster,
                    addresses: self.nodes.clone(),
                });
            }
        }
        if self.waypoints.is_empty() {
            return Err(FindError::NoNode(self.nodes.join(", ")));
        }
        let asked = self.in_some_order().into_iter().map(|waypoint| async move {
            let answer = R::Async::timeout(ASK_DEADLINE.min(left), self.ask(&waypoint));
            let answer = answer.await.unwrap_or(Err("no answer in time".into()));
            (waypoint, answer)
        });
        judge(join_all(asked).await)
    }

    async fn ask(&self, waypoint: &str) -> Result<Answer, String> {
        let reply = ask(&self.runtime, waypoint, Request::Where).await;
        Ok(reply.map_err(|error| error.to_string())?.answer)
    }

    fn in_some_order(&self) -> Vec<String> {
        let mut all = self.waypoints.clone();
        let count = u64::try_from(all.len()).unwrap_or(1).max(1);
        let by = self.runtime.random() % count;
        all.rotate_left(usize::try_from(by).unwrap_or(0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ClusterId = ClusterId(1);

    fn say(answers: Vec<Result<Answer, &str>>) -> Result<Found, FindError> {
        let said = answers.into_iter().enumerate();
        let said = said.map(|(at, answer)| (format!("w{at}:1"), answer.map_err(str::to_owned)));
        judge(said.collect())
    }

    fn master(address: &str) -> Result<Answer, &'static str> {
        Ok(Answer::Master {
            cluster: ONE,
            address: address.into(),
            others: vec!["c:1".into()],
        })
    }

    #[test]
    fn the_master_comes_first_and_each_address_once() {
        let members = Answer::Members {
            cluster: ONE,
            addresses: vec!["a:1".into(), "b:1".into()],
        };
        let found = say(vec![Ok(members), Err("refused"), master("b:1")]).expect("it is there");
        assert_eq!(found.cluster, ONE);
        assert_eq!(found.addresses, ["b:1", "a:1", "c:1"]);
        let found = say(vec![master("a:1"), master("c:1")]).expect("it is there");
        assert_eq!(found.addresses, ["a:1", "c:1"]);
    }

    #[test]
    fn an_error_names_the_waypoints_that_do_not_answer_and_what_to_do() {
        let error = say(vec![Err("refused"), Err("no answer in time")]).expect_err("nobody");
        let text = error.to_string();
        assert!(
            text.contains("w0:1 (refused)") && text.contains("w1:1"),
            "{text}"
        );
        assert!(text.contains("polyfs waypoint"), "{text}");
        let error = say(vec![Ok(Answer::None), Err("refused")]).expect_err("nobody");
        assert_eq!(error, FindError::NoCluster(vec!["w0:1".into()]));
        assert!(error.to_string().contains("polyfs node"), "{error}");
        let lost = say(vec![Ok(Answer::Lost(ONE)), Ok(Answer::JustStarted)]);
        assert_eq!(lost, Err(FindError::Lost(ONE)));
        let pending = say(vec![Ok(Answer::None), Ok(Answer::JustStarted)]);
        assert!(matches!(pending, Err(FindError::NotYet(_))));
    }
}
