//! Changes of a regular file's content map (P9).
//!
//! Owns the rules: the fence, the cut that comes before growth, inline content and chunks. Each is one entry.

use alloc::vec::Vec;
use bytes::Bytes;

use super::garbage;
use super::inode::{self, Inode};
use super::key::{self, Kind};
use super::kv::{Kv, KvError, KvRead};
use super::runs::{self, Piece};
use super::step::Here;
use super::xattr;
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Fence;
use crate::limits::{CHUNK_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX};
use crate::place::Ino;
use crate::request::{Answer, ContentOp, MetaReply, Refusal, Run};
use crate::time::Timestamp;

/// Chunks that one entry may name, free or mark at most.
const CHUNKS_MAX: u64 = FILE_BYTES_MAX / CHUNK_BYTES;

/// Changes the content of a file under the exclusive lease that `fence` belongs to.
pub(super) fn change(
    state: &mut dyn Kv,
    here: Here,
    ino: Ino,
    fence: Fence,
    change: &ContentOp,
) -> Result<Answer, KvError> {
    let Some(mut inode) = inode::get(state, ino)? else {
        return Ok(Answer::Meta(Err(FsError::NotFound)));
    };
    if inode.kind != FileKind::Regular {
        return Ok(Answer::Meta(Err(FsError::Invalid)));
    }
    if fence < inode.fence && !cfg!(planted = "fence_unchecked") {
        return Ok(Answer::Refused(Refusal::Fenced));
    }
    if grows(&inode, change) && inode.cut.is_some() && !cfg!(planted = "cut_forgotten") {
        // What lies beyond the cut would come back as content: the holder carries the cut out first.
        return Ok(Answer::Refused(Refusal::NoLease));
    }
    if let ContentOp::Times { mtime } = change {
        inode.overwritten(*mtime);
    } else {
        inode.touch(here.time);
    }
    inode.content = inode.change;
    let shown = match carry_out(state, here, ino, &mut inode, change)? {
        Ok(shown) => shown,
        Err(error) => return Ok(Answer::Meta(Err(error))),
    };
    inode::put(state, ino, &inode)?;
    xattr::drop_capability(state, ino)?;
    let attr = inode.attr(ino, None);
    Ok(Answer::Meta(Ok(MetaReply::Content { attr, runs: shown })))
}

fn grows(inode: &Inode, change: &ContentOp) -> bool {
    match change {
        ContentOp::Allocate { size, .. } => size.is_some_and(|size| size > inode.size),
        ContentOp::Commit { size, .. } | ContentOp::Truncate { size } => *size > inode.size,
        ContentOp::WriteInline { .. }
        | ContentOp::ToChunks
        | ContentOp::Times { .. }
        | ContentOp::CutDone { .. }
        | ContentOp::Free { .. } => false,
    }
}

/// The runs to show with the answer.
type Shown = Result<Vec<Run>, FsError>;

fn carry_out(
    state: &mut dyn Kv,
    here: Here,
    ino: Ino,
    inode: &mut Inode,
    change: &ContentOp,
) -> Result<Shown, KvError> {
    match change {
        ContentOp::Allocate { first, count, size } => {
            if first.saturating_add(*count) > CHUNKS_MAX
                || size.is_some_and(|size| size > FILE_BYTES_MAX)
            {
                return Ok(Err(FsError::TooLarge));
            }
            if let Some(size) = size {
                inode.size = inode.size.max(*size);
                wrote(inode, here.time);
            }
            allocate(state, ino, inode, *first, *count).map(Ok)
        }
        ContentOp::Commit {
            written,
            size,
            mtime,
        } => {
            if *size > FILE_BYTES_MAX {
                return Ok(Err(FsError::TooLarge));
            }
            for (first, count) in written {
                mark_written(state, ino, *first, *count)?;
            }
            inode.size = inode.size.max(*size);
            wrote(inode, here.time.max(*mtime));
            Ok(Ok(Vec::new()))
        }
        ContentOp::Times { .. } => Ok(Ok(Vec::new())),
        ContentOp::WriteInline { content, mtime } => {
            if content.len() > INLINE_BYTES_MAX || inode.mapped > 0 {
                return Ok(Err(FsError::Invalid));
            }
            state.put(&key::of_inode(Kind::Inline, ino), content)?;
            inode.size = content.len() as u64;
            wrote(inode, here.time.max(*mtime));
            Ok(Ok(Vec::new()))
        }
        ContentOp::ToChunks => {
            state.delete(&key::of_inode(Kind::Inline, ino))?;
            mark_written(state, ino, 0, 1)?;
            Ok(Ok(Vec::new()))
        }
        ContentOp::Truncate { size } => {
            if *size > FILE_BYTES_MAX {
                return Ok(Err(FsError::TooLarge));
            }
            truncate(state, ino, inode, *size)?;
            wrote(inode, here.time);
            Ok(Ok(Vec::new()))
        }
        ContentOp::CutDone { size } => {
            if inode.cut == Some(*size) {
                inode.cut = None;
            }
            Ok(Ok(Vec::new()))
        }
        ContentOp::Free { first, count } => {
            free(state, ino, inode, *first, first.saturating_add(*count))?;
            wrote(inode, here.time);
            Ok(Ok(Vec::new()))
        }
    }
}

