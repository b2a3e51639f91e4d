//! What a node keeps on disk: the shared Raft log, region state, file data (P10).
//!
//! Thread-free code over the seam of [`disk`]; drivers bring the concurrency. Deliberately knows no consensus engine,
//! no network and no clock.
#![warn(missing_docs)]

pub mod aligned;
pub mod disk;
pub mod extent_ref;
pub mod extents;
pub mod memory;
pub mod state;
pub mod wal;
