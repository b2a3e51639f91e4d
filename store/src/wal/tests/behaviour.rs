//! What the log does when nothing goes wrong, and when there is no room.

use super::*;
use crate::wal::{Found, Pressure, Verdict};

#[test]
fn an_append_is_read_at_once_and_durable_when_its_ticket_is() {
    let mut rig = Rig::new(small());
    let ticket = rig.push(entry(1, 1, 1, in_log(100, 1))).unwrap();
    let found = rig.log.index.read(GroupId(1), 1..2, 0).unwrap();
    assert!(matches!(&found[..], [Found::Cached(entry)] if entry.index == 1));
    assert!(rig.log.index.durable() < ticket && rig.log.index.has_work());
    let settled = rig.turn().unwrap().unwrap();
    assert_eq!(settled.durable, ticket);
    assert!(!rig.log.index.has_work());
}

#[test]
fn many_groups_share_one_write_and_one_sync() {
    let mut rig = Rig::new(small());
    for group in 1..=50 {
        rig.push(entry(group, 1, 1, PayloadRef::None)).unwrap();
    }
    let before = rig.dir.operations();
    rig.turn().unwrap();
    assert_eq!(rig.dir.operations() - before, 2);
    assert!(rig.pending.is_empty());
}

#[test]
fn a_batch_is_bounded_and_only_one_is_in_flight() {
    let mut rig = Rig::new(small());
    for index in 1..=6 {
        rig.push(entry(1, index, 1, in_log(5000, 1))).unwrap();
    }
    let batch = rig.log.index.take_batch().unwrap().unwrap();
    assert_eq!(batch.records(), 2);
    assert!(
        rig.log.index.take_batch().unwrap().is_none(),
        "one in flight"
    );
    assert!(rig.log.index.take_mark().unwrap().is_none());
    let written = rig.log.writer.write(&batch).unwrap();
    rig.log.index.written(batch, written);
    assert_eq!(rig.log.index.take_batch().unwrap().unwrap().records(), 2);
    let large = entry(2, 1, 1, in_log(13_000, 1));
    assert!(matches!(
        rig.log.index.push(large),
        Err(LogError::TooLarge { .. })
    ));
}

#[test]
fn entries_beyond_the_cache_are_loaded_from_their_segments() {
    let mut rig = Rig::new(small());
    for index in 1..=20 {
        rig.push(entry(1, index, 3, in_log(1000, 9))).unwrap();
        rig.turn().unwrap();
    }
    let found = rig.log.index.read(GroupId(1), 1..21, usize::MAX).unwrap();
    let stored = found
        .iter()
        .filter(|one| matches!(one, Found::Stored(_)))
        .count();
    assert!((8..20).contains(&stored), "{stored} are not cached");
    assert_eq!(rig.says(), rig.now);
    let limited = rig.log.index.read(GroupId(1), 5..21, 3000).unwrap();
    assert_eq!(limited.len(), 2);
    let missing = LogError::NotFound {
        group: GroupId(1),
        index: 21,
    };
    assert_eq!(rig.log.index.read(GroupId(1), 21..25, 100), Err(missing));
}

#[test]
fn damage_to_a_stored_entry_is_an_error_not_an_answer() {
    let mut rig = Rig::new(small());
    for index in 1..=20 {
        rig.push(entry(1, index, 3, in_log(1000, 9))).unwrap();
        rig.turn().unwrap();
    }
    let found = rig.log.index.read(GroupId(1), 2..3, 0).unwrap();
    let [Found::Stored(located)] = &found[..] else {
        panic!("it is not cached")
    };
    let at = usize::try_from(located.at.offset + located.at.bytes - 1).unwrap();
    rig.dir.flip(&located.at.segment.to_string(), at, 4);
    assert!(rig.log.index.is_current(located));
    assert!(matches!(
        rig.log.reader.load(found),
        Err(LogError::Damaged { .. })
    ));
}

#[test]
fn a_reopened_log_says_the_same_and_goes_on() {
    let mut rig = Rig::new(small());
    let mut dice = Dice::new(5);
    for _ in 0..10 {
        for _ in 0..40 {
            random_step(&mut rig, &mut dice).unwrap();
        }
        rig.settle().unwrap();
        let before = rig.says();
        assert_eq!(report(&rig.dir, &rig.config).verdict, Verdict::Clean);
        rig = rig.reopen();
        assert_eq!(rig.says(), before);
    }
}

#[test]
fn an_idle_log_marks_its_end_once() {
    let mut rig = Rig::new(small());
    rig.push(vote(1, "a")).unwrap();
    rig.turn().unwrap();
    let sequence = rig.log.writer.sequence();
    assert!(report(&rig.dir, &rig.config).mark < sequence);
    rig.turn().unwrap().expect("the mark");
    assert_eq!(report(&rig.dir, &rig.config).mark, sequence);
    assert_eq!(rig.turn().unwrap(), None, "nothing is left to say");
}

#[test]
fn quiet_groups_are_carried_forward_and_segments_recycled() {
    let mut rig = Rig::new(LogConfig {
        segments_max: 8,
        ..small()
    });
    for group in 100..110 {
        rig.push(vote(group, "quiet")).unwrap();
        rig.push(entry(group, 1, 1, extent(u32::try_from(group).unwrap())))
            .unwrap();
        rig.push(purge(group, 0)).unwrap();
        let bytes = Bytes::from_static(b"born");
        rig.push(Record::Create {
            group: GroupId(group),
            bytes,
        })
        .unwrap();
    }
    for index in 1..=400 {
        rig.push(entry(1, index, 1, in_log(1000, 1))).unwrap();
        rig.turn().unwrap();
        if index % 8 == 0 {
            rig.push(purge(1, index - 4)).unwrap();
        }
    }
    assert_eq!(rig.dir.image("log-0001").len(), 32 << 10);
    assert!(
        rig.log.writer.layout().in_use.len() <= 5,
        "{:?}",
        rig.log.writer.layout()
    );
    rig.settle().unwrap();
    assert_eq!(rig.says(), rig.now);
    let rig = rig.reopen();
    assert_eq!(rig.says(), rig.acked);
    assert_eq!(rig.says().0.len(), 11);
}

