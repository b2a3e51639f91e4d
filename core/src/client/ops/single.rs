//! Calls of one question: most of them.
//!
//! Owns how their answers become replies. A name found whose inode lives elsewhere, and an answer without the
//! attributes that the call promises, cost a second question.

use alloc::boxed::Box;

use super::{Got, Next, Op, View};
use crate::attr::{FileKind, Name};
use crate::error::FsError;
use crate::place::{Ino, Salt};
use crate::request::{LeaseKind, MetaOp, MetaQuery, MetaReply, RequestBody, Seen};
use crate::vfs::Reply;

/// What a question is made of, once the salt of its directory is known.
type Build = Box<dyn Fn(Salt) -> RequestBody + Send>;

/// A call of one question.
pub(in super::super) struct Single {
    dir: Option<Ino>,
    build: Build,
    /// Whose attributes the call promises, when the answer has none.
    attr_of: Option<Ino>,
    /// The name that changes.
    name: Option<(Ino, Name)>,
    opens: bool,
}

impl core::fmt::Debug for Single {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Single").field("dir", &self.dir).finish()
    }
}

impl Single {
    /// A query of an inode.
    pub(in super::super) fn query(query: MetaQuery) -> Self {
        Self::fixed(RequestBody::MetaQuery(query))
    }

    /// An operation on an inode.
    pub(in super::super) fn op(op: MetaOp) -> Self {
        Self::fixed(RequestBody::MetaOp(op))
    }

    fn fixed(body: RequestBody) -> Self {
        Self {
            dir: None,
            build: Box::new(move |_| body.clone()),
            attr_of: None,
            name: None,
            opens: false,
        }
    }

    /// An operation on an inode that replies with its attributes.
    pub(in super::super) fn op_with_attr(ino: Ino, op: MetaOp) -> Self {
        Self {
            attr_of: Some(ino),
            ..Self::op(op)
        }
    }

    /// An operation on a name in a directory.
    pub(in super::super) fn named(
        dir: Ino,
        name: Name,
        build: impl Fn(Salt, Name) -> MetaOp + Send + 'static,
    ) -> Self {
        let key = (dir, name.clone());
        Self {
            dir: Some(dir),
            build: Box::new(move |salt| RequestBody::MetaOp(build(salt, name.clone()))),
            attr_of: None,
            name: Some(key),
            opens: false,
        }
    }

    /// Opens an inode.
    pub(in super::super) fn open(ino: Ino, lease: LeaseKind) -> Self {
        let query = MetaQuery::Open {
            ino,
            lease,
            patient: false,
            held: None,
        };
        Self {
            opens: true,
            ..Self::query(query)
        }
    }

    fn answered(&self, reply: MetaReply) -> Next {
        let reply = match reply {
            MetaReply::Done => match self.attr_of {
                Some(ino) => {
                    return Next::Ask(RequestBody::MetaQuery(MetaQuery::GetAttr { ino }));
                }
                None => Reply::Done,
            },
            MetaReply::Granted(grant) if self.opens => {
                return Next::Opened {
                    attr: grant.attr.clone(),
                    grant: Some(grant),
                    created: None,
                };
            }
            MetaReply::Inode { attr, grant } if self.opens => {
                return Next::Opened {
                    attr,
                    grant,
                    created: None,
                };
            }
            MetaReply::Inode { attr, .. }
            | MetaReply::Made { attr, .. }
            | MetaReply::Content { attr, .. } => Reply::Attr(attr),
            MetaReply::Granted(grant) => Reply::Attr(grant.attr),
            MetaReply::Bytes(bytes) => Reply::Data(bytes),
            MetaReply::Names(names) => Reply::Names(names),
            MetaReply::Lock(lock) => Reply::Lock(lock),
            MetaReply::Elsewhere { .. }
            | MetaReply::Reserved(_)
            | MetaReply::Map { .. }
            | MetaReply::Entries { .. }
            | MetaReply::Named(_)
            | MetaReply::LocksGiven { .. }
            | MetaReply::LocksAreYours { .. }
            | MetaReply::Records(_) => return Next::fail(FsError::Io),
        };
        Next::Done(Ok(reply))
    }
}

impl Op for Single {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Changed | Got::Woken => {
                let salt = match self.dir {
                    None => Salt::default(),
                    Some(dir) => match view.caches.salt(dir) {
                        Some(salt) => salt,
                        None => return Next::Salt(dir),
                    },
                };
                Next::Ask((self.build)(salt))
            }
            Got::Meta(Ok(reply)) => {
                if let Some((dir, name)) = &self.name {
                    view.caches.forget_name(*dir, name);
                }
                self.answered(reply)
            }
            Got::Meta(Err(error)) => Next::fail(error),
            Got::Stats(_) => Next::fail(FsError::Io),
        }
    }
}

