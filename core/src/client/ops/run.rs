//! Runs the machines of calls: hands them what came, does what they want.
//!
//! Owns which are running. Knows of each only what its steps say.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{Got, Next, Op, TaskId, View, WakeAt, got_of};
use crate::attr::FileKind;
use crate::client::Client;
use crate::client::content::Opening;
use crate::client::port::{CallId, Output};
use crate::client::questions::{Owner, Route};
use crate::client::timers::Wake;
use crate::error::FsError;
use crate::place::Ino;
use crate::request::{Answer, MetaOp, MetaQuery, MetaReply, RequestBody};
use crate::vfs::{LockOwner, OpenFlags, Outcome, Reply};

/// What happens when a machine is done.
#[derive(Debug)]
pub(in super::super) enum Then {
    /// The call is answered.
    Reply(CallId),
    /// An owner's locks on a file are freed: the call, if one still waits for that, is answered with what it has come to
    /// already. What fails is tried again.
    Freed(Option<(CallId, Outcome)>, Ino, LockOwner),
    /// A file is opened for the call.
    Open(CallId, Opening),
    /// A file's locks are back in their region; what fails is tried again.
    Returned(Ino, u64, MetaOp),
    /// A leader was told that these are not open here: until it has heard, they can't be opened.
    Disowned(Vec<Ino>),
}

#[derive(Debug)]
struct Task {
    op: Box<dyn Op>,
    then: Then,
    /// Waiting for a directory's salt.
    salt: Option<Ino>,
    sleeping: bool,
    /// What it looks for, to be asked again when what came can't be shown.
    looks: Option<Looks>,
}

/// A question after attributes.
#[derive(Debug)]
struct Looks {
    body: RequestBody,
    /// How often anything had been written here when it was asked.
    writes: u64,
    tries: u32,
}

/// How often attributes are asked for that what is written here meanwhile keeps from being shown.
const LOOKS_MAX: u32 = 8;

/// All running machines.
#[derive(Debug, Default)]
pub(in super::super) struct Tasks {
    running: BTreeMap<TaskId, Task>,
    last: u64,
}

impl Tasks {
    pub(in super::super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether a call is about to open this inode.
    pub(in super::super) fn opens(&self, ino: Ino) -> bool {
        self.running.values().any(|task| {
            matches!(&task.then, Then::Open(_, opening) if opening.ino.is_none_or(|it| it == ino))
        })
    }
}

impl Client {
    /// Starts a machine.
    pub(in super::super) fn start(&mut self, then: Then, op: impl Op + 'static) {
        self.tasks.last += 1;
        let id = TaskId(self.tasks.last);
        let task = Task {
            op: Box::new(op),
            then,
            salt: None,
            sleeping: false,
            looks: None,
        };
        self.tasks.running.insert(id, task);
        self.step_task(id, Got::Start, None);
    }

    pub(in super::super) fn start_call(&mut self, id: CallId, op: impl Op + 'static) {
        self.start(Then::Reply(id), op);
    }

    /// A region answered a machine's question.
    pub(in super::super) fn task_answer(
        &mut self,
        id: TaskId,
        answer: Answer,
        route: Option<Route>,
    ) {
        if let Some(route) = &route {
            self.install_found(id, &answer, route);
        }
        let Some(answer) = self.look_again(id, answer, route.as_ref()) else {
            return;
        };
        let Some(task) = self.tasks.running.get_mut(&id) else {
            return;
        };
        let mut got = got_of(answer);
        if task.salt.take().is_some() {
            got = match got {
                Got::Meta(Ok(MetaReply::Inode { attr, .. })) => {
                    if attr.kind != FileKind::Directory {
                        return self.task_done(id, Err(FsError::NotDirectory));
                    }
                    Got::Start
                }
                Got::Meta(Err(error)) => return self.task_done(id, Err(error)),
                other @ (Got::Start
                | Got::Meta(Ok(_))
                | Got::Changed
                | Got::Stats(_)
                | Got::Woken) => other,
            };
        }
        self.step_task(id, got, route);
    }

