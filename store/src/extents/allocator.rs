//! Which blocks are free, and when a dropped one may be written again (P10, rule 3).
//!
//! ```text
//!   free ──take──▶ mapped ──retire──▶ retired (still mapped) ──durable + no older reader──▶ free, or only pinned
//!     ▲    └─────▶ pinned ──last unpin, not mapped──────────────────────────────────────────┘
//! ```
//! Owns the free map in memory, derived at each open from the durable page maps and the unpurged log: there is no
//! stored free list to go stale. Beside it, bytes that are not on the disk yet. Every commit that drops blocks ends an *epoch*; readers and snapshots enter the
//! current one, and what was dropped in an epoch waits for all who entered it or an earlier one. Deliberately does
//! no I/O.

use std::collections::{BTreeMap, VecDeque};

use super::fresh::FreshBlocks;
use super::run::{BlockRun, RunSet};

/// So few blocks, taken one after another, are laid side by side: what a checkpoint writes of them is one write then.
const SMALL: u32 = 16;
/// ... while no more than one in so many blocks lies free in runs that are too short for that: then these are filled.
const SCATTERED: u64 = 8;

/// What one write transaction does to the blocks; settled when it commits or is dropped.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Blocks that came into a page map: fresh pages, and those of a log record's extent.
    pub(crate) mapped: Vec<BlockRun>,
    /// Blocks that fell out of one.
    pub(crate) dropped: Vec<BlockRun>,
}

#[derive(Debug)]
struct Retired {
    epoch: u64,
    run: BlockRun,
}

#[derive(Debug, Default)]
struct Bits {
    words: Vec<u64>,
    blocks: u32,
}

impl Bits {
    fn word(&mut self, block: u32) -> (&mut u64, u64) {
        (&mut self.words[(block / 64) as usize], 1 << (block % 64))
    }

    fn has(&self, block: u32) -> bool {
        self.words[(block / 64) as usize] >> (block % 64) & 1 == 1
    }
}

/// The state of every block of all data files.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    mapped: BTreeMap<u32, Bits>,
    /// Of all files.
    blocks: u64,
    mapped_blocks: u64,
    free: RunSet,
    unpunched: RunSet,
    /// Free blocks whose space this process has given back to the filesystem.
    holes: RunSet,
    /// Blocks that were holes when they were taken and were not written since.
    unbacked: RunSet,
    /// Blocks that this process has not written since it opened, grew or punched them.
    raw: RunSet,
    /// Bytes that are not on the disk yet.
    pub(super) fresh: FreshBlocks,
    pins: BTreeMap<(u32, u32), (u32, u32)>,
    retired: VecDeque<Retired>,
    retired_blocks: u64,
    epoch: u64,
    durable_epoch: u64,
    readers: BTreeMap<u64, u32>,
    withhold: bool,
    /// Behind the last small run that was taken.
    beside: Option<(u32, u32)>,
}

impl Allocator {
    /// Gives out no block that exists when this is called: something unreadable may refer to any of them.
    pub(crate) fn withhold(&mut self) {
        self.withhold = true;
    }

    /// Learns of a data file that was there at open, all of it unknown yet.
    pub(crate) fn add_file(&mut self, file: u32, blocks: u32) {
        let words = vec![0; blocks.div_ceil(64) as usize];
        self.mapped.insert(file, Bits { words, blocks });
        self.blocks += u64::from(blocks);
    }

    /// Blocks of a file.
    pub(crate) fn file_blocks(&self, file: u32) -> u32 {
        self.mapped.get(&file).map_or(0, |bits| bits.blocks)
    }

    /// The highest file, if there is one.
    pub(crate) fn last_file(&self) -> Option<u32> {
        self.mapped.keys().next_back().copied()
    }

    /// Whether the run lies inside its file.
    pub(crate) fn exists(&self, run: BlockRun) -> bool {
        run.first
            .checked_add(run.count)
            .is_some_and(|end| end <= self.file_blocks(run.file))
    }

