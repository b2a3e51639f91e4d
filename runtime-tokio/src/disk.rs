//! A directory and its files, on the host's filesystem.
//!
//! Owns the system calls behind the store's seam to disks. O_DIRECT is a wish: a filesystem that refuses it (at open,
//! or at the first access as some network filesystems do) gets the same file without. Deliberately has no cache and
//! no queue of its own: every call is one or two system calls, made on the caller's thread.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::statfs;
use nix::sys::statvfs::statvfs;
use polyfs_store::disk::{Dir, Disk, DiskError, OpenMode, Space};

use crate::errno::disk_error;

/// What O_DIRECT asks of offsets, lengths and buffers, in bytes.
const DIRECT_ALIGNMENT: usize = 4096;

/// One directory of the host, flat. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TokioDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    handle: File,
}

/// One open file of the host.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    name: String,
    direct: AtomicBool,
}

impl TokioDir {
    /// Opens a directory, creating it (and its parents) if it is not there.
    ///
    /// # Errors
    /// When it can't be created or opened.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let name = path.display().to_string();
        let failed = |error: io::Error| disk_error(&error, &name, 0);
        fs::create_dir_all(path).map_err(failed)?;
        let handle = File::open(path).map_err(failed)?;
        let path = path.to_owned();
        Ok(Self {
            inner: Arc::new(Inner { path, handle }),
        })
    }

    fn path_of(&self, name: &str) -> PathBuf {
        assert!(
            !name.is_empty() && !name.contains('/') && !name.starts_with('.'),
            "names in a data directory are plain and not hidden: {name:?}"
        );
        self.inner.path.join(name)
    }

    fn failed(&self, error: &io::Error) -> DiskError {
        disk_error(error, &self.inner.path.display().to_string(), 0)
    }
}

impl Dir for TokioDir {
    type Disk = FileDisk;

    fn open(&self, name: &str, mode: OpenMode) -> Result<FileDisk, DiskError> {
        let path = self.path_of(name);
        let open = |flags| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(mode.create)
                .truncate(false)
                .mode(0o600)
                .custom_flags(flags)
                .open(&path)
        };
        let (file, direct) = if mode.direct {
            match open(libc::O_DIRECT) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (open(0), false),
                opened => (opened, true),
            }
        } else {
            (open(0), false)
        };
        Ok(FileDisk {
            file: file.map_err(|error| disk_error(&error, name, 0))?,
            name: name.to_owned(),
            direct: AtomicBool::new(direct),
        })
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.inner.path).map_err(|error| self.failed(&error))? {
            let entry = entry.map_err(|error| self.failed(&error))?;
            let kind = entry.file_type().map_err(|error| self.failed(&error))?;
            // A name that is not UTF-8, or hidden (the lock, an editor's leftovers), is none of the store's.
            if let Ok(name) = entry.file_name().into_string()
                && kind.is_file()
                && !name.starts_with('.')
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::rename(self.path_of(from), self.path_of(to))
            .map_err(|error| disk_error(&error, from, 0))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        fs::remove_file(self.path_of(name)).map_err(|error| disk_error(&error, name, 0))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.inner
            .handle
            .sync_all()
            .map_err(|error| self.failed(&error))
    }

    fn space(&self) -> Result<Space, DiskError> {
        space_at(&self.inner.path).map_err(|error| self.failed(&error))
    }
}

fn space_at(path: &Path) -> io::Result<Space> {
    let told = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.fragment_size());
    Ok(Space {
        free: bytes(told.blocks_available()),
        total: bytes(told.blocks()),
    })
}

