//! Chunks in a data region: written, cut, fenced, deleted (P8, P9).
//!
//! Owns the fence that each chunk keeps, and the tombstones that refuse late writes to a deleted name. Deliberately
//! knows no file: which names are in use is the chunk map's to say.

use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;
use serde::{Deserialize, Serialize};

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use crate::error::FsError;
use crate::ids::Fence;
use crate::limits::{SESSION_RENEWAL, SESSION_TERM};
use crate::place::Places;
use crate::request::{Answer, ChunkName, DataOp, DataReply, Refusal};
use crate::time::Timestamp;

/// Tombstones looked at for each that is added, and some more: as many go as come, however many are added at once.
const TOMBSTONES_PER_NEW: usize = 2;
const TOMBSTONES_PER_STEP: usize = 64;

/// What is kept of a chunk beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunk {
    /// The highest fence seen.
    pub(super) fence: Fence,
    /// Whether anything was ever written; a raised fence alone makes no content.
    pub(super) written: bool,
}

pub(super) fn chunk(state: &dyn KvRead, name: &ChunkName) -> Result<Option<Chunk>, KvError> {
    super::read(state, "chunk", &key::chunk(Kind::Chunk, name))
}

/// How long nothing that was asked before a deletion can still be on its way: two renewals of a session, and its term.
fn tombstone_life() -> Duration {
    SESSION_RENEWAL * 2 + SESSION_TERM
}

/// Applies an operation on chunks.
pub(super) fn apply(
    state: &mut dyn Kv,
    time: Timestamp,
    op: &DataOp,
    payload: &Bytes,
) -> Result<Answer, KvError> {
    match op {
        DataOp::Write {
            chunk,
            fence,
            offset,
        } => {
            let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            under_fence(state, chunk, *fence, (*offset, len), |state| {
                state.write_chunk(chunk, *offset, payload)
            })
        }
        DataOp::Zero {
            chunk,
            fence,
            offset,
            len,
        } => under_fence(state, chunk, *fence, (*offset, *len), |state| {
            state.zero_chunk(chunk, *offset, *len)
        }),
        DataOp::RaiseFence { chunk: name, fence } => {
            let before = chunk(state, name)?;
            let written = before.is_some_and(|chunk| chunk.written);
            let fence = before.map_or(*fence, |chunk| chunk.fence.max(*fence));
            put(state, name, Chunk { fence, written })?;
            Ok(Answer::Data(Ok(DataReply::Done)))
        }
        DataOp::Delete { chunks } => {
            for name in chunks {
                state.delete_chunk(name)?;
                state.delete(&key::chunk(Kind::Chunk, name))?;
                super::write(state, &key::chunk(Kind::Tombstone, name), &time)?;
            }
            let limit = TOMBSTONES_PER_STEP + chunks.len() * TOMBSTONES_PER_NEW;
            drop_old_tombstones(state, time, limit)?;
            Ok(Answer::Data(Ok(DataReply::Done)))
        }
    }
}

fn put(state: &mut dyn Kv, name: &ChunkName, chunk: Chunk) -> Result<(), KvError> {
    super::write(state, &key::chunk(Kind::Chunk, name), &chunk)
}

/// Changes a chunk unless its name is deleted or its holder shut out.
fn under_fence(
    state: &mut dyn Kv,
    name: &ChunkName,
    fence: Fence,
    (offset, len): (u32, u32),
    change: impl FnOnce(&mut dyn Kv) -> Result<(), KvError>,
) -> Result<Answer, KvError> {
    if !ChunkName::has_room_for(offset, len) {
        return Ok(Answer::Data(Err(FsError::Invalid)));
    }
    if state.get(&key::chunk(Kind::Tombstone, name))?.is_some() {
        return Ok(Answer::Refused(Refusal::Fenced));
    }
    let before = chunk(state, name)?;
    let seen = before.map_or(Fence(0), |chunk| chunk.fence);
    if fence < seen && !cfg!(planted = "chunk_fence_unchecked") {
        return Ok(Answer::Refused(Refusal::Fenced));
    }
    let after = Chunk {
        fence,
        written: true,
    };
    if before != Some(after) {
        put(state, name, after)?;
    }
    change(state)?;
    Ok(Answer::Data(Ok(DataReply::Done)))
}

