//! Directory entries and the fragments that count them (P4).

use serde::{Deserialize, Serialize};

use super::kv::{Kv, KvError, KvRead};
use super::{key, record};
use crate::attr::{FileKind, Name};
use crate::ids::VolumeId;
use crate::place::{Cookie, Ino, NameHash, Places, Salt};
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) child: Ino,
    pub(super) kind: FileKind,
}

/// The part of a directory that lies in this region. It exists while the directory takes entries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fragment {
    pub(super) count: u64,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) volume: VolumeId,
    /// The group that set-group-id passes on: kept here, because the directory's inode may be in another region.
    pub(super) inherit: Option<u32>,
}

pub(super) fn fragment(
    state: &dyn KvRead,
    places: Places,
    dir: Ino,
) -> Result<Option<Fragment>, KvError> {
    if places.overlap(dir.bucket().places()).is_none() {
        return Ok(None);
    }
    record::read(state, "fragment", &key::fragment(dir, places))
}

/// Finds a name; names of one hash differ in their tie numbers.
pub(super) fn find(
    state: &dyn KvRead,
    dir: Ino,
    salt: Salt,
    name: &[u8],
) -> Result<Option<(Cookie, Entry)>, KvError> {
    for (cookie, entry) in ties(state, dir, NameHash::of(salt, name))? {
        if entry.name == name {
            return Ok(Some((cookie, entry)));
        }
    }
    Ok(None)
}

/// The lowest free cookie for a name; `None` when 128 names share its hash.
pub(super) fn free_cookie(
    state: &dyn KvRead,
    dir: Ino,
    salt: Salt,
    name: &[u8],
) -> Result<Option<Cookie>, KvError> {
    let hash = NameHash::of(salt, name);
    let taken = ties(state, dir, hash)?;
    Ok((0..128)
        .map(|tie| hash.cookie(tie))
        .find(|cookie| taken.iter().all(|(other, _)| other != cookie)))
}

fn ties(
    state: &dyn KvRead,
    dir: Ino,
    hash: NameHash,
) -> Result<alloc::vec::Vec<(Cookie, Entry)>, KvError> {
    let mut to = key::entry(dir, hash.cookie(127));
    to.push(0);
    record::all(state, "entry", (key::entry(dir, hash.cookie(0)), to))?
        .into_iter()
        .map(|(key, entry)| Ok((cookie_of(&key)?, entry)))
        .collect()
}

pub(super) fn cookie_of(key: &[u8]) -> Result<Cookie, KvError> {
    key::cookie_of_entry(key).ok_or_else(|| KvError::Corrupt("an entry's key is malformed".into()))
}

/// Counts an entry more or less and stamps the fragment.
pub(super) fn count(
    state: &mut dyn Kv,
    places: Places,
    dir: Ino,
    more: bool,
    stamp: Timestamp,
) -> Result<(), KvError> {
    let mut part = fragment(state, places, dir)?.expect("a step's check found the fragment");
    part.count = if more { part.count + 1 } else { part.count - 1 };
    (part.mtime, part.ctime) = (stamp, stamp);
    record::write(state, &key::fragment(dir, places), &part)
}
