//! When things of one file may go on: calls in its queue, write-back, recalls, leases to be asked for.
//!
//! Owns the order. It is called after everything that may have changed something, and does nothing when nothing did.

use alloc::vec::Vec;
use core::time::Duration;

use super::file::{ContentCall, FileState, RecallStage, SyncWaiter, write_back_due};
use super::job::Finish;
use super::plan;
use crate::client::Client;
use crate::client::ops::{Single, Then};
use crate::client::port::{CallId, Output};
use crate::client::timers::Wake;
use crate::error::FsError;
use crate::limits::{CALL_DEADLINE, FILE_BYTES_MAX, TIMES_BEHIND};
use crate::place::Ino;
use crate::request::{LeaseKind, LeaseSerial, MetaOp, RecallKind};
use crate::vfs::{Handle, Reply};

/// A lease nobody used for this long is given back.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A file with so many bytes to be written back is: whoever writes much need not wait for memory then.
const WRITE_BACK_SOON: usize = 8 << 20;

/// What became of a waiting call.
enum Started {
    /// It is under way or over.
    Yes,
    /// It waits, and so do calls behind it.
    Waits,
}

impl Client {
    /// The state of a file, made when there is none.
    pub(super) fn file(&mut self, ino: Ino) -> &mut FileState {
        self.files.by_ino.entry(ino).or_default()
    }

    /// A content call waits its turn.
    pub(in super::super) fn enqueue(&mut self, ino: Ino, call: ContentCall) {
        if call.needs() == LeaseKind::Exclusive {
            self.views.unkeep(ino);
        }
        self.file(ino).queue.push_back(call);
        self.pump(ino);
    }

    /// Lets everything of a file go on that can.
    pub(in super::super) fn pump(&mut self, ino: Ino) {
        if !self.files.by_ino.contains_key(&ino) {
            return;
        }
        let mut want = self.run_queue(ino);
        self.drive_recall(ino);
        if self.start_write_back(ino) {
            want = Some(LeaseKind::Exclusive);
        }
        let file = self.file(ino);
        let recalling = file
            .lease
            .recall
            .is_some_and(|recall| recall.want != RecallKind::Flush);
        if let Some(kind) = want
            && !recalling
            && file.job.is_none()
        {
            self.acquire(ino, kind);
        }
        self.forget_idle(ino);
    }

    /// Starts what the lease allows; says what lease the rest waits for.
    fn run_queue(&mut self, ino: Ino) -> Option<LeaseKind> {
        let now = self.now.mono;
        let mut want: Option<LeaseKind> = None;
        let mut index = 0;
        let mut blocked = false;
        loop {
            let file = self.file(ino);
            let Some(call) = file.queue.get(index) else {
                return want;
            };
            let need = call.needs();
            let leaves = file.lease.recall.is_some_and(|recall| {
                recall.stage == RecallStage::Draining
                    && (recall.want == RecallKind::Release
                        || (recall.want == RecallKind::Share && need == LeaseKind::Exclusive))
            });
            if leaves || !file.allows(need, now) {
                want = want.max(Some(need));
                index += 1;
                continue;
            }
            if blocked {
                index += 1;
                continue;
            }
            let call = file.queue.remove(index).expect("looked at just now");
            match self.try_start(ino, &call) {
                Started::Yes => {}
                Started::Waits => {
                    self.file(ino).queue.insert(index, call);
                    blocked = true;
                    index += 1;
                }
            }
        }
    }

    fn try_start(&mut self, ino: Ino, call: &ContentCall) -> Started {
        let file = self.file(ino);
        let changing = file
            .job
            .as_ref()
            .is_some_and(|job| matches!(job.finish, Finish::Call(_)));
        if changing {
            return Started::Waits;
        }
        match call {
            ContentCall::Read { .. } if file.back.after_reads => return Started::Waits,
            ContentCall::Read { .. } => self.start_read(ino, call.clone()),
            ContentCall::Seek { id, offset, what } => {
                let outcome = self.seek(ino, *offset, *what);
                self.reply(*id, outcome);
            }
            ContentCall::Look { id } => self.look(*id, ino),
            ContentCall::Write { .. } => return self.write(ino, call),
            ContentCall::SetSize { .. }
            | ContentCall::SetAttr { .. }
            | ContentCall::SetXattr { .. }
            | ContentCall::Allocate { .. } => return self.start_change(ino, call),
        }
        Started::Yes
    }

