//! Changes wait until nobody else can show what was (P8): then they are proposed.
//!
//! Owns the proposals that wait, for views that are recalled and for what an earlier leader may have granted. Who holds
//! which view is the table's business (`views`), what an entry changes `region::touch`'s.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;

use super::port::{Output, Token};
use super::views::{Held, Party};
use super::{Job, Leader};
use crate::place::Ino;
use crate::region::command::Command;
use crate::request::{Aside, LeaseSerial, Recall, RecallKind};
use crate::time::{Instant, Now};

/// A proposal that waits.
#[derive(Debug)]
struct Change {
    command: Command,
    payload: Bytes,
    /// Views that are recalled for it.
    recalled: BTreeSet<Held>,
    /// It waits for what earlier leaders may have granted, too.
    inherits: bool,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<Token, Change>);

impl Leader {
    /// Proposes a change of these inodes as soon as nobody but its maker, who says so, can show what they were. Until it
    /// is applied no view of them is granted.
    pub(super) fn propose_change(
        &mut self,
        now: Now,
        job: Job,
        (mut command, payload): (Command, Bytes),
        mut inos: Vec<Ino>,
        aside: &Aside,
    ) {
        if inos.is_empty() {
            return self.propose(job, command, payload);
        }
        inos.sort_unstable();
        inos.dedup();
        let token = self.begin(job);
        let by = Party {
            session: command.session,
            aside,
        };
        let (recalled, recalls) = self.views.bar(now.mono, token, &inos, by);
        self.send_view_recalls(recalls);
        let inherits = self.leases.views_inherited();
        command.unseen = inos;
        let change = Change {
            command,
            payload,
            recalled,
            inherits,
        };
        self.changes.0.insert(token, change);
        self.go_ahead(now);
    }

    /// Proposes what need not wait any more.
    pub(super) fn go_ahead(&mut self, now: Now) {
        let inherited = self.leases.views_inherited();
        let ready = |(token, change): (&Token, &Change)| {
            let waits = !change.recalled.is_empty() || (change.inherits && inherited);
            (!waits).then_some(*token)
        };
        let ready: Vec<Token> = self.changes.0.iter().filter_map(ready).collect();
        for token in ready {
            let Some(mut change) = self.changes.0.remove(&token) else {
                continue;
            };
            change.command.time = change.command.time.max(now.wall);
            self.outputs.push_back(Output::Propose {
                token,
                command: change.command,
                payload: change.payload,
            });
        }
    }

    /// A mount has forgotten a view.
    pub(super) fn forgot(&mut self, now: Now, held: Held, serial: LeaseSerial) {
        if serial.term == self.config.term && self.views.forgot(held, serial) {
            self.view_gone(now, held);
        }
    }

    /// Recalled views whose holder is not heard of are gone at the end of its term.
    pub(super) fn expire_views(&mut self, now: Now) {
        for held in self.views.expire(now.mono) {
            self.view_gone(now, held);
        }
        self.views.age(now.mono);
    }

    /// Whoever waited for it goes on: changes, and who wants the exclusive content lease.
    fn view_gone(&mut self, now: Now, held: Held) {
        for change in self.changes.0.values_mut() {
            change.recalled.remove(&held);
        }
        self.go_ahead(now);
        self.next_turns(now, held.0);
    }

    pub(super) fn changes_timeout(&self) -> Option<Instant> {
        let inherits = self.changes.0.values().any(|change| change.inherits);
        let inherited = self.leases.inherited_until.filter(|_| inherits);
        [inherited, self.views.timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn send_view_recalls(&mut self, recalls: Vec<(Held, LeaseSerial)>) {
        let group = self.config.group;
        for ((ino, session), serial) in recalls {
            let recall = Recall {
                group,
                ino,
                serial,
                round: 0,
                want: RecallKind::View,
            };
            self.outputs.push_back(Output::Recall { session, recall });
        }
    }
}
