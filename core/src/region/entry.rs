//! Directory entries and fragments (P4).
//!
//! Owns how names are found, inserted and removed, and what a fragment counts.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::inode::Inode;
use super::key;
use super::kv::{Kv, KvError, KvRead};
use crate::attr::{FileKind, MODE_SGID, Name};
use crate::ids::VolumeId;
use crate::place::{Cookie, Ino, NameHash, Places, Salt};
use crate::time::Timestamp;

/// Names of one hash: ties have 7 bits.
const TIES: usize = 128;

/// A stored entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) child: Ino,
    pub(super) kind: FileKind,
}

/// What a region keeps of a directory of which it holds cells: there while the directory lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fragment {
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) entries: u64,
    pub(super) volume: VolumeId,
    /// The group that new entries inherit, of a set-group-id directory.
    pub(super) gid: Option<u32>,
}

impl Fragment {
    /// The fragment of a new directory.
    pub(super) fn of(inode: &Inode) -> Self {
        let mut fragment = Self {
            mtime: inode.mtime,
            ctime: inode.ctime,
            entries: 0,
            volume: inode.volume,
            gid: None,
        };
        fragment.inherit(inode);
        fragment
    }

    /// Takes over what new entries inherit.
    pub(super) fn inherit(&mut self, inode: &Inode) {
        self.gid = (inode.mode & MODE_SGID != 0).then_some(inode.gid);
    }
}

pub(super) fn fragment(
    state: &dyn KvRead,
    places: Places,
    dir: Ino,
) -> Result<Option<Fragment>, KvError> {
    if places.overlap(dir.bucket().places()).is_none() {
        return Ok(None);
    }
    super::read(state, "fragment", &key::fragment(dir, places))
}

pub(super) fn put_fragment(
    state: &mut dyn Kv,
    places: Places,
    dir: Ino,
    fragment: &Fragment,
) -> Result<(), KvError> {
    super::write(state, &key::fragment(dir, places), fragment)
}

/// Finds a name.
pub(super) fn find(
    state: &dyn KvRead,
    dir: Ino,
    salt: Salt,
    name: &[u8],
) -> Result<Option<(Cookie, Entry)>, KvError> {
    let same_hash = of_hash(state, dir, NameHash::of(salt, name))?;
    Ok(same_hash.into_iter().find(|(_, entry)| entry.name == name))
}

fn of_hash(state: &dyn KvRead, dir: Ino, hash: NameHash) -> Result<Vec<(Cookie, Entry)>, KvError> {
    let from = key::entry(dir, hash.cookie(0));
    let mut to = key::entry(dir, hash.cookie(127));
    to.push(0);
    decode(state.scan(&from, &to, TIES)?)
}

/// Decodes scanned entries.
pub(super) fn decode(pairs: Vec<super::kv::Pair>) -> Result<Vec<(Cookie, Entry)>, KvError> {
    let mut entries = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let cookie = key::cookie_of_entry(&key)
            .ok_or_else(|| KvError::Corrupt("an entry has no cookie".into()))?;
        entries.push((
            cookie,
            crate::codec::decode_versioned("entry", super::VERSION, &value)?,
        ));
    }
    Ok(entries)
}

/// Adds an entry under the lowest free tie number; false when there is none.
pub(super) fn insert(
    state: &mut dyn Kv,
    dir: Ino,
    salt: Salt,
    entry: &Entry,
) -> Result<bool, KvError> {
    let hash = NameHash::of(salt, &entry.name);
    let taken = of_hash(state, dir, hash)?;
    let free = (0..128).find(|tie| taken.iter().all(|(cookie, _)| *cookie != hash.cookie(*tie)));
    let Some(tie) = free else { return Ok(false) };
    super::write(state, &key::entry(dir, hash.cookie(tie)), entry)?;
    Ok(true)
}

/// Entries of `dir` with `after < cookie` that live in `places`, in order, at most `limit`.
pub(super) fn list(
    state: &dyn KvRead,
    places: Places,
    dir: Ino,
    after: Cookie,
    limit: usize,
) -> Result<Vec<(Cookie, Entry)>, KvError> {
    let Some(here) = places.overlap(dir.bucket().places()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for cell in here.start..here.end {
        if found.len() >= limit {
            break;
        }
        let place = crate::place::Place(cell);
        let first = Cookie(u64::from(cell & 0xff) << 55);
        let last = Cookie(first.0 | ((1 << 55) - 1));
        if last <= after {
            continue;
        }
        debug_assert_eq!(first.place(dir), place, "a cell's cookies live in it");
        let mut from = key::entry(dir, first.max(after));
        if after >= first {
            from.push(0);
        }
        let mut to = key::entry(dir, last);
        to.push(0);
        found.extend(decode(state.scan(&from, &to, limit - found.len())?)?);
    }
    Ok(found)
}
