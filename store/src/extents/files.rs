//! The data files: growing them, writing and reading extents, making them durable.
//!
//! Owns the files `data-0000`, `data-0001`, ... of a directory and the [`Allocator`] over them. Rule 1 is a type here:
//! [`DataFiles::sync`] gives an [`ExtentsSynced`], which the log asks for before it writes a record that points to an
//! extent. Deliberately knows no page map.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

use bytes::Bytes;
use polyfs_core::limits::PAGE_BYTES;

use super::allocator::{Allocator, Changes};
use super::checksum::Crc;
use super::data_file::{DataFile, Way};
use super::run::BlockRun;
use crate::aligned::AlignedBuffer;
use crate::disk::{Dir, Disk, DiskError, OpenMode};
use crate::extent_ref::ExtentRef;
use crate::state::{Poison, Reserve, Share, StoreError};

/// Bytes of a block, as offsets are counted.
pub(super) const BLOCK: u64 = PAGE_BYTES as u64;

/// So few blocks cost less through the page cache: about 9 us of CPU each, against 40 us of a write past it.
const FEW_BLOCKS_MAX: u32 = 8;

/// How data files are laid out.
#[derive(Clone, Copy, Debug)]
pub struct DataConfig {
    /// A data file grows to this many bytes, then the next one begins. A multiple of 4096; at least the largest
    /// extent.
    pub file_bytes: u64,
    /// ... in steps of this many bytes.
    pub step_bytes: u64,
    /// Past the page cache where the filesystem can.
    pub direct: bool,
    /// Free runs shorter than this many bytes are not punched.
    pub punch_bytes_min: u64,
    /// So many bytes of small overwrites wait in memory for the next checkpoint to write them; what is more is written
    /// at once.
    pub fresh_bytes_max: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            file_bytes: 1 << 30,
            step_bytes: 64 << 20,
            direct: true,
            punch_bytes_min: 1 << 20,
            fresh_bytes_max: 16 << 20,
        }
    }
}

/// Proof that extents are on stable storage (P10, rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentsSynced {
    through: u64,
}

impl ExtentsSynced {
    /// Whether this extent was complete before the sync began.
    #[must_use]
    pub fn covers(&self, written: &Written) -> bool {
        written.sequence <= self.through
    }
}

/// A fresh extent, held until its pin is dropped; perhaps not durable yet.
#[derive(Debug)]
pub struct Written {
    /// Keeps its space; goes along with the log record.
    pub pin: Pin,
    sequence: u64,
}

/// Holds the space of an extent for a log record or a read of it.
#[derive(Debug)]
pub struct Pin {
    space: Space,
    extent: ExtentRef,
}

impl Pin {
    /// What is held.
    #[must_use]
    pub fn extent(&self) -> ExtentRef {
        self.extent
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        lock(&self.space).pin(run_of(&self.extent).expect("what is pinned was checked"));
        Self {
            space: Arc::clone(&self.space),
            extent: self.extent,
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A broken law is being reported: nothing is given out any more.
            return;
        }
        lock(&self.space).unpin(run_of(&self.extent).expect("what is pinned was checked"));
    }
}

/// Keeps everything that is visible now from being reused until dropped.
#[derive(Debug)]
pub(crate) struct ReadGuard {
    space: Space,
    epoch: u64,
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        lock(&self.space).leave(self.epoch);
    }
}

/// Bytes of the data files, for statfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In use, or waiting to become free.
    pub used: u64,
    /// Free inside the files.
    pub free: u64,
    /// Of `free`, what was given back to the filesystem: whoever writes there needs room on the disk.
    pub holes: u64,
    /// Of `used`, what the next durable commits and leaving readers free.
    pub retired: u64,
    /// Of `used`, what no page map refers to: extents that are held for the log alone, or by a reader.
    pub kept: u64,
}

type Space = Arc<Mutex<Allocator>>;

fn lock(space: &Space) -> MutexGuard<'_, Allocator> {
    space
        .lock()
        .expect("allocator laws hold, so nothing panics under this lock")
}

/// The blocks that an extent occupies; None when the reference is nonsense.
fn run_of(extent: &ExtentRef) -> Option<BlockRun> {
    let first = u32::try_from(extent.offset / BLOCK).ok()?;
    let end = extent
        .offset
        .checked_add(u64::from(extent.bytes))?
        .div_ceil(BLOCK);
    let count = u32::try_from(end).ok()?.checked_sub(first)?;
    (count > 0).then_some(BlockRun {
        file: extent.file,
        first,
        count,
    })
}

