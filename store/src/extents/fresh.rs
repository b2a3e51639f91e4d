//! Blocks of fresh pages that are in memory alone until a checkpoint writes them.
//!
//! ```text
//!   put ─▶ waiting ─freeze─▶ writing ─write_fresh─▶ on the disk (synced before the durable commit, rule 2)
//!             └─dropped before the freeze─▶ doomed: readers may still look, no checkpoint needs it
//! ```
//! A small overwrite is in the log, and until the next checkpoint nothing durable refers to its pages: so they need not
//! be on the disk, and those that are overwritten again before it never go there. Owns their bytes and which of them a
//! checkpoint has to write. Deliberately knows no page map; when a block is free again the allocator says so.

use std::collections::BTreeMap;

use bytes::Bytes;
use polyfs_core::limits::PAGE_BYTES;

use super::files::DataFiles;
use super::run::BlockRun;
use crate::aligned::AlignedBuffer;
use crate::disk::Dir;
use crate::state::StoreError;

/// Blocks written at once at most: 1 MiB.
const WRITE_BLOCKS_MAX: u32 = 256;
/// A longer run is worth a write of its own, and not the memory.
const RUN_BLOCKS_MAX: u32 = 16;

type Blocks = BTreeMap<(u32, u32), Bytes>;

/// The bytes of blocks that the disk does not hold yet.
#[derive(Debug, Default)]
pub(crate) struct FreshBlocks {
    /// Put since the last freeze.
    waiting: Blocks,
    /// What the checkpoint under way writes; what one that failed did not.
    writing: Blocks,
    /// No page map names them since before a freeze.
    doomed: Blocks,
}

fn within(blocks: &Blocks, run: BlockRun) -> impl Iterator<Item = (u32, &Bytes)> {
    let range = blocks.range((run.file, run.first)..(run.file, run.end()));
    range.map(|(&(_, block), bytes)| (block, bytes))
}

fn take_out(blocks: &mut Blocks, run: BlockRun) -> Vec<((u32, u32), Bytes)> {
    if blocks.is_empty() {
        return Vec::new();
    }
    let range = (run.file, run.first)..(run.file, run.end());
    blocks.extract_if(range, |_, _| true).collect()
}

impl FreshBlocks {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.writing.len() + self.doomed.len()
    }

    /// Whether there is one of these.
    pub(crate) fn has_any_of(&self, run: BlockRun) -> bool {
        let all = [&self.waiting, &self.writing, &self.doomed];
        all.into_iter()
            .any(|blocks| within(blocks, run).next().is_some())
    }

    fn put(&mut self, run: BlockRun, mut bytes: Bytes) {
        for block in run.blocks() {
            // What is left of a buffer of several blocks must not keep all of it.
            let own = match run.count {
                1 => std::mem::take(&mut bytes),
                _ => Bytes::copy_from_slice(&bytes.split_to(PAGE_BYTES)),
            };
            self.waiting.insert((run.file, block), own);
        }
    }

    /// No page map names these any more, as of a commit that no checkpoint has yet.
    pub(crate) fn dropped(&mut self, run: BlockRun) {
        let doomed = take_out(&mut self.waiting, run);
        self.doomed.extend(doomed);
    }

    /// These are free: nobody looks at them any more.
    pub(crate) fn forget(&mut self, run: BlockRun) {
        for blocks in [&mut self.waiting, &mut self.writing, &mut self.doomed] {
            take_out(blocks, run);
        }
    }

    /// What has been put so far is the checkpoint's to write.
    pub(crate) fn freeze(&mut self) {
        self.writing.append(&mut self.waiting);
    }

    /// Those of a run that are here, with their place in it.
    pub(crate) fn of(&self, run: BlockRun) -> Vec<(usize, Bytes)> {
        let all = [&self.waiting, &self.writing, &self.doomed].into_iter();
        let found = all.flat_map(|blocks| within(blocks, run));
        let placed = found.map(|(block, bytes)| {
            let place = usize::try_from(block - run.first).expect("a run fits memory");
            (place, bytes.clone())
        });
        placed.collect()
    }

    /// The next run that has to be written, from `(file, block)` on.
    fn next(&self, from: (u32, u32)) -> Option<(BlockRun, Vec<Bytes>)> {
        let mut blocks = self.writing.range(from..);
        let (&(file, first), bytes) = blocks.next()?;
        let (mut run, mut all) = (
            BlockRun {
                file,
                first,
                count: 1,
            },
            vec![bytes.clone()],
        );
        for (&next, bytes) in blocks {
            if next != (file, run.end()) || run.count == WRITE_BLOCKS_MAX {
                break;
            }
            run.count += 1;
            all.push(bytes.clone());
        }
        Some((run, all))
    }
}

