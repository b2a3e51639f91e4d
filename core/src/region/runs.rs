//! The chunk map: which chunks of a file have names (P9).
//!
//! Owns runs as they are stored: under their *last* chunk, so that one forward scan finds the run that holds a given
//! chunk. Runs never overlap; neighbours alike are one.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::key;
use super::kv::{Kv, KvError, KvRead};
use crate::place::Ino;
use crate::request::Run;

/// Runs read at a time.
const PAGE: usize = 64;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Stored {
    count: u64,
    version: u64,
    written: bool,
}

fn last(run: &Run) -> u64 {
    run.first + run.count - 1
}

/// Runs that hold chunks of `from..to`, in order, at most `limit`.
pub(super) fn list(
    state: &dyn KvRead,
    ino: Ino,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Vec<Run>, KvError> {
    let mut runs = Vec::new();
    let (_, end) = key::prefix(&key::of_inode(key::Kind::Run, ino));
    let mut next = key::run(ino, from);
    while runs.len() < limit {
        let page = state.scan(&next, &end, PAGE.min(limit - runs.len()))?;
        let full = page.len() == PAGE.min(limit - runs.len());
        for (key, value) in page {
            let run = decode(&key, &value)?;
            if run.first >= to {
                return Ok(runs);
            }
            next = key::run(ino, last(&run) + 1);
            runs.push(run);
        }
        if !full {
            break;
        }
    }
    Ok(runs)
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Run, KvError> {
    let stored: Stored = crate::codec::decode_versioned("run", super::VERSION, value)?;
    let Stored {
        count,
        version,
        written,
    } = stored;
    let first = key::number(key, 1).and_then(|last| (last + 1).checked_sub(count));
    let first = first.ok_or_else(|| KvError::Corrupt("a run has no beginning".into()))?;
    Ok(Run {
        first,
        count,
        version,
        written,
    })
}

fn put(state: &mut dyn Kv, ino: Ino, run: &Run) -> Result<(), KvError> {
    let stored = Stored {
        count: run.count,
        version: run.version,
        written: run.written,
    };
    super::write(state, &key::run(ino, last(run)), &stored)
}

/// Rewrites the runs in `from..to`: each chunk there becomes what `change` makes of what it was. Neighbours alike are
/// joined. Returns what was there before, cut to the range.
pub(super) fn rewrite(
    state: &mut dyn Kv,
    ino: Ino,
    from: u64,
    to: u64,
    change: impl Fn(Piece) -> Option<(u64, bool)>,
) -> Result<Vec<Run>, KvError> {
    let around = list(
        state,
        ino,
        from.saturating_sub(1),
        to.saturating_add(1),
        usize::MAX,
    )?;
    let mut before = Vec::new();
    let mut after: Vec<Run> = Vec::new();
    let mut at = from;
    for run in &around {
        state.delete(&key::run(ino, last(run)))?;
        let end = run.first + run.count;
        if run.first < from {
            push(
                &mut after,
                Run {
                    count: from.min(end) - run.first,
                    ..*run
                },
            );
        }
        let (start, stop) = (run.first.max(from), end.min(to));
        if start < stop {
            if at < start {
                push_changed(&mut after, at, start, change(Piece::Hole));
            }
            let inside = Run {
                first: start,
                count: stop - start,
                ..*run
            };
            before.push(inside);
            push_changed(&mut after, start, stop, change(Piece::Named(inside)));
            at = stop;
        }
        if end > to {
            if at < to {
                push_changed(&mut after, at, to, change(Piece::Hole));
                at = to;
            }
            let first = run.first.max(to);
            push(
                &mut after,
                Run {
                    first,
                    count: end - first,
                    ..*run
                },
            );
        }
    }
    if at < to {
        push_changed(&mut after, at, to, change(Piece::Hole));
    }
    after.sort_by_key(|run| run.first);
    for run in join(after) {
        put(state, ino, &run)?;
    }
    Ok(before)
}

/// What a part of the map was.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    Hole,
    Named(Run),
}

fn push_changed(runs: &mut Vec<Run>, from: u64, to: u64, changed: Option<(u64, bool)>) {
    if let Some((version, written)) = changed {
        push(
            runs,
            Run {
                first: from,
                count: to - from,
                version,
                written,
            },
        );
    }
}

fn push(runs: &mut Vec<Run>, run: Run) {
    if run.count > 0 {
        runs.push(run);
    }
}

fn join(runs: Vec<Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(before)
                if before.first + before.count == run.first
                    && (before.version, before.written) == (run.version, run.written) =>
            {
                before.count += run.count;
            }
            _ => joined.push(run),
        }
    }
    joined
}
