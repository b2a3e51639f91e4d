//! From an operation on names to steps (P7).
//!
//! Owns what make, unlink, rmdir and link amount to, and the order in which POSIX wants their errors.

use alloc::vec;
use alloc::vec::Vec;

use super::kv::{Kv, KvError, KvRead};
use super::{entry, inode};
use crate::attr::{FileKind, MODE_SGID, Name, NewInode};
use crate::error::FsError;
use crate::limits::{NAME_BYTES_MAX, SYMLINK_BYTES_MAX};
use crate::place::{Ino, NameHash, Places, Salt};
use crate::request::{LeaseKind, MetaOp, MetaReply, Seen};
use crate::txn::Step;

/// What an operation amounts to.
pub(super) enum Plan {
    /// These steps, and what the answer is about.
    Steps(Vec<Step>, About),
    /// Nothing to do: this answer.
    Answer(MetaReply),
    /// It fails.
    Error(FsError),
    /// No operation on names, or one that is not built.
    None,
}

/// What the client is told after the steps.
pub(super) enum About {
    Made(Ino),
    Linked(Ino),
    Nothing,
}

/// Plans an operation. A make of what is no directory draws a number; that alone may change state.
pub(super) fn plan(state: &mut dyn Kv, places: Places, op: &MetaOp) -> Result<Plan, KvError> {
    match op {
        MetaOp::Make {
            dir,
            salt,
            name,
            new,
            home,
            exclusive,
            lease: None | Some(LeaseKind::Shared | LeaseKind::Exclusive),
        } => make(state, places, (*dir, *salt, name), new, *home, *exclusive),
        MetaOp::Unlink { dir, salt, name } => unlink(state, *dir, *salt, name),
        MetaOp::RemoveDir { dir, salt, name } => remove_dir(state, *dir, *salt, name),
        MetaOp::Link {
            dir,
            salt,
            name,
            target,
        } => link(state, places, (*dir, *salt, name), *target),
        MetaOp::Rename { .. }
        | MetaOp::Reserve { .. }
        | MetaOp::SetAttr { .. }
        | MetaOp::SetXattr { .. }
        | MetaOp::RemoveXattr { .. }
        | MetaOp::SetLock { .. }
        | MetaOp::Unlock { .. }
        | MetaOp::Content { .. }
        | MetaOp::NotOpen { .. }
        | MetaOp::Reclaimed { .. }
        | MetaOp::Takeover { .. }
        | MetaOp::AdmitSession { .. }
        | MetaOp::EndSession { .. } => Ok(Plan::None),
    }
}

/// What is wrong with a name by itself.
pub(super) fn bad_name(name: &[u8]) -> Option<FsError> {
    if name.is_empty() {
        Some(FsError::NotFound)
    } else if name.len() > NAME_BYTES_MAX {
        Some(FsError::NameTooLong)
    } else if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        Some(FsError::Invalid)
    } else {
        None
    }
}

