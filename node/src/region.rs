//! Regions as groups: what their entries do is core's.
//!
//! Owns the step between a log entry and [`polyfs_core::region::apply`]. Deliberately adds nothing to it.

use polyfs_core::region;
use polyfs_core::region::command::Command;
use polyfs_core::region::kv::{Kv, KvError};

use crate::raft::state::Machine;
use crate::raft::types::{GroupApplied, GroupCommand};

/// The machine of every region, meta or data: its state says which it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionMachine;

impl Machine for RegionMachine {
    fn apply(&self, kv: &mut dyn Kv, command: &GroupCommand) -> Result<GroupApplied, KvError> {
        let entry: Command = command.decode("region command")?;
        region::apply(kv, &entry, &command.payload).map(GroupApplied::Region)
    }
}
