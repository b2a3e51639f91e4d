//! What can go wrong with region state and file data.
//!
//! Owns the error type and the poison: once an I/O failure has made it unknown what is stored, every later call is
//! refused (P10). Deliberately knows no host error numbers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use polyfs_core::codec::DecodeError;
use polyfs_core::ids::{GroupId, Lineage};
use thiserror::Error;

use crate::disk::DiskError;
use crate::extent_ref::ExtentRef;

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Stored bytes of one replica's state or content are not what was written: the replica comes back under a new
    /// id (P1), the rest of the store is not concerned.
    #[error("{what} of lineage {lineage} is corrupt: replace this replica")]
    Corrupt {
        /// Whose bytes.
        lineage: Lineage,
        /// Which kind, and where.
        what: String,
    },
    /// A record that belongs to no lineage is not what was written.
    #[error(
        "the record {0} of the state database is damaged: keep the directory, and start this node with an empty one to be filled by the others, or from a backup if there are none"
    )]
    CorruptRecord(String),
    /// The database file as a whole is not readable.
    #[error(
        "the state database is damaged ({0}): this node stops and the others serve; keep its data directory aside and \
         start it with an empty one to join anew, or restore it from a backup if there are no others"
    )]
    CorruptDatabase(String),
    /// The bytes of a log record's extent are not what was written.
    #[error("the extent at {} of data file {} is corrupt", .0.offset, .0.file)]
    CorruptExtent(ExtentRef),
    /// Nobody holds this extent any more: its space may hold something else.
    #[error("the extent at {} of data file {} is held by no log record", .0.offset, .0.file)]
    ExtentGone(ExtentRef),
    /// Rule 4: a durable commit now would be ahead of this node's own log.
    #[error(
        "{group} has applied {applied}, its log is synced through {synced}: sync the log first"
    )]
    CheckpointAheadOfLog {
        /// Which group.
        group: GroupId,
        /// The index its state has reached.
        applied: u64,
        /// The index its log is durable through.
        synced: u64,
    },
    /// An earlier call of this batch failed half way: it can only be dropped.
    #[error("an operation of this batch failed: drop the batch")]
    BatchFailed,
    /// What a page map or the log refers to is in no data file.
    #[error("a data file (data-*) is missing, or has lost its end")]
    DataShort,
    /// The disk said no; after anything but `Full` the store is poisoned.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier failure made it unknown what is stored.
    #[error("the store is poisoned: {0}")]
    Poisoned(String),
    /// The database refused for another reason.
    #[error("the state database failed: {0}")]
    Database(String),
    /// A stored value is no valid encoding although its checksum holds.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Set by the first failure after which nobody knows what is stored; never cleared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Poison(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    why: Mutex<Option<String>>,
    /// The database has panicked: nothing of it may be touched again, not even to drop it.
    panicked: AtomicBool,
}

impl Poison {
    /// Refuses when poisoned.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match &*self.0.why.lock().expect("no panic happens under this lock") {
            Some(reason) => Err(StoreError::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    /// Poisons the store, unless the disk was only full.
    pub(crate) fn disk(&self, doing: &str, error: DiskError) -> StoreError {
        if error != DiskError::Full {
            self.set(format!("{doing}: {error}"));
        }
        StoreError::Disk(error)
    }

    /// A sync has failed: nobody knows what is stored, whatever it says. The kernel says it once (fsync(2)), and a full
    /// thin pool under the filesystem says `Full`.
    pub(crate) fn sync(&self, doing: &str, error: DiskError) -> StoreError {
        let reason = format!("{doing}: {error}");
        self.set(reason.clone());
        match error {
            DiskError::Full => StoreError::Poisoned(reason),
            other => StoreError::Disk(other),
        }
    }

    pub(crate) fn set(&self, reason: String) {
        let mut poison = self.0.why.lock().expect("no panic happens under this lock");
        if poison.is_none() {
            tracing::warn!(reason, "the store is poisoned");
            *poison = Some(reason);
        }
    }

    /// The database has panicked over what it read.
    pub(super) fn panicked(&self, what: &str) -> StoreError {
        self.0.panicked.store(true, Ordering::Release);
        let error = StoreError::CorruptDatabase(format!("it can't go on: {what}"));
        self.set(error.to_string());
        error
    }

    pub(super) fn has_panicked(&self) -> bool {
        self.0.panicked.load(Ordering::Acquire)
    }

    /// Translates what redb says; it refuses everything after an I/O error, and so do we.
    pub(crate) fn database(&self, error: impl Into<redb::Error>) -> StoreError {
        let error = error.into();
        match &error {
            redb::Error::Io(io) => {
                self.set(format!("state database: {io}"));
                let inner = io.get_ref();
                let disk = inner.and_then(|inner| inner.downcast_ref::<DiskError>());
                let own = inner.and_then(|inner| inner.downcast_ref::<StoreError>());
                match (disk, own) {
                    (Some(disk), _) => StoreError::Disk(disk.clone()),
                    (None, Some(own)) => own.clone(),
                    (None, None) => StoreError::Disk(DiskError::Failed(io.to_string())),
                }
            }
            redb::Error::Corrupted(reason) => StoreError::CorruptDatabase(reason.clone()),
            // All are made before the file gets its name.
            redb::Error::TableDoesNotExist(table) => {
                StoreError::CorruptDatabase(format!("the table {table} is missing"))
            }
            redb::Error::PreviousIo => {
                self.set("state database: an earlier I/O error".into());
                StoreError::Poisoned("state database: an earlier I/O error".into())
            }
            other => StoreError::Database(other.to_string()),
        }
    }
}
