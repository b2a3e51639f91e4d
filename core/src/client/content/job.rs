//! Carries out a plan on one file: at most one job per file at a time.
//!
//! Owns the steps under way and what their answers teach about the content. Why a job was started is in its
//! [`Finish`].

use alloc::collections::VecDeque;
use bytes::Bytes;

use super::file::{Content, ContentCall, FileState, write_back_due};
use super::map::chunks_of;
use super::plan::{Piece, PieceWhat, Plan, Step};
use crate::attr::{Attr, SetAttr};
use crate::client::Client;
use crate::client::ops::{Single, Then};
use crate::client::port::Output;
use crate::client::questions::Owner;
use crate::client::timers::Wake;
use crate::error::FsError;
use crate::ids::Fence;
use crate::limits::{CHUNK_BYTES, INLINE_BYTES_MAX};
use crate::place::Ino;
use crate::request::{Answer, ContentOp, DataOp, MetaOp, MetaReply, Refusal, RequestBody, Run};
use crate::time::Timestamp;
use crate::vfs::Reply;

/// Data requests of one job in flight.
const PIECES_IN_FLIGHT: u32 = 16;

/// What a job is for.
#[derive(Clone, Debug)]
pub(super) enum Finish {
    /// Write-back of the first so many writes.
    WriteBack(u64),
    /// A call that changes content.
    Call(ContentCall),
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Job {
    plan: Plan,
    pieces: VecDeque<Piece>,
    op: Option<ContentOp>,
    outstanding: u32,
    pub(super) finish: Finish,
    /// Something of it was carried out.
    begun: bool,
    failed: Option<Failed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// The lease is gone: acquire it again.
    Lost,
    Error(FsError),
}

impl Content {
    /// Takes what a content operation did.
    fn applied(&mut self, op: &ContentOp, mut attr: Attr, runs: &[Run]) {
        match op {
            ContentOp::Allocate { size, .. } => {
                self.size = self.size.max(size.unwrap_or(0));
            }
            ContentOp::Commit { written, .. } => {
                for (first, count) in written {
                    self.map.mark_written(*first, first + count);
                }
            }
            ContentOp::WriteInline { content, .. } => {
                self.inline = Some(content.clone());
                self.size = self
                    .size
                    .max(u64::try_from(content.len()).expect("a length fits u64"));
            }
            ContentOp::ToChunks => {
                self.inline = None;
                self.map.mark_written(0, 1);
            }
            ContentOp::Truncate { size } => self.truncated(*size),
            ContentOp::CutDone { .. } => self.cut = None,
            ContentOp::Times { .. } => {}
            ContentOp::Free { first, count } => self.map.remove(*first, first + count),
        }
        for run in runs {
            self.map.set(*run);
        }
        // What was written here is later than a time that was set ahead, and is told with a later step.
        let untold = self
            .attr
            .as_ref()
            .is_some_and(|told| told.mtime < self.mtime);
        if untold && attr.mtime > attr.ctime {
            attr.mtime = attr.ctime;
        }
        self.forget_set_time();
        self.mtime = self.mtime.max(attr.mtime);
        self.number = attr.change;
        self.attr = Some(attr);
    }

    /// Content changes now: after every earlier change (P9).
    pub(super) fn touched(&mut self, wall: Timestamp) {
        self.forget_set_time();
        self.mtime = wall.max(self.mtime.next());
    }

    /// A time ahead of all changes was set by somebody (utimensat(2)), and ends with the next change: what comes after it is
    /// not later than that.
    fn forget_set_time(&mut self) {
        if let Some(attr) = &mut self.attr
            && attr.mtime > attr.ctime
            && !cfg!(planted = "set_time_outlives_change")
        {
            attr.mtime = attr.ctime;
            self.mtime = self.mtime.min(attr.ctime);
        }
    }

