//! Handles: open, close, and what their holders are told.
//!
//! Owns who has what open here.

use super::file::{ContentCall, FileState};
use super::{Opened, Opening};
use crate::attr::{Attr, FileKind, SetAttr, without_set_id};
use crate::client::Client;
use crate::client::ops::{Single, Then};
use crate::client::port::CallId;
use crate::client::questions::Route;
use crate::error::FsError;
use crate::place::Ino;
use crate::request::{Grant, LeaseKind};
use crate::vfs::{Handle, OpenFlags, Outcome, Reply};

/// The lease an open file will want.
pub(in super::super) const fn lease_for(flags: OpenFlags) -> LeaseKind {
    if flags.write || flags.truncate {
        LeaseKind::Exclusive
    } else {
        LeaseKind::Shared
    }
}

/// Why something can't be opened as a file. The kernel follows links and opens pipes and devices itself.
const fn not_a_file(kind: FileKind) -> Option<FsError> {
    match kind {
        FileKind::Regular => None,
        FileKind::Directory => Some(FsError::IsDirectory),
        FileKind::Symlink => Some(FsError::Loop),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Some(FsError::NoSuchAddress)
        }
    }
}

impl Client {
    fn give_handle(&mut self, ino: Ino, flags: OpenFlags, directory: bool) -> Handle {
        self.views.unkeep(ino);
        let handle = Handle(self.files.fresh());
        let file = self.files.by_ino.get(&ino).filter(|_| !directory);
        let opened = Opened {
            ino,
            flags,
            directory,
            stretch: file.map_or(0, |file| file.pages.stretch),
            error: None,
            error_at_close: None,
        };
        self.files.handles.insert(handle, opened);
        if !directory {
            self.file(ino).opens += 1;
        }
        handle
    }

    /// A directory is open; nothing is kept for it.
    pub(in super::super) fn open_dir(&mut self, call: CallId, ino: Ino) {
        let handle = self.give_handle(ino, OpenFlags::default(), true);
        self.reply(call, Ok(Reply::Opened(handle)));
    }

    /// Opens a file; asks nobody while a lease says all there is to know.
    pub(in super::super) fn open_file(&mut self, call: CallId, ino: Ino, flags: OpenFlags) {
        if self.files.disowned.contains(&ino) {
            return self.reply(call, Err(FsError::Stale));
        }
        self.caches.foresight.opened(ino, flags.write);
        let now = self.now.mono;
        let known = self.files.by_ino.get(&ino).and_then(|file| {
            let usable = file.allows(LeaseKind::Shared, now) && file.lease.recall.is_none();
            file.content.attr.clone().filter(|_| usable)
        });
        let opening = Opening::of(Some(ino), flags);
        match known {
            Some(attr) => {
                self.opened(call, opening, attr, None, None);
            }
            None => self.start(
                Then::Open(call, opening),
                Single::open(ino, lease_for(flags)),
            ),
        }
    }

    /// An open or create has its inode.
    pub(in super::super) fn opened(
        &mut self,
        call: CallId,
        opening: Opening,
        attr: Attr,
        granted: Option<(Grant, Route)>,
        created: Option<bool>,
    ) {
        let flags = opening.flags;
        if let Some(error) = not_a_file(attr.kind) {
            return self.reply(call, Err(error));
        }
        let ino = attr.ino;
        if let Some((grant, route)) = granted {
            self.install_if_better(ino, grant, &route);
        }
        let handle = self.give_handle(ino, flags, false);
        let cuts = flags.truncate && created != Some(true);
        let size = if cuts { 0 } else { attr.size };
        let reply = match created {
            None => Reply::Opened(handle),
            Some(_) => Reply::Created(Attr { size, ..attr }, handle),
        };
        if cuts {
            let call = ContentCall::SetSize {
                id: call,
                size: 0,
                set: SetAttr::default(),
                reply: Some(reply),
            };
            return self.enqueue(ino, call);
        }
        self.reply(call, Ok(reply));
        self.pump(ino);
    }

    /// A grant came with an answer to something else.
    pub(in super::super) fn install_if_better(&mut self, ino: Ino, grant: Grant, route: &Route) {
        let held = self.file(ino).lease.held;
        if held.is_none_or(|held| held.kind <= grant.kind) {
            self.install(ino, grant, route);
        }
    }

    /// A lookup brought a lease: given back when nobody has used it for long.
    pub(in super::super) fn lease_found(&mut self, ino: Ino, grant: Grant, route: &Route) {
        if self.files.disowned.contains(&ino) {
            return;
        }
        self.install_if_better(ino, grant, route);
        let now = self.now.mono;
        let file = self.file(ino);
        file.idle_since = file.idle_since.max(now);
        self.pump(ino);
    }

    /// A leader is told that these are not open here: nothing may open them from what is cached, nor overtake the word
    /// on its way (P9).
    pub(in super::super) fn disown(&mut self, inos: &[Ino]) {
        for ino in inos {
            self.files.disowned.insert(*ino);
            if self.files.by_ino.contains_key(ino) {
                self.release_lease(*ino);
                self.files.by_ino.remove(ino);
            }
        }
    }

    /// The leader has heard; from now on it refuses to open them itself.
    pub(in super::super) fn disowned_heard(&mut self, inos: &[Ino]) {
        for ino in inos {
            self.files.disowned.remove(ino);
        }
    }

    /// Whether a descriptor of a file is open here.
    pub(in super::super) fn has_open(&self, ino: Ino) -> bool {
        let file = self.files.by_ino.get(&ino);
        file.is_some_and(|file| file.opens > 0)
    }

