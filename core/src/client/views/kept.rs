//! What the kernel may keep for a blink: attributes that a view shows, so that a path's walk asks once for each of its
//! names and not twice (P11).
//!
//! Owns which inodes the kernel was told so of. Whatever ends a view makes it drop them, before anybody is told that the
//! view is gone and before this mount's own change is sent. Deliberately knows nothing of names: the kernel keeps none.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::Views;
use crate::attr::Attr;
use crate::client::Client;
use crate::limits::{ATTR_KEPT, KEPT_MAX};
use crate::place::Ino;
use crate::time::{Instant, Now};

/// The kernel counts from when it comes to an answer, not from when that was given: so much later at most.
const LATE: Duration = Duration::from_millis(500);

/// What the kernel was told.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Since when.
    told: BTreeMap<Ino, Instant>,
    /// What it must drop.
    outdated: Vec<Ino>,
}

impl Kept {
    fn tell(&mut self, ino: Ino, now: Instant) -> bool {
        if self.told.len() >= KEPT_MAX {
            self.told.retain(|_, told| now < *told + LATE);
        }
        let room = self.told.len() < KEPT_MAX;
        if room {
            self.told.insert(ino, now);
        }
        room
    }

    pub(super) fn drop(&mut self, ino: Ino) {
        if self.told.remove(&ino).is_some() && !cfg!(planted = "kept_not_dropped") {
            self.outdated.push(ino);
        }
    }

    pub(super) fn drop_all(&mut self) {
        let told = core::mem::take(&mut self.told);
        self.outdated.extend(told.into_keys());
    }

    pub(super) fn outdated(&mut self) -> Option<Ino> {
        self.outdated.pop()
    }
}

impl Views {
    pub(super) fn keep(&mut self, attr: &Attr, now: Instant) -> Duration {
        // Views end early enough for whatever the kernel does late.
        let shown = self.attr(attr.ino, now + LATE) == Some(attr);
        if shown && self.kept.tell(attr.ino, now) {
            ATTR_KEPT
        } else {
            Duration::ZERO
        }
    }
}

impl Client {
    /// How long the kernel may keep these attributes, which it is about to be told; `Output::DropAttr` ends that.
    /// Of a file that is open here they also say whether what the kernel caches of it is still good: only as long as a
    /// content lease says that. When it is closed they are dropped, for a file that is neither open nor being read can't
    /// keep the kernel from dropping anything at once.
    #[must_use]
    pub fn keep_attr(&mut self, now: Now, attr: &Attr) -> Duration {
        let until = now.mono + LATE;
        let shows = !self.is_open(attr.ino) || self.shows_still(attr.ino, until);
        // Nobody recalls anything from a session that is over.
        if shows && self.session.is_good(until) {
            self.views.keep(attr, now.mono)
        } else {
            Duration::ZERO
        }
    }
}
