//! Region state in memory: for tests and the model.
//!
//! Owns the simplest implementation of the state's traits; what the store does must look the same.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::kv::{Kv, KvError, KvRead, Pair};
use crate::limits::CHUNK_BYTES;
use crate::request::ChunkName;

/// State in memory. Two are equal when they hold the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemKv {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    chunks: BTreeMap<ChunkName, Vec<u8>>,
}

impl MemKv {
    fn chunk(&mut self, name: &ChunkName, offset: u32, len: usize) -> &mut [u8] {
        let bytes = self.chunks.entry(*name).or_default();
        let start = usize::try_from(offset).expect("offsets fit");
        let end = start + len;
        assert!(
            end <= usize::try_from(CHUNK_BYTES).expect("chunks fit"),
            "within a chunk"
        );
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        &mut bytes[start..end]
    }

    /// All pairs, for audits and comparisons.
    #[must_use]
    pub fn pairs(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.pairs
    }
}

impl KvRead for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.pairs.range(from.to_vec()..to.to_vec()).take(limit);
        Ok(range
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn read_chunk(
        &self,
        chunk: &ChunkName,
        offset: u32,
        len: u32,
    ) -> Result<Option<Bytes>, KvError> {
        let Some(bytes) = self.chunks.get(chunk) else {
            return Ok(None);
        };
        let start = usize::try_from(offset)
            .expect("offsets fit")
            .min(bytes.len());
        let len = usize::try_from(len).expect("lengths fit");
        let mut read = vec![0; len];
        let there = &bytes[start..bytes.len().min(start + len)];
        read[..there.len()].copy_from_slice(there);
        Ok(Some(read.into()))
    }
}

impl Kv for MemKv {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.pairs.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), KvError> {
        self.pairs.remove(key);
        Ok(())
    }

    fn write_chunk(
        &mut self,
        chunk: &ChunkName,
        offset: u32,
        payload: &Bytes,
    ) -> Result<(), KvError> {
        self.chunk(chunk, offset, payload.len())
            .copy_from_slice(payload);
        Ok(())
    }

    fn zero_chunk(&mut self, chunk: &ChunkName, offset: u32, len: u32) -> Result<(), KvError> {
        self.chunk(chunk, offset, usize::try_from(len).expect("lengths fit"))
            .fill(0);
        Ok(())
    }

    fn delete_chunk(&mut self, chunk: &ChunkName) -> Result<(), KvError> {
        self.chunks.remove(chunk);
        Ok(())
    }
}
