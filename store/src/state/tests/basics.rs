//! The plain behaviour of batches, views, chunks, lineages, checkpoints and the reserve.

use std::sync::Arc;

use polyfs_core::ids::{GroupId, Lineage};

use super::{CONFIG, checkpoint, open};
use crate::disk::{Dir, Disk, DiskError, OpenMode};
use crate::memory::MemoryDir;
use crate::state::{RegionKv, ReserveConfig, SpaceLevel, StateConfig, StateDb, StoreError};

const ONE: Lineage = Lineage(1);
const TWO: Lineage = Lineage(2);

fn fresh() -> (MemoryDir, StateDb<MemoryDir>) {
    let dir = MemoryDir::new(1);
    let db = open(&dir, &[]).unwrap().db;
    (dir, db)
}

fn put(db: &StateDb<MemoryDir>, lineage: Lineage, chunk: &[u8], offset: u64, bytes: &[u8]) {
    let mut batch = db.begin().unwrap();
    batch
        .lineage(lineage)
        .unwrap()
        .write_small(chunk, offset, bytes)
        .unwrap();
    batch.commit().unwrap();
}

#[test]
fn a_batch_sees_its_own_writes_and_others_see_them_after_the_commit() {
    let (_dir, db) = fresh();
    let before = db.view().unwrap();
    let mut batch = db.begin().unwrap();
    let mut state = batch.lineage(ONE).unwrap();
    for key in [&b"b"[..], b"a", b"c"] {
        state.put(key, key).unwrap();
    }
    state.delete(b"c").unwrap();
    assert_eq!(state.get(b"a").unwrap().as_deref(), Some(&b"a"[..]));
    assert_eq!(state.get(b"c").unwrap(), None);
    let rows = state.scan(b"a", b"z", 10).unwrap();
    assert_eq!(
        rows.iter().map(|row| &row.0[..]).collect::<Vec<_>>(),
        [b"a", b"b"]
    );
    assert_eq!(state.scan(b"a", b"z", 1).unwrap().len(), 1);
    assert_eq!(state.scan(b"z", b"a", 1).unwrap(), []);
    state.write_small(b"chunk", 5, b"bytes").unwrap();
    assert_eq!(
        &state.read_chunk(b"chunk", 3, 9).unwrap()[..],
        b"\0\0bytes\0\0"
    );
    assert_eq!(
        batch.lineage(TWO).unwrap().get(b"a").unwrap(),
        None,
        "lineages are apart"
    );
    batch.set_group(GroupId(3), 9, b"three").unwrap();
    batch.set_node("boot", b"5").unwrap();
    assert_eq!(batch.get_group(GroupId(3)).unwrap().unwrap().applied, 9);
    batch.commit().unwrap();
    assert_eq!(before.get(ONE, b"a").unwrap(), None);
    let view = db.view().unwrap();
    assert_eq!(view.get(ONE, b"b").unwrap().as_deref(), Some(&b"b"[..]));
    assert_eq!(view.get_node("boot").unwrap().as_deref(), Some(&b"5"[..]));
    assert_eq!(view.groups().unwrap()[0].1.bytes, b"three");
    assert_eq!(&view.read_chunk(ONE, b"chunk", 5, 5).unwrap()[..], b"bytes");
    let mut batch = db.begin().unwrap();
    batch.delete_group(GroupId(3)).unwrap();
    batch.delete_node("boot").unwrap();
    batch.commit().unwrap();
    let view = db.view().unwrap();
    assert_eq!(
        (view.groups().unwrap(), view.get_node("boot").unwrap()),
        (vec![], None)
    );
}

#[test]
fn a_dropped_batch_leaves_neither_bytes_nor_used_space() {
    let (_dir, db) = fresh();
    let mut batch = db.begin().unwrap();
    batch
        .lineage(ONE)
        .unwrap()
        .write_small(b"chunk", 0, &[1; 9000])
        .unwrap();
    drop(batch);
    assert_eq!(db.data().usage().used, 0);
    assert_eq!(db.view().unwrap().chunk_map(ONE, b"chunk").unwrap(), None);
}

