//! Which inodes' views a change concerns: those of which stat, or a look into a directory, shows something else after it
//! (P8).
//!
//! Owns that list, for operations and for steps. Who has such a view, and that they must forget it first, is the leader's
//! business; that an entry changes no other inode than its leader had in mind is checked when it is applied.

use alloc::vec::Vec;

use super::entry;
use super::kv::{KvError, KvRead};
use crate::place::Ino;
use crate::request::MetaOp;
use crate::txn::Step;

/// The inodes that an operation changes, by what the region holds now. For one on names that is a guess, since the name
/// may be another inode's when the operation is applied.
///
/// # Errors
/// As [`KvError`].
pub(super) fn by_op(state: &dyn KvRead, op: &MetaOp) -> Result<Vec<Ino>, KvError> {
    let mut inos = match op {
        // Of what is made nobody knows yet.
        MetaOp::Make { dir, .. } => alloc::vec![*dir],
        MetaOp::Unlink { dir, salt, name } | MetaOp::RemoveDir { dir, salt, name } => {
            let found = entry::find(state, *dir, *salt, name)?;
            let child = found.map(|(_, entry)| entry.child);
            child.into_iter().chain([*dir]).collect()
        }
        MetaOp::Rename {
            dir,
            source,
            to_dir,
            target,
            ..
        } => {
            let target = target.map(|seen| seen.ino);
            target
                .into_iter()
                .chain([*dir, *to_dir, source.ino])
                .collect()
        }
        MetaOp::Link { dir, target, .. } => alloc::vec![*dir, target.ino],
        MetaOp::SetAttr { ino, .. }
        | MetaOp::SetXattr { ino, .. }
        | MetaOp::RemoveXattr { ino, .. }
        | MetaOp::Content { ino, .. }
        | MetaOp::Takeover { ino, .. } => alloc::vec![*ino],
        // Nobody has a view of an inode without names, so none is concerned when one is freed.
        MetaOp::NotOpen { .. } | MetaOp::EndSession { .. } => Vec::new(),
        MetaOp::Reserve { .. }
        | MetaOp::SetLock { .. }
        | MetaOp::Unlock { .. }
        | MetaOp::ReturnLocks { .. }
        | MetaOp::Reclaimed { .. }
        | MetaOp::AdmitSession { .. } => Vec::new(),
    };
    inos.sort_unstable();
    inos.dedup();
    Ok(inos)
}

/// The inodes that steps change; of those they make nobody knows yet.
pub(super) fn by_steps(steps: &[Step]) -> Vec<Ino> {
    let of = |step: &Step| match step {
        Step::Insert { dir, .. } | Step::Remove { dir, .. } | Step::Replace { dir, .. } => {
            Some(*dir)
        }
        Step::Create { .. } | Step::RenameLock { .. } => None,
        Step::AddLink { ino } | Step::DropLink { ino } | Step::Moved { ino, .. } => Some(*ino),
        Step::Subdirs { dir, .. } | Step::Kill { dir } | Step::DropDir { dir } => Some(*dir),
    };
    let mut inos: Vec<Ino> = steps.iter().filter_map(of).collect();
    inos.sort_unstable();
    inos.dedup();
    inos
}

/// Those of the inodes that steps change whose views nobody has seen to.
pub(super) fn seen(steps: &[Step], unseen: &[Ino]) -> Vec<Ino> {
    let mut inos = by_steps(steps);
    inos.retain(|ino| !unseen.contains(ino));
    inos
}
