//! Who was shown what, and may show it again without asking: the view table of one region's leader (P8).
//!
//! Owns holders of views, the recalls that are out, and which inodes are *barred*: about to change, or perhaps changing, so
//! that no view of them is granted. Beside the lease table, and like it without state, message or clock. Volatile: it dies
//! with the leadership, whose successor waits for everybody who may hold views.
//!
//! ```text
//!  change ──bar its inodes──▶ recall others' views ──all forgotten, or out of term──▶ propose ──applied──▶ lift the bar
//! ```
//!
//! Views are many and small, so they are not kept for long: a mount uses none that is older than [`VIEW_LIFE`], and what
//! was granted longer ago is dropped here in two generations.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::port::Token;
use crate::ids::SessionId;
use crate::limits::{VIEW_LIFE, VIEWS_PER_SESSION};
use crate::place::Ino;
use crate::request::{Aside, LeaseSerial};
use crate::time::Instant;

/// A view and its holder.
pub(super) type Held = (Ino, SessionId);

/// Who makes a change, or asks to be shown something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party<'a> {
    pub(super) session: SessionId,
    pub(super) aside: &'a Aside,
}

impl Party<'_> {
    /// Whether a view that it was granted in this generation need not be recalled for its change.
    fn sees_to(&self, ino: Ino, holder: SessionId, generation: u64) -> bool {
        self.session == holder
            && generation <= self.aside.generation
            && self.aside.inos.contains(&ino)
    }
}

/// Whose change bars an inode.
#[derive(Clone, Copy, Debug)]
struct Bar {
    /// Who sees to its own views itself, and up to which generation of them.
    by: Option<(SessionId, u64)>,
}

type Holders = BTreeMap<Ino, BTreeMap<SessionId, u64>>;

/// All views of one region.
#[derive(Debug, Default)]
pub(super) struct ViewTable {
    /// Each with the generation in which its holder asked; what was granted lately ...
    young: Holders,
    /// ... and before that.
    old: Holders,
    /// How many views each session was granted lately.
    granted: BTreeMap<SessionId, usize>,
    ages_at: Instant,
    /// Until when each session's views are good, by this machine's clock.
    terms: BTreeMap<SessionId, Instant>,
    /// Recalls that are not answered: each names the last grant of its time.
    recalls: BTreeMap<Held, LeaseSerial>,
    bars: BTreeMap<Ino, BTreeMap<Token, Bar>>,
    /// What each proposal bars.
    barred: BTreeMap<Token, Vec<Ino>>,
    /// Proposals whose fate is unknown, each with the newest one of that moment: what is applied of later ones shows
    /// that it did not happen and never will.
    doubtful: BTreeMap<Token, Token>,
    last: LeaseSerial,
}

impl ViewTable {
    /// The table of a leader in this term; nobody holds anything yet.
    pub(super) fn new(now: Instant, term: u64) -> Self {
        Self {
            last: LeaseSerial { term, number: 0 },
            ages_at: now + VIEW_LIFE,
            ..Self::default()
        }
    }

    /// A session was heard of: its views are good until `until`.
    pub(super) fn alive(&mut self, session: SessionId, until: Instant) {
        let term = self.terms.entry(session).or_insert(until);
        *term = (*term).max(until);
    }

    /// A session is over: it uses no view any more.
    pub(super) fn end(&mut self, session: SessionId) {
        self.terms.remove(&session);
    }

    fn is_over(&self, session: SessionId, now: Instant) -> bool {
        self.terms.get(&session).is_none_or(|until| *until <= now)
    }

    /// Whether a view of the inode may be granted: nobody is about to change it but the asker itself, who knows.
    pub(super) fn may_show(&self, ino: Ino, to: Party<'_>) -> bool {
        let own = |bar: &Bar| {
            bar.by
                .is_some_and(|(of, upto)| of == to.session && to.aside.generation <= upto)
        };
        let barred = self
            .bars
            .get(&ino)
            .is_some_and(|bars| !bars.values().all(own));
        let granted = self.granted.get(&to.session).copied().unwrap_or_default();
        to.aside.generation > 0
            && (!barred || cfg!(planted = "view_granted_while_barred"))
            && !self.recalls.contains_key(&(ino, to.session))
            && granted < VIEWS_PER_SESSION
    }

    /// A new grant's serial.
    pub(super) fn next_serial(&mut self) -> LeaseSerial {
        self.last.number += 1;
        self.last
    }

    /// Grants a view.
    pub(super) fn show(&mut self, ino: Ino, to: Party<'_>) {
        let (session, generation) = (to.session, to.aside.generation);
        let holders = self.young.entry(ino).or_default();
        if !holders.contains_key(&session) {
            *self.granted.entry(session).or_default() += 1;
        }
        // Copies of questions may arrive in any order.
        let latest = holders.entry(session).or_default();
        *latest = (*latest).max(generation);
    }

