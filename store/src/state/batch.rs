//! One write transaction over the state of any number of groups.
//!
//! Owns atomicity: state, page maps, group records and the fate of blocks are committed together or not at all. A
//! commit here is visible at once and durable with the next checkpoint. Deliberately knows no rule of ordering: those
//! are the checkpoint's.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes as Content;
use polyfs_core::ids::{GroupId, Lineage};
use redb::{Durability, Table, WriteTransaction};

use super::caught::Held;
use super::db::Inner;
use super::error::StoreError;
use super::kv::{RegionKv, Rows};
use super::record::{
    self, Bytes, GROUPS, GroupRecord, NODE, PAGES, STATE, Tag, join, seal, unseal,
};
use crate::disk::Dir;
use crate::extent_ref::ExtentRef;
use crate::extents::{Changes, ChunkPages, PageMap, PageMaps, PageMapsMut};

/// A write transaction; dropped, it never was.
pub struct StateBatch<'a, D: Dir> {
    pub(super) inner: &'a Inner<D>,
    pub(super) txn: Option<Held<WriteTransaction>>,
    changes: Changes,
    failed: bool,
}

impl<'a, D: Dir> StateBatch<'a, D> {
    pub(super) fn begin(inner: &'a Inner<D>) -> Result<Self, StoreError> {
        inner.poison.check()?;
        let txn = inner.ask(|| inner.database.begin_write())?;
        let mut txn = Held::new(txn, &inner.poison);
        inner.ask(|| txn.set_durability(Durability::None))?;
        Ok(Self {
            inner,
            txn: Some(txn),
            changes: Changes::default(),
            failed: false,
        })
    }

    fn open(
        &self,
        table: redb::TableDefinition<'_, Bytes, Bytes>,
    ) -> Result<Held<Table<'_, Bytes, Bytes>>, StoreError> {
        let txn = self
            .txn
            .as_ref()
            .expect("a transaction lives until it is committed");
        let opened = self.inner.ask(|| txn.open_table(table))?;
        Ok(Held::new(opened, &self.inner.poison))
    }

    /// The state and chunks of one lineage. Open it once for as many operations as follow each other.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn lineage(&mut self, lineage: Lineage) -> Result<LineageState<'_, D>, StoreError> {
        let txn = self
            .txn
            .as_ref()
            .expect("a transaction lives until it is committed");
        let inner = self.inner;
        let open = |table| {
            let opened = inner.ask(|| txn.open_table(table))?;
            Ok::<_, StoreError>(Held::new(opened, &inner.poison))
        };
        let (state, pages) = (open(STATE)?, open(PAGES)?);
        let (changes, failed) = (&mut self.changes, &mut self.failed);
        Ok(LineageState {
            inner,
            lineage,
            state,
            pages,
            changes,
            failed,
        })
    }

    /// Sets what is kept of a group; `applied` is the index of the last entry that its state contains now.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn set_group(
        &mut self,
        group: GroupId,
        applied: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let value = GroupRecord::seal(group, applied, bytes);
        self.put(GROUPS, &GroupRecord::key(group), &value)
    }

    /// The applied index of every group.
    pub(super) fn applied(&self) -> Result<BTreeMap<GroupId, u64>, StoreError> {
        let table = self.open(GROUPS)?;
        let groups = record::groups(self.inner, &*table)?;
        Ok(groups
            .into_iter()
            .map(|(group, record)| (group, record.applied))
            .collect())
    }

    /// What is kept of a group.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_group(&self, group: GroupId) -> Result<Option<GroupRecord>, StoreError> {
        record::group(self.inner, &*self.open(GROUPS)?, group)
    }

    /// Forgets a group; its lineage's keys stay until deleted.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn delete_group(&mut self, group: GroupId) -> Result<(), StoreError> {
        self.remove(GROUPS, &GroupRecord::key(group))
    }

    /// Sets a record of the node itself.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn set_node(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(
            NODE,
            name.as_bytes(),
            &seal(Tag::Node, name.as_bytes(), bytes),
        )
    }

    /// A record of the node itself.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_node(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        record::get(self.inner, &*self.open(NODE)?, Tag::Node, name.as_bytes())
    }

    /// Removes a record of the node itself.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn delete_node(&mut self, name: &str) -> Result<(), StoreError> {
        self.remove(NODE, name.as_bytes())
    }

    /// Deletes up to `limit` keys and page maps of a lineage; true when nothing is left of it (P5: at leisure).
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn delete_lineage(&mut self, lineage: Lineage, limit: usize) -> Result<bool, StoreError> {
        let mut state = self.lineage(lineage)?;
        let left = limit - state.delete_range(&[], None, limit)?;
        let deleted = state.delete_chunks(&[], None, left)?;
        Ok(deleted < left)
    }

    fn put(
        &mut self,
        table: redb::TableDefinition<'_, Bytes, Bytes>,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        let mut table = self.open(table)?;
        self.inner.ask(|| table.insert(key, value).map(drop))
    }

    fn remove(
        &mut self,
        table: redb::TableDefinition<'_, Bytes, Bytes>,
        key: &[u8],
    ) -> Result<(), StoreError> {
        let mut table = self.open(table)?;
        self.inner.ask(|| table.remove(key).map(drop))
    }

    /// Makes everything visible at once; durable with the next checkpoint.
    ///
    /// # Errors
    /// `BatchFailed` when an operation of it failed half way; failures of the disk. Nothing of it is visible then.
    pub fn commit(mut self) -> Result<(), StoreError> {
        self.inner.poison.check()?;
        if self.failed {
            return Err(StoreError::BatchFailed);
        }
        let txn = self.txn.take().expect("a batch is committed once");
        self.inner.ask(|| txn.into_inner().commit())?;
        // Readers that enter from here on see this commit, so what it dropped is retired only now.
        self.inner.data.commit(std::mem::take(&mut self.changes));
        Ok(())
    }
}