    /// Truncate and the like: drained first (P9).
    fn start_change(&mut self, ino: Ino, call: &ContentCall) -> Started {
        let wall = self.now.wall;
        let file = self.file(ino);
        if file.is_dirty() || file.job.is_some() || file.reads > 0 {
            file.back.want_all();
            return Started::Waits;
        }
        let content = &mut file.content;
        let plan = match call {
            ContentCall::SetSize { size, .. } => plan::set_size(content, *size),
            ContentCall::Allocate {
                offset, len, mode, ..
            } => {
                content.touched(wall);
                plan::fallocate(content, *offset, *len, *mode)
            }
            ContentCall::SetAttr { id, set } => {
                let op = MetaOp::SetAttr {
                    ino,
                    set: set.clone(),
                };
                self.start(Then::Reply(*id), Single::op_with_attr(ino, op));
                return Started::Yes;
            }
            ContentCall::SetXattr { id, op } => {
                self.start(Then::Reply(*id), Single::op(op.clone()));
                return Started::Yes;
            }
            ContentCall::Read { .. }
            | ContentCall::Write { .. }
            | ContentCall::Look { .. }
            | ContentCall::Seek { .. } => {
                unreachable!("the caller tells these apart")
            }
        };
        self.start_job(ino, plan, Finish::Call(call.clone()));
        Started::Yes
    }

