//! The one table from what went wrong to error numbers.

use fuser::Errno;
use polyfs_core::error::FsError;

/// The number the kernel wants for an error.
pub(crate) fn errno(error: FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Invalid => Errno::EINVAL,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::CrossVolume => Errno::EXDEV,
        FsError::NotPermitted => Errno::EPERM,
        FsError::Access => Errno::EACCES,
        FsError::ReadOnly => Errno::EROFS,
        FsError::TooLarge => Errno::EFBIG,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::NoData => Errno::ENODATA,
        FsError::Range => Errno::ERANGE,
        FsError::TooBig => Errno::E2BIG,
        FsError::NoSuchAddress => Errno::ENXIO,
        FsError::WouldBlock => Errno::EAGAIN,
        FsError::Deadlock => Errno::EDEADLK,
        FsError::Interrupted => Errno::EINTR,
        FsError::Stale => Errno::ESTALE,
        FsError::BadHandle => Errno::EBADF,
        FsError::Loop => Errno::ELOOP,
        FsError::Unsupported => Errno::EOPNOTSUPP,
        FsError::Busy => Errno::EBUSY,
        FsError::Io => Errno::EIO,
    }
}
