//! The keys of region state: `kind | place | ino | rest`, big endian, so that they sort by kind, then place (P4).
//!
//! Owns every key's layout, as a table:
//!
//! | kind | record | rest of the key | lives in |
//! |---|---|---|---|
//! | 0x01 | descriptor | - | every region |
//! | 0x02 | slot | session, slot | every region |
//! | 0x03 | session seen or ended | session | every region |
//! | 0x04 | session admitted to leases | session | meta |
//! | 0x05 | number counter | bucket | meta |
//! | 0x06 | last time stamped | - | meta |
//! | 0x10 | inode | place, ino | meta |
//! | 0x11 | entry | place of the name, directory, cookie | meta |
//! | 0x12 | fragment | first place of the bucket in this region, directory | meta |
//! | 0x13 | extended attribute | place, ino, name | meta |
//! | 0x14 | inline content, link target | place, ino | meta |
//! | 0x15 | chunk run | place, ino, first chunk | meta |
//! | 0x16 | locks | place, ino | meta |
//! | 0x17 | orphan | place, ino | meta |
//! | 0x18 | garbage | place, ino, version, first chunk | meta |
//! | 0x20 | intent | place, ino, rest of the guarded key | meta |
//! | 0x21 | transaction record | place, session, slot, sequence | meta |
//! | 0x30 | chunk | place, ino, chunk number, version | data |
//! | 0x31 | tombstone | place, ino, chunk number, version | data |
//!
//! Kinds below 0x10 belong to the region as a whole: a split copies them to both halves. All others belong to a place.

use alloc::vec::Vec;

use crate::ids::SessionId;
use crate::place::{Bucket, Cookie, Ino, Place, Places};
use crate::request::{ChunkName, SlotUse};
use crate::txn::TxnId;

/// The first byte of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the module's table explains each")]
pub enum Kind {
    Descriptor = 0x01,
    Slot = 0x02,
    Session = 0x03,
    Admitted = 0x04,
    Counter = 0x05,
    Clock = 0x06,
    Inode = 0x10,
    Entry = 0x11,
    Fragment = 0x12,
    Xattr = 0x13,
    Inline = 0x14,
    Run = 0x15,
    Locks = 0x16,
    Orphan = 0x17,
    Garbage = 0x18,
    Intent = 0x20,
    Txn = 0x21,
    Chunk = 0x30,
    Tombstone = 0x31,
}

/// A key under construction.
struct Key(Vec<u8>);

impl Key {
    fn of(kind: Kind) -> Self {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(kind as u8);
        Self(bytes)
    }
    fn at(kind: Kind, place: Place) -> Self {
        Self::of(kind).u32(place.0)
    }
    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }
}

/// The descriptor's key.
#[must_use]
pub fn descriptor() -> Vec<u8> {
    Key::of(Kind::Descriptor).0
}

/// A slot's record.
#[must_use]
pub fn slot(session: SessionId, slot: u8) -> Vec<u8> {
    Key::of(Kind::Slot).u64(session.0).u8(slot).0
}

/// What the region knows of a session.
#[must_use]
pub fn session(session: SessionId) -> Vec<u8> {
    Key::of(Kind::Session).u64(session.0).0
}

/// That a session may hold leases here.
#[must_use]
pub fn admitted(session: SessionId) -> Vec<u8> {
    Key::of(Kind::Admitted).u64(session.0).0
}

/// The next inode number of a bucket.
#[must_use]
pub fn counter(bucket: Bucket) -> Vec<u8> {
    Key::of(Kind::Counter).u32(bucket.0).0
}

/// The last time an entry was stamped with.
#[must_use]
pub fn clock() -> Vec<u8> {
    Key::of(Kind::Clock).0
}

/// A record that an inode has one of: inode, inline content, locks, orphan.
#[must_use]
pub fn of_inode(kind: Kind, ino: Ino) -> Vec<u8> {
    Key::at(kind, ino.place()).u64(ino.0).0
}