    /// Whether an inode is open here.
    pub(in super::super) fn is_open(&self, ino: Ino) -> bool {
        let used = self
            .files
            .by_ino
            .get(&ino)
            .is_some_and(|file| file.opens > 0 || !file.is_quiet());
        let lists = |opened: &Opened| opened.directory && opened.ino == ino;
        used || self.tasks.opens(ino) || self.files.handles.values().any(lists)
    }

    /// What the kernel does with an open file: whether the handle allows it.
    pub(super) fn allowed(&self, handle: Handle, ino: Ino, write: bool) -> Result<(), FsError> {
        let opened = self
            .files
            .handles
            .get(&handle)
            .filter(|opened| opened.ino == ino && !opened.directory)
            .ok_or(FsError::BadHandle)?;
        let allows = if write {
            opened.flags.write
        } else {
            opened.flags.read || opened.flags.write
        };
        allows.then_some(()).ok_or(FsError::BadHandle)
    }

    /// What went wrong with write-back, told once to a handle's holder; to all who have the file open when none is named.
    pub(super) fn take_error(&mut self, ino: Ino, by: Option<Handle>) -> Option<FsError> {
        let mut error = None;
        for (handle, opened) in &mut self.files.handles {
            if opened.ino == ino && by.is_none_or(|by| by == *handle) {
                error = opened.error.take().or(error);
            }
        }
        error
    }

    /// fsync(2): waits for everything written; reports what went wrong since, once for each handle.
    pub(in super::super) fn sync_call(
        &mut self,
        call: CallId,
        ino: Ino,
        by: Option<Handle>,
        data_only: bool,
    ) {
        match self.take_error(ino, by) {
            Some(error) => self.reply(call, Err(error)),
            None => self.sync(ino, Some((call, by)), data_only),
        }
    }

    /// close(2): write-back is started, not awaited.
    pub(in super::super) fn flush_handle(&mut self, ino: Ino, handle: Handle) -> Outcome {
        self.used(handle);
        let opened = self.files.handles.get_mut(&handle);
        let error = opened.and_then(|opened| opened.error_at_close.take());
        self.sync(ino, None, false);
        error.map_or(Ok(Reply::Done), Err)
    }

    /// The last descriptor of a handle is gone.
    pub(in super::super) fn release_handle(&mut self, handle: Handle) {
        let Some(opened) = self.files.handles.remove(&handle) else {
            return;
        };
        if opened.directory {
            return;
        }
        self.views.unkeep(opened.ino);
        let file = self.file(opened.ino);
        file.opens = file.opens.saturating_sub(1);
        self.sync(opened.ino, None, false);
    }

    /// A waiting call ends in an error; what it would have opened is never closed by the kernel.
    pub(super) fn fail_waiting(&mut self, call: &ContentCall, error: FsError) {
        if let ContentCall::SetSize { reply, .. } = call
            && let Some(Reply::Opened(handle) | Reply::Created(_, handle)) = reply
            && let Some(opened) = self.files.handles.remove(handle)
        {
            let file = self.file(opened.ino);
            file.opens = file.opens.saturating_sub(1);
        }
        self.reply(call.id(), Err(error));
    }

    /// Attributes with what this mount has written: what is not yet committed, and what was committed while the answer
    /// that brought them was on its way.
    pub(in super::super) fn with_dirty(&self, mut attr: Attr) -> Attr {
        if let Some(file) = self.changed_here(&attr) {
            // Bytes that were lost may have left nothing but a time to be told.
            if file.has_bytes() || file.content.number > attr.change {
                attr.size = file.content.size;
            }
            // One that somebody set ahead of all changes ends with the next one.
            let is_set = attr.mtime > attr.ctime;
            attr.mtime = attr.mtime.max(file.content.mtime);
            if is_set {
                attr.mtime = file.content.mtime;
            }
            attr.ctime = attr.ctime.max(file.content.mtime);
            attr.mode = without_set_id(attr.kind, attr.mode);
        }
        attr
    }
}

impl Client {
    /// The file, if this mount knows of later changes of its content than these attributes show.
    fn changed_here(&self, attr: &Attr) -> Option<&FileState> {
        let file = self.files.by_ino.get(&attr.ino)?;
        (file.is_dirty() || file.content.number > attr.change).then_some(file)
    }

    /// How often anything was written here.
    pub(in super::super) const fn writes_ever(&self) -> u64 {
        self.files.writes
    }

    /// Whether attributes that a region has shown are to be joined with what was written here, and that has changed since
    /// the region was asked: so they may be older than a write that others' changes came before.
    pub(in super::super) fn torn(&self, attr: &Attr, writes: u64) -> bool {
        self.files.writes != writes && self.changed_here(attr).is_some()
    }
}

impl Client {
    /// At unmount: everything dirty is to be committed.
    pub(in super::super) fn sync_everything(&mut self) {
        for ino in self.used_files() {
            self.file(ino).back.want_all();
            self.sync(ino, None, false);
        }
    }

    pub(in super::super) fn used_files(&self) -> alloc::vec::Vec<Ino> {
        self.files.by_ino.keys().copied().collect()
    }

    pub(in super::super) fn files_are_quiet(&self) -> bool {
        self.files.by_ino.values().all(FileState::is_quiet)
    }

    /// At unmount: a lease goes back.
    pub(in super::super) fn give_back(&mut self, ino: Ino) {
        self.release_lease(ino);
    }
}