    fn truncated(&mut self, size: u64) {
        self.map.remove(chunks_of(size), u64::MAX);
        if size < self.size {
            let inside = !size.is_multiple_of(CHUNK_BYTES) && !self.map.is_empty();
            self.cut = inside.then_some(size);
        }
        if let Some(inline) = &mut self.inline
            && let Ok(len) = usize::try_from(size)
        {
            inline.truncate(len);
        }
        if size > u64::try_from(INLINE_BYTES_MAX).expect("a small number") {
            self.inline = None;
        }
        self.size = size;
    }
}

fn data_op(content: &Content, fence: Fence, piece: Piece) -> Option<(DataOp, Bytes)> {
    let (chunk, _) = content.chunk(piece.chunk)?;
    let offset = piece.offset;
    Some(match piece.what {
        PieceWhat::Write(bytes) => (
            DataOp::Write {
                chunk,
                fence,
                offset,
            },
            bytes,
        ),
        PieceWhat::Zero(len) => (
            DataOp::Zero {
                chunk,
                fence,
                offset,
                len,
            },
            Bytes::new(),
        ),
    })
}

impl Client {
    /// Starts a job; the caller has seen that none is under way.
    pub(super) fn start_job(&mut self, ino: Ino, plan: Plan, finish: Finish) {
        let file = self.file(ino);
        assert!(file.job.is_none(), "a file has one job at a time");
        // What it writes may reach a successor of whoever has answered so far.
        if !cfg!(planted = "led_over_writes") {
            file.content.led.clear();
        }
        file.job = Some(Job {
            plan,
            pieces: VecDeque::new(),
            op: None,
            outstanding: 0,
            finish,
            begun: false,
            failed: None,
        });
        self.drive_job(ino);
    }

    fn drive_job(&mut self, ino: Ino) {
        loop {
            let Some(file) = self.files.by_ino.get_mut(&ino) else {
                return;
            };
            let FileState { job, content, .. } = file;
            let Some(running) = job.as_mut() else {
                return;
            };
            let fence = content.attr.as_ref().map_or(Fence(0), |attr| attr.fence);
            if running.outstanding < PIECES_IN_FLIGHT
                && let Some(piece) = running.pieces.pop_front()
            {
                match data_op(content, fence, piece) {
                    None => running.fail(Failed::Error(FsError::Io)),
                    Some((op, payload)) => {
                        running.outstanding += 1;
                        self.ask(Owner::Job(ino), RequestBody::DataOp(op), payload);
                    }
                }
                continue;
            }
            if running.outstanding > 0 {
                return;
            }
            match running.plan.pop_front() {
                None => return self.job_over(ino),
                Some(Step::Data(pieces)) => running.pieces = pieces,
                Some(Step::Overwrite(pieces, change)) => {
                    running.pieces = pieces;
                    self.ask_change(ino, fence, change);
                }
                Some(Step::Content(change)) => return self.ask_change(ino, fence, change),
            }
        }
    }

    /// Asks for one change of the content on behalf of the job.
    fn ask_change(&mut self, ino: Ino, fence: Fence, change: ContentOp) {
        if let Some(running) = &mut self.file(ino).job {
            running.op = Some(change.clone());
            running.outstanding += 1;
        }
        let op = MetaOp::Content { ino, fence, change };
        self.ask(Owner::Job(ino), RequestBody::MetaOp(op), Bytes::new());
    }

    /// A region answered one of a job's questions.
    pub(in super::super) fn job_answer(&mut self, ino: Ino, answer: Answer) {
        let Some(file) = self.files.by_ino.get_mut(&ino) else {
            return;
        };
        let FileState { job, content, .. } = file;
        let Some(running) = job.as_mut() else {
            return;
        };
        running.outstanding -= 1;
        running.begun |= matches!(answer, Answer::Meta(Ok(_)) | Answer::Data(Ok(_)));
        match answer {
            Answer::Meta(Ok(MetaReply::Content { attr, runs })) => {
                if let Some(op) = running.op.take() {
                    content.applied(&op, attr, &runs);
                    self.files.writes += 1;
                }
            }
            Answer::Data(Ok(_)) => {}
            Answer::Meta(Ok(_)) | Answer::Txn(_) => running.fail(Failed::Error(FsError::Io)),
            Answer::Meta(Err(error)) | Answer::Data(Err(error)) => {
                running.fail(Failed::Error(error));
            }
            Answer::Refused(Refusal::Fenced | Refusal::NoLease) => running.fail(Failed::Lost),
            Answer::Refused(_) | Answer::Viewed(..) => {
                running.fail(Failed::Error(FsError::Io));
            }
        }
        self.drive_job(ino);
    }