    fn write(&mut self, ino: Ino, call: &ContentCall) -> Started {
        let ContentCall::Write {
            id,
            handle,
            offset,
            data,
        } = call
        else {
            unreachable!("the caller tells these apart");
        };
        let flags = self
            .files
            .handles
            .get(handle)
            .map(|opened| opened.flags)
            .unwrap_or_default();
        let (now, wall) = (self.now.mono, self.now.wall);
        if self.files.dirty_bytes > 0
            && self.files.dirty_bytes + data.len() > self.config.write_back_bytes_max
        {
            self.files.stalled.insert(ino);
            self.write_back_all(ino);
            return Started::Waits;
        }
        let file = self.file(ino);
        let at = offset.unwrap_or(file.content.size);
        let len = u64::try_from(data.len()).expect("a length fits u64");
        let Some(end) = at.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX) else {
            self.reply(*id, Err(FsError::TooLarge));
            return Started::Yes;
        };
        let reply = Reply::Written(u32::try_from(data.len()).expect("a write is small"));
        if data.is_empty() {
            self.reply(*id, Ok(reply));
            return Started::Yes;
        }
        self.files.writes += 1;
        let file = self.file(ino);
        let before = file.back.dirty.len();
        file.back.dirty.put(at, data.clone());
        let after = file.back.dirty.len();
        file.back.writes += 1;
        file.back.brought = file.back.writes;
        file.content.size = file.content.size.max(end);
        file.content.touched(wall);
        if after >= WRITE_BACK_SOON {
            file.back.wanted = file.back.writes;
        }
        if let Some(sync) = file.back.habit.wrote() {
            file.back.want(file.back.writes, sync.data_only);
        }
        let mtime = file.content.mtime;
        let first = file.back.since.is_none();
        file.back.since.get_or_insert(now);
        let waits = flags.sync || flags.direct;
        if waits {
            let target = file.back.writes;
            file.back.wanted = target;
            file.back.timely = target;
            file.back.syncs.push(SyncWaiter {
                id: *id,
                target,
                reply: reply.clone(),
                of_all: false,
                by: Some(*handle),
            });
        }
        self.files.dirty_bytes = self.files.dirty_bytes + after - before;
        self.caches.seen = self.caches.seen.max(mtime);
        if first {
            self.timers.set(write_back_due(now), Wake::File(ino));
        }
        if !waits {
            self.reply(*id, Ok(reply));
        }
        Started::Yes
    }

    /// Memory is full: everything dirty is written back.
    fn write_back_all(&mut self, but: Ino) {
        let dirty: Vec<Ino> = self
            .files
            .by_ino
            .iter_mut()
            .filter(|(_, file)| file.has_bytes())
            .map(|(ino, file)| {
                file.back.wanted = file.back.wanted.max(file.back.brought);
                *ino
            })
            .collect();
        for ino in dirty {
            if ino != but && self.start_write_back(ino) && self.files.by_ino[&ino].job.is_none() {
                self.acquire(ino, LeaseKind::Exclusive);
            }
        }
    }

    /// Starts write-back when it is due; true when it needs the lease first.
    fn start_write_back(&mut self, ino: Ino) -> bool {
        let now = self.now.mono;
        let file = self.file(ino);
        let old = file
            .back
            .since
            .is_some_and(|since| now >= write_back_due(since));
        if old {
            file.back.want_all();
        }
        let due = file.is_dirty() && (old || file.back.wanted > file.back.committed);
        if !due || file.job.is_some() {
            return false;
        }
        // The leader that recalls a lease still counts it as held.
        let recalled = file.lease.recall.is_some()
            && file
                .lease
                .held
                .is_some_and(|held| held.kind == LeaseKind::Exclusive);
        if !recalled && !file.allows(LeaseKind::Exclusive, now) {
            return true;
        }
        file.back.after_reads = file.reads > 0 && !cfg!(planted = "write_back_under_reads");
        if file.back.after_reads {
            return false;
        }
        file.back.flying = file.back.dirty.take();
        file.back.since = None;
        let upto = file.back.writes;
        let plan = plan::write_back(file);
        if plan::leaves_time(&plan) && file.is_behind() {
            // From now on: who syncs meanwhile, or asks for what was written, waits for the time if it must.
            file.back.writes += 1;
        }
        self.start_job(ino, plan, Finish::WriteBack(upto));
        false
    }

    /// Everything written so far is to be committed, with its times or nearly so unless `data_only`; the call is answered
    /// then.
    pub(super) fn sync(
        &mut self,
        ino: Ino,
        waiter: Option<(CallId, Option<Handle>)>,
        data_only: bool,
    ) {
        let reply = Reply::Done;
        let Some(file) = self.files.by_ino.get_mut(&ino) else {
            if let Some((id, _)) = waiter {
                self.reply(id, Ok(reply));
            }
            return;
        };
        let times = !data_only && !file.times_within(TIMES_BEHIND);
        let target = if times {
            file.back.writes
        } else {
            file.back.brought
        };
        file.back.want(target, data_only);
        if let Some((id, by)) = waiter {
            file.back.habit.synced(data_only);
            if file.back.committed >= target || cfg!(planted = "fsync_not_awaited") {
                self.reply(id, Ok(reply));
            } else {
                file.back.syncs.push(SyncWaiter {
                    id,
                    target,
                    reply,
                    of_all: true,
                    by,
                });
            }
        }
        self.pump(ino);
    }

    /// Answers those who waited for what is now committed, or lost.
    pub(super) fn answer_syncs(&mut self, ino: Ino, error: Option<FsError>) {
        let file = self.file(ino);
        let committed = file.back.committed;
        let (over, rest) = core::mem::take(&mut file.back.syncs)
            .into_iter()
            .partition(|waiter| waiter.target <= committed);
        file.back.syncs = rest;
        let over: Vec<SyncWaiter> = over;
        for waiter in over {
            match error {
                None => self.reply(waiter.id, Ok(waiter.reply)),
                Some(error) => self.fail_sync(ino, &waiter, error),
            }
        }
    }

    fn fail_sync(&mut self, ino: Ino, waiter: &SyncWaiter, error: FsError) {
        self.take_error(ino, waiter.by);
        self.reply(waiter.id, Err(error));
    }

    /// Bytes are lost: whoever waits for all that was written before hears of it, though later bytes are still to come.
    pub(super) fn fail_syncs(&mut self, ino: Ino, error: FsError) {
        let waiting = core::mem::take(&mut self.file(ino).back.syncs);
        let (failed, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|sync| sync.of_all);
        self.file(ino).back.syncs = rest;
        for sync in failed {
            self.fail_sync(ino, &sync, error);
        }
    }

    /// What was written here can't be saved any more: everybody who has the file open hears it once (P8).
    pub(in super::super) fn lose_dirty(&mut self, ino: Ino, error: FsError) {
        let file = self.file(ino);
        if !file.has_bytes() {
            // Times at most: who syncs them hears of nothing that is lost.
            file.back.committed = file.back.writes;
            file.back.since = None;
            file.back.after_reads = false;
            return self.answer_syncs(ino, None);
        }
        let lost = file.back.dirty.take().len() + file.back.flying.take().len();
        file.back.committed = file.back.writes;
        file.back.since = None;
        file.back.after_reads = false;
        self.files.dirty_bytes -= lost;
        self.pages_outdated(ino);
        self.out.push_back(Output::Lost { ino });
        self.fail_handles(ino, error);
        self.answer_syncs(ino, Some(error));
        self.wake_stalled(ino);
    }

    /// Memory has become free: writers of other files that waited for some go on.
    pub(super) fn wake_stalled(&mut self, but: Ino) {
        for other in core::mem::take(&mut self.files.stalled) {
            if other != but {
                self.pump(other);
            }
        }
    }

    pub(super) fn fail_handles(&mut self, ino: Ino, error: FsError) {
        for opened in self.files.handles.values_mut() {
            if opened.ino == ino {
                opened.error = Some(error);
                opened.error_at_close = opened.flags.write.then_some(error);
            }
        }
    }

    /// Gives back leases nobody needs and forgets files nobody uses.
    fn forget_idle(&mut self, ino: Ino) {
        let now = self.now.mono;
        let file = self.file(ino);
        if file.opens > 0 || !file.is_quiet() {
            file.idle_since = now;
            return;
        }
        let until = file.idle_since + IDLE_MAX;
        let held = file.lease.held;
        if held.is_some() && now < until {
            self.timers.set(until, Wake::File(ino));
            return;
        }
        self.release_lease(ino);
        // What was given back before it came is remembered as long as it may come.
        let file = self.file(ino);
        let until = file.idle_since + CALL_DEADLINE;
        if file.lease.revoked > LeaseSerial::default() && now < until {
            self.timers.set(until, Wake::File(ino));
            return;
        }
        self.files.by_ino.remove(&ino);
    }
}
