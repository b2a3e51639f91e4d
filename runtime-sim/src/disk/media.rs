//! What is on the disk, and what each operation does to it.

use std::collections::BTreeMap;

use crc_fast::crc32_iscsi;
use polyfs_store::disk::{DiskError, Space};

use super::changes::{Change, NameChange};
use super::drive::{DiskStats, Fails, Faults};
use super::pages::{PAGE, Pages};
use super::torn_part;
use crate::{chance, context};

/// A file, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct FileId(pub(super) u64);

/// One file: what the machine sees, what would survive a power cut for sure, and the changes between the two.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) view: Pages,
    pub(super) durable: Pages,
    pub(super) changes: Vec<Change>,
    pub(super) handles: usize,
}

/// The whole disk of a machine.
#[derive(Debug)]
pub(super) struct Media {
    /// Whose disk it is, for the trace.
    pub(super) machine: u64,
    pub(super) files: BTreeMap<FileId, File>,
    pub(super) names: BTreeMap<String, FileId>,
    pub(super) durable_names: BTreeMap<String, FileId>,
    pub(super) name_changes: Vec<NameChange>,
    pub(super) boot: u64,
    pub(super) powered: bool,
    pub(super) faults: Faults,
    pub(super) stats: DiskStats,
    next_file: u64,
}

fn io_error(what: &str) -> DiskError {
    DiskError::Failed(format!("simulated {what} error"))
}

impl Media {
    pub(super) fn new(machine: u64) -> Self {
        Self {
            machine,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            boot: 0,
            powered: false,
            faults: Faults::default(),
            stats: DiskStats::default(),
            next_file: 0,
        }
    }

    pub(super) fn is_of_boot(&self, boot: u64) -> bool {
        self.powered && self.boot == boot
    }

    pub(super) fn file(&mut self, file: FileId) -> &mut File {
        self.files
            .get_mut(&file)
            .expect("a file lives as long as a handle of the same boot")
    }

    fn record(&self, what: &'static str, file: FileId, numbers: [u64; 3]) {
        let [a, b, c] = numbers;
        context::record(what, &[self.machine, file.0, a, b, c]);
    }

    // Names.

    pub(super) fn open(&mut self, name: &str, create: bool) -> Result<FileId, DiskError> {
        let id = match self.names.get(name) {
            Some(id) => *id,
            None if create => {
                self.next_file += 1;
                let id = FileId(self.next_file);
                self.files.insert(id, File::default());
                self.names.insert(name.to_owned(), id);
                self.name_changes
                    .push(NameChange::Create(name.to_owned(), id));
                self.record("create", id, [0; 3]);
                id
            }
            None => return Err(DiskError::NotFound(name.to_owned())),
        };
        self.file(id).handles += 1;
        Ok(id)
    }

    pub(super) fn close(&mut self, file: FileId) {
        self.file(file).handles -= 1;
        self.forget_nameless();
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let Some(id) = self.names.remove(from) else {
            return Err(DiskError::NotFound(from.to_owned()));
        };
        self.names.insert(to.to_owned(), id);
        self.name_changes
            .push(NameChange::Rename(from.to_owned(), to.to_owned(), id));
        self.record("rename", id, [0; 3]);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        let Some(id) = self.names.remove(name) else {
            return Err(DiskError::NotFound(name.to_owned()));
        };
        self.name_changes
            .push(NameChange::Remove(name.to_owned(), id));
        self.record("remove", id, [0; 3]);
        Ok(())
    }

    pub(super) fn sync_names(&mut self) -> Result<(), DiskError> {
        self.burn_fuse()?;
        if self.faults.sync.strikes() {
            return Err(io_error("sync"));
        }
        self.stats.syncs += 1;
        self.record("sync names", FileId(0), [0; 3]);
        self.name_changes.clear();
        self.durable_names = self.names.clone();
        self.forget_nameless();
        Ok(())
    }

    /// Frees files that have no name, no handle, and no name to come back to.
    fn forget_nameless(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.files.retain(|id, file| {
            file.handles > 0
                || names.values().any(|named| named == id)
                || durable.values().any(|named| named == id)
        });
    }

    // Bytes.

    pub(super) fn len(&mut self, file: FileId) -> u64 {
        self.file(file).view.len()
    }

    pub(super) fn read(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), DiskError> {
        if self.faults.read.strikes() {
            return Err(io_error("read"));
        }
        let view = &self.file(file).view;
        if buffer.is_empty() {
            return Ok(());
        }
        if offset.saturating_add(buffer.len() as u64) > view.len() {
            return Err(DiskError::UnexpectedEnd(offset));
        }
        view.read(offset, buffer);
        Ok(())
    }

    fn change(&mut self, file: FileId, change: Change) {
        let file = self.file(file);
        change.apply(&mut file.view);
        file.changes.push(change);
    }