    fn holders(&self, ino: Ino) -> BTreeMap<SessionId, u64> {
        let mut holders = self.old.get(&ino).cloned().unwrap_or_default();
        for (session, generation) in self.young.get(&ino).into_iter().flatten() {
            let latest = holders.entry(*session).or_default();
            *latest = (*latest).max(*generation);
        }
        holders
    }

    fn remove(&mut self, (ino, session): Held) {
        self.recalls.remove(&(ino, session));
        for table in [&mut self.young, &mut self.old] {
            if let Some(holders) = table.get_mut(&ino) {
                holders.remove(&session);
                if holders.is_empty() {
                    table.remove(&ino);
                }
            }
        }
    }

    /// Who must forget the inode before it changes, but for whom `spared` says otherwise; with the recalls to send.
    fn recall(
        &mut self,
        now: Instant,
        ino: Ino,
        spared: impl Fn(SessionId, u64) -> bool,
    ) -> (BTreeSet<Held>, Vec<(Held, LeaseSerial)>) {
        let (mut waits, mut out) = (BTreeSet::new(), Vec::new());
        if cfg!(planted = "view_not_recalled") {
            return (waits, out);
        }
        for (session, generation) in self.holders(ino) {
            if spared(session, generation) {
                continue;
            }
            if self.is_over(session, now) {
                // Those who wait for it already are told when it expires.
                if !self.recalls.contains_key(&(ino, session)) {
                    self.remove((ino, session));
                }
                continue;
            }
            waits.insert((ino, session));
            if !self.recalls.contains_key(&(ino, session)) {
                self.recalls.insert((ino, session), self.last);
                out.push(((ino, session), self.last));
            }
        }
        (waits, out)
    }

    /// Bars inodes for a proposal; who must forget them before it is made, and the recalls to send.
    pub(super) fn bar(
        &mut self,
        now: Instant,
        token: Token,
        inos: &[Ino],
        by: Party<'_>,
    ) -> (BTreeSet<Held>, Vec<(Held, LeaseSerial)>) {
        let (mut waits, mut out) = (BTreeSet::new(), Vec::new());
        for ino in inos {
            let (those, recalls) = self.recall(now, *ino, |session, generation| {
                by.sees_to(*ino, session, generation)
            });
            waits.extend(those);
            out.extend(recalls);
            let own = by
                .aside
                .inos
                .contains(ino)
                .then_some((by.session, by.aside.generation));
            let bars = self.bars.entry(*ino).or_default();
            bars.insert(token, Bar { by: own });
        }
        if !inos.is_empty() {
            self.barred.insert(token, inos.to_vec());
        }
        (waits, out)
    }

    /// A proposal was applied: it has happened, or never will.
    pub(super) fn applied(&mut self, token: Token) {
        self.lift(token);
        let over = |(doubtful, newest): (&Token, &Token)| (*newest < token).then_some(*doubtful);
        let over: Vec<Token> = self.doubtful.iter().filter_map(over).collect();
        for doubtful in over {
            self.doubtful.remove(&doubtful);
            self.lift(doubtful);
        }
    }

    /// What became of a proposal is not known; `newest` is the latest made by now. It may be in the log, before any that is
    /// made later.
    pub(super) fn unknown(&mut self, token: Token, newest: Token) {
        if self.barred.contains_key(&token) {
            self.doubtful.insert(token, newest);
        }
    }

    fn lift(&mut self, token: Token) {
        for ino in self.barred.remove(&token).unwrap_or_default() {
            if let Some(bars) = self.bars.get_mut(&ino) {
                bars.remove(&token);
                if bars.is_empty() {
                    self.bars.remove(&ino);
                }
            }
        }
    }

    /// Whether somebody else may show what the inode looked like.
    pub(super) fn seen_elsewhere(&self, now: Instant, ino: Ino, session: SessionId) -> bool {
        let other = |table: &Holders| {
            table.get(&ino).is_some_and(|holders| {
                holders
                    .keys()
                    .any(|holder| *holder != session && !self.is_over(*holder, now))
            })
        };
        (other(&self.young) || other(&self.old)) && !cfg!(planted = "view_beside_exclusive")
    }

    /// Recalls the views of everybody else: somebody is to get the exclusive content lease.
    pub(super) fn recall_others(
        &mut self,
        now: Instant,
        ino: Ino,
        session: SessionId,
    ) -> Vec<(Held, LeaseSerial)> {
        self.recall(now, ino, |holder, _| holder == session).1
    }

    /// A session says that it has forgotten a view; false when that is about an earlier recall.
    pub(super) fn forgot(&mut self, held: Held, serial: LeaseSerial) -> bool {
        let current = self
            .recalls
            .get(&held)
            .is_some_and(|recalled| *recalled <= serial);
        if current {
            self.remove(held);
        }
        current
    }

    /// What is recalled from a session and not forgotten.
    pub(super) fn recalled_from(&self, session: SessionId) -> Vec<(Ino, LeaseSerial)> {
        let of = |((ino, holder), serial): (&Held, &LeaseSerial)| {
            (*holder == session).then_some((*ino, *serial))
        };
        self.recalls.iter().filter_map(of).collect()
    }