fn drop_old_tombstones(state: &mut dyn Kv, now: Timestamp, limit: usize) -> Result<(), KvError> {
    let (from, to) = key::all_of(Kind::Tombstone);
    for (key, value) in state.scan(&from, &to, limit)? {
        let since: Timestamp = crate::codec::decode_versioned("tombstone", super::VERSION, &value)?;
        if since + tombstone_life() < now {
            state.delete(&key)?;
        }
    }
    Ok(())
}

/// The names held in `places` after one, in the order of their keys, at most `limit`.
pub(super) fn list(
    state: &dyn KvRead,
    places: Places,
    after: Option<&ChunkName>,
    limit: usize,
) -> Result<Vec<ChunkName>, KvError> {
    let (mut from, to) = key::kind_in(Kind::Chunk, places);
    if let Some(name) = after {
        from = key::chunk(Kind::Chunk, name);
        from.push(0);
    }
    let mut names = Vec::new();
    for (key, _) in state.scan(&from, &to, limit)? {
        let (ino, number, version) = (
            key::number(&key, 0),
            key::number(&key, 1),
            key::number(&key, 2),
        );
        match (ino, number, version) {
            (Some(ino), Some(number), Some(version)) => {
                names.push(ChunkName {
                    ino: crate::place::Ino(ino),
                    version,
                    number,
                });
            }
            _ => return Err(KvError::Corrupt("a chunk's key is short".into())),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Ino;
    use crate::region::mem::MemKv;

    const CHUNK: ChunkName = ChunkName {
        ino: Ino(7),
        version: 1,
        number: 0,
    };

    fn written(state: &mut MemKv, fence: u64) -> Answer {
        let op = DataOp::Write {
            chunk: CHUNK,
            fence: Fence(fence),
            offset: 0,
        };
        let payload = Bytes::from_static(b"x");
        apply(state, Timestamp::default(), &op, &payload).expect("memory")
    }

    /// P8: what a dead holder still has in some log changes nothing that the next one has seen, whether that one wrote or
    /// only read, and be the chunk not yet written.
    #[test]
    fn a_chunk_refuses_fences_below_the_highest_it_saw() {
        let done = Answer::Data(Ok(DataReply::Done));
        let refused = Answer::Refused(Refusal::Fenced);
        let mut state = MemKv::default();
        assert_eq!(written(&mut state, 2), done);
        assert_eq!(written(&mut state, 1), refused);
        assert_eq!(written(&mut state, 2), done);

        let mut unwritten = MemKv::default();
        let raised = DataOp::RaiseFence {
            chunk: CHUNK,
            fence: Fence(2),
        };
        let raised = apply(&mut unwritten, Timestamp::default(), &raised, &Bytes::new());
        assert_eq!(raised.expect("memory"), done);
        assert_eq!(written(&mut unwritten, 1), refused);
    }

    /// Large files are deleted one after the other: their tombstones do not pile up.
    #[test]
    fn as_many_tombstones_go_as_come() {
        let mut state = MemKv::default();
        for file in 0..100_u64 {
            let name = |number| ChunkName {
                ino: Ino(file + 1),
                version: 1,
                number,
            };
            let op = DataOp::Delete {
                chunks: (0..256).map(name).collect(),
            };
            let time =
                Timestamp::default() + tombstone_life() * u32::try_from(file).expect("small") * 2;
            apply(&mut state, time, &op, &Bytes::new()).expect("memory");
        }
        assert!(
            state.pairs().len() < 2000,
            "{} are kept",
            state.pairs().len()
        );
    }
}