#[test]
fn a_full_log_refuses_appends_names_its_holders_and_recovers_by_purging() {
    let mut rig = Rig::new(small());
    let mut index = 0;
    let refused = loop {
        index += 1;
        match rig.push(entry(1, index, 1, in_log(3000, 1))) {
            Ok(_) => drop(rig.turn().unwrap()),
            Err(error) => break error,
        }
        assert!(index < 1000, "five segments are full some day");
    };
    assert_eq!(refused, LogError::Full);
    assert_eq!(rig.log.index.pressure(), Pressure::Full);
    rig.push(vote(2, "still taken")).unwrap();
    let holders = rig.log.index.holders();
    assert_eq!(
        holders.iter().map(|holder| holder.0).collect::<Vec<_>>(),
        [GroupId(1)]
    );
    rig.push(purge(1, index - 2)).unwrap();
    rig.settle().unwrap();
    assert_eq!(rig.log.index.pressure(), Pressure::None);
    rig.push(entry(1, index, 1, in_log(3000, 1))).unwrap();
    rig.settle().unwrap();
    assert_eq!(rig.says(), rig.now);
}

#[test]
fn a_batch_that_fits_nowhere_is_put_back_and_written_later() {
    let config = LogConfig {
        segments_initial: 2,
        ..small()
    };
    let mut rig = Rig::new(config);
    // Nobody makes segments here: only the two first ones exist.
    let write = |rig: &mut Rig| {
        let Log { index, writer, .. } = &mut rig.log;
        let batch = index.take_batch().unwrap().unwrap();
        match writer.write(&batch) {
            Ok(written) => {
                index.written(batch, written);
                Ok(())
            }
            Err(error) => {
                index.put_back(batch);
                Err(error)
            }
        }
    };
    let mut index = 0;
    let error = loop {
        index += 1;
        rig.push(entry(1, index, 1, in_log(3000, 1))).unwrap();
        if let Err(error) = write(&mut rig) {
            break error;
        }
    };
    assert_eq!(error, LogError::Full);
    let wanted = rig.log.writer.wants_segment().unwrap();
    rig.dir.set_capacity(2 * (32 << 10));
    assert!(matches!(
        wanted.make(&rig.dir),
        Err(LogError::Disk(crate::disk::DiskError::Full))
    ));
    rig.dir.set_capacity(1 << 30);
    rig.log.writer.adopt(wanted.make(&rig.dir).unwrap());
    rig.settle().unwrap();
    assert_eq!(rig.says(), rig.now);
    assert_eq!(
        rig.reopen().says().0[&GroupId(1)].entries.len() as u64,
        index
    );
}

#[test]
fn extents_of_truncated_and_purged_entries_are_given_back_when_that_is_durable() {
    let mut rig = Rig::new(small());
    for index in 1..=4 {
        rig.push(entry(1, index, 1, extent(u32::try_from(index).unwrap())))
            .unwrap();
    }
    rig.turn().unwrap();
    rig.push(Record::Truncate {
        group: GroupId(1),
        from_index: 4,
    })
    .unwrap();
    rig.push(purge(1, 2)).unwrap();
    let settled = rig.turn().unwrap().unwrap();
    let numbers = |extents: &[ExtentRef]| extents.iter().map(|one| one.crc).collect::<Vec<_>>();
    assert_eq!(numbers(&settled.abandoned), [4]);
    assert_eq!(numbers(&settled.released), [1, 2]);
    assert_eq!(numbers(&rig.log.index.extents()), [3]);
    rig.push(Record::Destroy { group: GroupId(1) }).unwrap();
    assert_eq!(numbers(&rig.turn().unwrap().unwrap().released), [3]);
}

#[test]
fn a_log_from_a_later_start_is_refused() {
    let rig = Rig::new(small());
    let error = find(&rig.dir, &rig.config).start(&rig.dir, 1).err();
    assert_eq!(error, Some(LogError::BootBehind { found: 1, boot: 1 }));
}

#[test]
#[should_panic(expected = "no holes and no overlaps")]
fn a_hole_in_a_groups_log_is_a_broken_law() {
    let mut rig = Rig::new(small());
    rig.push(entry(1, 1, 1, PayloadRef::None)).unwrap();
    let _ = rig.push(entry(1, 3, 1, PayloadRef::None));
}

#[test]
#[should_panic(expected = "written once, to an extent")]
fn a_large_payload_in_the_log_is_a_broken_law() {
    let config = LogConfig {
        segment_bytes: 256 << 10,
        batch_bytes_max: 128 << 10,
        ..small()
    };
    let _ = Rig::new(config).push(entry(1, 1, 1, in_log(64 << 10, 1)));
}

#[test]
fn the_default_log_works_and_replays() {
    let config = LogConfig {
        segments_initial: 2,
        ..LogConfig::default()
    };
    let mut rig = Rig::new(config);
    for index in 1..=3000 {
        rig.push(entry(index % 7, index / 7 + 1, 1, in_log(40_000, 3)))
            .unwrap();
        if index % 64 == 0 {
            rig.turn().unwrap();
        }
    }
    rig.settle().unwrap();
    let says = rig.says();
    assert_eq!(says, rig.now);
    assert_eq!(rig.reopen().says(), says);
}
