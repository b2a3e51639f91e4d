//! Leases as a leader hands them out: admission, grants, recalls, takeovers (P8).
//!
//! Owns what surrounds the lease table: which sessions may hold leases at all (replicated), and the entries that shut a
//! dead holder out. Who conflicts with whom is the table's business, what came before this leadership `inherit`'s.

use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::lease::{LeaseTable, RecallOut, Ticket};
use super::port::{Asker, Output};
use super::queries::Query;
use super::{Job, Leader};
use crate::ids::SessionId;
use crate::limits::{LEASE_RENEWAL, LEASE_TERM, RAFT_HEARTBEAT};
use crate::place::Ino;
use crate::region::command::{Applied, CommandBody};
use crate::region::inode;
use crate::region::kv::{KvError, KvRead};
use crate::request::{
    Answer, Aside, Claim, Grant, LeaseDone, LeaseKind, MetaOp, MetaQuery, Recall, Refusal,
    RequestBody,
};
use crate::time::{Instant, Now};

/// A takeover that could not be ordered is tried again after this: a leader past openraft's lease is refused at once, for
/// as long as it is cut off.
const TAKEOVER_PAUSE: Duration = RAFT_HEARTBEAT;

/// A leader that was not confirmed for so long, by whoever asks or renews, may have been cut off from everybody.
const GAP_MAX: Duration = LEASE_RENEWAL.saturating_mul(2);

/// The leader's side of all leases of a region.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) table: LeaseTable,
    /// Sessions that may hold leases here: replicated, so that the next leader knows whom to wait for.
    pub(super) admitted: BTreeSet<SessionId>,
    /// Sessions whose admission is proposed, and the queries that wait for it.
    admitting: BTreeMap<SessionId, Vec<Query>>,
    /// Until then leases given by an earlier leader may still be in use; none from then on.
    pub(super) inherited_until: Option<Instant>,
    /// Sessions that were there before this leader and have not asserted to it: they may hold leases that it does not
    /// know of.
    pub(super) before: BTreeSet<SessionId>,
    /// What sessions asserted and this leader could not take up: nobody holds it, but something may be on its way.
    pub(super) doubts: BTreeSet<(Ino, SessionId)>,
    /// Inodes of which nobody can hold a lease that this leader does not know of, and nothing done under one can be on
    /// its way: made since, asserted anew by their holder, or fenced.
    pub(super) settled: BTreeSet<Ino>,
    /// Queries that wait until their inode is settled.
    settling: BTreeMap<Ino, Vec<Query>>,
    /// The term this leader leads in.
    pub(super) term: u64,
    /// Queries that wait for a lease or a flush.
    pub(super) waiting: BTreeMap<Ticket, (Ino, Query)>,
    /// Those of them that wait for what earlier leaders gave.
    pub(super) inheriting: BTreeSet<Ticket>,
    next_ticket: Ticket,
    taking_over: BTreeSet<(Ino, SessionId)>,
    /// None is begun before.
    takeovers_at: Instant,
    /// When this leadership was confirmed last.
    confirmed: Instant,
}

