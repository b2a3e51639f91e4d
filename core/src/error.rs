//! What can go wrong with a file operation, in the words of POSIX.
//!
//! Owns [`FsError`] and its meaning; the numbers of errno belong to the FUSE adapter alone. Redirects (another leader,
//! another epoch) are replies, not errors, and never reach this type.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a file operation failed. The names are POSIX's, without the E where that reads better.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error, Serialize, Deserialize,
)]
pub enum FsError {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("file exists")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// EINVAL.
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// EXDEV.
    #[error("cross-volume link")]
    CrossVolume,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// EACCES.
    #[error("permission denied")]
    Access,
    /// EROFS.
    #[error("read-only file system")]
    ReadOnly,
    /// EFBIG.
    #[error("file too large")]
    TooLarge,
    /// ENOSPC.
    #[error("no space left on device")]
    NoSpace,
    /// ENODATA: no such extended attribute.
    #[error("no data available")]
    NoData,
    /// ERANGE: the caller's buffer is too small.
    #[error("result too large")]
    Range,
    /// E2BIG: more than an inode may carry.
    #[error("argument list too long")]
    TooBig,
    /// ENXIO: SEEK_DATA or SEEK_HOLE past the end.
    #[error("no such device or address")]
    NoSuchAddress,
    /// EAGAIN: a lock that is held, and the caller won't wait.
    #[error("resource temporarily unavailable")]
    WouldBlock,
    /// EDEADLK.
    #[error("resource deadlock avoided")]
    Deadlock,
    /// EINTR.
    #[error("interrupted system call")]
    Interrupted,
    /// ESTALE: the inode is gone.
    #[error("stale file handle")]
    Stale,
    /// EBADF: not opened for this.
    #[error("bad file descriptor")]
    BadHandle,
    /// ELOOP.
    #[error("too many levels of symbolic links")]
    Loop,
    /// EOPNOTSUPP.
    #[error("operation not supported")]
    Unsupported,
    /// EBUSY.
    #[error("device or resource busy")]
    Busy,
    /// EIO: the cluster did not answer in time, or data is damaged or lost.
    #[error("input/output error")]
    Io,
}
