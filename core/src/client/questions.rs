//! Requests to regions: routing, retries, deadlines, and at most one use of a slot at a time.
//!
//! Owns each question from when it is asked until it is answered or given up, however many messages that takes. Knows
//! nothing of what is asked. An operation whose outcome is unknown is repeated only under its slot and sequence (P6).

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::Client;
use super::ops::TaskId;
use super::port::{MessageId, Output};
use super::regions::RegionMap;
use super::timers::Wake;
use super::views::What;
use crate::error::FsError;
use crate::ids::{Epoch, GroupId, NodeId};
use crate::limits::{CALL_DEADLINE, CLIENT_RETRY, REQUEST_DEADLINE};
use crate::place::{Ino, Place, Places};
use crate::request::{
    self, Answer, DataOp, DataQuery, Header, MetaOp, MetaQuery, Refusal, Request, RequestBody,
    SlotUse, Space,
};
use crate::time::Instant;

/// Questions in flight to one region; more wait, so that a dead region does not fill the mount (P11).
const IN_FLIGHT_PER_REGION: u32 = 128;
/// First and longest pause before a repetition.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A question's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QuestionId(u64);

/// Who wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A call's machine.
    Task(TaskId),
    /// The lease of a file.
    Acquire(Ino),
    /// The rest of a file's chunk map.
    Map(Ino),
    /// The job that changes a file's content.
    Job(Ino),
    /// A part of a read.
    Read(u64, usize),
    /// Nobody: a report that only must arrive.
    Nobody,
}

/// How a message went that brought an answer.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) node: NodeId,
    pub(super) group: GroupId,
    /// The message that was answered: later ones have higher numbers.
    pub(super) message: MessageId,
    pub(super) epoch: Epoch,
    pub(super) sent: Instant,
    pub(super) places: Places,
    pub(super) payload: Bytes,
}

#[derive(Debug)]
struct Flight {
    question: QuestionId,
    node: NodeId,
    group: GroupId,
    epoch: Epoch,
    places: Places,
    sent: Instant,
}

#[derive(Debug)]
struct Question {
    owner: Owner,
    space: Space,
    place: Place,
    body: RequestBody,
    payload: Bytes,
    slot: Option<SlotUse>,
    /// Of a change: what of this mount's views it makes unknown.
    aside: Vec<What>,
    tries: Tries,
}

/// How far a question has got.
#[derive(Debug, Default)]
struct Tries {
    deadline: Option<Instant>,
    attempt: u32,
    failed: Option<NodeId>,
    /// Who gave no answer last.
    silent: Option<NodeId>,
    counted: Option<GroupId>,
    messages: Vec<MessageId>,
    wake: Instant,
    reserve: bool,
}

/// All questions.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<QuestionId, Question>,
    flights: BTreeMap<MessageId, Flight>,
    in_flight: BTreeMap<GroupId, u32>,
    crowded: BTreeMap<GroupId, VecDeque<QuestionId>>,
    for_slot: VecDeque<QuestionId>,
    parked: BTreeSet<QuestionId>,
    ready: VecDeque<QuestionId>,
    last: u64,
}

impl Questions {
    const fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) const fn fresh_message(&mut self) -> MessageId {
        MessageId(self.fresh())
    }

    /// The latest of all messages so far.
    pub(super) const fn last_message(&self) -> MessageId {
        MessageId(self.last)
    }

    /// A session or a map has come: what waited for one goes on.
    pub(super) fn unpark(&mut self) {
        let parked = core::mem::take(&mut self.parked);
        self.ready.extend(parked);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    fn uncount(&mut self, id: QuestionId) {
        let Some(group) = self
            .open
            .get_mut(&id)
            .and_then(|question| question.tries.counted.take())
        else {
            return;
        };
        let count = self
            .in_flight
            .get_mut(&group)
            .expect("a counted question's region has a count");
        *count -= 1;
        if let Some(next) = self.crowded.get_mut(&group).and_then(VecDeque::pop_front) {
            self.ready.push_back(next);
        }
    }
}

fn target(body: &RequestBody) -> (Space, Place) {
    match body {
        RequestBody::MetaQuery(query) => (Space::Meta, meta_query_place(query)),
        RequestBody::MetaOp(op) => (Space::Meta, op.first_place()),
        RequestBody::DataQuery(query) => (Space::Data, data_query_place(query)),
        RequestBody::DataOp(op) => (Space::Data, data_op_place(op)),
        RequestBody::LeaseDone(done) => (Space::Meta, done.ino().place()),
        RequestBody::Txn(_) => unreachable!("a mount takes no part in transactions"),
    }
}

