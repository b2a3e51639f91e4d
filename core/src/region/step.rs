//! What a step needs and what it does (P7).
//!
//! Owns the precondition and the effect of each [`Step`], one function each. The order of checks against other
//! transactions and the intents belong to `intent` and `txn`.

use super::clock;
use super::entry::{self, Entry, Fragment};
use super::inode::{self, Inode};
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::orphan;
use crate::attr::FileKind;
use crate::error::FsError;
use crate::limits::LINKS_MAX;
use crate::place::{Ino, Places};
use crate::time::Timestamp;
use crate::txn::Step;

/// What stands against a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// The operation fails with this.
    Error(FsError),
    /// What the client had seen is no longer so.
    Changed,
}

/// The part of a region that steps work on.
#[derive(Clone, Copy)]
pub(super) struct Here {
    /// What the region holds.
    pub(super) places: Places,
    /// The time of the entry.
    pub(super) time: Timestamp,
}

/// What stands against a step in this state, if anything.
pub(super) fn check(
    state: &dyn KvRead,
    places: Places,
    step: &Step,
) -> Result<Option<Against>, KvError> {
    Ok(match step {
        Step::Insert {
            dir, salt, name, ..
        } => {
            if entry::fragment(state, places, *dir)?.is_none() {
                Some(Against::Error(FsError::NotFound))
            } else if entry::find(state, *dir, *salt, name)?.is_some() {
                Some(Against::Changed)
            } else {
                None
            }
        }
        Step::Remove {
            dir,
            salt,
            name,
            child,
        } => names(state, *dir, *salt, name, *child)?,
        Step::Replace {
            dir,
            salt,
            name,
            old,
            ..
        } => names(state, *dir, *salt, name, *old)?,
        Step::Create { ino, .. } => {
            let taken = inode::get(state, *ino)?.is_some();
            taken.then_some(Against::Error(FsError::Stale))
        }
        Step::AddLink { ino } => match inode::get(state, *ino)? {
            None => Some(Against::Error(FsError::NotFound)),
            Some(inode) if inode.nlink == 0 => Some(Against::Error(FsError::NotFound)),
            Some(inode) if inode.kind == FileKind::Directory => {
                Some(Against::Error(FsError::NotPermitted))
            }
            Some(inode) if inode.nlink >= LINKS_MAX => Some(Against::Error(FsError::TooManyLinks)),
            Some(_) => None,
        },
        Step::DropLink { ino } | Step::Moved { ino, .. } => inode::get(state, *ino)?
            .is_none()
            .then_some(Against::Changed),
        Step::Subdirs { dir, .. } | Step::DropDir { dir } => {
            let alive = inode::get(state, *dir)?.is_some_and(|inode| inode.nlink > 0);
            (!alive).then_some(Against::Error(FsError::NotFound))
        }
        Step::Kill { dir } => match entry::fragment(state, places, *dir)? {
            None => Some(Against::Error(FsError::NotFound)),
            Some(fragment) if fragment.entries > 0 => Some(Against::Error(FsError::NotEmpty)),
            Some(_) => None,
        },
        Step::RenameLock { .. } => None,
    })
}

fn names(
    state: &dyn KvRead,
    dir: Ino,
    salt: crate::place::Salt,
    name: &[u8],
    child: Ino,
) -> Result<Option<Against>, KvError> {
    let found = entry::find(state, dir, salt, name)?;
    let same = found.is_some_and(|(_, entry)| entry.child == child);
    Ok((!same).then_some(Against::Changed))
}

/// Carries a step out. Its precondition holds.
pub(super) fn effect(state: &mut dyn Kv, here: Here, step: &Step) -> Result<(), KvError> {
    match step {
        Step::Insert {
            dir,
            salt,
            name,
            child,
            kind,
        } => {
            let entry = Entry {
                name: name.clone(),
                child: *child,
                kind: *kind,
            };
            // 128 names of one 56-bit hash under a secret salt do not happen by chance.
            if !entry::insert(state, *dir, *salt, &entry)? {
                return Err(KvError::Failed(
                    "128 names of one hash in a directory".into(),
                ));
            }
            changed_names(state, here, *dir, |fragment| fragment.entries += 1)
        }
        Step::Remove {
            dir, salt, name, ..
        } => {
            if let Some((cookie, _)) = entry::find(state, *dir, *salt, name)? {
                state.delete(&key::entry(*dir, cookie))?;
            }
            changed_names(state, here, *dir, |fragment| {
                fragment.entries = fragment.entries.saturating_sub(1);
            })
        }
        Step::Replace {
            dir,
            salt,
            name,
            child,
            kind,
            ..
        } => {
            if let Some((cookie, mut entry)) = entry::find(state, *dir, *salt, name)? {
                (entry.child, entry.kind) = (*child, *kind);
                super::write(state, &key::entry(*dir, cookie), &entry)?;
            }
            changed_names(state, here, *dir, |_| {})
        }
        Step::Create {
            ino,
            new,
            salt,
            parent,
            volume,
        } => {
            let inode = Inode::new(new, *salt, *parent, *volume, here.time);
            inode::put(state, *ino, &inode)?;
            inode::claim_number(state, *ino)?;
            if new.kind == FileKind::Directory {
                entry::put_fragment(state, here.places, *ino, &Fragment::of(&inode))?;
            }
            if new.kind == FileKind::Symlink {
                state.put(&key::of_inode(Kind::Inline, *ino), &new.target)?;
            }
            Ok(())
        }
        Step::AddLink { ino } => change(state, here, *ino, |inode| inode.nlink += 1),
        Step::DropLink { ino } => {
            change(state, here, *ino, |inode| {
                inode.nlink = inode.nlink.saturating_sub(1)
            })?;
            orphan::if_unnamed(state, *ino)
        }
        Step::Subdirs { dir, delta } => change(state, here, *dir, |inode| {
            inode.nlink = inode.nlink.saturating_add_signed(*delta);
        }),
        Step::Moved { ino, parent } => change(state, here, *ino, |inode| {
            inode.parent = parent.unwrap_or(inode.parent);
        }),
        Step::Kill { dir } => state.delete(&key::fragment(*dir, here.places)),
        Step::DropDir { dir } => {
            change(state, here, *dir, |inode| inode.nlink = 0)?;
            orphan::if_unnamed(state, *dir)
        }
        Step::RenameLock { .. } => Ok(()),
    }
}

fn change(
    state: &mut dyn Kv,
    here: Here,
    ino: Ino,
    change: impl FnOnce(&mut Inode),
) -> Result<(), KvError> {
    let mut inode = inode::expect(state, ino)?;
    change(&mut inode);
    inode.touch(here.time);
    inode::put(state, ino, &inode)
}

/// The names in a directory changed: its times do too.
fn changed_names(
    state: &mut dyn Kv,
    here: Here,
    dir: Ino,
    change: impl FnOnce(&mut Fragment),
) -> Result<(), KvError> {
    let fragment = entry::fragment(state, here.places, dir)?;
    let Some(mut fragment) = fragment else {
        return Err(KvError::Corrupt(alloc::format!(
            "directory {dir:?} has lost its fragment"
        )));
    };
    change(&mut fragment);
    (fragment.mtime, fragment.ctime) = (here.time, here.time);
    entry::put_fragment(state, here.places, dir, &fragment)
}

impl Here {
    /// Where and when an entry accepted at `time` takes place.
    pub(super) fn at(state: &mut dyn Kv, places: Places, time: Timestamp) -> Result<Self, KvError> {
        Ok(Self {
            places,
            time: clock::stamp(state, time)?,
        })
    }
}
