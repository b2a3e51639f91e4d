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
    /// The rename ended; whether what was said about its target still holds is being looked at.
    Check,
}

/// A rename.
#[derive(Debug)]
pub(in super::super) struct Rename {
    from: (Ino, Name),
    to: (Ino, Name),
    mode: RenameMode,
    stage: Stage,
    looks: u32,
    /// What source and target were said to be in the question.
    asked: (Option<Seen>, Option<Seen>),
    /// Its answer, while it is checked.
    answer: Result<(), FsError>,
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
            asked: (None, None),
            answer: Ok(()),
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
                self.asked = (Some(source), target);
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
            Stage::Check => return self.checked(view, seen),
        }
        self.ask(view)
    }

    /// The rename was answered. The region of the source's name knows the target of another region by hearsay only: an
    /// answer that changed nothing, because of what the target is, may be about a target of long ago.
    fn ended(&mut self, view: &mut View<'_>, result: Result<(), FsError>) -> Next {
        let (source, target) = self.asked;
        self.forget(view);
        let by_hearsay = match result {
            // Of two names of one file nothing changed; else the target was there, or its step would have failed.
            Ok(()) => target.is_some() && target == source,
            Err(
                FsError::NotFound
                | FsError::Exists
                | FsError::NotDirectory
                | FsError::IsDirectory
                | FsError::NotEmpty
                | FsError::Invalid,
            ) => true,
            Err(_) => false,
        };
        let salt = view.caches.salt(self.to.0);
        let seen_there = salt.is_some_and(|salt| {
            let place = NameHash::of(salt, &self.to.1).place(self.to.0);
            view.answered.is_some_and(|places| places.contains(place))
        });
        match salt {
            Some(salt) if by_hearsay && !seen_there => {
                self.answer = result;
                let next;
                (self.stage, next) = Self::look(Stage::Check, salt, &self.to);
                next
            }
            _ => Next::Done(result.map(|()| Reply::Done)),
        }
    }

    /// The target was looked at again after the answer: the same as before, so it was so when the answer was given.
    fn checked(&mut self, view: &mut View<'_>, seen: Option<Seen>) -> Next {
        if seen == self.asked.1 {
            return Next::Done(self.answer.map(|()| Reply::Done));
        }
        self.again(view)
    }

    fn again(&mut self, view: &mut View<'_>) -> Next {
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
}

impl Op for Rename {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Woken => self.ask(view),
            Got::Changed => self.again(view),
            Got::Meta(result) if self.stage == Stage::Rename => {
                self.ended(view, result.map(|_| ()))
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