impl<D: Dir> Drop for StateBatch<'_, D> {
    fn drop(&mut self) {
        drop(self.txn.take());
        if std::thread::panicking() {
            return;
        }
        self.inner.data.abort(std::mem::take(&mut self.changes));
    }
}

/// The keys and chunks of one lineage inside a batch.
pub struct LineageState<'b, D: Dir> {
    inner: &'b Inner<D>,
    lineage: Lineage,
    state: Held<Table<'b, Bytes, Bytes>>,
    pages: Held<Table<'b, Bytes, Bytes>>,
    changes: &'b mut Changes,
    failed: &'b mut bool,
}

impl<D: Dir> RegionKv for LineageState<'_, D> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        record::get(
            self.inner,
            &*self.state,
            Tag::State,
            &join(self.lineage, key),
        )
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.replace(key, value).map(drop)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.remove(key).map(drop)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, StoreError> {
        let range = (self.lineage, from, Some(to));
        record::scan(self.inner, &*self.state, Tag::State, range, limit)
    }
}

/// The page maps of a batch's table.
struct BatchMaps<'p, 'b, D: Dir> {
    inner: &'p Inner<D>,
    lineage: Lineage,
    pages: &'p mut Table<'b, Bytes, Bytes>,
}

impl<D: Dir> PageMaps for BatchMaps<'_, '_, D> {
    fn lineage(&self) -> Lineage {
        self.lineage
    }

    fn load(&self, key: &[u8]) -> Result<Option<PageMap>, StoreError> {
        record::load_map(self.inner, &*self.pages, self.lineage, key)
    }
}

impl<D: Dir> PageMapsMut for BatchMaps<'_, '_, D> {
    fn store(&mut self, key: &[u8], map: &PageMap) -> Result<(), StoreError> {
        let key = join(self.lineage, key);
        let value = seal(Tag::Pages, &key, &map.encode());
        let pages = &mut *self.pages;
        self.inner
            .ask(|| pages.insert(&key[..], &value[..]).map(drop))
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let key = join(self.lineage, key);
        let pages = &mut *self.pages;
        self.inner.ask(|| pages.remove(&key[..]).map(drop))
    }
}