impl<D: Dir> DataFiles<D> {
    /// Puts whole blocks where a page map will name them: into memory while there is room, for the next checkpoint to
    /// write, else on the disk. Space that the filesystem has to find first is written at once: a full disk has to show
    /// while it can still be answered.
    pub(super) fn put_blocks(&self, run: BlockRun, bytes: Bytes) -> Result<(), StoreError> {
        {
            let mut space = self.space();
            let room = (space.fresh.len() + run.count as usize) * PAGE_BYTES;
            let small = run.count <= RUN_BLOCKS_MAX && room <= self.fresh_bytes_max();
            if small && !space.is_unbacked(run) {
                space.fresh.put(run, bytes);
                return Ok(());
            }
        }
        let mut buffer = AlignedBuffer::new(bytes.len());
        buffer.extend(&bytes);
        self.write_blocks(run, buffer.as_slice())
    }

    /// Writes what was put before the last freeze, sorted and joined; durable with the next sync.
    ///
    /// # Errors
    /// Failures of the disk; what is not written stays in memory.
    pub(crate) fn write_fresh(&self) -> Result<(), StoreError> {
        let mut buffer = AlignedBuffer::new(PAGE_BYTES);
        let mut from = (0, 0);
        loop {
            let next = self.space().fresh.next(from);
            let Some((run, blocks)) = next else {
                return Ok(());
            };
            buffer.clear();
            for block in &blocks {
                buffer.extend(block);
            }
            self.write_blocks(run, buffer.as_slice())?;
            take_out(&mut self.space().fresh.writing, run);
            from = (run.file, run.end());
        }
    }

    /// About how many bytes of fresh pages are in memory alone.
    pub(crate) fn fresh_bytes(&self) -> usize {
        self.space().fresh.len() * PAGE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u32, count: u32) -> BlockRun {
        BlockRun {
            file: 0,
            first,
            count,
        }
    }

    fn bytes(fill: &[u8]) -> Bytes {
        let blocks = fill.iter().flat_map(|byte| [*byte; PAGE_BYTES]);
        blocks.collect::<Vec<_>>().into()
    }

    fn to_write(fresh: &FreshBlocks) -> Vec<(BlockRun, Vec<u8>)> {
        let (mut all, mut from) = (vec![], (0, 0));
        while let Some((run, blocks)) = fresh.next(from) {
            from = (run.file, run.end());
            all.push((run, blocks.iter().map(|block| block[0]).collect()));
        }
        all
    }

    #[test]
    fn what_is_overwritten_before_the_freeze_is_never_written_and_the_rest_is_joined() {
        let mut fresh = FreshBlocks::default();
        fresh.put(run(10, 3), bytes(&[1, 2, 3]));
        fresh.put(run(13, 1), bytes(&[4]));
        fresh.put(run(20, 1), bytes(&[5]));
        fresh.dropped(run(11, 1));
        fresh.freeze();
        fresh.dropped(run(13, 1));
        fresh.put(run(14, 1), bytes(&[6]));
        let expected = [
            (run(10, 1), vec![1]),
            (run(12, 2), vec![3, 4]),
            (run(20, 1), vec![5]),
        ];
        assert_eq!(to_write(&fresh), expected);
        let found = fresh.of(run(9, 6)).into_iter();
        let mut found: Vec<_> = found.map(|(place, bytes)| (place, bytes[0])).collect();
        found.sort_unstable();
        assert_eq!(found, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6)]);
        fresh.forget(run(0, 100));
        assert!(fresh.len() == 0 && !fresh.has_any_of(run(0, 100)));
    }
}
