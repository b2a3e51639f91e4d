//! A region: a contiguous range of places, one Raft group.
//!
//! Owns what a region's log entries do to its state: pure functions of state and entry, the same on every replica.
//! Deliberately knows no consensus: entries arrive in order, from whoever orders them.
//!
//! ```text
//!  command ─► checks (epoch, session, slot) ─┬─ names:   plan ─► steps ─► check all ─► effect all
//!                                            ├─ inodes:  attributes, xattrs, locks, content
//!                                            ├─ data:    chunks and their fences
//!                                            └─ txn:     intents, records, decisions
//! ```

mod apply;
mod attributes;
pub mod audit;
mod clock;
pub mod command;
mod content;
mod data;
#[cfg(test)]
mod decoders;
mod entry;
pub mod garbage;
mod inode;
mod intent;
pub mod key;
pub mod kv;
pub mod leader;
pub(crate) mod lock;
pub mod map;
pub mod mem;
pub mod orphan;
mod plan;
pub mod query;
mod runs;
pub mod session;
mod slot;
mod step;
mod touch;
pub mod txn;
mod xattr;

pub use apply::apply;
pub use lock::delegated_to;
pub use session::is_over;

use alloc::string::ToString as _;

use crate::attr::FileKind;
use crate::codec;
use crate::ids::{Fence, VolumeId};
use crate::place::{Ino, Salt};
use crate::time::Timestamp;
use command::Descriptor;
use inode::Inode;
use kv::{Kv, KvError, KvRead};

/// The version of every stored value so far.
const VERSION: u8 = 1;

/// The root directory of a volume, as it is founded.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its number.
    pub ino: Ino,
    /// Drawn at random.
    pub salt: Salt,
    /// Permission bits.
    pub mode: u16,
    /// The user who founded.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Its volume.
    pub volume: VolumeId,
    /// When.
    pub time: Timestamp,
}

/// Writes the first state of a region; with the root directory, if its place is here.
///
/// # Errors
/// As [`KvError`].
pub fn found(
    state: &mut dyn Kv,
    descriptor: &Descriptor,
    root: Option<&Root>,
) -> Result<(), KvError> {
    state.put(
        &key::descriptor(),
        &codec::encode_versioned(VERSION, descriptor),
    )?;
    let Some(root) = root.filter(|root| descriptor.places.contains(root.ino.place())) else {
        return Ok(());
    };
    if descriptor.space != crate::request::Space::Meta {
        return Ok(());
    }
    let inode = Inode {
        kind: FileKind::Directory,
        mode: root.mode,
        nlink: 2,
        uid: root.uid,
        gid: root.gid,
        rdev: 0,
        size: 0,
        mapped: 0,
        atime: root.time,
        mtime: root.time,
        ctime: root.time,
        btime: root.time,
        change: 1,
        content: 1,
        fence: Fence(0),
        volume: root.volume,
        salt: root.salt,
        parent: root.ino,
        cut: None,
    };
    inode::put(state, root.ino, &inode)?;
    entry::put_fragment(
        state,
        descriptor.places,
        root.ino,
        &entry::Fragment::of(&inode),
    )?;
    inode::claim_number(state, root.ino)
}

/// What a region is, as far as applied.
///
/// # Errors
/// When the state holds no descriptor: it is no region's.
pub fn descriptor(state: &dyn KvRead) -> Result<Descriptor, KvError> {
    let bytes = state.get(&key::descriptor())?;
    let bytes = bytes.ok_or_else(|| KvError::Corrupt("there is no descriptor".to_string()))?;
    Ok(codec::decode_versioned("descriptor", VERSION, &bytes)?)
}

/// Reads and decodes the value of a key.
fn read<T: serde::de::DeserializeOwned>(
    state: &dyn KvRead,
    what: &'static str,
    key: &[u8],
) -> Result<Option<T>, KvError> {
    match state.get(key)? {
        Some(bytes) => Ok(Some(codec::decode_versioned(what, VERSION, &bytes)?)),
        None => Ok(None),
    }
}

/// Encodes and writes the value of a key.
fn write<T: serde::Serialize>(state: &mut dyn Kv, key: &[u8], value: &T) -> Result<(), KvError> {
    state.put(key, &codec::encode_versioned(VERSION, value))
}
