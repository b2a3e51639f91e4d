//! What a change of content takes, step by step: allocate, then data, then size (P9).
//!
//! Owns the order of the steps. Pure: from a file's state to a list.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::file::{Content, FileState};
use super::map::chunks_of;
use crate::limits::{CHUNK_BYTES, INLINE_BYTES_MAX};
use crate::request::ContentOp;
use crate::vfs::AllocateMode;

/// Chunks named ahead of a file that grows in sequence.
const AHEAD: u64 = 16;
/// Mode bits that a write clears.
const PRIVILEGES: u16 = 0o6000;
/// The largest piece of data in one request.
const PIECE_BYTES_MAX: u64 = CHUNK_BYTES;

/// What is done to a part of one chunk.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) chunk: u64,
    pub(super) offset: u32,
    pub(super) what: PieceWhat,
}

/// See [`Piece`].
#[derive(Clone, Debug)]
pub(super) enum PieceWhat {
    Write(Bytes),
    Zero(u32),
}

/// One step of a job; the next begins when all of it is answered.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Content(ContentOp),
    Data(VecDeque<Piece>),
    /// Bytes over bytes that are there, and beside them an entry that says nothing but when (P9).
    Overwrite(VecDeque<Piece>, ContentOp),
}

/// Whether nothing of a write-back tells a region of files of its time.
pub(super) fn leaves_time(plan: &Plan) -> bool {
    plan.iter().all(|step| matches!(step, Step::Data(_)))
}

/// A list of steps.
pub(super) type Plan = VecDeque<Step>;

fn in_chunk(offset: u64) -> u32 {
    u32::try_from(offset % CHUNK_BYTES).expect("a chunk's offsets fit u32")
}

fn inline_max() -> u64 {
    u64::try_from(INLINE_BYTES_MAX).expect("a small number")
}

fn is_inline(content: &Content, size: u64) -> bool {
    content.map.is_empty() && size <= inline_max()
}

/// The whole content of a small file, with what was written over it.
fn whole(content: &Content, size: u64, over: &[(u64, Bytes)]) -> Bytes {
    let len = usize::try_from(size).expect("an inline file is small");
    let mut bytes = content.inline_bytes().to_vec();
    bytes.resize(len, 0);
    for (start, piece) in over {
        let at = usize::try_from(*start).expect("inside an inline file");
        bytes[at..at + piece.len()].copy_from_slice(piece);
    }
    Bytes::from(bytes)
}

/// Inline content goes to chunk 0 before anything else becomes a chunk.
fn to_chunks(content: &Content, plan: &mut Plan) {
    let inline = content.inline_bytes();
    if inline.is_empty() {
        return;
    }
    if content.map.find(0).is_none() {
        plan.push_back(Step::Content(ContentOp::Allocate {
            first: 0,
            count: 1,
            size: None,
        }));
    }
    let piece = Piece {
        chunk: 0,
        offset: 0,
        what: PieceWhat::Write(inline),
    };
    plan.push_back(Step::Data(VecDeque::from([piece])));
    plan.push_back(Step::Content(ContentOp::ToChunks));
}

/// A noted cut is carried out before the file grows.
fn carry_out_cut(content: &Content, plan: &mut Plan) {
    let Some(cut) = content.cut else {
        return;
    };
    if cfg!(planted = "cut_forgotten") {
        return;
    }
    if let Some((from, to)) = content.cut_range()
        && content.map.find(from / CHUNK_BYTES).is_some()
    {
        plan.push_back(Step::Data(VecDeque::from([zero_piece(from, to)])));
    }
    plan.push_back(Step::Content(ContentOp::CutDone { size: cut }));
}

fn zero_piece(from: u64, to: u64) -> Piece {
    Piece {
        chunk: from / CHUNK_BYTES,
        offset: in_chunk(from),
        what: PieceWhat::Zero(u32::try_from(to - from).expect("within a chunk")),
    }
}