    fn job_over(&mut self, ino: Ino) {
        let job = self.file(ino).job.take().expect("the caller drives it");
        match job.failed {
            None => self.job_done(ino, job.finish),
            Some(Failed::Lost) => self.job_lost(ino, job.finish, job.begun),
            Some(Failed::Error(error)) => self.job_failed(ino, job.finish, error),
        }
        self.pump(ino);
    }

    fn job_done(&mut self, ino: Ino, finish: Finish) {
        self.file(ino).half_done = None;
        match finish {
            Finish::WriteBack(upto) => self.written_back(ino, upto, None),
            Finish::Call(ContentCall::SetSize { id, set, reply, .. }) => {
                let attr = self.file(ino).content.attr.clone();
                match (reply, attr) {
                    (Some(reply), _) => self.reply(id, Ok(reply)),
                    (None, Some(attr)) if set == SetAttr::default() => {
                        self.reply(id, Ok(Reply::Attr(attr)));
                    }
                    (None, _) => {
                        let op = MetaOp::SetAttr { ino, set };
                        self.start(Then::Reply(id), Single::op_with_attr(ino, op));
                    }
                }
            }
            Finish::Call(call) => self.reply(call.id(), Ok(Reply::Done)),
        }
    }

    fn job_lost(&mut self, ino: Ino, finish: Finish, begun: bool) {
        let file = self.file(ino);
        // Perhaps only its leader has gone: the next is told what was held.
        file.lease.lapsed = file.lease.held.take().or(file.lease.lapsed);
        match finish {
            Finish::WriteBack(upto) => {
                // It was due, and still is.
                file.back.wanted = file.back.wanted.max(upto);
                let flying = file.back.flying.take();
                for (offset, piece) in flying.pieces() {
                    file.back.dirty.put_under(offset, piece.clone());
                }
                self.recount();
            }
            Finish::Call(call) => {
                if begun {
                    file.half_done = Some(call.id());
                }
                file.queue.push_front(call);
            }
        }
    }

    /// Others have changed or seen the content since a call was carried out in part. Done again it would undo what they did:
    /// it is over, and what of it happened is unknown.
    pub(super) fn give_up_half_done(&mut self, ino: Ino) {
        let file = self.file(ino);
        let Some(id) = file.half_done.take() else {
            return;
        };
        if let Some(call) = file.queue.pop_front_if(|call| call.id() == id) {
            self.out.push_back(Output::Lost { ino });
            self.fail_waiting(&call, FsError::Io);
        }
    }

    fn job_failed(&mut self, ino: Ino, finish: Finish, error: FsError) {
        // What of it happened is unknown: the content must be learnt again.
        self.file(ino).lease.held = None;
        self.pages_outdated(ino);
        self.out.push_back(Output::Lost { ino });
        match finish {
            Finish::WriteBack(upto) => self.written_back(ino, upto, Some(error)),
            Finish::Call(call) => self.fail_waiting(&call, error),
        }
    }

    /// Dirty bytes of a file were moved between its parts: overlaps shrank.
    fn recount(&mut self) {
        self.files.dirty_bytes = self
            .files
            .by_ino
            .values()
            .map(|file| file.back.dirty.len() + file.back.flying.len())
            .sum();
    }

    fn written_back(&mut self, ino: Ino, upto: u64, error: Option<FsError>) {
        let now = self.now.mono;
        let file = self.file(ino);
        let flying = file.back.flying.take();
        let bytes = file.has_bytes();
        // What was lost meanwhile counts already.
        file.back.committed = file.back.committed.max(upto);
        if error.is_some() && bytes && !file.is_dirty() && file.is_behind() {
            // What was overwritten before is there, and its time may have been left to this.
            file.back.writes += 1;
        }
        if !file.is_dirty() {
            file.back.since = None;
        } else if file.back.since.is_none() {
            // A time that was left behind.
            file.back.since = Some(now);
            self.timers.set(write_back_due(now), Wake::File(ino));
        }
        self.files.dirty_bytes -= flying.len();
        if let Some(error) = error.filter(|_| bytes) {
            self.fail_handles(ino, error);
            self.fail_syncs(ino, error);
        }
        self.answer_syncs(ino, error);
        self.wake_stalled(ino);
    }
}

impl Job {
    fn fail(&mut self, failed: Failed) {
        self.failed.get_or_insert(failed);
        self.pieces.clear();
        self.plan.clear();
    }
}
