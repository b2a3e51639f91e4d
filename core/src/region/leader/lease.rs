//! Who may cache which file's content: the lease table of one region's leader (P8).
//!
//! Owns holders, the queue of those who wait, and which recalls are out. Deliberately knows no state, message or clock:
//! it is told what happened and answers what follows. Conflicts are decided here alone.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::ids::SessionId;
use crate::place::Ino;
use crate::request::{LeaseKind, LeaseSerial, RecallKind};
use crate::time::Instant;

/// Someone who waits for a lease or a flush; the leader's own name for the request.
pub(super) type Ticket = u64;

/// A recall to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecallOut {
    pub(super) session: SessionId,
    pub(super) ino: Ino,
    pub(super) serial: LeaseSerial,
    /// Of a flush: which.
    pub(super) round: u64,
    pub(super) want: RecallKind,
}

#[derive(Debug)]
struct Holder {
    kind: LeaseKind,
    /// The last grant made to it.
    serial: LeaseSerial,
    /// The strongest recall that is out.
    recalled: Option<RecallKind>,
}

#[derive(Debug)]
struct Waiter {
    session: SessionId,
    kind: LeaseKind,
    ticket: Ticket,
}

#[derive(Debug, Default)]
struct File {
    holders: BTreeMap<SessionId, Holder>,
    queue: VecDeque<Waiter>,
    /// Those who wait for the exclusive holder to commit what it has, each in a round of its own.
    flushes: Vec<(u64, Ticket)>,
    round: u64,
}

/// All leases of one region.
#[derive(Debug, Default)]
pub(super) struct LeaseTable {
    files: BTreeMap<Ino, File>,
    /// Until when each session's leases here are good, by this machine's clock.
    terms: BTreeMap<SessionId, Instant>,
    last_serial: LeaseSerial,
}

impl LeaseSerial {
    fn next(&mut self) -> Self {
        self.number += 1;
        *self
    }
}

impl File {
    fn conflicts(&self, session: SessionId, kind: LeaseKind) -> bool {
        self.holders.iter().any(|(holder, held)| {
            *holder != session
                && (kind == LeaseKind::Exclusive || held.kind == LeaseKind::Exclusive)
        })
    }

    fn others_first(&self, session: SessionId) -> bool {
        self.queue
            .front()
            .is_some_and(|first| first.session != session)
    }

    fn hold(&mut self, session: SessionId, kind: LeaseKind, serial: LeaseSerial) -> LeaseKind {
        let fresh = Holder {
            kind,
            serial,
            recalled: None,
        };
        let held = self.holders.entry(session).or_insert(fresh);
        held.kind = held.kind.max(kind);
        held.serial = serial;
        // A recall that is out names an earlier grant, so its answer will be history: it is sent anew.
        held.recalled = None;
        held.kind
    }

    /// Who waits asks again: a recall may be lost with its connection, and a holder that goes on renewing its lease would
    /// never be overdue.
    fn recall_anew(&mut self) {
        for held in self.holders.values_mut() {
            held.recalled = held.recalled.filter(|want| *want == RecallKind::Flush);
        }
    }

    /// The recalls that `kind` for `session` needs and that are not out yet.
    fn recalls(&mut self, ino: Ino, session: SessionId, kind: LeaseKind) -> Vec<RecallOut> {
        let want = match kind {
            LeaseKind::Shared => RecallKind::Share,
            LeaseKind::Exclusive => RecallKind::Release,
        };
        let in_the_way =
            |held: &Holder| kind == LeaseKind::Exclusive || held.kind == LeaseKind::Exclusive;
        let mut out = Vec::new();
        for (holder, held) in &mut self.holders {
            if *holder != session && in_the_way(held) && held.recalled < Some(want) {
                held.recalled = Some(want);
                out.push(RecallOut {
                    session: *holder,
                    ino,
                    serial: held.serial,
                    round: 0,
                    want,
                });
            }
        }
        out
    }
}

impl LeaseTable {
    /// The table of a leader in this term; nobody holds anything yet.
    pub(super) fn new(term: u64) -> Self {
        Self {
            last_serial: LeaseSerial { term, number: 0 },
            ..Self::default()
        }
    }

    /// A session was heard of: its leases are good until `until`.
    pub(super) fn alive(&mut self, session: SessionId, until: Instant) {
        let term = self.terms.entry(session).or_insert(until);
        *term = (*term).max(until);
    }

    /// Nobody's leases run out before `until`.
    pub(super) fn all_alive(&mut self, until: Instant) {
        for term in self.terms.values_mut() {
            *term = (*term).max(until);
        }
    }

