//! Region state as core sees it, over the store.
//!
//! Owns the two adapters: a batch that an entry is applied in, and a view that queries are answered from. Both add a
//! replica's lineage to every key. Deliberately knows no record.

use std::cell::RefCell;

use bytes::Bytes;
use polyfs_core::ids::Lineage;
use polyfs_core::region::key::{self, Kind};
use polyfs_core::region::kv::{Kv, KvError, KvRead, Pair};
use polyfs_core::request::ChunkName;
use polyfs_store::disk::Dir;
use polyfs_store::extent_ref::ExtentRef;
use polyfs_store::state::{LineageState, RegionKv, StateView, StoreError};

use super::state::{Part, Waiting};

pub(super) fn failed(error: StoreError) -> KvError {
    match error {
        StoreError::Corrupt { .. }
        | StoreError::CorruptRecord(_)
        | StoreError::CorruptDatabase(_)
        | StoreError::CorruptExtent(_)
        | StoreError::Decode(_) => KvError::Corrupt(error.to_string()),
        other => KvError::Failed(other.to_string()),
    }
}

fn length(len: u32) -> usize {
    usize::try_from(len).expect("usize has at least 32 bits")
}

pub(super) fn chunk_key(chunk: &ChunkName) -> Vec<u8> {
    key::chunk(Kind::Chunk, chunk)
}

fn is_inode(key: &[u8]) -> bool {
    key.first() == Some(&(Kind::Inode as u8))
}

/// The first failure that the store told of: what failed in it is not the entry's or query's fault.
#[derive(Default)]
struct Told(RefCell<Option<StoreError>>);

impl Told {
    fn note(&self, error: StoreError) -> KvError {
        let mut told = self.0.borrow_mut();
        if told.is_none() {
            *told = Some(error.clone());
        }
        failed(error)
    }
}

/// The state of one replica inside a batch.
pub(super) struct BatchKv<'b, D: Dir> {
    told: Told,
    state: RefCell<LineageState<'b, D>>,
    /// Where the log keeps the payload of the entry being applied, if in an extent.
    extent: Option<ExtentRef>,
    /// Inodes made less inodes deleted.
    inodes: i64,
}

impl<'b, D: Dir> BatchKv<'b, D> {
    pub(super) fn new(state: LineageState<'b, D>) -> Self {
        Self {
            told: Told::default(),
            state: RefCell::new(state),
            extent: None,
            inodes: 0,
        }
    }

    /// How many inodes more there are after it, or fewer.
    pub(super) fn inodes(&self) -> i64 {
        self.inodes
    }

    /// What the store failed with, if it did.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.told.0.borrow().clone()
    }

    /// Says where the payload of the entry that is applied next lies.
    pub(super) fn next_entry(&mut self, extent: Option<ExtentRef>) {
        self.extent = extent;
    }
}

impl<D: Dir> KvRead for BatchKv<'_, D> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.state
            .borrow()
            .get(key)
            .map_err(|error| self.told.note(error))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.state
            .borrow()
            .scan(from, to, limit)
            .map_err(|error| self.told.note(error))
    }

    fn read_chunk(
        &self,
        chunk: &ChunkName,
        offset: u32,
        len: u32,
    ) -> Result<Option<Bytes>, KvError> {
        let key = chunk_key(chunk);
        if self.get(&key)?.is_none() {
            return Ok(None);
        }
        let read = self
            .state
            .borrow_mut()
            .read_chunk(&key, u64::from(offset), length(len));
        read.map(Some).map_err(|error| self.told.note(error))
    }
}

impl<D: Dir> Kv for BatchKv<'_, D> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        let state = self.state.get_mut();
        let made = if is_inode(key) {
            let there = state.has(key).map_err(|error| self.told.note(error))?;
            i64::from(!there)
        } else {
            0
        };
        let put = state.put(key, value);
        put.map_err(|error| self.told.note(error))?;
        self.inodes += made;
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), KvError> {
        let state = self.state.get_mut();
        let gone = if is_inode(key) {
            let there = state.has(key).map_err(|error| self.told.note(error))?;
            i64::from(there)
        } else {
            0
        };
        let deleted = state.delete(key);
        deleted.map_err(|error| self.told.note(error))?;
        self.inodes -= gone;
        Ok(())
    }

    fn write_chunk(
        &mut self,
        chunk: &ChunkName,
        offset: u32,
        payload: &Bytes,
    ) -> Result<(), KvError> {
        let (key, offset) = (chunk_key(chunk), u64::from(offset));
        let state = self.state.get_mut();
        let written = match self.extent {
            Some(extent) => {
                state.write_extent(&key, offset, extent, 0..extent.bytes, Some(payload))
            }
            None => state.write_small(&key, offset, payload),
        };
        written.map_err(|error| self.told.note(error))
    }

    fn zero_chunk(&mut self, chunk: &ChunkName, offset: u32, len: u32) -> Result<(), KvError> {
        let state = self.state.get_mut();
        state
            .zero(&chunk_key(chunk), u64::from(offset), length(len))
            .map_err(|error| self.told.note(error))
    }

    fn delete_chunk(&mut self, chunk: &ChunkName) -> Result<(), KvError> {
        self.state
            .get_mut()
            .delete_chunk(&chunk_key(chunk))
            .map_err(|error| self.told.note(error))
    }
}

/// The applied state of one replica, held still.
pub(crate) struct ViewKv<'v, D: Dir> {
    view: &'v StateView<D>,
    lineage: Lineage,
    waiting: &'v Waiting,
    told: Told,
}

impl<'v, D: Dir> ViewKv<'v, D> {
    pub(crate) fn new(view: &'v StateView<D>, lineage: Lineage, waiting: &'v Waiting) -> Self {
        Self {
            view,
            lineage,
            waiting,
            told: Told::default(),
        }
    }

    /// What the store failed with, if it did.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.told.0.borrow().clone()
    }
}

impl<D: Dir> KvRead for ViewKv<'_, D> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.view
            .get(self.lineage, key)
            .map_err(|error| self.told.note(error))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.view
            .scan(self.lineage, from, Some(to), limit)
            .map_err(|error| self.told.note(error))
    }

    fn read_chunk(
        &self,
        chunk: &ChunkName,
        offset: u32,
        len: u32,
    ) -> Result<Option<Bytes>, KvError> {
        let part = Part {
            lineage: self.lineage,
            key: chunk_key(chunk),
            offset: u64::from(offset),
            len: length(len),
        };
        let map = self.view.chunk_map(part.lineage, &part.key);
        let Some(map) = map.map_err(|error| self.told.note(error))? else {
            return Ok(None);
        };
        if let Some(bytes) = self.waiting.take(&part, &map) {
            return Ok(Some(bytes));
        }
        let read = self
            .view
            .read_chunk(part.lineage, &part.key, part.offset, part.len);
        read.map(Some).map_err(|error| self.told.note(error))
    }

    fn verify_chunk(&self, chunk: &ChunkName) -> Result<bool, KvError> {
        let there = self.view.verify_chunk(self.lineage, &chunk_key(chunk));
        there.map_err(|error| self.told.note(error))
    }
}
