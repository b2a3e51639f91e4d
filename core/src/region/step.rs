//! What a step needs and what it does (P7).
//!
//! Owns precondition and effect of each [`Step`] that is built; the planner makes no other.

use super::entry::{self, Entry, Fragment};
use super::inode::{self, Inode};
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::{orphan, record};
use crate::attr::{Attr, FileKind, MODE_SGID, NewInode};
use crate::error::FsError;
use crate::ids::{Fence, VolumeId};
use crate::limits::LINKS_MAX;
use crate::place::{Ino, Places, Salt};
use crate::time::Timestamp;
use crate::txn::Step;

/// A new inode.
pub(super) fn fresh(
    ino: Ino,
    new: &NewInode,
    salt: Salt,
    parent: Ino,
    volume: VolumeId,
    stamp: Timestamp,
) -> Inode {
    let directory = new.kind == FileKind::Directory;
    let attr = Attr {
        ino,
        kind: new.kind,
        mode: new.mode,
        nlink: if directory { 2 } else { 1 },
        uid: new.uid,
        gid: new.gid,
        rdev: new.rdev,
        size: new.target.len() as u64,
        allocated: 0,
        atime: stamp,
        mtime: stamp,
        ctime: stamp,
        btime: stamp,
        change: 1,
        fence: Fence(0),
        volume,
        salt,
        parent,
    };
    Inode { attr, cut: None }
}

/// What stands against a step, if anything.
pub(super) fn check(
    state: &dyn KvRead,
    places: Places,
    step: &Step,
) -> Result<Option<FsError>, KvError> {
    Ok(match step {
        Step::Insert {
            dir, salt, name, ..
        } => {
            if entry::fragment(state, places, *dir)?.is_none() {
                Some(FsError::NotFound)
            } else if entry::find(state, *dir, *salt, name)?.is_some() {
                Some(FsError::Exists)
            } else if entry::free_cookie(state, *dir, *salt, name)?.is_none() {
                Some(FsError::NoSpace)
            } else {
                None
            }
        }
        Step::Remove {
            dir,
            salt,
            name,
            child,
        } => {
            let found = entry::find(state, *dir, *salt, name)?;
            let same = found.is_some_and(|(_, entry)| entry.child == *child);
            (!same).then_some(FsError::NotFound)
        }
        Step::Create { ino, .. } => inode::read(state, *ino)?.map(|_| FsError::Exists),
        Step::AddLink { ino } => match inode::read(state, *ino)? {
            None => Some(FsError::NotFound),
            Some(inode) if inode.attr.nlink == 0 => Some(FsError::NotFound),
            Some(inode) if inode.attr.nlink >= LINKS_MAX => Some(FsError::TooManyLinks),
            Some(_) => None,
        },
        Step::Subdirs { dir, delta } => match inode::read(state, *dir)? {
            None => Some(FsError::NotFound),
            Some(inode) if *delta > 0 && inode.attr.nlink >= LINKS_MAX => {
                Some(FsError::TooManyLinks)
            }
            Some(_) => None,
        },
        Step::Kill { dir } => match entry::fragment(state, places, *dir)? {
            None => Some(FsError::NotFound),
            Some(fragment) => (fragment.count > 0).then_some(FsError::NotEmpty),
        },
        Step::DropLink { ino } | Step::DropDir { dir: ino } => inode::read(state, *ino)?
            .is_none()
            .then_some(FsError::NotFound),
        Step::Replace { .. } | Step::Moved { .. } | Step::RenameLock { .. } => {
            Some(FsError::Unsupported)
        }
    })
}

/// Carries out a step that was checked in the same entry.
pub(super) fn effect(
    state: &mut dyn Kv,
    places: Places,
    step: &Step,
    stamp: Timestamp,
) -> Result<(), KvError> {
    match step {
        Step::Insert {
            dir,
            salt,
            name,
            child,
            kind,
        } => {
            let cookie = entry::free_cookie(state, *dir, *salt, name)?
                .expect("the step's check found a free tie number");
            let entry = Entry {
                name: name.clone(),
                child: *child,
                kind: *kind,
            };
            record::write(state, &key::entry(*dir, cookie), &entry)?;
            entry::count(state, places, *dir, true, stamp)
        }
        Step::Remove {
            dir, salt, name, ..
        } => {
            let (cookie, _) =
                entry::find(state, *dir, *salt, name)?.expect("the step's check found the entry");
            state.delete(&key::entry(*dir, cookie))?;
            entry::count(state, places, *dir, false, stamp)
        }
        Step::Create {
            ino,
            new,
            salt,
            parent,
            volume,
        } => create(
            state,
            places,
            fresh(*ino, new, *salt, *parent, *volume, stamp),
            new,
        ),
        Step::AddLink { ino } => links(state, *ino, 1, stamp).map(|_| ()),
        Step::DropLink { ino } => {
            if links(state, *ino, -1, stamp)? == 0 {
                orphan::make(state, *ino)?;
            }
            Ok(())
        }
        Step::Subdirs { dir, delta } => links(state, *dir, *delta, stamp).map(|_| ()),
        Step::Kill { dir } => state.delete(&key::fragment(*dir, places)),
        Step::DropDir { dir } => inode::free(state, *dir),
        Step::Replace { .. } | Step::Moved { .. } | Step::RenameLock { .. } => {
            unreachable!("a step that is refused when checked is never carried out")
        }
    }
}

fn create(state: &mut dyn Kv, places: Places, made: Inode, new: &NewInode) -> Result<(), KvError> {
    let attr = &made.attr;
    if attr.kind == FileKind::Directory {
        let fragment = Fragment {
            count: 0,
            mtime: attr.mtime,
            ctime: attr.ctime,
            volume: attr.volume,
            inherit: (attr.mode & MODE_SGID != 0).then_some(attr.gid),
        };
        record::write(state, &key::fragment(attr.ino, places), &fragment)?;
    }
    if !new.target.is_empty() {
        state.put(&key::of_inode(Kind::Inline, attr.ino), &new.target)?;
    }
    inode::write(state, &made)
}

/// Changes a link count; returns the new one.
fn links(state: &mut dyn Kv, ino: Ino, delta: i32, stamp: Timestamp) -> Result<u32, KvError> {
    let mut inode = inode::read(state, ino)?.expect("the step's check found the inode");
    let attr = &mut inode.attr;
    attr.nlink = attr
        .nlink
        .checked_add_signed(delta)
        .expect("an inode has as many links as names: none is dropped twice");
    attr.ctime = stamp;
    attr.change += 1;
    let left = attr.nlink;
    inode::write(state, &inode)?;
    Ok(left)
}
