//! Segments: the preallocated files that the log is written into, and buffered reading of them.
//!
//! Owns file names, the header block, and how a segment comes to be: written with zeros and synced under a temporary
//! name, then renamed, so that a file of a segment's name is always whole. Deliberately knows no batch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, RwLock};

use crc_fast::crc32_iscsi;

use super::batch::FORMAT_VERSION;
use super::error::LogError;
use super::record::{u16_at, u32_at, u64_at};
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{Dir, Disk, OpenMode};

const MAGIC: [u8; 8] = *b"PolyFSws";
const PREFIX: &str = "log-";
const UNFINISHED: &str = ".new";
const ZEROS_BYTES: usize = 1 << 20;
const DIRECT: OpenMode = OpenMode {
    create: true,
    direct: true,
};
/// Where a segment's first batch begins: behind the header block.
pub(crate) const FIRST_BATCH: u64 = BLOCK_BYTES as u64;

/// A segment's number, from 1; its file is `log-0001` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:04}", self.0)
    }
}

impl SegmentId {
    fn parse(name: &str) -> Option<Self> {
        let number = name
            .strip_prefix(PREFIX)?
            .parse()
            .ok()
            .filter(|number| *number > 0)?;
        (Self(number).to_string() == name).then_some(Self(number))
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// In which segment.
    pub segment: SegmentId,
    /// Where in it, in bytes.
    pub offset: u32,
    /// How long it is, in bytes.
    pub bytes: u32,
}

/// What is the same for all segments of a log, from its creation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) life: u64,
    pub(crate) segment_bytes: u64,
}

impl Shape {
    fn encode_header(self, id: SegmentId) -> AlignedBuffer {
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        block.resize(BLOCK_BYTES);
        let out = block.as_mut_slice();
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&id.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.life.to_le_bytes());
        out[24..32].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let crc = crc32_iscsi(&out[..32]);
        out[32..36].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// None when the header is not that of segment `id`.
    fn decode_header(block: &[u8], id: SegmentId) -> Result<Option<Self>, LogError> {
        let bytes = &block[..36];
        if bytes[..8] != MAGIC || u32_at(bytes, 32) != crc32_iscsi(&bytes[..32]) {
            return Ok(None);
        }
        let found = u16_at(bytes, 8);
        if found > FORMAT_VERSION {
            return Err(LogError::Newer {
                found,
                known: FORMAT_VERSION,
            });
        }
        let shape = Self {
            life: u64_at(bytes, 16),
            segment_bytes: u64_at(bytes, 24),
        };
        let sound = u32_at(bytes, 12) == id.0
            && shape.segment_bytes > FIRST_BATCH
            && shape.segment_bytes <= u64::from(u32::MAX)
            && shape.segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
        Ok(sound.then_some(shape))
    }
}

/// The open segments of a log, shared by its writer and its readers.
pub(crate) struct Files<K: Disk> {
    pub(crate) shape: Shape,
    disks: RwLock<BTreeMap<SegmentId, Arc<K>>>,
}

impl<K: Disk> Files<K> {
    pub(crate) fn new(shape: Shape, disks: BTreeMap<SegmentId, Arc<K>>) -> Self {
        Self {
            shape,
            disks: RwLock::new(disks),
        }
    }

    pub(crate) fn disk(&self, id: SegmentId) -> Arc<K> {
        let disks = self.disks.read().expect("nobody panics under this lock");
        Arc::clone(
            disks
                .get(&id)
                .expect("positions point into existing segments"),
        )
    }

    pub(crate) fn add(&self, id: SegmentId, disk: K) {
        let mut disks = self.disks.write().expect("nobody panics under this lock");
        assert!(
            disks.insert(id, Arc::new(disk)).is_none(),
            "a segment is made once"
        );
    }

    pub(crate) fn ids(&self) -> Vec<SegmentId> {
        self.disks
            .read()
            .expect("nobody panics under this lock")
            .keys()
            .copied()
            .collect()
    }
}

/// What a data directory holds of a log.
pub(crate) struct Found<K: Disk> {
    pub(crate) files: Files<K>,
    /// Segments whose header is damaged. They are made whole before they get their name, so that is no torn write.
    pub(crate) damaged: Vec<SegmentId>,
}

impl<K: Disk> Found<K> {
    /// Whether a number is left out below the highest.
    pub(crate) fn has_gap(&self) -> bool {
        let mut ids = self.files.ids();
        ids.extend(&self.damaged);
        let last = ids.iter().max().map_or(0, |last| last.0);
        (1..=last).count() != ids.len()
    }
}

