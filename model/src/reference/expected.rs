//! What a local filesystem would reply to a call that succeeds.
//!
//! Owns the comparison with what was replied. Data and not code, so that a failure can be told.

use std::collections::{BTreeMap, BTreeSet};

use polyfs_core::attr::Name;
use polyfs_core::place::Ino;
use polyfs_core::vfs::Reply;

use super::node::Shown;

/// See the module.
#[derive(Debug)]
pub(super) enum Expected {
    Done,
    Attr(Shown),
    Created(Shown),
    /// This inode, whatever it is like by now.
    Linked(Ino),
    Opened,
    Data(Vec<u8>),
    /// Of a file whose writes were lost.
    AnyData,
    Written(usize),
    /// In any order.
    Names(BTreeSet<Name>),
    /// One call may show a part of the directory: all of it when it begins at the start and shows less than it may.
    Entries {
        entries: BTreeMap<Name, Ino>,
        /// How many a listing from the start may show.
        limit: Option<u32>,
    },
    /// Whether nothing is in the way.
    Lock {
        free: bool,
    },
    /// Any.
    Offset,
    /// Any.
    Stats,
}

impl Expected {
    /// Whether a local filesystem may have replied that.
    pub(super) fn admits(&self, reply: &Reply) -> bool {
        match (self, reply) {
            (Self::Done, Reply::Done)
            | (Self::Opened, Reply::Opened(_))
            | (Self::AnyData, Reply::Data(_))
            | (Self::Offset, Reply::Offset(_))
            | (Self::Stats, Reply::Stats(_)) => true,
            // A step of a call, of which nobody is shown the attributes.
            (Self::Attr(_) | Self::Linked(_), Reply::Done) => true,
            (Self::Attr(shown), Reply::Attr(attr))
            | (Self::Created(shown), Reply::Created(attr, _)) => shown.is(attr),
            (Self::Linked(ino), Reply::Attr(attr)) => attr.ino == *ino || ino.0 > i64::MAX as u64,
            (Self::Data(bytes), Reply::Data(data)) => data == bytes,
            (Self::Written(len), Reply::Written(written)) => usize::try_from(*written) == Ok(*len),
            (Self::Names(names), Reply::Names(found)) => {
                found.iter().cloned().collect::<BTreeSet<_>>() == *names
            }
            (Self::Lock { free }, Reply::Lock(held)) => held.is_none() == *free,
            (Self::Entries { entries, limit }, Reply::Entries(found)) => {
                let mut names = found
                    .iter()
                    .filter(|entry| entry.name != b"." && entry.name != b"..");
                let shown = names.clone().count();
                let whole = limit.is_some_and(|limit| found.len() < limit as usize);
                (!whole || shown == entries.len())
                    && names.all(|entry| {
                        let named = entries.get(&entry.name);
                        named.is_some_and(|named| *named == entry.ino || named.0 > i64::MAX as u64)
                    })
            }
            _ => false,
        }
    }
}
