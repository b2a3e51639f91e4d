//! How a process becomes a node of a cluster, and stays findable (P1, P3).
//!
//! Owns the driving of core's join machine: questions to waypoints, the record on disk, the join request, and after that
//! the registrations for as long as the node runs. Who may found, and when, is core's business.
//!
//! ```text
//!  store ─▶ join() ─▶ Joined ─▶ Node::start_on ─▶ found_once ─▶ Joined::stay(node)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use openraft_rt::{AsyncRuntime, Select2};
use polyfs_core::client::port::{Joiner, MasterReply, MasterRequest};
use polyfs_core::codec::{self, DecodeError};
use polyfs_core::ids::{ClusterId, GroupId, NodeId};
use polyfs_core::join::{Config, Input, Join, JoinAnswer, Output, Record};
use polyfs_core::waypoint::Claim;
use polyfs_store::disk::{Dir, DiskError};
use thiserror::Error;

use crate::access::Access;
use crate::find::Finder;
use crate::heartbeat::leader_report;
use crate::identity::{self, IdentityError, StoreIdentity};
use crate::node::Node;
use crate::runtime::{Lane, Runtime};
use crate::sealed_file;
use crate::standing::Standing;
use crate::store::Store;
use crate::waypoint::ask;

/// A founder's claim lies here until the founding is through.
const FOUNDING: &str = "founding";
const VERSION: u8 = 1;
/// A member looks at its own standing this often.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a node gets into its cluster.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// The waypoints, `host:port` each; names are resolved anew at each question.
    pub waypoints: Vec<String>,
    /// Where others reach this node.
    pub address: String,
    /// Its failure domain; empty for none.
    pub zone: String,
    /// Bytes it offers; 0: what its disk has.
    pub capacity: u64,
    /// Founding waits for so many fresh nodes.
    pub expect: u32,
    /// It never founds.
    pub join_only: bool,
}

/// Why a process is no node.
#[derive(Clone, Debug, Error)]
pub enum JoinError {
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The founding record.
    #[error("the founding record: {0}")]
    Disk(#[from] DiskError),
    /// The founding record is damaged.
    #[error("the founding record is damaged ({0}): start with an empty data directory")]
    Damaged(DecodeError),
    /// The founding record is sound, and not for this version.
    #[error("the founding record was made by a newer polyfs ({0})")]
    Newer(DecodeError),
    /// Nobody to ask, and no cluster known.
    #[error("this data directory belongs to no cluster yet: give --waypoint HOST:PORT")]
    NoWaypoint,
    /// P1.
    #[error(
        "this data directory is a copy, or older than what the cluster has seen of it: move it away and start with an empty one"
    )]
    ComeBackEmpty,
}

impl From<DecodeError> for JoinError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Newer { .. } => Self::Newer(error),
            DecodeError::Invalid(_) | DecodeError::Trailing(..) => Self::Damaged(error),
        }
    }
}

/// A store that has found its cluster.
pub struct Joined<R: Runtime> {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its node id there.
    pub node: NodeId,
    driver: Driver<R>,
    peers: Vec<String>,
}

struct Driver<R: Runtime> {
    runtime: R,
    dir: Arc<R::Dir>,
    identity: StoreIdentity,
    config: JoinConfig,
    process: u128,
    machine: Join,
    inbox: mpsc::UnboundedSender<Input>,
    inputs: mpsc::UnboundedReceiver<Input>,
}

/// Finds or founds a cluster for a store; says in the log what it waits for. For a store that is a member already it
/// returns at once.
///
/// # Errors
/// Failures of the disk, and a fresh store without a waypoint.
pub async fn join<R: Runtime>(
    runtime: &R,
    store: &mut Store<R>,
    config: JoinConfig,
    process: u128,
) -> Result<Joined<R>, JoinError> {
    let identity = store.identity;
    let dir = Arc::clone(&store.dir);
    let record = match identity.member {
        Some((cluster, node)) => Record::Member {
            cluster,
            node,
            peers: Vec::new(),
        },
        None => read(&*dir)?.map_or(Record::Fresh, Record::Founding),
    };
    if identity.member.is_none() && config.waypoints.is_empty() {
        return Err(JoinError::NoWaypoint);
    }
    let machine = Config {
        waypoints: config.waypoints.clone(),
        address: config.address.clone(),
        store: identity.store,
        boot: identity.boot,
        expect: config.expect,
        join_only: config.join_only,
        record,
    };
    let (inbox, inputs) = mpsc::unbounded();
    let mut driver = Driver {
        machine: Join::new(machine, runtime.random(), runtime.now()),
        runtime: runtime.clone(),
        dir,
        identity,
        config,
        process,
        inbox,
        inputs,
    };
    let (cluster, node, peers) = driver.until_served().await?;
    store.identity = driver.identity;
    Ok(Joined {
        cluster,
        node,
        driver,
        peers,
    })
}

