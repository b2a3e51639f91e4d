//! What comes with an answer for its asker to show again without asking: views (P8).
//!
//! Owns which parts of an answer may be views: what is so now, without any intent in its way, and about to be changed by
//! nobody; of a regular file's attributes moreover what nobody else can be writing to.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Leader;
use super::port::Asker;
use super::views::Party;
use crate::attr::{Attr, FileKind, Name};
use crate::error::FsError;
use crate::ids::SessionId;
use crate::limits::LEASE_TERM;
use crate::place::{Ino, NameHash, Salt};
use crate::region::kv::{KvError, KvRead};
use crate::region::query::{self, Miss};
use crate::request::{Answer, Header, MetaOp, MetaQuery, MetaReply, NameView, Seen, Views};
use crate::time::Now;
use crate::vfs::DirEntry;

impl Leader {
    /// The views that a query's reply gives.
    pub(super) fn views_of(
        &mut self,
        now: Now,
        header: &Header,
        asked: &MetaQuery,
        reply: &MetaReply,
    ) -> Option<Views> {
        let (mut names, mut attrs) = (Vec::new(), Vec::new());
        if let MetaQuery::Lookup { dir, name, .. } = asked {
            let (dir, name, seen) = (*dir, name.clone(), seen_in(reply));
            names.push(NameView { dir, name, seen });
        }
        match (asked, reply) {
            (_, MetaReply::Inode { attr, .. }) => attrs.push(attr.clone()),
            (MetaQuery::ReadDir { dir, .. }, MetaReply::Entries { entries, .. }) => {
                names.extend(entries.iter().map(|entry| listed(*dir, entry)));
                attrs.extend(entries.iter().filter_map(|entry| entry.attr.clone()));
            }
            (_, _) => {}
        }
        self.grant_views(now, header, names, attrs)
    }

    /// The view that there is no such name.
    pub(super) fn views_of_nothing(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        header: &Header,
        asked: &MetaQuery,
    ) -> Result<Option<Views>, KvError> {
        let MetaQuery::Lookup {
            dir, salt, name, ..
        } = asked
        else {
            return Ok(None);
        };
        let mut found = (Vec::new(), Vec::new());
        self.look(state, header.session, (*dir, *salt, name), &mut found)?;
        Ok(self.grant_views(now, header, found.0, found.1))
    }

    /// The views of what an operation has changed, as it is now: its maker used none of them meanwhile.
    pub(super) fn views_after(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        header: &Header,
        op: &MetaOp,
    ) -> Result<Option<Views>, KvError> {
        if header.aside.generation == 0 {
            return Ok(None);
        }
        let mut found = (Vec::new(), Vec::new());
        for name in names_of(op) {
            self.look(state, header.session, name, &mut found)?;
        }
        for ino in inos_of(op) {
            let known = found.1.iter().any(|attr: &Attr| attr.ino == ino);
            let query = MetaQuery::GetAttr { ino };
            if !known
                && let Ok(MetaReply::Inode { attr, .. }) =
                    query::meta(state, &query, &[], header.session)?
            {
                found.1.push(attr);
            }
        }
        Ok(self.grant_views(now, header, found.0, found.1))
    }

    /// Looks at a name that is kept here: adds what is there, if no intent is in the way.
    fn look(
        &self,
        state: &dyn KvRead,
        session: SessionId,
        (dir, salt, name): (Ino, Salt, &Name),
        found: &mut (Vec<NameView>, Vec<Attr>),
    ) -> Result<(), KvError> {
        let place = NameHash::of(salt, name).place(dir);
        if !self.descriptor.places.contains(place) || !query::is_directory_here(state, dir)? {
            return Ok(());
        }
        let query = MetaQuery::Lookup {
            dir,
            salt,
            name: name.clone(),
            lease: None,
        };
        let seen = match query::meta(state, &query, &[], session)? {
            Ok(reply) => {
                if let MetaReply::Inode { attr, .. } = &reply {
                    found.1.push(attr.clone());
                }
                seen_in(&reply)
            }
            Err(Miss::Error(FsError::NotFound)) => None,
            Err(_) => return Ok(()),
        };
        let name = name.clone();
        found.0.push(NameView { dir, name, seen });
        Ok(())
    }

    /// Grants what may be granted. Only who is among those that the next leader waits for gets views.
    fn grant_views(
        &mut self,
        now: Now,
        header: &Header,
        mut names: Vec<NameView>,
        mut attrs: Vec<Attr>,
    ) -> Option<Views> {
        let (session, aside) = (header.session, &header.aside);
        if session == SessionId::CLUSTER || aside.generation == 0 {
            return None;
        }
        if !self.leases.admitted.contains(&session) {
            self.begin_admission(now, session);
            return None;
        }
        let to = Party { session, aside };
        names.retain(|name| self.views.may_show(name.dir, to));
        attrs.retain(|attr| {
            attr.nlink > 0 && self.views.may_show(attr.ino, to) && self.is_steady(attr, session)
        });
        if names.is_empty() && attrs.is_empty() {
            return None;
        }
        let dirs = names.iter().map(|name| name.dir);
        for ino in dirs.chain(attrs.iter().map(|attr| attr.ino)) {
            self.views.show(ino, to);
        }
        // The mount counts its term from when it asked, which was earlier.
        self.views.alive(session, now.mono + LEASE_TERM);
        let serial = self.views.next_serial();
        Some(Views {
            serial,
            names,
            attrs,
        })
    }