#[test]
fn a_payload_is_mapped_where_it_lies_and_its_space_goes_with_the_last_who_holds_it() {
    let (_dir, db) = fresh();
    let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    let written = db.data().write_extent(&bytes, 4000).unwrap();
    let extent = written.pin.extent();
    assert!(db.data().sync().unwrap().covers(&written));
    let used = db.data().usage().used;
    let mut batch = db.begin().unwrap();
    let mut state = batch.lineage(ONE).unwrap();
    state
        .write_extent(b"chunk", 8192 + 4000, extent, 0..extent.bytes, None)
        .unwrap();
    assert_eq!(
        state
            .read_chunk(b"chunk", 8192 + 4000, bytes.len())
            .unwrap(),
        bytes
    );
    batch.commit().unwrap();
    assert_eq!(
        db.data().usage().used,
        used + 2 * 4096,
        "the two pages at its ends are copies"
    );
    assert_eq!(
        db.view()
            .unwrap()
            .chunk_map(ONE, b"chunk")
            .unwrap()
            .unwrap()
            .pieces()
            .len(),
        3
    );
    drop(written);
    assert_eq!(
        db.data().read(extent, 0..1),
        Err(StoreError::ExtentGone(extent))
    );
    assert_eq!(
        db.view()
            .unwrap()
            .read_chunk(ONE, b"chunk", 12_192, 10)
            .unwrap(),
        bytes[..10]
    );
    assert_eq!(
        db.data().usage().used,
        used,
        "what only the log held of it is free"
    );
    let view = db.view().unwrap();
    let mut batch = db.begin().unwrap();
    batch.lineage(ONE).unwrap().delete_chunk(b"chunk").unwrap();
    batch.commit().unwrap();
    checkpoint(&db);
    assert_eq!(db.data().usage().retired, used, "a view still shows it");
    assert_eq!(
        view.read_chunk(ONE, b"chunk", 12_192, 10).unwrap(),
        bytes[..10]
    );
    drop(view);
    assert_eq!(db.data().usage().used, 0);
}

#[test]
fn dropped_space_waits_for_a_durable_commit() {
    let (_dir, db) = fresh();
    put(&db, ONE, b"chunk", 0, &[1; 4096]);
    checkpoint(&db);
    put(&db, ONE, b"chunk", 0, &[2; 4096]);
    assert_eq!(db.data().usage().used, 2 * 4096);
    assert_eq!(db.data().usage().retired, 4096);
    checkpoint(&db);
    assert_eq!(db.data().usage().used, 4096);
}

#[test]
fn small_overwrites_reach_the_disk_with_the_checkpoint_and_the_last_of_a_page_alone() {
    let (dir, db) = fresh();
    put(&db, ONE, b"chunk", 0, &[b'a'; 4096]);
    checkpoint(&db);
    let before = dir.operations();
    for letter in b'b'..=b'e' {
        put(&db, ONE, b"chunk", 0, &[letter; 4096]);
    }
    let view = db.view().unwrap();
    put(&db, ONE, b"chunk", 0, &[b'f'; 4096]);
    assert_eq!(
        dir.operations(),
        before,
        "a commit asks nothing of the disk"
    );
    let shown = |view: &crate::state::StateView<MemoryDir>| {
        view.read_chunk(ONE, b"chunk", 0, 4096).unwrap()
    };
    assert_eq!(shown(&view)[..], [b'e'; 4096]);
    checkpoint(&db);
    assert_eq!(shown(&view)[..], [b'e'; 4096], "in memory still");
    let image = dir.image("data-0000");
    let on_disk = |letter: u8| image.chunks(4096).any(|page| page == [letter; 4096]);
    let letters: Vec<u8> = (b'a'..=b'f').filter(|letter| on_disk(*letter)).collect();
    assert_eq!(letters, b"af");
    drop((view, db));
    let db = open(&dir.restart(1), &[]).unwrap().db;
    assert_eq!(shown(&db.view().unwrap())[..], [b'f'; 4096]);
}

#[test]
fn what_lies_in_a_hole_is_written_at_once() {
    let (dir, db) = fresh();
    put(&db, ONE, b"chunk", 0, &[1; 4096]);
    // The rest of the file, so that all that is free later was in use before.
    put(&db, TWO, b"chunk", 0, &[9; 15 * 4096]);
    let mut batch = db.begin().unwrap();
    assert!(batch.delete_lineage(TWO, 9).unwrap());
    batch.commit().unwrap();
    checkpoint(&db);
    assert_eq!(db.data().punch_free(u64::MAX).unwrap(), 15 * 4096);
    let holes = db.data().usage().holes;
    let before = dir.operations();
    put(&db, ONE, b"chunk", 0, &[2; 4096]);
    assert_eq!(dir.operations(), before + 1);
    assert_eq!(db.data().usage().holes, holes - 4096);
    checkpoint(&db);
    put(&db, ONE, b"chunk", 0, &[3; 4096]);
    assert_eq!(db.data().usage().used, 2 * 4096);
    let read = db.view().unwrap().read_chunk(ONE, b"chunk", 0, 4096);
    assert_eq!(read.unwrap()[..], [3; 4096]);
}

