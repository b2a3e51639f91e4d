//! Bits that flip in what was acknowledged.

use super::*;
use crate::disk::Dir as _;
use crate::wal::scan::{Place, scan};
use crate::wal::segment::open_all;
use crate::wal::{Affected, Verdict};

/// A log with some history, idle, and the batches it needs.
fn grown(seed: u64) -> (MemoryDir, LogConfig, Vec<Place>) {
    let mut dice = Dice::new(seed);
    let mut rig = Rig::new(small());
    for _ in 0..60 {
        random_step(&mut rig, &mut dice).unwrap();
    }
    rig.settle().unwrap();
    let files = open_all(&rig.dir).unwrap().unwrap().files;
    let scan = scan(&files).unwrap();
    let floor = scan
        .batches
        .values()
        .map(|place| place.header.floor)
        .max()
        .unwrap();
    let batches = scan
        .batches
        .range(floor..=scan.mark)
        .map(|(_, place)| *place)
        .collect();
    (rig.dir, rig.config, batches)
}

/// Flips one bit of the header or the records of a batch; the bytes that no checksum covers are left alone.
fn flip_in(dir: &MemoryDir, place: &Place, dice: &mut Dice) -> usize {
    let bytes = crate::wal::batch::BATCH_HEADER_BYTES + place.header.body_len();
    let within = dice.below_len(bytes);
    let offset = usize::try_from(place.header.offset).unwrap() + within;
    dir.flip(
        &place.header.segment.to_string(),
        offset,
        1 << dice.below(8),
    );
    within
}

#[test]
fn a_flipped_bit_below_the_mark_is_corruption_never_a_torn_tail() {
    let (mut all, mut some) = (0, 0);
    for seed in seeds(1500) {
        let (dir, config, batches) = grown(seed);
        let sound = recovered_model(&find(&dir, &config));
        let mut dice = Dice::new(seed);
        let place = batches[dice.below_len(batches.len())];
        flip_in(&dir, &place, &mut dice);
        let recovery = find(&dir, &config);
        if recovery.report.verdict == Verdict::Clean {
            // It hit a record of a group that was destroyed later.
            assert_eq!(
                recovered_model(&recovery),
                sound,
                "seed {seed}: a flip went unseen"
            );
            continue;
        }
        let Verdict::Corrupt { affected, sequence } = recovery.report.verdict else {
            panic!(
                "seed {seed}: a flip in batch {} taken for a cut",
                place.header.sequence
            );
        };
        assert_eq!(sequence, place.header.sequence, "seed {seed}");
        match affected {
            Affected::All => {
                all += 1;
                assert!(matches!(
                    find(&dir, &config).start(&dir, 99),
                    Err(LogError::Corrupt)
                ));
            }
            Affected::Groups(groups) => {
                some += 1;
                go_on_without(&dir, &config, &groups, sound, seed);
            }
        }
    }
    assert!(
        seeds(1500).count() < 1500 || (all > 50 && some > 50),
        "both occur: {all} {some}"
    );
}

/// The unaffected groups are whole, and once the affected ones are destroyed the damage no longer counts.
fn go_on_without(
    dir: &MemoryDir,
    config: &LogConfig,
    groups: &std::collections::BTreeSet<GroupId>,
    mut sound: Model,
    seed: u64,
) {
    let mut rig = Rig::open(dir.clone(), config.clone(), 99, Model::default()).unwrap();
    for group in groups {
        sound.0.remove(group);
        rig.push(Record::Destroy { group: *group }).unwrap();
    }
    rig.settle().unwrap();
    assert_eq!(rig.says(), sound, "seed {seed}");
    let recovery = find(dir, config);
    assert_eq!(recovery.report.verdict, Verdict::Clean, "seed {seed}");
    assert_eq!(recovered_model(&recovery), sound, "seed {seed}");
}

#[test]
fn a_flip_in_the_very_last_batch_is_a_torn_tail_if_no_mark_followed() {
    for seed in 0..100 {
        let mut rig = Rig::new(small());
        for index in 1..5 {
            rig.push(entry(1, index, 1, in_log(300, 7))).unwrap();
            rig.turn().unwrap();
        }
        let files = open_all(&rig.dir).unwrap().unwrap().files;
        let last = *scan(&files).unwrap().batches.last_key_value().unwrap().1;
        flip_in(&rig.dir, &last, &mut Dice::new(seed));
        let report = report(&rig.dir, &rig.config);
        assert_eq!(report.verdict, Verdict::TornTail, "seed {seed}");
        assert_eq!(report.groups[&GroupId(1)].entries.unwrap().last, 3);
        assert_eq!(report.next_sequence, last.header.sequence);
    }
}

#[test]
fn a_lost_segment_and_a_damaged_segment_header_are_corruption() {
    let (dir, config, batches) = grown(1);
    let needed = batches[0].header.segment.to_string();
    let image = dir.image(&needed);
    let affected = Affected::All;
    dir.put_image(&needed, {
        let mut zeros = image.clone();
        zeros[4096..].fill(0);
        zeros
    });
    let sequence = batches[0].header.sequence;
    assert_eq!(
        report(&dir, &config).verdict,
        Verdict::Corrupt {
            sequence,
            affected: affected.clone()
        }
    );
    dir.put_image(&needed, image);
    assert_eq!(report(&dir, &config).verdict, Verdict::Clean);
    dir.flip(&needed, 17, 1);
    assert_eq!(
        report(&dir, &config).verdict,
        Verdict::Corrupt {
            sequence: 0,
            affected
        }
    );
}

#[test]
fn any_segment_that_is_missing_below_another_is_corruption_unless_nothing_was_ever_written() {
    let (dir, config, _) = grown(1);
    assert_eq!(report(&dir, &config).verdict, Verdict::Clean);
    let count = report(&dir, &config).segments;
    for lost in 1..count {
        let (dir, config, _) = grown(1);
        dir.remove(&format!("log-{lost:04}")).unwrap();
        assert!(
            matches!(
                report(&dir, &config).verdict,
                Verdict::Corrupt {
                    affected: Affected::All,
                    ..
                }
            ),
            "segment {lost} of {count}"
        );
    }
    // A power cut can leave a creation like this: it is completed.
    let dir = MemoryDir::new(1);
    create(&dir, &config, LIFE).unwrap();
    dir.remove("log-0002").unwrap();
    let found = find(&dir, &config);
    assert_eq!((found.report.boot, found.report.segments), (0, 2));
    drop(found.start(&dir, 1).unwrap());
    let again = report(&dir, &config);
    assert_eq!((again.verdict, again.segments), (Verdict::Clean, 3));
}

#[test]
fn a_batch_of_another_life_or_at_another_place_is_none() {
    let mut rig = Rig::new(small());
    rig.push(vote(1, "mine")).unwrap();
    rig.settle().unwrap();
    let image = rig.dir.image("log-0001");
    // The same bytes one block further on, and in another segment: misdirected writes.
    let mut moved = rig.dir.image("log-0002");
    moved[8192..24_576].copy_from_slice(&image[4096..20_480]);
    rig.dir.put_image("log-0002", moved);
    assert_eq!(report(&rig.dir, &rig.config).verdict, Verdict::Clean);
    // A new log over the content of the old one.
    let other = MemoryDir::new(1);
    create(&other, &rig.config, LIFE + 1).unwrap();
    let mut mixed = other.image("log-0001");
    mixed[4096..].copy_from_slice(&image[4096..]);
    other.put_image("log-0001", mixed);
    let report = report(&other, &rig.config);
    assert!(report.groups.is_empty() && report.next_sequence == 1);
}
