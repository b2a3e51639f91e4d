//! The seam to disks: everything the store does to the outside goes through these two traits.
//!
//! Owns what we assume of a disk (docs/format.md ends with it): a write that was followed by a successful `sync_data`
//! survives a power cut; one that was not may survive wholly, in part, torn anywhere, or not at all, in any order. A
//! failed sync says nothing about what is stored. The production implementation lives in runtime-tokio, the faulty
//! one in runtime-sim.

use thiserror::Error;

/// What a disk said no with. Host error numbers stay in the runtime that met them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiskError {
    /// No space is left (ENOSPC, EDQUOT).
    #[error("no space left on the disk")]
    Full,
    /// There is no file of that name.
    #[error("{0}: no such file")]
    NotFound(String),
    /// A file ended before the bytes asked for.
    #[error("the file ends before offset {0}")]
    UnexpectedEnd(u64),
    /// The simulated machine this handle belonged to has lost its power.
    #[error("the machine has lost power")]
    PowerLost,
    /// Anything else, in the host's words.
    #[error("{0}")]
    Failed(String),
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// Create the file, empty, if it is not there. Durable only after [`Dir::sync`].
    pub create: bool,
    /// Bypass the page cache (O_DIRECT) where the filesystem can; falls back silently where it can't. Offsets,
    /// lengths and buffers must then be multiples of 4096 (see `aligned`).
    pub direct: bool,
}

/// One open file. Shared between threads; each call is independent of the others.
pub trait Disk: Send + Sync + 'static {
    /// The file's length in bytes.
    fn len(&self) -> Result<u64, DiskError>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` from `offset`; `UnexpectedEnd` when the file is shorter.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError>;
    /// Whether reading a range would not wait for the disk. A guess: what is in memory now may be gone later.
    fn is_at_hand(&self, offset: u64, bytes: u64) -> bool {
        let _ = (offset, bytes);
        true
    }
    /// Writes all of `bytes` at `offset`, extending the file if needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Whether blocks of 4 KiB that are written through the page cache are written alone. Where they are not, others of
    /// the same folio, which may be durable, are written again in their place, and a power cut may tear them.
    fn writes_blocks_alone(&self) -> bool {
        true
    }
    /// Makes every completed write, and the length needed to read it back, durable (fdatasync). After an error the
    /// state of *all* unsynced writes is unknown and asking again proves nothing: the caller poisons itself.
    fn sync_data(&self) -> Result<(), DiskError>;
    /// Cuts or extends the file with zeros.
    fn set_len(&self, bytes: u64) -> Result<(), DiskError>;
    /// Reserves space for a range without changing what it reads as (fallocate, mode 0: extends the length).
    fn allocate(&self, offset: u64, bytes: u64) -> Result<(), DiskError>;
    /// Gives the space of a range back; it reads as zeros afterwards (FALLOC_FL_PUNCH_HOLE).
    fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError>;
}

/// One flat directory of files. Names contain no '/'.
pub trait Dir: Send + Sync + 'static {
    /// What an open file is.
    type Disk: Disk;
    /// Opens a file; `NotFound` when it is absent and not to be created.
    fn open(&self, name: &str, mode: OpenMode) -> Result<Self::Disk, DiskError>;
    /// The names of all files, sorted.
    fn list(&self) -> Result<Vec<String>, DiskError>;
    /// Renames a file, replacing the target atomically. Durable only after [`Dir::sync`].
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Removes a file. Durable only after [`Dir::sync`].
    fn remove(&self, name: &str) -> Result<(), DiskError>;
    /// Makes creations, renames and removals durable (fsync of the directory).
    fn sync(&self) -> Result<(), DiskError>;
    /// Bytes free and bytes in all on the filesystem that holds the directory.
    fn space(&self) -> Result<Space, DiskError>;
}

/// What a filesystem says of its room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for this process.
    pub free: u64,
    /// In all.
    pub total: u64,
}
