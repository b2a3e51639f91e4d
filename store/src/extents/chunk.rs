//! The content of chunks: reading and changing bytes through page maps (P9, P10).
//!
//! Owns copy-on-write: a write reads and merges the pages it covers only in part, and puts all of them elsewhere; a
//! large payload already lies in an extent of the log, and its whole pages are mapped where they are. Deliberately
//! knows neither what a chunk's key means nor where page maps are stored.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use polyfs_core::ids::Lineage;
use polyfs_core::limits::{CHUNK_BYTES, PAGE_BYTES};

use super::allocator::Changes;
use super::data_file::Way;
use super::files::{BLOCK, DataFiles};
use super::page_map::{PAGES_PER_CHUNK, PageMap, PageSum, Piece};
use super::run::BlockRun;
use crate::aligned::AlignedBuffer;
use crate::disk::Dir;
use crate::extent_ref::ExtentRef;
use crate::state::StoreError;

/// Where page maps are read from.
pub trait PageMaps {
    /// Whose chunks they are; part of every page's checksum.
    fn lineage(&self) -> Lineage;
    /// The map of a chunk; None when nothing was ever written to it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&self, key: &[u8]) -> Result<Option<Arc<PageMap>>, StoreError>;
}

/// Where changed page maps go, in the transaction that goes with them.
pub trait PageMapsMut: PageMaps {
    /// Puts a chunk's map; an empty one is a chunk that exists and reads as zeros.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn store(&mut self, key: &[u8], map: PageMap) -> Result<(), StoreError>;
    /// Removes a chunk's map.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError>;
}

/// The chunks of one lineage, as one transaction or snapshot sees them.
pub struct ChunkPages<'a, D: Dir, M> {
    pub(crate) files: &'a DataFiles<D>,
    pub(crate) maps: M,
}

fn page_of(offset: u64) -> u16 {
    u16::try_from(offset / BLOCK).expect("an offset lies in its chunk")
}

/// The pages that a range of bytes touches.
fn pages_of(bytes: &Range<u64>) -> Range<u16> {
    page_of(bytes.start)..page_of(bytes.end.next_multiple_of(BLOCK))
}

fn within(offset: u64) -> usize {
    usize::try_from(offset).expect("a chunk fits memory")
}

fn check_range(offset: u64, len: usize) -> Range<u64> {
    let end = offset
        .checked_add(len as u64)
        .filter(|end| *end <= CHUNK_BYTES);
    offset..end.expect("a chunk operation stays inside its chunk")
}

impl<D: Dir, M: PageMaps> ChunkPages<'_, D, M> {
    /// Whether the chunk has a map, so was written or made.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn exists(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.maps.load(key)?.is_some())
    }

    /// The chunk's map, for a snapshot's sender; None when there is none.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn map(&self, key: &[u8]) -> Result<Option<Arc<PageMap>>, StoreError> {
        self.maps.load(key)
    }

    /// Bytes of a chunk, zeros where nothing was written.
    ///
    /// # Errors
    /// `Corrupt` when a page is not what was written; nothing of it is returned. Failures of the disk.
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub fn read(&self, key: &[u8], offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let range = check_range(offset, len);
        let Some(map) = self.maps.load(key)? else {
            return Ok(vec![0; len].into());
        };
        let pages = pages_of(&range);
        let mut buffer = vec![0; usize::from(pages.end - pages.start) * PAGE_BYTES];
        self.fill(key, &map, &pages, &mut buffer)?;
        let skip = within(offset % BLOCK);
        Ok(Bytes::from(buffer).slice(skip..skip + len))
    }

    /// Reads a chunk whole from the disk, past the cache, and drops it; false when it has no map.
    ///
    /// # Errors
    /// `Corrupt` when a page is not what was written; failures of the disk.
    pub fn verify(&self, key: &[u8]) -> Result<bool, StoreError> {
        let Some(map) = self.maps.load(key)? else {
            return Ok(false);
        };
        let sum = PageSum::new(self.maps.lineage(), key);
        for piece in map.parts(0..PAGES_PER_CHUNK) {
            let mut room = vec![0; piece.pages().len() * PAGE_BYTES];
            if let Some(page) = self.fill_piece(&sum, &piece, Way::PastCache, &mut room)? {
                return Err(self.corrupt(key, &piece, page));
            }
        }
        Ok(true)
    }

    fn corrupt(&self, key: &[u8], piece: &Piece, page: u16) -> StoreError {
        StoreError::Corrupt {
            lineage: self.maps.lineage(),
            what: format!("page {page} of the chunk {key:02x?} in {:?}", piece.run()),
        }
    }

    /// Whether [`Self::read`] would wait for the disk, as far as one can say.
    ///
    /// # Errors
    /// When the map cannot be read.
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub fn read_waits(&self, key: &[u8], offset: u64, len: usize) -> Result<bool, StoreError> {
        let pages = pages_of(&check_range(offset, len));
        let map = self.maps.load(key)?;
        Ok(map.is_some_and(|map| {
            let mut pieces = map.parts(pages);
            pieces.any(|piece| self.files.read_waits(piece.run()))
        }))
    }

    /// Reads the written ones of `pages` into `buffer`, which begins with the first of them.
    fn fill(
        &self,
        key: &[u8],
        map: &PageMap,
        pages: &Range<u16>,
        buffer: &mut [u8],
    ) -> Result<(), StoreError> {
        let sum = PageSum::new(self.maps.lineage(), key);
        for piece in map.parts(pages.clone()) {
            let at = usize::from(piece.pages().start - pages.start) * PAGE_BYTES;
            let room = &mut buffer[at..];
            let mut bad = self.fill_piece(&sum, &piece, Way::ThroughCache, room)?;
            if bad.is_some() {
                bad = self.fill_piece(&sum, &piece, Way::PastCache, room)?;
            }
            if let Some(page) = bad {
                return Err(self.corrupt(key, &piece, page));
            }
        }
        Ok(())
    }

    /// Reads a piece into `room`; the first page that is not what was written, if there is one.
    fn fill_piece(
        &self,
        sum: &PageSum,
        piece: &Piece,
        way: Way,
        room: &mut [u8],
    ) -> Result<Option<u16>, StoreError> {
        if !self.files.read_blocks(piece.run(), way, room)? {
            return Ok(Some(piece.pages().start));
        }
        let pages = piece.pages().zip(&piece.crcs);
        let mut read = pages.zip(room.chunks_exact(PAGE_BYTES));
        let bad = read.find(|((page, crc), bytes)| sum.of(*page, bytes) != **crc);
        Ok(bad.map(|((page, _), _)| page))
    }
}

