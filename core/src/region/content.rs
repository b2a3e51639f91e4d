//! A regular file's content as its inode knows it: size, inline bytes, chunk map, cuts (P9).

use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::inode::{self, Inode};
use super::key::{self, Kind};
use super::kv::{Kv, KvError};
use super::{clock, runs};
use crate::attr::{FileKind, MODE_GROUP_EXEC, MODE_SGID, MODE_SUID};
use crate::error::FsError;
use crate::ids::Fence;
use crate::limits::{CHUNK_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX};
use crate::place::Ino;
use crate::request::{Answer, ContentOp, MetaReply, Refusal, Run};
use crate::time::Timestamp;

/// How far ahead of the entry a writer's own time may be.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// A file under change; nothing is stored before all of it is known to be right.
struct Change {
    inode: Inode,
    map: Vec<Run>,
    gone: Vec<Run>,
    inline: Option<Vec<u8>>,
    mtime: Option<Timestamp>,
    data: bool,
}

/// Carries out one change under `fence`.
pub(super) fn apply(
    state: &mut dyn Kv,
    time: Timestamp,
    ino: Ino,
    fence: Fence,
    op: &ContentOp,
) -> Result<Answer, KvError> {
    let Some(mut inode) = inode::read(state, ino)? else {
        return Ok(Answer::Meta(Err(FsError::Stale)));
    };
    if inode.attr.kind != FileKind::Regular {
        return Ok(Answer::Meta(Err(FsError::Invalid)));
    }
    if fence < inode.attr.fence && !cfg!(planted = "fence_unchecked") {
        return Ok(Answer::Refused(Refusal::Fenced));
    }
    inode.attr.change += 1;
    let old = runs::load(state, ino)?;
    let inline_key = key::of_inode(Kind::Inline, ino);
    let mut change = Change {
        inode,
        map: old.clone(),
        gone: Vec::new(),
        inline: state.get(&inline_key)?,
        mtime: None,
        data: true,
    };
    if let Err(against) = change.carry_out(op) {
        return Ok(match against {
            Against::Error(error) => Answer::Meta(Err(error)),
            Against::Changed => Answer::Refused(Refusal::Changed),
        });
    }
    let Change {
        mut inode,
        map,
        gone,
        inline,
        mtime,
        data,
    } = change;
    let ahead = mtime.map_or(time, |mtime| time.max(mtime.min(time + AHEAD_MAX)));
    let stamp = clock::stamp(state, ahead)?;
    let map = runs::coalesce(map);
    runs::store(state, ino, &old, &map)?;
    runs::discard(state, ino, &gone)?;
    match &inline {
        Some(bytes) => state.put(&inline_key, bytes)?,
        None => state.delete(&inline_key)?,
    }
    let attr = &mut inode.attr;
    attr.ctime = stamp;
    if data {
        attr.mtime = stamp;
        attr.mode &= !MODE_SUID;
        if attr.mode & MODE_GROUP_EXEC != 0 {
            attr.mode &= !MODE_SGID;
        }
    }
    let inline_bytes = inline.map_or(0, |bytes| (bytes.len() as u64).next_multiple_of(512));
    attr.allocated = inode::allocated(&map, attr.size) + inline_bytes;
    let attr = attr.clone();
    inode::write(state, &inode)?;
    let changed = map.into_iter().filter(|run| !old.contains(run)).collect();
    Ok(Answer::Meta(Ok(MetaReply::Content {
        attr,
        runs: changed,
    })))
}

/// Why a change is not carried out.
enum Against {
    Error(FsError),
    Changed,
}

/// The end of a span of chunks, when it lies in the largest file.
fn end_of(first: u64, count: u64) -> Result<u64, Against> {
    first
        .checked_add(count)
        .filter(|end| *end <= FILE_BYTES_MAX / CHUNK_BYTES)
        .ok_or(Against::Error(FsError::TooLarge))
}