    pub(super) fn write(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        let crc = u64::from(crc32_iscsi(bytes));
        self.record("write", file, [offset, bytes.len() as u64, crc]);
        self.stats.writes += 1;
        if self.faults.write.strikes() {
            // Some of it may have got through before the error.
            let part = ..chance::index(bytes.len() + 1);
            self.change(file, Change::Write(offset, bytes[part].to_vec()));
            return Err(io_error("write"));
        }
        if self.is_full(file, offset, bytes.len() as u64) {
            let part = ..self.room_for(file, offset, bytes.len());
            self.change(file, Change::Write(offset, bytes[part].to_vec()));
            return Err(DiskError::Full);
        }
        let offset = self.maybe_misdirect(file, offset, bytes.len() as u64);
        self.change(file, Change::Write(offset, bytes.to_vec()));
        self.burn_fuse()
    }

    /// Where a write really goes: elsewhere in the same file, if that was asked for and there is an elsewhere.
    fn maybe_misdirect(&mut self, file: FileId, offset: u64, bytes: u64) -> u64 {
        let len = self.file(file).view.len();
        if !self.faults.misdirect || bytes == 0 || len < bytes + PAGE as u64 {
            return offset;
        }
        self.faults.misdirect = false;
        self.stats.misdirected += 1;
        let places = (len - bytes) / PAGE as u64 + 1;
        let mut wrong = chance::below(places) * PAGE as u64;
        if wrong == offset {
            wrong = if offset == 0 { PAGE as u64 } else { 0 };
        }
        self.record("misdirected", file, [offset, bytes, wrong]);
        wrong
    }

    pub(super) fn set_len(&mut self, file: FileId, len: u64) -> Result<(), DiskError> {
        let before = self.file(file).view.len();
        self.record("set length", file, [before, len, 0]);
        self.change(file, Change::Length(before, len));
        Ok(())
    }

    pub(super) fn allocate(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: u64,
    ) -> Result<(), DiskError> {
        if self.is_full(file, offset, bytes) {
            return Err(DiskError::Full);
        }
        self.record("allocate", file, [offset, bytes, 0]);
        self.change(file, Change::Allocate(offset, bytes));
        Ok(())
    }

    pub(super) fn punch(&mut self, file: FileId, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.record("punch", file, [offset, bytes, 0]);
        self.change(file, Change::Punch(offset, bytes));
        Ok(())
    }

    pub(super) fn sync_file(&mut self, id: FileId) -> Result<(), DiskError> {
        self.burn_fuse()?;
        self.record("sync", id, [0; 3]);
        if self.faults.sync.strikes() {
            self.fail_sync(id);
            return Err(io_error("sync"));
        }
        self.stats.syncs += 1;
        let file = self.file(id);
        for change in std::mem::take(&mut file.changes) {
            let (offset, bytes) = change.range();
            file.durable.adopt(&file.view, offset, bytes);
        }
        Ok(())
    }

    /// A failed sync, as Linux has it: some changes got through, some may get through yet, and some never will, though
    /// the machine goes on to read them from its cache and the next sync succeeds.
    fn fail_sync(&mut self, id: FileId) {
        let file = self.file(id);
        for change in std::mem::take(&mut file.changes) {
            match chance::below(3) {
                0 => change.apply(&mut file.durable),
                1 => file.changes.push(change),
                _ => {}
            }
        }
    }

    // Room.

    fn used_pages(&self) -> u64 {
        self.files.values().map(|file| file.view.count()).sum()
    }

    pub(super) fn space(&self) -> Space {
        let total = self.faults.capacity;
        Space {
            free: total.saturating_sub(self.used_pages() * PAGE as u64),
            total,
        }
    }

    fn is_full(&mut self, file: FileId, offset: u64, bytes: u64) -> bool {
        let missing = self.file(file).view.missing(offset, bytes) * PAGE as u64;
        missing > 0 && missing > self.space().free
    }

    /// How much of a write fits.
    fn room_for(&mut self, file: FileId, offset: u64, bytes: usize) -> usize {
        let mut fits = 0;
        while fits < bytes && !self.is_full(file, offset, fits as u64 + 1) {
            fits = bytes.min(fits + PAGE);
        }
        if self.is_full(file, offset, fits as u64) {
            fits = fits.saturating_sub(PAGE);
        }
        fits
    }

    // Damage.

    /// Counts one write or sync towards the power failure that was asked for.
    fn burn_fuse(&mut self) -> Result<(), DiskError> {
        match &mut self.faults.power_fails_after {
            None => Ok(()),
            Some(0) => {
                self.cut_power();
                Err(DiskError::PowerLost)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Fails {
    /// Whether it strikes this time; counts down.
    pub(super) fn strikes(&mut self) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Next(0) => {
                *self = Self::Never;
                false
            }
            Self::Next(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// What is left of a write that the power cut tore: the range kept.
pub(super) fn tear(offset: u64, bytes: &[u8]) -> Change {
    let part = torn_part(bytes.len());
    Change::Write(offset + part.start as u64, bytes[part].to_vec())
}
