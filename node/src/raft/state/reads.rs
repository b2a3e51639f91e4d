//! Reading the applied state of a group.
//!
//! Owns what a failed read makes of the replica, and the question whether a read would wait for the disk: whoever serves
//! others meanwhile has it fetched first. Deliberately knows nothing of who asks.

use polyfs_core::limits::CHUNK_BYTES;
use polyfs_core::region::kv::{KvError, KvRead};
use polyfs_core::request::ChunkName;

use super::GroupState;
use crate::raft::kv::{ViewKv, chunk_key, failed};
use crate::runtime::Runtime;

/// A part of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkPart {
    chunk: ChunkName,
    offset: u64,
    bytes: usize,
}

impl ChunkPart {
    /// None when it would leave the chunk.
    pub(crate) fn new(chunk: ChunkName, offset: u32, bytes: u32) -> Option<Self> {
        let end = u64::from(offset) + u64::from(bytes);
        (end <= CHUNK_BYTES).then_some(Self {
            chunk,
            offset: u64::from(offset),
            bytes: usize::try_from(bytes).expect("usize has at least 32 bits"),
        })
    }
}

impl<R: Runtime> GroupState<R> {
    /// Reads the applied state.
    ///
    /// # Errors
    /// When the store fails, or `read` does.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&dyn KvRead) -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        let lineage = self.record.lock().lineage;
        let view = self.shared.db().view();
        let view = view.map_err(|error| KvError::Failed(error.to_string()))?;
        let kv = ViewKv::new(&view, lineage);
        let read = read(&kv);
        if let Some(failure) = kv.failure() {
            self.log.health().store_failed(self.group, &failure);
            return Err(failed(failure));
        }
        read
    }

    /// Whether reading a part of a chunk would wait for the disk, as far as one can say.
    pub(crate) fn read_waits(&self, part: &ChunkPart) -> bool {
        let lineage = self.record.lock().lineage;
        let view = self.shared.db().view();
        let waits = view.and_then(|view| {
            view.chunk_read_waits(lineage, &chunk_key(&part.chunk), part.offset, part.bytes)
        });
        waits.unwrap_or(false)
    }

    /// Reads a part of a chunk for nobody, so that the host has it at hand. What fails here fails again for whoever wants
    /// it.
    pub(crate) fn fetch(&self, part: &ChunkPart) {
        let lineage = self.record.lock().lineage;
        if let Ok(view) = self.shared.db().view() {
            let key = chunk_key(&part.chunk);
            let _ = view.read_chunk(lineage, &key, part.offset, part.bytes);
        }
    }
}