    /// Ends the derivation at open: what is neither mapped nor pinned is free.
    pub(crate) fn derive_free(&mut self) {
        let files: Vec<BlockRun> = self
            .mapped
            .iter()
            .map(|(file, bits)| BlockRun {
                file: *file,
                first: 0,
                count: bits.blocks,
            })
            .collect();
        for whole in files.iter().filter(|whole| whole.count > 0) {
            self.raw.insert(*whole);
        }
        if self.withhold {
            return;
        }
        for whole in files {
            self.free_unless_used(whole);
        }
    }

    /// A file has grown: the new blocks are free.
    pub(crate) fn grow(&mut self, file: u32, blocks: u32) {
        let bits = self.mapped.entry(file).or_default();
        let old = bits.blocks;
        assert!(old < blocks, "files only grow");
        bits.blocks = blocks;
        self.blocks += u64::from(blocks - old);
        bits.words.resize(blocks.div_ceil(64) as usize, 0);
        let grown = BlockRun {
            file,
            first: old,
            count: blocks - old,
        };
        self.free.insert(grown);
        self.raw.insert(grown);
    }

    /// Takes contiguous blocks; they are in nobody's hands until mapped or pinned.
    pub(crate) fn take(&mut self, count: u32) -> Option<BlockRun> {
        let run = match self.beside(count) {
            Some(run) => {
                self.free.remove(run);
                self.beside = Some((run.file, run.end()));
                run
            }
            None => self.free.take(count)?,
        };
        self.taken(run);
        Some(run)
    }

    /// Where a small run lies beside the last, or in a row of its own. Not in holes: their space may be gone.
    fn beside(&self, count: u32) -> Option<BlockRun> {
        if count > SMALL || self.free.in_short_runs() > self.blocks / SCATTERED {
            return None;
        }
        let backed = |run: &BlockRun| self.holes.common(*run).is_empty();
        let next = self
            .beside
            .map(|(file, first)| BlockRun { file, first, count });
        next.filter(|run| self.free.has_all(*run) && backed(run))
            .or_else(|| self.free.roomy(count).filter(backed))
    }

    /// Takes up to `count` blocks, as many as one run has.
    pub(crate) fn take_some(&mut self, count: u32) -> Option<BlockRun> {
        let run = self.free.take_some(count)?;
        self.taken(run);
        Some(run)
    }

    fn taken(&mut self, run: BlockRun) {
        assert!(
            !self.fresh.has_any_of(run),
            "{run:?}: what is free is not in memory"
        );
        self.unpunched.remove(run);
        for hole in self.holes.common(run) {
            self.holes.remove(hole);
            self.unbacked.insert(hole);
        }
    }

    /// Whether the filesystem may have to find room for some of it.
    pub(crate) fn is_unbacked(&self, run: BlockRun) -> bool {
        !self.unbacked.common(run).is_empty()
    }

    /// Whether some of it was not written by this process yet: the filesystem may have something to do first.
    pub(crate) fn is_raw(&self, run: BlockRun) -> bool {
        !self.raw.common(run).is_empty()
    }

    /// Blocks were written: the filesystem has room for them.
    pub(crate) fn written(&mut self, run: BlockRun) {
        self.unbacked.remove(run);
        self.raw.remove(run);
    }

    /// Puts blocks back that were taken and never mapped or pinned.
    pub(crate) fn put_back(&mut self, run: BlockRun) {
        self.free.insert(run);
        for hole in self.unbacked.common(run) {
            self.unbacked.remove(hole);
            self.holes.insert(hole);
        }
    }

    /// A page map refers to these blocks from now on.
    ///
    /// # Panics
    /// When one already does, or they are free: a block belongs to one page map.
    pub(crate) fn map(&mut self, run: BlockRun) {
        assert!(
            self.free.common(run).is_empty(),
            "{run:?} is held before a page map takes it"
        );
        assert!(
            self.try_map(run),
            "{run:?}: a block belongs to one page map"
        );
    }

