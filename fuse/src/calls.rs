//! What the adapter does for many requests alike: a call goes out with the reply, and whoever completes it answers.
//!
//! Owns the shapes of replies: an entry, attributes, bytes, nothing but success. Which call a request becomes is
//! [`super::adapter`]'s business.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fuser::{
    Errno, FileHandle, Generation, INodeNo, LockOwner, ReplyAttr, ReplyData, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyXattr, Request,
};
use polyfs_core::attr::{FileKind, NewInode};
use polyfs_core::error::FsError;
use polyfs_core::limits::NAME_BYTES_MAX;
use polyfs_core::place::{Cookie, Ino};
use polyfs_core::vfs::{self, Call, DirEntry, FsStats, Handle, Outcome, Reply};
use polyfs_node::client::ClientHandle;

use crate::convert::{self, Numbers};
use crate::errno::errno;
use crate::known::Known;
use crate::listings::Listings;
use crate::lock_waits::LockWaits;

/// How long the kernel may keep entries, and most attributes: not at all. To forget an entry it would wait for the lock of
/// a directory, which a create in flight holds (P11).
pub(crate) const KEEP: Duration = Duration::ZERO;
/// Entries fetched for one readdir: about what the kernel's buffer holds.
const ENTRIES_PER_READ: u32 = 256;

/// What fuser calls.
pub(crate) struct Adapter {
    pub(crate) client: ClientHandle,
    pub(crate) numbers: Numbers,
    pub(crate) known: Arc<Known>,
    pub(crate) listings: Arc<Listings>,
    waits: Arc<LockWaits>,
}

impl Adapter {
    pub(crate) fn new(
        client: ClientHandle,
        numbers: Numbers,
        known: Arc<Known>,
        waits: Arc<LockWaits>,
    ) -> Self {
        Self {
            client,
            numbers,
            known,
            listings: Arc::default(),
            waits,
        }
    }

    pub(crate) fn call(&self, call: Call, done: impl FnOnce(Outcome) + Send + 'static) {
        self.client.call(call, Box::new(done));
    }

    pub(crate) fn make(&self, dir: INodeNo, name: &OsStr, new: NewInode, reply: ReplyEntry) {
        let call = Call::Make {
            dir: self.numbers.ino(dir),
            name: name.as_bytes().to_vec(),
            new,
        };
        self.entry(call, reply);
    }

