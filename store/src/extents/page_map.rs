//! The page map of one chunk: which of its pages lie where, each with its checksum.
//!
//! Owns the stored form and the edits in memory. A page that no piece covers was never written and reads as zeros. The
//! checksum of a page covers (lineage, chunk key, page number, bytes), so a page that was read from the wrong place,
//! belongs to another chunk or is an older one of the same chunk does not pass. Deliberately does no I/O.

use std::collections::BTreeSet;
use std::ops::Range;

use polyfs_core::codec::{self, DecodeError};
use polyfs_core::ids::Lineage;
use polyfs_core::limits::{CHUNK_BYTES, PAGE_BYTES};
use serde::{Deserialize, Serialize};

use super::checksum::Crc;
use super::run::BlockRun;

/// Pages in a chunk.
pub const PAGES_PER_CHUNK: u16 = 256;
const _: () = assert!(PAGES_PER_CHUNK as u64 * PAGE_BYTES as u64 == CHUNK_BYTES);

const VERSION: u8 = 1;

/// A run of pages in a run of blocks, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Its first page in the chunk.
    pub page: u8,
    /// The data file.
    pub file: u32,
    /// The block of its first page there.
    pub block: u32,
    /// CRC32C of each page, little endian; as many as it has pages.
    pub crcs: Vec<[u8; 4]>,
}

impl Piece {
    /// Its pages in the chunk.
    #[must_use]
    pub fn pages(&self) -> Range<u16> {
        let count = u16::try_from(self.crcs.len()).expect("a piece fits its chunk");
        u16::from(self.page)..u16::from(self.page) + count
    }

    /// Its blocks.
    #[must_use]
    pub fn run(&self) -> BlockRun {
        let count = u32::try_from(self.crcs.len()).expect("a piece fits its chunk");
        BlockRun {
            file: self.file,
            first: self.block,
            count,
        }
    }

    /// The part of it in `pages`; None when there is none.
    #[must_use]
    pub fn part(&self, pages: &Range<u16>) -> Option<Self> {
        let own = self.pages();
        let start = own.start.max(pages.start);
        let end = own.end.min(pages.end);
        if start >= end {
            return None;
        }
        let skip = start - own.start;
        Some(Self {
            page: u8::try_from(start).expect("a page lies in its chunk"),
            file: self.file,
            block: self.block + u32::from(skip),
            crcs: self.crcs[usize::from(skip)..usize::from(end - own.start)].to_vec(),
        })
    }

    fn continues(&self, next: &Self) -> bool {
        self.pages().end == u16::from(next.page)
            && self.file == next.file
            && self.run().end() == next.block
    }
}

/// What is known of one chunk's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMap {
    pieces: Vec<Piece>,
}

impl PageMap {
    /// Its pieces, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The parts of pieces that lie in `pages`, in order.
    pub fn parts(&self, pages: Range<u16>) -> impl Iterator<Item = Piece> {
        self.pieces
            .iter()
            .filter_map(move |piece| piece.part(&pages))
    }

    /// Puts `new` (pieces inside `pages`, in order) in the place of whatever was there; returns the blocks that no
    /// piece refers to any more, and those that none referred to before.
    pub(super) fn replace(
        &mut self,
        pages: &Range<u16>,
        new: Vec<Piece>,
    ) -> (Vec<BlockRun>, Vec<BlockRun>) {
        let old: Vec<Piece> = self.parts(pages.clone()).collect();
        let before: Vec<Piece> = self.parts(0..pages.start).collect();
        let after: Vec<Piece> = self.parts(pages.end..PAGES_PER_CHUNK).collect();
        let change = difference(&old, &new);
        self.pieces.clear();
        for piece in before.into_iter().chain(new).chain(after) {
            match self.pieces.last_mut() {
                Some(last) if last.continues(&piece) => last.crcs.extend(piece.crcs),
                _ => self.pieces.push(piece),
            }
        }
        change
    }

    /// How many pieces it would have if it lay in one extent.
    #[must_use]
    pub fn pieces_min(&self) -> usize {
        let gap = |pair: &[Piece]| pair[0].pages().end != u16::from(pair[1].page);
        usize::from(!self.pieces.is_empty())
            + self.pieces.windows(2).filter(|pair| gap(pair)).count()
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_versioned(VERSION, self)
    }