    /// Takes the lease if nobody holds or awaits one in conflict; what is then held.
    pub(super) fn try_take(
        &mut self,
        ino: Ino,
        session: SessionId,
        kind: LeaseKind,
    ) -> Option<(LeaseKind, LeaseSerial, Vec<RecallOut>)> {
        let file = self.files.entry(ino).or_default();
        let holds = file
            .holders
            .get(&session)
            .is_some_and(|held| held.kind >= kind);
        if !holds && (file.conflicts(session, kind) || file.others_first(session)) {
            return None;
        }
        let serial = self.last_serial.next();
        let held = file.hold(session, kind, serial);
        let mut recalls = self.recall_for_first(ino);
        recalls.extend(self.flush_anew(ino));
        Some((held, serial, recalls))
    }

    /// Takes up a lease that an earlier leader granted (P8); false when somebody stands against it.
    pub(super) fn take_up(&mut self, ino: Ino, session: SessionId, kind: LeaseKind) -> bool {
        let serial = LeaseSerial::taken_up(self.last_serial.term);
        let file = self.files.entry(ino).or_default();
        if file.conflicts(session, kind) {
            self.tidy(ino);
            return false;
        }
        // What this leader has granted since stands: its serial is the later one.
        if !file.holders.contains_key(&session) {
            file.hold(session, kind, serial);
        }
        true
    }

    /// Those who wait for a flush wait for the exclusive holder's latest grant.
    fn flush_anew(&mut self, ino: Ino) -> Option<RecallOut> {
        let file = self.files.get_mut(&ino)?;
        let exclusive = |(_, held): &(&SessionId, &mut Holder)| held.kind == LeaseKind::Exclusive;
        let (session, held) = file.holders.iter_mut().find(exclusive)?;
        if file.flushes.is_empty() || held.recalled.is_some() {
            return None;
        }
        let want = RecallKind::Flush;
        held.recalled = Some(want);
        Some(RecallOut {
            session: *session,
            ino,
            serial: held.serial,
            round: file.round,
            want,
        })
    }

    /// Waits for the lease behind those who came earlier. A session that waits already keeps its turn and waits under
    /// the new ticket; the old one is returned.
    pub(super) fn wait(
        &mut self,
        ino: Ino,
        session: SessionId,
        kind: LeaseKind,
        ticket: Ticket,
    ) -> (Vec<RecallOut>, Option<Ticket>) {
        let file = self.files.entry(ino).or_default();
        let again = file
            .queue
            .iter_mut()
            .find(|waiter| waiter.session == session && waiter.kind == kind)
            .map(|waiter| core::mem::replace(&mut waiter.ticket, ticket));
        if again.is_none() {
            file.queue.push_back(Waiter {
                session,
                kind,
                ticket,
            });
        } else if !cfg!(planted = "lost_recall_not_repeated") {
            file.recall_anew();
        }
        (self.recall_for_first(ino), again)
    }

    /// The recalls that the first in the queue needs.
    fn recall_for_first(&mut self, ino: Ino) -> Vec<RecallOut> {
        let Some(file) = self.files.get_mut(&ino) else {
            return Vec::new();
        };
        let Some((session, kind)) = file.queue.front().map(|first| (first.session, first.kind))
        else {
            return Vec::new();
        };
        file.recalls(ino, session, kind)
    }

    /// Whose turn has come: the tickets of those at the head of the queue that conflict with nobody any more. They are
    /// taken from the queue and hold their lease from now on, until `until` if nothing is heard of them. What is `held_up`
    /// for another reason waits on.
    pub(super) fn turns(
        &mut self,
        ino: Ino,
        until: Instant,
        held_up: impl Fn(SessionId, LeaseKind) -> bool,
    ) -> (Vec<Ticket>, Vec<RecallOut>) {
        let mut tickets = Vec::new();
        if let Some(file) = self.files.get_mut(&ino) {
            while let Some(first) = file.queue.front() {
                if file.conflicts(first.session, first.kind) || held_up(first.session, first.kind) {
                    break;
                }
                let first = file.queue.pop_front().expect("the queue has a front");
                let serial = self.last_serial.next();
                file.hold(first.session, first.kind, serial);
                let term = self.terms.entry(first.session).or_insert(until);
                *term = (*term).max(until);
                tickets.push(first.ticket);
            }
        }
        (tickets, self.recall_for_first(ino))
    }