impl<R: Runtime> Joined<R> {
    /// Keeps the node findable for as long as it runs, and tells the master of this start. What comes back tells why
    /// the node must not go on, if it must not.
    #[must_use]
    pub fn stay(self, node: Node<R>) -> Broken {
        let (tell, told) = oneshot::channel();
        let standing = Standing {
            node: node.clone(),
            joiner: self.driver.joiner(),
        };
        let runtime = self.driver.runtime.clone();
        runtime.spawn(standing.watch(tell));
        runtime.spawn(self.driver.stay(node, self.peers));
        Broken(told)
    }
}

/// Tells when a node must not go on.
pub struct Broken(oneshot::Receiver<JoinError>);

impl Broken {
    /// Completes with the reason, if there ever is one.
    pub async fn wait(&mut self) -> JoinError {
        match (&mut self.0).await {
            Ok(error) => error,
            // All is well.
            Err(oneshot::Canceled) => std::future::pending().await,
        }
    }
}

impl<R: Runtime> Driver<R> {
    fn joiner(&self) -> Joiner {
        Joiner {
            store: self.identity.store,
            boot: self.identity.boot,
            process: self.process,
            address: self.config.address.clone(),
            zone: self.config.zone.clone(),
            capacity: self.config.capacity,
        }
    }

    /// The next thing to do, once there is one.
    async fn next(&mut self) -> Output {
        loop {
            if let Some(output) = self.machine.poll_output() {
                return output;
            }
            let now = self.runtime.now();
            let wake = self.machine.poll_timeout();
            let pause = wake.map_or(LOOK_EVERY, |(at, _)| at.since(now.mono));
            let came = R::Async::select2(self.inputs.next(), self.runtime.sleep(pause)).await;
            let input = match came {
                Select2::First(Some(input)) => input,
                Select2::First(None) | Select2::Second(()) => Input::Tick,
            };
            self.machine.handle_input(self.runtime.now(), input);
        }
    }

    fn ask(&self, waypoint: usize, number: u64, request: polyfs_core::waypoint::Request) {
        let (runtime, inbox) = (self.runtime.clone(), self.inbox.clone());
        let address = self.config.waypoints[waypoint].clone();
        self.runtime.spawn(async move {
            let reply = match ask(&runtime, &address, request).await {
                Ok(reply) => Some(reply),
                Err(error) => {
                    tracing::debug!(waypoint = address, %error, "no answer from a waypoint");
                    None
                }
            };
            // The node may be gone.
            let _ = inbox.unbounded_send(Input::Answered { ask: number, reply });
        });
    }

    async fn until_served(&mut self) -> Result<(ClusterId, NodeId, Vec<String>), JoinError> {
        loop {
            match self.next().await {
                Output::Ask {
                    waypoint,
                    ask,
                    request,
                } => self.ask(waypoint, ask, request),
                Output::Persist { op, record } => {
                    self.persist(record).await?;
                    self.feed(Input::Persisted { op });
                }
                // Every claim is a registration by now; the groups are made when the node starts, and found made
                // when it starts again.
                Output::Prepare(cluster) => self.feed(Input::Prepared(cluster)),
                Output::JoinVia { address, cluster } => self.join_via(address, cluster),
                Output::Serve {
                    cluster,
                    node,
                    founded,
                    peers,
                } => {
                    if founded {
                        tracing::info!(%cluster, "founded a cluster");
                    }
                    return Ok((cluster, node, peers));
                }
                Output::Waiting(why) => tracing::warn!("waiting: {why}"),
                Output::Peers(_) => {}
                Output::OtherCluster(cluster, address) => other_cluster(cluster, &address),
            }
        }
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle_input(self.runtime.now(), input);
    }

    fn join_via(&self, address: String, cluster: ClusterId) {
        let (runtime, inbox, joiner) = (self.runtime.clone(), self.inbox.clone(), self.joiner());
        self.runtime.spawn(async move {
            let answer = join_at(&runtime, &address, cluster, joiner).await;
            let _ = inbox.unbounded_send(Input::Joined(answer));
        });
    }

    async fn persist(&mut self, record: Record) -> Result<(), JoinError> {
        if let Record::Member { cluster, node, .. } = record {
            self.identity.member = Some((cluster, node));
        }
        let (dir, identity) = (Arc::clone(&self.dir), self.identity);
        let write = move || match record {
            Record::Fresh => remove(&*dir),
            Record::Founding(claim) => Ok(write(&*dir, &claim)?),
            Record::Member { .. } => {
                identity::write(&*dir, &identity)?;
                remove(&*dir)
            }
        };
        self.runtime.blocking(Lane::Checkpoint, write).await
    }

