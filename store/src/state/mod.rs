//! Region state: one redb database per node, and what goes with each of its transactions (P10).
//!
//! ```text
//!   begin ─▶ StateBatch ─ lineage(l) ─▶ LineageState: RegionKv + chunk operations
//!              │ commit (not durable)
//!   prepare_checkpoint ─▶ CheckpointPlan ─(caller syncs the log)─▶ commit (durable)
//!   view ─▶ StateView: the last commit, pinned
//! ```
//! Owns the tables, the checksum of every value, lineages (P5), and rules 2, 4 and 5: what must be on stable storage
//! before redb becomes durable, and that it never does behind our back. Deliberately knows neither what keys and
//! records mean nor the log.

mod backend;
mod batch;
mod caught;
mod checkpoint;
mod db;
mod error;
mod kv;
mod record;
mod reserve;
mod verify;
mod view;

pub use batch::{LineageState, StateBatch};
pub use caught::panic_is_caught;
pub use checkpoint::{Checkpoint, CheckpointPlan};
pub use db::{Opened, StateConfig, StateDb};
pub use error::StoreError;
pub use kv::{RegionKv, Rows};
pub use record::GroupRecord;
pub(crate) use reserve::Share;
pub use reserve::{Reserve, ReserveConfig, SpaceLevel};
pub use verify::{cache_is_true, check_database};
pub use view::StateView;

pub(crate) use error::Poison;

#[cfg(test)]
mod tests;
