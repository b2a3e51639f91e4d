//! Worlds, workloads, scenarios, checkers, the seed swarm.
//!
//! ```text
//! world ──── one machine, its power cuts ── program of each boot: store, node, founding, mount
//! cluster ── nodes, a waypoint, mounts, faults one after the other ── programs: waypoint, node, mount
//!   └─────── workload: calls of mounts, noted in a history ── polyfs_model::linearize, audit
//! ```
//! Here whole nodes run, with the real store and the real consensus, on the simulated runtime. Deliberately holds no
//! rule of the protocol: what is right is said by the reference filesystem and the audit.
#![warn(missing_docs)]

pub mod cluster;
mod verdict;
pub mod workload;
pub mod world;
