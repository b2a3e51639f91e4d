//! What a node refuses: frames for a replica that is not exactly meant, votes just after a start, copies of a store.

use std::time::Duration;

use bytes::Bytes;
use polyfs_core::ids::{BootNumber, NodeId, ReplicaId, StoreId};
use polyfs_node::links::Links;
use polyfs_node::raft::types::Vote;
use polyfs_node::wire::{Call, Ends, NodeIdentity, RaftCall, RaftReply, Refused, Reply, VoteAsk};

use crate::support::Machine as Host;
use crate::support::world::*;

fn vote_call(to: u64) -> Call {
    let ends = Ends {
        group: GROUP,
        from: ReplicaId(12),
        to: ReplicaId(to),
    };
    let ask = VoteAsk {
        vote: Vote::new(0, 12),
        last: None,
        transfer: false,
    };
    Call::Raft {
        ends,
        body: RaftCall::Vote(ask),
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_not_exactly_meant_does_not_answer() {
    let world = World::new(40).await;
    world.put(1, 1, Bytes::new()).await;
    let conn = world.nodes[&2]
        .links()
        .reach(NodeId(1))
        .await
        .expect("it is there");
    let (told, _) = conn.call(vote_call(11), vec![]).await.expect("it answers");
    assert!(
        matches!(told, Reply::Raft(RaftReply::Vote { granted: false, .. })),
        "{told:?}"
    );
    let (told, _) = conn.call(vote_call(99), vec![]).await.expect("it answers");
    assert_eq!(
        told,
        Reply::Refused(Refused::NoReplica),
        "a replica of before answers (P1)"
    );
    // Node 3 does not hold replica 12 and may not speak for it.
    let conn = world.nodes[&3]
        .links()
        .reach(NodeId(1))
        .await
        .expect("it is there");
    let (told, _) = conn.call(vote_call(11), vec![]).await.expect("it answers");
    assert_eq!(told, Reply::Refused(Refused::NotYours));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_just_started_grants_no_vote_for_a_lease() {
    let mut world = World::new(41).await;
    world.put(1, 1, Bytes::new()).await;
    world.kill(1).await;
    world.start(1).await;
    let conn = world.nodes[&2]
        .links()
        .reach(NodeId(1))
        .await
        .expect("it is there");
    let (told, _) = conn.call(vote_call(11), vec![]).await.expect("it answers");
    assert_eq!(
        told,
        Reply::Refused(Refused::JustStarted),
        "it may have promised otherwise (P2)"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let conn = world.nodes[&2]
        .links()
        .reach(NodeId(1))
        .await
        .expect("it is there");
    let (told, _) = conn.call(vote_call(11), vec![]).await.expect("it answers");
    assert!(
        matches!(told, Reply::Raft(RaftReply::Vote { .. })),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_store_is_turned_away() {
    let world = World::new(42).await;
    world.put(1, 1, Bytes::new()).await;
    world.nodes[&2]
        .links()
        .reach(NodeId(1))
        .await
        .expect("node 1 knows node 2 now");
    let real = world.nodes[&2].identity();
    let reached = async |identity: NodeIdentity| {
        let links = Links::new(Host::new(&world.fabric, "copy", 1), identity);
        links.set_incoming(std::sync::Arc::new(Deaf));
        links.set_address(NodeId(1), &world.nodes[&1].address());
        links.reach(NodeId(1)).await.is_some()
    };
    assert!(
        !reached(NodeIdentity {
            store: StoreId(1),
            ..real
        })
        .await,
        "another store (P1)"
    );
    let earlier = BootNumber(real.boot.0 - 1);
    assert!(
        !reached(NodeIdentity {
            boot: earlier,
            ..real
        })
        .await,
        "a rolled back store (P1)"
    );
}

/// Takes nothing.
struct Deaf;

impl polyfs_node::conn::Incoming for Deaf {
    fn incoming(
        &self,
        _: &std::sync::Arc<polyfs_node::conn::Conn>,
        _: polyfs_node::wire::Message,
        _: Bytes,
    ) {
    }
    fn closed(&self, _: &std::sync::Arc<polyfs_node::conn::Conn>) {}
}