    /// Whether `serial` is the last grant made to `session`: what concerns an older one is history.
    pub(super) fn is_current(&self, ino: Ino, session: SessionId, serial: LeaseSerial) -> bool {
        let file = self.files.get(&ino);
        file.and_then(|file| file.holders.get(&session))
            .is_some_and(|held| held.serial == serial)
    }

    /// A session gave its lease back, or keeps only a shared one.
    pub(super) fn released(&mut self, ino: Ino, session: SessionId, keeps: Option<LeaseKind>) {
        let Some(file) = self.files.get_mut(&ino) else {
            return;
        };
        match keeps {
            None => drop(file.holders.remove(&session)),
            Some(kind) => {
                if let Some(held) = file.holders.get_mut(&session) {
                    held.kind = held.kind.min(kind);
                    held.recalled = None;
                }
            }
        }
        self.tidy(ino);
    }

    /// Whether `session` holds at least `kind`.
    pub(super) fn holds(&self, ino: Ino, session: SessionId, kind: LeaseKind) -> bool {
        let file = self.files.get(&ino);
        file.and_then(|file| file.holders.get(&session))
            .is_some_and(|held| held.kind >= kind)
    }

    /// Who waits first, and for what.
    pub(super) fn first_waiting(&self, ino: Ino) -> Option<(SessionId, LeaseKind)> {
        let first = self.files.get(&ino)?.queue.front()?;
        Some((first.session, first.kind))
    }

    /// Whether somebody else than `session` holds the exclusive lease or waits for it.
    pub(super) fn written_elsewhere(&self, ino: Ino, session: SessionId) -> bool {
        self.files.get(&ino).is_some_and(|file| {
            let waits =
                |waiter: &Waiter| waiter.session != session && waiter.kind == LeaseKind::Exclusive;
            file.conflicts(session, LeaseKind::Shared) || file.queue.iter().any(waits)
        })
    }

    /// Whether somebody else than `session` may have changes of the inode that are not committed.
    pub(super) fn dirty_elsewhere(&self, ino: Ino, session: SessionId) -> bool {
        self.files
            .get(&ino)
            .is_some_and(|file| file.conflicts(session, LeaseKind::Shared))
    }

    /// Waits until the exclusive holder has committed what it has.
    pub(super) fn wait_flush(&mut self, ino: Ino, ticket: Ticket) -> Option<RecallOut> {
        let file = self.files.get_mut(&ino)?;
        let (session, held) = file
            .holders
            .iter_mut()
            .find(|(_, held)| held.kind == LeaseKind::Exclusive)?;
        // A flush that is already under way began before this request and may miss what came in between: the next
        // ticket asks once more.
        file.round += 1;
        file.flushes.push((file.round, ticket));
        held.recalled = held.recalled.max(Some(RecallKind::Flush));
        Some(RecallOut {
            session: *session,
            ino,
            serial: held.serial,
            round: file.round,
            want: RecallKind::Flush,
        })
    }

