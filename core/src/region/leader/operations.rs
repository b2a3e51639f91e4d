//! Operations: from a request to a proposal to an answer.
//!
//! Owns which operations are under way, so that a repetition joins its original instead of being proposed beside it,
//! and what follows when one is applied. What an operation *does* is apply's business.

use alloc::vec::Vec;
use bytes::Bytes;

use super::port::{Asker, Output};
use super::{Job, Leader, queries};
use crate::ids::SessionId;
use crate::place::Ino;
use crate::region::command::{Applied, CommandBody};
use crate::region::kv::{KvError, KvRead};
use crate::region::slot;
use crate::region::touch;
use crate::request::{
    Answer, Aside, DataOp, Header, LeaseKind, MetaOp, MetaReply, Refusal, Request, RequestBody,
    SlotUse,
};
use crate::time::Now;
use crate::txn::TxnId;

/// An operation under way.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) waiting: Waiting,
    pub(super) header: Header,
    pub(super) body: CommandBody,
    pub(super) payload: Bytes,
    /// Its asker is not the first one: when it asked, this leadership may have been over already, so nothing is granted
    /// that lasts from then on.
    pub(super) joined: bool,
}

/// Who waits for it.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A client; the last to ask under this slot and sequence.
    Client(Asker),
    /// A data query that needed a fence raised first.
    Query(queries::Query),
}

impl Leader {
    pub(super) fn start_operation(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        asker: Asker,
        request: Request,
        payload: Bytes,
    ) -> Result<(), KvError> {
        let Request { header, body } = request;
        let body = match body {
            RequestBody::MetaOp(op) => CommandBody::Meta(op),
            RequestBody::DataOp(op) => CommandBody::Data(op),
            RequestBody::MetaQuery(_)
            | RequestBody::DataQuery(_)
            | RequestBody::LeaseDone(_)
            | RequestBody::Txn(_) => panic!("only operations are started as operations"),
        };
        if let Some(slot) = header.slot
            && self.join(asker, header.session, slot)
        {
            return Ok(());
        }
        let operation = Operation {
            waiting: Waiting::Client(asker),
            header,
            body,
            payload,
            joined: false,
        };
        if let Some((ino, by)) = Self::awaits_locks(state, &operation)? {
            self.await_locks(now, ino, by, Job::Operation(operation));
            return Ok(());
        }
        self.go_on(now, state, operation, false)
    }

    /// Proposes an operation whose session has the lease it needs. That one has not is said only by a leader that was
    /// `confirmed` since: a deposed one knows nothing of the leases that its successor gave.
    fn go_on(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        operation: Operation,
        confirmed: bool,
    ) -> Result<(), KvError> {
        let Header { session, slot, .. } = operation.header;
        let Waiting::Client(asker) = operation.waiting else {
            panic!("only what a client asks for needs a lease");
        };
        if !self.lacks_lease(session, &operation.body) {
            self.propose_operation(now, state, operation, Vec::new())?;
        } else if let Some(answer) = slot::earlier(state, session, slot)? {
            // What was done under an earlier leader is no less done (P6).
            self.answer(asker, answer);
        } else if self.leases.awaits(session) {
            // It may hold one that this leader will hear of.
            self.refuse(asker, Refusal::Busy);
        } else if confirmed || cfg!(planted = "no_lease_unconfirmed") {
            self.refuse(asker, Refusal::NoLease);
        } else {
            self.read_index(Job::Unleased(operation));
        }
        Ok(())
    }

    /// This leader still leads, or did when it was asked to.
    pub(super) fn unleased(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        operation: Operation,
    ) -> Result<(), KvError> {
        self.go_on(now, state, operation, true)
    }

