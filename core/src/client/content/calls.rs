//! Content calls as they arrive from the kernel.
//!
//! Owns their checks; each then waits in its file's queue.

use bytes::Bytes;

use super::file::ContentCall;
use crate::attr::SetAttr;
use crate::client::Client;
use crate::client::ops::Single;
use crate::client::port::CallId;
use crate::error::FsError;
use crate::limits::FILE_BYTES_MAX;
use crate::place::Ino;
use crate::request::MetaOp;
use crate::vfs::{AllocateMode, Handle};

impl Client {
    pub(in super::super) fn read_call(
        &mut self,
        id: CallId,
        ino: Ino,
        handle: Handle,
        (offset, size): (u64, u32),
    ) {
        self.used(handle);
        match self.allowed(handle, ino, false) {
            Err(error) => self.reply(id, Err(error)),
            Ok(()) => self.enqueue(ino, ContentCall::Read { id, offset, size }),
        }
    }

    pub(in super::super) fn write_call(
        &mut self,
        id: CallId,
        ino: Ino,
        handle: Handle,
        (offset, data): (Option<u64>, Bytes),
    ) {
        self.used(handle);
        let call = ContentCall::Write {
            id,
            handle,
            offset,
            data,
        };
        match self.allowed(handle, ino, true) {
            Err(error) => self.reply(id, Err(error)),
            Ok(()) => self.enqueue(ino, call),
        }
    }

    /// chmod and the like wait for write-back, so that a commit can't undo a time that was set.
    pub(in super::super) fn set_attr_call(
        &mut self,
        id: CallId,
        ino: Ino,
        set: SetAttr,
        size: Option<u64>,
    ) {
        if let Some(size) = size {
            if size > FILE_BYTES_MAX {
                return self.reply(id, Err(FsError::TooLarge));
            }
            let call = ContentCall::SetSize {
                id,
                size,
                set,
                reply: None,
            };
            return self.enqueue(ino, call);
        }
        let dirty = self
            .files
            .by_ino
            .get(&ino)
            .is_some_and(|file| file.is_dirty());
        if dirty {
            return self.enqueue(ino, ContentCall::SetAttr { id, set });
        }
        let op = MetaOp::SetAttr { ino, set };
        self.start_call(id, Single::op_with_attr(ino, op));
    }

    /// Sets an extended attribute that does not outlive a write: what was written before it is committed before it.
    pub(in super::super) fn set_after_writes(&mut self, id: CallId, ino: Ino, op: MetaOp) {
        let file = self.files.by_ino.get(&ino);
        if file.is_some_and(|file| file.is_dirty()) {
            self.enqueue(ino, ContentCall::SetXattr { id, op });
        } else {
            self.start_call(id, Single::op(op));
        }
    }

    pub(in super::super) fn allocate_call(
        &mut self,
        id: CallId,
        (ino, handle): (Ino, Handle),
        (offset, len): (u64, u64),
        mode: AllocateMode,
    ) {
        let end = offset.checked_add(len);
        let checked = match end {
            _ if len == 0 => Err(FsError::Invalid),
            Some(end) if end <= FILE_BYTES_MAX => self.allowed(handle, ino, true),
            _ => Err(FsError::TooLarge),
        };
        let call = ContentCall::Allocate {
            id,
            offset,
            len,
            mode,
        };
        match checked {
            Err(error) => self.reply(id, Err(error)),
            Ok(()) => self.enqueue(ino, call),
        }
    }

    /// Whether the inode is known to have no `security.capability` (P11).
    pub(in super::super) fn has_no_capability(&self, ino: Ino) -> bool {
        self.files.by_ino.get(&ino).is_some_and(|file| {
            file.content.no_capability
                && file.allows(crate::request::LeaseKind::Shared, self.now.mono)
        })
    }

    /// Remembers whether it has, while a lease is held.
    pub(in super::super) fn note_capability(&mut self, ino: Ino, none: bool) {
        if let Some(file) = self.files.by_ino.get_mut(&ino) {
            file.content.no_capability = none && file.lease.held.is_some();
        }
    }
}
