//! One data file: how its blocks are read, and whether something in it waits to be synced.
//!
//! Owns the two ways to the disk. Blocks are read through the host's page cache: what is read again comes from memory
//! that the host gives and takes. Whoever finds that such bytes are not what was written reads them once more
//! [`Way::PastCache`] before believing that the disk has lost them. Many blocks in a row are written past the cache, a
//! few through it: the host hands many such writes to the disk at once, where each would wait for itself. Deliberately
//! knows no checksum.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use crate::aligned::AlignedBuffer;
use crate::disk::{Dir, Disk, DiskError, OpenMode};

/// How to read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As the host likes it.
    ThroughCache,
    /// From the disk, where the filesystem can.
    PastCache,
}

#[derive(Debug)]
pub(super) struct DataFile<F> {
    pub(super) disk: F,
    /// The same file, through the page cache; none when `disk` is that already.
    cached: Option<F>,
    /// ... and whether that may be written through.
    alone: bool,
    pub(super) dirty: AtomicBool,
    pub(super) syncing: Mutex<()>,
}

impl<F: Disk> DataFile<F> {
    pub(super) fn open<D: Dir<Disk = F>>(
        dir: &D,
        name: &str,
        mode: OpenMode,
    ) -> Result<Self, DiskError> {
        let disk = dir.open(name, mode)?;
        let through_cache = OpenMode {
            create: false,
            direct: false,
        };
        let cached = mode
            .direct
            .then(|| dir.open(name, through_cache))
            .transpose()?;
        let alone = cached.as_ref().is_some_and(Disk::writes_blocks_alone);
        Ok(Self {
            disk,
            cached,
            alone,
            // What an earlier life wrote may be unsynced: the first sync covers it.
            dirty: AtomicBool::new(true),
            syncing: Mutex::new(()),
        })
    }

    /// Fills `buffer`, which takes whole blocks; `UnexpectedEnd` when the file is shorter.
    pub(super) fn read(&self, way: Way, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        match (&self.cached, way) {
            (Some(cached), Way::ThroughCache) => cached.read_at(offset, buffer),
            (Some(_), Way::PastCache) => self.read_aligned(offset, buffer),
            (None, _) => self.disk.read_at(offset, buffer),
        }
    }

    fn read_aligned(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut aligned = AlignedBuffer::new(buffer.len());
        aligned.resize_for_read(buffer.len());
        self.disk.read_at(offset, aligned.as_mut_slice())?;
        buffer.copy_from_slice(aligned.as_slice());
        Ok(())
    }

    /// Writes `bytes`, which are aligned; past the cache where that would write their neighbours again. A sync covers both
    /// ways: it is the file's, not the handle's (fdatasync(2)).
    pub(super) fn write(&self, way: Way, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        match (&self.cached, way) {
            (Some(cached), Way::ThroughCache) if self.alone => cached.write_at(offset, bytes),
            _ => self.disk.write_at(offset, bytes),
        }
    }

    /// Whether reading through the cache would not wait for the disk, as far as one can say.
    pub(super) fn is_at_hand(&self, offset: u64, bytes: u64) -> bool {
        let read_from = self.cached.as_ref().unwrap_or(&self.disk);
        read_from.is_at_hand(offset, bytes)
    }
}