    /// Proposes an operation once nobody else can show what it changes; `also` is what it changes beside what is to be
    /// seen now.
    pub(super) fn propose_operation(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        operation: Operation,
        also: Vec<Ino>,
    ) -> Result<(), KvError> {
        let mut inos = also;
        match &operation.body {
            CommandBody::Meta(op) => inos.extend(touch::by_op(state, op)?),
            CommandBody::Prepare { steps, .. } => inos.extend(touch::by_steps(steps)),
            CommandBody::Data(_)
            | CommandBody::Begin { .. }
            | CommandBody::Decide { .. }
            | CommandBody::Finish { .. }
            | CommandBody::Forget { .. } => {}
        }
        let command = self.command(now, &operation.header, operation.body.clone());
        let payload = operation.payload.clone();
        let aside = operation.header.aside.clone();
        self.propose_change(
            now,
            Job::Operation(operation),
            (command, payload),
            inos,
            &aside,
        );
        Ok(())
    }

    /// Content changes only under the exclusive lease. The fence says so again when applied.
    fn lacks_lease(&self, session: SessionId, body: &CommandBody) -> bool {
        let CommandBody::Meta(MetaOp::Content { ino, .. }) = body else {
            return false;
        };
        !self.leases.table.holds(*ino, session, LeaseKind::Exclusive)
    }

    /// Joins an operation that is under way under the same slot and sequence: its former asker has given up.
    fn join(&mut self, asker: Asker, session: SessionId, slot: SlotUse) -> bool {
        let mut former = None;
        for job in self.jobs.values_mut() {
            if let Job::Operation(Operation {
                waiting: Waiting::Client(waits),
                header,
                joined,
                ..
            }) = job
                && header.session == session
                && header.slot == Some(slot)
            {
                *joined = true;
                former = Some(core::mem::replace(waits, asker));
                break;
            }
        }
        if former.is_none() {
            former = self.join_transaction(asker, session, slot);
        }
        let Some(former) = former else { return false };
        self.refuse(former, Refusal::Busy);
        true
    }

    pub(super) fn operation_applied(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        operation: Operation,
        applied: Applied,
    ) -> Result<(), KvError> {
        match (applied, operation.waiting) {
            (Applied::Answer(answer), Waiting::Client(asker)) => {
                let (mut header, mut body) = (operation.header, operation.body);
                if operation.joined {
                    header.aside = Aside::default();
                    if let CommandBody::Meta(MetaOp::Make { lease, .. }) = &mut body {
                        *lease = None;
                    }
                }
                self.operation_done(now, state, asker, &header, &body, answer)
            }
            (Applied::Seen(inos), waiting) => {
                let again = Operation {
                    waiting,
                    ..operation
                };
                self.propose_operation(now, state, again, inos)
            }
            (Applied::Delegated(ino, by), waiting) => {
                let again = Operation {
                    waiting,
                    ..operation
                };
                self.await_locks(now, ino, by, Job::Operation(again));
                Ok(())
            }
            (Applied::Answer(Answer::Refused(refusal)), Waiting::Query(query)) => {
                self.refuse(query.asker, refusal);
                Ok(())
            }
            (Applied::Answer(Answer::Data(Err(error))), Waiting::Query(query)) => {
                self.answer(query.asker, Answer::Data(Err(error)));
                Ok(())
            }
            (Applied::Answer(_), Waiting::Query(query)) => self.run_query(now, state, query),
            (Applied::Distributed(_), Waiting::Client(asker)) => {
                let mut header = operation.header;
                if operation.joined {
                    header.aside.generation = 0;
                }
                self.begin_transaction(now, state, asker, header, operation.body)
            }
            (Applied::Blocked(txn), waiting) => {
                let blocked = Operation {
                    waiting,
                    ..operation
                };
                self.block(now, state, txn, Job::Operation(blocked))
            }
            (Applied::Txn(reply), Waiting::Client(asker)) => {
                self.answer(asker, Answer::Txn(reply));
                Ok(())
            }
            (applied, Waiting::Query(query)) => {
                panic!("raising a fence for {query:?} yields an answer, not {applied:?}")
            }
        }
    }

    /// Answers a client; a file that was just made comes with its lease when that was asked for.
    fn operation_done(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        asker: Asker,
        header: &Header,
        body: &CommandBody,
        mut answer: Answer,
    ) -> Result<(), KvError> {
        if let CommandBody::Meta(MetaOp::Make {
            lease: Some(kind), ..
        }) = body
            && let Answer::Meta(Ok(MetaReply::Made {
                attr,
                existed,
                grant,
            })) = &mut answer
        {
            if !*existed {
                self.leases.nobody_held(attr.ino);
            }
            *grant = self.grant_if_free(now, state, attr.ino, header.session, *kind)?;
        }
        let views = match (body, &answer) {
            (CommandBody::Meta(op), Answer::Meta(Ok(_))) => {
                self.views_after(now, state, header, op)?
            }
            (_, _) => None,
        };
        self.answer_viewed(asker, answer, views);
        Ok(())
    }

