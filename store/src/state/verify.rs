//! Whether what is stored is what was written: asked before a store is used, and in full after a failed sync (P10).
//!
//! Owns the check of the database's own checksums, which redb makes only when told to, and the reading of every value
//! and page. Changes nothing on the disk: what redb would repair it repairs in memory, and that is corruption found.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::Mutex;

use polyfs_core::ids::Lineage;
use redb::StorageBackend;

use super::caught::{Held, catch};
use super::db::FILE;
use super::error::{Poison, StoreError};
use super::layers::{Node, Pages, State};
use super::record::{Tag, corrupt, split};
use super::view::StateView;
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{Dir, Disk, DiskError, OpenMode};

/// How much is compared at once.
const COMPARE_BYTES: usize = 1 << 20;

/// A file that is never written: changes stay in memory, by block.
struct Overlay<K: Disk> {
    disk: K,
    changed: Mutex<Changed>,
}

struct Changed {
    len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl<K: Disk> fmt::Debug for Overlay<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overlay")
    }
}

impl<K: Disk> Overlay<K> {
    fn block(&self, changed: &Changed, block: u64) -> io::Result<Vec<u8>> {
        if let Some(bytes) = changed.blocks.get(&block) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; BLOCK_BYTES];
        let start = block * BLOCK_BYTES as u64;
        let held = self.disk.len().map_err(io::Error::other)?;
        let left = held.min(changed.len).saturating_sub(start);
        let here = usize::try_from(left)
            .unwrap_or(BLOCK_BYTES)
            .min(BLOCK_BYTES);
        let read = self.disk.read_at(start, &mut bytes[..here]);
        read.map_err(io::Error::other)?;
        Ok(bytes)
    }

    /// Calls `each` with every block of a range, where in the block and where in the range.
    fn blocks(
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = usize::try_from(at % BLOCK_BYTES as u64).expect("below a block");
            let bytes = (BLOCK_BYTES - within).min(len - done);
            each(
                at / BLOCK_BYTES as u64,
                within..within + bytes,
                done..done + bytes,
            )?;
            done += bytes;
        }
        Ok(())
    }
}

impl<K: Disk> StorageBackend for Overlay<K> {
    fn len(&self) -> io::Result<u64> {
        Ok(self
            .changed
            .lock()
            .expect("nothing panics under this lock")
            .len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = self.changed.lock().expect("nothing panics under this lock");
        if offset.saturating_add(out.len() as u64) > changed.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if changed.blocks.is_empty() {
            return self.disk.read_at(offset, out).map_err(io::Error::other);
        }
        Self::blocks(offset, out.len(), |block, within, place| {
            out[place].copy_from_slice(&self.block(&changed, block)?[within]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changed = self.changed.lock().expect("nothing panics under this lock");
        changed.len = len;
        changed
            .blocks
            .retain(|block, _| block * (BLOCK_BYTES as u64) < len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed.lock().expect("nothing panics under this lock");
        Self::blocks(offset, data.len(), |block, within, place| {
            let mut bytes = self.block(&changed, block)?;
            bytes[within].copy_from_slice(&data[place]);
            changed.blocks.insert(block, bytes);
            Ok(())
        })
    }
}

/// Checks the database's own checksums, as far as there is a database: a rotten key or a lost branch would else be
/// taken for a name that does not exist. Reads all of it: about a second per GiB.
///
/// # Errors
/// `CorruptDatabase`; failures of the disk.
pub fn check_database<D: Dir>(dir: &D, cache_bytes: usize) -> Result<(), StoreError> {
    let mode = OpenMode {
        create: false,
        direct: false,
    };
    let disk = match dir.open(FILE, mode) {
        Ok(disk) => disk,
        Err(DiskError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let changed = Mutex::new(Changed {
        len: disk.len()?,
        blocks: BTreeMap::new(),
    });
    let corrupt = |what: String| StoreError::CorruptDatabase(format!("{FILE}: {what}"));
    // It gets its name when it holds its tables: redb would make an empty one of it.
    if disk.len()? == 0 {
        return Err(corrupt("it is empty".into()));
    }
    let poison = Poison::default();
    let mut builder = redb::Builder::new();
    builder.set_cache_size(cache_bytes);
    let open = || builder.create_with_backend(Overlay { disk, changed });
    let opened = match catch(open) {
        Ok(opened) => opened.map_err(|error| corrupt(error.to_string()))?,
        Err(what) => return Err(corrupt(format!("it can't be opened: {what}"))),
    };
    let mut database = Held::new(opened, &poison);
    let checked = catch(|| database.check_integrity());
    match checked {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(corrupt("its checksums do not hold".into())),
        Ok(Err(error)) => Err(corrupt(error.to_string())),
        Err(what) => {
            // It is not even dropped any more.
            poison.panicked(&what);
            Err(corrupt(format!("it can't be read: {what}")))
        }
    }
}

/// Compares what the page cache says of a file with what the disk holds: after a failed sync they may differ, and then
/// nothing read through the cache is to be trusted (P10). Whole blocks only.
///
/// # Errors
/// Failures of the disk.
pub fn cache_is_true<D: Dir>(dir: &D, name: &str) -> Result<bool, DiskError> {
    let open = |direct| {
        let mode = OpenMode {
            create: false,
            direct,
        };
        dir.open(name, mode)
    };
    let (cached, direct) = (open(false)?, open(true)?);
    let len = cached.len()? / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let mut real = AlignedBuffer::new(COMPARE_BYTES);
    let mut seen = vec![0; COMPARE_BYTES];
    let mut offset = 0;
    while offset < len {
        let bytes =
            usize::try_from(len - offset).map_or(COMPARE_BYTES, |left| left.min(COMPARE_BYTES));
        real.resize_for_read(bytes);
        // Past the cache first: it is not to be filled by this very reading.
        direct.read_at(offset, real.as_mut_slice())?;
        cached.read_at(offset, &mut seen[..bytes])?;
        if real.as_slice() != &seen[..bytes] {
            return Ok(false);
        }
        offset += bytes as u64;
    }
    Ok(true)
}

impl<D: Dir> StateView<D> {
    /// Reads every value and every page there is. What is not as it was written, by lineage.
    ///
    /// # Errors
    /// `CorruptRecord` for what belongs to no lineage; failures of the disk.
    pub fn verify(&self) -> Result<BTreeMap<Lineage, String>, StoreError> {
        self.groups()?;
        let mut damaged = BTreeMap::new();
        let mut judge = |result: Result<(), StoreError>| match result {
            Ok(()) => Ok(()),
            Err(StoreError::Corrupt { lineage, what }) => {
                damaged.entry(lineage).or_insert(what);
                Ok(())
            }
            Err(other) => Err(other),
        };
        let all = (Bound::Unbounded, Bound::Unbounded);
        let layers = self.layers();
        layers.visit::<State>(&all, usize::MAX, |key, found| {
            judge(found.value(key).map(drop))?;
            Ok(true)
        })?;
        layers.visit::<Node>(&all, usize::MAX, |key, found| {
            judge(found.value(key).map(drop))?;
            Ok(true)
        })?;
        layers.visit::<Pages>(&all, usize::MAX, |key, _| {
            let (lineage, chunk_key) = split(key).ok_or_else(|| corrupt(Tag::Pages, key))?;
            judge(self.verify_chunk(lineage, chunk_key).map(drop))?;
            Ok(true)
        })?;
        Ok(damaged)
    }
}
