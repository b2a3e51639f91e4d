//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The name of the lock file in a data directory; names that begin with a dot are not listed by `Dir::list`.
const LOCK_FILE: &str = ".lock";

/// Holds a data directory for this process until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Why a data directory could not be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "data directory {0} is in use by another polyfs process: stop that one, or choose another directory"
    )]
    InUse(PathBuf),
    /// The lock file can't be created or locked.
    #[error("data directory {path} can't be locked; may this user write there?")]
    Failed {
        /// The data directory.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// Locks the data directory `path`, which exists, against other processes (flock: a crash frees it).
///
/// # Errors
/// When another process holds it, or the lock file can't be created.
pub fn lock_data_dir(path: &Path) -> Result<DataDirLock, LockError> {
    let failed = |source| LockError::Failed {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join(LOCK_FILE))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(DataDirLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(LockError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