    /// As [`Self::map`] for page maps read at open; false when another one has a block of it, or it does not exist.
    pub(crate) fn try_map(&mut self, run: BlockRun) -> bool {
        if !self.exists(run) {
            return false;
        }
        let bits = self.mapped.get_mut(&run.file).expect("the run exists");
        if run.blocks().any(|block| bits.has(block)) {
            return false;
        }
        for block in run.blocks() {
            let (word, bit) = bits.word(block);
            *word |= bit;
        }
        self.mapped_blocks += u64::from(run.count);
        true
    }

    fn unmap(&mut self, run: BlockRun) {
        let bits = self
            .mapped
            .get_mut(&run.file)
            .expect("what is mapped exists");
        for block in run.blocks() {
            let (word, bit) = bits.word(block);
            assert!(*word & bit != 0, "{run:?} is unmapped only once");
            *word &= !bit;
        }
        self.mapped_blocks -= u64::from(run.count);
        self.fresh.forget(run);
        self.free_unless_used(run);
    }

    /// Frees those blocks of `run` that are neither mapped nor pinned.
    fn free_unless_used(&mut self, run: BlockRun) {
        let bits = &self.mapped[&run.file];
        let pinned = self.pinned_parts(run);
        let mut start = run.first;
        let mut unused = Vec::new();
        for block in run.blocks() {
            let used = bits.has(block) || pinned.iter().any(|pin| pin.blocks().contains(&block));
            if used {
                unused.push(start..block);
                start = block + 1;
            }
        }
        unused.push(start..run.end());
        for part in unused.into_iter().filter(|part| !part.is_empty()) {
            let part = BlockRun {
                file: run.file,
                first: part.start,
                count: part.end - part.start,
            };
            self.put_back(part);
            self.unpunched.insert(part);
            for hole in self.holes.common(part) {
                self.unpunched.remove(hole);
            }
        }
    }

    fn pinned_parts(&self, run: BlockRun) -> Vec<BlockRun> {
        if cfg!(planted = "space_reused_under_record") {
            return Vec::new();
        }
        let before = self
            .pins
            .range((run.file, 0)..(run.file, run.first))
            .next_back();
        let inside = self
            .pins
            .range((run.file, run.first)..(run.file, run.end()));
        before
            .into_iter()
            .chain(inside)
            .map(|(&(file, first), &(count, _))| BlockRun { file, first, count })
            .filter(|pin| pin.end() > run.first)
            .collect()
    }

    /// A batch has become visible: what it dropped waits for the next durable commit and for today's readers.
    pub(crate) fn commit(&mut self, changes: Changes) {
        if changes.dropped.is_empty() {
            return;
        }
        let epoch = self.epoch;
        for run in changes.dropped {
            self.fresh.dropped(run);
            self.retired_blocks += u64::from(run.count);
            self.retired.push_back(Retired { epoch, run });
        }
        self.epoch += 1;
        self.release();
    }

    /// A batch was given up: what it took is free again at once, nothing durable or visible ever referred to it.
    pub(crate) fn abort(&mut self, changes: Changes) {
        for run in changes.mapped {
            self.unmap(run);
        }
    }

    /// A durable commit of what is visible now begins: the epoch that it ends with.
    pub(crate) fn freeze(&mut self) -> u64 {
        self.fresh.freeze();
        self.epoch
    }

    /// Everything dropped before `epoch` is dropped durably.
    pub(crate) fn durable_through(&mut self, epoch: u64) {
        self.durable_epoch = self.durable_epoch.max(epoch);
        self.release();
    }

    /// Rule 3.
    fn release(&mut self) {
        let readers = !cfg!(planted = "space_reused_under_reader");
        let oldest_reader = self.readers.keys().next().filter(|_| readers);
        let oldest_reader = oldest_reader.copied().unwrap_or(u64::MAX);
        let durable = if cfg!(planted = "space_reused_before_checkpoint") {
            u64::MAX
        } else {
            self.durable_epoch
        };
        let reusable = durable.min(oldest_reader);
        while self
            .retired
            .front()
            .is_some_and(|retired| retired.epoch < reusable)
        {
            let retired = self.retired.pop_front().expect("the front is there");
            self.retired_blocks -= u64::from(retired.run.count);
            self.unmap(retired.run);
        }
    }

