//! One write transaction over the state of any number of groups.
//!
//! Owns atomicity: state, page maps, group records and the fate of blocks are committed together or not at all. What
//! a batch sets stays with it until its commit, which is visible at once, in memory, and durable with the next
//! checkpoint. Deliberately knows no rule of ordering: those are the checkpoint's.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes as Content;
use polyfs_core::ids::{GroupId, Lineage};

use super::db::Inner;
use super::error::StoreError;
use super::kv::{RegionKv, Rows};
use super::layers::{Groups, Kept, Layers, Node, Pages, State};
use super::pending::{Tables, Viewed};
use super::record::{GroupRecord, join};
use super::shelf::{Sight, Turn};
use crate::disk::Dir;
use crate::extent_ref::ExtentRef;
use crate::extents::{Changes, ChunkPages, PageMap, PageMaps, PageMapsMut};

/// A write transaction; dropped, it never was.
pub struct StateBatch<'a, D: Dir> {
    inner: &'a Inner<D>,
    sight: Sight,
    own: Tables,
    changes: Changes,
    failed: bool,
    // Ends after what the batch took was given back.
    _turn: Turn,
}

/// Sets a key in a batch's own rows; they have one commit only, which nobody looks at yet.
fn set<K: Kept>(own: &mut Tables, key: &[u8], value: Option<K::Value>) {
    K::layer_mut(own).set(key.into(), value, 0, &Viewed::new());
}

impl<'a, D: Dir> StateBatch<'a, D> {
    pub(super) fn begin(inner: &'a Inner<D>) -> Result<Self, StoreError> {
        inner.poison.check()?;
        let turn = inner.writing.take();
        Ok(Self {
            inner,
            sight: inner.shelf().newest(),
            own: Tables::default(),
            changes: Changes::default(),
            failed: false,
            _turn: turn,
        })
    }

    fn layers(&self) -> Layers<'_, D> {
        Layers {
            inner: self.inner,
            own: Some(&self.own),
            sight: &self.sight,
        }
    }

    /// The state and chunks of one lineage.
    ///
    /// # Errors
    /// None today.
    pub fn lineage(&mut self, lineage: Lineage) -> Result<LineageState<'_, D>, StoreError> {
        Ok(LineageState {
            inner: self.inner,
            sight: &self.sight,
            lineage,
            own: &mut self.own,
            changes: &mut self.changes,
            failed: &mut self.failed,
        })
    }

    /// Sets what is kept of a group; `applied` is the index of the last entry that its state contains now.
    ///
    /// # Errors
    /// None today.
    pub fn set_group(
        &mut self,
        group: GroupId,
        applied: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let value = GroupRecord::encode(applied, bytes);
        set::<Groups>(&mut self.own, &GroupRecord::key(group), Some(value.into()));
        Ok(())
    }

    /// What is kept of a group.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_group(&self, group: GroupId) -> Result<Option<GroupRecord>, StoreError> {
        self.layers().group(group)
    }

    /// Forgets a group; its lineage's keys stay until deleted.
    ///
    /// # Errors
    /// None today.
    pub fn delete_group(&mut self, group: GroupId) -> Result<(), StoreError> {
        set::<Groups>(&mut self.own, &GroupRecord::key(group), None);
        Ok(())
    }

    /// Sets a record of the node itself.
    ///
    /// # Errors
    /// None today.
    pub fn set_node(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        set::<Node>(&mut self.own, name.as_bytes(), Some(bytes.into()));
        Ok(())
    }

    /// A record of the node itself.
    ///
    /// # Errors
    /// `CorruptRecord`, failures of the disk.
    pub fn get_node(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.layers().node(name)
    }

    /// Removes a record of the node itself.
    ///
    /// # Errors
    /// None today.
    pub fn delete_node(&mut self, name: &str) -> Result<(), StoreError> {
        set::<Node>(&mut self.own, name.as_bytes(), None);
        Ok(())
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

    /// Makes everything visible at once; durable with the next checkpoint.
    ///
    /// # Errors
    /// `BatchFailed` when an operation of it failed half way; `Poisoned`. Nothing of it is visible then.
    pub fn commit(mut self) -> Result<(), StoreError> {
        self.inner.poison.check()?;
        if self.failed {
            return Err(StoreError::BatchFailed);
        }
        let (own, changes) = (
            std::mem::take(&mut self.own),
            std::mem::take(&mut self.changes),
        );
        let mut shelf = self.inner.shelf();
        shelf.commit(own);
        // Readers that enter from here on see this commit, so what it dropped is retired only now.
        self.inner.data.commit(changes);
        Ok(())
    }
}

