//! Payloads on their way to disk: large ones to data files, others into the log.
//!
//! Owns rule 1 of P10 for appends: an extent is synced before the record that points to it.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use polyfs_core::ids::GroupId;
use polyfs_core::limits::EXTENT_PAYLOAD_BYTES_MIN;
use polyfs_store::disk::DiskError;
use polyfs_store::extents::DataFiles;
use polyfs_store::state::StoreError;
use polyfs_store::wal::{LogError, PayloadRef};

use super::{BULK_BYTES_MAX, Books, Bulk, Pins, SharedLog, Staged};
use crate::runtime::Runtime;

impl<R: Runtime> SharedLog<R> {
    /// Waits for the appends of a group whose payloads are still on their way to extents: what is queued next would
    /// overtake them. Not for those that wait for room: that may take this group's own next purge.
    ///
    /// # Errors
    /// When the log has failed.
    pub(in super::super) async fn staged_first(&self, group: GroupId) -> Result<(), LogError> {
        let told = {
            let mut books = self.books();
            let staged = books.staged_entries.contains_key(&group);
            if !staged || books.no_room || cfg!(planted = "vote_overtakes_append") {
                return Ok(());
            }
            books.barrier()?
        };
        self.inner.bulk_work.ring();
        match told.await.unwrap_or(Err(LogError::Poisoned)) {
            Ok(()) | Err(LogError::Full) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Writes the large payloads of some appends and syncs them; the pins of each, or none of one that has to wait: because the
/// disk has no room for it, or for what came before it and must stay before it.
pub(super) fn write_extents<R: Runtime, D: polyfs_store::disk::Dir>(
    data: &DataFiles<D>,
    staged: &VecDeque<Staged<R>>,
) -> Result<Vec<Option<Pins>>, LogError> {
    let failed = |error: StoreError| {
        tracing::warn!(%error, "a data file failed");
        LogError::Poisoned
    };
    let mut written = Vec::new();
    let mut waiting = BTreeSet::new();
    for append in staged {
        let is_barrier = append.entries.is_empty();
        if waiting.contains(&append.group) || (is_barrier && !waiting.is_empty()) {
            written.push(None);
            continue;
        }
        let large = |payload: &Bytes| payload.len() >= EXTENT_PAYLOAD_BYTES_MIN;
        let payloads = append.entries.iter().map(|entry| &entry.payload);
        let extents = payloads.map(|payload| {
            let extent = large(payload).then(|| data.write_extent(payload, 0));
            extent.transpose()
        });
        match extents.collect::<Result<Vec<_>, _>>() {
            Err(StoreError::Disk(DiskError::Full)) if !cfg!(planted = "full_disk_ends_node") => {
                waiting.insert(append.group);
                written.push(None);
            }
            extents => written.push(Some(extents.map_err(failed)?)),
        }
    }
    let synced = data.sync().map_err(failed)?;
    let pin = |extent: Option<polyfs_store::extents::Written>| {
        extent.map(|extent| {
            assert!(
                synced.covers(&extent),
                "an extent is synced before its record (rule 1)"
            );
            extent.pin
        })
    };
    let pins = |extents: Vec<_>| extents.into_iter().map(pin).collect();
    Ok(written.into_iter().map(|one| one.map(pins)).collect())
}

/// A payload as it goes into the log itself.
pub(super) fn in_log(payload: Bytes) -> PayloadRef {
    if payload.is_empty() {
        PayloadRef::None
    } else {
        PayloadRef::InLog(payload)
    }
}

impl<R: Runtime> Books<R> {
    /// The payload of an extent, if it is still in memory.
    pub(in crate::raft) fn bulk(&self, group: GroupId, index: u64, term: u64) -> Option<Bytes> {
        let bulk = self.bulk.get(&(group, index))?;
        (bulk.term == term).then(|| bulk.payload.clone())
    }

    pub(super) fn keep_bulk(&mut self, group: GroupId, index: u64, term: u64, payload: Bytes) {
        self.bulk_bytes += payload.len();
        if let Some(old) = self.bulk.insert((group, index), Bulk { term, payload }) {
            self.bulk_bytes -= old.payload.len();
        } else {
            self.bulk_order.push_back((group, index));
        }
        while self.bulk_bytes > BULK_BYTES_MAX {
            let Some(oldest) = self.bulk_order.pop_front() else {
                break;
            };
            if let Some(old) = self.bulk.remove(&oldest) {
                self.bulk_bytes -= old.payload.len();
            }
        }
    }
}
