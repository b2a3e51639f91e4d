//! Region state in memory: for tests and the model.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

use super::kv::{Kv, KvError, KvRead, Pair};
use crate::request::ChunkName;

/// State in memory. Two are equal when they hold the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemKv {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    chunks: BTreeMap<ChunkName, Vec<u8>>,
}

fn at(number: u32) -> usize {
    usize::try_from(number).expect("a machine's addresses have 32 bits at least")
}

impl MemKv {
    fn piece(&mut self, name: &ChunkName, offset: u32, len: usize) -> &mut [u8] {
        let bytes = self.chunks.entry(*name).or_default();
        let end = at(offset) + len;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        &mut bytes[at(offset)..end]
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
        let range = self.pairs.range(from.to_vec()..to.to_vec());
        Ok(range
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
    fn read_chunk(
        &self,
        chunk: &ChunkName,
        offset: u32,
        len: u32,
    ) -> Result<Option<Bytes>, KvError> {
        Ok(self.chunks.get(chunk).map(|bytes| {
            let held = bytes.iter().copied().chain(core::iter::repeat(0));
            held.skip(at(offset)).take(at(len)).collect()
        }))
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
        self.piece(chunk, offset, payload.len())
            .copy_from_slice(payload);
        Ok(())
    }
    fn zero_chunk(&mut self, chunk: &ChunkName, offset: u32, len: u32) -> Result<(), KvError> {
        self.piece(chunk, offset, at(len)).fill(0);
        Ok(())
    }
    fn delete_chunk(&mut self, chunk: &ChunkName) -> Result<(), KvError> {
        self.chunks.remove(chunk);
        Ok(())
    }
}
