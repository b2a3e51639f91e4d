//! Names that were freed and whose data is to be deleted (P9).
//!
//! Owns garbage records: the only thing that reclaim works from.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use crate::place::Ino;
use crate::request::{ChunkName, Run};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Record {
    count: u64,
}

/// The names in these runs are freed.
pub(super) fn add(state: &mut dyn Kv, ino: Ino, runs: &[Run]) -> Result<(), KvError> {
    for run in runs {
        let key = key::garbage(ino, run.version, run.first);
        super::write(state, &key, &Record { count: run.count })?;
    }
    Ok(())
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(Ino, Run), KvError> {
    let Record { count } = crate::codec::decode_versioned("garbage", super::VERSION, value)?;
    let (ino, version, first) = (
        key::number(key, 0),
        key::number(key, 1),
        key::number(key, 2),
    );
    match (ino, version, first) {
        (Some(ino), Some(version), Some(first)) => Ok((
            Ino(ino),
            Run {
                first,
                count,
                version,
                written: true,
            },
        )),
        _ => Err(KvError::Corrupt("a garbage record's key is short".into())),
    }
}

/// The first freed names whose data is to be deleted, at most `limit`.
///
/// # Errors
/// As [`KvError`].
pub fn list(state: &dyn KvRead, limit: usize) -> Result<Vec<ChunkName>, KvError> {
    let (from, to) = key::all_of(Kind::Garbage);
    let mut names = Vec::new();
    for (key, value) in state.scan(&from, &to, limit)? {
        let (ino, run) = decode(&key, &value)?;
        for number in run.first..run.first + run.count {
            if names.len() == limit {
                return Ok(names);
            }
            names.push(ChunkName {
                ino,
                version: run.version,
                number,
            });
        }
    }
    Ok(names)
}

/// The data of these names is gone: so are their records.
pub(super) fn strike(state: &mut dyn Kv, chunks: &[ChunkName]) -> Result<(), KvError> {
    for chunk in chunks {
        let mut prefix = key::garbage(chunk.ino, chunk.version, 0);
        prefix.truncate(prefix.len() - 8);
        let (from, to) = key::prefix(&prefix);
        for (key, value) in state.scan(&from, &to, usize::MAX)? {
            let (ino, run) = decode(&key, &value)?;
            let end = run.first + run.count;
            if run.first <= chunk.number && chunk.number < end {
                state.delete(&key)?;
                let low = Run {
                    count: chunk.number - run.first,
                    ..run
                };
                let first = chunk.number + 1;
                let high = Run {
                    first,
                    count: end - first,
                    ..run
                };
                let rest: Vec<Run> = [low, high]
                    .into_iter()
                    .filter(|run| run.count > 0)
                    .collect();
                add(state, ino, &rest)?;
            }
        }
    }
    Ok(())
}
