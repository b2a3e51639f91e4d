//! The page map of one chunk: which of its pages lie where, each with its checksum.
//!
//! Owns the stored form and the edits in memory. A page that no piece covers was never written and reads as zeros. The
//! checksum of a page covers (lineage, chunk key, page number, bytes), so a page that was read from the wrong place,
//! belongs to another chunk or is an older one of the same chunk does not pass. Deliberately does no I/O.

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
}

/// Where one page lies, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    page: u8,
    file: u32,
    block: u32,
    crc: [u8; 4],
}

impl Page {
    fn run(self) -> BlockRun {
        BlockRun {
            file: self.file,
            first: self.block,
            count: 1,
        }
    }

    fn continues(self, next: Self) -> bool {
        u16::from(self.page) + 1 == u16::from(next.page)
            && self.file == next.file
            && self.block + 1 == next.block
    }
}

/// The form that is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    pieces: Vec<Piece>,
}

/// What is known of one chunk's content. Cheap to copy and to change in memory: pages stand one by one in it, and
/// become pieces when they are asked for or stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMap {
    pages: Vec<Page>,
}

impl PageMap {
    /// The map of these pieces, which come in order and share no page.
    #[must_use]
    pub fn of(pieces: &[Piece]) -> Self {
        Self {
            pages: pieces.iter().flat_map(pages_of).collect(),
        }
    }

    /// Its pieces, in order; neighbours that lie one behind the other are one.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        self.parts(0..PAGES_PER_CHUNK).collect()
    }

    /// The parts of pieces that lie in `pages`, in order.
    pub fn parts(&self, pages: Range<u16>) -> impl Iterator<Item = Piece> {
        let mut rest = &self.pages[self.places(&pages)];
        std::iter::from_fn(move || {
            let first = rest.first()?;
            let joined = rest
                .windows(2)
                .take_while(|pair| pair[0].continues(pair[1]));
            let (piece, behind) = rest.split_at(1 + joined.count());
            rest = behind;
            Some(Piece {
                page: first.page,
                file: first.file,
                block: first.block,
                crcs: piece.iter().map(|page| page.crc).collect(),
            })
        })
    }

    /// The blocks of its pages, in order of the pages.
    pub fn runs(&self) -> impl Iterator<Item = BlockRun> {
        joined(self.pages.iter().map(|page| page.run()))
    }

    /// About how many bytes it takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.pages.capacity() * size_of::<Page>()
    }

    /// Where the pages of a range stand.
    fn places(&self, pages: &Range<u16>) -> Range<usize> {
        let place = |bound| {
            self.pages
                .partition_point(|page| u16::from(page.page) < bound)
        };
        let start = place(pages.start);
        start..place(pages.end).max(start)
    }

    /// Puts `new` (pieces inside `pages`, in order) in the place of whatever was there; returns the blocks that no
    /// piece refers to any more, and those that none referred to before.
    pub(super) fn replace(
        &mut self,
        pages: &Range<u16>,
        new: Vec<Piece>,
    ) -> (Vec<BlockRun>, Vec<BlockRun>) {
        let new: Vec<Page> = new.iter().flat_map(pages_of).collect();
        let places = self.places(pages);
        let change = difference(&self.pages[places.clone()], &new);
        self.pages.splice(places, new);
        change
    }

    /// How many pieces it has.
    #[must_use]
    pub fn pieces_count(&self) -> usize {
        let breaks = |pair: &[Page]| !pair[0].continues(pair[1]);
        usize::from(!self.pages.is_empty())
            + self.pages.windows(2).filter(|pair| breaks(pair)).count()
    }

    /// How many pieces it would have if it lay in one extent.
    #[must_use]
    pub fn pieces_min(&self) -> usize {
        let gap = |pair: &[Page]| u16::from(pair[0].page) + 1 != u16::from(pair[1].page);
        usize::from(!self.pages.is_empty()) + self.pages.windows(2).filter(|pair| gap(pair)).count()
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            pieces: self.pieces(),
        };
        codec::encode_versioned(VERSION, &stored)
    }

    /// Back from the stored form.
    ///
    /// # Errors
    /// When it is no page map: bad bytes, pieces out of order or outside the chunk.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let stored: Stored = codec::decode_versioned("page map", VERSION, bytes)?;
        let mut end = 0;
        for piece in &stored.pieces {
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
        Ok(Self::of(&stored.pieces))
    }
}

fn pages_of(piece: &Piece) -> impl Iterator<Item = Page> {
    let blocks = piece.run().blocks();
    let places = piece.pages().zip(blocks);
    places.zip(&piece.crcs).map(|((page, block), crc)| Page {
        page: u8::try_from(page).expect("a page lies in its chunk"),
        file: piece.file,
        block,
        crc: *crc,
    })
}

/// Blocks only in `old`, and blocks only in `new`.
fn difference(old: &[Page], new: &[Page]) -> (Vec<BlockRun>, Vec<BlockRun>) {
    let sorted = |pages: &[Page]| {
        let mut blocks: Vec<BlockRun> = pages.iter().map(|page| page.run()).collect();
        blocks.sort_unstable();
        blocks
    };
    let (old, new) = (sorted(old), sorted(new));
    let without = |from: &[BlockRun], others: &[BlockRun]| {
        let left = from
            .iter()
            .filter(|block| others.binary_search(block).is_err());
        joined(left.copied()).collect()
    };
    (without(&old, &new), without(&new, &old))
}

/// Runs of blocks that follow each other, as fewer and longer runs.
fn joined(blocks: impl Iterator<Item = BlockRun>) -> impl Iterator<Item = BlockRun> {
    let mut blocks = blocks.peekable();
    std::iter::from_fn(move || {
        let mut run = blocks.next()?;
        while let Some(next) =
            blocks.next_if(|next| next.file == run.file && next.first == run.end())
        {
            run.count += next.count;
        }
        Some(run)
    })
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
        let pieces: Vec<_> = pieces.collect();
        let mut map = PageMap::default();
        map.replace(&(0..256), pieces.clone());
        assert_eq!((map.pieces(), map.pieces_count()), (pieces, 256));
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
            let stored = codec::encode_versioned(VERSION, &Stored { pieces });
            assert!(PageMap::decode(&stored).is_err());
        }
    }
}
