//! chmod, chown, utimens (P9).

use super::entry;
use super::inode::{self, Inode};
use super::kv::{Kv, KvError};
use super::step::Here;
use super::xattr;
use crate::attr::{FileKind, MODE_ALL, MODE_SGID, SetAttr, SetTime};
use crate::error::FsError;
use crate::place::Ino;
use crate::request::{Answer, MetaReply};
use crate::time::Timestamp;

/// Changes attributes.
pub(super) fn set(
    state: &mut dyn Kv,
    here: Here,
    ino: Ino,
    set: &SetAttr,
) -> Result<Answer, KvError> {
    let Some(mut inode) = inode::get(state, ino)? else {
        return Ok(Answer::Meta(Err(FsError::NotFound)));
    };
    change(&mut inode, here.time, set);
    if set.uid.is_some() || set.gid.is_some() {
        xattr::drop_capability(state, ino)?;
    }
    inode.touch(here.time);
    inode::put(state, ino, &inode)?;
    if inode.kind == FileKind::Directory
        && let Some(mut fragment) = entry::fragment(state, here.places, ino)?
    {
        fragment.inherit(&inode);
        // What was set must show, although the fragment's own times may be later.
        if let Some(mtime) = set.mtime {
            fragment.mtime = at(mtime, here.time);
        }
        entry::put_fragment(state, here.places, ino, &fragment)?;
    }
    let attr = inode::attr(state, here.places, ino, &inode)?;
    Ok(Answer::Meta(Ok(MetaReply::Inode { attr, grant: None })))
}

fn change(inode: &mut Inode, time: Timestamp, set: &SetAttr) {
    if set.uid.is_some() || set.gid.is_some() {
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        inode.drop_set_id();
    }
    if let Some(mode) = set.mode {
        inode.mode = mode & MODE_ALL;
    }
    if set.clear_sgid {
        inode.mode &= !MODE_SGID;
    }
    if let Some(atime) = set.atime {
        inode.atime = at(atime, time);
    }
    if let Some(mtime) = set.mtime {
        inode.mtime = at(mtime, time);
    }
}

fn at(wanted: SetTime, now: Timestamp) -> Timestamp {
    match wanted {
        SetTime::Now => now,
        SetTime::To(time) => time,
    }
}