/// Cuts and joins pieces so that each lies in one chunk and neighbours go together.
fn cut_up(over: &[(u64, Bytes)]) -> VecDeque<Piece> {
    let mut pieces = VecDeque::new();
    let mut joined: Vec<u8> = Vec::new();
    let mut start = 0_u64;
    let mut flush = |start: u64, joined: &mut Vec<u8>| {
        if !joined.is_empty() {
            pieces.push_back(Piece {
                chunk: start / CHUNK_BYTES,
                offset: in_chunk(start),
                what: PieceWhat::Write(Bytes::from(core::mem::take(joined))),
            });
        }
    };
    for (offset, piece) in over {
        let (mut offset, mut rest) = (*offset, piece.clone());
        while !rest.is_empty() {
            let end = start + u64::try_from(joined.len()).expect("a length fits u64");
            if offset != end || end.is_multiple_of(CHUNK_BYTES) {
                flush(start, &mut joined);
                start = offset;
            }
            let room = PIECE_BYTES_MAX - offset % CHUNK_BYTES;
            let taken = rest
                .len()
                .min(usize::try_from(room).expect("within a chunk"));
            let head = rest.split_to(taken);
            offset += u64::try_from(taken).expect("a length fits u64");
            joined.extend_from_slice(&head);
        }
    }
    flush(start, &mut joined);
    pieces
}

/// Which chunks pieces touch, as (first, count).
fn chunks_touched(pieces: &VecDeque<Piece>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some((first, count)) if piece.chunk < *first + *count => {}
            Some((first, count)) if piece.chunk == *first + *count => *count += 1,
            _ => runs.push((piece.chunk, 1)),
        }
    }
    runs
}

/// Whether a region of files need hear no more of these chunks than their times.
fn only_overwrites(content: &Content, written: &[(u64, u64)]) -> bool {
    let known = |chunk| content.map.find(chunk).is_some_and(|run| run.written);
    let mut chunks = written
        .iter()
        .flat_map(|(first, count)| *first..first + count);
    let attr = content.attr.as_ref();
    !written.is_empty()
        && chunks.all(known)
        && attr.is_some_and(|attr| attr.size == content.size && attr.mode & PRIVILEGES == 0)
}

/// Writes back `file.back.flying`, which is everything dirty.
pub(super) fn write_back(file: &FileState) -> Plan {
    let content = &file.content;
    let over: Vec<(u64, Bytes)> = file
        .back
        .flying
        .pieces()
        .map(|(start, piece)| (start, piece.clone()))
        .collect();
    let mut plan = Plan::new();
    if is_inline(content, content.size) {
        plan.push_back(Step::Content(ContentOp::WriteInline {
            content: whole(content, content.size, &over),
            mtime: content.mtime,
        }));
        return plan;
    }
    if over.is_empty() {
        let mtime = content.mtime;
        return Plan::from([Step::Content(ContentOp::Times { mtime })]);
    }
    to_chunks(content, &mut plan);
    carry_out_cut(content, &mut plan);
    let pieces = cut_up(&over);
    let written = chunks_touched(&pieces);
    allocate(content, &written, &mut plan);
    // What stays behind is the time alone: an entry saved for each of many overwrites that are synced one by one.
    let behind = file.times_within(file.back.times_behind());
    let overwrites = plan.is_empty() && only_overwrites(content, &written);
    if behind && overwrites {
        plan.push_back(Step::Data(pieces));
        return plan;
    }
    let commit = ContentOp::Commit {
        written,
        size: content.size,
        mtime: content.mtime,
    };
    if overwrites {
        plan.push_back(Step::Overwrite(pieces, commit));
        return plan;
    }
    let commit = Step::Content(commit);
    if cfg!(planted = "commit_before_data") {
        plan.extend([commit, Step::Data(pieces)]);
    } else {
        plan.extend([Step::Data(pieces), commit]);
    }
    plan
}

fn allocate(content: &Content, written: &[(u64, u64)], plan: &mut Plan) {
    let end_of_map = content.map.end();
    // Chunk 0 is named by `to_chunks` when there is inline content.
    let copied = u64::from(!content.inline_bytes().is_empty());
    for (first, count) in written {
        for (hole, len) in content.map.holes((*first).max(copied), first + count) {
            let grows = hole == end_of_map && end_of_map >= AHEAD;
            let count = if grows { len + AHEAD } else { len };
            plan.push_back(Step::Content(ContentOp::Allocate {
                first: hole,
                count,
                size: None,
            }));
        }
    }
}