impl Leases {
    pub(super) fn new(now: Instant, term: u64, admitted: BTreeSet<SessionId>) -> Self {
        let skipped = cfg!(planted = "reassertion_skipped");
        let before = if skipped {
            BTreeSet::new()
        } else {
            admitted.clone()
        };
        let inherited_until = (!before.is_empty()).then(|| now + LEASE_TERM);
        Self {
            table: LeaseTable::new(term),
            before,
            doubts: BTreeSet::new(),
            settled: BTreeSet::new(),
            settling: BTreeMap::new(),
            term,
            admitted,
            admitting: BTreeMap::new(),
            inherited_until,
            waiting: BTreeMap::new(),
            inheriting: BTreeSet::new(),
            next_ticket: 0,
            taking_over: BTreeSet::new(),
            takeovers_at: now,
            confirmed: now,
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let inherited = self.inherited_until.filter(|_| !self.inheriting.is_empty());
        let overdue = self.table.next_overdue(&self.taking_over);
        let overdue = overdue.filter(|at| *at <= self.sure_until());
        [inherited, overdue.map(|at| at.max(self.takeovers_at))]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn takeover_failed(&mut self, now: Instant, ino: Ino, dead: SessionId) {
        self.taking_over.remove(&(ino, dead));
        self.takeovers_at = now + TAKEOVER_PAUSE;
    }

    /// Terms that end by then do so because their holder was silent, not because this leader was cut off.
    fn sure_until(&self) -> Instant {
        self.confirmed + LEASE_RENEWAL
    }

    /// This leader leads. One that could not be sure of that for a while has heard nobody: it holds nobody's silence
    /// against them.
    pub(super) fn confirmed(&mut self, now: Instant) {
        if now.since(self.confirmed) >= GAP_MAX {
            self.table.all_alive(now + LEASE_TERM);
        }
        self.confirmed = now;
    }

    /// The query waits until nothing is inherited any more that stands against it.
    fn wait_inherited(&mut self, ino: Ino, query: Query) {
        let ticket = self.ticket(ino, query);
        self.inheriting.insert(ticket);
    }

    fn ticket(&mut self, ino: Ino, query: Query) -> Ticket {
        self.next_ticket += 1;
        self.waiting.insert(self.next_ticket, (ino, query));
        self.next_ticket
    }
}

/// What became of a query's wish for a lease.
pub(super) enum Wish {
    /// Here it is, for the one who asked.
    Granted(Asker, Grant),
    /// Not now; the query may be answered without.
    Denied(Query),
    /// The query waits and will be run again.
    Waits,
}

impl Leader {
    /// Gives a lease when nobody stands against it and the session is admitted; asks for its admission otherwise.
    pub(super) fn grant_if_free(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        ino: Ino,
        session: SessionId,
        kind: LeaseKind,
    ) -> Result<Option<Grant>, KvError> {
        if !self.leases.admitted.contains(&session)
            || self.leases.inherited(session)
            || self.leases.unsettled(ino, session)
        {
            return Ok(None);
        }
        self.take_lease(now, state, ino, session, kind)
    }

    fn take_lease(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        ino: Ino,
        session: SessionId,
        kind: LeaseKind,
    ) -> Result<Option<Grant>, KvError> {
        // One that is being shut out gets nothing new before it is.
        if self.leases.taking_over.contains(&(ino, session)) {
            return Ok(None);
        }
        let holds = self.leases.table.holds(ino, session, kind);
        if !holds && self.is_viewed(now, ino, session, kind) {
            return Ok(None);
        }
        let Some((held, serial, recalls)) = self.leases.table.try_take(ino, session, kind) else {
            return Ok(None);
        };
        self.send_recalls(recalls);
        // The mount counts its term from when it asked, which was earlier.
        self.leases.table.alive(session, now.mono + LEASE_TERM);
        crate::region::query::grant(state, ino, held, serial)
    }

    /// A query wants a lease with its answer; a patient one waits for it.
    pub(super) fn wish(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        ino: Ino,
        kind: LeaseKind,
        patient: bool,
        query: Query,
    ) -> Result<Wish, KvError> {
        let claim = held_before(&query, self.leases.term);
        let session = query.request.header.session;
        if !self.leases.admitted.contains(&session) {
            self.ask_admission(now, session, query);
            return Ok(Wish::Waits);
        }
        if !self.leases.inherited(session) && self.leases.unsettled(ino, session) {
            // Who never gave it back and finds the same fence is the last holder: nobody else was let in since.
            let fence = inode::get(state, ino)?.map(|inode| inode.fence);
            if claim.is_none() || claim.map(|claim| claim.fence) != fence {
                self.settle(now, ino, Some(query));
                return Ok(Wish::Waits);
            }
            self.leases.settled.insert(ino);
        }
        if let Some(grant) = self.grant_if_free(now, state, ino, session, kind)? {
            return Ok(Wish::Granted(query.asker, grant));
        }
        if !patient {
            return Ok(Wish::Denied(query));
        }
        if self.leases.inherited(session) {
            self.leases.wait_inherited(ino, query);
            return Ok(Wish::Waits);
        }
        let ticket = self.leases.ticket(ino, query);
        let (recalls, former) = self.leases.table.wait(ino, session, kind, ticket);
        self.send_recalls(recalls);
        if let Some((_, former)) = former.and_then(|former| self.leases.waiting.remove(&former)) {
            self.refuse(former.asker, Refusal::Busy);
        }
        self.clear_views(now, ino);
        Ok(Wish::Waits)
    }

    /// Attributes are shown only when no holder that this leader never knew of may have changes of them: once its lease
    /// has run out, and it is shut out so that they never come. None when the query waits.
    pub(super) fn settle_shown(&mut self, now: Now, inos: &[Ino], query: Query) -> Option<Query> {
        let session = query.request.header.session;
        let unsettled = |ino: &&Ino| self.leases.unsettled(**ino, session);
        let unsettled: Vec<Ino> = inos.iter().filter(unsettled).copied().collect();
        let Some((first, rest)) = unsettled.split_first() else {
            return Some(query);
        };
        if self.leases.inherited(session) {
            self.leases.wait_inherited(*first, query);
            return None;
        }
        for ino in rest {
            self.settle(now, *ino, None);
        }
        self.settle(now, *first, Some(query));
        None
    }

    /// Waits until the exclusive holder of `ino`, if it is somebody else, has committed what it has.
    pub(super) fn flush_first(&mut self, ino: Ino, query: Query) -> Option<Query> {
        let session = query.request.header.session;
        if !self.leases.table.dirty_elsewhere(ino, session) {
            return Some(query);
        }
        let ticket = self.leases.ticket(ino, query);
        let recall = self.leases.table.wait_flush(ino, ticket);
        self.send_recalls(recall.into_iter().collect());
        None
    }

    /// Shuts out whoever held a lease of the inode before this leadership.
    fn settle(&mut self, now: Now, ino: Ino, query: Option<Query>) {
        let begins = !self.leases.settling.contains_key(&ino);
        let waiters = self.leases.settling.entry(ino).or_default();
        waiters.extend(query);
        if begins {
            let dead = SessionId::CLUSTER;
            self.propose_takeover(now, Job::Settle { ino }, ino, dead);
        }
    }

    /// A takeover is a change: it may cut what lies beyond the end.
    fn propose_takeover(&mut self, now: Now, job: Job, ino: Ino, dead: SessionId) {
        let body = CommandBody::Meta(MetaOp::Takeover { ino, dead });
        let command = self.own_command(now, None, body);
        let change = (command, Bytes::new());
        self.propose_change(now, job, change, alloc::vec![ino], &Aside::default());
    }

    pub(super) fn settled(&mut self, ino: Ino) {
        self.leases.settled.insert(ino);
        for query in self.leases.settling.remove(&ino).unwrap_or_default() {
            self.read_index(Job::Query(query));
        }
    }

    pub(super) fn settling_failed(&mut self, ino: Ino) {
        for query in self.leases.settling.remove(&ino).unwrap_or_default() {
            self.refuse(query.asker, Refusal::NotLeader { leader: None });
        }
    }

    pub(super) fn ask_admission(&mut self, now: Now, session: SessionId, query: Query) {
        self.begin_admission(now, session);
        self.leases
            .admitting
            .entry(session)
            .or_default()
            .push(query);
    }

    /// Sees to it that a session is among those that the next leader waits for.
    pub(super) fn begin_admission(&mut self, now: Now, session: SessionId) {
        if let Entry::Vacant(unasked) = self.leases.admitting.entry(session) {
            unasked.insert(Vec::new());
            let body = CommandBody::Meta(MetaOp::AdmitSession { session });
            let command = self.own_command(now, None, body);
            self.propose(Job::Admit { session }, command, Bytes::new());
        }
    }

    /// Whoever is not among those that the next leader waits for gets no lease: a session that is over is refused.
    pub(super) fn admitted(&mut self, _now: Now, session: SessionId, applied: &Applied) {
        if let Applied::Answer(Answer::Refused(refusal)) = applied {
            for query in self.leases.admitting.remove(&session).unwrap_or_default() {
                self.refuse(query.asker, refusal.clone());
            }
            return;
        }
        self.leases.admitted.insert(session);
        for query in self.leases.admitting.remove(&session).unwrap_or_default() {
            self.read_index(Job::Query(query));
        }
    }

    pub(super) fn admission_failed(&mut self, session: SessionId) {
        for query in self.leases.admitting.remove(&session).unwrap_or_default() {
            self.refuse(query.asker, Refusal::NotLeader { leader: None });
        }
    }

    /// A mount reports of a lease.
    pub(super) fn lease_done(&mut self, now: Now, session: SessionId, done: LeaseDone) {
        let (ino, serial) = (done.ino(), done.serial());
        if matches!(done, LeaseDone::Forgot(..)) {
            return self.forgot(now, (ino, session), serial);
        }
        if !self.leases.table.is_current(ino, session, serial) {
            return;
        }
        match done {
            LeaseDone::Released(..) => self.gave_back(now, ino, session, None),
            LeaseDone::Downgraded(..) => self.gave_back(now, ino, session, Some(LeaseKind::Shared)),
            LeaseDone::Flushed(_, _, round) => self.flushed(ino, session, round),
            LeaseDone::Forgot(..) => {}
        }
    }

    fn gave_back(&mut self, now: Now, ino: Ino, session: SessionId, keeps: Option<LeaseKind>) {
        self.flushed(ino, session, u64::MAX);
        self.leases.table.released(ino, session, keeps);
        self.next_turns(now, ino);
    }

    fn flushed(&mut self, ino: Ino, session: SessionId, round: u64) {
        for ticket in self.leases.table.flushed(ino, session, round) {
            self.run_again(ticket);
        }
    }

    /// Lets those whose turn has come go on. They hold the lease already; running their query again after a fresh
    /// read index confirms that this leader still leads when it says so.
    pub(super) fn next_turns(&mut self, now: Now, ino: Ino) {
        let views = &self.views;
        let viewed = |session, kind| {
            kind == LeaseKind::Exclusive && views.seen_elsewhere(now.mono, ino, session)
        };
        let until = now.mono + LEASE_TERM;
        let (turns, recalls) = self.leases.table.turns(ino, until, viewed);
        self.send_recalls(recalls);
        for ticket in turns {
            self.run_again(ticket);
        }
        self.clear_views(now, ino);
    }

    /// Whether somebody else may show attributes that a lease of this kind would let its holder change.
    fn is_viewed(&self, now: Now, ino: Ino, session: SessionId, kind: LeaseKind) -> bool {
        kind == LeaseKind::Exclusive && self.views.seen_elsewhere(now.mono, ino, session)
    }

    /// Recalls the views in the way of who waits first for a lease. When the last is gone it is its turn.
    fn clear_views(&mut self, now: Now, ino: Ino) {
        if let Some((session, LeaseKind::Exclusive)) = self.leases.table.first_waiting(ino) {
            let recalls = self.views.recall_others(now.mono, ino, session);
            self.send_view_recalls(recalls);
        }
    }

    pub(super) fn run_again(&mut self, ticket: Ticket) {
        if let Some((_, query)) = self.leases.waiting.remove(&ticket) {
            self.read_index(Job::Query(query));
        }
    }

    fn send_recalls(&mut self, recalls: Vec<RecallOut>) {
        let group = self.config.group;
        for RecallOut {
            session,
            ino,
            serial,
            round,
            want,
        } in recalls
        {
            let recall = Recall {
                group,
                ino,
                serial,
                round,
                want,
            };
            self.outputs.push_back(Output::Recall { session, recall });
        }
    }

    /// Shuts out recalled holders whose term is over, and ends the wait for leases of an earlier leader.
    pub(super) fn take_over_the_dead(&mut self, now: Now) {
        if self
            .leases
            .inherited_until
            .is_some_and(|until| until <= now.mono)
        {
            self.leases.inherited_until = None;
            self.all_wait_again(now);
        }
        if now.mono < self.leases.takeovers_at {
            return;
        }
        for (ino, dead) in self
            .leases
            .table
            .overdue(now.mono.min(self.leases.sure_until()))
        {
            if self.leases.taking_over.insert((ino, dead)) {
                self.propose_takeover(now, Job::Takeover { ino, dead }, ino, dead);
            }
        }
    }

    pub(super) fn taken_over(&mut self, now: Now, ino: Ino, dead: SessionId) {
        self.leases.taking_over.remove(&(ino, dead));
        self.gave_back(now, ino, dead, None);
    }

    /// What a session held is shut out by a fence before it goes to others: its writes may still be on their way.
    pub(super) fn leases_of_ended(&mut self, now: Now, session: SessionId) {
        self.leases.admitted.remove(&session);
        for ino in self.leases.table.of_session(session) {
            for ticket in self.leases.table.drop_waits(ino, session) {
                if let Some((_, query)) = self.leases.waiting.remove(&ticket) {
                    self.answer(query.asker, Answer::Refused(Refusal::SessionEnded));
                }
            }
            self.next_turns(now, ino);
        }
        self.leases.table.condemn(session);
        self.views.end(session);
        self.expire_views(now);
        self.take_over_the_dead(now);
    }
}

/// What the query's session holds of what it asks for, by the grant of an earlier leader.
fn held_before(query: &Query, term: u64) -> Option<Claim> {
    let RequestBody::MetaQuery(MetaQuery::Open { held, .. }) = &query.request.body else {
        return None;
    };
    held.filter(|claim| claim.serial.term < term)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    /// A leader that was cut off span for as long as it was: its takeover was refused and due again at the same moment.
    #[test]
    fn a_takeover_that_failed_is_due_again_later() {
        let (ino, dead) = (Ino::new(Place(5), 1), SessionId(1));
        let mut leases = Leases::new(Instant(0), 1, BTreeSet::new());
        leases.table.alive(dead, Instant(100));
        leases.table.try_take(ino, dead, LeaseKind::Exclusive);
        leases.table.wait(ino, SessionId(2), LeaseKind::Shared, 1);
        assert_eq!(leases.timeout(), Some(Instant(100)));
        leases.taking_over.insert((ino, dead));
        assert_eq!(leases.timeout(), None);
        leases.takeover_failed(Instant(150), ino, dead);
        assert_eq!(leases.timeout(), Some(Instant(150) + TAKEOVER_PAUSE));
    }
}
