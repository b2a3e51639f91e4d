//! Runs of 4 KiB blocks, and sets of them.
//!
//! Owns the arithmetic of contiguous space. Deliberately knows nothing of what the blocks hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A run of contiguous 4 KiB blocks in one data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRun {
    /// Which data file.
    pub file: u32,
    /// The first block.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl BlockRun {
    pub(crate) fn end(self) -> u32 {
        self.first + self.count
    }

    pub(crate) fn blocks(self) -> Range<u32> {
        self.first..self.end()
    }

    /// Its blocks one by one.
    #[cfg(test)]
    pub(crate) fn each(self) -> impl Iterator<Item = Self> {
        self.blocks().map(move |first| Self {
            file: self.file,
            first,
            count: 1,
        })
    }

    fn part(self, range: Range<u32>) -> Option<Self> {
        (range.start < range.end).then(|| Self {
            file: self.file,
            first: range.start,
            count: range.end - range.start,
        })
    }
}

/// Runs of fewer blocks than this are short: too short to lay many small ones side by side in.
const SHORT: u32 = 8;

fn short(run: BlockRun) -> u64 {
    u64::from(if run.count < SHORT { run.count } else { 0 })
}

/// A set of blocks, kept as maximal runs, that finds the smallest run that is large enough.
#[derive(Debug, Default)]
pub(crate) struct RunSet {
    runs: BTreeMap<(u32, u32), u32>,
    by_size: BTreeSet<(u32, u32, u32)>,
    blocks: u64,
    short: u64,
}

impl RunSet {
    /// Blocks in it.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    fn link(&mut self, run: BlockRun) {
        self.runs.insert((run.file, run.first), run.count);
        self.by_size.insert((run.count, run.file, run.first));
        self.blocks += u64::from(run.count);
        self.short += short(run);
    }

    fn unlink(&mut self, run: BlockRun) {
        self.runs.remove(&(run.file, run.first));
        self.by_size.remove(&(run.count, run.file, run.first));
        self.blocks -= u64::from(run.count);
        self.short -= short(run);
    }

    /// The runs of this set that overlap `run`, whole.
    fn overlapping(&self, run: BlockRun) -> Vec<BlockRun> {
        let before = self
            .runs
            .range((run.file, 0)..(run.file, run.first))
            .next_back();
        let inside = self
            .runs
            .range((run.file, run.first)..(run.file, run.end()));
        before
            .into_iter()
            .chain(inside)
            .map(|(&(file, first), &count)| BlockRun { file, first, count })
            .filter(|found| found.end() > run.first)
            .collect()
    }

    /// The parts of `run` that are in this set.
    pub(crate) fn common(&self, run: BlockRun) -> Vec<BlockRun> {
        self.overlapping(run)
            .into_iter()
            .filter_map(|found| run.part(found.first.max(run.first)..found.end().min(run.end())))
            .collect()
    }

    /// Adds blocks.
    ///
    /// # Panics
    /// When one is in the set already: what is free twice would be given out twice.
    pub(crate) fn insert(&mut self, run: BlockRun) {
        assert!(
            self.overlapping(run).is_empty(),
            "{run:?} is freed only once"
        );
        let mut merged = run;
        let before = self
            .runs
            .range((run.file, 0)..(run.file, run.first))
            .next_back();
        if let Some((&(file, first), &count)) = before
            && first + count == run.first
        {
            self.unlink(BlockRun { file, first, count });
            merged.first = first;
            merged.count += count;
        }
        if let Some(&count) = self.runs.get(&(run.file, run.end())) {
            self.unlink(BlockRun {
                file: run.file,
                first: run.end(),
                count,
            });
            merged.count += count;
        }
        self.link(merged);
    }

    /// Removes those blocks of `run` that are in the set.
    pub(crate) fn remove(&mut self, run: BlockRun) {
        for found in self.overlapping(run) {
            self.unlink(found);
            let left = found.part(found.first..run.first.max(found.first));
            let right = found.part(run.end().min(found.end())..found.end());
            for rest in left.into_iter().chain(right) {
                self.link(rest);
            }
        }
    }

    /// Takes `count` contiguous blocks from the smallest run that has them.
    pub(crate) fn take(&mut self, count: u32) -> Option<BlockRun> {
        let &(_, file, first) = self.by_size.range((count, 0, 0)..).next()?;
        let run = BlockRun { file, first, count };
        self.remove(run);
        Some(run)
    }

    /// The first `count` blocks of the smallest run that is not [`SHORT`].
    pub(crate) fn roomy(&self, count: u32) -> Option<BlockRun> {
        let &(_, file, first) = self.by_size.range((count.max(SHORT), 0, 0)..).next()?;
        Some(BlockRun { file, first, count })
    }

    /// Blocks in runs that are [`SHORT`].
    pub(crate) fn in_short_runs(&self) -> u64 {
        self.short
    }

    /// Whether all of a run is in the set.
    pub(crate) fn has_all(&self, run: BlockRun) -> bool {
        let whole = |found: &BlockRun| found.first <= run.first && run.end() <= found.end();
        self.overlapping(run).first().is_some_and(whole)
    }

    /// Takes up to `count` blocks from the largest run.
    pub(crate) fn take_some(&mut self, count: u32) -> Option<BlockRun> {
        let &(largest, ..) = self.by_size.last()?;
        self.take(largest.min(count))
    }

    /// The largest run, cut to `count` blocks; stays in the set.
    pub(crate) fn largest(&self, count: u32) -> Option<BlockRun> {
        let &(largest, file, first) = self.by_size.last()?;
        Some(BlockRun {
            file,
            first,
            count: largest.min(count),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Dice;

    #[test]
    fn it_agrees_with_a_plain_set() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut below = |bound: u64| u32::try_from(dice.below(bound)).unwrap();
            let (mut set, mut plain) = (RunSet::default(), BTreeSet::new());
            for _ in 0..200 {
                let run = BlockRun {
                    file: below(2),
                    first: below(60),
                    count: 1 + below(8),
                };
                let inside: Vec<_> = run
                    .each()
                    .filter(|one| plain.contains(&(one.file, one.first)))
                    .collect();
                let common: u32 = set.common(run).iter().map(|part| part.count).sum();
                assert_eq!(common as usize, inside.len(), "seed {seed}");
                match below(3) {
                    0 if inside.is_empty() => {
                        set.insert(run);
                        plain.extend(run.each().map(|one| (one.file, one.first)));
                    }
                    1 => {
                        set.remove(run);
                        for one in run.each() {
                            plain.remove(&(one.file, one.first));
                        }
                    }
                    _ => {
                        let taken = set.take(run.count);
                        for one in taken.iter().flat_map(|run| run.each()) {
                            assert!(plain.remove(&(one.file, one.first)), "seed {seed}");
                        }
                    }
                }
                assert_eq!(set.blocks(), plain.len() as u64, "seed {seed}");
                assert_eq!(set.runs.len(), set.by_size.len(), "seed {seed}");
                let short = set.runs.values().filter(|count| **count < SHORT);
                let short: u32 = short.sum();
                assert_eq!(set.in_short_runs(), u64::from(short), "seed {seed}");
            }
        }
    }
}