fn make(
    state: &mut dyn Kv,
    places: Places,
    (dir, salt, name): (Ino, Salt, &Name),
    new: &NewInode,
    home: Option<(Ino, Salt)>,
    exclusive: bool,
) -> Result<Plan, KvError> {
    if let Some(error) = bad_name(name) {
        return Ok(Plan::Error(error));
    }
    let Some(fragment) = entry::fragment(state, places, dir)? else {
        return Ok(Plan::Error(FsError::NotFound));
    };
    if let Some((_, there)) = entry::find(state, dir, salt, name)? {
        if exclusive || there.kind != FileKind::Regular || new.kind != FileKind::Regular {
            return Ok(Plan::Error(FsError::Exists));
        }
        let seen = Seen {
            ino: there.child,
            kind: there.kind,
        };
        let attr = inode::attr(state, places, there.child)?;
        return Ok(Plan::Answer(attr.map_or(
            MetaReply::Elsewhere { seen },
            |attr| MetaReply::Made {
                attr,
                existed: true,
                grant: None,
            },
        )));
    }
    let directory = new.kind == FileKind::Directory;
    let symlink = new.kind == FileKind::Symlink;
    if new.target.len() > SYMLINK_BYTES_MAX {
        return Ok(Plan::Error(FsError::NameTooLong));
    }
    if directory != home.is_some() || symlink == new.target.is_empty() {
        return Ok(Plan::Error(FsError::Invalid));
    }
    let (ino, own_salt) = match home {
        Some(home) => home,
        None => match inode::next_number(state, dir.bucket())? {
            Some(number) => {
                let place = NameHash::of(salt, name).place(dir);
                (Ino::new(place, number), Salt::default())
            }
            None => return Ok(Plan::Error(FsError::NoSpace)),
        },
    };
    let mut new = new.clone();
    if let Some(gid) = fragment.inherit {
        new.gid = gid;
        new.mode |= if directory { MODE_SGID } else { 0 };
    }
    let kind = new.kind;
    let mut steps = vec![
        Step::Insert {
            dir,
            salt,
            name: name.clone(),
            child: ino,
            kind,
        },
        Step::Create {
            ino,
            new,
            salt: own_salt,
            parent: dir,
            volume: fragment.volume,
        },
    ];
    if directory {
        steps.push(Step::Subdirs { dir, delta: 1 });
    }
    Ok(Plan::Steps(steps, About::Made(ino)))
}

fn unlink(state: &dyn KvRead, dir: Ino, salt: Salt, name: &Name) -> Result<Plan, KvError> {
    if let Some(error) = bad_name(name) {
        return Ok(Plan::Error(error));
    }
    let Some((_, there)) = entry::find(state, dir, salt, name)? else {
        return Ok(Plan::Error(FsError::NotFound));
    };
    if there.kind == FileKind::Directory {
        return Ok(Plan::Error(FsError::IsDirectory));
    }
    let steps = vec![
        Step::Remove {
            dir,
            salt,
            name: name.clone(),
            child: there.child,
        },
        Step::DropLink { ino: there.child },
    ];
    Ok(Plan::Steps(steps, About::Nothing))
}

fn remove_dir(state: &dyn KvRead, dir: Ino, salt: Salt, name: &Name) -> Result<Plan, KvError> {
    if let Some(error) = bad_name(name) {
        return Ok(Plan::Error(error));
    }
    let Some((_, there)) = entry::find(state, dir, salt, name)? else {
        return Ok(Plan::Error(FsError::NotFound));
    };
    if there.kind != FileKind::Directory {
        return Ok(Plan::Error(FsError::NotDirectory));
    }
    let steps = vec![
        Step::Remove {
            dir,
            salt,
            name: name.clone(),
            child: there.child,
        },
        Step::Kill { dir: there.child },
        Step::DropDir { dir: there.child },
        Step::Subdirs { dir, delta: -1 },
    ];
    Ok(Plan::Steps(steps, About::Nothing))
}

fn link(
    state: &dyn KvRead,
    places: Places,
    (dir, salt, name): (Ino, Salt, &Name),
    target: Seen,
) -> Result<Plan, KvError> {
    if let Some(error) = bad_name(name) {
        return Ok(Plan::Error(error));
    }
    if target.kind == FileKind::Directory {
        return Ok(Plan::Error(FsError::NotPermitted));
    }
    let Some(fragment) = entry::fragment(state, places, dir)? else {
        return Ok(Plan::Error(FsError::NotFound));
    };
    if let Some(inode) = inode::read(state, target.ino)?
        && inode.attr.volume != fragment.volume
    {
        return Ok(Plan::Error(FsError::CrossVolume));
    }
    let steps = vec![
        Step::Insert {
            dir,
            salt,
            name: name.clone(),
            child: target.ino,
            kind: target.kind,
        },
        Step::AddLink { ino: target.ino },
    ];
    Ok(Plan::Steps(steps, About::Linked(target.ino)))
}
