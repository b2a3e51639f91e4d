//! Views: what this mount was shown and may show again without asking (P8).
//!
//! Owns attributes and names that leaders granted as views, until when they are good, and which of them this mount's own
//! changes make unknown. Deliberately knows no message: it is told what was granted, recalled, confirmed, and begun.
//!
//! ```text
//!  granted with an answer ─▶ used ──recall of it──────────────────────▶ forgotten, "forgot" is answered
//!                             ├─── own change of it begins ───────────▶ unknown until that is answered, which shows it anew
//!                             ├─── the leadership's term is over ─────▶ all of its views are forgotten, for good
//!                             └─── another leadership is heard of ────▶ the same: what is asserted to it implies that
//! ```
//!
//! What the kernel was told of it is dropped first, each time (`kept`).
//!
//! What comes late must not undo what came since: an answer teaches nothing about an item that this mount itself has
//! changed after its question was sent, and nothing at all when its grant is older than a recall.

mod answers;
mod aside;
mod kept;
#[cfg(test)]
mod tests;
mod whole;

use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

use super::content::term_end;
use super::port::MessageId;
use super::questions::Route;
use crate::attr::{Attr, Name};
use crate::ids::{Epoch, GroupId};
use crate::limits::{CLOCK_DRIFT_PPM, VIEW_LIFE, VIEWS_MAX};
use crate::place::Ino;
use crate::request::{self, Leadership, LeaseSerial, Seen};
use crate::time::Instant;

/// One thing that can be known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// An inode's attributes.
    Attr(Ino),
    /// What is under a name.
    Name(Ino, Name),
}

/// What is known of it.
#[derive(Debug)]
struct Item<T> {
    value: Option<T>,
    /// Only answers to later messages teach anything.
    after: MessageId,
    /// Whose view it is, ...
    group: GroupId,
    /// ... before which of its losses.
    age: u64,
    /// When the question was sent that brought it.
    asked: Instant,
}

/// How this mount stands with the latest leadership of a region that it has heard of.
#[derive(Clone, Copy, Debug)]
struct Standing {
    term: u64,
    epoch: Epoch,
    /// Its views are good until then.
    until: Instant,
    /// Grants up to this one are recalled, as far as they are still on their way.
    floor: u64,
    /// How often everything of this region was forgotten.
    age: u64,
}

/// All views.
#[derive(Debug)]
pub(super) struct Views {
    /// Raised when everything is forgotten because of a change that may still come.
    generation: u64,
    groups: BTreeMap<GroupId, Standing>,
    attrs: BTreeMap<Ino, Item<Attr>>,
    names: BTreeMap<(Ino, Name), Item<Option<Seen>>>,
    /// In the order in which they came.
    order: VecDeque<What>,
    /// What changes of this mount concern that are under way, and of how many.
    aside: BTreeMap<What, u32>,
    /// Answers to messages up to this one teach nothing.
    not_before: MessageId,
    kept: kept::Kept,
    /// Directories of which all names are known.
    whole: whole::Wholes,
}

impl<T> Item<T> {
    const fn unknown(after: MessageId) -> Self {
        Self {
            value: None,
            after,
            group: GroupId(0),
            age: 0,
            asked: Instant(0),
        }
    }
}

impl Standing {
    const fn new(term: u64, age: u64) -> Self {
        Self {
            term,
            epoch: Epoch(0),
            until: Instant(0),
            floor: 0,
            age,
        }
    }

    /// What ran out is gone for good: it may have changed, and a later confirmation says nothing of that.
    const fn lapse(&mut self, now: Instant) {
        if now.0 >= self.until.0 && !cfg!(planted = "lapsed_view_revived") {
            self.age += 1;
        }
    }

    fn at_epoch(&mut self, epoch: Epoch) {
        if self.epoch < epoch {
            self.epoch = epoch;
            self.age += 1;
        }
    }
}

impl Default for Views {
    fn default() -> Self {
        Self {
            generation: 1,
            groups: BTreeMap::new(),
            attrs: BTreeMap::new(),
            names: BTreeMap::new(),
            order: VecDeque::new(),
            aside: BTreeMap::new(),
            not_before: MessageId(0),
            kept: kept::Kept::default(),
            whole: whole::Wholes::new(),
        }
    }
}

impl Views {
    /// An inode's attributes, if they are known.
    pub(super) fn attr(&self, ino: Ino, now: Instant) -> Option<&Attr> {
        self.known(self.attrs.get(&ino)?, now)
    }

    /// What is under a name, if that is known.
    pub(super) fn name(&self, dir: Ino, name: &Name, now: Instant) -> Option<Option<Seen>> {
        let item = self.names.get(&(dir, name.clone()))?;
        self.known(item, now).copied()
    }