#[test]
fn a_refused_checkpoint_keeps_everything_for_the_next() {
    let (dir, db) = fresh();
    put(&db, ONE, b"a", 0, b"one");
    let plan = db.prepare_checkpoint().unwrap();
    put(&db, ONE, b"a", 1, b"two");
    put(&db, ONE, b"b", 0, b"two");
    drop(plan);
    let view = db.view().unwrap();
    assert_eq!(&view.read_chunk(ONE, b"a", 0, 5).unwrap()[..], b"otwo\0");
    drop(view);
    checkpoint(&db);
    drop(db);
    let db = open(&dir.restart(1), &[]).unwrap().db;
    let view = db.view().unwrap();
    assert_eq!(&view.read_chunk(ONE, b"a", 0, 5).unwrap()[..], b"otwo\0");
    assert_eq!(&view.read_chunk(ONE, b"b", 0, 3).unwrap()[..], b"two");
    assert_eq!(db.data().usage().used, 2 * 4096);
}

#[test]
fn zeros_give_whole_pages_back_and_a_fragmented_chunk_becomes_one_piece() {
    let (_dir, db) = fresh();
    for page in (0..8).rev() {
        put(
            &db,
            ONE,
            b"chunk",
            page * 4096,
            &[u8::try_from(page).unwrap() + 1; 4096],
        );
        put(&db, ONE, b"other", page * 4096, &[9; 4096]);
    }
    let mut batch = db.begin().unwrap();
    let mut state = batch.lineage(ONE).unwrap();
    state.zero(b"chunk", 4096 + 100, 2 * 4096).unwrap();
    assert!(state.rewrite_when_fragmented(b"chunk", 2).unwrap());
    assert!(!state.rewrite_when_fragmented(b"chunk", 2).unwrap());
    let found = state.read_chunk(b"chunk", 0, 8 * 4096).unwrap();
    batch.commit().unwrap();
    let mut expected: Vec<u8> = (1..=8).flat_map(|page| [page; 4096]).collect();
    expected[4196..4196 + 8192].fill(0);
    assert_eq!(found, expected);
    let map = db
        .view()
        .unwrap()
        .chunk_map(ONE, b"chunk")
        .unwrap()
        .unwrap();
    assert_eq!(map.pieces().len(), map.pieces_min());
    checkpoint(&db);
    assert_eq!(db.data().usage().used, (7 + 8) * 4096);
}

#[test]
fn a_lineage_is_deleted_in_bounded_steps_and_alone() {
    let (_dir, db) = fresh();
    for lineage in [ONE, TWO] {
        let mut batch = db.begin().unwrap();
        let mut state = batch.lineage(lineage).unwrap();
        for key in 0..10 {
            state.put(&[key], b"value").unwrap();
            state.write_small(&[key], 0, b"content").unwrap();
        }
        batch.commit().unwrap();
    }
    let mut batch = db.begin().unwrap();
    assert_eq!(
        batch
            .lineage(TWO)
            .unwrap()
            .delete_range(&[3], Some(&[5]), 99),
        Ok(2)
    );
    assert_eq!(
        batch
            .lineage(TWO)
            .unwrap()
            .delete_chunks(&[3], Some(&[5]), 99),
        Ok(2)
    );
    batch.commit().unwrap();
    put(&db, Lineage(u64::MAX), &[1], 0, b"last");
    let last = Lineage(u64::MAX);
    assert_eq!(
        db.view().unwrap().lineages().unwrap(),
        [ONE, TWO, last].into()
    );
    let mut batch = db.begin().unwrap();
    while !batch.delete_lineage(last, 6).unwrap() {}
    batch.commit().unwrap();
    let mut steps = 1;
    let mut batch = db.begin().unwrap();
    while !batch.delete_lineage(ONE, 6).unwrap() {
        steps += 1;
    }
    batch.commit().unwrap();
    assert_eq!(steps, 4);
    let view = db.view().unwrap();
    assert_eq!(view.lineages().unwrap(), [TWO].into());
    assert_eq!(view.scan(ONE, &[], None, 99).unwrap(), []);
    assert_eq!(
        view.chunk_keys(ONE, &[], None, 99).unwrap(),
        Vec::<Vec<u8>>::new()
    );
    assert_eq!(view.scan(TWO, &[], None, 99).unwrap().len(), 8);
    assert_eq!(view.chunk_keys(TWO, &[4], None, 99).unwrap().len(), 5);
    drop(view);
    checkpoint(&db);
    assert_eq!(db.data().usage().used, 8 * 4096);
}