    /// Recalled views whose holder's term is over: nobody has them any more.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Held> {
        let over: Vec<Held> = self
            .recalls
            .keys()
            .filter(|(_, session)| self.is_over(*session, now))
            .copied()
            .collect();
        for held in &over {
            self.remove(*held);
        }
        over
    }

    /// When the next recalled view runs out.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let until = |(_, session): &Held| self.terms.get(session).copied().unwrap_or_default();
        self.recalls.keys().map(until).min()
    }

    /// Drops views that are too old to be used.
    pub(super) fn age(&mut self, now: Instant) {
        if now < self.ages_at {
            return;
        }
        self.ages_at = now + VIEW_LIFE;
        self.old = core::mem::take(&mut self.young);
        self.granted.clear();
        self.terms.retain(|_, until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;
    use core::time::Duration;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn dir() -> Ino {
        Ino::new(Place(5), 1)
    }

    fn aside(generation: u64, inos: &[Ino]) -> Aside {
        Aside {
            generation,
            inos: inos.to_vec(),
        }
    }

    fn at(ms: u64) -> Instant {
        Instant(0) + Duration::from_millis(ms)
    }

    /// Both sessions have a view of the directory and live until 2 s.
    fn shown() -> ViewTable {
        let mut table = ViewTable::new(at(0), 7);
        for session in [A, B] {
            table.alive(session, at(2000));
            table.next_serial();
            let aside = aside(1, &[]);
            let to = Party {
                session,
                aside: &aside,
            };
            assert!(table.may_show(dir(), to));
            table.show(dir(), to);
        }
        table
    }

    #[test]
    fn a_change_waits_for_all_but_who_makes_it_and_bars_others_meanwhile() {
        let mut table = shown();
        let own = aside(1, &[dir()]);
        let (a, b) = (
            Party {
                session: A,
                aside: &own,
            },
            Party {
                session: B,
                aside: &own,
            },
        );
        let (waits, recalls) = table.bar(at(1), Token(1), &[dir()], a);
        assert_eq!(waits, BTreeSet::from([(dir(), B)]));
        let serial = LeaseSerial { term: 7, number: 2 };
        assert_eq!(recalls, [((dir(), B), serial)]);
        // Another change of the same mount needs no other recall.
        let (waits, recalls) = table.bar(at(1), Token(2), &[dir()], a);
        assert_eq!((waits.len(), recalls.len()), (1, 0));
        assert!(
            table.may_show(dir(), a),
            "its own changes are its own to see to"
        );
        assert!(!table.may_show(dir(), b));
        let earlier = LeaseSerial { term: 7, number: 1 };
        assert!(!table.forgot((dir(), B), earlier));
        assert!(table.forgot((dir(), B), serial));
        table.applied(Token(1));
        assert!(!table.may_show(dir(), b), "the second is under way");
        table.applied(Token(2));
        assert!(table.may_show(dir(), b));
        // B changes something: now A is asked, since what it holds was never recalled.
        let (waits, _) = table.bar(at(2), Token(3), &[dir()], b);
        assert_eq!(waits, BTreeSet::from([(dir(), A)]));
    }

    #[test]
    fn who_gave_up_a_change_is_asked_to_forget_what_it_was_shown_since() {
        let mut table = shown();
        let later = aside(2, &[]);
        table.show(
            dir(),
            Party {
                session: A,
                aside: &later,
            },
        );
        let given_up = aside(1, &[dir()]);
        let late = Party {
            session: A,
            aside: &given_up,
        };
        let (waits, _) = table.bar(at(1), Token(1), &[dir()], late);
        assert_eq!(waits, BTreeSet::from([(dir(), A), (dir(), B)]));
        let now = Party {
            session: A,
            aside: &later,
        };
        assert!(
            !table.may_show(dir(), now),
            "it does not know of it any more"
        );
    }

    #[test]
    fn a_view_out_of_term_is_waited_for_no_more() {
        let mut table = shown();
        table.alive(B, at(2500));
        let nobody = aside(0, &[]);
        let cluster = Party {
            session: SessionId::CLUSTER,
            aside: &nobody,
        };
        let (waits, _) = table.bar(at(1), Token(1), &[dir()], cluster);
        assert_eq!(waits.len(), 2);
        assert_eq!(table.timeout(), Some(at(2000)));
        assert_eq!(table.expire(at(2000)), [(dir(), A)]);
        assert_eq!(table.recalled_from(B).len(), 1);
        let (waits, _) = table.bar(at(2500), Token(2), &[dir()], cluster);
        assert_eq!(waits.len(), 0);
    }

    #[test]
    fn what_may_still_happen_stays_barred_until_something_later_was_applied() {
        let mut table = shown();
        let nobody = aside(1, &[]);
        let a = Party {
            session: A,
            aside: &nobody,
        };
        let other = Ino::new(Place(5), 2);
        table.bar(at(1), Token(1), &[other], a);
        table.unknown(Token(1), Token(4));
        table.applied(Token(3));
        assert!(!table.may_show(other, a));
        table.applied(Token(5));
        assert!(table.may_show(other, a));
    }
}
