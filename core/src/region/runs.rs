//! A file's chunk map and the garbage it leaves (P9).
//!
//! Owns runs: sorted, not overlapping, coalesced where version and state are equal.

use alloc::vec::Vec;

use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::record;
use crate::place::Ino;
use crate::request::{ChunkName, Run};

pub(super) fn load(state: &dyn KvRead, ino: Ino) -> Result<Vec<Run>, KvError> {
    let range = key::prefix(&key::of_inode(Kind::Run, ino));
    Ok(record::all(state, "run", range)?
        .into_iter()
        .map(|(_, run)| run)
        .collect())
}

/// Stores what differs between two maps.
pub(super) fn store(state: &mut dyn Kv, ino: Ino, old: &[Run], new: &[Run]) -> Result<(), KvError> {
    for run in old {
        if !new.iter().any(|other| other.first == run.first) {
            state.delete(&key::run(ino, run.first))?;
        }
    }
    for run in new {
        if !old.contains(run) {
            record::write(state, &key::run(ino, run.first), run)?;
        }
    }
    Ok(())
}

/// Notes the names of runs that no map holds any more.
pub(super) fn discard(state: &mut dyn Kv, ino: Ino, gone: &[Run]) -> Result<(), KvError> {
    for run in gone {
        record::write(
            state,
            &key::garbage(ino, run.version, run.first),
            &run.count,
        )?;
    }
    Ok(())
}

/// The data of a freed name is gone.
pub(super) fn reclaimed(state: &mut dyn Kv, name: &ChunkName) -> Result<(), KvError> {
    let mut base = key::of_inode(Kind::Garbage, name.ino);
    base.extend_from_slice(&name.version.to_be_bytes());
    let all: Vec<(Vec<u8>, u64)> = record::all(state, "garbage", key::prefix(&base))?;
    for (key, count) in all {
        let first = key::number(&key, 2)
            .ok_or_else(|| KvError::Corrupt("a garbage key is too short".into()))?;
        if !(first..first + count).contains(&name.number) {
            continue;
        }
        state.delete(&key)?;
        for (from, to) in [(first, name.number), (name.number + 1, first + count)] {
            if from < to {
                let key = key::garbage(name.ino, name.version, from);
                record::write(state, &key, &(to - from))?;
            }
        }
    }
    Ok(())
}

/// The map split in two: what lies in `from..to`, and the rest.
pub(super) fn cut_out(map: &[Run], from: u64, to: u64) -> (Vec<Run>, Vec<Run>) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for run in map {
        let end = run.first + run.count;
        let (low, high) = (from.clamp(run.first, end), to.clamp(run.first, end));
        let part = |into: &mut Vec<Run>, first: u64, end: u64| {
            if first < end {
                let count = end - first;
                into.push(Run {
                    first,
                    count,
                    ..*run
                });
            }
        };
        if low < high {
            part(&mut outside, run.first, low);
            part(&mut inside, low, high);
            part(&mut outside, high, end);
        } else {
            outside.push(*run);
        }
    }
    (inside, outside)
}

/// Holes in `from..to`.
pub(super) fn holes(map: &[Run], from: u64, to: u64) -> Vec<(u64, u64)> {
    let (mut holes, mut at) = (Vec::new(), from);
    for run in cut_out(map, from, to).0 {
        if at < run.first {
            holes.push((at, run.first - at));
        }
        at = run.first + run.count;
    }
    if at < to {
        holes.push((at, to - at));
    }
    holes
}

pub(super) fn coalesce(mut map: Vec<Run>) -> Vec<Run> {
    map.sort_by_key(|run| run.first);
    let mut out: Vec<Run> = Vec::with_capacity(map.len());
    for run in map {
        match out.last_mut() {
            Some(last)
                if last.first + last.count == run.first
                    && (last.version, last.written) == (run.version, run.written) =>
            {
                last.count += run.count;
            }
            Some(_) | None => out.push(run),
        }
    }
    out
}
