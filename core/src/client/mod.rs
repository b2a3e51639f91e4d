//! The client: turns a mount's calls into requests to regions, and caches what leases allow.
//!
//! Owns routing, retries, deadlines, slots, the mount's side of sessions and leases, and write-back. Deliberately knows
//! no socket, thread, kernel or clock: a driver moves its messages, the FUSE adapter its calls.

pub mod port;
