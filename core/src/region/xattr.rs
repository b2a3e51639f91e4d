//! Extended attributes (xattr(7)).

use alloc::vec::Vec;
use bytes::Bytes;

use super::inode;
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::step::Here;
use crate::attr::Name;
use crate::error::FsError;
use crate::limits::{XATTR_INODE_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use crate::place::Ino;
use crate::request::{Answer, MetaReply};
use crate::vfs::XattrMode;

const CAPABILITY: &[u8] = b"security.capability";

/// All of an inode's attributes: names and values.
fn all(state: &dyn KvRead, ino: Ino) -> Result<Vec<(Name, Vec<u8>)>, KvError> {
    let prefix = key::of_inode(Kind::Xattr, ino);
    let (from, to) = key::prefix(&prefix);
    let pairs = state.scan(&from, &to, usize::MAX)?;
    let name = |key: Vec<u8>| key.get(prefix.len()..).unwrap_or_default().to_vec();
    Ok(pairs
        .into_iter()
        .map(|(key, value)| (name(key), value))
        .collect())
}

/// The names of all attributes.
pub(super) fn names(state: &dyn KvRead, ino: Ino) -> Result<Vec<Name>, KvError> {
    Ok(all(state, ino)?.into_iter().map(|(name, _)| name).collect())
}

/// One value.
pub(super) fn get(state: &dyn KvRead, ino: Ino, name: &[u8]) -> Result<Option<Bytes>, KvError> {
    Ok(state.get(&key::xattr(ino, name))?.map(Bytes::from))
}

/// Sets an attribute.
pub(super) fn set(
    state: &mut dyn Kv,
    here: Here,
    ino: Ino,
    name: &Name,
    value: &Bytes,
    mode: XattrMode,
) -> Result<Answer, KvError> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX {
        return Ok(Answer::Meta(Err(FsError::Range)));
    }
    if value.len() > XATTR_VALUE_BYTES_MAX {
        return Ok(Answer::Meta(Err(FsError::TooBig)));
    }
    if inode::get(state, ino)?.is_none() {
        return Ok(Answer::Meta(Err(FsError::NotFound)));
    }
    let others = all(state, ino)?;
    let exists = others.iter().any(|(other, _)| other == name);
    match (mode, exists) {
        (XattrMode::Create, true) => return Ok(Answer::Meta(Err(FsError::Exists))),
        (XattrMode::Replace, false) => return Ok(Answer::Meta(Err(FsError::NoData))),
        (XattrMode::Set | XattrMode::Create | XattrMode::Replace, _) => {}
    }
    let size = |(other, value): &(Name, Vec<u8>)| other.len() + value.len();
    let rest: usize = others
        .iter()
        .filter(|(other, _)| other != name)
        .map(size)
        .sum();
    if rest + name.len() + value.len() > XATTR_INODE_BYTES_MAX {
        return Ok(Answer::Meta(Err(FsError::NoSpace)));
    }
    state.put(&key::xattr(ino, name), value)?;
    touch(state, here, ino)
}

/// Removes an attribute.
pub(super) fn remove(
    state: &mut dyn Kv,
    here: Here,
    ino: Ino,
    name: &Name,
) -> Result<Answer, KvError> {
    if inode::get(state, ino)?.is_none() {
        return Ok(Answer::Meta(Err(FsError::NotFound)));
    }
    if get(state, ino, name)?.is_none() {
        return Ok(Answer::Meta(Err(FsError::NoData)));
    }
    state.delete(&key::xattr(ino, name))?;
    touch(state, here, ino)
}

/// What a program may do (capabilities(7)) does not survive a change of its content or owner. Kernels leave it to us
/// (`FUSE_HANDLE_KILLPRIV_V2`): one that saw none does not look again before each write.
pub(super) fn drop_capability(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    let key = key::xattr(ino, CAPABILITY);
    if state.get(&key)?.is_some() {
        state.delete(&key)?;
    }
    Ok(())
}

fn touch(state: &mut dyn Kv, here: Here, ino: Ino) -> Result<Answer, KvError> {
    let mut inode = inode::expect(state, ino)?;
    inode.touch(here.time);
    inode::put(state, ino, &inode)?;
    Ok(Answer::Meta(Ok(MetaReply::Done)))
}

/// Removes all attributes of an inode that goes.
pub(super) fn drop_all(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    for (name, _) in all(state, ino)? {
        state.delete(&key::xattr(ino, &name))?;
    }
    Ok(())
}
