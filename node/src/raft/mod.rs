//! openraft, given a log, a state machine and a network.
//!
//! Owns everything that speaks openraft's types. Deliberately knows no request, session or lease.
//!
//! ```text
//!  client_write ─▶ openraft ─append─▶ GroupLog ─▶ SharedLog (all groups, one batch in flight) ─▶ disk
//!                     │  └─replicate─▶ network ─▶ connection of the node pair ─▶ the other's openraft
//!                     └─apply─▶ GroupState ─▶ state database (durable at the next checkpoint)
//! ```

pub mod config;
mod followers;
mod hold;
mod inodes;
mod kv;
pub mod log;
pub mod log_driver;
pub mod network;
mod promises;
pub mod replica;
pub mod snapshot;
pub mod state;
pub mod types;
pub mod witness;
