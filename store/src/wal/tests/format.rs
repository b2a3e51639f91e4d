//! The format on disk: it does not drift, and no bytes make the decoder panic.

use crc_fast::crc32_iscsi;

use super::*;
use crate::aligned::AlignedBuffer;
use crate::wal::Verdict;
use crate::wal::batch::BATCH_HEADER_BYTES;
use crate::wal::record::{RECORD_HEADER_BYTES, RecordFault, decode, encode};
use crate::wal::scan::{Place, scan};
use crate::wal::segment::open_all;

/// One segment as version 1 wrote it, without the zeros at its end.
const GOLDEN: &[u8] = include_bytes!("../../../testdata/format/v1/log-0001");

fn golden_config() -> LogConfig {
    LogConfig {
        segment_bytes: 24 << 10,
        segments_initial: 2,
        batch_bytes_max: 8192,
        ..small()
    }
}

fn golden_records() -> Vec<Record> {
    let group = GroupId(7);
    vec![
        Record::Create {
            group,
            bytes: Bytes::from_static(b"born"),
        },
        vote(7, "term 3"),
        entry(7, 1, 3, PayloadRef::None),
        entry(7, 2, 3, in_log(5, 0xAB)),
        entry(7, 3, 3, extent(9)),
        Record::Committed {
            group,
            bytes: Bytes::from_static(b"2"),
        },
        Record::Truncate {
            group,
            from_index: 3,
        },
        entry(7, 3, 4, extent(10)),
        purge(7, 1),
        vote(8, "gone"),
        Record::Destroy { group: GroupId(8) },
    ]
}

/// The log that the golden image shows: three batches of records and their marks.
fn written() -> Rig {
    let mut rig = Rig::new(golden_config());
    for (number, record) in golden_records().into_iter().enumerate() {
        rig.push(record).unwrap();
        if number == 4 || number == 8 {
            rig.turn().unwrap();
        }
    }
    rig.settle().unwrap();
    rig
}

fn trimmed(mut image: Vec<u8>) -> Vec<u8> {
    let used = image
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    image.truncate(used);
    image
}

fn dir_of(image: &[u8]) -> MemoryDir {
    let dir = MemoryDir::new(1);
    let mut image = image.to_vec();
    image.resize(24 << 10, 0);
    dir.put_image("log-0001", image);
    dir
}

#[test]
fn version_1_is_read_as_it_was_meant() {
    let recovery = find(&dir_of(GOLDEN), &golden_config());
    assert_eq!(recovery.report.verdict, Verdict::Clean);
    let mut model = Model::default();
    golden_records()
        .iter()
        .for_each(|record| model.apply(record));
    assert_eq!(recovered_model(&recovery), model);
    assert_eq!(
        (recovery.report.boot, recovery.report.next_sequence),
        (1, 6)
    );
    assert_eq!(model.0.keys().copied().collect::<Vec<_>>(), [GroupId(7)]);
}

#[test]
fn version_1_is_still_what_is_written() {
    assert_eq!(trimmed(written().dir.image("log-0001")), GOLDEN);
}

#[test]
#[ignore = "writes the golden image: only for a new version, into its own directory"]
fn write_the_golden_image() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1/log-0001");
    std::fs::write(path, trimmed(written().dir.image("log-0001"))).unwrap();
}

#[test]
fn records_come_back_and_no_beginning_of_one_does() {
    for record in golden_records() {
        let mut buffer = AlignedBuffer::new(1);
        encode(&record, &mut buffer);
        let bytes = buffer.as_slice();
        assert_eq!(bytes.len(), record.encoded_bytes());
        for end in 0..bytes.len() {
            assert_eq!(
                decode(&bytes[..end]),
                Err(RecordFault::Header),
                "cut at {end}"
            );
        }
        assert_eq!(decode(bytes), Ok((record, bytes.len())));
    }
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let mut buffer = AlignedBuffer::new(1);
    encode(&vote(1, "x"), &mut buffer);
    for at in [32, 36] {
        let mut bytes = buffer.as_slice().to_vec();
        bytes[at..at + 4].fill(0xFF);
        fix_record(&mut bytes, 0);
        assert_eq!(decode(&bytes), Err(RecordFault::Header));
    }
}

#[test]
fn a_batch_cut_at_any_byte_is_cut_off_whole() {
    let mut rig = Rig::new(golden_config());
    rig.push(vote(1, "kept")).unwrap();
    rig.turn().unwrap();
    let kept = rig.says();
    rig.push(entry(1, 1, 1, in_log(5000, 0xEE))).unwrap();
    rig.push(vote(1, "cut")).unwrap();
    rig.turn().unwrap();
    let image = rig.dir.image("log-0001");
    let last = batches(&rig.dir).pop().unwrap().header;
    let start = usize::try_from(last.offset).unwrap();
    for length in 0..BATCH_HEADER_BYTES + last.body_len() {
        let recovery = find(&dir_of(&image[..start + length]), &rig.config);
        assert_eq!(recovered_model(&recovery), kept, "cut after {length} bytes");
        let torn = recovery.report.verdict == Verdict::TornTail;
        assert!(
            torn || length < 32,
            "{:?} after {length} bytes",
            recovery.report.verdict
        );
    }
}

fn batches(dir: &MemoryDir) -> Vec<Place> {
    let files = open_all(dir).unwrap().unwrap().files;
    scan(&files).unwrap().batches.into_values().collect()
}

/// Makes the CRC of the record header at `at` right again.
fn fix_record(image: &mut [u8], at: usize) {
    let crc = crc32_iscsi(&image[at + 4..at + RECORD_HEADER_BYTES]);
    image[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the CRCs of a batch right again, as if the writer had meant it.
fn fix_batch(image: &mut [u8], place: &Place) {
    let start = usize::try_from(place.header.offset).unwrap();
    let body = start + BATCH_HEADER_BYTES;
    let crc = crc32_iscsi(&image[body..body + place.header.body_len()]);
    image[start + 76..start + 80].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32_iscsi(&image[start..start + 80]);
    image[start + 80..start + 84].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn mutated_logs_are_errors_or_verdicts_never_panics() {
    let places = batches(&dir_of(GOLDEN));
    let (mut errors, mut corrupt, mut others) = (0, 0, 0);
    for seed in 0..10_000 {
        let mut dice = Dice::new(seed);
        let mut image = GOLDEN.to_vec();
        let place = places[dice.below_len(places.len())];
        let start = usize::try_from(place.header.offset).unwrap();
        let length = BATCH_HEADER_BYTES + place.header.body_len();
        for _ in 0..=dice.below(3) {
            let at = if dice.below(8) == 0 {
                dice.below_len(image.len())
            } else {
                start + dice.below_len(length)
            };
            image[at] = u8::try_from(dice.below(256)).unwrap();
        }
        let fixes = dice.below(3);
        if fixes == 2 && place.header.records > 0 {
            fix_record(&mut image, start + BATCH_HEADER_BYTES);
        }
        if fixes > 0 {
            fix_batch(&mut image, &place);
        }
        match recover(&dir_of(&image), &golden_config()) {
            Err(_) => errors += 1,
            Ok(found) => match found.expect("the file is there").report.verdict {
                Verdict::Corrupt { .. } => corrupt += 1,
                Verdict::Clean | Verdict::TornTail => others += 1,
            },
        }
    }
    assert!(
        errors > 10 && corrupt > 1000 && others > 10,
        "{errors} {corrupt} {others}"
    );
}
