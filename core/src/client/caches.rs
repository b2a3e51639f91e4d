//! What a mount remembers of names and inodes that never goes stale, or only costs a trip when it has.
//!
//! Owns directories' salts and inodes' kinds (which never change), what was last seen under names (a hint that the
//! region checks), reserved directory numbers, and the highest file time seen (P9).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::foresight::Foresight;
use crate::attr::{Attr, FileKind, Name};
use crate::place::{Ino, Salt};
use crate::request::{MetaReply, Seen};
use crate::time::Timestamp;

/// Each table keeps at most this many.
const ENTRIES_MAX: usize = 16_384;

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Caches {
    salts: BTreeMap<Ino, Salt>,
    kinds: BTreeMap<Ino, FileKind>,
    names: BTreeMap<(Ino, Name), Option<Seen>>,
    pub(super) foresight: Foresight,
    /// Reserved numbers for directories to be made.
    pub(super) homes: Vec<Ino>,
    /// The highest file time this mount has seen.
    pub(super) seen: Timestamp,
}

fn bound<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    if map.len() >= ENTRIES_MAX {
        map.clear();
    }
}

impl Caches {
    /// Learns from an inode's attributes.
    pub(super) fn learn(&mut self, attr: &Attr) {
        if attr.kind == FileKind::Directory {
            bound(&mut self.salts);
            self.salts.insert(attr.ino, attr.salt);
        }
        bound(&mut self.kinds);
        self.kinds.insert(attr.ino, attr.kind);
        self.seen = self.seen.max(attr.ctime).max(attr.btime);
    }

    /// Learns from an answer.
    pub(super) fn learn_reply(&mut self, reply: &MetaReply) {
        match reply {
            MetaReply::Inode { attr, .. }
            | MetaReply::Made { attr, .. }
            | MetaReply::Content { attr, .. } => self.learn(attr),
            MetaReply::Granted(grant) => self.learn(&grant.attr),
            MetaReply::Elsewhere { seen } => {
                bound(&mut self.kinds);
                self.kinds.insert(seen.ino, seen.kind);
            }
            MetaReply::Done
            | MetaReply::Reserved(_)
            | MetaReply::Map { .. }
            | MetaReply::Bytes(_)
            | MetaReply::Names(_)
            | MetaReply::Entries { .. }
            | MetaReply::Lock(_)
            | MetaReply::LocksGiven { .. }
            | MetaReply::LocksAreYours { .. }
            | MetaReply::Named(_)
            | MetaReply::Records(_) => {}
        }
    }

    /// A directory's salt.
    pub(super) fn salt(&self, dir: Ino) -> Option<Salt> {
        self.salts.get(&dir).copied()
    }

    /// An inode's kind.
    pub(super) fn kind(&self, ino: Ino) -> Option<FileKind> {
        self.kinds.get(&ino).copied()
    }

    /// What was last seen under a name: `Some(None)` is nothing.
    pub(super) fn name(&self, dir: Ino, name: &Name) -> Option<Option<Seen>> {
        self.names.get(&(dir, name.clone())).copied()
    }

    /// Notes what is under a name.
    pub(super) fn note_name(&mut self, dir: Ino, name: &Name, seen: Option<Seen>) {
        bound(&mut self.names);
        self.names.insert((dir, name.clone()), seen);
    }

    /// Forgets what was under a name.
    pub(super) fn forget_name(&mut self, dir: Ino, name: &Name) {
        self.names.remove(&(dir, name.clone()));
    }
}
