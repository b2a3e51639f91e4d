//! The first state of a region (P3, P4).

use super::command::Descriptor;
use super::entry::Fragment;
use super::kv::{Kv, KvError};
use super::{inode, key, record, step};
use crate::attr::{FileKind, NewInode};
use crate::ids::VolumeId;
use crate::place::{Ino, Salt};
use crate::time::Timestamp;

/// A volume's root directory, as its founder draws it; mode 0755.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are a directory's own attributes")]
pub struct Root {
    pub ino: Ino,
    pub salt: Salt,
    pub uid: u32,
    pub gid: u32,
    pub volume: VolumeId,
    pub time: Timestamp,
}

/// Writes a region's first state; the root directory only as far as its places are here.
///
/// # Errors
/// As [`KvError`].
pub fn found(
    state: &mut dyn Kv,
    descriptor: &Descriptor,
    root: Option<Root>,
) -> Result<(), KvError> {
    record::write(state, &key::descriptor(), descriptor)?;
    let Some(root) = root else { return Ok(()) };
    let places = descriptor.places;
    if places.overlap(root.ino.bucket().places()).is_some() {
        let fragment = Fragment {
            count: 0,
            mtime: root.time,
            ctime: root.time,
            volume: root.volume,
            inherit: None,
        };
        record::write(state, &key::fragment(root.ino, places), &fragment)?;
        let number = u32::try_from(root.ino.0 & 0xffff_ffff).expect("masked to 32 bits");
        record::write(state, &key::counter(root.ino.bucket()), &(number + 1))?;
    }
    if places.contains(root.ino.place()) {
        let new = NewInode {
            kind: FileKind::Directory,
            mode: 0o755,
            uid: root.uid,
            gid: root.gid,
            rdev: 0,
            target: bytes::Bytes::new(),
        };
        let made = step::fresh(root.ino, &new, root.salt, root.ino, root.volume, root.time);
        inode::write(state, &made)?;
    }
    record::write(state, &key::clock(), &root.time)
}