    /// Whether nobody else can be writing to the file: then what stat shows of it changes by entries alone.
    fn is_steady(&self, attr: &Attr, session: SessionId) -> bool {
        let ino = attr.ino;
        attr.kind != FileKind::Regular
            || cfg!(planted = "view_beside_exclusive")
            || !(self.leases.inherited(session)
                || self.leases.unsettled(ino, session)
                || self.leases.table.written_elsewhere(ino, session))
    }

    pub(super) fn answer_viewed(&mut self, asker: Asker, answer: Answer, views: Option<Views>) {
        let answer = match views {
            Some(views) => Answer::Viewed(Box::new(answer), views),
            None => answer,
        };
        self.answer(asker, answer);
    }
}

fn seen_in(reply: &MetaReply) -> Option<Seen> {
    match reply {
        MetaReply::Inode { attr, .. } => Some(Seen {
            ino: attr.ino,
            kind: attr.kind,
        }),
        MetaReply::Elsewhere { seen } => Some(*seen),
        MetaReply::Done
        | MetaReply::Made { .. }
        | MetaReply::Reserved(_)
        | MetaReply::Granted(_)
        | MetaReply::Map { .. }
        | MetaReply::Content { .. }
        | MetaReply::Bytes(_)
        | MetaReply::Names(_)
        | MetaReply::Entries { .. }
        | MetaReply::Lock(_)
        | MetaReply::LocksGiven { .. }
        | MetaReply::LocksAreYours { .. }
        | MetaReply::Named(_)
        | MetaReply::Records(_) => None,
    }
}

fn listed(dir: Ino, entry: &DirEntry) -> NameView {
    let seen = Seen {
        ino: entry.ino,
        kind: entry.kind,
    };
    NameView {
        dir,
        name: entry.name.clone(),
        seen: Some(seen),
    }
}

/// The names that an operation changes.
fn names_of(op: &MetaOp) -> Vec<(Ino, Salt, &Name)> {
    match op {
        MetaOp::Make {
            dir, salt, name, ..
        }
        | MetaOp::Unlink { dir, salt, name }
        | MetaOp::RemoveDir { dir, salt, name }
        | MetaOp::Link {
            dir, salt, name, ..
        } => alloc::vec![(*dir, *salt, name)],
        MetaOp::Rename {
            dir,
            salt,
            name,
            to_dir,
            to_salt,
            to_name,
            ..
        } => alloc::vec![(*dir, *salt, name), (*to_dir, *to_salt, to_name)],
        MetaOp::Reserve { .. }
        | MetaOp::SetAttr { .. }
        | MetaOp::SetXattr { .. }
        | MetaOp::RemoveXattr { .. }
        | MetaOp::SetLock { .. }
        | MetaOp::Unlock { .. }
        | MetaOp::ReturnLocks { .. }
        | MetaOp::Content { .. }
        | MetaOp::NotOpen { .. }
        | MetaOp::Reclaimed { .. }
        | MetaOp::Takeover { .. }
        | MetaOp::AdmitSession { .. }
        | MetaOp::EndSession { .. } => Vec::new(),
    }
}

/// The inodes that an operation changes and still has names for.
fn inos_of(op: &MetaOp) -> Vec<Ino> {
    match op {
        MetaOp::Make { dir, .. } | MetaOp::Unlink { dir, .. } | MetaOp::RemoveDir { dir, .. } => {
            alloc::vec![*dir]
        }
        MetaOp::Rename { dir, to_dir, .. } if dir == to_dir => alloc::vec![*dir],
        MetaOp::Rename { dir, to_dir, .. } => alloc::vec![*dir, *to_dir],
        MetaOp::Link { dir, target, .. } => alloc::vec![*dir, target.ino],
        MetaOp::SetAttr { ino, .. }
        | MetaOp::SetXattr { ino, .. }
        | MetaOp::RemoveXattr { ino, .. }
        | MetaOp::Content { ino, .. } => alloc::vec![*ino],
        MetaOp::Reserve { .. }
        | MetaOp::SetLock { .. }
        | MetaOp::Unlock { .. }
        | MetaOp::ReturnLocks { .. }
        | MetaOp::NotOpen { .. }
        | MetaOp::Reclaimed { .. }
        | MetaOp::Takeover { .. }
        | MetaOp::AdmitSession { .. }
        | MetaOp::EndSession { .. } => Vec::new(),
    }
}
