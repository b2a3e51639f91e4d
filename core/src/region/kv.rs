//! The state of one replica of a region, as apply and queries see it: ordered keys and values, and chunks' bytes.
//!
//! Owns the traits; the store implements them over redb and extents, the model over maps. Keys and values are built
//! in [`super::key`] and by the modules that own each record.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use thiserror::Error;

use crate::codec::DecodeError;
use crate::limits::CHUNK_BYTES;
use crate::request::ChunkName;

/// The store failed. The replica stops: it must not go on with state it can't trust.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KvError {
    /// What was read is not what was written.
    #[error("region state is corrupt: {0}")]
    Corrupt(String),
    /// The store can't read or write any more.
    #[error("region state can't be read or written: {0}")]
    Failed(String),
}

impl From<DecodeError> for KvError {
    fn from(error: DecodeError) -> Self {
        Self::Corrupt(alloc::format!("{error}"))
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Reading region state. Keys have no lineage prefix here: that is the store's.
pub trait KvRead {
    /// The value of a key.
    ///
    /// # Errors
    /// As [`KvError`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// Pairs with `from <= key < to`, in order, at most `limit`.
    ///
    /// # Errors
    /// As [`KvError`].
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError>;
    /// Bytes `offset..offset + len` of a chunk, zeros where nothing was written; `None` when there is no such chunk.
    ///
    /// # Errors
    /// As [`KvError`]; a checksum that does not match is `Corrupt`.
    fn read_chunk(
        &self,
        chunk: &ChunkName,
        offset: u32,
        len: u32,
    ) -> Result<Option<Bytes>, KvError>;
    /// Reads a chunk whole from where it is stored, past whatever is kept in memory of it; false when there is no such
    /// chunk.
    ///
    /// # Errors
    /// As [`KvError`]; a checksum that does not match is `Corrupt`.
    fn verify_chunk(&self, chunk: &ChunkName) -> Result<bool, KvError> {
        let bytes = u32::try_from(CHUNK_BYTES).expect("a chunk is small");
        Ok(self.read_chunk(chunk, 0, bytes)?.is_some())
    }
}

/// Changing region state: what one log entry does becomes durable together or not at all.
pub trait Kv: KvRead {
    /// Sets a key.
    ///
    /// # Errors
    /// As [`KvError`].
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError>;
    /// Removes a key; nothing happens when it is absent.
    ///
    /// # Errors
    /// As [`KvError`].
    fn delete(&mut self, key: &[u8]) -> Result<(), KvError>;
    /// Writes bytes into a chunk, creating it. `payload` is the applied entry's own payload: a store may already hold
    /// it in an extent and only point to it.
    ///
    /// # Errors
    /// As [`KvError`].
    fn write_chunk(
        &mut self,
        chunk: &ChunkName,
        offset: u32,
        payload: &Bytes,
    ) -> Result<(), KvError>;
    /// Makes a range of a chunk read as zeros, creating the chunk if need be.
    ///
    /// # Errors
    /// As [`KvError`].
    fn zero_chunk(&mut self, chunk: &ChunkName, offset: u32, len: u32) -> Result<(), KvError>;
    /// Removes a chunk; nothing happens when it is absent.
    ///
    /// # Errors
    /// As [`KvError`].
    fn delete_chunk(&mut self, chunk: &ChunkName) -> Result<(), KvError>;
}