fn meta_query_place(query: &MetaQuery) -> Place {
    match query {
        MetaQuery::Lookup {
            dir, salt, name, ..
        } => crate::place::NameHash::of(*salt, name).place(*dir),
        MetaQuery::GetAttr { ino }
        | MetaQuery::Open { ino, .. }
        | MetaQuery::Map { ino, .. }
        | MetaQuery::ReadLink { ino }
        | MetaQuery::GetXattr { ino, .. }
        | MetaQuery::ListXattr { ino }
        | MetaQuery::TestLock { ino, .. } => ino.place(),
        MetaQuery::ReadDir { dir, cookie, .. } => cookie.place(*dir),
        MetaQuery::Named { chunks } => chunks.first().map_or(Place(0), |name| name.ino.place()),
        MetaQuery::Audit { .. } => Place(0),
    }
}

fn data_query_place(query: &DataQuery) -> Place {
    match query {
        DataQuery::Read { chunk, .. } => chunk.place(),
        DataQuery::List { after, .. } => after.as_ref().map_or(Place(0), |(place, _)| *place),
        DataQuery::Verify { chunks } => chunks.first().map_or(Place(0), |name| name.place()),
    }
}

fn data_op_place(op: &DataOp) -> Place {
    match op {
        DataOp::Write { chunk, .. }
        | DataOp::Zero { chunk, .. }
        | DataOp::RaiseFence { chunk, .. } => chunk.place(),
        DataOp::Delete { chunks } => chunks.first().map_or(Place(0), |name| name.place()),
    }
}

/// Whether a lease is asked for, or views may come with the answer, so that the mount is admitted to leases there.
const fn wants_lease(body: &RequestBody) -> bool {
    matches!(
        body,
        RequestBody::MetaQuery(
            MetaQuery::Open { .. }
                | MetaQuery::Lookup { .. }
                | MetaQuery::GetAttr { .. }
                | MetaQuery::ReadDir { .. }
        ) | RequestBody::MetaOp(
            MetaOp::Make { .. }
                | MetaOp::Unlink { .. }
                | MetaOp::RemoveDir { .. }
                | MetaOp::Rename { .. }
                | MetaOp::Link { .. }
                | MetaOp::SetAttr { .. }
                | MetaOp::SetXattr { .. }
                | MetaOp::RemoveXattr { .. }
                | MetaOp::Content { .. }
                | MetaOp::SetLock {
                    delegate: Some(_),
                    ..
                }
        )
    )
}

impl Flight {
    fn route(&self, message: MessageId, payload: Bytes) -> Route {
        Route {
            node: self.node,
            group: self.group,
            message,
            epoch: self.epoch,
            sent: self.sent,
            places: self.places,
            payload,
        }
    }
}

/// Whether the answer may take as long as somebody else holds a lease.
const fn is_patient(body: &RequestBody) -> bool {
    matches!(
        body,
        RequestBody::MetaQuery(MetaQuery::Open { patient: true, .. })
    )
}

impl Client {
    /// Asks a region; the answer is delivered to `owner` exactly once.
    pub(super) fn ask(&mut self, owner: Owner, body: RequestBody, payload: Bytes) {
        let (_, place) = target(&body);
        self.ask_at(owner, place, body, payload);
    }

    /// Asks the region that holds `place`.
    pub(super) fn ask_at(&mut self, owner: Owner, place: Place, body: RequestBody, payload: Bytes) {
        let (space, _) = target(&body);
        let id = QuestionId(self.questions.fresh());
        // A data operation has a slot too: a late copy of one must not undo what was written after it.
        let slotted = match body {
            RequestBody::MetaOp(_) => true,
            RequestBody::DataOp(_) => !cfg!(planted = "data_op_without_slot"),
            RequestBody::MetaQuery(_)
            | RequestBody::DataQuery(_)
            | RequestBody::LeaseDone(_)
            | RequestBody::Txn(_) => false,
        };
        let gives_back = body.gives_back();
        let slot = if slotted {
            self.slots.take(gives_back)
        } else {
            None
        };
        let aside = match &body {
            RequestBody::MetaOp(op) => self.concerns(op),
            RequestBody::MetaQuery(_)
            | RequestBody::DataQuery(_)
            | RequestBody::DataOp(_)
            | RequestBody::LeaseDone(_)
            | RequestBody::Txn(_) => Vec::new(),
        };
        self.views.set_aside(&aside);
        let question = Question {
            owner,
            space,
            place,
            body,
            payload,
            slot,
            aside,
            tries: Tries::default(),
        };
        self.questions.open.insert(id, question);
        if slotted && slot.is_none() {
            if gives_back {
                self.questions.for_slot.push_front(id);
            } else {
                self.questions.for_slot.push_back(id);
            }
        } else {
            self.questions.ready.push_back(id);
        }
    }