impl FileDisk {
    /// Runs a read or write; when the filesystem turns out to refuse O_DIRECT only now, does without from here on.
    fn transfer<T>(
        &self,
        offset: u64,
        memory: (*const u8, usize),
        mut call: impl FnMut(&File) -> io::Result<T>,
    ) -> Result<T, DiskError> {
        let direct = self.direct.load(Ordering::Relaxed);
        if direct {
            assert!(
                offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
                    && memory.1.is_multiple_of(DIRECT_ALIGNMENT)
                    && memory.0.align_offset(DIRECT_ALIGNMENT) == 0,
                "direct access to {} is aligned: {} bytes at {offset} from {:p}",
                self.name,
                memory.1,
                memory.0
            );
        }
        let failed = |error: io::Error| disk_error(&error, &self.name, offset);
        match call(&self.file) {
            Err(error) if direct && error.raw_os_error() == Some(libc::EINVAL) => {
                clear_direct(self.file.as_raw_fd()).map_err(failed)?;
                self.direct.store(false, Ordering::Relaxed);
                call(&self.file).map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, bytes: u64) -> Result<(), DiskError> {
        if bytes == 0 {
            return Ok(());
        }
        fallocate(self.file.as_raw_fd(), mode, offset, bytes)
            .map_err(|error| disk_error(&error, &self.name, offset))
    }

    fn failed(&self, error: &io::Error) -> DiskError {
        disk_error(error, &self.name, 0)
    }
}

impl Disk for FileDisk {
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self
            .file
            .metadata()
            .map_err(|error| self.failed(&error))?
            .len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let memory = (buffer.as_ptr(), buffer.len());
        self.transfer(offset, memory, |file| file.read_exact_at(buffer, offset))
    }

    fn is_at_hand(&self, offset: u64, bytes: u64) -> bool {
        // Its first and its last byte stand for what lies between.
        let last = offset + bytes.saturating_sub(1);
        let fd = self.file.as_raw_fd();
        is_cached(fd, offset) && (last == offset || is_cached(fd, last))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let memory = (bytes.as_ptr(), bytes.len());
        self.transfer(offset, memory, |file| file.write_all_at(bytes, offset))
    }

    fn writes_blocks_alone(&self) -> bool {
        is_ext4_of_small_blocks(&self.file)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|error| self.failed(&error))
    }

    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.file
            .set_len(bytes)
            .map_err(|error| self.failed(&error))
    }

    fn allocate(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.fallocate(0, offset, bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.fallocate(mode, offset, bytes)
    }
}

/// ext4 remembers for each of its blocks whether it is dirty. Others may remember it for a folio (XFS before Linux 6.6).
fn is_ext4_of_small_blocks(file: &File) -> bool {
    statfs::fstatfs(file).is_ok_and(|told| {
        let blocks = usize::try_from(told.block_size()).unwrap_or(usize::MAX);
        told.filesystem_type() == statfs::EXT4_SUPER_MAGIC && blocks <= DIRECT_ALIGNMENT
    })
}

/// Whether the page cache holds a byte of a file. Where the filesystem can't say, it is taken to.
#[expect(unsafe_code, reason = "the standard library has no preadv2")]
fn is_cached(fd: RawFd, offset: u64) -> bool {
    let Ok(offset) = libc::off_t::try_from(offset) else {
        return true;
    };
    let mut byte = 0_u8;
    let into = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: `into` is one piece of one byte that outlives the call; an invalid descriptor would only give an error.
    let read = unsafe { libc::preadv2(fd, &raw const into, 1, offset, libc::RWF_NOWAIT) };
    read >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

#[expect(unsafe_code, reason = "the standard library has no fallocate")]
fn fallocate(fd: RawFd, mode: libc::c_int, offset: u64, bytes: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let offset = libc::off_t::try_from(offset).map_err(too_large)?;
    let bytes = libc::off_t::try_from(bytes).map_err(too_large)?;
    loop {
        // SAFETY: plain integers; an invalid descriptor would only give an error.
        if unsafe { libc::fallocate(fd, mode, offset, bytes) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[expect(unsafe_code, reason = "the standard library has no fcntl")]
fn clear_direct(fd: RawFd) -> io::Result<()> {
    // SAFETY: reads the status flags of a descriptor; an invalid one would only give an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sets the status flags of a descriptor from a plain integer.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_DIRECT) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
