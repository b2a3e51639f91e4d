//! The node's one write-ahead log, shared by all Raft groups (P10).
//!
//! Owns votes, entries, committed and purged log ids, births and ends of replicas, from the moment they are queued
//! to their recovery after a power cut. Synchronous and without threads; the node brings those.
//!
//! ```text
//!   node, under a mutex          log lane                      any thread
//!   LogIndex ── take_batch ──▶ LogWriter ──▶ log-0001 ...      LogReader
//!      ▲  ◀──── written ─────────┘              │                 ▲
//!      └── read: cached, or located ────────────┴──── load ───────┘
//! ```
//!
//! One batch is in flight at a time. A round of the log lane: [`LogIndex::plan_carry`], load, [`LogIndex::carry`] if there
//! is a plan; else make and adopt what [`LogWriter::wants_segment`] asks for; then write [`LogIndex::take_batch`], or
//! after up to 10 ms without one [`LogIndex::take_mark`]. A batch refused with `Full` is put back. Deliberately knows no consensus engine (bytes are opaque), no clock and no
//! region state; payloads of 64 KiB and more are in extents and only pointed at.

mod batch;
mod carry;
mod error;
mod group;
mod index;
mod live;
mod reader;
mod record;
mod recovery;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use carry::CarryPlan;
pub use error::LogError;
pub use index::{
    Batch, Entries, Found, GroupState, Layout, Located, LogIndex, Pressure, Settled, Standing,
    Written,
};
pub use reader::LogReader;
pub use record::{LogEntry, PayloadRef, Record, SyncedExtent};
pub use recovery::{Affected, Recovered, Recovery, Verdict, create, recover};
pub use segment::{Position, SegmentId};
pub use writer::{LogWriter, MadeSegment, NewSegment};

use crate::aligned::BLOCK_BYTES;
use crate::disk::Dir;

/// The number of a push: later ones are higher. Means nothing after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A log in use, in its three parts.
pub struct Log<D: Dir> {
    /// For the node's code, under a mutex.
    pub index: LogIndex,
    /// For the log lane.
    pub writer: LogWriter<D>,
    /// For whoever needs entries that are not cached.
    pub reader: LogReader<D>,
}

/// Sizes. The defaults are for production; tests use small ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Length of a segment of a new log, in bytes, a multiple of 4096 (64 MiB). An existing log keeps its own.
    pub segment_bytes: u64,
    /// Segments that a new log begins with (4).
    pub segments_initial: usize,
    /// Segments a log may grow to (16).
    pub segments_max: usize,
    /// Fewer than this many reusable ones, and room is made (2).
    pub segments_spare: usize,
    /// The largest batch, in bytes (8 MiB); also the limit of one record.
    pub batch_bytes_max: usize,
    /// How much of recent durable entries is kept in memory, in bytes (64 MiB).
    pub cache_bytes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segments_initial: 4,
            segments_max: 16,
            segments_spare: 2,
            batch_bytes_max: 8 << 20,
            cache_bytes_max: 64 << 20,
        }
    }
}

impl LogConfig {
    fn validate(&self) -> Result<(), LogError> {
        let block = BLOCK_BYTES as u64;
        if !self.segment_bytes.is_multiple_of(block) || self.segment_bytes > u64::from(u32::MAX) {
            return Err(LogError::Config("segments are whole blocks, below 4 GiB"));
        }
        if self.batch_bytes_max < BLOCK_BYTES || !self.batch_bytes_max.is_multiple_of(BLOCK_BYTES) {
            return Err(LogError::Config("batches are whole blocks, at least one"));
        }
        if self.batch_bytes_max as u64 + block > self.segment_bytes {
            return Err(LogError::Config("a segment holds at least one batch"));
        }
        if self.segments_initial < 2 || self.segments_max < self.segments_initial {
            return Err(LogError::Config("a log has at least two segments"));
        }
        Ok(())
    }
}