/// Opens all segments in `dir`; None when there is no log.
pub(crate) fn open_all<D: Dir>(dir: &D) -> Result<Option<Found<D::Disk>>, LogError> {
    let names = dir.list()?;
    let ids: Vec<SegmentId> = names
        .iter()
        .filter_map(|name| SegmentId::parse(name))
        .collect();
    if ids.is_empty() {
        return Ok(None);
    }
    let mut disks = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    let mut damaged = Vec::new();
    let mut block = AlignedBuffer::new(BLOCK_BYTES);
    block.resize(BLOCK_BYTES);
    for id in ids {
        let disk = dir.open(
            &id.to_string(),
            OpenMode {
                create: false,
                direct: true,
            },
        )?;
        let length = disk.len()?;
        let shape = if length < FIRST_BATCH {
            None
        } else {
            disk.read_at(0, block.as_mut_slice())?;
            Shape::decode_header(block.as_slice(), id)?
        };
        match shape {
            Some(shape) if shape.segment_bytes <= length => {
                shapes.insert(id, shape);
            }
            _ => damaged.push(id),
        }
        disks.insert(id, Arc::new(disk));
    }
    // All were made by one creation or by a log that knew the others: differing ones are damage as well.
    let Some(shape) = shapes.values().next().copied() else {
        return Err(LogError::Corrupt);
    };
    damaged.extend(
        shapes
            .iter()
            .filter(|(_, other)| **other != shape)
            .map(|(id, _)| *id),
    );
    disks.retain(|id, _| !damaged.contains(id));
    Ok(Some(Found {
        files: Files::new(shape, disks),
        damaged,
    }))
}

/// Removes what unfinished makings of segments have left.
pub(crate) fn remove_unfinished<D: Dir>(dir: &D) -> Result<(), LogError> {
    for name in dir.list()? {
        if name
            .strip_suffix(UNFINISHED)
            .and_then(SegmentId::parse)
            .is_some()
        {
            dir.remove(&name)?;
        }
    }
    Ok(())
}

/// Makes the segments `ids`, full of zeros and synced; all get their names at the end.
pub(crate) fn make<D: Dir>(
    dir: &D,
    shape: Shape,
    ids: &[SegmentId],
) -> Result<Vec<D::Disk>, LogError> {
    let mut disks = Vec::new();
    for id in ids {
        disks.push(fill(dir, shape, *id)?);
    }
    for id in ids {
        dir.rename(&format!("{id}{UNFINISHED}"), &id.to_string())?;
    }
    dir.sync()?;
    Ok(disks)
}

fn fill<D: Dir>(dir: &D, shape: Shape, id: SegmentId) -> Result<D::Disk, LogError> {
    let disk = dir.open(&format!("{id}{UNFINISHED}"), DIRECT)?;
    disk.allocate(0, shape.segment_bytes)?;
    let mut zeros = AlignedBuffer::new(ZEROS_BYTES);
    zeros.resize(ZEROS_BYTES);
    let mut offset = FIRST_BATCH;
    while offset < shape.segment_bytes {
        let left = usize::try_from(shape.segment_bytes - offset).unwrap_or(ZEROS_BYTES);
        let bytes = &zeros.as_slice()[..left.min(ZEROS_BYTES)];
        disk.write_at(offset, bytes)?;
        offset += bytes.len() as u64;
    }
    disk.write_at(0, shape.encode_header(id).as_slice())?;
    disk.sync_data()?;
    Ok(disk)
}

/// Reads stretches of segments through one aligned buffer, a good deal at a time.
pub(crate) struct Window<'a, K: Disk> {
    files: &'a Files<K>,
    ahead_bytes: usize,
    segment: SegmentId,
    start: u64,
    buffer: AlignedBuffer,
}

impl<'a, K: Disk> Window<'a, K> {
    pub(crate) fn new(files: &'a Files<K>, ahead_bytes: usize) -> Self {
        let buffer = AlignedBuffer::new(ahead_bytes);
        Self {
            files,
            ahead_bytes,
            segment: SegmentId(0),
            start: 0,
            buffer,
        }
    }

    /// `bytes` bytes at `offset`; None when the segment ends before.
    pub(crate) fn get(
        &mut self,
        segment: SegmentId,
        offset: u64,
        bytes: usize,
    ) -> Result<Option<&[u8]>, LogError> {
        let segment_bytes = self.files.shape.segment_bytes;
        let end = offset.saturating_add(bytes as u64);
        if end > segment_bytes {
            return Ok(None);
        }
        let buffered_end = self.start + self.buffer.len() as u64;
        if self.segment != segment || offset < self.start || end > buffered_end {
            let block = BLOCK_BYTES as u64;
            let start = offset / block * block;
            let want = end
                .next_multiple_of(block)
                .max(start + self.ahead_bytes as u64);
            let length = want.min(segment_bytes) - start;
            self.buffer
                .resize_for_read(usize::try_from(length).expect("a segment fits memory"));
            self.segment = SegmentId(0);
            self.files
                .disk(segment)
                .read_at(start, self.buffer.as_mut_slice())?;
            (self.segment, self.start) = (segment, start);
        }
        let from = usize::try_from(offset - self.start).expect("within the buffer");
        Ok(Some(&self.buffer.as_slice()[from..from + bytes]))
    }
}
