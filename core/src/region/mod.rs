//! A region: a contiguous range of places, one Raft group.
//!
//! Owns what a region's log entries do to its state: pure functions of state and entry, the same on every replica.
//! Deliberately knows no consensus: entries arrive in order, from whoever orders them.

mod apply;
pub mod audit;
mod clock;
pub mod command;
mod content;
mod data;
mod entry;
mod found;
mod inode;
pub mod key;
pub mod kv;
pub mod leader;
pub mod mem;
mod orphan;
mod plan;
pub mod query;
mod record;
mod runs;
mod session;
mod slot;
mod step;
#[cfg(test)]
mod tests;

pub use apply::apply;
pub use found::{Root, found};