/// A directory entry.
#[must_use]
pub fn entry(dir: Ino, cookie: Cookie) -> Vec<u8> {
    Key::at(Kind::Entry, cookie.place(dir))
        .u64(dir.0)
        .u64(cookie.0)
        .0
}

/// A directory's fragment in a region that holds `places`.
///
/// # Panics
/// When the region holds nothing of the directory's bucket.
#[must_use]
pub fn fragment(dir: Ino, places: Places) -> Vec<u8> {
    let here = places
        .overlap(dir.bucket().places())
        .expect("a fragment lies in its region");
    Key::at(Kind::Fragment, Place(here.start)).u64(dir.0).0
}

/// An extended attribute.
#[must_use]
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    Key::at(Kind::Xattr, ino.place()).u64(ino.0).bytes(name).0
}

/// A run of the chunk map.
#[must_use]
pub fn run(ino: Ino, first: u64) -> Vec<u8> {
    Key::at(Kind::Run, ino.place()).u64(ino.0).u64(first).0
}

/// A run of freed chunk names.
#[must_use]
pub fn garbage(ino: Ino, version: u64, first: u64) -> Vec<u8> {
    Key::at(Kind::Garbage, ino.place())
        .u64(ino.0)
        .u64(version)
        .u64(first)
        .0
}

/// The intent on a guarded key that belongs to a place: kind and place first, so that it splits with its key.
///
/// # Panics
/// When the guarded key belongs to no place.
#[must_use]
pub fn intent(guarded: &[u8]) -> Vec<u8> {
    assert!(
        guarded.len() >= 5 && guarded[0] >= 0x10,
        "an intent guards a key of a place"
    );
    Key::of(Kind::Intent).bytes(&guarded[1..]).u8(guarded[0]).0
}

/// A coordinator's record.
#[must_use]
pub fn txn(txn: &TxnId) -> Vec<u8> {
    let SlotUse { slot, sequence } = txn.slot;
    Key::at(Kind::Txn, txn.place)
        .u64(txn.session.0)
        .u8(slot)
        .u64(sequence)
        .0
}

/// A chunk's record, or its tombstone.
#[must_use]
pub fn chunk(kind: Kind, name: &ChunkName) -> Vec<u8> {
    Key::at(kind, name.place())
        .u64(name.ino.0)
        .u64(name.number)
        .u64(name.version)
        .0
}

/// First key and end of all keys of a kind that begin with these bytes.
#[must_use]
pub fn prefix(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (prefix.to_vec(), end);
        }
    }
    (prefix.to_vec(), alloc::vec![u8::MAX; 64])
}

/// First key and end of all records of `kind` in these places.
#[must_use]
pub fn kind_in(kind: Kind, places: Places) -> (Vec<u8>, Vec<u8>) {
    (
        Key::of(kind).u32(places.start).0,
        Key::of(kind).u32(places.end).0,
    )
}

/// First key and end of all keys of `kind`.
#[must_use]
pub fn all_of(kind: Kind) -> (Vec<u8>, Vec<u8>) {
    prefix(&[kind as u8])
}

/// The cookie in an entry's key; `None` when the key is no entry's.
#[must_use]
pub fn cookie_of_entry(key: &[u8]) -> Option<Cookie> {
    let bytes = key.get(13..21)?;
    (key[0] == Kind::Entry as u8 && key.len() == 21).then(|| {
        Cookie(u64::from_be_bytes(
            bytes.try_into().expect("eight bytes were taken"),
        ))
    })
}

/// The `index`-th big-endian number after kind and place of a key; `None` when the key is too short.
#[must_use]
pub fn number(key: &[u8], index: usize) -> Option<u64> {
    let bytes = key.get(5 + index * 8..13 + index * 8)?;
    Some(u64::from_be_bytes(
        bytes.try_into().expect("eight bytes were taken"),
    ))
}
