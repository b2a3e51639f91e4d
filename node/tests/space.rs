//! Space that removed files had comes back, on every node.

use std::time::Duration;

use polyfs_core::vfs::Call;

use crate::support::cluster::Cluster;

const FILES: usize = 40;
const FILE_BYTES: usize = 2 << 20;
/// Small enough to tell from what the files had: tables, and what the log may keep.
const LEFT_MAX: u64 = 24 << 20;

fn name_of(number: usize) -> String {
    format!("file {number}")
}

fn used(cluster: &Cluster) -> Vec<u64> {
    let rooms = cluster.nodes.values().map(polyfs_node::node::Node::room);
    rooms.map(|room| room.total - room.free).collect()
}

#[tokio::test(start_paused = true)]
async fn what_removed_files_had_comes_back_on_every_node() {
    let mut cluster = Cluster::found(60).await;
    cluster.join().await;
    cluster.join().await;
    cluster.until_ok(3).await;
    let mount = cluster.mount(1).await;
    let dir = mount.make_dir("dir").await;
    for number in 0..FILES {
        let content = vec![u8::try_from(number + 1).expect("small"); FILE_BYTES];
        mount.write(dir, &name_of(number), &content).await;
    }
    let full = used(&cluster);
    let all = u64::try_from(FILES * FILE_BYTES).expect("small");
    assert!(full.iter().all(|used| *used >= all), "{full:?}");
    for number in 0..FILES {
        let unlink = Call::Unlink {
            dir,
            name: name_of(number).as_str().into(),
        };
        mount.call(unlink).await.expect("it is there");
    }
    // A mount that holds nothing open says so when asked; then a checkpoint, and the log lets go.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let left = used(&cluster);
    assert!(left.iter().all(|used| *used <= LEFT_MAX), "{left:?}");
}
