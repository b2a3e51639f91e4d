//! The last commit, pinned: for queries and for sending snapshots (P5).
//!
//! Owns the promise that what a view shows stays readable, file data included, however long it is held and whatever is
//! written meanwhile. Deliberately changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes as Content;
use polyfs_core::ids::{GroupId, Lineage};

use super::db::Inner;
use super::error::StoreError;
use super::kv::Rows;
use super::layers::{Layers, Pages, State};
use super::record::{GroupRecord, join};
use super::shelf::Sight;
use crate::disk::Dir;
use crate::extents::{ChunkPages, PageMap, PageMaps, ReadGuard};

/// A read-only snapshot of the whole state. Hold it no longer than needed: dropped space waits for it, and what it
/// shows stays in memory or in the database.
pub struct StateView<D: Dir> {
    // Dropped in this order: the snapshot before the space it refers to.
    sight: Sight,
    _guard: ReadGuard,
    inner: Arc<Inner<D>>,
}

impl<D: Dir> Drop for StateView<D> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.inner.shelf().leave(self.sight.at);
        }
    }
}

impl<D: Dir> StateView<D> {
    pub(super) fn new(inner: Arc<Inner<D>>) -> Result<Self, StoreError> {
        inner.poison.check()?;
        // No commit comes between: what the view shows cannot have been retired before it entered.
        let mut shelf = inner.shelf();
        let (guard, sight) = (inner.data.enter(), shelf.enter());
        drop(shelf);
        Ok(Self {
            sight,
            _guard: guard,
            inner,
        })
    }

    pub(super) fn layers(&self) -> Layers<'_, D> {
        Layers {
            inner: &self.inner,
            own: None,
            sight: &self.sight,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    pub fn get(&self, lineage: Lineage, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.layers().get::<State>(&join(lineage, key))?;
        Ok(found.map(|value| value.to_vec()))
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
        self.layers().scan((lineage, from, to), limit)
    }

    /// The lineages that have keys or chunks here.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn lineages(&self) -> Result<BTreeSet<Lineage>, StoreError> {
        self.layers().lineages()
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
        self.layers().keys::<Pages>((lineage, from, to), limit)
    }

    /// The page map of a chunk: which of its pages were ever written.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    pub fn chunk_map(
        &self,
        lineage: Lineage,
        chunk: &[u8],
    ) -> Result<Option<Arc<PageMap>>, StoreError> {
        self.layers().load_map(lineage, chunk)
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
        self.chunks(lineage).read(chunk, offset, len)
    }

    /// Reads a chunk whole from the disk, past the cache; false when there is none.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    pub fn verify_chunk(&self, lineage: Lineage, chunk: &[u8]) -> Result<bool, StoreError> {
        self.chunks(lineage).verify(chunk)
    }

    /// Whether reading these bytes would wait for the disk, as far as one can say.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub fn chunk_read_waits(
        &self,
        lineage: Lineage,
        chunk: &[u8],
        offset: u64,
        len: usize,
    ) -> Result<bool, StoreError> {
        self.chunks(lineage).read_waits(chunk, offset, len)
    }

    fn chunks(&self, lineage: Lineage) -> ChunkPages<'_, D, ViewMaps<'_, D>> {
        let maps = ViewMaps {
            view: self,
            lineage,
        };
        ChunkPages {
            files: &*self.inner.data,
            maps,
        }
    }

    /// What is kept of a group.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_group(&self, group: GroupId) -> Result<Option<GroupRecord>, StoreError> {
        self.layers().group(group)
    }

    /// All groups, in order.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn groups(&self) -> Result<Vec<(GroupId, GroupRecord)>, StoreError> {
        self.layers().groups()
    }

    /// A record of the node itself.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_node(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.layers().node(name)
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

    fn load(&self, key: &[u8]) -> Result<Option<Arc<PageMap>>, StoreError> {
        self.view.chunk_map(self.lineage, key)
    }
}
