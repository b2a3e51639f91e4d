//! Which events may change places in an order without anybody noticing.
//!
//! Owns the rule by which the search leaves out orders that another one stands for. Errs to the side of order: what is
//! not known to commute does not.

use polyfs_core::place::Ino;
use polyfs_core::vfs::{Call, Reply};

use crate::history::{Event, Kind};

/// What of a tree an event whose end nobody learnt may change.
enum Reach {
    /// The locks of an inode.
    Locks(Ino),
    /// An inode's content, attributes, locks and xattrs, no names.
    Inode(Ino),
    /// Anything.
    All,
}

fn reach(unknown: &Event) -> Reach {
    match &unknown.call {
        Call::SetLock { ino, .. }
        | Call::Unlock { ino, .. }
        | Call::Release { ino, .. }
        | Call::Flush { ino, .. } => Reach::Locks(*ino),
        Call::Write { ino, .. }
        | Call::Allocate { ino, .. }
        | Call::SetAttr { ino, .. }
        | Call::Open { ino, .. }
        | Call::SetXattr { ino, .. }
        | Call::RemoveXattr { ino, .. } => Reach::Inode(*ino),
        _ => Reach::All,
    }
}

/// Whether it matters which of the two comes first. Nobody learnt the end of the first, so it has no answer to fit.
pub(super) fn depends(unknown: &Event, event: &Event) -> bool {
    match reach(unknown) {
        Reach::All => true,
        Reach::Locks(ino) => event.kind == Kind::Call && looks_at_locks(&event.call) == Some(ino),
        Reach::Inode(ino) => looks_at(event, ino),
    }
}

fn looks_at_locks(call: &Call) -> Option<Ino> {
    match call {
        Call::SetLock { ino, .. }
        | Call::Unlock { ino, .. }
        | Call::TestLock { ino, .. }
        | Call::Release { ino, .. }
        | Call::Flush { ino, .. } => Some(*ino),
        _ => None,
    }
}

/// Whether an event shows anything of an inode but its names, or changes it.
fn looks_at(event: &Event, inode: Ino) -> bool {
    match &event.call {
        Call::GetAttr { ino }
        | Call::Revalidate { ino, .. }
        | Call::SetAttr { ino, .. }
        | Call::ReadLink { ino }
        | Call::Open { ino, .. }
        | Call::OpenDir { ino }
        | Call::Read { ino, .. }
        | Call::Write { ino, .. }
        | Call::Allocate { ino, .. }
        | Call::Flush { ino, .. }
        | Call::Release { ino, .. }
        | Call::Sync { ino, .. }
        | Call::GetXattr { ino, .. }
        | Call::ListXattr { ino }
        | Call::SetXattr { ino, .. }
        | Call::RemoveXattr { ino, .. }
        | Call::TestLock { ino, .. }
        | Call::SetLock { ino, .. }
        | Call::Unlock { ino, .. }
        | Call::Link { ino, .. }
        | Call::Seek { ino, .. } => *ino == inode,
        Call::ReleaseDir { .. } | Call::StatFs | Call::ReadDir { .. } => false,
        Call::Lookup { dir, .. } | Call::Make { dir, .. } | Call::Create { dir, .. } => {
            // What is made inherits of its directory.
            *dir == inode
                || match &event.ended {
                    Some((_, Ok(Reply::Attr(attr) | Reply::Created(attr, _)))) => attr.ino == inode,
                    Some((_, Ok(_))) | None => true,
                    Some((_, Err(_))) => false,
                }
        }
        Call::Unlink { .. } | Call::RemoveDir { .. } | Call::Rename { .. } => false,
    }
}