/// A new size of a file with nothing dirty.
pub(super) fn set_size(content: &Content, size: u64) -> Plan {
    let mut plan = Plan::new();
    if size > content.size {
        if size > inline_max() {
            to_chunks(content, &mut plan);
        }
        carry_out_cut(content, &mut plan);
    }
    plan.push_back(Step::Content(ContentOp::Truncate { size }));
    plan
}

fn touch(content: &Content, plan: &mut Plan) {
    plan.push_back(Step::Content(ContentOp::Commit {
        written: Vec::new(),
        size: content.size,
        mtime: content.mtime,
    }));
}

/// Zeros the parts of `from..to` that are not whole chunks; gives the whole ones back, as first and end.
fn zero_parts(content: &Content, from: u64, to: u64, plan: &mut Plan) -> (u64, u64) {
    let first_whole = from.div_ceil(CHUNK_BYTES);
    let end_whole = to / CHUNK_BYTES;
    let ranges = if first_whole > end_whole {
        vec![(from, to)]
    } else {
        vec![
            (from, first_whole * CHUNK_BYTES),
            (end_whole * CHUNK_BYTES, to),
        ]
    };
    let pieces: VecDeque<Piece> = ranges
        .into_iter()
        .filter(|(from, to)| from < to && content.map.find(from / CHUNK_BYTES).is_some())
        .map(|(from, to)| zero_piece(from, to))
        .collect();
    if !pieces.is_empty() {
        plan.push_back(Step::Data(pieces));
    }
    (first_whole, end_whole.max(first_whole))
}

fn free(content: &Content, first: u64, end: u64, plan: &mut Plan) {
    let mut at = first;
    while let Some(run) = content.map.from(at).filter(|run| run.first < end) {
        let low = run.first.max(first);
        let high = (run.first + run.count).min(end);
        plan.push_back(Step::Content(ContentOp::Free {
            first: low,
            count: high - low,
        }));
        at = high;
        if at >= end {
            break;
        }
    }
}

/// fallocate(2) of a file with nothing dirty.
pub(super) fn fallocate(content: &Content, offset: u64, len: u64, mode: AllocateMode) -> Plan {
    let end = offset + len;
    let grown = match mode {
        AllocateMode::Extend | AllocateMode::Zero => content.size.max(end),
        AllocateMode::KeepSize | AllocateMode::Punch | AllocateMode::ZeroKeepSize => content.size,
    };
    let zeroes = matches!(
        mode,
        AllocateMode::Punch | AllocateMode::Zero | AllocateMode::ZeroKeepSize
    );
    let mut plan = Plan::new();
    if content.map.is_empty() && content.size.max(end).max(grown) <= inline_max() {
        let zeros = Bytes::from(vec![
            0;
            usize::try_from(end.min(grown).saturating_sub(offset))
                .expect("within an inline file")
        ]);
        let over = if zeroes && offset < grown {
            vec![(offset, zeros)]
        } else {
            vec![]
        };
        plan.push_back(Step::Content(ContentOp::WriteInline {
            content: whole(content, grown, &over),
            mtime: content.mtime,
        }));
        return plan;
    }
    to_chunks(content, &mut plan);
    carry_out_cut(content, &mut plan);
    let mut now = content.clone();
    if !content.inline_bytes().is_empty() {
        now.map.set(crate::request::Run {
            first: 0,
            count: 1,
            version: 0,
            written: true,
        });
    }
    let grows = (grown > content.size).then_some(grown);
    if zeroes {
        let (first, end_whole) = zero_parts(&now, offset, end, &mut plan);
        free(&now, first, end_whole, &mut plan);
        now.map.remove(first, end_whole);
    }
    if mode == AllocateMode::Punch {
        touch(content, &mut plan);
        return plan;
    }
    let holes = now.map.holes(offset / CHUNK_BYTES, chunks_of(end));
    for (first, count) in holes {
        plan.push_back(Step::Content(ContentOp::Allocate {
            first,
            count,
            size: None,
        }));
    }
    plan.push_back(Step::Content(match grows {
        Some(size) => ContentOp::Allocate {
            first: offset / CHUNK_BYTES,
            count: chunks_of(end) - offset / CHUNK_BYTES,
            size: Some(size),
        },
        None => ContentOp::Commit {
            written: Vec::new(),
            size: content.size,
            mtime: content.mtime,
        },
    }));
    plan
}
