//! Tests of region state and file data together, on a directory in memory.

mod basics;
mod corruption;
mod crash;
mod merged;
mod speed;
mod threads;
mod toy_log;

use std::sync::Arc;

use super::{Opened, ReserveConfig, StateConfig, StateDb, StoreError};
use crate::extent_ref::ExtentRef;
use crate::extents::DataConfig;
use crate::memory::MemoryDir;

/// No reserve, and data files so small that tests see several of them.
const CONFIG: StateConfig = StateConfig {
    cache_bytes: 256 << 10,
    data: DataConfig {
        file_bytes: 512 << 10,
        step_bytes: 64 << 10,
        direct: true,
        punch_bytes_min: 8 << 10,
        // Some small overwrites wait in memory, some do not.
        fresh_bytes_max: 96 << 10,
    },
    reserve: ReserveConfig {
        part: 20,
        bytes_min: 0,
        bytes_max: u64::MAX,
        part_max: 1 << 40,
        steps: 16,
    },
};

fn open(dir: &MemoryDir, log: &[ExtentRef]) -> Result<Opened<MemoryDir>, StoreError> {
    StateDb::open(Arc::new(dir.clone()), CONFIG, log)
}

fn checkpoint(db: &StateDb<MemoryDir>) {
    db.prepare_checkpoint()
        .unwrap()
        .commit(|_| u64::MAX)
        .unwrap();
}

/// How many seeds a test runs: as the environment says (`POLYFS_SEEDS=from..to`, or how many of them from `POLYFS_SEED`
/// on), else `default`.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("POLYFS_SEEDS").unwrap_or_default();
    if let Some((from, to)) = asked.split_once("..") {
        return from.parse().expect("a number")..to.parse().expect("a number");
    }
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    let first = number("POLYFS_SEED").unwrap_or(0);
    first..first + number("POLYFS_SEEDS").unwrap_or(default)
}
