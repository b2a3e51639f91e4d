//! Reads: what was written here and not yet committed over what the regions hold, zeros for holes, cut at the size.
//!
//! Owns reads in flight, and lseek's search for data and holes.

use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::file::{Content, ContentCall, FileState};
use crate::client::Client;
use crate::client::questions::{Owner, Route};
use crate::client::regions::RegionMap;
use crate::error::FsError;
use crate::ids::{Fence, GroupId};
use crate::limits::CHUNK_BYTES;
use crate::place::Ino;
use crate::request::{
    Answer, DataQuery, DataReply, Leadership, LeaseKind, LeaseSerial, Refusal, RequestBody, Space,
};
use crate::vfs::{Reply, SeekWhat};

/// A read whose bytes are on the way.
#[derive(Debug)]
pub(super) struct Reading {
    ino: Ino,
    call: ContentCall,
    serial: LeaseSerial,
    offset: u64,
    len: usize,
    /// What lay in the inode itself.
    inline: Bytes,
    parts: Vec<Part>,
    outstanding: usize,
    /// Written here before the read began.
    over: Vec<(u64, Bytes)>,
    /// Made zeros by a cut that is not carried out yet.
    cut: Option<(u64, u64)>,
    failed: Option<FsError>,
    /// A region said so.
    told: bool,
    lost: bool,
    /// The leaders that answered, and their terms.
    led: Vec<(GroupId, u64)>,
    /// Nothing was being written when it began; nothing begins to be until it is over.
    alone: bool,
}

/// What a region was asked for.
#[derive(Debug)]
struct Part {
    /// Where it goes.
    at: usize,
    len: usize,
    /// What came; zeros follow where it is short.
    bytes: Bytes,
}

