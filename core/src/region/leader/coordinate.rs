//! Transactions across regions, as the region of the operation's first key coordinates them (P7).
//!
//! Owns the order of the phases and what is done when a participant is slow, busy or gone:
//!
//! ```text
//!  Begin ─► (rename lock ─► ancestors) ─► Prepare at all participants ─► Decide ─► answer ─► Finish ─► Forget
//!    └──────────────── any failure, conflict or silence ──────────────────► Abort ─► Finish
//! ```
//!
//! What steps check and do is apply's business. Nobody waits while holding an intent: a conflict aborts, and another
//! attempt, under a name of its own, begins after a random pause.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::operations::{Operation, Waiting};
use super::port::{Asker, Output};
use super::queries::Query;
use super::transaction::{Stage, Txn, is_lock, is_old, likelier, walks};
use super::{Job, Leader, stamp};
use crate::error::FsError;
use crate::ids::{Renewal, SessionId};
use crate::place::{Ino, Places};
use crate::region::command::{Applied, CommandBody, TxnFailure};
use crate::region::kv::{KvError, KvRead};
use crate::region::touch;
use crate::region::txn as records;
use crate::request::{Answer, Aside, Header, MetaQuery, MetaReply, Refusal, RequestBody, SlotUse};
use crate::time::{Instant, Now, Timestamp};
use crate::txn::{Decision, Step, TxnId, TxnReply, TxnRequest};

/// Attempts after conflicts before the client is asked to try again itself.
const ATTEMPTS_MAX: u32 = 8;
/// The longest pause after the first conflict; it doubles with each.
const PAUSE: Duration = Duration::from_millis(4);
/// How soon participants that could not be told of a decision are told again.
const TELL_AGAIN: Duration = Duration::from_millis(200);

impl Leader {
    pub(super) fn begin_transaction(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        asker: Asker,
        header: Header,
        body: CommandBody,
    ) -> Result<(), KvError> {
        let (CommandBody::Meta(op), Some(slot)) = (body, header.slot) else {
            self.refuse(
                asker,
                Refusal::Unavailable("the operation needs a slot".into()),
            );
            return Ok(());
        };
        let txn = self.name(now, &header, slot, op.first_place());
        let fresh = Txn::new(Some(asker), header, Some(op));
        self.txns.insert(txn, fresh);
        self.propose_begin(now, state, txn, Vec::new())
    }

    /// A name that no earlier attempt had: late messages of those must not touch this one.
    fn name(&self, now: Now, header: &Header, slot: SlotUse, place: crate::place::Place) -> TxnId {
        let earlier = self
            .txns
            .keys()
            .filter(|txn| txn.session == header.session && txn.slot == slot && txn.place == place);
        let after = earlier
            .map(|txn| txn.began.next())
            .max()
            .unwrap_or_default();
        TxnId {
            session: header.session,
            slot,
            place,
            began: now.wall.max(after),
        }
    }

    /// Proposes the intents of this region, once nobody else can show what they are about; `also` is what that is beside
    /// what is to be seen now. From then on the intents keep anybody from being granted a view of it.
    fn propose_begin(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
        also: Vec<Ino>,
    ) -> Result<(), KvError> {
        let Some(running) = self.txns.get(&txn) else {
            return Ok(());
        };
        let op = running
            .op
            .clone()
            .expect("an attempt that begins has its operation");
        let mut inos = also;
        inos.extend(touch::by_op(state, &op)?);
        let aside = running.header.aside.clone();
        let command = self.command(now, &running.header, CommandBody::Begin { txn, op });
        let job = Job::Coordinate {
            txn,
            stage: Stage::Begin,
        };
        self.propose_change(now, job, (command, Bytes::new()), inos, &aside);
        Ok(())
    }

    pub(super) fn join_transaction(
        &mut self,
        asker: Asker,
        session: SessionId,
        slot: SlotUse,
    ) -> Option<Asker> {
        let same = |(txn, running): &(&TxnId, &mut Txn)| {
            txn.session == session && txn.slot == slot && running.asker.is_some()
        };
        let (_, running) = self.txns.iter_mut().find(same)?;
        // When it asked again, this leadership may have been over.
        running.header.aside.generation = 0;
        running.asker.replace(asker)
    }