    /// Sends what can be sent.
    pub(super) fn dispatch_ready(&mut self) {
        while let Some(id) = self.questions.ready.pop_front() {
            self.dispatch(id);
        }
    }

    fn dispatch(&mut self, id: QuestionId) {
        self.questions.uncount(id);
        let now = self.now.mono;
        let Some(question) = self.questions.open.get_mut(&id) else {
            return;
        };
        let deadline = *question.tries.deadline.get_or_insert(now + CALL_DEADLINE);
        self.timers.set(deadline, Wake::Question(id));
        if now >= deadline {
            return self.give_up(id);
        }
        let Some(live) = self.session.live() else {
            self.questions.parked.insert(id);
            return;
        };
        let line = self.regions.find(question.space, question.place).cloned();
        let node = line
            .as_ref()
            .and_then(|line| RegionMap::node_for(line, question.tries.failed));
        let (Some(line), Some(node)) = (line, node) else {
            self.want_map();
            return self.pause(id);
        };
        let count = self.questions.in_flight.entry(line.group).or_insert(0);
        // Others may wait for what a mount gives back, and this mount for them.
        if *count >= IN_FLIGHT_PER_REGION && !question.body.gives_back() {
            let crowd = self.questions.crowded.entry(line.group).or_default();
            crowd.push_back(id);
            return;
        }
        *count += 1;
        self.questions.last += 1;
        let message = MessageId(self.questions.last);
        let wait = if is_patient(&question.body) {
            REQUEST_DEADLINE
        } else {
            CLIENT_RETRY
        };
        question.tries.counted = Some(line.group);
        question.tries.messages.push(message);
        question.tries.wake = now + wait;
        self.timers.set(now + wait, Wake::Question(id));
        let header = Header {
            group: line.group,
            epoch: line.epoch,
            session: live.id,
            renewal: live.renewal,
            slot: question.slot,
            seen: self.caches.seen,
            aside: self.views.aside(&question.aside),
        };
        let request = Request {
            header,
            body: question.body.clone(),
        };
        let payload = question.payload.clone();
        let flight = Flight {
            question: id,
            node,
            group: line.group,
            epoch: line.epoch,
            places: line.places,
            sent: now,
        };
        self.questions.flights.insert(message, flight);
        self.out.push_back(Output::Send {
            message,
            node,
            request,
            payload,
        });
    }

    /// Tries again after a pause that grows, with jitter.
    fn pause(&mut self, id: QuestionId) {
        let spread = self.rng.below(1000);
        self.questions.uncount(id);
        let Some(question) = self.questions.open.get_mut(&id) else {
            return;
        };
        let longest = (PAUSE_MIN * (1 << question.tries.attempt.min(6))).min(PAUSE_MAX);
        question.tries.attempt += 1;
        let half = longest / 2;
        let pause = half + half * u32::try_from(spread).expect("below 1000") / 1000;
        question.tries.wake = self.now.mono + pause;
        self.timers.set(question.tries.wake, Wake::Question(id));
    }

    /// A question's time has come: its message got no answer, or its pause is over, or its deadline is reached.
    pub(super) fn wake_question(&mut self, id: QuestionId) {
        let now = self.now.mono;
        let Some(question) = self.questions.open.get_mut(&id) else {
            return;
        };
        if question
            .tries
            .deadline
            .is_some_and(|deadline| now >= deadline)
        {
            return self.give_up(id);
        }
        let waits = self.questions.parked.contains(&id)
            || self
                .questions
                .crowded
                .values()
                .any(|crowd| crowd.contains(&id));
        if now < question.tries.wake || waits {
            return;
        }
        if question.tries.counted.is_some() {
            let last = question.tries.messages.last();
            let node = last.and_then(|message| self.questions.flights.get(message));
            question.tries.failed = node.map(|flight| flight.node);
            question.tries.silent = question.tries.failed;
            question.tries.attempt += 1;
            self.want_map();
            self.repeat(id);
        }
        self.questions.ready.push_back(id);
    }

