//! Chunks of a data region and the fences they have seen (P8, P9).
//!
//! A tombstone is kept for two session terms after its chunk was deleted: longer than any request may be on its way.
//! Those that are older go when another chunk is deleted, some at a time.

use bytes::Bytes;

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::record;
use crate::error::FsError;
use crate::ids::Fence;
use crate::limits::{CHUNK_BYTES, SESSION_TERM};
use crate::place::Places;
use crate::request::{Answer, ChunkName, DataOp, DataReply, Refusal};
use crate::time::Timestamp;

/// Tombstones looked at when a chunk is deleted.
const SWEEP: usize = 16;

/// The highest fence a chunk has seen; `None` when it is not here.
pub(super) fn fence(state: &dyn KvRead, name: &ChunkName) -> Result<Option<Fence>, KvError> {
    record::read(state, "chunk", &key::chunk(Kind::Chunk, name))
}

/// Whether a range lies in a chunk.
pub(super) fn fits(offset: u32, len: usize) -> bool {
    u64::from(offset) + len as u64 <= CHUNK_BYTES
}

pub(super) fn apply(
    state: &mut dyn Kv,
    places: Places,
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
            if !fits(*offset, payload.len()) {
                return Ok(Answer::Data(Err(FsError::Invalid)));
            }
            if let Some(refused) = enter(state, places, chunk, *fence)? {
                return Ok(refused);
            }
            state.write_chunk(chunk, *offset, payload)?;
        }
        DataOp::Zero {
            chunk,
            fence,
            offset,
            len,
        } => {
            if !fits(*offset, usize::try_from(*len).unwrap_or(usize::MAX)) {
                return Ok(Answer::Data(Err(FsError::Invalid)));
            }
            if let Some(refused) = enter(state, places, chunk, *fence)? {
                return Ok(refused);
            }
            state.zero_chunk(chunk, *offset, *len)?;
        }
        DataOp::RaiseFence { chunk, fence } => {
            if let Some(refused) = enter(state, places, chunk, *fence)? {
                return Ok(refused);
            }
        }
        DataOp::Delete { chunks } => {
            if !chunks.iter().all(|name| places.contains(name.place())) {
                return Ok(Answer::Refused(elsewhere(state)?));
            }
            for name in chunks {
                state.delete_chunk(name)?;
                state.delete(&key::chunk(Kind::Chunk, name))?;
                record::write(state, &key::chunk(Kind::Tombstone, name), &time)?;
            }
            sweep(state, time)?;
        }
    }
    Ok(Answer::Data(Ok(DataReply::Done)))
}

fn elsewhere(state: &dyn KvRead) -> Result<Refusal, KvError> {
    let here = record::descriptor(state)?;
    Ok(Refusal::Epoch {
        epoch: here.epoch,
        places: here.places,
    })
}

/// Notes the fence of an operation on a chunk, or says why it may not touch it.
fn enter(
    state: &mut dyn Kv,
    places: Places,
    name: &ChunkName,
    fence: Fence,
) -> Result<Option<Answer>, KvError> {
    if !places.contains(name.place()) {
        return Ok(Some(Answer::Refused(elsewhere(state)?)));
    }
    if state.get(&key::chunk(Kind::Tombstone, name))?.is_some() {
        return Ok(Some(Answer::Data(Err(FsError::Stale))));
    }
    let seen = self::fence(state, name)?;
    if seen.is_some_and(|seen| fence < seen) && !cfg!(planted = "fence_unchecked") {
        return Ok(Some(Answer::Refused(Refusal::Fenced)));
    }
    if seen != Some(fence) {
        record::write(state, &key::chunk(Kind::Chunk, name), &fence)?;
    }
    Ok(None)
}

fn sweep(state: &mut dyn Kv, now: Timestamp) -> Result<(), KvError> {
    let (from, to) = key::all_of(Kind::Tombstone);
    for (key, value) in state.scan(&from, &to, SWEEP)? {
        let made: Timestamp = record::decode("tombstone", &value)?;
        if made + SESSION_TERM * 2 < now {
            state.delete(&key)?;
        }
    }
    Ok(())
}