    pub(super) fn operation_unknown(&mut self, operation: Operation) {
        let asker = match operation.waiting {
            Waiting::Client(asker) => asker,
            Waiting::Query(query) => query.asker,
        };
        self.refuse(asker, Refusal::NotLeader { leader: None });
    }

    /// Raises a chunk's fence, then runs the query again.
    pub(super) fn raise_fence(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        query: queries::Query,
        op: DataOp,
    ) -> Result<(), KvError> {
        let operation = Operation {
            header: query.request.header.clone(),
            waiting: Waiting::Query(query),
            body: CommandBody::Data(op),
            payload: Bytes::new(),
            joined: false,
        };
        self.propose_operation(now, state, operation, Vec::new())
    }

    /// Something met an intent: it waits until the transaction's outcome is known.
    pub(super) fn block(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
        job: Job,
    ) -> Result<(), KvError> {
        let token = self.begin(job);
        let waiters = self.blocked.entry(txn).or_default();
        waiters.push(token);
        if waiters.len() > 1 {
            return Ok(());
        }
        self.resolve(now, state, txn)
    }

    /// The transaction in the way is gone: those that waited go on.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a broken law, whatever else it is"
    )]
    pub(super) fn unblock(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
    ) -> Result<(), KvError> {
        for job in self.take_blocked(txn) {
            match job {
                Job::Operation(operation) => {
                    self.propose_operation(now, state, operation, Vec::new())?;
                }
                Job::Query(query) => self.read_index(Job::Query(query)),
                job => panic!("only requests are blocked, not {job:?}"),
            }
        }
        Ok(())
    }

    /// The transaction in the way is undecided: a reader takes the old value, a writer tries again later (P7).
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a broken law, whatever else it is"
    )]
    pub(super) fn give_up_blocked(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        txn: TxnId,
    ) -> Result<(), KvError> {
        for job in self.take_blocked(txn) {
            match job {
                Job::Operation(operation) => match operation.waiting {
                    Waiting::Client(asker) => self.refuse(asker, Refusal::Busy),
                    Waiting::Query(query) => self.refuse(query.asker, Refusal::Busy),
                },
                Job::Query(query) => self.read_past(now, state, query, txn)?,
                job => panic!("only requests are blocked, not {job:?}"),
            }
        }
        Ok(())
    }

    /// What became of the transaction in the way can't be learnt now: it may be committed, so nobody may take the old
    /// value either; clients ask again (P7).
    pub(super) fn refuse_blocked(&mut self, txn: TxnId) {
        for job in self.take_blocked(txn) {
            if let Job::Operation(Operation {
                waiting: Waiting::Client(asker),
                ..
            })
            | Job::Operation(Operation {
                waiting: Waiting::Query(queries::Query { asker, .. }),
                ..
            })
            | Job::Query(queries::Query { asker, .. }) = job
            {
                self.refuse(asker, Refusal::Busy);
            }
        }
    }

    fn take_blocked(&mut self, txn: TxnId) -> Vec<Job> {
        let tokens = self.blocked.remove(&txn).unwrap_or_default();
        tokens
            .iter()
            .filter_map(|token| self.jobs.remove(token))
            .collect()
    }

    /// A session is over: its locks go, its earlier proposals are refused from here on.
    pub(super) fn end_session(&mut self, now: Now, session: SessionId) {
        let body = CommandBody::Meta(MetaOp::EndSession { session });
        let command = self.own_command(now, None, body);
        self.propose(Job::Unawaited, command, Bytes::new());
        self.leases_of_ended(now, session);
    }

    pub(super) fn ask_open(&mut self, session: SessionId, inos: Vec<Ino>) {
        self.outputs.push_back(Output::AskOpen { session, inos });
    }
}
