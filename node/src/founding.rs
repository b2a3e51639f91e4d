//! Founding a cluster of one node (P3, step 4: everything is made before anything is served).
//!
//! Owns what the first node writes: the regions, then the master's group, whose presence says that the founding is
//! complete. Each step is durable and found done when it is asked for again, so a founding that was cut off goes on.

use std::collections::BTreeMap;

use polyfs_core::ids::{GroupId, NodeId, VolumeId};
use polyfs_core::master::state::{Founder, MasterState};
use polyfs_core::place::{Bucket, Ino, Place, Salt};
use polyfs_core::region::command::Descriptor;
use polyfs_core::region::kv::{Kv, KvError};
use polyfs_core::region::{self, Root};

use crate::machines;
use crate::node::{Node, NodeError};
use crate::runtime::Runtime;

/// Who founds, and what for.
#[derive(Clone, Debug)]
pub struct Founding {
    /// The owner of the root directory.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The founder's failure domain.
    pub zone: String,
    /// Bytes the founder offers.
    pub capacity: u64,
    /// Drawn by the founder's process (P1).
    pub process: u128,
}

/// The root directory of the first volume: the first number of a bucket that lies in the first meta region.
const ROOT: Ino = Ino::new(Place::new(Bucket(1), 0), 1);
const ROOT_MODE: u16 = 0o755;

/// A founder's store says here that the founding is through: it never makes a group 0 again, whatever became of its own.
const FOUNDED: &str = "founded";

/// Founds unless this store has done so before.
///
/// # Errors
/// As [`found`].
pub async fn found_once<R: Runtime>(node: &Node<R>, founding: &Founding) -> Result<(), NodeError> {
    if node.note(FOUNDED)?.is_some() {
        return Ok(());
    }
    found(node, founding).await?;
    node.set_note(FOUNDED, &[1]).await?;
    node.checkpoint().await
}

/// Makes everything that a cluster of one node consists of, as far as it is not there yet.
///
/// # Errors
/// Failures of log and state.
pub async fn found<R: Runtime>(node: &Node<R>, founding: &Founding) -> Result<(), NodeError> {
    let me = node.identity();
    assert_eq!(me.node, NodeId(1), "the founder is node 1");
    let runtime = node.runtime();
    let founder = Founder {
        store: me.store,
        boot: me.boot,
        process: founding.process,
        address: node.address(),
        zone: founding.zone.clone(),
        capacity: founding.capacity,
    };
    let state = MasterState::found(me.cluster, founder, ROOT);
    let root = Root {
        ino: ROOT,
        salt: Salt(runtime.random()),
        mode: ROOT_MODE,
        uid: founding.uid,
        gid: founding.gid,
        volume: VolumeId(1),
        time: runtime.now().wall,
    };
    for (id, group) in &state.groups {
        let Some((space, places)) = group.region else {
            continue;
        };
        let descriptor = Descriptor {
            space,
            places,
            epoch: group.epoch,
        };
        make(node, &state, *id, |kv| {
            region::found(kv, &descriptor, Some(&root))
        })
        .await?;
    }
    make(node, &state, GroupId::MASTER, |kv| {
        machines::found_master(kv, &state)
    })
    .await
}

async fn make<R: Runtime>(
    node: &Node<R>,
    state: &MasterState,
    group: GroupId,
    fill: impl FnOnce(&mut dyn Kv) -> Result<(), KvError> + Send,
) -> Result<(), NodeError> {
    let (id, _) = state.groups[&group]
        .replicas
        .first_key_value()
        .expect("a group has a replica");
    let replica = match node.replica(group) {
        Some(replica) => replica,
        None => node.create_replica(group, *id, fill).await?,
    };
    if !replica.raft().is_initialized().await.unwrap_or(false) {
        let members = BTreeMap::from([(id.0, ())]);
        // Initialised meanwhile is as good.
        if let Err(error) = replica.raft().initialize(members).await {
            tracing::debug!(%group, %error, "the group was initialised already");
        }
    }
    Ok(())
}