    /// What happens to a slotted operation before its repetition: nothing (P6).
    fn repeat(&mut self, id: QuestionId) {
        if cfg!(planted = "slot_reused_early")
            && let Some(question) = self.questions.open.get_mut(&id)
            && let Some(slot) = question.slot
        {
            question.slot = Some(self.slots.advance(slot.slot));
        }
    }

    /// A region is led by `node` now: what pauses or waits for another node's answer goes there.
    pub(super) fn hurry(&mut self, group: GroupId, node: NodeId) {
        let mut hurried = Vec::new();
        for (id, question) in &mut self.questions.open {
            let line = self.regions.find(question.space, question.place);
            let last = question.tries.messages.last();
            let flight = last.and_then(|message| self.questions.flights.get(message));
            let elsewhere = flight.is_none_or(|flight| flight.node != node);
            if line.is_some_and(|line| line.group == group)
                && (question.tries.attempt > 0 || question.tries.counted.is_some())
                && elsewhere
            {
                question.tries.failed = None;
                hurried.push(*id);
            }
        }
        for id in hurried {
            let waits = self.questions.parked.contains(&id)
                || self.questions.for_slot.contains(&id)
                || self.questions.ready.contains(&id)
                || self
                    .questions
                    .crowded
                    .values()
                    .any(|crowd| crowd.contains(&id));
            if !waits {
                self.repeat(id);
                self.questions.ready.push_back(id);
            }
        }
    }

    pub(super) fn undelivered(&mut self, message: MessageId) {
        if self.frame_undelivered(message) {
            return;
        }
        let Some(flight) = self.questions.flights.remove(&message) else {
            return;
        };
        let id = flight.question;
        if let Some(question) = self.questions.open.get_mut(&id)
            && question.tries.messages.last() == Some(&message)
        {
            question.tries.failed = Some(flight.node);
            // All replicas that this mount knows may be gone by now.
            self.want_map();
            self.repeat(id);
            self.pause(id);
        }
    }

    pub(super) fn answered(&mut self, message: MessageId, answer: Answer, payload: Bytes) {
        let Some(flight) = self.questions.flights.remove(&message) else {
            return;
        };
        let id = flight.question;
        if !self.questions.open.contains_key(&id) {
            return;
        }
        let (answer, views) = match answer {
            Answer::Viewed(answer, views) => (*answer, Some(views)),
            answer @ (Answer::Meta(_) | Answer::Data(_) | Answer::Txn(_) | Answer::Refused(_)) => {
                (answer, None)
            }
        };
        if let Answer::Refused(refusal) = answer {
            let latest = self.questions.open[&id].tries.messages.last() == Some(&message);
            return self.refused(id, message, flight, refusal, latest);
        }
        let route = flight.route(message, payload);
        self.regions.mend_leader(flight.group, Some(flight.node));
        if wants_lease(&self.questions.open[&id].body) {
            self.leased_from(flight.group, flight.node, flight.sent);
        }
        self.finish(id, answer, Some((route, views)));
    }

    fn refused(
        &mut self,
        id: QuestionId,
        message: MessageId,
        flight: Flight,
        refusal: Refusal,
        latest: bool,
    ) {
        let question = self.questions.open.get_mut(&id).expect("the caller looked");
        match refusal {
            Refusal::Fenced | Refusal::NoLease | Refusal::Changed => {
                let route = flight.route(message, Bytes::new());
                return self.finish(id, Answer::Refused(refusal), Some((route, None)));
            }
            Refusal::SessionEnded => return self.session_over_for(id),
            Refusal::OldSequence => return,
            Refusal::NotLeader { leader } => {
                // Who has just been silent is perhaps gone, whoever has not noticed yet.
                let leader = leader
                    .map(|(node, _)| node)
                    .filter(|node| question.tries.silent != Some(*node));
                question.tries.failed = match leader {
                    Some(node) if node != flight.node => None,
                    _ => Some(flight.node),
                };
                let at_once = question.tries.failed.is_none() && question.tries.attempt < 3;
                if latest && at_once {
                    question.tries.attempt += 1;
                    self.questions.ready.push_back(id);
                }
                self.regions.mend_leader(flight.group, leader);
                self.doubt(flight.group, flight.node);
                if latest && at_once {
                    return;
                }
            }
            Refusal::Epoch { epoch, places } => {
                self.regions.mend_epoch(flight.group, epoch, places);
                if latest && question.tries.attempt < 8 {
                    question.tries.attempt += 1;
                    self.questions.ready.push_back(id);
                    return;
                }
                self.want_map();
            }
            Refusal::NoRegion => {
                question.tries.failed = Some(flight.node);
                self.want_map();
            }
            Refusal::Renewal => self.renew_soon(),
            Refusal::Busy => {}
            Refusal::ReserveOnly => {
                question.tries.reserve = true;
                // Nothing else is on its way: it was not carried out and never will be.
                if latest && question.tries.messages.len() == 1 {
                    return self.give_up(id);
                }
            }
            Refusal::Unavailable(_) => question.tries.failed = Some(flight.node),
        }
        if latest {
            self.pause(id);
        }
    }

