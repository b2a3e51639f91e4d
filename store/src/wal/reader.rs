//! Loading entries that are no longer cached.
//!
//! Owns the check that what is read is what the index said: the record's CRC, its group, index and term. May be used
//! from many threads. Deliberately caches nothing.

use std::sync::Arc;

use super::error::{LogError, Poison};
use super::index::{Found, Located};
use super::record::{self, LogEntry, Record};
use super::segment::{Files, Window};
use crate::disk::Dir;

/// How much is read at once, so that neighbouring entries cost one read.
const AHEAD_BYTES: usize = 128 << 10;

/// Reads entries back from the segments. Every method may block on the disk.
pub struct LogReader<D: Dir> {
    pub(crate) files: Arc<Files<D::Disk>>,
    pub(crate) poison: Poison,
}

impl<D: Dir> Clone for LogReader<D> {
    fn clone(&self) -> Self {
        Self {
            files: Arc::clone(&self.files),
            poison: self.poison.clone(),
        }
    }
}

impl<D: Dir> LogReader<D> {
    /// Loads the stored ones among `found`, keeping their order.
    ///
    /// # Errors
    /// `Damaged` when the bytes are not the entry: if [`super::LogIndex::is_current`] then still says that it is
    /// there, the disk has broken its promise; otherwise it was purged meanwhile. `Disk`, `Poisoned`.
    pub fn load(&self, found: Vec<Found>) -> Result<Vec<LogEntry>, LogError> {
        self.poison.check()?;
        let mut window = None;
        let mut entries = Vec::with_capacity(found.len());
        for one in found {
            entries.push(match one {
                Found::Cached(entry) => entry,
                Found::Stored(located) => {
                    let window =
                        window.get_or_insert_with(|| Window::new(&self.files, AHEAD_BYTES));
                    load_one(window, &located)?
                }
            });
        }
        Ok(entries)
    }
}

fn load_one<K: crate::disk::Disk>(
    window: &mut Window<'_, K>,
    want: &Located,
) -> Result<LogEntry, LogError> {
    let (segment, offset) = (want.at.segment, u64::from(want.at.offset));
    let damaged = |what| LogError::Damaged {
        segment: segment.0,
        offset,
        what,
    };
    let bytes = usize::try_from(want.at.bytes).expect("usize has at least 32 bits");
    let bytes = window
        .get(segment, offset, bytes)?
        .ok_or(damaged("a record beyond the segment"))?;
    match record::decode(bytes) {
        Ok((Record::Entry { group, entry }, used))
            if used == bytes.len()
                && (group, entry.index, entry.term) == (want.group, want.index, want.term) =>
        {
            Ok(entry)
        }
        Ok(_) => Err(damaged("another record than the one written there")),
        Err(_) => Err(damaged("a record fails its checksum")),
    }
}