impl Reading {
    /// The bytes that were read; those of the only part as they came.
    fn bytes(&self) -> Bytes {
        let plain = self.inline.is_empty() && self.cut.is_none() && self.over.is_empty();
        if let [Part { at: 0, bytes, .. }] = self.parts.as_slice()
            && plain
            && bytes.len() == self.len
        {
            return bytes.clone();
        }
        let mut whole = vec![0; self.len];
        copy_in(&mut whole, self.offset, 0, &self.inline);
        for Part { at, bytes, .. } in &self.parts {
            whole[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        if let Some((from, to)) = self.cut {
            let zeros = vec![0; usize::try_from(to - from).expect("within a chunk")];
            copy_in(&mut whole, self.offset, from, &zeros);
        }
        for (at, piece) in &self.over {
            copy_in(&mut whole, self.offset, *at, piece);
        }
        Bytes::from(whole)
    }
}

fn near(value: u64) -> usize {
    usize::try_from(value).expect("inside a buffer")
}

/// Copies `data`, which lies at `at` of the file, into `bytes`, which lie at `offset`.
fn copy_in(bytes: &mut [u8], offset: u64, at: u64, data: &[u8]) {
    let end = offset + u64::try_from(bytes.len()).expect("a length fits u64");
    let data_end = at + u64::try_from(data.len()).expect("a length fits u64");
    let (low, high) = (at.max(offset), data_end.min(end));
    if low < high {
        bytes[near(low - offset)..near(high - offset)]
            .copy_from_slice(&data[near(low - at)..near(high - at)]);
    }
}

/// The questions that the regions must answer for a range: where each begins, for how many bytes.
fn questions(
    file: &FileState,
    regions: &RegionMap,
    fence: Fence,
    from: u64,
    to: u64,
) -> Vec<(u64, u64, DataQuery)> {
    let content = &file.content;
    let mut parts = Vec::new();
    let mut at = from;
    while at < to {
        let number = at / CHUNK_BYTES;
        let end = to.min((number + 1) * CHUNK_BYTES);
        let known = file.back.dirty.covers(at, end) || file.back.flying.covers(at, end);
        // Inline content is the truth until it is copied: chunk 0 may be named already.
        let inline = number == 0 && !content.inline_bytes().is_empty();
        if let Some((chunk, written)) = content.chunk(number)
            && !known
            && !inline
        {
            let group = regions
                .find(Space::Data, chunk.place())
                .map(|line| line.group);
            let led = group.and_then(|group| {
                let term = *content.led.get(&group)?;
                Some(Leadership { group, term })
            });
            let small = |value: u64| u32::try_from(value).expect("within a chunk");
            parts.push((
                at,
                end - at,
                DataQuery::Read {
                    chunk,
                    fence,
                    offset: small(at % CHUNK_BYTES),
                    len: small(end - at),
                    absent_is_hole: !written,
                    led,
                },
            ));
        }
        at = end;
    }
    parts
}

impl Client {
    /// Starts a read; the lease allows it.
    pub(super) fn start_read(&mut self, ino: Ino, call: ContentCall) {
        let ContentCall::Read { offset, size, .. } = call else {
            unreachable!("the caller starts only reads here");
        };
        let id = self.files.fresh();
        let file = self.files.by_ino.entry(ino).or_default();
        let content = &file.content;
        let end = content.size.min(offset.saturating_add(u64::from(size)));
        let len = usize::try_from(end.saturating_sub(offset)).expect("at most a u32");
        let fence = content.attr.as_ref().map_or(Fence(0), |attr| attr.fence);
        let parts = questions(file, &self.regions, fence, offset, end);
        let reading = Reading {
            ino,
            call,
            serial: file.lease.held.map(|held| held.serial).unwrap_or_default(),
            offset,
            len,
            inline: content.inline_bytes(),
            parts: parts
                .iter()
                .map(|(at, len, _)| Part {
                    at: near(at - offset),
                    len: near(*len),
                    bytes: Bytes::new(),
                })
                .collect(),
            outstanding: parts.len(),
            over: file.overlay(offset, end),
            cut: content.cut_range(),
            failed: None,
            told: false,
            lost: false,
            led: Vec::new(),
            alone: file.job.is_none(),
        };
        file.reads += 1;
        self.files.reads.insert(id, reading);
        if parts.is_empty() {
            return self.read_over(id);
        }
        for (index, (.., query)) in parts.into_iter().enumerate() {
            self.ask(
                Owner::Read(id, index),
                RequestBody::DataQuery(query),
                Bytes::new(),
            );
        }
    }

    /// A region answered for a part of a read.
    pub(in super::super) fn read_answer(
        &mut self,
        id: u64,
        part: usize,
        answer: Answer,
        route: Option<Route>,
    ) {
        let Some(reading) = self.files.reads.get_mut(&id) else {
            return;
        };
        reading.outstanding -= 1;
        match answer {
            Answer::Data(Ok(reply)) => {
                if let (DataReply::Read { term }, Some(route)) = (reply, &route) {
                    reading.led.push((route.group, term));
                }
                let mut payload = route.map(|route| route.payload).unwrap_or_default();
                let part = &mut reading.parts[part];
                payload.truncate(part.len);
                part.bytes = payload;
            }
            Answer::Data(Err(error)) | Answer::Meta(Err(error)) => {
                reading.failed = Some(error);
                reading.told |= route.is_some();
            }
            Answer::Refused(Refusal::Fenced | Refusal::NoLease) => reading.lost = true,
            Answer::Meta(Ok(_)) | Answer::Txn(_) | Answer::Refused(_) | Answer::Viewed(..) => {
                reading.failed = Some(FsError::Io);
            }
        }
        if reading.outstanding == 0 {
            let ino = reading.ino;
            self.read_over(id);
            self.pump(ino);
        }
    }

    fn read_over(&mut self, id: u64) {
        let reading = self.files.reads.remove(&id).expect("the caller has it");
        let now = self.now.mono;
        let file = self.file(reading.ino);
        file.reads -= 1;
        let same = file
            .lease
            .held
            .is_some_and(|held| held.serial == reading.serial);
        if reading.lost && same {
            file.lease.held = None;
        }
        let lost = reading.lost || !same || !file.allows(LeaseKind::Shared, now);
        // A region may miss a chunk that the lease named and that is gone since the lease is.
        if let Some(error) = reading.failed.filter(|_| !(lost && reading.told)) {
            return self.reply(reading.call.id(), Err(error));
        }
        if lost {
            file.queue.push_front(reading.call);
            return;
        }
        if reading.alone {
            file.content.led.extend(reading.led.iter().copied());
        }
        let data = reading.bytes();
        self.reply(reading.call.id(), Ok(Reply::Data(data)));
    }

    /// lseek(2) under the lease.
    pub(super) fn seek(&self, ino: Ino, offset: u64, what: SeekWhat) -> Result<Reply, FsError> {
        let file = &self.files.by_ino[&ino];
        let content = &file.content;
        if offset >= content.size {
            return Err(FsError::NoSuchAddress);
        }
        let at = match what {
            SeekWhat::Data => next_data(content, file, offset),
            SeekWhat::Hole => Some(next_hole(content, file, offset).min(content.size)),
        };
        at.filter(|at| what == SeekWhat::Hole || *at < content.size)
            .map(Reply::Offset)
            .ok_or(FsError::NoSuchAddress)
    }
}

/// The stretch of data that ends after an offset and begins first.
fn stretch(content: &Content, file: &FileState, offset: u64) -> Option<(u64, u64)> {
    let mut best: Option<(u64, u64)> = None;
    let mut take = |from: u64, to: u64| {
        if to > offset && best.is_none_or(|(start, _)| from.max(offset) < start) {
            best = Some((from.max(offset), to));
        }
    };
    take(
        0,
        u64::try_from(content.inline_bytes().len()).expect("a length fits u64"),
    );
    let mut chunk = offset / CHUNK_BYTES;
    while let Some(run) = content.map.from(chunk) {
        if run.written {
            take(
                run.first * CHUNK_BYTES,
                (run.first + run.count) * CHUNK_BYTES,
            );
            break;
        }
        chunk = run.first + run.count;
    }
    for (start, piece) in file.back.flying.pieces().chain(file.back.dirty.pieces()) {
        take(
            start,
            start + u64::try_from(piece.len()).expect("a length fits u64"),
        );
    }
    best
}

fn next_data(content: &Content, file: &FileState, offset: u64) -> Option<u64> {
    stretch(content, file, offset).map(|(from, _)| from)
}

fn next_hole(content: &Content, file: &FileState, offset: u64) -> u64 {
    let mut at = offset;
    while let Some((from, to)) = stretch(content, file, at) {
        if from > at {
            break;
        }
        at = to;
    }
    at
}
