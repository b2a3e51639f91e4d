//! Several threads on one store: drivers bring concurrency, the store bears it.

use std::sync::atomic::{AtomicBool, Ordering};

use polyfs_core::ids::Lineage;

use super::{checkpoint, open};
use crate::extents::{DataFiles, LogPins, Written};
use crate::memory::MemoryDir;
use crate::state::{CheckpointPlan, StateBatch, StateDb, StateView};

const ONE: Lineage = Lineage(1);
const SPAN: usize = 20_000;

#[test]
fn everything_can_be_handed_to_another_thread() {
    fn movable<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    shared::<StateDb<MemoryDir>>();
    shared::<StateView<MemoryDir>>();
    shared::<DataFiles<MemoryDir>>();
    shared::<LogPins>();
    shared::<Written>();
    movable::<StateBatch<'_, MemoryDir>>();
    movable::<CheckpointPlan<MemoryDir>>();
}

/// A writer fills a chunk with one byte at a time while others read, log extents and checkpoint: a reader only ever
/// sees one whole fill, and no page of it is written over before it has finished.
#[test]
fn readers_see_whole_commits_while_space_is_reused_around_them() {
    let dir = MemoryDir::new(1);
    let db = open(&dir, &[]).unwrap().db;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let view = db.view().unwrap();
                    let bytes = view.read_chunk(ONE, b"chunk", 100, SPAN).unwrap();
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "one whole fill");
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let written = db.data().write_extent(&[5; 70_000], 0).unwrap();
                assert!(db.data().sync().unwrap().covers(&written));
                let extent = written.pin.extent();
                assert_eq!(db.data().read(extent, 9..12).unwrap(), [5; 3][..]);
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                checkpoint(&db);
            }
        });
        for round in 0..400_u32 {
            let mut batch = db.begin().unwrap();
            let fill = [u8::try_from(round % 255).unwrap(); SPAN];
            batch
                .lineage(ONE)
                .unwrap()
                .write_small(b"chunk", 100, &fill)
                .unwrap();
            batch.commit().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    checkpoint(&db);
    assert_eq!(db.data().usage().used, 5 * 4096);
}