    fn session_over_for(&mut self, id: QuestionId) {
        if self.session.live().is_some() {
            self.session_over();
        }
        if self.questions.open.contains_key(&id) {
            self.questions.ready.push_back(id);
        }
    }

    /// The session is over: operations in its slots have unknown outcomes that can't be learnt any more.
    pub(super) fn fail_slotted(&mut self) {
        let slotted: Vec<QuestionId> = self
            .questions
            .open
            .iter()
            .filter(|(_, question)| question.slot.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in slotted {
            self.finish(id, Answer::Meta(Err(FsError::Io)), None);
        }
    }

    fn give_up(&mut self, id: QuestionId) {
        let question = &self.questions.open[&id];
        let error = if question.tries.reserve {
            FsError::NoSpace
        } else {
            FsError::Io
        };
        let answer = match question.space {
            Space::Meta => Answer::Meta(Err(error)),
            Space::Data => Answer::Data(Err(error)),
        };
        self.finish(id, answer, None);
    }

    fn finish(
        &mut self,
        id: QuestionId,
        answer: Answer,
        came: Option<(Route, Option<request::Views>)>,
    ) {
        self.questions.uncount(id);
        let Some(question) = self.questions.open.remove(&id) else {
            return;
        };
        let route = self.settle_views(&question, &answer, came);
        self.timers.unset(question.tries.wake, Wake::Question(id));
        if let Some(deadline) = question.tries.deadline {
            self.timers.unset(deadline, Wake::Question(id));
        }
        for message in &question.tries.messages {
            self.questions.flights.remove(message);
        }
        self.questions.parked.remove(&id);
        for crowd in self.questions.crowded.values_mut() {
            crowd.retain(|other| *other != id);
        }
        if let Some(slot) = question.slot {
            self.slots.give_back(slot.slot);
            if let Some(next) = self.questions.for_slot.front().copied() {
                let waiting = self.questions.open.get_mut(&next);
                let waiting = waiting.expect("what waits for a slot is open");
                waiting.slot = self.slots.take(waiting.body.gives_back());
                if waiting.slot.is_some() {
                    self.questions.for_slot.pop_front();
                    self.questions.ready.push_back(next);
                }
            }
        }
        if let Answer::Meta(Ok(reply)) = &answer {
            self.caches.learn_reply(reply);
        }
        if let RequestBody::MetaOp(MetaOp::SetLock {
            ino,
            delegate: Some(wish),
            ..
        }) = question.body
        {
            self.wish_over(ino, wish, &answer);
        }
        self.deliver(question.owner, answer, route);
    }

    /// What the answer says of views, and what a change that has ended, or was given up, makes of them.
    fn settle_views(
        &mut self,
        question: &Question,
        answer: &Answer,
        came: Option<(Route, Option<request::Views>)>,
    ) -> Option<Route> {
        let aside = &question.aside;
        self.views.take_back(aside);
        // What was refused is in no slot: another copy of the question may still be carried out.
        let once = question.tries.messages.len() <= 1;
        let over = came.is_some() && (once || !matches!(answer, Answer::Refused(_)));
        let last = self.questions.last_message();
        let route = came.map(|(route, views)| {
            if let Some(views) = views {
                self.learn_views(&route, views);
            }
            route
        });
        if !over && !aside.is_empty() && !cfg!(planted = "given_up_change_forgotten") {
            self.views.forget_all(last);
        }
        self.views.changed(aside, last);
        route
    }
}