    /// A machine's pause is over.
    pub(in super::super) fn wake_task(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.running.get_mut(&id)
            && core::mem::take(&mut task.sleeping)
        {
            self.step_task(id, Got::Woken, None);
        }
    }

    pub(in super::super) fn wake_task_at(&mut self, id: TaskId, at: WakeAt) {
        if let Some(task) = self.tasks.running.get_mut(&id) {
            task.sleeping = true;
            self.timers.set(at, Wake::Task(id));
        }
    }

    /// The caller of a call has gone.
    pub(in super::super) fn cancel_call(&mut self, call: CallId) {
        if self.cancel_waiting_lock(call) {
            return;
        }
        let found = self
            .tasks
            .running
            .iter_mut()
            .find(|(_, task)| matches!(task.then, Then::Reply(id) if id == call));
        let Some((id, task)) = found else {
            return;
        };
        let id = *id;
        if let Some(next) = task.op.cancel(task.sleeping) {
            self.take_next(id, next, None);
        }
    }

    pub(in super::super) fn step_task(&mut self, id: TaskId, got: Got, route: Option<Route>) {
        let Some(task) = self.tasks.running.get_mut(&id) else {
            return;
        };
        let mut view = View {
            caches: &mut self.caches,
            rng: &mut self.rng,
            regions: &self.regions,
            delegations: &mut self.delegations,
            good: self.session.is_good(self.now.mono),
            answered: route.as_ref().map(|route| route.places),
        };
        let next = task.op.next(&mut view, got);
        self.take_next(id, next, route);
    }

    fn take_next(&mut self, id: TaskId, next: Next, route: Option<Route>) {
        match next {
            Next::Ask(body) => self.ask_for_task(id, body),
            Next::AskAt(place, body) => self.ask_at(Owner::Task(id), place, body, Bytes::new()),
            Next::Salt(dir) => {
                if let Some(task) = self.tasks.running.get_mut(&id) {
                    task.salt = Some(dir);
                }
                let query = MetaQuery::GetAttr { ino: dir };
                self.ask_for_task(id, RequestBody::MetaQuery(query));
            }
            Next::Sleep(pause) => self.wake_task_at(id, self.now.mono + pause),
            Next::AwaitLocks(ino) => self.await_locks(id, ino),
            Next::ReturnLocks(ino) => {
                self.await_locks(id, ino);
                self.give_locks_back(ino);
            }
            Next::RefuseLocks(ino, grant) => {
                self.await_locks(id, ino);
                self.refuse_locks(ino, grant);
            }
            Next::Stats => self.ask_stats(id),
            Next::Done(outcome) => self.task_done(id, outcome),
            Next::Opened {
                attr,
                grant,
                created,
            } => {
                let Some(task) = self.tasks.running.remove(&id) else {
                    return;
                };
                if let Then::Open(call, opening) = task.then {
                    let granted = grant.zip(route);
                    self.opened(call, opening, attr, granted, created);
                }
            }
        }
    }

    fn await_locks(&mut self, id: TaskId, ino: Ino) {
        if let Some(task) = self.tasks.running.get_mut(&id) {
            task.sleeping = true;
            self.delegations.wait(ino, id);
        }
    }

    /// What a machine waited for has come, unless that has ended by now.
    pub(in super::super) fn step_waiting(&mut self, id: TaskId, got: Got) {
        if let Some(task) = self.tasks.running.get_mut(&id)
            && core::mem::take(&mut task.sleeping)
        {
            self.step_task(id, got, None);
        }
    }

    /// Asks the region, unless what this mount was shown before is the answer.
    fn ask_for_task(&mut self, id: TaskId, body: RequestBody) {
        match self.answer_from_views(&body) {
            Some(answer) => {
                // As from any answer, or a machine that waits to know would ask again.
                if let Answer::Meta(Ok(reply)) = &answer {
                    self.caches.learn_reply(reply);
                }
                self.task_answer(id, answer, None);
            }
            None => {
                self.note_look(id, &body);
                self.ask(Owner::Task(id), body, Bytes::new());
            }
        }
    }

