//! Reading through all layers: what a batch has set, what is pending, what is stored.
//!
//! Owns the merge: of each key the newest layer that speaks of it is believed, and a scan is in order and as of one
//! commit. Deliberately changes nothing, and looks at a stored value only when it is asked for: a rotten one must not
//! keep its key from being deleted.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use polyfs_core::ids::{GroupId, Lineage};
use redb::{AccessGuard, TableDefinition};

use super::db::Inner;
use super::error::StoreError;
use super::kv::Rows;
use super::pending::{Cursor, Layer, Size, Source, Tables, Value};
use super::record::{
    Bytes, GROUPS, GroupRecord, LineageRange, NODE, PAGES, STATE, Tag, bounds, corrupt, join,
    split, unseal,
};
use super::shelf::{Base, Sight, Table};
use crate::disk::Dir;
use crate::extents::PageMap;

/// How many rows a cursor fetches at once.
const AT_ONCE: usize = 64;

/// One of the four tables, in all of its layers.
pub(super) trait Kept {
    /// What its values are in memory.
    type Value: Clone + Size;
    const TAG: Tag;
    const TABLE: TableDefinition<'static, Bytes, Bytes>;
    fn layer(tables: &Tables) -> &Layer<Self::Value>;
    fn layer_mut(tables: &mut Tables) -> &mut Layer<Self::Value>;
    fn stored(base: &Base) -> &Table;
    /// From the bytes that were stored.
    fn decode(bytes: &[u8]) -> Result<Self::Value, StoreError>;
    /// Calls `take` with the bytes to be stored.
    fn encode<T>(value: &Self::Value, take: impl FnOnce(&[u8]) -> T) -> T;
}

macro_rules! plain_table {
    ($(#[$doc:meta])* $name:ident, $field:ident, $tag:ident, $table:ident) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Kept for $name {
            type Value = Value;
            const TAG: Tag = Tag::$tag;
            const TABLE: TableDefinition<'static, Bytes, Bytes> = $table;
            fn layer(tables: &Tables) -> &Layer<Value> {
                &tables.$field
            }
            fn layer_mut(tables: &mut Tables) -> &mut Layer<Value> {
                &mut tables.$field
            }
            fn stored(base: &Base) -> &Table {
                &base.$field
            }
            fn decode(bytes: &[u8]) -> Result<Value, StoreError> {
                Ok(bytes.into())
            }
            fn encode<T>(value: &Value, take: impl FnOnce(&[u8]) -> T) -> T {
                take(value)
            }
        }
    };
}

plain_table!(
    /// Region state.
    State, state, State, STATE
);
plain_table!(
    /// Groups.
    Groups, groups, Group, GROUPS
);
plain_table!(
    /// The node's own.
    Node, node, Node, NODE
);

/// Page maps, decoded.
pub(super) struct Pages;

impl Kept for Pages {
    type Value = Arc<PageMap>;
    const TAG: Tag = Tag::Pages;
    const TABLE: TableDefinition<'static, Bytes, Bytes> = PAGES;
    fn layer(tables: &Tables) -> &Layer<Self::Value> {
        &tables.pages
    }
    fn layer_mut(tables: &mut Tables) -> &mut Layer<Self::Value> {
        &mut tables.pages
    }
    fn stored(base: &Base) -> &Table {
        &base.pages
    }
    fn decode(bytes: &[u8]) -> Result<Self::Value, StoreError> {
        Ok(Arc::new(PageMap::decode(bytes)?))
    }
    fn encode<T>(value: &Self::Value, take: impl FnOnce(&[u8]) -> T) -> T {
        take(&value.encode())
    }
}

/// A row that a scan meets.
pub(super) enum Found<'t, K: Kept> {
    Pending(K::Value),
    Stored(AccessGuard<'t, Bytes>),
}

impl<K: Kept> Found<'_, K> {
    /// Its value, checked.
    pub(super) fn value(self, key: &[u8]) -> Result<K::Value, StoreError> {
        match self {
            Self::Pending(value) => Ok(value),
            Self::Stored(stored) => K::decode(unseal(K::TAG, key, stored.value())?),
        }
    }
}

/// Stored keys of a range.
pub(super) type Span = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Everything that a batch or view sees.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a, D: Dir> {
    pub(super) inner: &'a Inner<D>,
    /// What a batch has set so far.
    pub(super) own: Option<&'a Tables>,
    pub(super) sight: &'a Sight,
}