    /// Registrations, and what comes back with them.
    async fn stay(mut self, node: Node<R>, peers: Vec<String>) {
        let mut said = BTreeSet::new();
        introduce(&node, peers);
        let (runtime, inbox, watched) = (self.runtime.clone(), self.inbox.clone(), node.clone());
        self.runtime.spawn(async move {
            while !watched.is_stopped() {
                let led = watched
                    .replica(GroupId::MASTER)
                    .as_ref()
                    .and_then(leader_report);
                let _ = inbox.unbounded_send(Input::Master(led.map(|report| report.term)));
                runtime.sleep(LOOK_EVERY).await;
            }
        });
        while !node.is_stopped() {
            match self.next().await {
                Output::Ask {
                    waypoint,
                    ask,
                    request,
                } => self.ask(waypoint, ask, request),
                Output::Peers(addresses) => introduce(&node, addresses),
                Output::OtherCluster(cluster, address) => {
                    if said.insert(cluster) {
                        other_cluster(cluster, &address);
                    }
                }
                Output::Waiting(why) => tracing::info!("{why}"),
                // Where others are is kept with the node's own state.
                Output::Persist { op, .. } => self.feed(Input::Persisted { op }),
                Output::Prepare(_) | Output::JoinVia { .. } | Output::Serve { .. } => {}
            }
        }
    }
}

fn other_cluster(cluster: ClusterId, address: &str) {
    tracing::error!(
        "another cluster, {cluster}, is registered at our waypoints (a node of it listens at {address}); fresh nodes join \
         neither until one is gone: stop its nodes, or give them waypoints of their own"
    );
}

/// Who listens where is not known until they say so: members at new addresses are dialled.
fn introduce<R: Runtime>(node: &Node<R>, addresses: Vec<String>) {
    let known: BTreeSet<String> = node.links().addresses().into_values().collect();
    let own = node.address();
    for address in addresses {
        if address == own || known.contains(&address) {
            continue;
        }
        let links = node.links().clone();
        node.runtime().spawn(async move {
            if let Err(error) = links.introduce(&address).await {
                tracing::debug!(address, %error, "a member does not answer at a new address");
            }
        });
    }
}

async fn join_at<R: Runtime>(
    runtime: &R,
    address: &str,
    cluster: ClusterId,
    joiner: Joiner,
) -> JoinAnswer {
    let finder = Finder::nodes(runtime.clone(), vec![address.to_owned()]);
    let access = match Access::outside(runtime.clone(), finder).await {
        Ok(access) => access,
        Err(error) => {
            tracing::debug!(%error, "the member that should let us in does not answer");
            return JoinAnswer::Failed;
        }
    };
    if access.cluster() != cluster {
        return JoinAnswer::Failed;
    }
    match access.ask_master(MasterRequest::Join(joiner)).await {
        Some(MasterReply::Joined(node)) => JoinAnswer::Accepted { cluster, node },
        Some(MasterReply::ComeBackEmpty) => {
            JoinAnswer::Refused(JoinError::ComeBackEmpty.to_string())
        }
        _ => JoinAnswer::Failed,
    }
}

fn read(dir: &impl Dir) -> Result<Option<Claim>, JoinError> {
    let Some(bytes) = sealed_file::read(dir, FOUNDING)? else {
        return Ok(None);
    };
    let claim = codec::decode_versioned("founding record", VERSION, &bytes?)?;
    Ok(Some(claim))
}

fn write(dir: &impl Dir, claim: &Claim) -> Result<(), DiskError> {
    sealed_file::write(dir, FOUNDING, &codec::encode_versioned(VERSION, claim))
}

fn remove(dir: &impl Dir) -> Result<(), JoinError> {
    Ok(sealed_file::remove(dir, FOUNDING)?)
}

#[cfg(test)]
mod tests {
    use polyfs_core::ids::ClusterId;
    use polyfs_store::memory::MemoryDir;

    use super::*;

    #[test]
    fn a_founding_record_is_read_back_or_said_to_be_damaged() {
        let claim = Claim {
            cluster: ClusterId(5),
            nonce: 77,
            waypoints: vec!["w1:7000".into(), "w2:7000".into()],
        };
        let dir = MemoryDir::new(1);
        assert!(read(&dir).unwrap().is_none());
        write(&dir, &claim).unwrap();
        let bytes = dir.image(FOUNDING).len();
        for at in 0..bytes {
            dir.flip(FOUNDING, at, 1 << (at % 8));
            let read = read(&dir);
            assert!(
                matches!(read, Err(JoinError::Damaged(_))),
                "byte {at}: a flipped bit is noticed"
            );
            dir.flip(FOUNDING, at, 1 << (at % 8));
        }
        let dir = dir.restart(2);
        assert_eq!(read(&dir).unwrap(), Some(claim));
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        assert!(read(&dir.restart(3)).unwrap().is_none());
    }
}
