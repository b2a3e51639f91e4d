//! Files' contents under leases: what this mount may read and write without asking, and its write-back.
//!
//! Owns the state of each file in use, open handles, and the calls that wait for a lease. How a job changes content is
//! [`plan`]'s, when things may go on is [`pump`]'s, leases are [`lease`]'s.

mod calls;
mod dirty;
mod file;
mod habit;
mod job;
mod leaders;
mod lease;
mod map;
mod open;
mod pages;
mod plan;
mod pump;
mod read;

use alloc::collections::{BTreeMap, BTreeSet};

use crate::error::FsError;
use crate::place::Ino;
use crate::vfs::{Handle, OpenFlags};

pub(super) use file::ContentCall;
use file::FileState;
pub(super) use lease::term_end;
pub(super) use open::lease_for;
use read::Reading;

/// How a create or open wants its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// Which; a create doesn't know yet.
    pub(super) ino: Option<Ino>,
    pub(super) flags: OpenFlags,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug)]
struct Opened {
    ino: Ino,
    flags: OpenFlags,
    directory: bool,
    /// The stretch of its file's pages when it was opened.
    stretch: u64,
    /// Write-back failed: fsync(2) tells it once.
    error: Option<FsError>,
    /// ... and close(2) of a descriptor that writes. A child that inherited the descriptor may be the one who closes it.
    error_at_close: Option<FsError>,
}

/// All files in use.
#[derive(Debug, Default)]
pub(super) struct Files {
    by_ino: BTreeMap<Ino, FileState>,
    handles: BTreeMap<Handle, Opened>,
    reads: BTreeMap<u64, Reading>,
    leaders: leaders::Leaders,
    /// Files with writers that wait for memory.
    stalled: BTreeSet<Ino>,
    /// Inodes without a name that a leader is being told are not open here: its word holds from when it is given.
    disowned: BTreeSet<Ino>,
    dirty_bytes: usize,
    /// How often anything was written or cut here.
    writes: u64,
    last: u64,
}

impl Files {
    const fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}
