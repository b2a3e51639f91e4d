//! What a node refuses: frames for a replica that is not exactly meant, votes just after a start, copies of a store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polyfs_core::ids::{BootNumber, NodeId, ReplicaId, StoreId};
use polyfs_node::links::Links;
use polyfs_node::raft::types::{SnapshotMeta, Vote, log_id};
use polyfs_node::wire::{
    Call, Ends, NodeIdentity, RaftCall, RaftReply, Refused, Reply, SnapshotPiece, VoteAsk,
};

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

/// P5: the end of an earlier transfer may arrive when a later one has begun.
#[tokio::test(start_paused = true)]
async fn a_late_end_makes_no_part_of_a_snapshot_current() {
    let world = World::new(43).await;
    world.put(1, 1, Bytes::new()).await;
    let links = world.nodes[&2].links();
    let conn = links.reach(NodeId(1)).await.expect("it is there");
    let ends = Ends {
        group: GROUP,
        from: ReplicaId(12),
        to: ReplicaId(11),
    };
    let last = Some(log_id(1, 999));
    let meta = SnapshotMeta {
        last_log_id: last,
        ..SnapshotMeta::default()
    };
    let from_leader = Vote::new(0, 12);
    let ask = async |body| {
        let told = conn.call(Call::Raft { ends, body }, vec![]).await;
        told.expect("it answers").0
    };
    let begin = RaftCall::SnapshotBegin {
        from_leader,
        meta: meta.clone(),
    };
    let at = |pieces| Reply::Raft(RaftReply::SnapshotAt(pieces));
    assert_eq!(ask(begin).await, at(0));
    let piece = SnapshotPiece {
        last,
        number: 0,
        pairs: vec![(Bytes::from_static(b"key"), Bytes::from_static(b"value"))],
        chunks: vec![],
    };
    assert_eq!(ask(RaftCall::SnapshotPiece(piece)).await, at(1));
    let end = |pieces| RaftCall::SnapshotEnd {
        from_leader,
        meta: meta.clone(),
        pieces,
    };
    assert_eq!(ask(end(2)).await, Reply::Refused(Refused::NoReplica));
    let staged = || world.nodes[&1].unused_lineages().expect("it is readable");
    assert_eq!(staged().len(), 1);
    // Whole, it is handed over; that its sender leads no more is openraft's to say.
    let told = ask(end(1)).await;
    assert!(
        matches!(told, Reply::Raft(RaftReply::SnapshotDone(_))),
        "{told:?}"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(staged().len(), 0, "what nobody wants takes no space");
}

/// A node that comes back takes the place of its dead connection: what was kept for that one goes as well.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_from_outside_is_over_for_whoever_takes_its_frames() {
    let world = World::new(44).await;
    let counted = std::sync::Arc::new(Counted::default());
    let cluster = world.nodes[&1].identity().cluster;
    let links = Links::outside(Host::new(&world.fabric, "tool", 1), cluster);
    links.set_incoming(counted.clone());
    links.set_address(NodeId(1), &world.nodes[&1].address());
    let conn = links.reach(NodeId(1)).await.expect("it is there");
    conn.close();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(counted.0.load(Ordering::Relaxed), 1);
}

/// Whoever waits for an answer is told inside `stop`, and may turn to the same links for another way at once.
#[tokio::test(start_paused = true)]
async fn who_hears_of_a_closed_connection_may_ask_for_another_at_once() {
    let world = World::new(45).await;
    let links = world.nodes[&1].links().clone();
    let outside = Links::outside(Host::new(&world.fabric, "tool", 1), links.cluster());
    outside.set_incoming(std::sync::Arc::new(Deaf));
    outside.set_address(NodeId(1), &world.nodes[&1].address());
    let conn = outside.reach(NodeId(1)).await.expect("it is there");
    let (asker, told) = (outside.clone(), std::sync::Arc::new(AtomicU64::new(0)));
    let tell = std::sync::Arc::clone(&told);
    conn.ask(
        Call::Members,
        vec![],
        Box::new(move |_, _| {
            let another = asker.to(NodeId(1));
            tell.fetch_add(1 + u64::from(another.is_some()), Ordering::Relaxed);
        }),
    );
    outside.stop();
    assert_eq!(
        told.load(Ordering::Relaxed),
        1,
        "told once, and no other way"
    );
}

#[derive(Default)]
struct Counted(AtomicU64);

impl polyfs_node::conn::Incoming for Counted {
    fn incoming(
        &self,
        _: &std::sync::Arc<polyfs_node::conn::Conn>,
        _: polyfs_node::wire::Message,
        _: Bytes,
    ) {
    }
    fn closed(&self, _: &std::sync::Arc<polyfs_node::conn::Conn>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
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