    /// Back from the stored form.
    ///
    /// # Errors
    /// When it is no page map: bad bytes, pieces out of order or outside the chunk.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let map: Self = codec::decode_versioned("page map", VERSION, bytes)?;
        let mut end = 0;
        for piece in &map.pieces {
            let fits = piece.crcs.len() <= usize::from(PAGES_PER_CHUNK) - usize::from(piece.page);
            let in_file = piece
                .block
                .checked_add(u32::from(PAGES_PER_CHUNK))
                .is_some();
            if piece.crcs.is_empty() || !fits || !in_file || u16::from(piece.page) < end {
                return Err(DecodeError::Invalid("page map"));
            }
            end = piece.pages().end;
        }
        Ok(map)
    }
}

/// Blocks only in `old`, and blocks only in `new`.
fn difference(old: &[Piece], new: &[Piece]) -> (Vec<BlockRun>, Vec<BlockRun>) {
    let blocks = |pieces: &[Piece]| -> BTreeSet<BlockRun> {
        pieces.iter().flat_map(|piece| piece.run().each()).collect()
    };
    let (old, new) = (blocks(old), blocks(new));
    (join(old.difference(&new)), join(new.difference(&old)))
}

fn join<'a>(blocks: impl Iterator<Item = &'a BlockRun>) -> Vec<BlockRun> {
    let mut runs: Vec<BlockRun> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.file == block.file && run.end() == block.first => run.count += 1,
            _ => runs.push(*block),
        }
    }
    runs
}

/// Makes and checks the checksums of one chunk's pages.
pub(super) struct PageSum {
    prefix: Vec<u8>,
}

impl PageSum {
    pub(super) fn new(lineage: Lineage, key: &[u8]) -> Self {
        let mut prefix = lineage.0.to_be_bytes().to_vec();
        prefix.extend_from_slice(key);
        Self { prefix }
    }

    pub(super) fn of(&self, page: u16, bytes: &[u8]) -> [u8; 4] {
        let crc = Crc::new()
            .add(&self.prefix)
            .add(&page.to_be_bytes())
            .add(bytes);
        crc.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(page: u8, block: u32, count: usize) -> Piece {
        Piece {
            page,
            file: 0,
            block,
            crcs: vec![[7; 4]; count],
        }
    }

    #[test]
    fn a_replaced_middle_leaves_both_ends() {
        let mut map = PageMap::default();
        assert_eq!(
            map.replace(&(0..10), vec![piece(0, 100, 10)]).1[0].count,
            10
        );
        let (dropped, mapped) = map.replace(&(3..5), vec![piece(3, 50, 2)]);
        assert_eq!(
            dropped,
            [BlockRun {
                file: 0,
                first: 103,
                count: 2
            }]
        );
        assert_eq!(
            mapped,
            [BlockRun {
                file: 0,
                first: 50,
                count: 2
            }]
        );
        assert_eq!(
            map.pieces(),
            [piece(0, 100, 3), piece(3, 50, 2), piece(5, 105, 5)]
        );
        assert_eq!(map.pieces_min(), 1);
        assert_eq!(PageMap::decode(&map.encode()), Ok(map.clone()));
        map.replace(&(3..5), vec![piece(3, 103, 2)]);
        assert_eq!(map.pieces(), [piece(0, 100, 10)], "neighbours are joined");
        assert_eq!(map.replace(&(0..256), vec![]).0[0].count, 10);
    }

    #[test]
    fn the_worst_map_stays_below_a_page_of_the_database() {
        let pieces = (0..=255).map(|page| Piece {
            page,
            file: 250,
            block: 262_143 - 2 * u32::from(page),
            crcs: vec![[255; 4]],
        });
        let map = PageMap {
            pieces: pieces.collect(),
        };
        assert!(
            map.encode().len() + 64 <= 4096 - 256,
            "{} bytes",
            map.encode().len()
        );
    }

    #[test]
    fn pieces_out_of_order_or_place_are_refused() {
        for pieces in [
            vec![piece(3, 0, 2), piece(4, 9, 1)],
            vec![piece(255, 0, 2)],
            vec![piece(0, u32::MAX, 1)],
            vec![piece(0, 0, 0)],
        ] {
            assert!(PageMap::decode(&PageMap { pieces }.encode()).is_err());
        }
    }
}