impl<D: Dir, M: PageMapsMut> ChunkPages<'_, D, M> {
    /// Puts bytes at an offset, on fresh pages.
    ///
    /// # Errors
    /// `Corrupt` when a page to be merged is; `Full`; failures of the disk.
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub(crate) fn write_small(
        &mut self,
        changes: &mut Changes,
        key: &[u8],
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let range = check_range(offset, bytes.len());
        let mut map = self.load_mut(key)?.unwrap_or_default();
        self.overwrite(changes, key, &mut map, range, Some(bytes))?;
        self.maps.store(key, map)
    }

    /// Takes over a part of a log record's extent as content at `offset`. Whole pages are mapped where they lie if the
    /// extent was written with `lead = offset % 4096`; the rest is copied. `content` is all of the extent's bytes when
    /// the caller still has them; otherwise they are read and verified.
    ///
    /// # Errors
    /// As [`Self::write_small`], and `CorruptExtent`.
    ///
    /// # Panics
    /// When no pin holds the extent, or a range leaves the chunk or the extent.
    pub(crate) fn write_extent(
        &mut self,
        changes: &mut Changes,
        key: &[u8],
        offset: u64,
        extent: ExtentRef,
        part: Range<u32>,
        content: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let read;
        let content = match content {
            Some(content) => content,
            None => {
                read = self.files.read(extent, 0..extent.bytes)?;
                &read[..]
            }
        };
        assert_eq!(
            content.len(),
            extent.bytes as usize,
            "all bytes of the extent are given"
        );
        let bytes = &content[part.start as usize..part.end as usize];
        let range = check_range(offset, bytes.len());
        let lies_at = extent.offset + u64::from(part.start);
        let whole = offset.next_multiple_of(BLOCK)..range.end / BLOCK * BLOCK;
        let mut map = self.load_mut(key)?.unwrap_or_default();
        if lies_at % BLOCK != offset % BLOCK || whole.start >= whole.end {
            self.overwrite(changes, key, &mut map, range, Some(bytes))?;
            return self.maps.store(key, map);
        }
        let (head, tail) = (within(whole.start - offset), within(whole.end - offset));
        if head > 0 {
            let range = offset..whole.start;
            self.overwrite(changes, key, &mut map, range, Some(&bytes[..head]))?;
        }
        if tail < bytes.len() {
            let range = whole.end..range.end;
            self.overwrite(changes, key, &mut map, range, Some(&bytes[tail..]))?;
        }
        let pages = pages_of(&whole);
        let run = BlockRun {
            file: extent.file,
            first: u32::try_from((lies_at + head as u64) / BLOCK).expect("a block of a data file"),
            count: u32::from(pages.end - pages.start),
        };
        let piece = self.piece(key, pages.start, run, &bytes[head..tail]);
        let (dropped, mapped) = map.replace(&pages, vec![piece]);
        changes.dropped.extend(dropped);
        for run in mapped {
            self.files.map_pinned(run, changes);
        }
        self.maps.store(key, map)
    }

    /// Makes a range read as zeros; whole pages give their space back.
    ///
    /// # Errors
    /// As [`Self::write_small`].
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub(crate) fn zero(
        &mut self,
        changes: &mut Changes,
        key: &[u8],
        offset: u64,
        len: usize,
    ) -> Result<(), StoreError> {
        let range = check_range(offset, len);
        let Some(mut map) = self.load_mut(key)? else {
            return Ok(());
        };
        let whole = range.start.next_multiple_of(BLOCK)..range.end / BLOCK * BLOCK;
        let mut partial = vec![range.clone()];
        if whole.start < whole.end {
            changes
                .dropped
                .extend(map.replace(&pages_of(&whole), vec![]).0);
            partial = vec![range.start..whole.start, whole.end..range.end];
        }
        for part in partial {
            // A page that was never written is zero already.
            if map.parts(pages_of(&part)).next().is_some() {
                self.overwrite(changes, key, &mut map, part, None)?;
            }
        }
        self.maps.store(key, map)
    }

    /// Forgets the chunk.
    ///
    /// # Errors
    /// When the map cannot be read or removed.
    pub(crate) fn delete(&mut self, changes: &mut Changes, key: &[u8]) -> Result<(), StoreError> {
        let Some(map) = self.maps.load(key)? else {
            return Ok(());
        };
        changes.dropped.extend(map.runs());
        self.maps.remove(key)
    }

    /// Rewrites a chunk of more than `pieces_max` pieces as one extent, if that helps and contiguous space is there;
    /// says whether it did. For idle times.
    ///
    /// # Errors
    /// As [`Self::write_small`].
    pub(crate) fn rewrite_when_fragmented(
        &mut self,
        changes: &mut Changes,
        key: &[u8],
        pieces_max: usize,
    ) -> Result<bool, StoreError> {
        let Some(mut map) = self.load_mut(key)? else {
            return Ok(false);
        };
        if map.pieces_count() <= pieces_max.max(map.pieces_min()) {
            return Ok(false);
        }
        let all = 0..PAGES_PER_CHUNK;
        let old = map.pieces();
        let count = old.iter().map(|piece| piece.run().count).sum();
        let mut bytes = vec![0; usize::from(PAGES_PER_CHUNK) * PAGE_BYTES];
        self.fill(key, &map, &all, &mut bytes)?;
        let Some(run) = self.files.take_contiguous(count, changes) else {
            return Ok(false);
        };
        let mut buffer = AlignedBuffer::new(count as usize * PAGE_BYTES);
        let mut pieces = Vec::with_capacity(old.len());
        let mut block = run.first;
        for old in &old {
            let at = usize::from(old.page) * PAGE_BYTES;
            buffer.extend(&bytes[at..at + old.crcs.len() * PAGE_BYTES]);
            pieces.push(Piece {
                file: run.file,
                block,
                ..old.clone()
            });
            block += old.run().count;
        }
        self.files.write_blocks(run, buffer.as_slice())?;
        changes.dropped.extend(map.replace(&all, pieces).0);
        self.maps.store(key, map)?;
        Ok(true)
    }

    /// A chunk's map, to be changed.
    fn load_mut(&self, key: &[u8]) -> Result<Option<PageMap>, StoreError> {
        Ok(self.maps.load(key)?.map(Arc::unwrap_or_clone))
    }

    /// Puts `bytes` (None: zeros) in the place of a range, on fresh pages, in the map only.
    fn overwrite(
        &self,
        changes: &mut Changes,
        key: &[u8],
        map: &mut PageMap,
        range: Range<u64>,
        bytes: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        let pages = pages_of(&range);
        let count = pages.end - pages.start;
        let mut merged = vec![0; usize::from(count) * PAGE_BYTES];
        if !range.start.is_multiple_of(BLOCK) {
            self.fill(key, map, &(pages.start..pages.start + 1), &mut merged)?;
        }
        if !range.end.is_multiple_of(BLOCK) && (count > 1 || range.start.is_multiple_of(BLOCK)) {
            let last = pages.end - 1..pages.end;
            self.fill(
                key,
                map,
                &last,
                &mut merged[usize::from(count - 1) * PAGE_BYTES..],
            )?;
        }
        let start = within(range.start % BLOCK);
        let target = &mut merged[start..start + within(range.end - range.start)];
        match bytes {
            Some(bytes) => target.copy_from_slice(bytes),
            None => target.fill(0),
        }
        let (mut pieces, mut page, mut rest) = (Vec::new(), pages.start, Bytes::from(merged));
        for run in self.files.take_pages(u32::from(count), changes)? {
            let own = rest.split_to(run.count as usize * PAGE_BYTES);
            pieces.push(self.piece(key, page, run, &own));
            self.files.put_blocks(run, own)?;
            page += u16::try_from(run.count).expect("a run of a chunk's pages");
        }
        changes.dropped.extend(map.replace(&pages, pieces).0);
        Ok(())
    }

    fn piece(&self, key: &[u8], page: u16, run: BlockRun, bytes: &[u8]) -> Piece {
        let sum = PageSum::new(self.maps.lineage(), key);
        let pages = bytes.chunks_exact(PAGE_BYTES);
        let crcs = pages
            .zip(page..)
            .map(|(bytes, page)| sum.of(page, bytes))
            .collect();
        Piece {
            page: u8::try_from(page).expect("a page lies in its chunk"),
            file: run.file,
            block: run.first,
            crcs,
        }
    }
}
