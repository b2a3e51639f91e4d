//! The master: the cluster's brain, held by the leader of group 0 (DESIGN section 4).
//!
//! Owns the replicated [`state`] of group 0, the [`controller`] that decides what to do next, and the lives of
//! [`sessions`]. Directory entries and file data never come here. Deliberately knows no consensus: entries arrive in
//! order, reports and clocks as inputs.

pub mod controller;
pub mod entry;
pub mod sessions;
pub mod state;
pub mod status;
