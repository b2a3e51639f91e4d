//! Making inodes, and listing directories.
//!
//! Owns the use of reserved numbers for directories (P4) and the walk over all regions of a directory's bucket.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Got, Next, Op, View};
use crate::attr::{FileKind, Name, NewInode};
use crate::error::FsError;
use crate::place::{Cookie, Ino, Place, Places, Salt};
use crate::request::{LeaseKind, MetaOp, MetaQuery, MetaReply, RequestBody, Seen};
use crate::vfs::{DirEntry, Reply};

/// Numbers reserved at once.
const RESERVE_COUNT: usize = 4;
/// Times a home that turned out unusable is drawn anew.
const DRAWS_MAX: u32 = 8;

/// mkdir, mknod, symlink, create.
#[derive(Debug)]
pub(in super::super) struct Make {
    pub(in super::super) dir: Ino,
    pub(in super::super) name: Name,
    pub(in super::super) new: NewInode,
    pub(in super::super) exclusive: bool,
    /// Of create: the lease it wants.
    pub(in super::super) lease: Option<LeaseKind>,
    pub(in super::super) draws: u32,
    /// The name was there, and its inode is being opened elsewhere.
    pub(in super::super) found: bool,
}

impl Make {
    fn ask(&mut self, view: &mut View<'_>) -> Next {
        let Some(salt) = view.caches.salt(self.dir) else {
            return Next::Salt(self.dir);
        };
        let mut home = None;
        if self.new.kind == FileKind::Directory {
            let Some(ino) = view.caches.homes.pop() else {
                return self.reserve(view);
            };
            home = Some((ino, Salt(view.rng.next())));
        }
        Next::Ask(RequestBody::MetaOp(MetaOp::Make {
            dir: self.dir,
            salt,
            name: self.name.clone(),
            new: self.new.clone(),
            home,
            exclusive: self.exclusive,
            lease: self.lease,
        }))
    }

    fn reserve(&mut self, view: &mut View<'_>) -> Next {
        self.draws += 1;
        if self.draws > DRAWS_MAX {
            return Next::fail(FsError::Io);
        }
        let buckets = view.regions.draw_buckets(view.rng, RESERVE_COUNT);
        if buckets.is_empty() {
            return Next::Sleep(Duration::from_millis(100));
        }
        Next::Ask(RequestBody::MetaOp(MetaOp::Reserve { buckets }))
    }
}

impl Op for Make {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Woken => self.ask(view),
            Got::Changed => {
                self.draws += 1;
                if self.draws > DRAWS_MAX {
                    return Next::fail(FsError::Io);
                }
                self.ask(view)
            }
            Got::Meta(Ok(MetaReply::Reserved(inos))) => {
                view.caches.homes.extend(inos);
                self.ask(view)
            }
            // The name was there and its inode lives elsewhere: a create that is not exclusive opens it.
            Got::Meta(Ok(MetaReply::Elsewhere { seen })) => match self.lease {
                None => Next::fail(FsError::Exists),
                Some(_) if seen.kind == FileKind::Directory => Next::fail(FsError::IsDirectory),
                // The kernel looks again, and follows or opens what it finds itself.
                Some(_) if seen.kind != FileKind::Regular => Next::fail(FsError::Stale),
                Some(lease) => {
                    self.found = true;
                    Next::Ask(RequestBody::MetaQuery(MetaQuery::Open {
                        ino: seen.ino,
                        lease,
                        patient: false,
                        held: None,
                    }))
                }
            },
            // Between the two questions the name was taken away: the create begins anew.
            Got::Meta(Ok(MetaReply::Inode { attr, .. }))
                if attr.nlink == 0 && self.draws < DRAWS_MAX =>
            {
                self.draws += 1;
                self.ask(view)
            }
            Got::Meta(Ok(MetaReply::Inode { attr, grant })) => Next::Opened {
                attr,
                grant,
                created: Some(false),
            },
            Got::Meta(Ok(MetaReply::Made {
                attr,
                existed,
                grant,
            })) => {
                let seen = Seen {
                    ino: attr.ino,
                    kind: attr.kind,
                };
                view.caches.note_name(self.dir, &self.name, Some(seen));
                if self.lease.is_none() {
                    return Next::Done(Ok(Reply::Attr(attr)));
                }
                Next::Opened {
                    attr,
                    grant,
                    created: Some(!existed),
                }
            }
            // The inode that was found under the name is gone: so the name is, or is another's by now.
            Got::Meta(Err(FsError::NotFound)) if self.found => {
                self.found = false;
                self.next(view, Got::Changed)
            }
            Got::Meta(Err(error)) => {
                view.caches.forget_name(self.dir, &self.name);
                Next::fail(error)
            }
            Got::Meta(Ok(_)) | Got::Stats(_) => Next::fail(FsError::Io),
        }
    }
}