/// Finds a name.
#[derive(Debug)]
pub(in super::super) struct Lookup {
    pub(in super::super) dir: Ino,
    pub(in super::super) name: Name,
    pub(in super::super) found: bool,
    /// How often it may be looked for again.
    pub(in super::super) looks: u32,
}

impl Op for Lookup {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Changed | Got::Woken => self.look(view),
            // Between the two questions the name was taken away: it is looked for again.
            Got::Meta(Ok(MetaReply::Inode { attr, .. }))
                if attr.nlink == 0 && self.found && self.looks > 0 =>
            {
                self.again(view)
            }
            Got::Meta(Err(FsError::NotFound)) if self.found && self.looks > 0 => self.again(view),
            Got::Meta(Ok(MetaReply::Inode { attr, .. })) => {
                let seen = Seen {
                    ino: attr.ino,
                    kind: attr.kind,
                };
                view.caches.note_name(self.dir, &self.name, Some(seen));
                // What views answer says nothing of what a question could save.
                if view.answered.is_some() && attr.kind == FileKind::Regular {
                    view.caches.foresight.looked_up(attr.ino);
                }
                Next::Done(Ok(Reply::Attr(attr)))
            }
            Got::Meta(Ok(MetaReply::Elsewhere { seen })) => {
                view.caches.note_name(self.dir, &self.name, Some(seen));
                self.found = true;
                Next::Ask(RequestBody::MetaQuery(MetaQuery::GetAttr { ino: seen.ino }))
            }
            Got::Meta(Err(error)) => {
                if error == FsError::NotFound {
                    view.caches.note_name(self.dir, &self.name, None);
                    // The name's inode is gone: so the name is, or is another's by now.
                    if self.found {
                        self.found = false;
                        return self.look(view);
                    }
                }
                Next::fail(error)
            }
            Got::Meta(Ok(_)) | Got::Stats(_) => Next::fail(FsError::Io),
        }
    }
}

impl Lookup {
    fn again(&mut self, view: &View<'_>) -> Next {
        self.looks -= 1;
        self.found = false;
        self.look(view)
    }

    fn look(&self, view: &View<'_>) -> Next {
        let Some(salt) = view.caches.salt(self.dir) else {
            return Next::Salt(self.dir);
        };
        Next::Ask(RequestBody::MetaQuery(MetaQuery::Lookup {
            dir: self.dir,
            salt,
            name: self.name.clone(),
            lease: view
                .caches
                .foresight
                .expects_open()
                .then_some(LeaseKind::Shared),
        }))
    }
}

/// statfs(2).
#[derive(Debug)]
pub(in super::super) struct Stats;

impl Op for Stats {
    fn next(&mut self, _view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Woken | Got::Changed => Next::Stats,
            Got::Stats(stats) => Next::Done(Ok(Reply::Stats(stats))),
            Got::Meta(_) => Next::fail(FsError::Io),
        }
    }
}

/// link(2): the region wants to know what kind of inode gets a new name.
#[derive(Debug)]
pub(in super::super) struct Link {
    ino: Ino,
    dir: Ino,
    name: Name,
    stage: LinkStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkStage {
    Kind,
    Link,
    Attr,
}

impl Link {
    pub(in super::super) const fn new(ino: Ino, dir: Ino, name: Name) -> Self {
        Self {
            ino,
            dir,
            name,
            stage: LinkStage::Kind,
        }
    }

    const fn get_attr(&self) -> Next {
        Next::Ask(RequestBody::MetaQuery(MetaQuery::GetAttr { ino: self.ino }))
    }

    fn ask(&mut self, view: &View<'_>) -> Next {
        let Some(salt) = view.caches.salt(self.dir) else {
            return Next::Salt(self.dir);
        };
        let Some(kind) = view.caches.kind(self.ino) else {
            self.stage = LinkStage::Kind;
            return self.get_attr();
        };
        self.stage = LinkStage::Link;
        Next::Ask(RequestBody::MetaOp(MetaOp::Link {
            dir: self.dir,
            salt,
            name: self.name.clone(),
            target: Seen {
                ino: self.ino,
                kind,
            },
        }))
    }
}

impl Op for Link {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Changed | Got::Woken => self.ask(view),
            Got::Meta(Err(error)) => Next::fail(error),
            Got::Meta(Ok(MetaReply::Inode { .. })) if self.stage == LinkStage::Kind => {
                self.ask(view)
            }
            Got::Meta(Ok(MetaReply::Inode { attr, .. } | MetaReply::Made { attr, .. })) => {
                view.caches.forget_name(self.dir, &self.name);
                Next::Done(Ok(Reply::Attr(attr)))
            }
            // Made by a transaction, or at an inode that lives elsewhere: its attributes are asked for.
            Got::Meta(Ok(MetaReply::Done | MetaReply::Elsewhere { .. })) => {
                self.stage = LinkStage::Attr;
                self.get_attr()
            }
            Got::Meta(Ok(_)) | Got::Stats(_) => Next::fail(FsError::Io),
        }
    }
}
