//! What an audit can find wrong.
//!
//! Owns the kinds of damage and how each is said. How they are found is the census' business.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::attr::FileKind;
use crate::place::Ino;
use crate::request::ChunkName;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are named for what they hold")]
pub enum Finding {
    /// A name leads nowhere.
    EntryWithoutInode { dir: Ino, child: Ino },
    /// An entry says another kind than its inode.
    KindDiffers {
        dir: Ino,
        child: Ino,
        entry: FileKind,
        inode: FileKind,
    },
    /// An inode counts other names than it has.
    LinkCount { ino: Ino, names: u64, nlink: u32 },
    /// A directory has not exactly one name.
    DirectoryNames { ino: Ino, names: u64 },
    /// A directory counts other subdirectories than it has.
    SubdirectoryCount { ino: Ino, subdirs: u32, nlink: u32 },
    /// A directory says it is in one that does not name it.
    WrongParent { ino: Ino, parent: Ino },
    /// A directory counts other entries than it has.
    EntryCount {
        dir: Ino,
        entries: u64,
        counted: u64,
    },
    /// A directory has entries and no fragment.
    NoFragment { dir: Ino },
    /// No name, and nobody waits for its end.
    Forgotten { ino: Ino },
    /// Something is kept of an inode that is not there.
    Stray { ino: Ino, what: String },
    /// Two runs of a chunk map hold one chunk.
    RunsOverlap { ino: Ino, number: u64 },
    /// An inode counts other chunks than its map names.
    ChunkCount { ino: Ino, named: u64, counted: u64 },
    /// A record can't be read.
    Undecodable { key: Vec<u8>, what: String },
    /// A chunk that was written is not there.
    ChunkMissing { chunk: ChunkName },
    /// A chunk's checksums do not match.
    ChunkDamaged { chunk: ChunkName },
    /// A chunk is there that no map names and nothing will free.
    ChunkUnclaimed { chunk: ChunkName },
}

impl Finding {
    /// In one word, for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::EntryWithoutInode { .. } => "entry-without-inode",
            Self::KindDiffers { .. } => "kind-differs",
            Self::LinkCount { .. } => "link-count",
            Self::DirectoryNames { .. } => "directory-names",
            Self::SubdirectoryCount { .. } => "subdirectory-count",
            Self::WrongParent { .. } => "wrong-parent",
            Self::EntryCount { .. } => "entry-count",
            Self::NoFragment { .. } => "no-fragment",
            Self::Forgotten { .. } => "forgotten",
            Self::Stray { .. } => "stray",
            Self::RunsOverlap { .. } => "runs-overlap",
            Self::ChunkCount { .. } => "chunk-count",
            Self::Undecodable { .. } => "undecodable",
            Self::ChunkMissing { .. } => "chunk-missing",
            Self::ChunkDamaged { .. } => "chunk-damaged",
            Self::ChunkUnclaimed { .. } => "chunk-unclaimed",
        }
    }

    /// The inodes whose records it was found in: they are read again before it is believed.
    #[must_use]
    pub fn subjects(&self) -> Vec<Ino> {
        match self {
            Self::EntryWithoutInode { dir, child } | Self::KindDiffers { dir, child, .. } => {
                alloc::vec![*dir, *child]
            }
            Self::WrongParent { ino, parent } => alloc::vec![*ino, *parent],
            Self::LinkCount { ino, .. }
            | Self::DirectoryNames { ino, .. }
            | Self::SubdirectoryCount { ino, .. }
            | Self::EntryCount { dir: ino, .. }
            | Self::NoFragment { dir: ino }
            | Self::Forgotten { ino }
            | Self::Stray { ino, .. }
            | Self::RunsOverlap { ino, .. }
            | Self::ChunkCount { ino, .. } => alloc::vec![*ino],
            Self::ChunkMissing { chunk }
            | Self::ChunkDamaged { chunk }
            | Self::ChunkUnclaimed { chunk } => alloc::vec![chunk.ino],
            Self::Undecodable { .. } => Vec::new(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EntryWithoutInode { dir, child } => {
                write!(f, "{child:?} is named in {dir:?} but has no inode")
            }
            Self::KindDiffers {
                dir,
                child,
                entry,
                inode,
            } => write!(
                f,
                "{child:?} is named in {dir:?} as {entry:?} but is {inode:?}"
            ),
            Self::LinkCount { ino, names, nlink } => {
                write!(f, "{ino:?} has {names} names but nlink {nlink}")
            }
            Self::DirectoryNames { ino, names } => {
                write!(f, "directory {ino:?} has {names} names")
            }
            Self::SubdirectoryCount {
                ino,
                subdirs,
                nlink,
            } => write!(
                f,
                "directory {ino:?} has {subdirs} subdirectories but nlink {nlink}"
            ),
            Self::WrongParent { ino, parent } => write!(
                f,
                "directory {ino:?} says it is in {parent:?}, which does not name it"
            ),
            Self::EntryCount {
                dir,
                entries,
                counted,
            } => write!(
                f,
                "directory {dir:?} has {entries} entries but counts {counted}"
            ),
            Self::NoFragment { dir } => write!(f, "directory {dir:?} has entries but no fragment"),
            Self::Forgotten { ino } => {
                write!(f, "{ino:?} has no name and nobody waits for its end")
            }
            Self::Stray { ino, what } => write!(f, "{what} of {ino:?}, which is not there"),
            Self::RunsOverlap { ino, number } => {
                write!(f, "two runs of {ino:?} hold chunk {number}")
            }
            Self::ChunkCount {
                ino,
                named,
                counted,
            } => write!(
                f,
                "the map of {ino:?} names {named} chunks but counts {counted}"
            ),
            Self::Undecodable { key, what } => {
                write!(f, "the record {key:02x?} is damaged: {what}")
            }
            Self::ChunkMissing { chunk } => write!(f, "{chunk:?} was written and is not there"),
            Self::ChunkDamaged { chunk } => {
                write!(f, "{chunk:?} can't be read: its checksums do not match")
            }
            Self::ChunkUnclaimed { chunk } => write!(
                f,
                "{chunk:?} takes space, no map names it and nothing will free it"
            ),
        }
    }
}
