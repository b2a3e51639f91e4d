//! Segments for the log to go on in: the oldest one is emptied, or another is made.
//!
//! Owns when the driver does either. Deliberately decides neither how much is carried nor how many there may be: the index
//! and the writer do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use polyfs_store::wal::{Found, NewSegment};

use super::{FULL_PAUSE, Inner};
use crate::runtime::{Lane, Runtime};

impl<R: Runtime> Inner<R> {
    /// P10: what quiet groups still need of the oldest segment is copied to the log's end, so that the segment can be
    /// written anew.
    pub(super) async fn carry_forward(self: &Arc<Self>) {
        if cfg!(planted = "nothing_carried_forward") {
            return;
        }
        let Some(mut plan) = self.books.lock().index.plan_carry() else {
            return;
        };
        let found = std::mem::take(&mut plan.found);
        // Batches wait for this as for a batch before them.
        let before = {
            let mut books = self.books.lock();
            let before = books.writing_since;
            books.writing_since = before.or(Some(self.runtime.now().mono));
            before
        };
        let group_of = found.first().and_then(|one| match one {
            Found::Stored(located) => Some(located.group),
            Found::Cached(_) => None,
        });
        let reader = self.reader.clone();
        let loaded = self
            .runtime
            .blocking(Lane::Read, move || reader.load(found))
            .await;
        let mut books = self.books.lock();
        books.writing_since = before;
        match loaded {
            Ok(entries) => books.index.carry(&plan, entries),
            // Purged meanwhile, or damaged: then whoever reads it says so; the next batch tries again.
            Err(error) => tracing::warn!(%error, ?group_of, "nothing is carried forward"),
        }
    }

    /// Begins to make a spare segment when there are too few.
    pub(super) async fn grow_if_short(self: &Arc<Self>) {
        // Only batches begin it, one after the other; until the last one that was made is adopted its number is not known.
        if self.growing.load(Ordering::Acquire) {
            return;
        }
        let wanted = self.writer.lock().wants_segment();
        if let Some(segment) = wanted {
            self.growing.store(true, Ordering::Release);
            let growing = Arc::clone(self).grow(segment);
            if cfg!(planted = "batches_wait_for_segment") {
                growing.await;
            } else {
                self.runtime.spawn(growing);
            }
        }
    }

    /// Makes a spare segment while batches go on: tens of megabytes of zeros, and their sync.
    async fn grow(self: Arc<Self>, segment: NewSegment) {
        let lane = Arc::clone(&self);
        // Not behind a checkpoint: the log may have no other segment left.
        let grown = self.runtime.blocking(Lane::Read, move || {
            let made = segment.make(&*lane.dir);
            made.map(|made| lane.writer.lock().adopt(made))
        });
        if let Err(error) = grown.await {
            tracing::warn!(%error, "the log can't grow");
            self.books.lock().index.stop_growing();
            // A batch after that tries again: others may have made room.
            self.runtime.sleep(FULL_PAUSE).await;
        }
        self.growing.store(false, Ordering::Release);
    }
}