    /// A reader enters: nothing that it can see is reused until it leaves.
    pub(crate) fn enter(&mut self) -> u64 {
        *self.readers.entry(self.epoch).or_default() += 1;
        self.epoch
    }

    /// A reader leaves the epoch it entered.
    pub(crate) fn leave(&mut self, epoch: u64) {
        let readers = self.readers.get_mut(&epoch).expect("a reader leaves once");
        *readers -= 1;
        if *readers == 0 {
            self.readers.remove(&epoch);
            self.release();
        }
    }

    /// Holds the blocks of an extent; extents never overlap.
    pub(crate) fn pin(&mut self, run: BlockRun) {
        let pin = self
            .pins
            .entry((run.file, run.first))
            .or_insert((run.count, 0));
        assert_eq!(pin.0, run.count, "pins of one place hold the same extent");
        pin.1 += 1;
    }

    /// Whether an extent is held.
    pub(crate) fn is_pinned(&self, run: BlockRun) -> bool {
        self.pins
            .get(&(run.file, run.first))
            .is_some_and(|pin| pin.0 == run.count)
    }

    /// Whether blocks belong to a held extent.
    pub(crate) fn lies_in_a_pin(&self, run: BlockRun) -> bool {
        let at_or_before = self
            .pins
            .range((run.file, 0)..=(run.file, run.first))
            .next_back();
        at_or_before.is_some_and(|(&(_, first), &(count, _))| first + count >= run.end())
    }

    /// Whether blocks are marked by pins and maps in a way that a new pin at open would contradict.
    pub(crate) fn pin_fits(&self, run: BlockRun) -> bool {
        self.exists(run) && self.pinned_parts(run).into_iter().all(|pin| pin == run)
    }

    /// One holder less; after the last, what no page map refers to is free.
    pub(crate) fn unpin(&mut self, run: BlockRun) {
        let key = (run.file, run.first);
        let pin = self.pins.get_mut(&key).expect("a pin is dropped once");
        pin.1 -= 1;
        if pin.1 > 0 {
            return;
        }
        self.pins.remove(&key);
        if self.withhold {
            return;
        }
        let already_free = self.free.common(run);
        let planted = cfg!(planted = "space_reused_under_record");
        assert!(planted || already_free.is_empty(), "{run:?}: a pin holds");
        for part in already_free {
            self.free.remove(part);
            self.unpunched.remove(part);
        }
        self.free_unless_used(run);
    }

    /// Sets a free run aside whose space was not given back yet, at most `count` blocks and at least `least`.
    pub(crate) fn take_unpunched(&mut self, count: u32, least: u32) -> Option<BlockRun> {
        let run = self
            .unpunched
            .largest(count)
            .filter(|run| run.count >= least)?;
        self.free.remove(run);
        self.unpunched.remove(run);
        Some(run)
    }

    /// Puts a run back whose space the filesystem has now.
    pub(crate) fn put_hole(&mut self, run: BlockRun) {
        self.put_back(run);
        self.holes.insert(run);
        self.raw.remove(run);
        self.raw.insert(run);
    }

    /// Free blocks that are holes.
    pub(crate) fn holes(&self) -> u64 {
        self.holes.blocks()
    }

    /// Whether so much is free, in pieces, that small writes fill them rather than let the files grow.
    pub(crate) fn has_spare_pieces(&self) -> bool {
        let (free, all, _) = self.counts();
        free > all / 8
    }

    /// Blocks that are in use for their pins alone.
    pub(crate) fn only_pinned(&self) -> u64 {
        if self.withhold {
            return 0;
        }
        let (free, all, _) = self.counts();
        all - free - self.mapped_blocks
    }

    /// Blocks free, in all, and waiting for rule 3.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        (self.free.blocks(), self.blocks, self.retired_blocks)
    }
}
