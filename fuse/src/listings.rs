//! What was fetched of a listing and did not fit the kernel's buffer: the next READDIR of that handle goes on with it.
//!
//! Owns the rest of one batch for each open directory. Names that come and go meanwhile may be shown or not, as
//! readdir(3) leaves open (and as the C library's own buffer does). Attributes are not kept: the kernel takes a size that
//! it is told for what the file has now, and drops pages beyond it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::FileHandle;
use polyfs_core::place::Cookie;
use polyfs_core::vfs::DirEntry;

/// The rest of a batch.
#[derive(Debug)]
struct Rest {
    /// The cookie after which it goes on.
    after: Cookie,
    /// Whether attributes were fetched.
    plus: bool,
    entries: VecDeque<DirEntry>,
}

/// The rests of all open directories.
#[derive(Debug, Default)]
pub(crate) struct Listings(Mutex<HashMap<u64, Rest>>);

impl Listings {
    /// The entries of a handle after a cookie, if they were fetched, with attributes if those are wanted.
    pub(crate) fn take(
        &self,
        handle: FileHandle,
        after: Cookie,
        plus: bool,
    ) -> Option<VecDeque<DirEntry>> {
        let rest = self.lock().remove(&handle.0)?;
        let fits = rest.after == after && (rest.plus || !plus);
        fits.then_some(rest.entries)
    }

    /// Puts entries into a buffer until `add` says that it is full, and keeps the others.
    pub(crate) fn fill(
        &self,
        handle: FileHandle,
        (mut after, plus): (Cookie, bool),
        mut entries: VecDeque<DirEntry>,
        mut add: impl FnMut(&DirEntry) -> bool,
    ) {
        while let Some(entry) = entries.front() {
            if add(entry) {
                break;
            }
            after = entry.cookie;
            entries.pop_front();
        }
        for entry in &mut entries {
            entry.attr = None;
        }
        if !entries.is_empty() {
            let rest = Rest {
                after,
                plus,
                entries,
            };
            self.lock().insert(handle.0, rest);
        }
    }

    /// The directory is closed.
    pub(crate) fn closed(&self, handle: FileHandle) {
        self.lock().remove(&handle.0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Rest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polyfs_core::attr::FileKind;
    use polyfs_core::place::{Ino, Place};

    const HANDLE: FileHandle = FileHandle(4);

    fn entry(cookie: u64) -> DirEntry {
        DirEntry {
            cookie: Cookie(cookie),
            name: vec![b'a'],
            ino: Ino::new(Place(1), u32::try_from(cookie).unwrap()),
            kind: FileKind::Regular,
            attr: None,
        }
    }

    /// Fills a buffer with room for two.
    fn fill(listings: &Listings, after: Cookie, entries: VecDeque<DirEntry>) -> Vec<u64> {
        let mut buffer = Vec::new();
        listings.fill(HANDLE, (after, true), entries, |entry| {
            if buffer.len() == 2 {
                return true;
            }
            buffer.push(entry.cookie.0);
            false
        });
        buffer
    }

    #[test]
    fn what_does_not_fit_comes_next_and_nothing_twice() {
        let listings = Listings::default();
        let all = (1..=5).map(entry).collect();
        assert_eq!(fill(&listings, Cookie(0), all), [1, 2]);
        let rest = listings.take(HANDLE, Cookie(2), true).unwrap();
        assert_eq!(fill(&listings, Cookie(2), rest), [3, 4]);
        let rest = listings.take(HANDLE, Cookie(4), false).unwrap();
        assert_eq!(fill(&listings, Cookie(4), rest), [5]);
        assert!(listings.take(HANDLE, Cookie(5), true).is_none());
    }

    #[test]
    fn who_goes_elsewhere_is_not_shown_the_rest() {
        let listings = Listings::default();
        fill(&listings, Cookie(0), (1..=5).map(entry).collect());
        assert!(
            listings.take(HANDLE, Cookie(0), true).is_none(),
            "rewinddir"
        );
        assert!(
            listings.take(HANDLE, Cookie(2), true).is_none(),
            "it is gone"
        );
        fill(&listings, Cookie(0), (1..=5).map(entry).collect());
        listings.closed(HANDLE);
        assert!(listings.take(HANDLE, Cookie(2), true).is_none());
    }
}
