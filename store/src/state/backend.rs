//! redb's storage, on a [`Disk`].
//!
//! Owns rule 5: data files are synced before any sync of the database, whoever asks for it, and once *sealed* it takes
//! no more writes: dropping a redb `Database` would otherwise make commits durable whose log and data are not. Grows
//! ahead of redb's writes, from the reserve if need be. Deliberately knows no table.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use super::reserve::{Reserve, Share};
use crate::disk::{Dir, Disk, DiskError};
use crate::extents::DataFiles;

pub(super) struct Backend<D: Dir> {
    disk: D::Disk,
    data: Arc<DataFiles<D>>,
    reserve: Arc<Reserve<D>>,
    sealed: Arc<AtomicBool>,
}

impl<D: Dir> Backend<D> {
    pub(super) fn new(
        disk: D::Disk,
        data: Arc<DataFiles<D>>,
        reserve: Arc<Reserve<D>>,
        sealed: Arc<AtomicBool>,
    ) -> Self {
        Self {
            disk,
            data,
            reserve,
            sealed,
        }
    }

    fn writable(&self) -> io::Result<()> {
        if self.sealed.load(Ordering::Acquire) {
            return Err(io::Error::other(
                "the store was dropped without a checkpoint",
            ));
        }
        Ok(())
    }
}

impl<D: Dir> fmt::Debug for Backend<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

fn host(error: DiskError) -> io::Error {
    io::Error::other(error)
}

impl<D: Dir> StorageBackend for Backend<D> {
    fn len(&self) -> io::Result<u64> {
        self.disk.len().map_err(host)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, out).map_err(host)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        let old = self.disk.len().map_err(host)?;
        if len <= old {
            return self.disk.set_len(len).map_err(host);
        }
        // Allocated, not only lengthened: no later write into it can find the disk full.
        self.reserve
            .growing(Share::Database, || self.disk.allocate(old, len - old))
            .map_err(host)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?;
        let hooked = !cfg!(any(
            planted = "data_unsynced_at_checkpoint",
            planted = "redb_durable_behind_our_back"
        ));
        if hooked {
            self.data.sync_files().map_err(io::Error::other)?;
        }
        self.disk.sync_data().map_err(host)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.reserve
            .growing(Share::Database, || self.disk.write_at(offset, data))
            .map_err(host)
    }
}
