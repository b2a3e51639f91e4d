//! Worlds, workloads, scenarios, checkers, the seed swarm.
//!
//! ```text
//! world ── one machine, its power cuts ── program of each boot: store, node, founding, mount
//!   └───── workload: calls of one mount, noted in a history ── polyfs_model::linearize, region::audit
//! ```
//! Here whole nodes run, with the real store and the real consensus, on the simulated runtime. Deliberately holds no
//! rule of the protocol: what is right is said by the reference filesystem and the audit.
#![warn(missing_docs)]

pub mod cluster;
mod verdict;
pub mod workload;
pub mod world;