impl<'b, D: Dir> LineageState<'b, D> {
    /// Sets the value of a key; whether it had one before.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn replace(&mut self, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        let key = join(self.lineage, key);
        let value = seal(Tag::State, &key, value);
        let state = &mut self.state;
        self.inner
            .ask(|| Ok::<_, redb::StorageError>(state.insert(&key[..], &value[..])?.is_some()))
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        let key = join(self.lineage, key);
        let state = &mut self.state;
        self.inner
            .ask(|| Ok::<_, redb::StorageError>(state.remove(&key[..])?.is_some()))
    }

    /// Runs a change of a chunk; one that fails half way fails the batch.
    fn change<T>(
        &mut self,
        change: impl FnOnce(
            &mut ChunkPages<'_, D, BatchMaps<'_, 'b, D>>,
            &mut Changes,
        ) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let maps = BatchMaps {
            inner: self.inner,
            lineage: self.lineage,
            pages: &mut self.pages,
        };
        let mut chunks = ChunkPages {
            files: &*self.inner.data,
            maps,
        };
        let done = change(&mut chunks, self.changes);
        *self.failed |= done.is_err();
        done
    }

    /// Puts bytes into a chunk, on fresh pages (for payloads that rode in the log).
    ///
    /// # Errors
    /// `Corrupt` when a page that must be merged is; `Full`; failures of the disk. The batch has failed then.
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub fn write_small(
        &mut self,
        chunk: &[u8],
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        self.change(|chunks, changes| chunks.write_small(changes, chunk, offset, bytes))
    }

    /// Takes over the bytes `part` of a log record's extent as content at `offset`: mapped where they lie if the extent
    /// was written with `lead = offset % 4096`, else copied. `content` is the whole extent's bytes if still at hand;
    /// otherwise they are read and verified.
    ///
    /// # Errors
    /// As [`Self::write_small`], and `CorruptExtent`.
    ///
    /// # Panics
    /// When no pin holds the extent, or a range leaves the chunk or the extent.
    pub fn write_extent(
        &mut self,
        chunk: &[u8],
        offset: u64,
        extent: ExtentRef,
        part: Range<u32>,
        content: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        self.change(|chunks, changes| {
            chunks.write_extent(changes, chunk, offset, extent, part, content)
        })
    }

    /// Makes a range of a chunk read as zeros.
    ///
    /// # Errors
    /// As [`Self::write_small`].
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub fn zero(&mut self, chunk: &[u8], offset: u64, len: usize) -> Result<(), StoreError> {
        self.change(|chunks, changes| chunks.zero(changes, chunk, offset, len))
    }

    /// Forgets a chunk.
    ///
    /// # Errors
    /// As [`Self::write_small`].
    pub fn delete_chunk(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        self.change(|chunks, changes| chunks.delete(changes, chunk))
    }

    /// Makes one extent of a chunk in more than `pieces_max` pieces, if there is contiguous space; says whether it
    /// did. Changes no content, so it needs no log entry.
    ///
    /// # Errors
    /// As [`Self::write_small`].
    pub fn rewrite_when_fragmented(
        &mut self,
        chunk: &[u8],
        pieces_max: usize,
    ) -> Result<bool, StoreError> {
        self.change(|chunks, changes| chunks.rewrite_when_fragmented(changes, chunk, pieces_max))
    }

    /// Bytes of a chunk as this batch sees it, zeros where nothing was written.
    ///
    /// # Errors
    /// `Corrupt`, failures of the disk.
    ///
    /// # Panics
    /// When the range leaves the chunk.
    pub fn read_chunk(
        &mut self,
        chunk: &[u8],
        offset: u64,
        len: usize,
    ) -> Result<Content, StoreError> {
        let maps = BatchMaps {
            inner: self.inner,
            lineage: self.lineage,
            pages: &mut self.pages,
        };
        ChunkPages {
            files: &*self.inner.data,
            maps,
        }
        .read(chunk, offset, len)
    }

    /// Deletes up to `limit` keys from `from` on and below `to` (None: to the end); returns how many.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn delete_range(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let keys = record::keys(self.inner, &*self.state, (self.lineage, from, to), limit)?;
        for key in &keys {
            self.delete(key)?;
        }
        Ok(keys.len())
    }

    /// Deletes up to `limit` chunks with keys from `from` on and below `to` (None: to the end); returns how many. One
    /// whose page map is unreadable is forgotten without freeing its space.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn delete_chunks(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let keys = record::keys(self.inner, &*self.pages, (self.lineage, from, to), limit)?;
        for key in &keys {
            let stored = join(self.lineage, key);
            let pages = &mut self.pages;
            let map = self.inner.ask(|| {
                let removed = pages.remove(&stored[..])?;
                Ok::<_, redb::StorageError>(removed.and_then(|value| {
                    let bytes = unseal(Tag::Pages, &stored, value.value()).ok()?;
                    PageMap::decode(bytes).ok()
                }))
            })?;
            let runs = map
                .iter()
                .flat_map(|map| map.pieces().iter().map(|piece| piece.run()));
            self.changes.dropped.extend(runs);
        }
        Ok(keys.len())
    }
}
