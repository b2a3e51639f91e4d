//! The faulty disk: files and names that outlive the machine's boots, and what a power cut makes of them.
//!
//! ```text
//! Drive (test's handle) ─┐
//! SimDir, SimDisk (of one boot) ─┴─ Media { files: view + durable + changes between them; names likewise }
//! ```
//! A write changes the *view* at once and is remembered as a *change*; a sync carries a file's changes over to the
//! *durable* image; a power cut keeps an arbitrary part of the changes, each whole, torn at any byte, or not at all,
//! and makes the durable image the view of the next boot. Names behave likewise, and are synced by the directory.
//! Which failure happens where is drawn from the seed; *that* one happens is asked for through [`Drive`].

mod changes;
mod drive;
mod media;
mod pages;
mod power;

use std::sync::Arc;

use parking_lot::Mutex;
use polyfs_store::disk::{Dir, Disk, DiskError, OpenMode, Space};

pub use drive::{DiskStats, Drive, Fails};
use media::{FileId, Media};

use crate::chance;

/// What O_DIRECT asks of offsets, lengths and buffers, in bytes.
const DIRECT_ALIGNMENT: usize = 4096;

/// The disk's state, and what to do when the power fails in the middle of an operation.
pub(crate) struct Shared {
    media: Mutex<Media>,
    on_power_loss: Mutex<Option<PowerLossHook>>,
}

pub(crate) type PowerLossHook = Arc<dyn Fn() + Send + Sync>;

impl Shared {
    /// Runs an operation of the boot `boot`; kills the machine afterwards if the power failed in it.
    fn operate<T>(
        &self,
        boot: u64,
        operation: impl FnOnce(&mut Media) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let (result, failed) = {
            let mut media = self.media.lock();
            if !media.is_of_boot(boot) {
                return Err(DiskError::PowerLost);
            }
            let result = operation(&mut media);
            (result, !media.is_of_boot(boot))
        };
        if failed {
            // Outside the lock: the hook cuts this disk's power again and drops whoever holds its handles.
            let hook = self.on_power_loss.lock().clone();
            if let Some(hook) = hook {
                hook();
            }
        }
        result
    }
}

/// The data directory of one boot of a machine. Cheap to clone.
#[derive(Clone)]
pub struct SimDir {
    shared: Arc<Shared>,
    boot: u64,
}

/// One open file, of one boot.
pub struct SimDisk {
    shared: Arc<Shared>,
    boot: u64,
    file: FileId,
    direct: bool,
}

fn assert_plain(name: &str) {
    assert!(
        !name.is_empty() && !name.contains('/') && !name.starts_with('.'),
        "names in a data directory are plain and not hidden: {name:?}"
    );
}

impl Dir for SimDir {
    type Disk = SimDisk;

    fn open(&self, name: &str, mode: OpenMode) -> Result<SimDisk, DiskError> {
        assert_plain(name);
        let file = self
            .shared
            .operate(self.boot, |media| media.open(name, mode.create))?;
        Ok(SimDisk {
            shared: Arc::clone(&self.shared),
            boot: self.boot,
            file,
            direct: mode.direct,
        })
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.shared.operate(self.boot, |media| Ok(media.list()))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        assert_plain(to);
        self.shared
            .operate(self.boot, |media| media.rename(from, to))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.shared.operate(self.boot, |media| media.remove(name))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.shared.operate(self.boot, Media::sync_names)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.shared.operate(self.boot, |media| Ok(media.space()))
    }
}

impl SimDisk {
    fn operate<T>(
        &self,
        operation: impl FnOnce(&mut Media, FileId) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        self.shared
            .operate(self.boot, |media| operation(media, self.file))
    }

    /// Production falls back silently where O_DIRECT refuses, so an unaligned access would be found there only on
    /// some filesystems: found here always.
    fn assert_aligned(&self, offset: u64, memory: &[u8]) {
        assert!(
            !self.direct
                || (offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
                    && memory.len().is_multiple_of(DIRECT_ALIGNMENT)
                    && memory.as_ptr().align_offset(DIRECT_ALIGNMENT) == 0),
            "direct access is aligned: {} bytes at {offset} from {:p}",
            memory.len(),
            memory.as_ptr()
        );
    }
}

impl Disk for SimDisk {
    fn len(&self) -> Result<u64, DiskError> {
        self.operate(|media, file| Ok(media.len(file)))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.assert_aligned(offset, buffer);
        self.operate(|media, file| media.read(file, offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.assert_aligned(offset, bytes);
        self.operate(|media, file| media.write(file, offset, bytes))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.operate(Media::sync_file)
    }

    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.operate(|media, file| media.set_len(file, bytes))
    }

    fn allocate(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.operate(|media, file| media.allocate(file, offset, bytes))
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.operate(|media, file| media.punch(file, offset, bytes))
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        let mut media = self.shared.media.lock();
        if media.is_of_boot(self.boot) {
            media.close(self.file);
        }
    }
}

/// Which part of `bytes` bytes a torn write leaves behind: a beginning, an end, or something in between.
fn torn_part(bytes: usize) -> std::ops::Range<usize> {
    let one = chance::index(bytes + 1);
    match chance::below(3) {
        0 => 0..one,
        1 => one..bytes,
        _ => {
            let two = chance::index(bytes + 1);
            one.min(two)..one.max(two)
        }
    }
}
