//! This mount's own changes: what they concern is unknown from before they are sent until they are answered.
//!
//! Owns which items an operation concerns. The region recalls their views from everybody else, and from this mount what is
//! not named here: the inode under a name may be another one than this mount thinks.

use alloc::vec::Vec;

use super::{Item, Views, What};
use crate::attr::Name;
use crate::client::Client;
use crate::client::port::MessageId;
use crate::place::Ino;
use crate::request::{Aside, MetaOp};

impl Views {
    /// A change begins: what it concerns is known no more.
    pub(in super::super) fn set_aside(&mut self, whats: &[What]) {
        for what in whats {
            *self.aside.entry(what.clone()).or_default() += 1;
            match what {
                What::Attr(ino) => {
                    self.kept.drop(*ino);
                    if let Some(item) = self.attrs.get_mut(ino) {
                        item.value = None;
                    }
                }
                What::Name(dir, name) => {
                    if let Some(item) = self.names.get_mut(&(*dir, name.clone())) {
                        item.value = None;
                    }
                }
            }
        }
    }

    /// A change has ended: what its own answer shows may be learnt now ...
    pub(in super::super) fn take_back(&mut self, whats: &[What]) {
        for what in whats {
            if let Some(count) = self.aside.get_mut(what) {
                *count -= 1;
                if *count == 0 {
                    self.aside.remove(what);
                }
            }
        }
    }

    /// ... and then nothing that was asked before, up to this message.
    pub(in super::super) fn changed(&mut self, whats: &[What], last: MessageId) {
        for what in whats {
            let is_new = match what {
                What::Attr(ino) => {
                    let is_new = !self.attrs.contains_key(ino);
                    let item = self.attrs.entry(*ino).or_insert(Item::unknown(last));
                    item.after = item.after.max(last);
                    is_new
                }
                What::Name(dir, name) => {
                    let key = (*dir, name.clone());
                    let is_new = !self.names.contains_key(&key);
                    let item = self.names.entry(key).or_insert(Item::unknown(last));
                    item.after = item.after.max(last);
                    is_new
                }
            };
            if is_new {
                self.order.push_back(what.clone());
            }
        }
        self.bound();
    }

    /// What a request says of this mount's views; `whats` is what its own change concerns.
    pub(in super::super) fn aside(&self, whats: &[What]) -> Aside {
        let inos = whats.iter().filter_map(|what| match what {
            What::Attr(ino) => Some(*ino),
            What::Name(..) => None,
        });
        Aside {
            generation: self.generation,
            inos: inos.collect(),
        }
    }
}

impl Client {
    /// What an operation concerns, as far as this mount can tell.
    pub(in super::super) fn concerns(&self, op: &MetaOp) -> Vec<What> {
        let name = |dir: &Ino, name: &Name| What::Name(*dir, name.clone());
        let mut whats = match op {
            MetaOp::Make { dir, name: at, .. } => {
                alloc::vec![name(dir, at), What::Attr(*dir)]
            }
            MetaOp::Unlink { dir, name: at, .. } | MetaOp::RemoveDir { dir, name: at, .. } => {
                let now = self.now.mono;
                let seen = self.views.name(*dir, at, now);
                let seen = seen.or_else(|| self.caches.name(*dir, at)).flatten();
                let child = seen.map(|seen| What::Attr(seen.ino));
                let own = [name(dir, at), What::Attr(*dir)];
                own.into_iter().chain(child).collect()
            }
            MetaOp::Rename {
                dir,
                name: from,
                source,
                to_dir,
                to_name,
                target,
                ..
            } => {
                let own = [
                    name(dir, from),
                    name(to_dir, to_name),
                    What::Attr(*dir),
                    What::Attr(*to_dir),
                    What::Attr(source.ino),
                ];
                let target = target.map(|seen| What::Attr(seen.ino));
                own.into_iter().chain(target).collect()
            }
            MetaOp::Link {
                dir,
                name: at,
                target,
                ..
            } => alloc::vec![name(dir, at), What::Attr(*dir), What::Attr(target.ino)],
            MetaOp::SetAttr { ino, .. }
            | MetaOp::SetXattr { ino, .. }
            | MetaOp::RemoveXattr { ino, .. }
            | MetaOp::Content { ino, .. } => alloc::vec![What::Attr(*ino)],
            MetaOp::Reserve { .. }
            | MetaOp::SetLock { .. }
            | MetaOp::Unlock { .. }
            | MetaOp::ReturnLocks { .. }
            | MetaOp::NotOpen { .. }
            | MetaOp::Reclaimed { .. }
            | MetaOp::Takeover { .. }
            | MetaOp::AdmitSession { .. }
            | MetaOp::EndSession { .. } => Vec::new(),
        };
        whats.sort_unstable();
        whats.dedup();
        whats
    }
}
