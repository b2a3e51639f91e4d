//! What the kernel caches of a file: whether its pages show the content that this mount's lease is about (P11).
//!
//! Owns the proof, not the pages. The kernel drops all pages of a file when it opens it without being told to keep them;
//! a call through that open file shows that it has. From then on, and as long as nobody else changes the content, what it
//! caches came from answers under leases of that content, or was written through this mount.
//!
//! ```text
//!  content as known changes ─▶ unproven ─open, without "keep"─▶ the kernel drops ─call by that handle─▶ proven ─▶ "keep"
//!                    └─ files open here: before it reads again the kernel is told of another time, and drops
//! ```

use core::time::Duration;

use super::file::{ContentCall, FileState, Recalling};
use crate::attr::Attr;
use crate::client::Client;
use crate::client::ops::Single;
use crate::client::port::{CallId, Output};
use crate::place::Ino;
use crate::request::{LeaseKind, MetaQuery, RecallKind};
use crate::time::{Instant, Now};
use crate::vfs::{Handle, Reply};

/// The kernel's pages of one file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pages {
    /// Names the stretch of time in which only this mount changed the content.
    pub(super) stretch: u64,
    /// They are of this stretch.
    proven: bool,
    /// Invalidations under way.
    dropping: u32,
    /// They may be of an earlier one, with files open here.
    stale: bool,
    /// When the kernel was last made to drop them by another time. Until it has come to that answer nothing may make it
    /// ignore it.
    told_stale: Option<Instant>,
}

/// The kernel comes to an answer within this.
const TOLD: Duration = Duration::from_secs(1);

/// Added to a time of change, within its second: no clock steps by so much, so the kernel sees that it is another.
const OTHER_NANOS: u32 = 500_000_007;

impl Client {
    /// Whether the kernel may keep what it caches of a file that is being opened.
    #[must_use]
    pub fn keeps_pages(&self, now: Now, handle: Handle) -> bool {
        let file = self
            .files
            .handles
            .get(&handle)
            .filter(|opened| !opened.directory)
            .and_then(|opened| self.files.by_ino.get(&opened.ino));
        file.is_some_and(|file| {
            let proven = file.pages.proven || cfg!(planted = "pages_kept_unproven");
            proven && file.shows(now.mono)
        })
    }

    /// Whether what is known here of the content of an open file may be shown until then, and nothing of it is on its way.
    pub(in super::super) fn shows_still(&self, ino: Ino, until: Instant) -> bool {
        let file = self.files.by_ino.get(&ino);
        let shows = file.is_some_and(|file| {
            let told = file.pages.told_stale.is_none_or(|told| told + TOLD < until);
            file.is_quiet() && !file.pages.stale && told && file.shows(until)
        });
        shows && !self.tasks.opens(ino)
    }

    /// A call by a handle: the kernel has opened it.
    pub(in super::super) fn used(&mut self, handle: Handle) {
        if let Some(opened) = self.files.handles.get(&handle)
            && let Some(file) = self.files.by_ino.get_mut(&opened.ino)
            && file.pages.stretch == opened.stretch
        {
            file.pages.proven = true;
            file.pages.stale = false;
        }
    }

    /// Somebody else changed the content, or what was written here is lost: the kernel's pages show what is not there.
    pub(super) fn pages_outdated(&mut self, ino: Ino) {
        let stretch = self.files.fresh();
        let file = self.file(ino);
        file.pages.stretch = stretch;
        file.pages.proven = false;
        // Before any content was known here, no page came in by a file that is open now.
        if file.opens > 0 && file.content.attr.is_some() {
            file.pages.stale = true;
        }
    }

    /// Makes the kernel drop its pages.
    pub(super) fn drop_pages(&mut self, ino: Ino) {
        self.file(ino).pages.dropping += 1;
        self.out.push_back(Output::Invalidate { ino });
    }

    /// The kernel has dropped its pages; true when that was the last time it was told to.
    pub(super) fn pages_dropped(&mut self, ino: Ino) -> bool {
        let Some(file) = self.files.by_ino.get_mut(&ino) else {
            return false;
        };
        file.pages.dropping = file.pages.dropping.saturating_sub(1);
        file.pages.dropping == 0
    }

    /// Before it reads what it caches, the kernel asks whether size and time of change are still the same: under a lease
    /// nobody else need be asked.
    pub(in super::super) fn revalidate(&mut self, id: CallId, ino: Ino, handle: Handle) {
        self.used(handle);
        if self.allowed(handle, ino, false).is_ok() {
            return self.enqueue(ino, ContentCall::Look { id });
        }
        self.start_call(id, Single::query(MetaQuery::GetAttr { ino }));
    }

    /// A call is told these attributes.
    pub(in super::super) fn note_shown(&mut self, attr: &Attr) {
        if let Some(file) = self.files.by_ino.get_mut(&attr.ino)
            && file.content.shown.as_ref().map(|shown| shown.change) < Some(attr.change)
        {
            file.content.shown = Some(attr.clone());
        }
    }

    pub(super) fn look(&mut self, id: CallId, ino: Ino) {
        let now = self.now.mono;
        let file = self.file(ino);
        let stale = core::mem::take(&mut file.pages.stale);
        if stale {
            file.pages.told_stale = Some(now);
        }
        let content = &file.content;
        // What the kernel was told last, lest it sees times go to and fro.
        let known = [&content.attr, &content.shown].into_iter().flatten();
        let attr = known.max_by_key(|attr| attr.change).cloned();
        let mut attr = attr.expect("a lease comes with attributes");
        // An invalidation would make the kernel ignore this very answer (fuse_change_attributes), its size included. It
        // drops what it caches by itself when the time is not what it was; nobody else is shown this answer.
        if stale {
            self.note_shown(&attr);
            attr.mtime.nanos = (attr.mtime.nanos + OTHER_NANOS) % 1_000_000_000;
        }
        self.reply(id, Ok(Reply::Attr(attr)));
    }
}

impl FileState {
    /// Whether what is known here of the content may be shown.
    fn shows(&self, now: Instant) -> bool {
        let leaves = |recall: Recalling| recall.want != RecallKind::Flush;
        self.allows(LeaseKind::Shared, now) && !self.lease.recall.is_some_and(leaves)
    }
}
