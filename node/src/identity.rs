//! Who a store is: the one file that is written before a node says anything (P1).
//!
//! Owns the store id, the boot number and, once joined, the cluster and node id. Each start raises the boot number and
//! syncs it. Deliberately knows nothing of what else a data directory holds.

use polyfs_core::codec::{self, DecodeError};
use polyfs_core::ids::{BootNumber, ClusterId, NodeId, StoreId};
use polyfs_store::disk::{Dir, DiskError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sealed_file;

/// Written before any other file of a data directory.
pub(crate) const FILE: &str = "identity";
const VERSION: u8 = 1;

/// What a store knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// The store.
    pub store: StoreId,
    /// Which start this is; the first is 1.
    pub boot: BootNumber,
    /// The cluster it belongs to and its node id there, once it has joined.
    pub member: Option<(ClusterId, NodeId)>,
}

/// Why a store does not say who it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error("the identity file: {0}")]
    Disk(#[from] DiskError),
    /// The file is damaged.
    #[error(
        "the file identity is damaged ({0}): keep the directory, and start this node with an empty one to be filled by the others, or from a backup if there are none"
    )]
    Damaged(DecodeError),
    /// The file is sound, and not for this version.
    #[error("the data directory was made by a newer polyfs ({0})")]
    Newer(DecodeError),
}

impl From<DecodeError> for IdentityError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Newer { .. } => Self::Newer(error),
            DecodeError::Invalid(_) | DecodeError::Trailing(..) => Self::Damaged(error),
        }
    }
}

/// Reads the identity, or draws one for an empty directory; raises the boot number, synced.
///
/// # Errors
/// When the file is damaged or the disk fails.
pub fn start(
    dir: &impl Dir,
    draw: impl FnOnce() -> StoreId,
) -> Result<StoreIdentity, IdentityError> {
    let mut identity = match read(dir)? {
        Some(identity) => identity,
        None => StoreIdentity {
            store: draw(),
            boot: BootNumber(0),
            member: None,
        },
    };
    identity.boot = BootNumber(identity.boot.0 + 1);
    write(dir, &identity)?;
    Ok(identity)
}

fn read(dir: &impl Dir) -> Result<Option<StoreIdentity>, IdentityError> {
    let Some(bytes) = sealed_file::read(dir, FILE)? else {
        return Ok(None);
    };
    Ok(Some(codec::decode_versioned("identity", VERSION, &bytes?)?))
}

/// Writes the identity; durable when this returns.
///
/// # Errors
/// When the disk fails: the old one then still stands.
pub fn write(dir: &impl Dir, identity: &StoreIdentity) -> Result<(), IdentityError> {
    sealed_file::write(dir, FILE, &codec::encode_versioned(VERSION, identity))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polyfs_store::memory::MemoryDir;

    #[test]
    fn each_start_counts_even_across_power_cuts() {
        let mut dir = MemoryDir::new(1);
        for boot in 1..20 {
            let identity = start(&dir, || StoreId(77)).expect("the disk works");
            assert_eq!(
                (identity.store, identity.boot),
                (StoreId(77), BootNumber(boot))
            );
            dir = dir.restart(boot);
        }
    }
}
