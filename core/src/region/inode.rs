//! Inodes, their numbers, and what goes with them.

use serde::{Deserialize, Serialize};

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::{entry, record, runs};
use crate::attr::{Attr, FileKind};
use crate::limits::CHUNK_BYTES;
use crate::place::{Bucket, Ino, Places};
use crate::request::Run;

/// An inode as it is stored. A directory's size and latest times are with its fragment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Inode {
    pub(super) attr: Attr,
    /// A cut noted inside the last chunk (P9).
    pub(super) cut: Option<u64>,
}

pub(super) fn read(state: &dyn KvRead, ino: Ino) -> Result<Option<Inode>, KvError> {
    record::read(state, "inode", &key::of_inode(Kind::Inode, ino))
}

pub(super) fn write(state: &mut dyn Kv, inode: &Inode) -> Result<(), KvError> {
    record::write(state, &key::of_inode(Kind::Inode, inode.attr.ino), inode)
}

/// Attributes as others see them.
pub(super) fn attr(state: &dyn KvRead, places: Places, ino: Ino) -> Result<Option<Attr>, KvError> {
    let Some(Inode { mut attr, .. }) = read(state, ino)? else {
        return Ok(None);
    };
    if attr.kind == FileKind::Directory
        && let Some(fragment) = entry::fragment(state, places, ino)?
    {
        attr.size = fragment.count;
        attr.mtime = attr.mtime.max(fragment.mtime);
        attr.ctime = attr.ctime.max(fragment.ctime);
    }
    Ok(Some(attr))
}

/// Takes the next number of a bucket; `None` when all are used up.
pub(super) fn next_number(state: &mut dyn Kv, bucket: Bucket) -> Result<Option<u32>, KvError> {
    let number: u32 = record::read(state, "counter", &key::counter(bucket))?.unwrap_or(1);
    let Some(next) = number.checked_add(1) else {
        return Ok(None);
    };
    record::write(state, &key::counter(bucket), &next)?;
    Ok(Some(number))
}

/// Bytes of storage: the part of each named chunk inside the size rounded up to 4 KiB. Holes count nothing.
pub(super) fn allocated(map: &[Run], size: u64) -> u64 {
    let end = size.next_multiple_of(4096);
    map.iter()
        .map(|run| {
            let (from, to) = (
                run.first * CHUNK_BYTES,
                (run.first + run.count) * CHUNK_BYTES,
            );
            to.min(end).saturating_sub(from)
        })
        .sum()
}

/// The inode goes: its chunks' names become garbage (P9).
pub(super) fn free(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    let map = runs::load(state, ino)?;
    runs::discard(state, ino, &map)?;
    runs::store(state, ino, &map, &[])?;
    for kind in [Kind::Inode, Kind::Inline, Kind::Orphan] {
        state.delete(&key::of_inode(kind, ino))?;
    }
    Ok(())
}