fn wrote(inode: &mut Inode, mtime: Timestamp) {
    inode.mtime = mtime.max(inode.ctime);
    inode.ctime = inode.mtime;
    inode.drop_set_id();
}

/// Names the holes in a range, unwritten; shows all runs of the range.
fn allocate(
    state: &mut dyn Kv,
    ino: Ino,
    inode: &mut Inode,
    first: u64,
    count: u64,
) -> Result<Vec<Run>, KvError> {
    let (from, to) = (first, first.saturating_add(count));
    let version = inode.change;
    let before = runs::rewrite(state, ino, from, to, |piece| match piece {
        Piece::Hole => Some((version, false)),
        Piece::Named(run) => Some((run.version, run.written)),
    })?;
    let named: u64 = before.iter().map(|run| run.count).sum();
    inode.mapped += (to - from) - named;
    let mut shown = runs::list(state, ino, from, to, usize::MAX)?;
    for run in &mut shown {
        let end = (run.first + run.count).min(to);
        run.first = run.first.max(from);
        run.count = end - run.first;
    }
    Ok(shown)
}

fn mark_written(state: &mut dyn Kv, ino: Ino, first: u64, count: u64) -> Result<(), KvError> {
    runs::rewrite(
        state,
        ino,
        first,
        first.saturating_add(count),
        |piece| match piece {
            Piece::Hole => None,
            Piece::Named(run) => Some((run.version, true)),
        },
    )?;
    Ok(())
}

fn free(
    state: &mut dyn Kv,
    ino: Ino,
    inode: &mut Inode,
    from: u64,
    to: u64,
) -> Result<(), KvError> {
    let freed = runs::rewrite(state, ino, from, to, |_| None)?;
    inode.mapped -= freed.iter().map(|run| run.count).sum::<u64>();
    garbage::add(state, ino, &freed)
}

/// A lease is taken from a holder that died or is not heard (P8): the fence rises, and what it may have written and not
/// committed beyond the end never comes back as content. Chunks not yet marked written lose their names from the end
/// on; in a written one the end is noted as a cut.
pub(super) fn take_over(state: &mut dyn Kv, ino: Ino) -> Result<(), KvError> {
    let Some(mut inode) = inode::get(state, ino)? else {
        return Ok(());
    };
    inode.fence.0 += 1;
    let at = inode.size / CHUNK_BYTES;
    let inside = !inode.size.is_multiple_of(CHUNK_BYTES);
    let last = runs::list(state, ino, at, at + 1, 1)?;
    let stays = inside && last.iter().any(|run| run.written);
    if stays {
        inode.cut = Some(inode.cut.map_or(inode.size, |cut| cut.min(inode.size)));
    }
    let from = if stays { at + 1 } else { at };
    free(state, ino, &mut inode, from, u64::MAX)?;
    inode::put(state, ino, &inode)
}

fn truncate(state: &mut dyn Kv, ino: Ino, inode: &mut Inode, size: u64) -> Result<(), KvError> {
    let whole = size.div_ceil(CHUNK_BYTES);
    free(state, ino, inode, whole, u64::MAX)?;
    if size < inode.size {
        let inside = !size.is_multiple_of(CHUNK_BYTES);
        let last = runs::list(state, ino, size / CHUNK_BYTES, size / CHUNK_BYTES + 1, 1)?;
        inode.cut = (inside && !last.is_empty()).then_some(size);
    }
    let key = key::of_inode(Kind::Inline, ino);
    if let Some(mut content) = state.get(&key)? {
        let keep = usize::try_from(size).unwrap_or(usize::MAX);
        if keep < content.len() {
            content.truncate(keep);
            state.put(&key, &content)?;
        }
    }
    inode.size = size;
    Ok(())
}

