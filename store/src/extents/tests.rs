//! The allocator against its laws: nobody is given a block that anybody may still refer to.

use std::collections::{BTreeMap, BTreeSet};

use super::allocator::{Allocator, Changes};
use super::run::BlockRun;
use crate::memory::Dice;

type Blocks = BTreeSet<(u32, u32)>;

fn blocks(run: BlockRun) -> impl Iterator<Item = (u32, u32)> {
    run.each().map(|one| (one.file, one.first))
}

/// Everything that may refer to a block, kept the slow way.
#[derive(Default)]
struct Oracle {
    /// What page maps refer to now, and did at each commit since.
    maps: Vec<BlockRun>,
    durable: Blocks,
    readers: Vec<(u64, Blocks)>,
    pins: Vec<BlockRun>,
}

impl Oracle {
    fn mapped(&self) -> Blocks {
        self.maps.iter().flat_map(|run| blocks(*run)).collect()
    }

    fn referred(&self) -> Blocks {
        let mut all = self.mapped();
        all.extend(&self.durable);
        all.extend(self.readers.iter().flat_map(|reader| &reader.1));
        all.extend(self.pins.iter().flat_map(|run| blocks(*run)));
        all
    }
}

fn step(dice: &mut Dice, space: &mut Allocator, oracle: &mut Oracle) {
    match dice.below(9) {
        0..3 => {
            let count = 1 + u32::try_from(dice.below(8)).unwrap();
            let Some(run) = space.take(count).or_else(|| space.take_some(count)) else {
                return;
            };
            let referred = oracle.referred();
            assert!(
                blocks(run).all(|block| !referred.contains(&block)),
                "{run:?} is referred to"
            );
            let mut changes = Changes::default();
            if dice.below(3) == 0 {
                space.pin(run);
                oracle.pins.push(run);
                if dice.below(2) == 0 {
                    return;
                }
            }
            space.map(run);
            changes.mapped.push(run);
            if dice.below(5) == 0 {
                return space.abort(changes);
            }
            oracle.maps.push(run);
            space.commit(changes);
        }
        3 | 4 if !oracle.maps.is_empty() => {
            let whole = oracle.maps.swap_remove(dice.below_len(oracle.maps.len()));
            let cut = whole.first + u32::try_from(dice.below(u64::from(whole.count))).unwrap();
            let kept = BlockRun {
                count: cut - whole.first,
                ..whole
            };
            let dropped = BlockRun {
                first: cut,
                count: whole.end() - cut,
                ..whole
            };
            if kept.count > 0 {
                oracle.maps.push(kept);
            }
            space.commit(Changes {
                mapped: vec![],
                dropped: vec![dropped],
            });
        }
        5 => {
            let epoch = space.freeze();
            oracle.durable = oracle.mapped();
            space.durable_through(epoch);
        }
        6 => oracle.readers.push((space.enter(), oracle.mapped())),
        7 if !oracle.readers.is_empty() => {
            let reader = oracle
                .readers
                .swap_remove(dice.below_len(oracle.readers.len()));
            space.leave(reader.0);
        }
        8 if !oracle.pins.is_empty() => {
            let pin = oracle.pins.swap_remove(dice.below_len(oracle.pins.len()));
            space.unpin(pin);
        }
        _ => {}
    }
}

#[test]
fn nothing_that_anybody_refers_to_is_given_out_and_all_else_comes_back() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let (mut space, mut oracle) = (Allocator::default(), Oracle::default());
        space.grow(0, 40);
        space.grow(1, 20);
        for _ in 0..150 {
            step(&mut dice, &mut space, &mut oracle);
        }
        for (epoch, _) in std::mem::take(&mut oracle.readers) {
            space.leave(epoch);
        }
        for pin in std::mem::take(&mut oracle.pins) {
            space.unpin(pin);
        }
        let epoch = space.freeze();
        space.durable_through(epoch);
        let used = oracle.mapped().len() as u64;
        assert_eq!(space.counts(), (60 - used, 60, 0), "seed {seed}");
    }
}

#[test]
fn what_is_derived_at_open_is_what_was_there() {
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let (mut space, mut oracle) = (Allocator::default(), Oracle::default());
        space.grow(0, 60);
        for _ in 0..100 {
            step(&mut dice, &mut space, &mut oracle);
        }
        let mut derived = Allocator::default();
        derived.add_file(0, 60);
        assert!(
            oracle.maps.iter().all(|run| derived.try_map(*run)),
            "seed {seed}"
        );
        let pins: BTreeMap<u32, BlockRun> =
            oracle.pins.iter().map(|run| (run.first, *run)).collect();
        for pin in pins.values() {
            assert!(derived.pin_fits(*pin), "seed {seed}");
            derived.pin(*pin);
        }
        derived.derive_free();
        let mut used = oracle.mapped();
        used.extend(oracle.pins.iter().flat_map(|run| blocks(*run)));
        assert_eq!(
            derived.counts(),
            (60 - used.len() as u64, 60, 0),
            "seed {seed}"
        );
        while let Some(run) = derived.take(1) {
            assert!(
                blocks(run).all(|block| !used.contains(&block)),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn two_page_maps_never_share_a_block() {
    let mut space = Allocator::default();
    space.add_file(0, 8);
    assert!(space.try_map(BlockRun {
        file: 0,
        first: 2,
        count: 3
    }));
    assert!(!space.try_map(BlockRun {
        file: 0,
        first: 4,
        count: 1
    }));
    assert!(
        !space.try_map(BlockRun {
            file: 0,
            first: 7,
            count: 2
        }),
        "nor lie past the end"
    );
    assert!(!space.try_map(BlockRun {
        file: 1,
        first: 0,
        count: 1
    }));
}

#[test]
fn small_runs_lie_side_by_side_and_not_in_holes() {
    let mut space = Allocator::default();
    space.grow(0, 1024);
    space.take(512).unwrap();
    for first in [10, 20, 30] {
        space.put_back(BlockRun {
            file: 0,
            first,
            count: 1,
        });
    }
    let runs: Vec<BlockRun> = (0..40).map(|_| space.take(2).unwrap()).collect();
    let adjacent = |pair: &[BlockRun]| pair[0].end() == pair[1].first;
    assert!(runs.windows(2).all(adjacent), "{runs:?}");
    let rest = space.take_some(1024).unwrap();
    assert_eq!(rest.first, runs[39].end());
    space.put_hole(rest);
    let singles: Vec<u32> = (0..3).map(|_| space.take(1).unwrap().first).collect();
    assert_eq!(singles, [10, 20, 30], "what is backed");
    assert_eq!(
        space.take(1).unwrap().first,
        rest.first,
        "and then what is not"
    );
}

#[test]
fn small_runs_fill_what_is_scattered_when_that_is_too_much() {
    let mut space = Allocator::default();
    space.grow(0, 1024);
    space.take(512).unwrap();
    for number in 0..130 {
        space.put_back(BlockRun {
            file: 0,
            first: number * 2,
            count: 1,
        });
    }
    let taken: Vec<u32> = (0..4).map(|_| space.take(1).unwrap().first).collect();
    assert_eq!(taken, [0, 2, 512, 513], "until an eighth is left");
}
