//! Reading the applied state of a group.
//!
//! Owns what a failed read makes of the replica, and the question whether a read would wait for the disk: whoever serves
//! others meanwhile has it fetched first. Deliberately knows nothing of who asks.

use polyfs_core::region::kv::{KvError, KvRead};
use polyfs_core::request::ChunkName;

use super::GroupState;
use super::fetched::{Fetched, Part};
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
        ChunkName::has_room_for(offset, bytes).then_some(Self {
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
        let kv = ViewKv::new(&view, lineage, &self.waiting);
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

    /// Reads a part of a chunk for a request that comes next; None when there is nothing to keep. What fails here fails
    /// again then.
    pub(crate) fn fetch(&self, part: &ChunkPart) -> Option<Fetched> {
        let part = Part {
            lineage: self.record.lock().lineage,
            key: chunk_key(&part.chunk),
            offset: part.offset,
            len: part.bytes,
        };
        let view = self.shared.db().view().ok()?;
        let map = view.chunk_map(part.lineage, &part.key).ok()??;
        let bytes = view.read_chunk(part.lineage, &part.key, part.offset, part.len);
        self.waiting.hold(part, map, bytes.ok()?)
    }

    /// What was fetched for the requests that are handled next; nothing once they are.
    pub(crate) fn offer(&self, fetched: Vec<Fetched>) {
        self.waiting.offer(fetched);
    }
}