    /// The flush recall of a round was answered, or its holder is gone (any round): those who waited for it. Who asked
    /// later waits on: what was written between its holder's flush and the later question is not committed.
    pub(super) fn flushed(&mut self, ino: Ino, session: SessionId, round: u64) -> Vec<Ticket> {
        let Some(file) = self.files.get_mut(&ino) else {
            return Vec::new();
        };
        if let Some(held) = file.holders.get_mut(&session)
            && held.recalled == Some(RecallKind::Flush)
            && round >= file.round
        {
            held.recalled = None;
        }
        let (over, rest) = core::mem::take(&mut file.flushes)
            .into_iter()
            .partition::<Vec<_>, _>(|(asked, _)| *asked <= round);
        file.flushes = rest;
        over.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// Holders that are recalled and whose term is over: to be shut out by a takeover.
    pub(super) fn overdue(&self, now: Instant) -> Vec<(Ino, SessionId)> {
        let dead = |session: &SessionId| self.terms.get(session).is_none_or(|until| *until <= now);
        let mut out = Vec::new();
        for (ino, file) in &self.files {
            for (session, held) in &file.holders {
                if held.recalled.is_some() && dead(session) {
                    out.push((*ino, *session));
                }
            }
        }
        out
    }

    /// When the next recalled holder's term is over; those in `under_way` are being shut out already.
    pub(super) fn next_overdue(&self, under_way: &BTreeSet<(Ino, SessionId)>) -> Option<Instant> {
        let mut next = None;
        for (ino, file) in &self.files {
            let recalled = file
                .holders
                .iter()
                .filter(|(_, held)| held.recalled.is_some());
            for (session, _) in recalled {
                if !under_way.contains(&(*ino, *session)) {
                    let until = self.terms.get(session).copied().unwrap_or_default();
                    next = Some(next.map_or(until, |next: Instant| next.min(until)));
                }
            }
        }
        next
    }

    /// A session is over: what it held is to be taken over at once.
    pub(super) fn condemn(&mut self, session: SessionId) {
        self.terms.remove(&session);
        for file in self.files.values_mut() {
            if let Some(held) = file.holders.get_mut(&session) {
                held.recalled = Some(RecallKind::Release);
            }
        }
    }

    /// The inodes a session holds or awaits.
    pub(super) fn of_session(&self, session: SessionId) -> Vec<Ino> {
        let concerns = |file: &File| {
            file.holders.contains_key(&session)
                || file.queue.iter().any(|waiter| waiter.session == session)
        };
        self.files
            .iter()
            .filter(|(_, file)| concerns(file))
            .map(|(ino, _)| *ino)
            .collect()
    }

    /// A session is over: nothing of it is left. Returns the tickets it waited with.
    pub(super) fn drop_waits(&mut self, ino: Ino, session: SessionId) -> Vec<Ticket> {
        let Some(file) = self.files.get_mut(&ino) else {
            return Vec::new();
        };
        let gone = file.queue.iter().filter(|waiter| waiter.session == session);
        let tickets = gone.map(|waiter| waiter.ticket).collect();
        file.queue.retain(|waiter| waiter.session != session);
        tickets
    }

    fn tidy(&mut self, ino: Ino) {
        let idle = |file: &File| {
            file.holders.is_empty() && file.queue.is_empty() && file.flushes.is_empty()
        };
        if self.files.get(&ino).is_some_and(idle) {
            self.files.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const C: SessionId = SessionId(3);

    fn file() -> Ino {
        Ino::new(Place(5), 1)
    }

    fn take(table: &mut LeaseTable, session: SessionId, kind: LeaseKind) -> Option<LeaseKind> {
        table.try_take(file(), session, kind).map(|(held, ..)| held)
    }

    #[test]
    fn what_is_taken_up_is_held_under_a_serial_before_all_grants() {
        let mut table = LeaseTable::new(7);
        assert!(table.take_up(file(), A, LeaseKind::Exclusive));
        let serial = LeaseSerial::taken_up(7);
        assert!(table.is_current(file(), A, serial));
        assert!(
            !table.take_up(file(), B, LeaseKind::Shared),
            "A is alone with it"
        );
        assert_eq!(take(&mut table, B, LeaseKind::Shared), None);
        let (recalls, _) = table.wait(file(), B, LeaseKind::Shared, 1);
        assert_eq!(recalls[0].serial, serial, "the holder knows this serial");
        let (held, granted, _) = table.try_take(file(), A, LeaseKind::Shared).unwrap();
        assert_eq!(held, LeaseKind::Exclusive);
        assert!(
            granted > serial
                && granted
                    > LeaseSerial {
                        term: 6,
                        number: 99
                    }
        );
        // A grant of this leader's own stands.
        assert!(table.take_up(file(), A, LeaseKind::Exclusive));
        assert!(table.is_current(file(), A, granted));
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let mut table = LeaseTable::new(1);
        assert_eq!(
            take(&mut table, A, LeaseKind::Shared),
            Some(LeaseKind::Shared)
        );
        assert_eq!(
            take(&mut table, B, LeaseKind::Shared),
            Some(LeaseKind::Shared)
        );
        assert_eq!(table.try_take(file(), C, LeaseKind::Exclusive), None);
        let (recalls, _) = table.wait(file(), C, LeaseKind::Exclusive, 7);
        assert_eq!(recalls.len(), 2, "both readers are asked");
        table.released(file(), A, None);
        assert_eq!(table.turns(file(), Instant(100), |_, _| false).0, []);
        table.released(file(), B, None);
        assert_eq!(table.turns(file(), Instant(100), |_, _| false).0, [7]);
        assert!(table.holds(file(), C, LeaseKind::Exclusive));
    }

    #[test]
    fn nobody_overtakes_one_who_waits() {
        let mut table = LeaseTable::new(1);
        table.try_take(file(), A, LeaseKind::Shared);
        table.wait(file(), B, LeaseKind::Exclusive, 1);
        assert_eq!(
            table.try_take(file(), C, LeaseKind::Shared),
            None,
            "B came first"
        );
        table.wait(file(), C, LeaseKind::Shared, 2);
        table.released(file(), A, None);
        let (turns, recalls) = table.turns(file(), Instant(100), |_, _| false);
        assert_eq!(turns, [1]);
        assert_eq!(
            (recalls[0].session, recalls[0].want),
            (B, RecallKind::Share)
        );
        table.released(file(), B, Some(LeaseKind::Shared));
        assert_eq!(table.turns(file(), Instant(100), |_, _| false).0, [2]);
    }

    #[test]
    fn an_upgrade_waits_only_for_others() {
        let mut table = LeaseTable::new(1);
        table.try_take(file(), A, LeaseKind::Shared);
        assert_eq!(
            take(&mut table, A, LeaseKind::Exclusive),
            Some(LeaseKind::Exclusive)
        );
        assert_eq!(
            take(&mut table, A, LeaseKind::Shared),
            Some(LeaseKind::Exclusive)
        );
    }

    #[test]
    fn only_a_recalled_holder_whose_term_is_over_is_overdue() {
        let mut table = LeaseTable::new(1);
        table.alive(A, Instant(100));
        table.try_take(file(), A, LeaseKind::Exclusive);
        assert_eq!(table.overdue(Instant(200)), []);
        table.wait(file(), B, LeaseKind::Shared, 1);
        assert_eq!(table.overdue(Instant(99)), []);
        assert_eq!(table.overdue(Instant(100)), [(file(), A)]);
    }

    #[test]
    fn a_recall_is_sent_anew_when_its_holder_is_granted_again() {
        let mut table = LeaseTable::new(1);
        table.try_take(file(), A, LeaseKind::Exclusive);
        table.wait_flush(file(), 9);
        let (_, serial, recalls) = table.try_take(file(), A, LeaseKind::Exclusive).unwrap();
        assert_eq!(
            (recalls[0].serial, recalls[0].want),
            (serial, RecallKind::Flush)
        );
        table.wait(file(), B, LeaseKind::Shared, 1);
        let (_, serial, recalls) = table.try_take(file(), A, LeaseKind::Exclusive).unwrap();
        assert_eq!(
            (recalls[0].serial, recalls[0].want),
            (serial, RecallKind::Share)
        );
    }

    #[test]
    fn a_recall_is_repeated_when_who_waits_for_it_asks_again() {
        let mut table = LeaseTable::new(1);
        table.try_take(file(), A, LeaseKind::Exclusive);
        let (first, _) = table.wait(file(), B, LeaseKind::Shared, 1);
        assert_eq!(first.len(), 1);
        let (others, _) = table.wait(file(), C, LeaseKind::Shared, 2);
        assert!(others.is_empty(), "it is out");
        let (again, former) = table.wait(file(), B, LeaseKind::Shared, 3);
        assert_eq!((&again, former), (&first, Some(1)));
    }

    #[test]
    fn who_asks_while_a_flush_is_under_way_waits_for_the_next() {
        let mut table = LeaseTable::new(1);
        table.try_take(file(), A, LeaseKind::Exclusive);
        let first = table.wait_flush(file(), 1).expect("A holds it").round;
        let second = table.wait_flush(file(), 2).expect("A holds it").round;
        assert_eq!(table.flushed(file(), A, first), [1]);
        assert_eq!(table.flushed(file(), A, second), [2]);
    }

    /// Crowded seed 47: a session whose turn had come and of which no lease frame had been heard yet counted as dead when
    /// the next in the queue recalled its lease, which was then given away under it.
    #[test]
    fn one_whose_turn_came_has_a_term() {
        let mut table = LeaseTable::new(1);
        table.try_take(file(), A, LeaseKind::Exclusive);
        table.wait(file(), B, LeaseKind::Exclusive, 1);
        table.wait(file(), C, LeaseKind::Exclusive, 2);
        table.released(file(), A, None);
        let (turns, recalls) = table.turns(file(), Instant(100), |_, _| false);
        assert_eq!((turns, recalls.len()), (alloc::vec![1], 1));
        assert_eq!(table.overdue(Instant(99)), []);
        assert_eq!(table.overdue(Instant(100)), [(file(), B)]);
    }

    #[test]
    fn a_repeated_wait_keeps_its_turn() {
        let mut table = LeaseTable::new(1);
        table.try_take(file(), A, LeaseKind::Exclusive);
        assert_eq!(table.wait(file(), B, LeaseKind::Shared, 1).1, None);
        table.wait(file(), C, LeaseKind::Shared, 2);
        assert_eq!(table.wait(file(), B, LeaseKind::Shared, 3).1, Some(1));
        table.released(file(), A, None);
        assert_eq!(table.turns(file(), Instant(100), |_, _| false).0, [3, 2]);
    }
}
