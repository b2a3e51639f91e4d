//! Why the log could not do what it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use polyfs_core::ids::GroupId;
use thiserror::Error;

use crate::disk::DiskError;

/// What the log says no with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// A write or sync failed earlier: nothing the log says is to be trusted until recovery (P10).
    #[error("the log is poisoned by a failed write or sync: restart the node")]
    Poisoned,
    /// Every segment holds records that are still needed.
    #[error("the log is full: snapshot and purge the groups that hold its oldest segment")]
    Full,
    /// The disk failed.
    #[error("the log's disk failed: {0}")]
    Disk(#[from] DiskError),
    /// Stored bytes are not what was written: a broken promise of the disk.
    #[error("segment {segment} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The segment's number.
        segment: u32,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A record larger than one batch may be.
    #[error("a record of {bytes} bytes is larger than the log takes ({bytes_max})")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The largest that fits.
        bytes_max: usize,
    },
    /// The group has no such entry: it was purged, truncated, or never appended.
    #[error("group {group} has no entry {index} in the log")]
    NotFound {
        /// The group.
        group: GroupId,
        /// The index asked for.
        index: u64,
    },
    /// The log was written by a later start than this one: the store was rolled back or copied (P1).
    #[error(
        "the log knows start {found}, this one is {boot}: the data directory was rolled back or copied; move it away and start with an empty one"
    )]
    BootBehind {
        /// The highest boot number in the log.
        found: u64,
        /// The one that was to be used.
        boot: u64,
    },
    /// Recovery found damage that may affect any group, so nobody can go on with this log.
    #[error(
        "the log (log-*) is damaged: keep the directory, and start this node with an empty one to be filled by the others, or from a backup if there are none"
    )]
    Corrupt,
    /// A newer PolyFS wrote this log.
    #[error("the log is of version {found}, this PolyFS reads up to {known}: upgrade it")]
    Newer {
        /// The version found.
        found: u16,
        /// The newest version known.
        known: u16,
    },
    /// The settings contradict each other.
    #[error("impossible log settings: {0}")]
    Config(&'static str),
}

/// Set once, by the first failed write or sync, and seen by every part of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Poison(Arc<AtomicBool>);

impl Poison {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        if self.0.load(Ordering::SeqCst) {
            Err(LogError::Poisoned)
        } else {
            Ok(())
        }
    }
}