    pub(super) fn stage_applied(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
        stage: Stage,
        applied: Applied,
    ) -> Result<(), KvError> {
        match (stage, applied) {
            (Stage::Begin, Applied::Txn(TxnReply::Prepared)) => self.begun(now, state, txn)?,
            (Stage::Begin, Applied::Txn(TxnReply::Conflict(other)) | Applied::Blocked(other)) => {
                // The other may be dead: find out, so that it is not in the way for ever.
                self.resolve(now, state, other)?;
                self.pause(now, txn);
            }
            (Stage::Begin, Applied::Seen(inos)) => self.propose_begin(now, state, txn, inos)?,
            (Stage::Begin, Applied::Answer(answer)) => self.end(txn, answer),
            (Stage::Decide, applied) => self.decided(now, state, txn, applied)?,
            (Stage::Forget, _) => drop(self.txns.remove(&txn)),
            (stage, applied) => panic!("stage {stage:?} can't yield {applied:?}"),
        }
        Ok(())
    }

    fn begun(&mut self, now: Now, state: &dyn KvRead, txn: TxnId) -> Result<(), KvError> {
        let own = self.descriptor.places;
        let record = records::record(state, &txn)?;
        let record = record.expect("a transaction that was just begun has a record");
        let Some(running) = self.txns.get_mut(&txn) else {
            return Ok(());
        };
        running.remote = record
            .steps
            .into_iter()
            .filter(|step| !own.covers(step.places()))
            .collect();
        running.walks = running.op.as_ref().map(walks).unwrap_or_default();
        let lock: Vec<Step> = running
            .remote
            .iter()
            .filter(|step| is_lock(step))
            .cloned()
            .collect();
        if lock.is_empty() {
            self.walk_on(now, txn);
        } else {
            self.ask_participants(txn, Stage::Lock, lock);
        }
        Ok(())
    }

    /// Asks the regions of `steps` to prepare them.
    fn ask_participants(&mut self, txn: TxnId, stage: Stage, steps: Vec<Step>) {
        let mut by_places: BTreeMap<Places, Vec<Step>> = BTreeMap::new();
        for step in steps {
            by_places.entry(step.places()).or_default().push(step);
        }
        if let Some(running) = self.txns.get_mut(&txn) {
            running.pending = by_places.len();
        }
        for (places, steps) in by_places {
            let request = TxnRequest::Prepare { txn, steps };
            self.ask_txn(Job::Coordinate { txn, stage }, places, request);
        }
    }

    /// Looks at the next ancestor of a directory's new home, or goes on to prepare.
    fn walk_on(&mut self, now: Now, txn: TxnId) {
        let Some(running) = self.txns.get_mut(&txn) else {
            return;
        };
        let Some((moving, ancestor)) = running.walks.last().copied() else {
            let steps: Vec<Step> = running
                .remote
                .iter()
                .filter(|step| !is_lock(step))
                .cloned()
                .collect();
            if steps.is_empty() {
                return self.decide(now, txn);
            }
            return self.ask_participants(txn, Stage::Prepare, steps);
        };
        if moving == ancestor {
            running.failure = Some(TxnFailure::Error(FsError::Invalid));
            return self.decide(now, txn);
        }
        let token = self.begin(Job::Coordinate {
            txn,
            stage: Stage::Walk,
        });
        let query = MetaQuery::GetAttr { ino: ancestor };
        self.outputs.push_back(Output::AskQuery {
            token,
            place: ancestor.place(),
            query,
        });
    }

    pub(super) fn ancestor_answer(
        &mut self,
        now: Now,
        token: super::Token,
        answer: Option<Answer>,
    ) {
        let Some(Job::Coordinate { txn, .. }) = self.jobs.remove(&token) else {
            return;
        };
        let Some(running) = self.txns.get_mut(&txn) else {
            return;
        };
        match answer {
            Some(Answer::Meta(Ok(MetaReply::Inode { attr, .. }))) => {
                let (moving, ancestor) = running.walks.pop().expect("an ancestor was asked for");
                if attr.parent != ancestor {
                    running.walks.push((moving, attr.parent));
                }
                self.walk_on(now, txn);
            }
            Some(Answer::Meta(Err(error))) => {
                running.failure = Some(TxnFailure::Error(error));
                self.decide(now, txn);
            }
            _ => {
                running.failure = Some(TxnFailure::Conflict);
                self.decide(now, txn);
            }
        }
    }