impl Change {
    fn carry_out(&mut self, op: &ContentOp) -> Result<(), Against> {
        match op {
            ContentOp::Allocate { first, count, size } => {
                self.data = size.is_some();
                self.allocate(*first, *count)?;
                self.grow(size.unwrap_or(0))
            }
            ContentOp::Commit {
                written,
                size,
                mtime,
            } => {
                for (first, count) in written {
                    self.mark_written(*first, *count)?;
                }
                self.mtime = Some(*mtime);
                self.grow(*size)
            }
            ContentOp::WriteInline { content, mtime } => self.write_inline(content, *mtime),
            ContentOp::ToChunks => {
                self.data = false;
                self.mark_written(0, 1)?;
                self.inline = None;
                Ok(())
            }
            ContentOp::Truncate { size } => self.truncate(*size),
            ContentOp::CutDone { size } => {
                self.data = false;
                if self.inode.cut == Some(*size) {
                    self.inode.cut = None;
                }
                Ok(())
            }
            ContentOp::Free { first, count } => {
                let end = end_of(*first, *count)?;
                self.free(*first, end);
                Ok(())
            }
        }
    }

    fn allocate(&mut self, first: u64, count: u64) -> Result<(), Against> {
        let end = end_of(first, count)?;
        let version = self.inode.attr.change;
        for (first, count) in runs::holes(&self.map, first, end) {
            self.map.push(Run {
                first,
                count,
                version,
                written: false,
            });
        }
        self.map.sort_by_key(|run| run.first);
        Ok(())
    }

    /// Marks names written; one that is not there was freed meanwhile, and its data with it.
    fn mark_written(&mut self, first: u64, count: u64) -> Result<(), Against> {
        let end = end_of(first, count)?;
        if !runs::holes(&self.map, first, end).is_empty() {
            return Err(Against::Changed);
        }
        let (mut inside, mut rest) = runs::cut_out(&self.map, first, end);
        for run in &mut inside {
            run.written = true;
        }
        rest.append(&mut inside);
        rest.sort_by_key(|run| run.first);
        self.map = rest;
        Ok(())
    }

    fn free(&mut self, first: u64, end: u64) {
        let (mut inside, rest) = runs::cut_out(&self.map, first, end);
        self.gone.append(&mut inside);
        self.map = rest;
        if self
            .inode
            .cut
            .is_some_and(|cut| (first..end).contains(&(cut / CHUNK_BYTES)))
        {
            self.inode.cut = None;
        }
    }

    /// Raises the size. A noted cut must have been carried out before: else old bytes would come back.
    fn grow(&mut self, size: u64) -> Result<(), Against> {
        if size > FILE_BYTES_MAX {
            return Err(Against::Error(FsError::TooLarge));
        }
        if size > self.inode.attr.size {
            if self.inode.cut.is_some() {
                return Err(Against::Changed);
            }
            self.inode.attr.size = size;
        }
        Ok(())
    }

    fn write_inline(&mut self, content: &Bytes, mtime: Timestamp) -> Result<(), Against> {
        if content.len() > INLINE_BYTES_MAX || !self.map.is_empty() {
            return Err(Against::Error(FsError::Invalid));
        }
        self.inode.attr.size = content.len() as u64;
        self.inline = Some(content.to_vec());
        self.mtime = Some(mtime);
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> Result<(), Against> {
        if size >= self.inode.attr.size {
            return self.grow(size);
        }
        self.free(size.div_ceil(CHUNK_BYTES), FILE_BYTES_MAX / CHUNK_BYTES);
        let last = size / CHUNK_BYTES;
        let named =
            !size.is_multiple_of(CHUNK_BYTES) && runs::holes(&self.map, last, last + 1).is_empty();
        self.inode.cut = (named && !cfg!(planted = "cut_forgotten")).then_some(size);
        if let Some(bytes) = &mut self.inline {
            bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        }
        self.inode.attr.size = size;
        Ok(())
    }
}
