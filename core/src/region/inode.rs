//! Inodes as a region stores them.
//!
//! Owns the record, its numbers, and its outward view. What changes it is the business of steps, attributes and content.

use alloc::string::ToString as _;
use serde::{Deserialize, Serialize};

use super::entry::{self, Fragment};
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use crate::attr::{self, Attr, FileKind, NewInode};
use crate::ids::{Fence, VolumeId};
use crate::limits::CHUNK_BYTES;
use crate::place::{Bucket, Ino, Place, Places, Salt};
use crate::time::Timestamp;

/// A stored inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u32,
    pub(super) size: u64,
    /// Chunks the map names.
    pub(super) mapped: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) btime: Timestamp,
    pub(super) change: u64,
    /// What `change` was after the last change of content: times, names and attributes don't move it.
    pub(super) content: u64,
    pub(super) fence: Fence,
    pub(super) volume: VolumeId,
    pub(super) salt: Salt,
    pub(super) parent: Ino,
    /// A size at which the chunk that holds it must be cut before the file grows (P9).
    pub(super) cut: Option<u64>,
}

impl Inode {
    pub(super) fn new(
        new: &NewInode,
        salt: Salt,
        parent: Ino,
        volume: VolumeId,
        time: Timestamp,
    ) -> Self {
        let is_dir = new.kind == FileKind::Directory;
        Self {
            kind: new.kind,
            mode: new.mode,
            nlink: if is_dir { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            size: new.target.len() as u64,
            mapped: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            change: 1,
            content: 1,
            fence: Fence(0),
            volume,
            salt,
            parent,
            cut: None,
        }
    }

    /// Its bytes were overwritten at a time that is told only now.
    pub(super) fn overwritten(&mut self, time: Timestamp) {
        self.change += 1;
        // A time ahead of all changes was set (utimensat(2)), and ends with the next one.
        let ends = self.mtime > self.ctime && time > self.ctime;
        self.mtime = if ends { time } else { self.mtime.max(time) };
        self.ctime = self.ctime.max(time);
        self.drop_set_id();
    }

    /// Something about it changed, at `time`.
    pub(super) fn touch(&mut self, time: Timestamp) {
        self.change += 1;
        self.ctime = if time > self.ctime {
            time
        } else {
            self.ctime.next()
        };
    }

    /// Set-id bits do not survive a change of content or owner.
    pub(super) fn drop_set_id(&mut self) {
        self.mode = attr::without_set_id(self.kind, self.mode);
    }

    /// Bytes of storage: the mapped chunks, but no more than the size for a file without holes. A small file shows about
    /// its size, a sparse one its chunks.
    fn allocated(&self) -> u64 {
        let mapped = self.mapped.saturating_mul(CHUNK_BYTES);
        match self.kind {
            FileKind::Regular if self.mapped == 0 => self.size.min(4096).next_multiple_of(512),
            FileKind::Regular => {
                let whole = self.size.div_ceil(CHUNK_BYTES);
                if self.mapped > whole {
                    mapped
                } else {
                    mapped.min(self.size.next_multiple_of(4096))
                }
            }
            FileKind::Directory => 4096,
            FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => 0,
        }
    }

    /// What the outside sees; of a directory together with its fragment here.
    pub(super) fn attr(&self, ino: Ino, fragment: Option<&Fragment>) -> Attr {
        let shown = |own: Timestamp, of: fn(&Fragment) -> Timestamp| {
            fragment.map_or(own, |fragment| own.max(of(fragment)))
        };
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: fragment.map_or(self.size, |fragment| fragment.entries),
            allocated: self.allocated(),
            atime: self.atime,
            mtime: shown(self.mtime, |fragment| fragment.mtime),
            ctime: shown(self.ctime, |fragment| fragment.ctime),
            btime: self.btime,
            change: self.change,
            fence: self.fence,
            volume: self.volume,
            salt: self.salt,
            parent: self.parent,
        }
    }
}

pub(super) fn get(state: &dyn KvRead, ino: Ino) -> Result<Option<Inode>, KvError> {
    super::read(state, "inode", &key::of_inode(Kind::Inode, ino))
}

/// An inode that must be there: its absence was ruled out before.
pub(super) fn expect(state: &dyn KvRead, ino: Ino) -> Result<Inode, KvError> {
    get(state, ino)?.ok_or_else(|| KvError::Corrupt(alloc::format!("inode {ino:?} is missing")))
}

pub(super) fn put(state: &mut dyn Kv, ino: Ino, inode: &Inode) -> Result<(), KvError> {
    super::write(state, &key::of_inode(Kind::Inode, ino), inode)
}

pub(super) fn delete(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    state.delete(&key::of_inode(Kind::Inode, ino))
}

/// The attributes of an inode that lives here.
pub(super) fn attr(
    state: &dyn KvRead,
    places: Places,
    ino: Ino,
    inode: &Inode,
) -> Result<Attr, KvError> {
    let fragment = match inode.kind {
        FileKind::Directory => entry::fragment(state, places, ino)?,
        FileKind::Regular
        | FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => None,
    };
    Ok(inode.attr(ino, fragment.as_ref()))
}

/// The next inode number at a place; counted per bucket, never reused (P4). None when the bucket has none left: an entry
/// that found no number would stop every replica that applies it.
pub(super) fn next_number(state: &dyn KvRead, place: Place) -> Result<Option<Ino>, KvError> {
    let next = counter(state, place.bucket())?;
    Ok((next < u32::MAX).then(|| Ino::new(place, next)))
}

/// Numbers up to that of `ino` are taken in its bucket.
pub(super) fn claim_number(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    let number = u32::try_from(ino.0 & 0xffff_ffff).expect("masked to 32 bits");
    let next = number.checked_add(1);
    let next =
        next.ok_or_else(|| KvError::Failed("a bucket has run out of numbers".to_string()))?;
    if counter(state, ino.bucket())? < next {
        super::write(state, &key::counter(ino.bucket()), &next)?;
    }
    Ok(())
}

fn counter(state: &dyn KvRead, bucket: Bucket) -> Result<u32, KvError> {
    Ok(super::read(state, "counter", &key::counter(bucket))?.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::mem::MemKv;

    #[test]
    fn a_bucket_that_has_no_number_left_says_so_before_one_is_claimed() {
        let mut state = MemKv::default();
        let place = Place::new(Bucket(5), 1);
        claim_number(&mut state, Ino::new(place, u32::MAX - 2)).expect("memory");
        let last = next_number(&state, place).expect("memory");
        let last = last.expect("one is left");
        claim_number(&mut state, last).expect("it may be claimed");
        assert_eq!(next_number(&state, place).expect("memory"), None);
    }
}
