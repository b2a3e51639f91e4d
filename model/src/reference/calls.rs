//! What a call is about, told from its arguments and its answer.

use polyfs_core::error::FsError;
use polyfs_core::place::Ino;
use polyfs_core::vfs::{Call, Outcome, Reply};

/// Whether both errors apply to a call. A directory moved below itself onto something that it can't replace either, or
/// into a directory that is gone, is wrong twice. Linux tells EINVAL before ENOTDIR and ENOTEMPTY, and ENOENT before
/// EINVAL, and does so itself from what the mount's kernel knows; what reaches a region all the same are races, of which
/// either error is true.
pub(super) fn either(call: &Call, expected: FsError, found: FsError) -> bool {
    matches!(call, Call::Rename { .. })
        && expected == FsError::Invalid
        && matches!(
            found,
            FsError::NotDirectory | FsError::NotEmpty | FsError::NotFound
        )
}

/// The number that a call drew, as its answer shows.
pub(super) fn drawn_number(outcome: &Outcome) -> Option<Ino> {
    match outcome {
        Ok(Reply::Attr(attr) | Reply::Created(attr, _)) => Some(attr.ino),
        _ => None,
    }
}

/// The inode that a call is about, when that is one.
pub(super) fn subject(call: &Call) -> Option<Ino> {
    match call {
        Call::GetAttr { ino }
        | Call::Revalidate { ino, .. }
        | Call::SetAttr { ino, .. }
        | Call::ReadLink { ino }
        | Call::Link { ino, .. }
        | Call::Open { ino, .. }
        | Call::Read { ino, .. }
        | Call::Write { ino, .. }
        | Call::Sync { ino, .. }
        | Call::Flush { ino, .. }
        | Call::OpenDir { ino }
        | Call::ReadDir { ino, .. }
        | Call::GetXattr { ino, .. }
        | Call::ListXattr { ino }
        | Call::SetXattr { ino, .. }
        | Call::RemoveXattr { ino, .. }
        | Call::TestLock { ino, .. }
        | Call::SetLock { ino, .. }
        | Call::Unlock { ino, .. }
        | Call::Allocate { ino, .. }
        | Call::Seek { ino, .. }
        | Call::Release { ino, .. } => Some(*ino),
        Call::Lookup { dir, .. }
        | Call::Make { dir, .. }
        | Call::Unlink { dir, .. }
        | Call::RemoveDir { dir, .. }
        | Call::Rename { dir, .. }
        | Call::Create { dir, .. } => Some(*dir),
        Call::ReleaseDir { .. } | Call::StatFs => None,
    }
}