    /// A call that is answered with an entry.
    pub(crate) fn entry(&self, call: Call, reply: ReplyEntry) {
        let numbers = self.numbers;
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Attr(attr)) => reply.entry(&KEEP, &numbers.attr(&attr), Generation(0)),
            other => reply.error(failure(other)),
        });
    }

    /// A call that is answered with attributes.
    pub(crate) fn attr(&self, call: Call, reply: ReplyAttr) {
        let numbers = self.numbers;
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Attr(attr)) => reply.attr(&KEEP, &numbers.attr(&attr)),
            other => reply.error(failure(other)),
        });
    }

    /// LOOKUP. The kernel may keep the attributes for a blink: of these and of GETATTR's it sees whether it was told to drop
    /// them while the answer was on its way (`attr_version`); of those that other answers show it does not.
    pub(crate) fn find(&self, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let numbers = self.numbers;
        self.known.named(dir);
        let (client, known) = (self.client.clone(), Arc::clone(&self.known));
        let call = Call::Lookup {
            dir: numbers.ino(dir),
            name: name.as_bytes().to_vec(),
        };
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Attr(attr)) => {
                // What the kernel may not know yet it could not be told to drop.
                let keep = if known.contains(numbers.number(attr.ino)) {
                    client.keep_attr(&attr)
                } else {
                    KEEP
                };
                reply.entry_with_ttls(&keep, &KEEP, &numbers.attr(&attr), Generation(0));
            }
            other => reply.error(failure(other)),
        });
    }

    /// GETATTR.
    pub(crate) fn look(&self, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let numbers = self.numbers;
        self.known.named(ino);
        let client = self.client.clone();
        let ino = numbers.ino(ino);
        let call = match fh {
            None => Call::GetAttr { ino },
            Some(fh) => Call::Revalidate {
                ino,
                handle: handle(fh),
            },
        };
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Attr(attr)) => reply.attr(&client.keep_attr(&attr), &numbers.attr(&attr)),
            other => reply.error(failure(other)),
        });
    }

    /// A call that is answered with nothing but success.
    pub(crate) fn empty(&self, call: Call, reply: ReplyEmpty) {
        self.call(call, move |outcome| match outcome {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        });
    }

    /// A call that allocates up to `len` bytes of a file: ENOSPC at once when the cluster has less free than what the
    /// file lacks of them. Chunks are only named when they are allocated, so nothing else would say so before the writes.
    pub(crate) fn allocate(&self, ino: Ino, len: u64, call: Call, reply: ReplyEmpty) {
        let client = self.client.clone();
        self.call(Call::GetAttr { ino }, move |outcome| {
            let held = match outcome {
                Ok(Reply::Attr(attr)) => attr.allocated,
                other => return reply.error(failure(other)),
            };
            let then = client.clone();
            let asked = move |outcome| match outcome {
                Ok(Reply::Stats(stats)) if lacks(len, held, stats) => {
                    reply.error(errno(FsError::NoSpace));
                }
                Ok(Reply::Stats(_)) => {
                    let done = move |outcome: Outcome| match outcome {
                        Ok(_) => reply.ok(),
                        Err(error) => reply.error(errno(error)),
                    };
                    then.call(call, Box::new(done));
                }
                other => reply.error(failure(other)),
            };
            client.call(Call::StatFs, Box::new(asked));
        });
    }

    /// A call that is answered with bytes.
    pub(crate) fn data(&self, call: Call, reply: ReplyData) {
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Data(bytes)) => reply.data(&bytes),
            other => reply.error(failure(other)),
        });
    }

    /// A call that is answered as xattr calls are: with the length when `size` is 0.
    pub(crate) fn xattr(&self, call: Call, size: u32, reply: ReplyXattr) {
        self.call(call, move |outcome| {
            let bytes = match outcome {
                Ok(Reply::Data(bytes)) => bytes,
                Ok(Reply::Names(names)) => names
                    .into_iter()
                    .flat_map(|name| [name, vec![0]])
                    .flatten()
                    .collect(),
                other => return reply.error(failure(other)),
            };
            match u32::try_from(bytes.len()) {
                Ok(len) if size == 0 => reply.size(len),
                Ok(len) if len <= size => reply.data(&bytes),
                _ => reply.error(Errno::ERANGE),
            }
        });
    }

    pub(crate) fn lock(&self, call: Call, tid: u32, waits: bool, reply: ReplyEmpty) {
        if !waits {
            return self.empty(call, reply);
        }
        let book = Arc::clone(&self.waits);
        // The outcome may come before the call's name is known here: then there is nothing to watch.
        let over = Arc::new(std::sync::Mutex::new((false, None)));
        let seen = Arc::clone(&over);
        let id = self.client.call(
            call,
            Box::new(move |outcome: Outcome| {
                let mut seen = seen
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                seen.0 = true;
                if let Some(id) = seen.1 {
                    book.remove(id);
                }
                match outcome {
                    Ok(_) => reply.ok(),
                    Err(error) => reply.error(errno(error)),
                }
            }),
        );
        let mut over = over
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !over.0 {
            over.1 = Some(id);
            self.waits.add(id, tid);
        }
    }
}

/// Whether `len` bytes of a file that holds `held`, perhaps among them, can't fit.
fn lacks(len: u64, held: u64, stats: FsStats) -> bool {
    len.saturating_sub(held) > stats.bytes_free
}

