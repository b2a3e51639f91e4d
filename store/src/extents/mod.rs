//! File data: extents in preallocated data files, and the page maps that say which bytes of a chunk lie where (P10).
//!
//! ```text
//!   log append ──write_extent──▶ DataFiles ◀──fresh 4 KiB pages── ChunkPages ◀── apply
//!                                   │  Allocator: free, mapped, pinned, retired      │
//!                                   │  FreshBlocks: in memory until a checkpoint     │
//!                                data-0000 ...                              page maps (pending, in redb)
//! ```
//! Owns the rule that data is never overwritten in place, and rules 1 and 3: an extent is synced before anything
//! durable points to it, and space is reused only when nothing can refer to it any more. Deliberately knows neither
//! redb (page maps come and go through [`PageMaps`]) nor what a chunk's key means.

mod allocator;
mod checksum;
mod chunk;
mod data_file;
mod files;
mod fresh;
mod log_pins;
mod page_map;
mod run;

pub use chunk::{ChunkPages, PageMaps, PageMapsMut};
pub use files::{DataConfig, DataFiles, ExtentsSynced, Pin, Usage, Written};
pub use log_pins::LogPins;
pub use page_map::{PAGES_PER_CHUNK, PageMap, Piece};
pub use run::BlockRun;

pub(crate) use allocator::Changes;
pub(crate) use checksum::Crc;
pub(crate) use files::ReadGuard;

#[cfg(test)]
mod tests;