    pub(super) fn participant_answered(
        &mut self,
        now: Now,
        _state: &dyn KvRead,
        txn: TxnId,
        stage: Stage,
        answer: Option<TxnReply>,
    ) {
        let Some(running) = self.txns.get_mut(&txn) else {
            return;
        };
        running.pending = running.pending.saturating_sub(1);
        if stage == Stage::Finish {
            running.untold |= answer != Some(TxnReply::Finished);
            // Nobody is told again before all have answered: of two answers of one participant, the second would count
            // for another that has not confirmed.
            if running.pending == 0 {
                if running.untold {
                    running.resume_at = Some(now.mono + TELL_AGAIN);
                } else {
                    self.forget(now, txn);
                }
            }
            return;
        }
        let failure = match answer {
            Some(TxnReply::Prepared) => None,
            Some(TxnReply::Failed(error)) => Some(TxnFailure::Error(error)),
            Some(TxnReply::Changed) => Some(TxnFailure::Changed),
            Some(
                TxnReply::Conflict(_)
                | TxnReply::Finished
                | TxnReply::Undecided
                | TxnReply::Decided(_),
            )
            | None => Some(TxnFailure::Conflict),
        };
        running.failure = likelier(running.failure.take(), failure);
        if running.pending > 0 {
            return;
        }
        if stage == Stage::Lock && running.failure.is_none() {
            self.walk_on(now, txn);
        } else {
            self.decide(now, txn);
        }
    }

    fn decide(&mut self, now: Now, txn: TxnId) {
        let Some(running) = self.txns.get_mut(&txn) else {
            return;
        };
        let failure = running.failure.clone();
        let decision = match &failure {
            None => Decision::Commit(stamp(now.wall, running.header.seen)),
            Some(_) => Decision::Abort,
        };
        running.decision = Some(decision);
        let header = running.header.clone();
        let mut command = self.command(
            now,
            &header,
            CommandBody::Decide {
                txn,
                decision,
                failure,
            },
        );
        // The decision is the coordinator's own: no split in between may undo it.
        command.epoch = self.descriptor.epoch;
        self.propose(
            Job::Coordinate {
                txn,
                stage: Stage::Decide,
            },
            command,
            Bytes::new(),
        );
    }

    /// The decision is in the log: the client is answered, then the participants are told.
    fn decided(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
        applied: Applied,
    ) -> Result<(), KvError> {
        let Some(running) = self.txns.get_mut(&txn) else {
            return Ok(());
        };
        let answer = match applied {
            // Nothing was decided: the region has another epoch by now. The record is taken up anew, or is elsewhere.
            Applied::Answer(
                answer @ Answer::Refused(Refusal::Epoch { .. } | Refusal::NoRegion),
            ) => {
                self.end(txn, answer);
                return Ok(());
            }
            Applied::Answer(answer) => answer,
            Applied::Txn(TxnReply::Decided(earlier)) => {
                running.decision = Some(earlier);
                Answer::Refused(Refusal::Busy)
            }
            Applied::Txn(_)
            | Applied::Distributed(_)
            | Applied::Blocked(_)
            | Applied::Seen(_)
            | Applied::Delegated(..) => {
                panic!("a decision yields the client's answer or an earlier decision")
            }
        };
        let conflict = running.failure == Some(TxnFailure::Conflict);
        let again = conflict && running.op.is_some() && running.attempts < ATTEMPTS_MAX;
        if again && running.asker.is_some() {
            self.attempt_again(now, txn);
        } else if let Some(asker) = running.asker.take() {
            let (header, op) = (running.header.clone(), running.op.clone());
            let views = match op {
                Some(op) if matches!(answer, Answer::Meta(Ok(_))) => {
                    self.views_after(now, state, &header, &op)?
                }
                Some(_) | None => None,
            };
            self.answer_viewed(asker, answer, views);
        }
        self.tell_participants(now, txn);
        Ok(())
    }

    /// Another attempt under a new name, after a pause that grows with the conflicts met.
    fn attempt_again(&mut self, now: Now, txn: TxnId) {
        let Some(running) = self.txns.get_mut(&txn) else {
            return;
        };
        let (asker, header, op) = (
            running.asker.take(),
            running.header.clone(),
            running.op.clone(),
        );
        let attempts = running.attempts + 1;
        let next = self.name(now, &header, txn.slot, txn.place);
        self.txns.insert(
            next,
            Txn {
                attempts,
                ..Txn::new(asker, header, op)
            },
        );
        self.pause(now, next);
    }

