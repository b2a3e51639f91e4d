//! Snapshots: the state of one replica, held still while it is carried to another.
//!
//! Owns what openraft takes for a snapshot. Its metadata always belongs to exactly the state it pins: openraft credits
//! a follower with the metadata it was handed. Deliberately not a file: a view of the state is enough.

use std::future::Future;
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::errors::{ReplicationClosed, StreamingError};
use openraft::raft::SnapshotResponse;
use polyfs_core::ids::{GroupId, Lineage};
use polyfs_store::state::{StateView, StoreError};

use super::network::{Network, unreachable_because};
use super::state::{ReplicaRecord, SharedState};
use super::types::{LeaderTerm, TypeConfig, Vote};
use crate::runtime::Runtime;

/// A snapshot, as openraft passes it around.
pub type SnapshotOf<R> = openraft::storage::Snapshot<LeaderTerm, u64, (), Snapshot<R>>;

/// Where a snapshot's content is.
pub enum Snapshot<R: Runtime> {
    /// Nowhere: only its metadata counts.
    Known,
    /// In a view of this node's state.
    Pinned(Arc<StateView<R::Dir>>, Lineage),
    /// Received, under a lineage of its own, not yet current (P5).
    Staged(Lineage),
}

impl<R: Runtime> Snapshot<R> {
    /// The lineage it was received under.
    #[must_use]
    pub fn staged(&self) -> Option<Lineage> {
        match self {
            Self::Staged(lineage) => Some(*lineage),
            Self::Known | Self::Pinned(..) => None,
        }
    }
}

/// The state of a group as of now, with the metadata that belongs to exactly it; `None` while it has applied nothing.
///
/// # Errors
/// When the state can't be read.
pub(super) fn pin<R: Runtime>(
    state: &SharedState<R>,
    group: GroupId,
) -> Result<Option<SnapshotOf<R>>, StoreError> {
    let view = state.db().view()?;
    let Some(record) = view.get_group(group)? else {
        return Ok(None);
    };
    let record = ReplicaRecord::decode(&record)?;
    if record.applied.is_none() {
        return Ok(None);
    }
    let snapshot = Snapshot::Pinned(Arc::new(view), record.lineage);
    Ok(Some(SnapshotOf::<R> {
        meta: record.meta(),
        snapshot,
    }))
}

/// Carries a snapshot to another replica.
pub(super) async fn send<R: Runtime>(
    _network: &mut Network<R>,
    _vote: Vote,
    _snapshot: SnapshotOf<R>,
    _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
) -> Result<SnapshotResponse<TypeConfig<R>>, StreamingError<TypeConfig<R>>> {
    Err(StreamingError::Unreachable(unreachable_because::<R>(
        "snapshots are not carried yet",
    )))
}
