//! The mount's calls as they arrive: each is given to the machine that carries it out.
//!
//! Owns nothing but that choice, and the checks that need no region.

use alloc::vec::Vec;

use super::Client;
use super::content::{ContentCall, Opening, lease_for};
use super::ops::{Link, LockCall, Lookup, Make, ReadDir, Rename, Single, Stats, Then};
use super::port::CallId;
use crate::attr::Name;
use crate::error::FsError;
use crate::limits::{NAME_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use crate::place::Ino;
use crate::request::{MetaOp, MetaQuery};
use crate::vfs::{Call, LockOwner, Outcome, Reply};

/// The extended attribute that the kernel asks for at each write (P11).
const CAPABILITY: &[u8] = b"security.capability";

/// Whether a call changes something.
const fn changes(call: &Call) -> bool {
    match call {
        Call::SetAttr { .. }
        | Call::Make { .. }
        | Call::Unlink { .. }
        | Call::RemoveDir { .. }
        | Call::Rename { .. }
        | Call::Link { .. }
        | Call::Create { .. }
        | Call::Write { .. }
        | Call::SetXattr { .. }
        | Call::RemoveXattr { .. }
        | Call::Allocate { .. } => true,
        Call::Open { flags, .. } => flags.write || flags.truncate,
        Call::Lookup { .. }
        | Call::GetAttr { .. }
        | Call::Revalidate { .. }
        | Call::ReadLink { .. }
        | Call::Read { .. }
        | Call::Flush { .. }
        | Call::Release { .. }
        | Call::Sync { .. }
        | Call::OpenDir { .. }
        | Call::ReadDir { .. }
        | Call::ReleaseDir { .. }
        | Call::StatFs
        | Call::GetXattr { .. }
        | Call::ListXattr { .. }
        | Call::TestLock { .. }
        | Call::SetLock { .. }
        | Call::Unlock { .. }
        | Call::Seek { .. } => false,
    }
}

/// The names a call brings.
fn names(call: &Call) -> Vec<&Name> {
    match call {
        Call::Lookup { name, .. }
        | Call::Make { name, .. }
        | Call::Unlink { name, .. }
        | Call::RemoveDir { name, .. }
        | Call::Create { name, .. } => alloc::vec![name],
        Call::Link { to_name, .. } => alloc::vec![to_name],
        Call::Rename { name, to_name, .. } => alloc::vec![name, to_name],
        Call::GetAttr { .. }
        | Call::Revalidate { .. }
        | Call::SetAttr { .. }
        | Call::ReadLink { .. }
        | Call::Open { .. }
        | Call::Read { .. }
        | Call::Write { .. }
        | Call::Flush { .. }
        | Call::Release { .. }
        | Call::Sync { .. }
        | Call::OpenDir { .. }
        | Call::ReadDir { .. }
        | Call::ReleaseDir { .. }
        | Call::StatFs
        | Call::GetXattr { .. }
        | Call::ListXattr { .. }
        | Call::SetXattr { .. }
        | Call::RemoveXattr { .. }
        | Call::TestLock { .. }
        | Call::SetLock { .. }
        | Call::Unlock { .. }
        | Call::Allocate { .. }
        | Call::Seek { .. } => Vec::new(),
    }
}

impl Client {
    pub(super) fn call(&mut self, id: CallId, call: Call) {
        if names(&call).iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return self.reply(id, Err(FsError::NameTooLong));
        }
        if self.config.read_only && changes(&call) {
            return self.reply(id, Err(FsError::ReadOnly));
        }
        match call {
            Call::Open { .. }
            | Call::Create { .. }
            | Call::Read { .. }
            | Call::Write { .. }
            | Call::Flush { .. }
            | Call::Release { .. }
            | Call::Sync { .. }
            | Call::Allocate { .. }
            | Call::Seek { .. }
            | Call::Revalidate { .. }
            | Call::SetAttr { .. } => self.content_call(id, call),
            Call::GetXattr { .. }
            | Call::ListXattr { .. }
            | Call::SetXattr { .. }
            | Call::RemoveXattr { .. } => self.xattr_call(id, call),
            Call::TestLock { .. } | Call::SetLock { .. } | Call::Unlock { .. } => {
                self.lock_call(id, call);
            }
            Call::Lookup { .. }
            | Call::GetAttr { .. }
            | Call::ReadLink { .. }
            | Call::Make { .. }
            | Call::Unlink { .. }
            | Call::RemoveDir { .. }
            | Call::Rename { .. }
            | Call::Link { .. }
            | Call::OpenDir { .. }
            | Call::ReadDir { .. }
            | Call::ReleaseDir { .. }
            | Call::StatFs => self.name_call(id, call),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "`call` has sorted them")]
    fn name_call(&mut self, id: CallId, call: Call) {
        match call {
            Call::Lookup { dir, name } => self.start_call(
                id,
                Lookup {
                    dir,
                    name,
                    found: false,
                    looks: 8,
                },
            ),
            Call::GetAttr { ino } => {
                self.start_call(id, Single::query(MetaQuery::GetAttr { ino }));
            }
            Call::ReadLink { ino } => {
                self.start_call(id, Single::query(MetaQuery::ReadLink { ino }));
            }
            Call::Make { dir, name, new } => self.start_call(
                id,
                Make {
                    dir,
                    name,
                    new,
                    exclusive: true,
                    lease: None,
                    draws: 0,
                    found: false,
                },
            ),
            Call::Unlink { dir, name } => self.start_call(
                id,
                Single::named(dir, name, move |salt, name| MetaOp::Unlink {
                    dir,
                    salt,
                    name,
                }),
            ),
            Call::RemoveDir { dir, name } => self.start_call(
                id,
                Single::named(dir, name, move |salt, name| MetaOp::RemoveDir {
                    dir,
                    salt,
                    name,
                }),
            ),
            Call::Rename {
                dir,
                name,
                to_dir,
                to_name,
                mode,
            } => self.start_call(id, Rename::new((dir, name), (to_dir, to_name), mode)),
            Call::Link {
                ino,
                to_dir,
                to_name,
            } => self.start_call(id, Link::new(ino, to_dir, to_name)),
            Call::OpenDir { ino } => self.open_dir(id, ino),
            Call::ReadDir {
                ino,
                cookie,
                limit,
                plus,
                ..
            } => self.start_call(
                id,
                ReadDir {
                    dir: ino,
                    cookie,
                    limit: limit.max(1),
                    plus,
                    entries: Vec::new(),
                    at: None,
                },
            ),
            Call::ReleaseDir { handle } => {
                self.release_handle(handle);
                self.reply(id, Ok(Reply::Done));
            }
            Call::StatFs => self.start_call(id, Stats),
            _ => unreachable!("the caller tells these apart"),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "`call` has sorted them")]
    fn content_call(&mut self, id: CallId, call: Call) {
        match call {
            Call::Open { ino, flags } => self.open_file(id, ino, flags),
            Call::Create {
                dir,
                name,
                new,
                flags,
            } => self.start(
                Then::Open(id, Opening::of(None, flags)),
                Make {
                    dir,
                    name,
                    new,
                    exclusive: flags.exclusive,
                    lease: Some(lease_for(flags)),
                    draws: 0,
                    found: false,
                },
            ),
            Call::Read {
                ino,
                handle,
                offset,
                size,
            } => self.read_call(id, ino, handle, (offset, size)),
            Call::Write {
                ino,
                handle,
                offset,
                data,
            } => self.write_call(id, ino, handle, (offset, data)),
            Call::Flush { ino, handle, owner } => {
                let outcome = self.flush_handle(ino, handle);
                self.free_locks(id, ino, Some(owner), outcome);
            }
            Call::Release { ino, handle, owner } => {
                self.release_handle(handle);
                self.free_locks(id, ino, owner, Ok(Reply::Done));
                if !self.has_open(ino) {
                    self.last_closed(ino);
                }
            }
            Call::Sync {
                ino,
                handle,
                data_only,
            } => self.sync_call(id, ino, handle, data_only),
            Call::Revalidate { ino, handle } => self.revalidate(id, ino, handle),
            Call::SetAttr { ino, set, size, .. } => self.set_attr_call(id, ino, set, size),
            Call::Allocate {
                ino,
                handle,
                offset,
                len,
                mode,
            } => self.allocate_call(id, (ino, handle), (offset, len), mode),
            Call::Seek {
                ino, offset, what, ..
            } => self.enqueue(ino, ContentCall::Seek { id, offset, what }),
            _ => unreachable!("the caller tells these apart"),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "`call` has sorted them")]
    fn xattr_call(&mut self, id: CallId, call: Call) {
        match call {
            Call::GetXattr { ino, name } => {
                if name == CAPABILITY {
                    if self.has_no_capability(ino) {
                        return self.reply(id, Err(FsError::NoData));
                    }
                    self.capabilities.insert(id, ino);
                }
                self.start_call(id, Single::query(MetaQuery::GetXattr { ino, name }));
            }
            Call::ListXattr { ino } => {
                self.start_call(id, Single::query(MetaQuery::ListXattr { ino }));
            }
            Call::SetXattr {
                ino,
                name,
                value,
                mode,
            } => {
                if name.len() > XATTR_NAME_BYTES_MAX {
                    return self.reply(id, Err(FsError::Range));
                }
                if value.len() > XATTR_VALUE_BYTES_MAX {
                    return self.reply(id, Err(FsError::TooBig));
                }
                self.note_capability(ino, false);
                let outlives_writes = name != CAPABILITY;
                let op = MetaOp::SetXattr {
                    ino,
                    name,
                    value,
                    mode,
                };
                if outlives_writes {
                    self.start_call(id, Single::op(op));
                } else {
                    self.set_after_writes(id, ino, op);
                }
            }
            Call::RemoveXattr { ino, name } => {
                self.start_call(id, Single::op(MetaOp::RemoveXattr { ino, name }));
            }
            _ => unreachable!("the caller tells these apart"),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "`call` has sorted them")]
    fn lock_call(&mut self, id: CallId, call: Call) {
        match call {
            Call::TestLock { ino, owner, lock } => {
                self.count_lock_call(ino);
                self.start_call(id, LockCall::test(ino, owner, lock));
            }
            Call::SetLock {
                ino,
                owner,
                lock,
                wait,
            } => {
                if let Some(waiting) = self.freeing.get_mut(&(ino, owner)) {
                    return waiting.push((id, call));
                }
                self.locks.insert((ino, owner), ());
                self.count_lock_call(ino);
                self.start_call(id, LockCall::set(ino, owner, lock, wait));
            }
            Call::Unlock {
                ino,
                owner,
                start,
                end,
            } => {
                self.count_lock_call(ino);
                self.start_call(id, LockCall::unlock(ino, owner, start, end));
            }
            _ => unreachable!("the caller tells these apart"),
        }
    }

    /// An owner's locks on a file end with the descriptor; the call is answered with `outcome` when they are gone, since
    /// who closes a file and tells another expects that one to get the lock.
    fn free_locks(&mut self, id: CallId, ino: Ino, owner: Option<LockOwner>, outcome: Outcome) {
        let held = owner.filter(|owner| self.locks.remove(&(ino, *owner)).is_some());
        match held {
            Some(owner) => self.unlock_all(Some((id, outcome)), ino, owner),
            None => self.reply(id, outcome),
        }
    }

    /// An owner's locks are free, or could not be freed in time: then that is tried until it has been done, or the session,
    /// which they end with, is about to. What the owner wants to lock anew comes after: sent beside it, it could be undone.
    pub(super) fn locks_freed(&mut self, ino: Ino, owner: LockOwner, failed: bool) {
        let waiting = self.freeing.remove(&(ino, owner)).unwrap_or_default();
        if failed && matches!(self.unmount, super::unmount::Unmount::No) {
            self.unlock_all(None, ino, owner);
        }
        for (id, call) in waiting {
            if failed {
                self.reply(id, Err(FsError::Io));
            } else {
                self.lock_call(id, call);
            }
        }
    }

    fn unlock_all(&mut self, call: Option<(CallId, Outcome)>, ino: Ino, owner: LockOwner) {
        self.freeing.entry((ino, owner)).or_default();
        let freed = Then::Freed(call, ino, owner);
        self.start(freed, LockCall::unlock(ino, owner, 0, u64::MAX));
    }

    /// The caller of a call that waits for its owner's locks to be freed has gone; true when it was one.
    pub(super) fn cancel_waiting_lock(&mut self, id: CallId) -> bool {
        let found = self.freeing.values_mut().find_map(|waiting| {
            let at = waiting.iter().position(|(waits, _)| *waits == id)?;
            Some(waiting.remove(at))
        });
        if found.is_some() {
            self.reply(id, Err(FsError::Interrupted));
        }
        found.is_some()
    }

    /// A leader asks which inodes without a name are not open here.
    pub(super) fn asked_open(&mut self, inos: Vec<Ino>) {
        let inos: Vec<Ino> = inos.into_iter().filter(|ino| !self.is_open(*ino)).collect();
        if !inos.is_empty() {
            self.disown(&inos);
            let told = Then::Disowned(inos.clone());
            self.start(told, Single::op(MetaOp::NotOpen { inos }));
        }
    }
}
