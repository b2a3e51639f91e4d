//! Finding every batch that the segments hold.
//!
//! Owns the first half of recovery: all segments are read to their ends, and wherever a block does not begin a sound
//! batch the search goes on with the next block, so that nothing valid behind damage is missed. Deliberately draws no
//! conclusion.

use std::collections::{BTreeMap, BTreeSet};

use crc_fast::crc32_iscsi;

use super::batch::{BATCH_HEADER_BYTES, BatchHeader, FORMAT_VERSION, HeaderFault};
use super::error::LogError;
use super::segment::{FIRST_BATCH, Files, SegmentId, Window};
use crate::aligned::BLOCK_BYTES;
use crate::disk::Disk;

/// How much is read at once.
const AHEAD_BYTES: usize = 1 << 20;

/// A batch whose header is sound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) header: BatchHeader,
    /// CRC of the header.
    pub(crate) crc: u32,
}

/// All that was found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Sound batches, by sequence.
    pub(crate) batches: BTreeMap<u64, Place>,
    /// Batches with a sound header over a body that is not.
    pub(crate) broken: Vec<Place>,
    /// Blocks that look like a header of ours but are not sound.
    pub(crate) suspects: BTreeSet<(SegmentId, u64)>,
    /// The highest mark, even if the body behind it is broken.
    pub(crate) mark: u64,
    /// The highest boot number.
    pub(crate) boot: u64,
}

/// Reads all segments.
pub(crate) fn scan<K: Disk>(files: &Files<K>) -> Result<Scan, LogError> {
    let mut found = Scan::default();
    let mut window = Window::new(files, AHEAD_BYTES);
    for segment in files.ids() {
        let mut offset = FIRST_BATCH;
        while offset < files.shape.segment_bytes {
            offset = found.visit(&mut window, files.shape.life, segment, offset)?;
        }
    }
    Ok(found)
}

impl Scan {
    /// Whether anything was ever written to the log.
    pub(crate) fn has_trace(&self) -> bool {
        !self.batches.is_empty() || !self.broken.is_empty() || !self.suspects.is_empty()
    }

    /// Looks at the block at `offset`; returns where to look next.
    fn visit<K: Disk>(
        &mut self,
        window: &mut Window<'_, K>,
        life: u64,
        segment: SegmentId,
        offset: u64,
    ) -> Result<u64, LogError> {
        let next_block = offset + BLOCK_BYTES as u64;
        let block = window
            .get(segment, offset, BLOCK_BYTES)?
            .expect("segments are whole blocks");
        let place = match BatchHeader::decode(block, life, segment, offset) {
            Ok((header, crc)) => Place { header, crc },
            Err(HeaderFault::Foreign) => return Ok(next_block),
            Err(HeaderFault::Damaged) => {
                self.suspects.insert((segment, offset));
                return Ok(next_block);
            }
            Err(HeaderFault::Newer(found)) => {
                return Err(LogError::Newer {
                    found,
                    known: FORMAT_VERSION,
                });
            }
        };
        self.mark = self.mark.max(place.header.mark);
        self.boot = self.boot.max(place.header.boot);
        let sound = body(window, &place.header)?
            .is_some_and(|body| crc32_iscsi(body) == place.header.body_crc);
        if !sound {
            self.broken.push(place);
            return Ok(next_block);
        }
        let known = self.batches.entry(place.header.sequence).or_insert(place);
        if known.header.boot < place.header.boot {
            *known = place;
        }
        Ok(place.header.end())
    }
}

/// The records' bytes of a batch; None when they would reach beyond the segment.
pub(crate) fn body<'w, K: Disk>(
    window: &'w mut Window<'_, K>,
    header: &BatchHeader,
) -> Result<Option<&'w [u8]>, LogError> {
    window.get(
        header.segment,
        header.offset + BATCH_HEADER_BYTES as u64,
        header.body_len(),
    )
}
