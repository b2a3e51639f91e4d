//! Small files that a data directory keeps beside log and state: replaced whole, and never believed when damaged.
//!
//! Owns their form: the record, then its CRC32C. The form is for ever; what the record says has a version of its own,
//! so that a newer file is told from a damaged one. Deliberately knows no record.

use crc_fast::crc32_iscsi;
use polyfs_core::codec::DecodeError;
use polyfs_store::disk::{Dir, Disk, DiskError, OpenMode};

const SUM_BYTES: usize = 4;
/// None of them comes near.
const FILE_BYTES_MAX: usize = 1 << 20;

/// What a file holds; `None` when there is none.
///
/// # Errors
/// Failures of the disk; inside, what is wrong with the file.
pub(crate) fn read(
    dir: &impl Dir,
    name: &str,
) -> Result<Option<Result<Vec<u8>, DecodeError>>, DiskError> {
    let mode = OpenMode {
        create: false,
        direct: false,
    };
    let file = match dir.open(name, mode) {
        Ok(file) => file,
        Err(DiskError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if !(SUM_BYTES..=FILE_BYTES_MAX).contains(&len) {
        return Ok(Some(Err(DecodeError::Invalid(
            "record: its length is wrong",
        ))));
    }
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)?;
    let sum = bytes.split_off(len - SUM_BYTES);
    let sound = crc32_iscsi(&bytes).to_le_bytes()[..] == sum[..];
    Ok(Some(if sound {
        Ok(bytes)
    } else {
        Err(DecodeError::Invalid("record: its checksum does not hold"))
    }))
}

/// Replaces a file; durable when this returns.
///
/// # Errors
/// When the disk fails: the old one then still stands.
pub(crate) fn write(dir: &impl Dir, name: &str, record: &[u8]) -> Result<(), DiskError> {
    let new = format!("{name}.new");
    let mode = OpenMode {
        create: true,
        direct: false,
    };
    let mut bytes = record.to_vec();
    bytes.extend_from_slice(&crc32_iscsi(record).to_le_bytes());
    let file = dir.open(&new, mode)?;
    file.set_len(0)?;
    file.write_at(0, &bytes)?;
    file.sync_data()?;
    dir.rename(&new, name)?;
    dir.sync()
}

/// Removes a file, durably, if it is there.
///
/// # Errors
/// Failures of the disk.
pub(crate) fn remove(dir: &impl Dir, name: &str) -> Result<(), DiskError> {
    match dir.remove(name) {
        Ok(()) => dir.sync(),
        Err(DiskError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