/// All data files of a node.
#[derive(Debug)]
pub struct DataFiles<D: Dir> {
    dir: Arc<D>,
    config: DataConfig,
    files: RwLock<BTreeMap<u32, Arc<DataFile<D::Disk>>>>,
    space: Space,
    growing: Mutex<()>,
    sequence: AtomicU64,
    poison: Poison,
    /// Grown from, when the disk is full.
    reserve: OnceLock<Arc<Reserve<D>>>,
}

fn file_name(file: u32) -> String {
    format!("data-{file:04}")
}

fn blocks_of(bytes: u64) -> u32 {
    u32::try_from(bytes / BLOCK).unwrap_or(u32::MAX)
}

impl<D: Dir> DataFiles<D> {
    /// Opens what is there; nothing can be allocated before [`Self::finish_open`].
    pub(crate) fn open(
        dir: Arc<D>,
        config: DataConfig,
        poison: Poison,
    ) -> Result<Self, StoreError> {
        assert!(
            config.file_bytes.is_multiple_of(BLOCK) && config.step_bytes.is_multiple_of(BLOCK),
            "data files are made of whole blocks"
        );
        let mut files = BTreeMap::new();
        let mut space = Allocator::default();
        for name in dir.list()? {
            let number = name
                .strip_prefix("data-")
                .and_then(|number| number.parse().ok());
            let Some(file) = number.filter(|file| file_name(*file) == name) else {
                continue;
            };
            let mode = OpenMode {
                create: false,
                direct: config.direct,
            };
            let opened = DataFile::open(&*dir, &name, mode)?;
            space.add_file(file, blocks_of(opened.disk.len()?));
            files.insert(file, Arc::new(opened));
        }
        Ok(Self {
            dir,
            config,
            files: RwLock::new(files),
            space: Arc::new(Mutex::new(space)),
            growing: Mutex::new(()),
            sequence: AtomicU64::new(0),
            poison,
            reserve: OnceLock::new(),
        })
    }

    /// From now on a full disk's reserve is used to store what was ordered.
    pub(crate) fn draw_on(&self, reserve: &Arc<Reserve<D>>) {
        let _ = self.reserve.set(Arc::clone(reserve));
    }

    /// Whether the files have these blocks.
    pub(crate) fn has(&self, run: BlockRun) -> bool {
        self.space().exists(run)
    }

    /// At open: a durable page map refers to these blocks. False when that cannot be.
    pub(crate) fn found_in_page_map(&self, run: BlockRun) -> bool {
        self.space().try_map(run)
    }

