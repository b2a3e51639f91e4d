//! Whether all replicas of a group hold the same, byte by byte.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft_rt::watch::WatchReceiver as _;
use polyfs_core::ids::GroupId;
use polyfs_node::node::Node;
use polyfs_runtime_sim::{SimRuntime, World};

use super::Shared;

/// How often, and how long, replicas are waited for.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 600;

/// What differs between replicas that have applied the same.
pub(super) async fn replicas(world: &World, shared: &Shared) -> Vec<String> {
    let mut differences = Vec::new();
    for group in shared.groups() {
        for look in 0..LOOKS {
            let Some(difference) = compare(shared, group) else {
                break;
            };
            if look + 1 == LOOKS {
                differences.push(difference);
            }
            world.sleep(LOOK).await;
        }
    }
    differences
}

fn compare(shared: &Shared, group: GroupId) -> Option<String> {
    let nodes = shared.nodes.lock();
    let replicas = |node: &Node<SimRuntime>| node.replica(group);
    let replicas: Vec<_> = nodes.values().filter_map(replicas).collect();
    let applied: BTreeSet<_> = replicas
        .iter()
        .map(|replica| replica.raft().metrics().borrow_watched().last_applied)
        .collect();
    if applied.len() != 1 {
        return Some(format!("{group}: replicas have applied {applied:?}"));
    }
    let mut all = replicas.iter().map(|replica| {
        let read = replica
            .state()
            .read(|kv| kv.scan(&[0], &[0xff; 64], usize::MAX));
        (replica.id(), read.expect("the state can be read"))
    });
    let (one, first) = all.next()?;
    for (other, second) in all {
        if let Some(at) =
            (0..first.len().max(second.len())).find(|at| first.get(*at) != second.get(*at))
        {
            return Some(format!(
                "{group}: replicas {one} and {other} differ at record {at}: {:?} and {:?}",
                first.get(at),
                second.get(at)
            ));
        }
    }
    None
}