    fn known<'a, T>(&self, item: &'a Item<T>, now: Instant) -> Option<&'a T> {
        let standing = self.groups.get(&item.group)?;
        let good = now < standing.until && item.age == standing.age && now < item.asked + life();
        item.value.as_ref().filter(|_| good)
    }

    /// A leadership was heard of. What an earlier one granted is not used from now on: whatever this mount asserts to
    /// the later one says so.
    pub(super) fn led(&mut self, by: Leadership) {
        let standing = self.standing(by);
        if standing.term < by.term {
            self.kept.drop_all();
            let standing = self.standing(by);
            let age = standing.age + 1;
            if cfg!(planted = "view_kept_by_assertion") {
                (standing.term, standing.floor) = (by.term, 0);
            } else {
                *standing = Standing::new(by.term, age);
            }
        }
    }

    fn standing(&mut self, by: Leadership) -> &mut Standing {
        let fresh = Standing::new(by.term, 0);
        self.groups.entry(by.group).or_insert(fresh)
    }

    /// A leadership has confirmed its views, in an answer to a frame sent then.
    pub(super) fn confirmed(&mut self, by: Leadership, epoch: Epoch, sent: Instant, now: Instant) {
        self.led(by);
        let standing = self.standing(by);
        if standing.term == by.term {
            let age = standing.age;
            standing.lapse(now);
            standing.at_epoch(epoch);
            standing.until = standing.until.max(term_end(sent));
            if standing.age != age {
                self.kept.drop_all();
            }
        }
    }

    /// An answer came with views.
    pub(super) fn granted(&mut self, route: &Route, views: request::Views, now: Instant) {
        let by = Leadership {
            group: route.group,
            term: views.serial.term,
        };
        self.led(by);
        let not_before = self.not_before;
        let standing = self.standing(by);
        if standing.term != by.term || route.epoch < standing.epoch {
            return;
        }
        let before = standing.age;
        standing.lapse(now);
        standing.at_epoch(route.epoch);
        standing.until = standing.until.max(term_end(route.sent));
        let age = standing.age;
        if age != before {
            self.kept.drop_all();
        }
        let standing = self.standing(by);
        if views.serial.number <= standing.floor || route.message <= not_before {
            return;
        }
        for view in views.names {
            let what = What::Name(view.dir, view.name.clone());
            if self.teaches(&what, route.message) {
                let item = self.names.entry((view.dir, view.name)).or_insert_with(|| {
                    self.order.push_back(what);
                    Item::unknown(MessageId(0))
                });
                item.learn(view.seen, route, age);
            }
        }
        for attr in views.attrs {
            let what = What::Attr(attr.ino);
            if self.teaches(&what, route.message) {
                self.shown_whole(&attr, route, age, now);
                let item = self.attrs.entry(attr.ino).or_insert_with(|| {
                    self.order.push_back(what);
                    Item::unknown(MessageId(0))
                });
                item.learn(attr, route, age);
            }
        }
        self.bound();
    }

    /// Whether an answer to this message may say something new of it.
    fn teaches(&self, what: &What, message: MessageId) -> bool {
        let after = match what {
            What::Attr(ino) => self.attrs.get(ino).map(|item| item.after),
            What::Name(dir, name) => {
                let item = self.names.get(&(*dir, name.clone()));
                item.map(|item| item.after)
            }
        };
        let late = after.is_some_and(|after| message <= after);
        !self.aside.contains_key(what) && (!late || cfg!(planted = "late_answer_learnt"))
    }

    /// A leader recalls the view of an inode; false when it leads no more.
    pub(super) fn recall(&mut self, group: GroupId, ino: Ino, serial: LeaseSerial) -> bool {
        self.kept.drop(ino);
        let by = Leadership {
            group,
            term: serial.term,
        };
        self.led(by);
        let standing = self.standing(by);
        if standing.term != by.term {
            return false;
        }
        standing.floor = standing.floor.max(serial.number);
        if !cfg!(planted = "whole_kept_at_recall") {
            self.whole.remove(&ino);
        }
        // A recall may come again, and late: what a forgotten item kept from being learnt is not learnt now either.
        let mut after = self.attrs.remove(&ino).map(|item| item.after);
        let of_dir: alloc::vec::Vec<Name> = self
            .names
            .range((ino, Name::new())..)
            .take_while(|((dir, _), _)| *dir == ino)
            .map(|((_, name), _)| name.clone())
            .collect();
        for name in of_dir {
            let gone = self.names.remove(&(ino, name));
            after = after.max(gone.map(|item| item.after));
        }
        self.not_before = self.not_before.max(after.unwrap_or(MessageId(0)));
        true
    }

    /// Everything is forgotten, and what was asked up to this message teaches nothing: a change of this mount's may come
    /// that it knows nothing more of.
    pub(super) fn forget_all(&mut self, last: MessageId) {
        self.kept.drop_all();
        self.whole.clear();
        self.attrs.clear();
        self.names.clear();
        self.order.clear();
        self.not_before = last;
        self.generation += 1;
    }

    /// The session is over: nobody recalls anything from this mount by that name.
    pub(super) fn forget_session(&mut self, last: MessageId) {
        self.forget_all(last);
        self.groups.clear();
    }

    /// An inode of which the kernel must drop what it was told it may keep.
    pub(super) fn outdated(&mut self) -> Option<Ino> {
        self.kept.outdated()
    }

    /// The inode is used in a way that what the kernel keeps of it must go.
    pub(super) fn unkeep(&mut self, ino: Ino) {
        self.kept.drop(ino);
    }

    /// The oldest go when there are too many.
    fn bound(&mut self) {
        while self.order.len() > 2 * VIEWS_MAX {
            let after = match self.order.pop_front() {
                Some(What::Attr(ino)) => self.attrs.remove(&ino).map(|item| item.after),
                Some(What::Name(dir, name)) => {
                    let gone = self.names.remove(&(dir, name));
                    // A name that is there, or may be, is known no more.
                    if gone.as_ref().is_some_and(|item| item.value != Some(None)) {
                        self.whole.remove(&dir);
                    }
                    gone.map(|item| item.after)
                }
                None => None,
            };
            // What it kept from being learnt is not learnt now either.
            self.not_before = self.not_before.max(after.unwrap_or(MessageId(0)));
        }
    }
}

/// How long after its question a view may be used.
fn life() -> Duration {
    VIEW_LIFE - VIEW_LIFE * CLOCK_DRIFT_PPM / 1_000_000
}

impl<T> Item<T> {
    fn learn(&mut self, value: T, route: &Route, age: u64) {
        self.value = Some(value);
        self.group = route.group;
        self.age = age;
        self.asked = route.sent;
    }
}
