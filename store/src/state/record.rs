//! How keys and values are stored: lineage in front of keys, a checksum in front of values.
//!
//! Owns the tables' names and both encodings. A value is `CRC32C (4, little endian) | bytes`, the checksum over (table,
//! key, bytes): redb does not verify what it reads, so a rotten value, or one found under another key, must be seen
//! here. Deliberately knows no transaction, and reads no table.

use std::ops::Bound;

use polyfs_core::ids::{GroupId, Lineage};
use redb::TableDefinition;

use super::error::StoreError;
use super::layers::Span;
use crate::extents::Crc;

pub(super) type Bytes = &'static [u8];

/// Region state: lineage and key -> value.
pub(super) const STATE: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("state");
/// Page maps: lineage and chunk key -> page map. Physical, different on each replica, so apart from the state.
pub(super) const PAGES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("pages");
/// Groups: id -> applied index and the node's record.
pub(super) const GROUPS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("groups");
/// What the node itself remembers: name -> bytes.
pub(super) const NODE: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("node");

/// Which table a value lives in; part of its checksum.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Tag {
    State = 1,
    Pages = 2,
    Group = 3,
    Node = 4,
}

fn crc(tag: Tag, key: &[u8], bytes: &[u8]) -> [u8; 4] {
    let length = (key.len() as u64).to_be_bytes();
    let crc = Crc::new()
        .add(&[tag as u8])
        .add(&length)
        .add(key)
        .add(bytes);
    crc.finish().to_le_bytes()
}

/// The stored form of a value.
pub(super) fn seal(tag: Tag, key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + bytes.len());
    value.extend_from_slice(&crc(tag, key, bytes));
    value.extend_from_slice(bytes);
    value
}

/// The value of a stored form; a mismatch names the lineage or the record.
pub(super) fn unseal<'a>(tag: Tag, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match stored.split_first_chunk::<4>() {
        Some((sum, bytes)) if *sum == crc(tag, key, bytes) => Ok(bytes),
        _ => Err(corrupt(tag, key)),
    }
}

pub(super) fn corrupt(tag: Tag, key: &[u8]) -> StoreError {
    match (tag, split(key)) {
        (Tag::State, Some((lineage, key))) => StoreError::Corrupt {
            lineage,
            what: format!("the value of the key {key:02x?}"),
        },
        (Tag::Pages, Some((lineage, key))) => StoreError::Corrupt {
            lineage,
            what: format!("the page map of the chunk {key:02x?}"),
        },
        _ => StoreError::CorruptRecord(format!("{tag:?} {}", key.escape_ascii())),
    }
}

/// A lineage's key as stored.
pub(super) fn join(lineage: Lineage, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(8 + key.len());
    stored.extend_from_slice(&lineage.0.to_be_bytes());
    stored.extend_from_slice(key);
    stored
}

/// The lineage and key of a stored key; None when it is too short to be one.
pub(super) fn split(stored: &[u8]) -> Option<(Lineage, &[u8])> {
    let (lineage, key) = stored.split_first_chunk::<8>()?;
    Some((Lineage(u64::from_be_bytes(*lineage)), key))
}

/// A part of one lineage: its keys from the second up to the third, exclusive; None is the lineage's end.
pub(super) type LineageRange<'a> = (Lineage, &'a [u8], Option<&'a [u8]>);

/// The stored keys of a range; None when it is empty, which redb would take for a mistake.
pub(super) fn bounds((lineage, from, to): LineageRange<'_>) -> Option<Span> {
    let start = join(lineage, from);
    let end = match (to, lineage.0.checked_add(1)) {
        (Some(to), _) => Bound::Excluded(join(lineage, to)),
        (None, Some(next)) => Bound::Excluded(join(Lineage(next), &[])),
        (None, None) => Bound::Unbounded,
    };
    let empty = matches!(&end, Bound::Excluded(end) if *end <= start);
    (!empty).then_some((Bound::Included(start), end))
}

/// What is kept of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The index of the last entry that its state contains (rule 4 compares it with the log); 0 is none.
    pub applied: u64,
    /// The node's own: applied log id, membership, lineage, descriptor.
    pub bytes: Vec<u8>,
}

impl GroupRecord {
    pub(super) fn key(group: GroupId) -> [u8; 8] {
        group.0.to_be_bytes()
    }

    /// What is stored of it, before its checksum.
    pub(super) fn encode(applied: u64, bytes: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(8 + bytes.len());
        value.extend_from_slice(&applied.to_le_bytes());
        value.extend_from_slice(bytes);
        value
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let (applied, bytes) = value
            .split_first_chunk::<8>()
            .ok_or_else(|| corrupt(Tag::Group, key))?;
        Ok(Self {
            applied: u64::from_le_bytes(*applied),
            bytes: bytes.to_vec(),
        })
    }

    pub(super) fn group(key: &[u8]) -> Result<GroupId, StoreError> {
        let id = <[u8; 8]>::try_from(key).map_err(|_| corrupt(Tag::Group, key))?;
        Ok(GroupId(u64::from_be_bytes(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_good_only_under_its_own_key_and_table() {
        let key = join(Lineage(7), b"key");
        let stored = seal(Tag::State, &key, b"value");
        assert_eq!(unseal(Tag::State, &key, &stored), Ok(&b"value"[..]));
        assert!(unseal(Tag::Pages, &key, &stored).is_err());
        let other = unseal(Tag::State, &join(Lineage(8), b"key"), &stored);
        assert!(matches!(
            other,
            Err(StoreError::Corrupt {
                lineage: Lineage(8),
                ..
            })
        ));
        for at in 0..stored.len() {
            let mut rotten = stored.clone();
            rotten[at] ^= 0x10;
            assert!(unseal(Tag::State, &key, &rotten).is_err());
            assert!(unseal(Tag::State, &key, &stored[..at]).is_err());
        }
    }

    #[test]
    fn lineages_keep_their_keys_together_and_in_order() {
        assert!(join(Lineage(1), &[255; 9]) < join(Lineage(2), b""));
        assert!(join(Lineage(255), b"x") < join(Lineage(256), b""));
        assert_eq!(
            split(&join(Lineage(9), b"rest")),
            Some((Lineage(9), &b"rest"[..]))
        );
        assert_eq!(split(b"short"), None);
    }
}
