//! What the host's error numbers mean to the store.

use std::io;

use polyfs_store::disk::DiskError;

/// Translates an error of a call on the file or directory `name`, read or written at `offset`.
pub(crate) fn disk_error(error: &io::Error, name: &str, offset: u64) -> DiskError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => DiskError::Full,
        Some(libc::ENOENT) => DiskError::NotFound(name.to_owned()),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => DiskError::UnexpectedEnd(offset),
        _ => DiskError::Failed(format!("{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_meaning() {
        let of = |number| disk_error(&io::Error::from_raw_os_error(number), "f", 7);
        for full in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            assert_eq!(of(full), DiskError::Full);
        }
        assert_eq!(of(libc::ENOENT), DiskError::NotFound("f".into()));
        assert!(matches!(of(libc::EIO), DiskError::Failed(text) if text.starts_with("f: ")));
        let end = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(disk_error(&end, "f", 7), DiskError::UnexpectedEnd(7));
    }
}
