//! The last commit, pinned: for queries and for sending snapshots (P5).
//!
//! Owns the promise that what a view shows stays readable, file data included, however long it is held and whatever is
//! written meanwhile. Deliberately changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes as Content;
use polyfs_core::ids::{GroupId, Lineage};
use redb::{ReadOnlyTable, ReadableDatabase};

use super::caught::Held;
use super::db::Inner;
use super::error::StoreError;
use super::kv::Rows;
use super::record::{self, Bytes, GROUPS, GroupRecord, NODE, PAGES, STATE, Tag, join, split};
use crate::disk::Dir;
use crate::extents::{ChunkPages, PageMap, PageMaps, ReadGuard};

type Table = Held<ReadOnlyTable<Bytes, Bytes>>;

/// A read-only snapshot of the whole state. Hold it no longer than needed: dropped space waits for it.
pub struct StateView<D: Dir> {
    // Dropped in this order: the snapshot before the space it refers to.
    pub(super) state: Table,
    pub(super) pages: Table,
    groups: Table,
    pub(super) node: Table,
    _guard: ReadGuard,
    pub(super) inner: Arc<Inner<D>>,
}

impl<D: Dir> StateView<D> {
    pub(super) fn new(inner: Arc<Inner<D>>) -> Result<Self, StoreError> {
        inner.poison.check()?;
        // Entered before the snapshot is taken: what it shows cannot have been reused.
        let guard = inner.data.enter();
        let txn = inner.ask(|| inner.database.begin_read())?;
        let txn = Held::new(txn, &inner.poison);
        let open = |table| {
            let opened = inner.ask(|| txn.open_table(table))?;
            Ok::<Table, StoreError>(Held::new(opened, &inner.poison))
        };
        Ok(Self {
            state: open(STATE)?,
            pages: open(PAGES)?,
            groups: open(GROUPS)?,
            node: open(NODE)?,
            _guard: guard,
            inner,
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    pub fn get(&self, lineage: Lineage, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        record::get(&self.inner, &*self.state, Tag::State, &join(lineage, key))
    }

    /// Up to `limit` keys from `from` on and below `to` (None: the lineage's end) with their values, in order. Go on
    /// from the last key with a zero byte appended.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    pub fn scan(
        &self,
        lineage: Lineage,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StoreError> {
        record::scan(
            &self.inner,
            &*self.state,
            Tag::State,
            (lineage, from, to),
            limit,
        )
    }

    /// The lineages that have keys or chunks here.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn lineages(&self) -> Result<BTreeSet<Lineage>, StoreError> {
        let mut all = BTreeSet::new();
        for table in [&self.state, &self.pages] {
            let mut next = Some(0);
            while let Some(from) = next {
                let start = join(Lineage(from), &[]);
                let found = self.inner.ask(|| {
                    let Some(row) = table.range(&start[..]..)?.next() else {
                        return Ok::<_, redb::StorageError>(None);
                    };
                    let (key, _) = row?;
                    Ok(split(key.value()).map(|(lineage, _)| lineage))
                })?;
                all.extend(found);
                next = found.and_then(|lineage| lineage.0.checked_add(1));
            }
        }
        Ok(all)
    }

    /// Up to `limit` keys of chunks from `from` on and below `to` (None: the lineage's end).
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn chunk_keys(
        &self,
        lineage: Lineage,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        record::keys(&self.inner, &*self.pages, (lineage, from, to), limit)
    }

    /// The page map of a chunk: which of its pages were ever written.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    pub fn chunk_map(&self, lineage: Lineage, chunk: &[u8]) -> Result<Option<PageMap>, StoreError> {
        record::load_map(&self.inner, &*self.pages, lineage, chunk)
    }

    /// Bytes of a chunk, zeros where nothing was written.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub fn read_chunk(
        &self,
        lineage: Lineage,
        chunk: &[u8],
        offset: u64,
        len: usize,
    ) -> Result<Content, StoreError> {
        let maps = ViewMaps {
            view: self,
            lineage,
        };
        ChunkPages {
            files: &*self.inner.data,
            maps,
        }
        .read(chunk, offset, len)
    }

    /// What is kept of a group.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_group(&self, group: GroupId) -> Result<Option<GroupRecord>, StoreError> {
        record::group(&self.inner, &*self.groups, group)
    }

    /// All groups, in order.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn groups(&self) -> Result<Vec<(GroupId, GroupRecord)>, StoreError> {
        record::groups(&self.inner, &*self.groups)
    }

    /// A record of the node itself.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_node(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        record::get(&self.inner, &*self.node, Tag::Node, name.as_bytes())
    }
}

struct ViewMaps<'a, D: Dir> {
    view: &'a StateView<D>,
    lineage: Lineage,
}

impl<D: Dir> PageMaps for ViewMaps<'_, D> {
    fn lineage(&self) -> Lineage {
        self.lineage
    }

    fn load(&self, key: &[u8]) -> Result<Option<PageMap>, StoreError> {
        self.view.chunk_map(self.lineage, key)
    }
}