    fn note_look(&mut self, id: TaskId, body: &RequestBody) {
        let writes = self.writes_ever();
        let Some(task) = self.tasks.running.get_mut(&id) else {
            return;
        };
        let tries = task.looks.take().map_or(0, |looks| looks.tries);
        let looks = matches!(
            body,
            RequestBody::MetaQuery(MetaQuery::GetAttr { .. } | MetaQuery::Lookup { .. })
        );
        task.looks = looks.then(|| Looks {
            body: body.clone(),
            writes,
            tries,
        });
    }

    /// A lookup may bring the lease of what it found.
    fn install_found(&mut self, id: TaskId, answer: &Answer, route: &Route) {
        let task = self.tasks.running.get(&id);
        let looks = task.and_then(|task| task.looks.as_ref());
        let looks_up = looks.is_some_and(|looks| {
            matches!(
                looks.body,
                RequestBody::MetaQuery(MetaQuery::Lookup { lease: Some(_), .. })
            )
        });
        if let Answer::Meta(Ok(MetaReply::Inode { attr, grant })) = answer
            && let Some(grant) = grant.clone().filter(|_| looks_up)
        {
            self.lease_found(attr.ino, grant, route);
        }
    }

    /// Attributes from a region are shown together with what was written here. What was written after the question may
    /// have come after changes of others that the answer does not show: then what a view shows now is taken instead, or
    /// it is asked again; `None` when it is.
    fn look_again(&mut self, id: TaskId, answer: Answer, route: Option<&Route>) -> Option<Answer> {
        let (Answer::Meta(Ok(MetaReply::Inode { attr, .. })), Some(_)) = (&answer, route) else {
            return Some(answer);
        };
        let task = self.tasks.running.get(&id)?;
        let Some(looks) = &task.looks else {
            return Some(answer);
        };
        if !self.torn(attr, looks.writes) || looks.tries >= LOOKS_MAX {
            return Some(answer);
        }
        let body = looks.body.clone();
        if let Some(shown) = self.answer_from_views(&body) {
            return Some(shown);
        }
        self.tasks.running.get_mut(&id)?.looks.as_mut()?.tries += 1;
        self.note_look(id, &body);
        self.ask(Owner::Task(id), body, Bytes::new());
        None
    }

    fn task_done(&mut self, id: TaskId, outcome: Outcome) {
        let Some(task) = self.tasks.running.remove(&id) else {
            return;
        };
        match task.then {
            Then::Reply(call) | Then::Open(call, _) => self.reply(call, outcome),
            Then::Freed(call, ino, owner) => {
                // Nobody knows when they will be free: they will be.
                let failed = outcome == Err(FsError::Io);
                if let Some((call, outcome)) = call {
                    self.reply(call, if failed { Err(FsError::Io) } else { outcome });
                }
                self.locks_freed(ino, owner, failed);
            }
            Then::Returned(ino, grant, op) => self.locks_returned(ino, grant, op, &outcome),
            Then::Disowned(inos) => self.disowned_heard(&inos),
        }
    }

    /// Answers a call; attributes show what this mount has written and not yet committed.
    pub(in super::super) fn reply(&mut self, id: CallId, outcome: Outcome) {
        if let Some(ino) = self.capabilities.remove(&id) {
            self.note_capability(ino, outcome == Err(FsError::NoData));
        }
        let outcome = outcome.map(|reply| match reply {
            Reply::Attr(attr) => {
                self.note_shown(&attr);
                Reply::Attr(self.with_dirty(attr))
            }
            Reply::Created(attr, handle) => Reply::Created(self.with_dirty(attr), handle),
            Reply::Entries(mut entries) => {
                for entry in &mut entries {
                    entry.attr = entry.attr.take().map(|attr| self.with_dirty(attr));
                }
                Reply::Entries(entries)
            }
            other @ (Reply::Done
            | Reply::Opened(_)
            | Reply::Data(_)
            | Reply::Written(_)
            | Reply::Names(_)
            | Reply::Lock(_)
            | Reply::Offset(_)
            | Reply::Stats(_)) => other,
        });
        self.out.push_back(Output::Reply { id, outcome });
    }
}

/// How a create or open wants its file.
impl Opening {
    pub(in super::super) const fn of(ino: Option<Ino>, flags: OpenFlags) -> Self {
        Self { ino, flags }
    }
}