#[test]
fn a_checkpoint_ahead_of_a_log_is_refused_and_harmless() {
    let (_dir, db) = fresh();
    let mut batch = db.begin().unwrap();
    batch.set_group(GroupId(1), 4, b"").unwrap();
    batch.set_group(GroupId(2), 8, b"").unwrap();
    batch.commit().unwrap();
    let plan = db.prepare_checkpoint().unwrap();
    assert_eq!(plan.groups()[&GroupId(2)].applied, 8);
    let refused = StoreError::CheckpointAheadOfLog {
        group: GroupId(2),
        applied: 8,
        synced: 7,
    };
    assert_eq!(plan.commit(|_| 7), Err(refused));
    let done = db.prepare_checkpoint().unwrap().commit(|_| 8).unwrap();
    assert_eq!(done.applied[&GroupId(1)], 4);
}

/// The kernel says once that it had no room (fsync(2)), and forgets the bytes.
#[test]
fn a_sync_that_finds_the_disk_full_poisons_as_any_that_fails() {
    let (dir, db) = fresh();
    put(&db, ONE, b"chunk", 0, b"bytes");
    dir.fail_sync_with(1, DiskError::Full);
    let failed = db.data().sync().map(drop);
    assert!(matches!(failed, Err(StoreError::Poisoned(_))), "{failed:?}");
    let later = db.prepare_checkpoint().map(drop);
    assert!(matches!(later, Err(StoreError::Poisoned(_))));
}

/// Space that the filesystem has something to do for first is written past the cache: there a failure shows at once.
#[test]
fn a_few_blocks_are_written_through_the_cache_once_this_process_has_written_them() {
    let (dir, db) = fresh();
    let written = |dir: &MemoryDir| dir.cached_writes("data-0000");
    let overwrite = |db: &StateDb<MemoryDir>, rounds: u8| {
        for round in 0..rounds {
            put(db, ONE, b"chunk", 0, &[round; 4096]);
            checkpoint(db);
        }
    };
    put(&db, ONE, b"chunk", 0, &[9; 4096]);
    checkpoint(&db);
    assert_eq!(written(&dir), 0, "it has grown for this");
    overwrite(&db, 40);
    let before = written(&dir);
    assert!(before > 0, "what was written is written again");
    drop(db);
    let db = open(&dir, &[]).unwrap().db;
    overwrite(&db, 1);
    assert_eq!(written(&dir), before, "not what an earlier process wrote");
}

#[test]
fn a_failed_sync_poisons_everything() {
    let (dir, db) = fresh();
    put(&db, ONE, b"chunk", 0, b"bytes");
    dir.fail_sync_after(1);
    assert!(matches!(
        db.data().sync(),
        Err(StoreError::Disk(DiskError::Failed(_)))
    ));
    assert!(matches!(db.data().sync(), Err(StoreError::Poisoned(_))));
    assert!(matches!(
        db.begin().map(|_| ()),
        Err(StoreError::Poisoned(_))
    ));
    assert!(matches!(
        db.view().map(|_| ()),
        Err(StoreError::Poisoned(_))
    ));
    assert!(matches!(
        db.prepare_checkpoint().map(|_| ()),
        Err(StoreError::Poisoned(_))
    ));
    assert!(matches!(
        db.data().write_extent(b"x", 0),
        Err(StoreError::Poisoned(_))
    ));

    let (dir, db) = fresh();
    put(&db, ONE, b"chunk", 0, b"bytes");
    let plan = db.prepare_checkpoint().unwrap();
    dir.fail_sync_after(1);
    assert!(plan.commit(|_| 0).is_err());
    assert!(matches!(
        db.begin().map(|_| ()),
        Err(StoreError::Poisoned(_))
    ));
}

#[test]
fn data_files_follow_each_other_and_punched_space_is_used_again() {
    let (dir, db) = fresh();
    let pins: Vec<_> = (0..20)
        .map(|_| db.data().write_extent(&[7; 70_000], 0).unwrap())
        .collect();
    let names = dir.list().unwrap();
    assert!(names.contains(&"data-0002".to_string()), "{names:?}");
    drop(pins);
    assert_eq!(db.data().usage().used, 0);
    let all = db.data().usage().free;
    assert_eq!(db.data().punch_free(128 << 10).unwrap(), 128 << 10);
    assert!(db.data().punch_free(u64::MAX).unwrap() >= all / 2);
    assert_eq!(db.data().punch_free(u64::MAX).unwrap(), 0);
    assert_eq!(db.data().usage().free, all);
    let written = db.data().write_extent(&[8; 70_000], 0).unwrap();
    assert_eq!(
        db.data().read(written.pin.extent(), 5..9).unwrap(),
        [8; 4][..]
    );
    assert_eq!(db.data().usage().used + db.data().usage().free, all);
}

