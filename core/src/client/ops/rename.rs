//! renameat2(2): what the mount last saw under both names goes along, and is looked at again when it has changed.
//!
//! Owns the looking; the region of the source's name decides.

use core::time::Duration;

use super::{Got, Next, Op, View};
use crate::attr::Name;
use crate::error::FsError;
use crate::place::{Ino, NameHash, Salt};
use crate::request::{MetaOp, MetaQuery, MetaReply, RequestBody, Seen};
use crate::vfs::{RenameMode, Reply};

/// Times the names are looked at again before the call is given up.
const LOOKS_MAX: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Source,
    Target,
    Rename,
    /// It ends so without having changed anything, if the target is still what it was taken for.
    Verify(Result<(), FsError>, Option<Seen>),
}

/// A rename.
#[derive(Debug)]
pub(in super::super) struct Rename {
    from: (Ino, Name),
    to: (Ino, Name),
    mode: RenameMode,
    stage: Stage,
    looks: u32,
    /// Source and target as they were told to the region.
    told: Option<(Seen, Option<Seen>)>,
}

impl Rename {
    pub(in super::super) const fn new(
        from: (Ino, Name),
        to: (Ino, Name),
        mode: RenameMode,
    ) -> Self {
        Self {
            from,
            to,
            mode,
            stage: Stage::Source,
            looks: 0,
            told: None,
        }
    }

    fn look(stage: Stage, salt: Salt, (dir, name): &(Ino, Name)) -> (Stage, Next) {
        let query = MetaQuery::Lookup {
            dir: *dir,
            salt,
            name: name.clone(),
            lease: None,
        };
        (stage, Next::Ask(RequestBody::MetaQuery(query)))
    }

    /// Whatever is known goes into the question; whatever is not is looked up first.
    fn ask(&mut self, view: &View<'_>) -> Next {
        let Some(salt) = view.caches.salt(self.from.0) else {
            return Next::Salt(self.from.0);
        };
        let Some(to_salt) = view.caches.salt(self.to.0) else {
            return Next::Salt(self.to.0);
        };
        let next;
        (self.stage, next) = match (
            view.caches.name(self.from.0, &self.from.1),
            view.caches.name(self.to.0, &self.to.1),
        ) {
            (Some(Some(source)), Some(target)) => {
                self.told = Some((source, target));
                let op = MetaOp::Rename {
                    dir: self.from.0,
                    salt,
                    name: self.from.1.clone(),
                    source,
                    to_dir: self.to.0,
                    to_salt,
                    to_name: self.to.1.clone(),
                    target,
                    mode: self.mode,
                };
                (Stage::Rename, Next::Ask(RequestBody::MetaOp(op)))
            }
            (Some(Some(_)), None) => Self::look(Stage::Target, to_salt, &self.to),
            (Some(None) | None, _) => Self::look(Stage::Source, salt, &self.from),
        };
        next
    }

    /// Whether the region that answered changed nothing, could not see the target and took the mount's word for it.
    fn was_blind(&self, view: &View<'_>, result: &Result<MetaReply, FsError>) -> bool {
        let same = |(source, target): (Seen, Option<Seen>)| {
            target.is_some_and(|target| target.ino == source.ino)
        };
        let nothing = match result {
            Ok(_) => self.told.is_some_and(same),
            Err(error) => *error != FsError::Io,
        };
        if !nothing {
            return false;
        }
        let salt = view.caches.salt(self.to.0);
        let place = salt.map(|salt| NameHash::of(salt, &self.to.1).place(self.to.0));
        place.is_some_and(|place| !view.answered.is_some_and(|here| here.contains(place)))
    }

    fn forget(&self, view: &mut View<'_>) {
        view.caches.forget_name(self.from.0, &self.from.1);
        view.caches.forget_name(self.to.0, &self.to.1);
    }

    fn seen(&mut self, view: &mut View<'_>, seen: Option<Seen>) -> Next {
        match self.stage {
            Stage::Source if seen.is_none() => {
                view.caches.note_name(self.from.0, &self.from.1, None);
                return Next::fail(FsError::NotFound);
            }
            Stage::Source => view.caches.note_name(self.from.0, &self.from.1, seen),
            Stage::Target => view.caches.note_name(self.to.0, &self.to.1, seen),
            Stage::Rename => unreachable!("a rename is not answered with an inode's name"),
            Stage::Verify(result, target) => {
                if seen == target {
                    self.forget(view);
                    return Next::Done(result.map(|()| Reply::Done));
                }
                self.looks += 1;
                if self.looks > LOOKS_MAX {
                    return Next::fail(FsError::Io);
                }
                view.caches.forget_name(self.from.0, &self.from.1);
                view.caches.note_name(self.to.0, &self.to.1, seen);
            }
        }
        self.ask(view)
    }
}

impl Op for Rename {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Woken => self.ask(view),
            Got::Changed => {
                self.forget(view);
                self.looks += 1;
                if self.looks > LOOKS_MAX {
                    return Next::fail(FsError::Io);
                }
                if self.looks > 2 {
                    return Next::Sleep(Duration::from_millis(1 + view.rng.below(20)));
                }
                self.ask(view)
            }
            Got::Meta(result) if self.stage == Stage::Rename && self.was_blind(view, &result) => {
                let target = self.told.and_then(|(_, target)| target);
                let salt = view.caches.salt(self.to.0).unwrap_or_default();
                let stage = Stage::Verify(result.map(|_| ()), target);
                let next;
                (self.stage, next) = Self::look(stage, salt, &self.to);
                next
            }
            Got::Meta(result) if self.stage == Stage::Rename => {
                self.forget(view);
                Next::Done(result.map(|_| Reply::Done))
            }
            Got::Meta(Ok(MetaReply::Inode { attr, .. })) => {
                let seen = Seen {
                    ino: attr.ino,
                    kind: attr.kind,
                };
                self.seen(view, Some(seen))
            }
            Got::Meta(Ok(MetaReply::Elsewhere { seen })) => self.seen(view, Some(seen)),
            Got::Meta(Err(FsError::NotFound)) => self.seen(view, None),
            Got::Meta(Err(error)) => Next::fail(error),
            Got::Meta(Ok(_)) | Got::Stats(_) => Next::fail(FsError::Io),
        }
    }
}
