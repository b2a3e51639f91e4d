//! How many inodes a replica's state holds.
//!
//! Owns a number that nothing on disk keeps: counted once, when somebody first wants to know, and from then on changed with
//! every batch that is applied. Deliberately no part of the replicated state: it costs no entry a write.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::Mutex;
use polyfs_core::ids::Lineage;
use polyfs_core::region::key::{self, Kind};
use polyfs_store::disk::Dir;
use polyfs_store::state::{StateView, StoreError};

use super::state::GroupState;
use crate::runtime::{Lane, Runtime};

/// Records read at once.
const AT_ONCE: usize = 1024;

/// The number, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    /// What was counted; none before.
    counted: Mutex<Option<i64>>,
    /// What has changed since the view that was counted in.
    since: AtomicI64,
    /// Somebody counts, or has tried in vain.
    begun: AtomicBool,
}

impl Inodes {
    /// The number, if it is known.
    pub(super) fn get(&self) -> Option<u64> {
        let counted = (*self.counted.lock())?;
        Some(u64::try_from(counted + self.since.load(Ordering::Acquire)).unwrap_or(0))
    }

    /// Whether the caller is to count: the first one who asks.
    pub(super) fn begin(&self) -> bool {
        !self.begun.swap(true, Ordering::AcqRel)
    }

    /// The view in which is counted has been taken; under the same turn as commits.
    pub(super) fn view_taken(&self) {
        self.since.store(0, Ordering::Release);
    }

    /// So many there were in that view.
    pub(super) fn set(&self, counted: i64) {
        *self.counted.lock() = Some(counted);
    }

    /// A batch was committed; under the same turn.
    pub(super) fn changed(&self, by: i64) {
        self.since.fetch_add(by, Ordering::AcqRel);
    }

    /// The whole state was replaced: it must be counted again.
    pub(super) fn forget(&self) {
        *self.counted.lock() = None;
        self.begun.store(false, Ordering::Release);
    }
}

impl<R: Runtime> GroupState<R> {
    /// How many inodes it holds; when that is not known yet, whoever asks first has it counted.
    #[must_use]
    pub fn inodes(&self) -> Option<u64> {
        if self.inodes.begin() {
            let state = self.clone();
            self.log.runtime().spawn(async move {
                if let Err(error) = state.count_inodes().await {
                    state.log.health().store_failed(state.group, &error);
                }
            });
        }
        self.inodes.get()
    }

    async fn count_inodes(&self) -> Result<(), StoreError> {
        let (view, lineage) = {
            let _turn = self.shared.turn().await;
            let view = self.shared.db().view()?;
            self.inodes.view_taken();
            (view, self.record().lineage)
        };
        let counted = self
            .log
            .runtime()
            .blocking(Lane::Read, move || count(&view, lineage));
        let counted = counted.await?;
        // Another state came meanwhile: that one is counted when it is asked for.
        if self.record().lineage == lineage {
            self.inodes.set(counted);
        }
        Ok(())
    }
}

/// Counts the inodes of a lineage.
fn count<D: Dir>(view: &StateView<D>, lineage: Lineage) -> Result<i64, StoreError> {
    let (mut from, to) = key::all_of(Kind::Inode);
    let mut all = 0;
    loop {
        let rows = view.scan(lineage, &from, Some(&to), AT_ONCE)?;
        let Some((last, _)) = rows.last() else {
            return Ok(all);
        };
        all += i64::try_from(rows.len()).expect("no more than were asked for");
        from.clone_from(last);
        from.push(0);
    }
}
