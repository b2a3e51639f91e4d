//! How keys and values are stored: lineage in front of keys, a checksum in front of values.
//!
//! Owns the tables' names and both encodings. A value is `CRC32C (4, little endian) | bytes`, the checksum over (table,
//! key, bytes): redb does not verify what it reads, so a rotten value, or one found under another key, must be seen
//! here. Deliberately knows no transaction: it reads any table that is handed to it.

use std::ops::Bound;

use polyfs_core::ids::{GroupId, Lineage};
use redb::{ReadableTable, TableDefinition};

use super::db::Inner;
use super::error::StoreError;
use super::kv::Rows;
use crate::disk::Dir;
use crate::extents::{Crc, PageMap};

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

type StoredBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The stored keys of a range; None when it is empty, which redb would take for a mistake.
fn bounds((lineage, from, to): LineageRange<'_>) -> Option<StoredBounds> {
    let start = join(lineage, from);
    let end = match (to, lineage.0.checked_add(1)) {
        (Some(to), _) => Bound::Excluded(join(lineage, to)),
        (None, Some(next)) => Bound::Excluded(join(Lineage(next), &[])),
        (None, None) => Bound::Unbounded,
    };
    let empty = matches!(&end, Bound::Excluded(end) if *end <= start);
    (!empty).then_some((Bound::Included(start), end))
}

fn visit<D: Dir>(
    inner: &Inner<D>,
    table: &impl ReadableTable<Bytes, Bytes>,
    range: LineageRange<'_>,
    limit: usize,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let Some((start, end)) = bounds(range) else {
        return Ok(());
    };
    let range = (
        start.as_ref().map(Vec::as_slice),
        end.as_ref().map(Vec::as_slice),
    );
    inner.ask_all(|| {
        let rows = table
            .range::<&[u8]>(range)
            .map_err(|error| inner.failed(error))?;
        for row in rows.take(limit) {
            let (key, value) = row.map_err(|error| inner.failed(error))?;
            each(key.value(), value.value())?;
        }
        Ok(())
    })
}

/// The value of a stored key.
pub(super) fn get<D: Dir>(
    inner: &Inner<D>,
    table: &impl ReadableTable<Bytes, Bytes>,
    tag: Tag,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    inner.ask_all(|| {
        let found = table.get(key).map_err(|error| inner.failed(error))?;
        found
            .map(|stored| Ok(unseal(tag, key, stored.value())?.to_vec()))
            .transpose()
    })
}

/// Up to `limit` keys, without their lineage, and values.
pub(super) fn scan<D: Dir>(
    inner: &Inner<D>,
    table: &impl ReadableTable<Bytes, Bytes>,
    tag: Tag,
    range: LineageRange<'_>,
    limit: usize,
) -> Result<Rows, StoreError> {
    let mut rows = Vec::new();
    visit(inner, table, range, limit, |stored, value| {
        let (_, key) = split(stored).ok_or_else(|| corrupt(tag, stored))?;
        rows.push((key.to_vec(), unseal(tag, stored, value)?.to_vec()));
        Ok(())
    })?;
    Ok(rows)
}

/// Up to `limit` keys, without their lineage; values are not looked at.
pub(super) fn keys<D: Dir>(
    inner: &Inner<D>,
    table: &impl ReadableTable<Bytes, Bytes>,
    range: LineageRange<'_>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut keys = Vec::new();
    visit(inner, table, range, limit, |stored, _| {
        keys.extend(split(stored).map(|(_, key)| key.to_vec()));
        Ok(())
    })?;
    Ok(keys)
}

/// The page map of a chunk.
pub(super) fn load_map<D: Dir>(
    inner: &Inner<D>,
    table: &impl ReadableTable<Bytes, Bytes>,
    lineage: Lineage,
    key: &[u8],
) -> Result<Option<PageMap>, StoreError> {
    let key = join(lineage, key);
    let found = get(inner, table, Tag::Pages, &key)?;
    Ok(found.map(|bytes| PageMap::decode(&bytes)).transpose()?)
}

/// All groups, in order.
pub(super) fn groups<D: Dir>(
    inner: &Inner<D>,
    table: &impl ReadableTable<Bytes, Bytes>,
) -> Result<Vec<(GroupId, GroupRecord)>, StoreError> {
    inner.ask_all(|| {
        let mut groups = Vec::new();
        for row in table.iter().map_err(|error| inner.failed(error))? {
            let (key, value) = row.map_err(|error| inner.failed(error))?;
            let record = GroupRecord::unseal(key.value(), value.value())?;
            groups.push((GroupRecord::group(key.value())?, record));
        }
        Ok(groups)
    })
}

/// What is kept of one group.
pub(super) fn group<D: Dir>(
    inner: &Inner<D>,
    table: &impl ReadableTable<Bytes, Bytes>,
    group: GroupId,
) -> Result<Option<GroupRecord>, StoreError> {
    let key = GroupRecord::key(group);
    inner.ask_all(|| {
        let found = table.get(&key[..]).map_err(|error| inner.failed(error))?;
        found
            .map(|stored| GroupRecord::unseal(&key, stored.value()))
            .transpose()
    })
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

    pub(super) fn seal(group: GroupId, applied: u64, bytes: &[u8]) -> Vec<u8> {
        let mut value = applied.to_le_bytes().to_vec();
        value.extend_from_slice(bytes);
        seal(Tag::Group, &Self::key(group), &value)
    }

    pub(super) fn unseal(key: &[u8], stored: &[u8]) -> Result<Self, StoreError> {
        let value = unseal(Tag::Group, key, stored)?;
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
