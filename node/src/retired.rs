//! What a node must not forget of its disk's failures: replicas that never speak again, suspect ones, and poison.
//!
//! Owns the three marks in the data directory. `retired` names replicas whose bytes were found damaged: an id that has
//! lost anything it promised never speaks again (P1). `POISON` says that a sync failed: nothing is believed until it
//! was verified; `suspect` names the replicas that were, and are to be replaced all the same (P10). Deliberately decides
//! nothing.

use std::collections::BTreeMap;

use polyfs_core::codec::{self, DecodeError};
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_store::disk::{Dir, DiskError};
use thiserror::Error;

use crate::sealed_file;

const RETIRED: &str = "retired";
const SUSPECT: &str = "suspect";
const POISON: &str = "POISON";
const VERSION: u8 = 1;

/// What is known of some replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// They never speak again.
    Retired,
    /// A sync failed under them: they were verified, and serve until they are replaced.
    Suspect,
}

impl Mark {
    const fn file(self) -> &'static str {
        match self {
            Self::Retired => RETIRED,
            Self::Suspect => SUSPECT,
        }
    }
}

/// Replicas of this store, by group and replica id, and why they are marked.
pub type Marked = BTreeMap<(GroupId, ReplicaId), String>;

/// Why a mark can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MarkError {
    /// The disk failed.
    #[error("the file {RETIRED}, {SUSPECT} or {POISON}: {0}")]
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

/// Reads who is retired; nobody where there is no file.
///
/// # Errors
/// As [`MarkError`].
pub(crate) fn retired(dir: &impl Dir) -> Result<Marked, MarkError> {
    read(dir, Mark::Retired)
}

/// Reads who is suspect, and why the store is poisoned, if it is: a damaged list may have named anybody.
///
/// # Errors
/// As [`MarkError`], but for a damaged list.
pub(crate) fn doubts(dir: &impl Dir) -> Result<(Marked, Option<String>), MarkError> {
    let poison = poison(dir)?;
    match read(dir, Mark::Suspect) {
        Err(MarkError::Damaged(error)) => {
            let why = poison.unwrap_or_else(|| format!("the file {SUSPECT} is damaged: {error}"));
            Ok((Marked::new(), Some(why)))
        }
        suspect => Ok((suspect?, poison)),
    }
}

fn read(dir: &impl Dir, mark: Mark) -> Result<Marked, MarkError> {
    let Some(bytes) = sealed_file::read(dir, mark.file())? else {
        return Ok(Marked::new());
    };
    Ok(codec::decode_versioned(
        "list of marked replicas",
        VERSION,
        &bytes?,
    )?)
}

/// Writes who has a mark; durable when this returns.
///
/// # Errors
/// When the disk fails.
pub(crate) fn write(dir: &impl Dir, mark: Mark, marked: &Marked) -> Result<(), DiskError> {
    let bytes = codec::encode_versioned(VERSION, marked);
    sealed_file::write(dir, mark.file(), &bytes)
}

/// Why the store is poisoned, if it is. A mark that was written by a failing disk may be damaged: it counts.
///
/// # Errors
/// When the disk fails.
fn poison(dir: &impl Dir) -> Result<Option<String>, DiskError> {
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
