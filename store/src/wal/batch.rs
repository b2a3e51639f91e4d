//! The header of a batch: what goes to disk in one write and one sync.
//!
//! Owns the header's format and its checks (docs/format.md). Deliberately knows neither the order of segments nor
//! what the records mean.

use crc_fast::crc32_iscsi;

use super::record::{u16_at, u32_at, u64_at};
use super::segment::SegmentId;
use crate::aligned::BLOCK_BYTES;

/// Bytes of a batch's header.
pub(crate) const BATCH_HEADER_BYTES: usize = 84;
/// The newest version of the log's format that this code writes and reads.
pub(crate) const FORMAT_VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"PolyFSwb";

/// What a batch says of itself. Segment and offset are where it was written to, so that a misdirected write is no
/// batch; the life tells recycled content of an earlier log from this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
    pub(crate) life: u64,
    pub(crate) boot: u64,
    /// 1, 2, 3, ... through the whole life.
    pub(crate) sequence: u64,
    /// Every batch up to this one is durable.
    pub(crate) mark: u64,
    /// Batches before this one are no longer needed.
    pub(crate) floor: u64,
    /// The header CRC of the batch before, 0 for the first.
    pub(crate) previous: u32,
    pub(crate) body_bytes: u32,
    pub(crate) records: u32,
    pub(crate) body_crc: u32,
}

/// Why a block does not begin with a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Nothing hints at a batch of this log.
    Foreign,
    /// Parts look like one of ours, but it does not hold together.
    Damaged,
    /// A newer version's.
    Newer(u16),
}

impl BatchHeader {
    /// Writes the header over the first bytes of `out`; returns its CRC.
    pub(crate) fn encode(&self, out: &mut [u8]) -> u32 {
        let out = &mut out[..BATCH_HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[10..12].fill(0);
        out[12..16].copy_from_slice(&self.segment.0.to_le_bytes());
        let numbers = [
            self.offset,
            self.life,
            self.boot,
            self.sequence,
            self.mark,
            self.floor,
        ];
        for (at, number) in (16..).step_by(8).zip(numbers) {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let small = [self.previous, self.body_bytes, self.records, self.body_crc];
        for (at, number) in (64..).step_by(4).zip(small) {
            out[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32_iscsi(&out[..80]);
        out[80..].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads a header and its CRC from a block that was read at `offset` of `segment` in a log of this `life`.
    pub(crate) fn decode(
        block: &[u8],
        life: u64,
        segment: SegmentId,
        offset: u64,
    ) -> Result<(Self, u32), HeaderFault> {
        let bytes = block
            .get(..BATCH_HEADER_BYTES)
            .ok_or(HeaderFault::Foreign)?;
        let (magic_fits, life_fits) = (bytes[..8] == MAGIC, u64_at(bytes, 24) == life);
        let crc = u32_at(bytes, 80);
        if crc != crc32_iscsi(&bytes[..80]) {
            // One flipped bit cannot hide both; a block of anything else matches neither.
            let ours = magic_fits || (life_fits && life != 0);
            return Err(if ours {
                HeaderFault::Damaged
            } else {
                HeaderFault::Foreign
            });
        }
        if !magic_fits || !life_fits {
            return Err(HeaderFault::Foreign);
        }
        match u16_at(bytes, 8) {
            FORMAT_VERSION => {}
            newer if newer > FORMAT_VERSION => return Err(HeaderFault::Newer(newer)),
            _ => return Err(HeaderFault::Damaged),
        }
        let header = Self {
            segment: SegmentId(u32_at(bytes, 12)),
            offset: u64_at(bytes, 16),
            life,
            boot: u64_at(bytes, 32),
            sequence: u64_at(bytes, 40),
            mark: u64_at(bytes, 48),
            floor: u64_at(bytes, 56),
            previous: u32_at(bytes, 64),
            body_bytes: u32_at(bytes, 68),
            records: u32_at(bytes, 72),
            body_crc: u32_at(bytes, 76),
        };
        if header.segment != segment || header.offset != offset {
            return Err(HeaderFault::Foreign);
        }
        let laws = header.floor >= 1 && header.floor <= header.sequence;
        if laws && header.mark <= header.sequence && header.sequence < u64::MAX {
            Ok((header, crc))
        } else {
            Err(HeaderFault::Damaged)
        }
    }

    /// Where the batch after it begins, in bytes from the segment's start. Saturates: the caller compares with the
    /// segment's end.
    pub(crate) fn end(&self) -> u64 {
        let bytes = (BATCH_HEADER_BYTES as u64 + u64::from(self.body_bytes))
            .next_multiple_of(BLOCK_BYTES as u64);
        self.offset.saturating_add(bytes)
    }

    /// Body length, in the type that slices want.
    pub(crate) fn body_len(&self) -> usize {
        usize::try_from(self.body_bytes).expect("usize has at least 32 bits")
    }
}