    fn pause(&mut self, now: Now, txn: TxnId) {
        let Some(attempts) = self.txns.get(&txn).map(|running| running.attempts) else {
            return;
        };
        let longest = u64::try_from(PAUSE.as_micros()).unwrap_or(u64::MAX) << attempts.min(8);
        let pause = Duration::from_micros(1 + self.random_below(longest));
        if let Some(running) = self.txns.get_mut(&txn) {
            running.attempts += 1;
            running.resume_at = Some(now.mono + pause);
            if running.attempts > ATTEMPTS_MAX {
                self.end(txn, Answer::Refused(Refusal::Busy));
            }
        }
    }

    /// Ends an attempt that left nothing behind.
    fn end(&mut self, txn: TxnId, answer: Answer) {
        if let Some(asker) = self.txns.remove(&txn).and_then(|running| running.asker) {
            self.answer(asker, answer);
        }
    }

    fn tell_participants(&mut self, now: Now, txn: TxnId) {
        let Some(running) = self.txns.get_mut(&txn) else {
            return;
        };
        let Some(decision) = running.decision else {
            return;
        };
        let mut places: Vec<Places> = running.remote.iter().map(Step::places).collect();
        places.sort_unstable();
        places.dedup();
        running.pending = places.len();
        running.untold = false;
        running.resume_at = None;
        if places.is_empty() {
            return self.forget(now, txn);
        }
        for places in places {
            let request = TxnRequest::Finish {
                txn,
                decision,
                places,
            };
            self.ask_txn(
                Job::Coordinate {
                    txn,
                    stage: Stage::Finish,
                },
                places,
                request,
            );
        }
    }

    /// Every participant has confirmed. Only a commit has left a record that must go.
    fn forget(&mut self, now: Now, txn: TxnId) {
        let decision = self.txns.get(&txn).and_then(|running| running.decision);
        match decision {
            Some(Decision::Commit(_)) => {
                let command = self.own_command(now, None, CommandBody::Forget { txn });
                let job = Job::Coordinate {
                    txn,
                    stage: Stage::Forget,
                };
                self.propose(job, command, Bytes::new());
            }
            Some(Decision::Abort) | None => drop(self.txns.remove(&txn)),
        }
    }

    /// Leadership is lost, or the engine gave the proposal up: whoever leads finds the record and goes on.
    pub(super) fn txn_unknown(&mut self, txn: TxnId) {
        self.end(txn, Answer::Refused(Refusal::NotLeader { leader: None }));
    }

    pub(super) fn txns_timeout(&self) -> Option<Instant> {
        self.txns
            .values()
            .filter_map(|running| running.resume_at)
            .min()
    }

    /// Goes on with transactions whose pause is over.
    pub(super) fn retry_transactions(
        &mut self,
        now: Now,
        state: &dyn KvRead,
    ) -> Result<(), KvError> {
        let due = |running: &Txn| running.resume_at.is_some_and(|at| at <= now.mono);
        let ready: Vec<TxnId> = self
            .txns
            .iter()
            .filter(|(_, running)| due(running))
            .map(|(txn, _)| *txn)
            .collect();
        for txn in ready {
            let Some(running) = self.txns.get_mut(&txn) else {
                continue;
            };
            running.resume_at = None;
            if running.decision.is_some() {
                self.tell_participants(now, txn);
            } else {
                self.propose_begin(now, state, txn, Vec::new())?;
            }
        }
        Ok(())
    }

    /// Takes over records that nobody here coordinates, a predecessor's or one's own after a proposal whose fate is
    /// unknown: what was decided is told, the rest is aborted.
    pub(super) fn resume_transactions(
        &mut self,
        now: Now,
        state: &dyn KvRead,
    ) -> Result<(), KvError> {
        let own = self.descriptor.places;
        for record in records::records(state, own)? {
            let txn = record.txn;
            if self.txns.contains_key(&txn) {
                continue;
            }
            let header = self.inherited_header(&txn);
            let remote = record
                .steps
                .into_iter()
                .filter(|step| !own.covers(step.places()));
            let mut running = Txn::new(None, header, None);
            running.remote = remote.collect();
            running.decision = record.decision;
            running.failure = record.decision.is_none().then_some(TxnFailure::Conflict);
            let decided = running.decision.is_some();
            self.txns.insert(txn, running);
            if decided {
                self.tell_participants(now, txn);
            } else {
                self.decide(now, txn);
            }
        }
        Ok(())
    }