impl<D: Dir> Layers<'_, D> {
    /// The value of a stored key.
    pub(super) fn get<K: Kept>(&self, key: &[u8]) -> Result<Option<K::Value>, StoreError> {
        if let Some(found) = self.pending::<K, _>(key, Option::clone) {
            return Ok(found);
        }
        self.inner.ask_all(|| {
            let stored = K::stored(&self.sight.base).get(key);
            let stored = stored.map_err(|error| self.inner.failed(error))?;
            stored
                .map(|stored| K::decode(unseal(K::TAG, key, stored.value())?))
                .transpose()
        })
    }

    /// Whether a stored key is there; its value is not looked at.
    pub(super) fn has<K: Kept>(&self, key: &[u8]) -> Result<bool, StoreError> {
        if let Some(found) = self.pending::<K, _>(key, Option::is_some) {
            return Ok(found);
        }
        let stored = K::stored(&self.sight.base);
        self.inner
            .ask(|| Ok::<_, redb::StorageError>(stored.get(key)?.is_some()))
    }

    /// What the newest of the layers in memory that speaks of a key says; None when all are silent.
    fn pending<K: Kept, T>(&self, key: &[u8], look: impl Fn(&Option<K::Value>) -> T) -> Option<T> {
        let own = self.own.and_then(|own| K::layer(own).get(key, u64::MAX));
        if let Some(found) = own {
            return Some(look(found));
        }
        self.sight.generations().find_map(|generation| {
            let tables = generation.read();
            K::layer(&tables).get(key, self.sight.at).map(&look)
        })
    }

    /// Calls `each` with every key of a span and what is known of it, in order, while it answers true.
    pub(super) fn visit<K: Kept>(
        &self,
        span: &Span,
        at_once: usize,
        mut each: impl FnMut(&[u8], Found<'_, K>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let at_once = at_once.min(AT_ONCE);
        let shared = self.sight.generations();
        let sources = self.own.map(Source::Own).into_iter();
        let sources = sources.chain(shared.map(|one| Source::Shared(one, self.sight.at)));
        let mut cursors: Vec<Cursor<'_, K::Value>> = sources
            .map(|source| Cursor::new(source, K::layer, span.clone(), at_once))
            .collect();
        let range = (
            span.0.as_ref().map(Vec::as_slice),
            span.1.as_ref().map(Vec::as_slice),
        );
        let failed = |error| self.inner.failed(error);
        self.inner.ask_all(|| {
            let stored = K::stored(&self.sight.base).range::<&[u8]>(range);
            let mut stored = stored.map_err(failed)?;
            let mut row = stored.next().transpose().map_err(failed)?;
            loop {
                let pending = cursors.iter_mut().filter_map(Cursor::key);
                let behind = row.as_ref().map(|(key, _)| key.value());
                let Some(key) = pending.chain(behind).min().map(<[u8]>::to_vec) else {
                    return Ok(());
                };
                // The newest layer that has the key is believed, the others step over it.
                let mut believed: Option<Option<Found<'_, K>>> = None;
                for cursor in &mut cursors {
                    if cursor.key() == Some(&key[..]) {
                        let value = cursor.step();
                        believed.get_or_insert_with(|| value.map(Found::Pending));
                    }
                }
                if let Some((_, value)) = row.take_if(|(stored, _)| stored.value() == key) {
                    believed.get_or_insert(Some(Found::Stored(value)));
                    row = stored.next().transpose().map_err(failed)?;
                }
                if let Some(Some(found)) = believed
                    && !each(&key, found)?
                {
                    return Ok(());
                }
            }
        })
    }

    /// Up to `limit` keys, without their lineage, and values.
    pub(super) fn scan(&self, range: LineageRange<'_>, limit: usize) -> Result<Rows, StoreError> {
        let mut rows = Vec::new();
        let Some(span) = bounds(range).filter(|_| limit > 0) else {
            return Ok(rows);
        };
        self.visit::<State>(&span, limit, |stored, found| {
            let (_, key) = split(stored).ok_or_else(|| corrupt(Tag::State, stored))?;
            rows.push((key.to_vec(), found.value(stored)?.to_vec()));
            Ok(rows.len() < limit)
        })?;
        Ok(rows)
    }

    /// Up to `limit` keys, without their lineage; values are not looked at.
    pub(super) fn keys<K: Kept>(
        &self,
        range: LineageRange<'_>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut keys = Vec::new();
        let Some(span) = bounds(range).filter(|_| limit > 0) else {
            return Ok(keys);
        };
        self.visit::<K>(&span, limit, |stored, _| {
            keys.extend(split(stored).map(|(_, key)| key.to_vec()));
            Ok(keys.len() < limit)
        })?;
        Ok(keys)
    }

    /// The page map of a chunk.
    pub(super) fn load_map(
        &self,
        lineage: Lineage,
        key: &[u8],
    ) -> Result<Option<Arc<PageMap>>, StoreError> {
        self.get::<Pages>(&join(lineage, key))
    }

    /// What is kept of a group.
    pub(super) fn group(&self, group: GroupId) -> Result<Option<GroupRecord>, StoreError> {
        let key = GroupRecord::key(group);
        let found = self.get::<Groups>(&key)?;
        found
            .map(|bytes| GroupRecord::decode(&key, &bytes))
            .transpose()
    }

    /// All groups, in order.
    pub(super) fn groups(&self) -> Result<Vec<(GroupId, GroupRecord)>, StoreError> {
        let mut groups = Vec::new();
        let all = (Bound::Unbounded, Bound::Unbounded);
        self.visit::<Groups>(&all, AT_ONCE, |key, found| {
            let record = GroupRecord::decode(key, &found.value(key)?)?;
            groups.push((GroupRecord::group(key)?, record));
            Ok(true)
        })?;
        Ok(groups)
    }

    /// A record of the node itself.
    pub(super) fn node(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.get::<Node>(name.as_bytes())?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// The lineages that have keys or chunks.
    pub(super) fn lineages(&self) -> Result<BTreeSet<Lineage>, StoreError> {
        let mut all = BTreeSet::new();
        self.lineages_of::<State>(&mut all)?;
        self.lineages_of::<Pages>(&mut all)?;
        Ok(all)
    }

    fn lineages_of<K: Kept>(&self, all: &mut BTreeSet<Lineage>) -> Result<(), StoreError> {
        let mut next = Some(0);
        while let Some(from) = next {
            let start = Bound::Included(join(Lineage(from), &[]));
            let mut found = None;
            self.visit::<K>(&(start, Bound::Unbounded), 8, |key, _| {
                found = split(key).map(|(lineage, _)| lineage);
                Ok(false)
            })?;
            all.extend(found);
            next = found.and_then(|lineage| lineage.0.checked_add(1));
        }
        Ok(())
    }
}