/// The number for a call that failed, or for an outcome that does not belong to it.
pub(crate) fn failure(outcome: Outcome) -> Errno {
    match outcome {
        Err(error) => errno(error),
        Ok(reply) => {
            tracing::error!(?reply, "a call was answered with what belongs to another");
            Errno::EIO
        }
    }
}

/// Whether the kernel may ask for this name at all.
pub(crate) fn too_long(name: &OsStr) -> bool {
    name.as_bytes().len() > NAME_BYTES_MAX
}

pub(crate) fn handle(fh: FileHandle) -> Handle {
    Handle(fh.0)
}

pub(crate) fn owner(owner: LockOwner) -> vfs::LockOwner {
    vfs::LockOwner(owner.0)
}

/// Entries for the kernel's buffer.
pub(crate) struct Listed {
    listings: Arc<Listings>,
    handle: FileHandle,
    after: Cookie,
    plus: bool,
    entries: VecDeque<DirEntry>,
}

impl Listed {
    /// Adds them until `add` says that the buffer is full; the others are for the next request.
    pub(crate) fn into(self, add: impl FnMut(&DirEntry) -> bool) {
        let at = (self.after, self.plus);
        self.listings.fill(self.handle, at, self.entries, add);
    }
}

impl Adapter {
    /// Entries of an open directory from an offset on: what is left of those that were fetched, or the next.
    pub(crate) fn list(
        &self,
        (ino, fh, offset): (INodeNo, FileHandle, u64),
        plus: bool,
        done: impl FnOnce(Result<Listed, Errno>) + Send + 'static,
    ) {
        let (ino, cookie) = (self.numbers.ino(ino), Cookie(offset));
        let listings = Arc::clone(&self.listings);
        let listed = move |entries| Listed {
            listings,
            handle: fh,
            after: cookie,
            plus,
            entries,
        };
        if let Some(rest) = self.listings.take(fh, cookie, plus) {
            return done(Ok(listed(rest)));
        }
        let call = Call::ReadDir {
            ino,
            handle: handle(fh),
            cookie,
            limit: ENTRIES_PER_READ,
            plus,
        };
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Entries(entries)) => done(Ok(listed(entries.into()))),
            other => done(Err(failure(other))),
        });
    }
}

/// Adds an entry with its attributes; one without them gets inode number 0 as its node, which tells the kernel that
/// they were not wanted (fuse_direntplus). Answers whether the buffer is full.
pub(crate) fn add_plus(reply: &mut ReplyDirectoryPlus, numbers: Numbers, entry: &DirEntry) -> bool {
    let name = OsStr::from_bytes(&entry.name);
    let dots = entry.cookie <= Cookie::DOT_DOT;
    match &entry.attr {
        Some(attr) if !dots => {
            let (number, attr) = (numbers.number(entry.ino), numbers.attr(attr));
            reply.add(number, entry.cookie.0, name, &KEEP, &attr, Generation(0))
        }
        _ => {
            let attr = convert::bare(numbers.number(entry.ino), entry.kind);
            reply.add(
                INodeNo(0),
                entry.cookie.0,
                name,
                &KEEP,
                &attr,
                Generation(0),
            )
        }
    }
}

pub(crate) fn new_inode(request: &Request, kind: FileKind, mode: u16) -> NewInode {
    let (uid, gid) = (request.uid(), request.gid());
    NewInode {
        kind,
        mode,
        uid,
        gid,
        rdev: 0,
        target: Bytes::new(),
    }
}

/// POSIX ACLs are not kept: they would look as if they protected something.
pub(crate) fn is_acl(name: &OsStr) -> bool {
    name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_holds_already_needs_no_room() {
        let stats = FsStats {
            bytes_total: 100,
            bytes_free: 10,
            inodes_used: 0,
        };
        assert!(!lacks(10, 0, stats));
        assert!(lacks(11, 0, stats));
        assert!(!lacks(60, 50, stats));
        assert!(!lacks(5, 50, stats));
        assert!(lacks(u64::MAX, 0, stats));
    }
}