    fn inherited_header(&self, txn: &TxnId) -> Header {
        Header {
            group: self.config.group,
            epoch: self.descriptor.epoch,
            session: txn.session,
            renewal: Renewal(0),
            slot: Some(txn.slot),
            seen: Timestamp::default(),
            aside: Aside::default(),
        }
    }

    /// A request of another region about a transaction.
    pub(super) fn start_txn_request(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        asker: Asker,
        header: Header,
        request: TxnRequest,
    ) -> Result<(), KvError> {
        let body = match request {
            TxnRequest::Prepare { txn, steps } => CommandBody::Prepare { txn, steps },
            TxnRequest::Finish {
                txn,
                decision,
                places,
            } => CommandBody::Finish {
                txn,
                decision,
                places,
            },
            outcome @ TxnRequest::Outcome { .. } => {
                let request = crate::request::Request {
                    header,
                    body: RequestBody::Txn(outcome),
                };
                self.start_query(asker, request);
                return Ok(());
            }
        };
        let operation = Operation {
            waiting: Waiting::Client(asker),
            header,
            body,
            payload: Bytes::new(),
            joined: false,
        };
        self.propose_operation(now, state, operation, Vec::new())
    }

    /// What became of a transaction whose record, if there is one, is here.
    pub(super) fn run_outcome(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        query: &Query,
        txn: TxnId,
        abort_if_old: bool,
    ) -> Result<(), KvError> {
        let reply = match records::record(state, &txn)? {
            None => TxnReply::Decided(Decision::Abort),
            Some(record) => match record.decision {
                Some(decision) => TxnReply::Decided(decision),
                None => {
                    if abort_if_old && is_old(now, &txn) {
                        self.give_up(txn);
                    }
                    TxnReply::Undecided
                }
            },
        };
        self.answer(query.asker, Answer::Txn(reply));
        Ok(())
    }

    /// Gives up an undecided transaction as soon as its participants have answered.
    fn give_up(&mut self, txn: TxnId) {
        if let Some(running) = self.txns.get_mut(&txn)
            && running.decision.is_none()
        {
            running.failure.get_or_insert(TxnFailure::Conflict);
        }
    }

    /// Finds out what became of a transaction whose intent is in the way here.
    pub(super) fn resolve(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
    ) -> Result<(), KvError> {
        if !self.descriptor.places.contains(txn.place) {
            let places = Places {
                start: txn.place.0,
                end: txn.place.0 + 1,
            };
            let request = TxnRequest::Outcome {
                txn,
                abort_if_old: is_old(now, &txn),
            };
            self.ask_txn(Job::Resolve { txn }, places, request);
            return Ok(());
        }
        match records::record(state, &txn)? {
            None => self.finish_here(now, txn, Decision::Abort),
            Some(record) => match record.decision {
                Some(decision) => self.finish_here(now, txn, decision),
                None => {
                    if is_old(now, &txn) {
                        self.give_up(txn);
                    }
                    self.give_up_blocked(now, state, txn)?;
                }
            },
        }
        Ok(())
    }

    pub(super) fn resolved(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
        answer: Option<TxnReply>,
    ) -> Result<(), KvError> {
        match answer {
            Some(TxnReply::Decided(decision)) => self.finish_here(now, txn, decision),
            Some(TxnReply::Undecided) => return self.give_up_blocked(now, state, txn),
            Some(
                TxnReply::Prepared
                | TxnReply::Failed(_)
                | TxnReply::Changed
                | TxnReply::Conflict(_)
                | TxnReply::Finished,
            )
            | None => self.refuse_blocked(txn),
        }
        Ok(())
    }

    fn finish_here(&mut self, now: Now, txn: TxnId, decision: Decision) {
        let places = self.descriptor.places;
        let command = self.own_command(
            now,
            None,
            CommandBody::Finish {
                txn,
                decision,
                places,
            },
        );
        self.propose(Job::FinishHere { txn }, command, Bytes::new());
    }
}
