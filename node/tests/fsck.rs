//! Audits of a living cluster: nothing is found that is not there, and what is there is found.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polyfs_core::attr::FileKind;
use polyfs_core::client::port::{MasterReply, MasterRequest, RegionLine};
use polyfs_core::ids::{Fence, Renewal, SessionId};
use polyfs_core::region::audit::Finding;
use polyfs_core::request::{
    Answer, Aside, ChunkName, DataOp, DataQuery, DataReply, Header, Refusal, Request, RequestBody,
    Space,
};
use polyfs_core::time::Timestamp;
use polyfs_core::vfs::{Call, RenameMode};
use polyfs_node::access::Access;
use polyfs_node::fsck::{self, Report};
use polyfs_node::wire::{Call as WireCall, Reply};

use crate::support::Machine as Host;
use crate::support::handmade::*;
use crate::support::world::*;
use crate::support::{each, seeds};

async fn audit(access: &Access<Host>) -> Report {
    let report = fsck::run(access.clone(), &|_| {}).await;
    report.expect("all regions are served")
}

/// Makes, moves, links and removes until told to stop; the number of rounds.
async fn churn(mount: Mount, name: &'static str, stop: Arc<AtomicBool>) -> u32 {
    let (root, mut rounds) = (mount.root, 0);
    let one = mount
        .make(root, &format!("{name}-one"), FileKind::Directory)
        .await;
    let two = mount
        .make(root, &format!("{name}-two"), FileKind::Directory)
        .await;
    while !stop.load(Ordering::Acquire) {
        rounds += 1;
        let (from, to) = if rounds % 2 == 0 {
            (one, two)
        } else {
            (two, one)
        };
        let file = format!("f{}", rounds % 5).into_bytes();
        let moved = |dir, to_dir| Call::Rename {
            dir,
            name: file.clone(),
            to_dir,
            to_name: file.clone(),
            mode: RenameMode::Replace,
        };
        mount
            .write(&format!("{name}-{}", rounds % 7), &vec![3; 9000])
            .await;
        let ino = mount
            .make(from, &format!("f{}", rounds % 5), FileKind::Fifo)
            .await;
        let to_name = format!("link{rounds}").into_bytes();
        let link = Call::Link {
            ino,
            to_dir: to,
            to_name: to_name.clone(),
        };
        // Names may be taken by an earlier round: what matters is that something happens.
        let _ = mount.call(link).await;
        let _ = mount.call(moved(from, to)).await;
        let sub = mount.make(from, "sub", FileKind::Directory).await;
        assert_ne!(sub, root);
        let _ = mount
            .call(Call::RemoveDir {
                dir: from,
                name: b"sub".to_vec(),
            })
            .await;
        for name in [file.clone(), to_name] {
            let _ = mount.call(Call::Unlink { dir: to, name }).await;
        }
        let name = format!("{name}-{}", (rounds + 3) % 7).into_bytes();
        let _ = mount.call(Call::Unlink { dir: root, name }).await;
    }
    rounds
}

#[test]
fn a_living_cluster_has_no_findings() {
    each(seeds(90..92), async |seed| {
        let world = World::new(seed).await;
        found_cluster(&world).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut users = Vec::new();
        for name in ["a", "b"] {
            let mount = Mount::outside(&world, name).await;
            users.push(tokio::spawn(churn(mount, name, Arc::clone(&stop))));
        }
        let access = outside(&world, "tool").await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let report = audit(&access).await;
            assert_eq!(report.findings, vec![], "seed {seed}");
        }
        stop.store(true, Ordering::Release);
        for user in users {
            assert!(user.await.expect("it goes on") > 10, "seed {seed}");
        }
        let report = audit(&access).await;
        assert_eq!(
            (report.findings, report.unsettled),
            (vec![], 0),
            "seed {seed}"
        );
        assert!(report.inodes > 5 && report.verified > 0, "seed {seed}");
    });
}

async fn lines(access: &Access<Host>) -> Vec<RegionLine> {
    for _ in 0..20 {
        if let Some(MasterReply::Map(lines)) = access.ask_master(MasterRequest::Map).await {
            return lines;
        }
    }
    panic!("no master answers");
}

/// Asks whoever leads the data region of a line.
async fn ask(access: &Access<Host>, line: &RegionLine, body: RequestBody, bytes: Bytes) -> Answer {
    for _ in 0..20 {
        for held in &line.replicas {
            let header = Header {
                group: line.group,
                epoch: line.epoch,
                session: SessionId::CLUSTER,
                renewal: Renewal(0),
                slot: None,
                seen: Timestamp::default(),
                aside: Aside::default(),
            };
            let call = WireCall::Request(Request {
                header,
                body: body.clone(),
            });
            let within = Duration::from_secs(1);
            match access
                .call(held.node, call, vec![bytes.clone()], within)
                .await
            {
                Some((Reply::Answer(Answer::Refused(Refusal::NotLeader { .. })), _)) | None => {}
                Some((Reply::Answer(answer), _)) => return answer,
                Some(other) => panic!("{other:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody leads {line:?}");
}

#[tokio::test(start_paused = true)]
async fn chunks_that_are_lost_or_left_over_are_found() {
    let world = World::new(95).await;
    found_cluster(&world).await;
    let mount = Mount::outside(&world, "c1").await;
    mount.write("file", &vec![9; 3 << 20]).await;
    let access = outside(&world, "tool").await;
    let report = audit(&access).await;
    assert_eq!(
        (report.findings, report.verified, report.chunks),
        (vec![], 3, 3)
    );
    let ino = mount.lookup(mount.root, "file").await.expect("it is there");
    let data: Vec<_> = lines(&access).await;
    let data = data.iter().filter(|line| line.space == Space::Data);
    let mut expected = BTreeSet::new();
    for line in data {
        let list = RequestBody::DataQuery(DataQuery::List {
            after: None,
            limit: 10,
        });
        let Answer::Data(Ok(DataReply::Chunks(names))) =
            ask(&access, line, list, Bytes::new()).await
        else {
            panic!("a list was asked for");
        };
        if let Some(chunk) = names.first().copied() {
            expected.insert(Finding::ChunkMissing { chunk });
            let chunks = vec![chunk];
            let delete = RequestBody::DataOp(DataOp::Delete { chunks });
            ask(&access, line, delete, Bytes::new()).await;
        }
        let stray = (0..).map(|number| ChunkName {
            ino,
            version: 99,
            number,
        });
        let chunk = stray
            .into_iter()
            .find(|chunk| line.places.contains(chunk.place()))
            .expect("chunks are everywhere");
        expected.insert(Finding::ChunkUnclaimed { chunk });
        let write = RequestBody::DataOp(DataOp::Write {
            chunk,
            fence: Fence(0),
            offset: 0,
        });
        let done = ask(&access, line, write, vec![1; 100].into()).await;
        assert_eq!(done, Answer::Data(Ok(DataReply::Done)));
    }
    let found: BTreeSet<Finding> = audit(&access).await.findings.into_iter().collect();
    assert_eq!(found, expected);
}
