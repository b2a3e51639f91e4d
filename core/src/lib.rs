//! Pure state machines of PolyFS.
//!
//! Owns every rule of the protocol: identity, waypoints, joining and founding, the master's state, regions and what
//! their log entries do, transactions across regions, sessions, leases and fences, and the client. Deliberately
//! knows no clock, thread, socket, file, async runtime or source of randomness: time and random numbers arrive as
//! arguments, bytes leave as values, and the crate is `no_std` so that nothing else can even be named.
#![no_std]
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod attr;
pub mod client;
pub mod codec;
pub mod error;
pub mod ids;
pub mod join;
pub mod limits;
pub mod locks;
pub mod master;
pub mod place;
pub mod region;
pub mod request;
pub mod time;
pub mod txn;
pub mod vfs;
pub mod waypoint;
