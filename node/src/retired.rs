//! What a node must not forget of its disk's failures: replicas that never speak again, and poison.
//!
//! Owns the two marks in the data directory. `retired` names replicas whose bytes were found damaged: an id that has
//! lost anything it promised never speaks again (P1). `POISON` says that a sync failed: nothing is believed until it
//! was verified (P10). Deliberately decides nothing.

use std::collections::BTreeMap;

use polyfs_core::codec::{self, DecodeError};
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_store::disk::{Dir, DiskError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sealed_file;

const RETIRED: &str = "retired";
const POISON: &str = "POISON";
const VERSION: u8 = 1;

/// Replicas of this store that never speak again, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// By group and replica id.
    pub replicas: BTreeMap<(GroupId, ReplicaId), String>,
}

/// Why a mark can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MarkError {
    /// The disk failed.
    #[error("the file {RETIRED} or {POISON}: {0}")]
    Disk(#[from] DiskError),
    /// The file is damaged: which replicas may speak is unknown.
    #[error(
        "the file {RETIRED} is damaged ({0}): keep the directory, and start this node with an empty one to be filled by the others"
    )]
    Damaged(DecodeError),
    /// The file is sound, and not for this version.
    #[error("the data directory was used by a newer polyfs ({0})")]
    Newer(DecodeError),
}

impl From<DecodeError> for MarkError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Newer { .. } => Self::Newer(error),
            DecodeError::Invalid(_) | DecodeError::Trailing(..) => Self::Damaged(error),
        }
    }
}

impl Retired {
    /// Reads the mark; nobody is retired where there is none.
    ///
    /// # Errors
    /// As [`MarkError`].
    pub(crate) fn read(dir: &impl Dir) -> Result<Self, MarkError> {
        let Some(bytes) = sealed_file::read(dir, RETIRED)? else {
            return Ok(Self::default());
        };
        Ok(codec::decode_versioned(
            "list of retired replicas",
            VERSION,
            &bytes?,
        )?)
    }

    /// Writes the mark; durable when this returns.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn write(&self, dir: &impl Dir) -> Result<(), DiskError> {
        sealed_file::write(dir, RETIRED, &codec::encode_versioned(VERSION, self))
    }

    /// Whether a replica never speaks again.
    #[must_use]
    pub fn has(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.replicas.contains_key(&(group, replica)) && !cfg!(planted = "retired_speaks")
    }

    /// Whether some replica of a group was retired here.
    #[must_use]
    pub fn has_group(&self, group: GroupId) -> bool {
        self.replicas.keys().any(|(of, _)| *of == group)
    }
}

/// Why the store is poisoned, if it is. A mark that was written by a failing disk may be damaged: it counts.
///
/// # Errors
/// When the disk fails.
pub(crate) fn poison(dir: &impl Dir) -> Result<Option<String>, DiskError> {
    let names = dir.list()?;
    if !names
        .iter()
        .any(|name| name.strip_suffix(".new").unwrap_or(name) == POISON)
    {
        return Ok(None);
    }
    let why = sealed_file::read(dir, POISON)?.and_then(Result::ok);
    let why = why.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Some(why.unwrap_or_else(|| "a sync failed".into())))
}

/// Tries to leave the mark of a failed sync.
///
/// # Errors
/// When the disk fails even at that.
pub(crate) fn write_poison(dir: &impl Dir, why: &str) -> Result<(), DiskError> {
    sealed_file::write(dir, POISON, why.as_bytes())
}

/// Everything was verified in place: the mark goes.
///
/// # Errors
/// When the disk fails.
pub(crate) fn clear_poison(dir: &impl Dir) -> Result<(), DiskError> {
    sealed_file::remove(dir, &format!("{POISON}.new"))?;
    sealed_file::remove(dir, POISON)
}