#[test]
fn what_only_the_log_refers_to_is_kept_over_a_restart() {
    let (dir, db) = fresh();
    let written = db.data().write_extent(&[7; 70_000], 10).unwrap();
    let extent = written.pin.extent();
    db.data().sync().unwrap();
    drop((written, db));
    let dir = dir.restart(3);
    let opened = open(&dir, &[extent]).unwrap();
    let other = opened.db.data().write_extent(&[8; 500_000], 0).unwrap();
    assert_eq!(
        opened.db.data().read(extent, 0..70_000).unwrap(),
        [7; 70_000][..]
    );
    drop(opened.pins);
    assert!(matches!(
        opened.db.data().pin(extent),
        Err(StoreError::ExtentGone(_))
    ));
    drop((other, opened.db));
    let nonsense = crate::extent_ref::ExtentRef {
        offset: 1 << 50,
        ..extent
    };
    assert_eq!(
        open(&dir, &[nonsense]).unwrap_err(),
        StoreError::CorruptExtent(nonsense)
    );
}

#[test]
fn a_full_disk_says_so_and_can_still_be_emptied() {
    let dir = MemoryDir::new(1);
    dir.set_capacity(16 << 20);
    let reserve = ReserveConfig {
        part: 20,
        bytes_min: 256 << 20,
        bytes_max: u64::MAX,
        part_max: 4,
        steps: 16,
    };
    let config = StateConfig { reserve, ..CONFIG };
    let opened = StateDb::open(Arc::new(dir.clone()), config, &[]).unwrap();
    let db = opened.db;
    assert_eq!(db.reserve().bytes(), 4 << 20, "scaled down");
    assert_eq!(db.space_level(), Ok(SpaceLevel::Normal));
    let mut chunks = 0_u32;
    let full = loop {
        let mut batch = db.begin().unwrap();
        let mut state = batch.lineage(ONE).unwrap();
        let written = state.write_small(&chunks.to_be_bytes(), 0, &[1; 60_000]);
        match written {
            Ok(()) => batch.commit().unwrap(),
            Err(error) => {
                assert_eq!(batch.commit(), Err(StoreError::BatchFailed));
                break error;
            }
        }
        chunks += 1;
        if chunks.is_multiple_of(20) {
            checkpoint(&db);
        }
    };
    assert_eq!(full, StoreError::Disk(DiskError::Full));
    assert!(chunks > 50, "{chunks}");
    assert_eq!(db.space_level(), Ok(SpaceLevel::Reserve));
    let ballast = dir.image("ballast").len() as u64;
    assert!(
        ballast >= db.reserve().bytes() / 4 * 3,
        "data leaves most of the reserve to the database: {ballast}"
    );
    // The database grows out of the reserve, although nothing is free.
    let filler = dir
        .open(
            "filler",
            OpenMode {
                create: true,
                direct: false,
            },
        )
        .unwrap();
    filler.set_len(dir.space().unwrap().free).unwrap();
    let mut batch = db.begin().unwrap();
    let mut state = batch.lineage(ONE).unwrap();
    for key in 0..1500_u32 {
        state.put(&key.to_be_bytes(), &[3; 1000]).unwrap();
    }
    batch.commit().unwrap();
    checkpoint(&db);
    let mut batch = db.begin().unwrap();
    while !batch.delete_lineage(ONE, 100).unwrap() {}
    batch.commit().unwrap();
    checkpoint(&db);
    assert_eq!(db.data().usage().used, 0);
    assert!(db.data().punch_free(u64::MAX).unwrap() > 0);
    assert_eq!(
        db.space_level(),
        Ok(SpaceLevel::Reserve),
        "the ballast is not whole"
    );
    dir.set_capacity(24 << 20);
    while db.reserve().refill_step().unwrap() {}
    assert_eq!(db.space_level(), Ok(SpaceLevel::Normal));
}

#[test]
fn dropping_the_store_makes_nothing_durable() {
    let (dir, db) = fresh();
    put(&db, ONE, b"a", 0, b"durable");
    checkpoint(&db);
    put(&db, ONE, b"b", 0, b"not durable");
    let view = db.view().unwrap();
    drop(db);
    assert_eq!(&view.read_chunk(ONE, b"b", 0, 3).unwrap()[..], b"not");
    drop(view);
    let db = open(&dir, &[]).unwrap().db;
    let keys = db.view().unwrap().chunk_keys(ONE, &[], None, 9).unwrap();
    assert_eq!(keys, [b"a"]);
}