/// getdents(2).
#[derive(Debug)]
pub(in super::super) struct ReadDir {
    pub(in super::super) dir: Ino,
    pub(in super::super) cookie: Cookie,
    pub(in super::super) limit: u32,
    pub(in super::super) plus: bool,
    pub(in super::super) entries: Vec<DirEntry>,
    /// Where the next question goes; `None` before the first.
    pub(in super::super) at: Option<Place>,
}

impl ReadDir {
    fn ask(&self, at: Place) -> Next {
        let have = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let query = MetaQuery::ReadDir {
            dir: self.dir,
            cookie: self.cookie.max(Cookie::DOT_DOT),
            limit: self.limit - have,
            plus: self.plus,
        };
        Next::AskAt(at, RequestBody::MetaQuery(query))
    }

    fn full(&self) -> bool {
        u32::try_from(self.entries.len()).is_ok_and(|have| have >= self.limit)
    }

    fn dots(&mut self, parent: Ino) {
        for (cookie, name, ino) in [
            (Cookie::DOT, &b"."[..], self.dir),
            (Cookie::DOT_DOT, &b".."[..], parent),
        ] {
            if self.cookie < cookie && !self.full() {
                self.cookie = cookie;
                self.entries.push(DirEntry {
                    cookie,
                    name: name.to_vec(),
                    ino,
                    kind: FileKind::Directory,
                    attr: None,
                });
            }
        }
    }

    fn done(&mut self) -> Next {
        Next::Done(Ok(Reply::Entries(core::mem::take(&mut self.entries))))
    }

    fn walk(&mut self, at: Place) -> Next {
        self.at = Some(at);
        if self.full() {
            return self.done();
        }
        self.ask(at)
    }

    fn entries(&mut self, more: Vec<DirEntry>, end: bool, answered: Option<Places>) -> Next {
        if let Some(last) = more.last() {
            self.cookie = last.cookie;
        }
        self.entries.extend(more);
        if self.full() {
            return self.done();
        }
        let at = self.at.expect("asked before answered");
        if !end {
            return self.walk(at.max(self.cookie.place(self.dir)));
        }
        let bucket = self.dir.bucket().places();
        let next = answered.map_or(bucket.end, |places| places.end);
        if next >= bucket.end {
            return self.done();
        }
        self.walk(Place(next))
    }
}

impl Op for ReadDir {
    fn next(&mut self, view: &mut View<'_>, got: Got) -> Next {
        match got {
            Got::Start | Got::Changed | Got::Woken => {
                if self.cookie < Cookie::DOT_DOT {
                    let query = MetaQuery::GetAttr { ino: self.dir };
                    return Next::Ask(RequestBody::MetaQuery(query));
                }
                self.walk(self.cookie.place(self.dir).max(self.dir.place()))
            }
            Got::Meta(Ok(MetaReply::Inode { attr, .. })) => {
                if attr.kind != FileKind::Directory {
                    return Next::fail(FsError::NotDirectory);
                }
                self.dots(attr.parent);
                self.walk(Place(self.dir.bucket().places().start))
            }
            Got::Meta(Ok(MetaReply::Entries { entries, end })) => {
                self.entries(entries, end, view.answered)
            }
            Got::Meta(Err(error)) => Next::fail(error),
            Got::Meta(Ok(_)) | Got::Stats(_) => Next::fail(FsError::Io),
        }
    }
}
