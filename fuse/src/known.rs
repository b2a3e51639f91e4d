//! Which inodes the kernel knows: those that it has named in a request and not forgotten since.
//!
//! Owns that set, bounded. An answer to LOOKUP names an inode that the kernel may not have yet; until it has, it can't be
//! told to drop what it was told of it, so it is told nothing to keep. (One that it has evicted counts as known until the
//! FORGET comes, which it sends before long.)

use std::collections::HashSet;
use std::sync::Mutex;

use fuser::INodeNo;

/// More than this are not remembered: then it starts anew.
const KNOWN_MAX: usize = 1 << 18;

/// The inodes that the kernel knows.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashSet<u64>>);

impl Known {
    /// The kernel has named it in a request.
    pub(crate) fn named(&self, inode: INodeNo) {
        let mut known = self.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(inode.0);
    }

    /// FORGET.
    pub(crate) fn forgotten(&self, inode: INodeNo) {
        self.lock().remove(&inode.0);
    }

    pub(crate) fn contains(&self, inode: INodeNo) -> bool {
        self.lock().contains(&inode.0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_known_no_more() {
        let known = Known::default();
        known.named(INodeNo(7));
        assert!(known.contains(INodeNo(7)) && !known.contains(INodeNo(8)));
        known.forgotten(INodeNo(7));
        assert!(!known.contains(INodeNo(7)));
    }

    #[test]
    fn the_set_is_bounded() {
        let known = Known::default();
        for number in 0..=KNOWN_MAX as u64 {
            known.named(INodeNo(number));
        }
        assert!(known.lock().len() <= KNOWN_MAX);
        assert!(known.contains(INodeNo(KNOWN_MAX as u64)));
    }
}