impl<D: Dir> Drop for StateBatch<'_, D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.inner.data.abort(std::mem::take(&mut self.changes));
    }
}

/// The keys and chunks of one lineage inside a batch.
pub struct LineageState<'b, D: Dir> {
    inner: &'b Inner<D>,
    sight: &'b Sight,
    lineage: Lineage,
    own: &'b mut Tables,
    changes: &'b mut Changes,
    failed: &'b mut bool,
}

impl<D: Dir> RegionKv for LineageState<'_, D> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.layers().get::<State>(&join(self.lineage, key))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        set::<State>(self.own, &join(self.lineage, key), Some(value.into()));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        set::<State>(self.own, &join(self.lineage, key), None);
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, StoreError> {
        self.layers().scan((self.lineage, from, Some(to)), limit)
    }
}

/// The page maps that a batch sees.
struct BatchMaps<'p, D: Dir> {
    inner: &'p Inner<D>,
    sight: &'p Sight,
    lineage: Lineage,
    own: &'p mut Tables,
}

impl<D: Dir> PageMaps for BatchMaps<'_, D> {
    fn lineage(&self) -> Lineage {
        self.lineage
    }

    fn load(&self, key: &[u8]) -> Result<Option<Arc<PageMap>>, StoreError> {
        let layers = Layers {
            inner: self.inner,
            own: Some(self.own),
            sight: self.sight,
        };
        layers.load_map(self.lineage, key)
    }
}

impl<D: Dir> PageMapsMut for BatchMaps<'_, D> {
    fn store(&mut self, key: &[u8], map: PageMap) -> Result<(), StoreError> {
        set::<Pages>(self.own, &join(self.lineage, key), Some(Arc::new(map)));
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        set::<Pages>(self.own, &join(self.lineage, key), None);
        Ok(())
    }
}

impl<D: Dir> LineageState<'_, D> {
    fn layers(&self) -> Layers<'_, D> {
        Layers {
            inner: self.inner,
            own: Some(self.own),
            sight: self.sight,
        }
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.layers().has::<State>(&join(self.lineage, key))
    }

    fn maps(&mut self) -> BatchMaps<'_, D> {
        BatchMaps {
            inner: self.inner,
            sight: self.sight,
            lineage: self.lineage,
            own: self.own,
        }
    }

    /// Runs a change of a chunk; one that fails half way fails the batch.
    fn change<T>(
        &mut self,
        change: impl FnOnce(
            &mut ChunkPages<'_, D, BatchMaps<'_, D>>,
            &mut Changes,
        ) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let maps = BatchMaps {
            inner: self.inner,
            sight: self.sight,
            lineage: self.lineage,
            own: self.own,
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
        ChunkPages {
            files: &*self.inner.data,
            maps: self.maps(),
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
        let keys = self
            .layers()
            .keys::<State>((self.lineage, from, to), limit)?;
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
        let keys = self
            .layers()
            .keys::<Pages>((self.lineage, from, to), limit)?;
        for key in &keys {
            let stored = join(self.lineage, key);
            match self.layers().get::<Pages>(&stored) {
                Ok(map) => {
                    let runs = map.iter().flat_map(|map| map.runs());
                    self.changes.dropped.extend(runs);
                }
                Err(StoreError::Corrupt { .. } | StoreError::Decode(_)) => {}
                Err(error) => return Err(error),
            }
            set::<Pages>(self.own, &stored, None);
        }
        Ok(keys.len())
    }
}
