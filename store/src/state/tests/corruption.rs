//! Rot: whatever byte of a data page or stored value changes, it is reported and never returned.

use polyfs_core::ids::{GroupId, Lineage};

use super::{checkpoint, open};
use crate::disk::Dir;
use crate::memory::{Dice, MemoryDir};
use crate::state::{RegionKv, StoreError};

const LINEAGE: Lineage = Lineage(0x0123_4567_89AB_CDEF);

/// A store with one chunk of 5 pages, one value, one group record, closed.
fn stored() -> MemoryDir {
    let dir = MemoryDir::new(1);
    let db = open(&dir, &[]).unwrap().db;
    let mut batch = db.begin().unwrap();
    let mut state = batch.lineage(LINEAGE).unwrap();
    for page in 0..5 {
        let bytes = vec![b'a' + u8::try_from(page).unwrap(); 4096];
        state
            .write_small(b"chunk key", page * 4096, &bytes)
            .unwrap();
    }
    state.put(b"state key", &[b'V'; 300]).unwrap();
    batch.set_group(GroupId(1), 3, &[b'G'; 200]).unwrap();
    batch.commit().unwrap();
    checkpoint(&db);
    drop(db);
    dir
}

fn positions(image: &[u8], needle: &[u8]) -> Vec<usize> {
    let found = image
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle);
    found.map(|(at, _)| at).collect()
}

#[test]
fn any_rotten_byte_of_a_page_is_reported() {
    let mut dice = Dice::new(1);
    let image = stored().image("data-0000");
    for round in 0..60 {
        let page = round % 5;
        let letter = b'a' + u8::try_from(page).unwrap();
        let start = positions(&image, &[letter; 4096])[0];
        let dir = stored();
        let bit = u8::try_from(dice.below(8)).unwrap();
        dir.flip("data-0000", start + dice.below_len(4096), 1 << bit);
        let opened = open(&dir, &[]).unwrap();
        assert_eq!(opened.damaged, []);
        let view = opened.db.view().unwrap();
        for other in 0..5 {
            let read = view.read_chunk(LINEAGE, b"chunk key", other * 4096 + 7, 10);
            match read {
                Err(StoreError::Corrupt {
                    lineage: LINEAGE, ..
                }) => assert_eq!(other, page),
                read => assert!(
                    other != page && read.unwrap()[0] == b'a' + u8::try_from(other).unwrap()
                ),
            }
        }
        let mut batch = opened.db.begin().unwrap();
        let mut state = batch.lineage(LINEAGE).unwrap();
        let merged = state.write_small(b"chunk key", page * 4096 + 1, b"x");
        assert!(
            matches!(merged, Err(StoreError::Corrupt { .. })),
            "nor merged into a new page"
        );
        assert_eq!(batch.commit(), Err(StoreError::BatchFailed));
    }
}

#[test]
fn pages_in_the_wrong_place_are_reported() {
    let dir = stored();
    let mut image = dir.image("data-0000");
    let (a, b) = (
        positions(&image, &[b'a'; 4096])[0],
        positions(&image, &[b'b'; 4096])[0],
    );
    image.copy_within(a..a + 4096, b);
    dir.put_image("data-0000", image);
    let db = open(&dir, &[]).unwrap().db;
    let view = db.view().unwrap();
    assert!(view.read_chunk(LINEAGE, b"chunk key", 0, 4096).is_ok());
    assert!(view.read_chunk(LINEAGE, b"chunk key", 4096, 4096).is_err());
}

#[test]
fn a_data_file_that_is_gone_or_has_lost_its_end_is_missed() {
    for length in [0, 8192] {
        let dir = stored();
        let mut image = dir.image("data-0000");
        image.truncate(length);
        dir.put_image("data-0000", image);
        assert_eq!(open(&dir, &[]).err(), Some(StoreError::DataShort));
    }
    let dir = stored();
    dir.remove("data-0000").unwrap();
    assert_eq!(open(&dir, &[]).err(), Some(StoreError::DataShort));
}

#[test]
fn any_rotten_byte_of_a_value_is_reported() {
    let mut dice = Dice::new(2);
    let image = stored().image("state.redb");
    // With the checksum before it.
    let found = positions(&image, &[b'V'; 300]);
    assert!(!found.is_empty());
    for _ in 0..40 {
        let dir = stored();
        let at = dice.below_len(304);
        for start in &found {
            dir.flip("state.redb", start - 4 + at, 0x20);
        }
        let db = open(&dir, &[]).unwrap().db;
        let view = db.view().unwrap();
        let expected = |error: StoreError| {
            matches!(
                error,
                StoreError::Corrupt {
                    lineage: LINEAGE,
                    ..
                }
            )
        };
        assert!(expected(view.get(LINEAGE, b"state key").unwrap_err()));
        assert!(expected(view.scan(LINEAGE, &[], None, 9).unwrap_err()));
        let mut batch = db.begin().unwrap();
        assert!(expected(
            batch
                .lineage(LINEAGE)
                .unwrap()
                .get(b"state key")
                .unwrap_err()
        ));
    }
}

#[test]
fn a_rotten_group_record_is_reported() {
    let dir = stored();
    for start in positions(&dir.image("state.redb"), &[b'G'; 200]) {
        dir.flip("state.redb", start + 9, 1);
    }
    let db = open(&dir, &[]).unwrap().db;
    assert!(matches!(
        db.view().unwrap().groups(),
        Err(StoreError::CorruptRecord(_))
    ));
    assert!(matches!(
        db.prepare_checkpoint().map(|_| ()),
        Err(StoreError::CorruptRecord(_))
    ));
}

#[test]
fn a_rotten_page_map_damages_its_lineage_alone_and_no_old_space_is_given_out() {
    let dir = stored();
    let image = dir.image("state.redb");
    let mut stored_key = LINEAGE.0.to_be_bytes().to_vec();
    stored_key.extend_from_slice(b"chunk key");
    // redb keeps a leaf's values after its keys: the map of five pages follows with its checksum first.
    for start in positions(&image, &stored_key) {
        dir.flip("state.redb", start + stored_key.len() + 8, 1);
    }
    let opened = open(&dir, &[]).unwrap();
    assert_eq!(opened.damaged, [LINEAGE]);
    let db = opened.db;
    let read = db.view().unwrap().read_chunk(LINEAGE, b"chunk key", 0, 1);
    assert!(matches!(
        read,
        Err(StoreError::Corrupt {
            lineage: LINEAGE,
            ..
        })
    ));
    let mut batch = db.begin().unwrap();
    batch
        .lineage(Lineage(5))
        .unwrap()
        .write_small(b"chunk", 0, &[9; 60_000])
        .unwrap();
    batch.commit().unwrap();
    let image = dir.image("data-0000");
    for letter in b'a'..=b'e' {
        assert_eq!(
            positions(&image, &[letter; 4096]).len(),
            1,
            "its bytes are kept"
        );
    }
    let mut batch = db.begin().unwrap();
    while !batch.delete_lineage(LINEAGE, 10).unwrap() {}
    batch.commit().unwrap();
    checkpoint(&db);
    drop(db);
    let opened = open(&dir, &[]).unwrap();
    assert_eq!(opened.damaged, []);
    assert_eq!(opened.db.data().usage().used, 15 * 4096);
}
