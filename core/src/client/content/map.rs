//! A file's chunk map as the mount knows it (P9).
//!
//! Owns its runs; a region's answers change it. No run is a hole.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::limits::CHUNK_BYTES;
use crate::request::Run;

/// Runs by first chunk; they don't overlap.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct ChunkMap(BTreeMap<u64, Run>);

/// One past the last chunk that `size` bytes touch.
pub(in super::super) const fn chunks_of(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES)
}

impl ChunkMap {
    /// The map of these runs.
    pub(in super::super) fn of(runs: &[Run]) -> Self {
        let mut map = Self::default();
        for run in runs {
            map.set(*run);
        }
        map
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The run that names a chunk.
    pub(in super::super) fn find(&self, chunk: u64) -> Option<Run> {
        let (_, run) = self.0.range(..=chunk).next_back()?;
        (chunk < run.first + run.count).then_some(*run)
    }

    /// The first run that ends after a chunk.
    pub(in super::super) fn from(&self, chunk: u64) -> Option<Run> {
        self.find(chunk)
            .or_else(|| self.0.range(chunk..).next().map(|(_, run)| *run))
    }

    /// One past the last chunk.
    pub(in super::super) fn end(&self) -> u64 {
        self.0
            .last_key_value()
            .map_or(0, |(_, run)| run.first + run.count)
    }

    /// Makes a hole of `first..end`.
    pub(in super::super) fn remove(&mut self, first: u64, end: u64) {
        let before = self.find(first).map(|run| run.first);
        let touched: Vec<u64> = before
            .into_iter()
            .chain(self.0.range(first..end.max(first)).map(|(start, _)| *start))
            .collect();
        for start in touched {
            let Some(run) = self.0.remove(&start) else {
                continue;
            };
            let run_end = run.first + run.count;
            if run.first < first {
                self.put(Run {
                    count: first - run.first,
                    ..run
                });
            }
            if run_end > end {
                self.put(Run {
                    first: end,
                    count: run_end - end,
                    ..run
                });
            }
        }
    }

    fn put(&mut self, run: Run) {
        self.0.insert(run.first, run);
    }

    /// Takes a run over what is there.
    pub(in super::super) fn set(&mut self, run: Run) {
        if run.count > 0 {
            self.remove(run.first, run.first + run.count);
            self.put(run);
        }
    }

    /// Marks chunks written.
    pub(in super::super) fn mark_written(&mut self, first: u64, end: u64) {
        let mut at = first;
        while let Some(run) = self.from(at).filter(|run| run.first < end) {
            let low = run.first.max(first);
            let high = (run.first + run.count).min(end);
            self.set(Run {
                first: low,
                count: high - low,
                version: run.version,
                written: true,
            });
            at = high;
            if at >= end {
                break;
            }
        }
    }

    /// Holes in `first..end`, as (first, count).
    pub(in super::super) fn holes(&self, first: u64, end: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut at = first;
        while at < end {
            match self.from(at).filter(|run| run.first < end) {
                None => {
                    holes.push((at, end - at));
                    break;
                }
                Some(run) => {
                    if run.first > at {
                        holes.push((at, run.first - at));
                    }
                    at = run.first + run.count;
                }
            }
        }
        holes
    }
}
