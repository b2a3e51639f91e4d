//! What has been done to a file or to the names since the last sync.

use super::media::FileId;
use super::pages::Pages;

/// A change to a file's bytes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Bytes written at an offset.
    Write(u64, Vec<u8>),
    /// The length before and after.
    Length(u64, u64),
    /// A range given room.
    Allocate(u64, u64),
    /// A range taken away.
    Punch(u64, u64),
}

impl Change {
    /// Does it to a file.
    pub(super) fn apply(&self, pages: &mut Pages) {
        match self {
            Self::Write(offset, bytes) => pages.write(*offset, bytes),
            Self::Length(_, to) => pages.set_len(*to),
            Self::Allocate(offset, bytes) => pages.allocate(*offset, *bytes),
            Self::Punch(offset, bytes) => pages.punch(*offset, *bytes),
        }
    }

    /// The range of bytes it may have changed: offset and length.
    pub(super) fn range(&self) -> (u64, u64) {
        match self {
            Self::Write(offset, bytes) => (*offset, bytes.len() as u64),
            Self::Length(from, to) => (*from.min(to), from.abs_diff(*to)),
            Self::Allocate(offset, bytes) | Self::Punch(offset, bytes) => (*offset, *bytes),
        }
    }
}

/// A change to the names of a directory.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    /// A new file got a name.
    Create(String, FileId),
    /// A file went from one name to another, replacing what was there.
    Rename(String, String, FileId),
    /// A name was taken off a file.
    Remove(String, FileId),
}