    /// Ends open: `log` is what the unpurged log refers to, `withhold` says that some page map was unreadable.
    pub(crate) fn finish_open(
        &self,
        log: &[ExtentRef],
        withhold: bool,
    ) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Vec::with_capacity(log.len());
        for extent in log {
            let run = run_of(extent).ok_or(StoreError::CorruptExtent(*extent))?;
            let mut space = self.space();
            if !space.exists(run) {
                return Err(StoreError::DataShort);
            }
            if !space.pin_fits(run) {
                drop(space);
                return Err(StoreError::CorruptExtent(*extent));
            }
            space.pin(run);
            pins.push(Pin {
                space: Arc::clone(&self.space),
                extent: *extent,
            });
        }
        let mut space = self.space();
        if withhold {
            space.withhold();
        }
        space.derive_free();
        drop(space);
        Ok(pins)
    }

    pub(super) fn space(&self) -> MutexGuard<'_, Allocator> {
        lock(&self.space)
    }

    pub(crate) fn fresh_bytes_max(&self) -> usize {
        self.config.fresh_bytes_max
    }

    fn file(&self, file: u32) -> Option<Arc<DataFile<D::Disk>>> {
        self.files
            .read()
            .expect("nothing panics under this lock")
            .get(&file)
            .cloned()
    }

    /// Writes bytes to fresh space, padded to whole blocks. `lead` (below 4096) is where in a file's page the first
    /// byte belongs: content that lies in its extent as in its pages is later mapped without a copy.
    ///
    /// # Errors
    /// `Full` when no contiguous space can be had; other failures of the disk poison the store.
    ///
    /// # Panics
    /// When `bytes` is empty or larger than a data file.
    pub fn write_extent(&self, bytes: &[u8], lead: usize) -> Result<Written, StoreError> {
        self.poison.check()?;
        assert!(
            !bytes.is_empty() && lead < PAGE_BYTES,
            "an extent has bytes, and a lead in a page"
        );
        let count = u32::try_from((lead + bytes.len()).div_ceil(PAGE_BYTES)).expect("it is small");
        let run = self.take(count)?;
        let extent = ExtentRef {
            file: run.file,
            offset: u64::from(run.first) * BLOCK + lead as u64,
            bytes: u32::try_from(bytes.len()).expect("an extent fits a data file"),
            crc: Crc::of(bytes),
        };
        self.space().pin(run);
        let pin = Pin {
            space: Arc::clone(&self.space),
            extent,
        };
        let mut buffer = AlignedBuffer::new(count as usize * PAGE_BYTES);
        buffer.resize(lead);
        buffer.extend(bytes);
        buffer.pad();
        self.write_blocks(run, buffer.as_slice())?;
        let sequence = self.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Written { pin, sequence })
    }

    /// Makes every extent whose write has returned durable; not the pages that wait in memory for a checkpoint.
    ///
    /// # Errors
    /// Any failure poisons the store.
    pub fn sync(&self) -> Result<ExtentsSynced, StoreError> {
        let through = self.sequence.load(Ordering::Acquire);
        if !cfg!(planted = "extent_after_record") {
            self.sync_files()?;
        }
        Ok(ExtentsSynced { through })
    }

    /// Syncs all data files that were written since their last sync.
    pub(crate) fn sync_files(&self) -> Result<(), StoreError> {
        self.poison.check()?;
        let files: Vec<_> = self
            .files
            .read()
            .expect("nothing panics under this lock")
            .values()
            .cloned()
            .collect();
        for file in files {
            // Whoever finds the file clean has waited here for the sync that made it so.
            let _turn = file.syncing.lock().expect("nothing panics under this lock");
            // ... and if that one failed, it is not clean.
            self.poison.check()?;
            if file.dirty.swap(false, Ordering::AcqRel) {
                let synced = file.disk.sync_data();
                synced.map_err(|error| self.poison.sync("sync of a data file", error))?;
            }
        }
        Ok(())
    }

    /// Holds an extent that a log record or somebody's pin already holds.
    ///
    /// # Errors
    /// `ExtentGone` when nobody does.
    pub fn pin(&self, extent: ExtentRef) -> Result<Pin, StoreError> {
        let run = run_of(&extent).ok_or(StoreError::ExtentGone(extent))?;
        let mut space = self.space();
        if !space.is_pinned(run) {
            return Err(StoreError::ExtentGone(extent));
        }
        space.pin(run);
        Ok(Pin {
            space: Arc::clone(&self.space),
            extent,
        })
    }

    /// Reads a part of an extent that a log record holds, and verifies all of it.
    ///
    /// # Errors
    /// `CorruptExtent` when the bytes are not those written; `ExtentGone`; failures of the disk.
    ///
    /// # Panics
    /// When `range` is not inside the extent.
    pub fn read(&self, extent: ExtentRef, range: Range<u32>) -> Result<Bytes, StoreError> {
        assert!(
            range.start <= range.end && range.end <= extent.bytes,
            "a part of the extent"
        );
        let _held = self.pin(extent)?;
        let run = run_of(&extent).expect("what is pinned was checked");
        let lead = usize::try_from(extent.offset % BLOCK).expect("below a block");
        let mut room = vec![0; run.count as usize * PAGE_BYTES];
        for way in [Way::ThroughCache, Way::PastCache] {
            if !self.read_blocks(run, way, &mut room)? {
                break;
            }
            let bytes = &room[lead..lead + extent.bytes as usize];
            if Crc::of(bytes) == extent.crc {
                let part = &bytes[range.start as usize..range.end as usize];
                return Ok(Bytes::copy_from_slice(part));
            }
        }
        Err(StoreError::CorruptExtent(extent))
    }

    /// Used and free bytes.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let space = self.space();
        let (free, all, retired) = space.counts();
        Usage {
            holes: space.holes() * BLOCK,
            used: (all - free) * BLOCK,
            free: free * BLOCK,
            retired: retired * BLOCK,
            kept: space.only_pinned() * BLOCK,
        }
    }

    /// Gives up to `budget` bytes of free space back to the filesystem, the longest runs first; returns how many.
    /// For idle times, and for a reserve that has to be filled up: writing into a hole later is slow, and on a full disk it
    /// takes from the reserve.
    ///
    /// # Errors
    /// Failures of the disk, which poison the store.
    pub fn punch_free(&self, budget: u64) -> Result<u64, StoreError> {
        self.poison.check()?;
        let least = blocks_of(self.config.punch_bytes_min).max(1);
        let mut left = blocks_of(budget);
        let mut punched = 0;
        while left >= least {
            let Some(run) = self.space().take_unpunched(left, least) else {
                break;
            };
            let file = self.file(run.file).expect("a free run lies in a file");
            let bytes = u64::from(run.count) * BLOCK;
            let done = file.disk.punch(u64::from(run.first) * BLOCK, bytes);
            self.space().put_hole(run);
            done.map_err(|error| self.poison.disk("punching a data file", error))?;
            left -= run.count;
            punched += bytes;
        }
        Ok(punched)
    }

    /// Contiguous blocks, from grown files if need be.
    fn take(&self, count: u32) -> Result<BlockRun, StoreError> {
        loop {
            let taken = self.space().take(count);
            match taken {
                Some(run) => return Ok(run),
                None => self.grow(count)?,
            }
        }
    }

    /// Blocks for `count` fresh pages, in as few runs as can be had, already counted as mapped in `changes`.
    pub(crate) fn take_pages(
        &self,
        count: u32,
        changes: &mut Changes,
    ) -> Result<Vec<BlockRun>, StoreError> {
        self.poison.check()?;
        let mut runs = Vec::new();
        let mut left = count;
        while left > 0 {
            let run = self.take_up_to(left)?;
            self.space().map(run);
            changes.mapped.push(run);
            left -= run.count;
            runs.push(run);
        }
        Ok(runs)
    }

    /// All of them contiguous if that is to be had, else as many as the largest free run has.
    fn take_up_to(&self, count: u32) -> Result<BlockRun, StoreError> {
        {
            let mut space = self.space();
            let contiguous = space.take(count);
            let run = match contiguous {
                None if space.has_spare_pieces() => space.take_some(count),
                found => found,
            };
            if let Some(run) = run {
                return Ok(run);
            }
        }
        match self.take(count) {
            Err(StoreError::Disk(DiskError::Full)) => {
                let some = self.space().take_some(count);
                some.ok_or(StoreError::Disk(DiskError::Full))
            }
            other => other,
        }
    }

    /// Contiguous blocks if there are any without growing, already counted as mapped.
    pub(crate) fn take_contiguous(&self, count: u32, changes: &mut Changes) -> Option<BlockRun> {
        let mut space = self.space();
        let run = space.take(count)?;
        space.map(run);
        changes.mapped.push(run);
        Some(run)
    }

    /// A log record's blocks come into a page map too.
    ///
    /// # Panics
    /// When no pin holds them.
    pub(crate) fn map_pinned(&self, run: BlockRun, changes: &mut Changes) {
        let mut space = self.space();
        assert!(
            space.lies_in_a_pin(run),
            "{run:?}: a log record holds what a page map takes over"
        );
        space.map(run);
        changes.mapped.push(run);
    }

    fn grow(&self, count: u32) -> Result<(), StoreError> {
        let _one = self.growing.lock().expect("nothing panics under this lock");
        let file_blocks = blocks_of(self.config.file_bytes);
        assert!(count <= file_blocks, "an extent fits a data file");
        let (last, old) = {
            let mut space = self.space();
            if let Some(found) = space.take(count) {
                // Somebody else has grown meanwhile.
                space.put_back(found);
                return Ok(());
            }
            let last = space.last_file();
            (last, last.map_or(0, |file| space.file_blocks(file)))
        };
        let room = file_blocks.saturating_sub(old);
        let file = match last {
            Some(file) if room > 0 => file,
            Some(file) => self.new_file(file + 1)?,
            None => self.new_file(0)?,
        };
        let old = if Some(file) == last { old } else { 0 };
        // What is left of a file may be less than asked for; the caller comes again.
        let count = count.min(file_blocks - old);
        let step = blocks_of(self.config.step_bytes)
            .max(count)
            .min(file_blocks - old);
        let disk = self.file(file).expect("the file was found or made");
        let allocate = |blocks: u32| {
            disk.disk
                .allocate(u64::from(old) * BLOCK, u64::from(blocks) * BLOCK)
        };
        let grown = match allocate(step) {
            Err(DiskError::Full) if step > count => allocate(count).map(|()| count),
            other => other.map(|()| step),
        };
        // What was ordered must be stored: a full disk refuses earlier, where requests arrive (P10).
        let grown = match (grown, self.reserve.get()) {
            (Err(DiskError::Full), Some(reserve)) => reserve
                .growing(Share::Data, || allocate(count))
                .map(|()| count),
            (grown, _) => grown,
        };
        let grown = grown.map_err(|error| self.poison.disk("growing a data file", error))?;
        disk.dirty.store(true, Ordering::Release);
        self.space().grow(file, old + grown);
        Ok(())
    }

    fn new_file(&self, file: u32) -> Result<u32, StoreError> {
        let mode = OpenMode {
            create: true,
            direct: self.config.direct,
        };
        let made = DataFile::open(&*self.dir, &file_name(file), mode);
        let made = made.map_err(|error| self.poison.disk("creating a data file", error))?;
        // Before anything in it can matter, its name is durable.
        self.dir
            .sync()
            .map_err(|error| self.poison.sync("sync of the directory", error))?;
        let mut files = self.files.write().expect("nothing panics under this lock");
        files.insert(file, Arc::new(made));
        Ok(file)
    }

    /// Writes whole blocks; `bytes` is aligned and as long as the run.
    pub(crate) fn write_blocks(&self, run: BlockRun, bytes: &[u8]) -> Result<(), StoreError> {
        assert_eq!(
            bytes.len(),
            run.count as usize * PAGE_BYTES,
            "a run is written whole"
        );
        let file = self
            .file(run.file)
            .expect("an allocated run lies in a file");
        let way = self.way_to_write(run);
        let write = || file.write(way, u64::from(run.first) * BLOCK, bytes);
        let written = match (write(), self.reserve.get()) {
            // The run is a hole, and what was ordered must be stored (P10).
            (Err(DiskError::Full), Some(reserve)) => reserve.growing(Share::Data, write),
            (written, _) => written,
        };
        file.dirty.store(true, Ordering::Release);
        written.map_err(|error| self.poison.disk("writing file data", error))?;
        self.space().written(run);
        Ok(())
    }

    /// A few blocks go through the cache; not those that this process has not written yet: whatever the filesystem has to
    /// do for them first would fail at the sync or, on ext4, in silence.
    fn way_to_write(&self, run: BlockRun) -> Way {
        if run.count <= FEW_BLOCKS_MAX && !self.space().is_raw(run) {
            Way::ThroughCache
        } else {
            Way::PastCache
        }
    }

    /// Reads blocks into the beginning of `room`; false when their file is not there or ends before them.
    pub(crate) fn read_blocks(
        &self,
        run: BlockRun,
        way: Way,
        room: &mut [u8],
    ) -> Result<bool, StoreError> {
        let Some(file) = self.file(run.file) else {
            return Ok(false);
        };
        // Before the disk is looked at: what is not here any more by now is there.
        let fresh = self.space().fresh.of(run);
        let room = &mut room[..run.count as usize * PAGE_BYTES];
        if fresh.len() < run.count as usize {
            let offset = u64::from(run.first) * BLOCK;
            match file.read(way, offset, room) {
                Ok(()) => {}
                Err(DiskError::UnexpectedEnd(_)) => return Ok(false),
                Err(error) => return Err(StoreError::Disk(error)),
            }
        }
        for (place, bytes) in fresh {
            let at = place * PAGE_BYTES;
            room[at..at + PAGE_BYTES].copy_from_slice(&bytes);
        }
        Ok(true)
    }

    /// Whether [`Self::read_blocks`] would wait for the disk, as far as one can say.
    pub(crate) fn read_waits(&self, run: BlockRun) -> bool {
        let in_memory = self.space().fresh.of(run).len() == run.count as usize;
        let bytes = u64::from(run.count) * BLOCK;
        let file = self.file(run.file);
        !in_memory && file.is_some_and(|file| !file.is_at_hand(u64::from(run.first) * BLOCK, bytes))
    }

    pub(crate) fn commit(&self, changes: Changes) {
        self.space().commit(changes);
    }

    pub(crate) fn abort(&self, changes: Changes) {
        self.space().abort(changes);
    }

    /// What was put into memory is the checkpoint's to write; the epoch that it ends with.
    pub(crate) fn freeze(&self) -> u64 {
        self.space().freeze()
    }

    pub(crate) fn durable_through(&self, epoch: u64) {
        self.space().durable_through(epoch);
    }

    pub(crate) fn enter(&self) -> ReadGuard {
        let epoch = self.space().enter();
        ReadGuard {
            space: Arc::clone(&self.space),
            epoch,
        }
    }
}
