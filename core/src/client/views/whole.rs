//! Directories of which this mount knows every name: what it has not heard of is not there (P8).
//!
//! A view of a directory covers its names, and one that shows no entries shows that all of them are absent. Whatever is
//! made there from then on without a recall this mount made itself, so it knows it. Owns which directories those are;
//! each thing that makes the mount forget a name ends it.

use alloc::collections::BTreeMap;

use super::{Views, What, life};
use crate::attr::{Attr, FileKind, Name};
use crate::client::questions::Route;
use crate::ids::GroupId;
use crate::limits::VIEWS_MAX;
use crate::place::Ino;
use crate::time::Instant;

/// All names in the part of a directory that one region keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    group: GroupId,
    age: u64,
    /// When the question was sent that brought the latest view.
    asked: Instant,
}

impl Views {
    /// Whether a region's part of a directory has no such name.
    pub(in super::super) fn absent(
        &self,
        dir: Ino,
        name: &Name,
        group: GroupId,
        now: Instant,
    ) -> bool {
        let Some(whole) = self.whole.get(&dir).filter(|whole| whole.group == group) else {
            return false;
        };
        let good = self.groups.get(&group).is_some_and(|standing| {
            now < standing.until && whole.age == standing.age && now < whole.asked + life()
        });
        let key = (dir, name.clone());
        good && !self.names.contains_key(&key)
            && !self.aside.contains_key(&What::Name(key.0, key.1))
    }

    /// A directory's attributes were shown.
    pub(super) fn shown_whole(&mut self, attr: &Attr, route: &Route, age: u64, now: Instant) {
        if attr.kind != FileKind::Directory {
            return;
        }
        let fresh = Whole {
            group: route.group,
            age,
            asked: route.sent,
        };
        // The region has not let go of the view before, so this one goes on where that was.
        let goes_on = |whole: &Whole| {
            whole.group == fresh.group && whole.age == age && now < whole.asked + life()
        };
        if attr.size == 0 || self.whole.get(&attr.ino).is_some_and(goes_on) {
            self.whole.insert(attr.ino, fresh);
        } else {
            self.whole.remove(&attr.ino);
        }
        while self.whole.len() > VIEWS_MAX {
            self.whole.pop_first();
        }
    }
}

/// What is known of all directories.
pub(super) type Wholes = BTreeMap<Ino, Whole>;