/// A file's inline content: as long as was written, what is missing up to the size is zeros. A file has it until it is
/// copied to chunks, even if some are named already; a file without any content has an empty one.
pub(super) fn inline(
    state: &dyn KvRead,
    ino: Ino,
    inode: &Inode,
) -> Result<Option<Bytes>, KvError> {
    if inode.kind != FileKind::Regular {
        return Ok(None);
    }
    let content = state.get(&key::of_inode(Kind::Inline, ino))?;
    let empty = (inode.mapped == 0).then(Bytes::new);
    Ok(content.map(Bytes::from).or(empty))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::attr::NewInode;
    use crate::ids::VolumeId;
    use crate::place::{Places, Salt};
    use crate::region::mem::MemKv;

    const FILE: Ino = Ino(7);

    /// A file of `size` bytes whose map has a chunk `written` below the end and `ahead` unwritten ones after it.
    fn file(size: u64, written: u64, ahead: u64) -> MemKv {
        let mut state = MemKv::default();
        let new = NewInode {
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Bytes::new(),
        };
        let mut inode = Inode::new(&new, Salt(0), Ino(1), VolumeId(1), Timestamp::default());
        inode.size = size;
        inode.change = 9;
        allocate(&mut state, FILE, &mut inode, 0, written + ahead).expect("memory");
        mark_written(&mut state, FILE, 0, written).expect("memory");
        inode::put(&mut state, FILE, &inode).expect("memory");
        state
    }

    fn after(mut state: MemKv) -> (Inode, Vec<(u64, u64, bool)>) {
        take_over(&mut state, FILE).expect("memory");
        let inode = inode::get(&state, FILE).expect("memory").expect("it is");
        let runs = runs::list(&state, FILE, 0, u64::MAX, usize::MAX).expect("memory");
        let runs = runs.iter().map(|run| (run.first, run.count, run.written));
        (inode, runs.collect())
    }

    #[test]
    fn a_takeover_leaves_nothing_of_the_dead_holder_beyond_the_end() {
        let (inode, runs) = after(file(CHUNK_BYTES + 5, 2, 3));
        assert_eq!(inode.fence, Fence(1));
        assert_eq!(
            inode.cut,
            Some(CHUNK_BYTES + 5),
            "the written chunk of the end is cut"
        );
        assert_eq!(runs, vec![(0, 2, true)], "what lies ahead loses its names");
        assert_eq!(inode.mapped, 2);

        let (inode, runs) = after(file(5, 0, 2));
        assert_eq!(inode.cut, None);
        assert_eq!(runs, vec![], "inline content: no chunk was committed");

        let (inode, runs) = after(file(CHUNK_BYTES, 1, 1));
        assert_eq!(inode.cut, None, "the end is the end of a chunk");
        assert_eq!(runs, vec![(0, 1, true)]);
    }

    /// A mount may not have heard of a chmod elsewhere when it left a time behind.
    #[test]
    fn a_time_told_later_is_that_time_and_still_a_write() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        let mut state = file(CHUNK_BYTES, 1, 0);
        let mut inode = inode::get(&state, FILE).expect("memory").expect("it is");
        inode.mode = 0o6755;
        inode::put(&mut state, FILE, &inode).expect("memory");
        let mut tell = |mtime| {
            let here = Here {
                places: Places::ALL,
                time: at(100),
            };
            let op = ContentOp::Times { mtime };
            let told = change(&mut state, here, FILE, Fence(0), &op).expect("memory");
            let Answer::Meta(Ok(MetaReply::Content { attr, .. })) = told else {
                panic!("{told:?}");
            };
            attr
        };
        let attr = tell(at(7));
        assert_eq!((attr.mtime, attr.ctime), (at(7), at(7)), "not the entry's");
        assert_eq!(attr.mode, 0o755, "a write clears set-id bits");
        assert!(attr.change > inode.change);
        assert_eq!(tell(at(6)).mtime, at(7), "times don't run backwards");
    }

    /// utimensat(2) may set a time ahead of everything; it ends with the next overwrite, not with one before it.
    #[test]
    fn a_time_set_ahead_ends_with_what_is_written_after_it() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        for (written, shown) in [(9, at(1 << 40)), (11, at(11))] {
            let mut state = file(CHUNK_BYTES, 1, 0);
            let mut inode = inode::get(&state, FILE).expect("memory").expect("it is");
            (inode.mtime, inode.ctime) = (at(1 << 40), at(10));
            inode::put(&mut state, FILE, &inode).expect("memory");
            let here = Here {
                places: Places::ALL,
                time: at(100),
            };
            let op = ContentOp::Times { mtime: at(written) };
            let told = change(&mut state, here, FILE, Fence(0), &op).expect("memory");
            let Answer::Meta(Ok(MetaReply::Content { attr, .. })) = told else {
                panic!("{told:?}");
            };
            assert_eq!(attr.mtime, shown);
        }
    }
}
