//! A toy cluster: core's machines on a toy network and a toy consensus, in one thread, under a seed.
//!
//! Owns simulated time, delivery, loss, partitions, crashes, changes of leader. The consensus keeps what Raft promises
//! and breaks everything it doesn't: two replicas may believe they lead, proposals get lost or come late, replicas lag.
//! Deliberately knows no disk: what a replica has applied survives its crash; the store's own tests and the whole-node
//! simulation doubt that.

mod client;
mod consensus;
mod events;
mod leaders;
mod marks;
mod master;
mod router;
mod world;

pub use marks::Marks;
pub use world::{Config, Fault, World};
