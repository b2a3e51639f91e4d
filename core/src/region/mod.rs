//! A region: a contiguous range of places, one Raft group.
//!
//! Owns what a region's log entries do to its state ([`command`], and what follows), pure functions of state and entry,
//! the same on every replica. Deliberately knows no consensus: entries arrive in order, from whoever orders them.

pub mod command;
pub mod key;
pub mod kv;
pub mod leader;
pub mod map;
