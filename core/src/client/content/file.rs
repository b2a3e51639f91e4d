//! The state of one file in use by this mount.
//!
//! Owns the parts and the questions that can be answered from them alone. What happens when is `pump`'s.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::dirty::Dirty;
use super::habit::Habit;
use super::job::Job;
use super::map::ChunkMap;
use super::pages::Pages;
use crate::attr::{Attr, SetAttr};
use crate::ids::{GroupId, NodeId};
use crate::limits::{CHUNK_BYTES, TIMES_BEHIND, WRITE_BACK_AGE};
use crate::place::Ino;
use crate::request::{ChunkName, Claim, Hold, LeaseKind, LeaseSerial, MetaOp, RecallKind};
use crate::time::{Instant, Timestamp};
use crate::vfs::{AllocateMode, Handle, Reply, SeekWhat};

use super::super::port::CallId;

/// A call that needs a lease.
#[derive(Clone, Debug)]
pub(in super::super) enum ContentCall {
    Read {
        id: CallId,
        offset: u64,
        size: u32,
    },
    Write {
        id: CallId,
        handle: Handle,
        offset: Option<u64>,
        data: Bytes,
    },
    /// A new size, then other attributes; the reply is the attributes or what open wants.
    SetSize {
        id: CallId,
        size: u64,
        set: SetAttr,
        reply: Option<Reply>,
    },
    /// Write back, then change attributes.
    SetAttr {
        id: CallId,
        set: SetAttr,
    },
    /// Write back, then change an extended attribute that does not outlive a write.
    SetXattr {
        id: CallId,
        op: MetaOp,
    },
    Allocate {
        id: CallId,
        offset: u64,
        len: u64,
        mode: AllocateMode,
    },
    Seek {
        id: CallId,
        offset: u64,
        what: SeekWhat,
    },
    /// The attributes that show whether pages are still good.
    Look {
        id: CallId,
    },
}

impl ContentCall {
    pub(in super::super) const fn id(&self) -> CallId {
        match self {
            Self::Read { id, .. }
            | Self::Write { id, .. }
            | Self::SetSize { id, .. }
            | Self::SetAttr { id, .. }
            | Self::SetXattr { id, .. }
            | Self::Allocate { id, .. }
            | Self::Seek { id, .. }
            | Self::Look { id } => *id,
        }
    }

    pub(super) const fn needs(&self) -> LeaseKind {
        match self {
            Self::Read { .. } | Self::Seek { .. } | Self::Look { .. } => LeaseKind::Shared,
            Self::Write { .. }
            | Self::SetSize { .. }
            | Self::SetAttr { .. }
            | Self::SetXattr { .. }
            | Self::Allocate { .. } => LeaseKind::Exclusive,
        }
    }
}

/// A lease this mount holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) kind: LeaseKind,
    pub(super) serial: LeaseSerial,
    /// Whose lease frame renews it, while it leads that region in the term of the grant.
    pub(super) node: NodeId,
    pub(super) group: GroupId,
    /// It is this mount's since then: only frames sent later renew it.
    pub(super) since: Instant,
    /// It may be used until then.
    pub(super) until: Instant,
}

/// How far a recall has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecallStage {
    /// The kernel is dropping its pages; what that brings out still belongs to this lease.
    Invalidating,
    /// Nothing new starts; what is in flight ends, what is dirty is written back.
    Draining,
}

/// A recall being carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recalling {
    pub(super) want: RecallKind,
    pub(super) serial: LeaseSerial,
    pub(super) stage: RecallStage,
    /// Of `Flush`: which.
    pub(super) round: u64,
    /// Of `Flush`: what must be committed.
    pub(super) target: u64,
}

/// The lease of a file, and what is under way about it.
#[derive(Debug, Default)]
pub(super) struct LeaseState {
    pub(super) held: Option<Held>,
    /// One that a leader did not know of, never given back: a new leader can be told.
    pub(super) lapsed: Option<Held>,
    pub(super) acquiring: Option<LeaseKind>,
    /// More of the map is being asked for.
    pub(super) mapping: bool,
    pub(super) recall: Option<Recalling>,
    /// Grants up to this one are given back already.
    pub(super) revoked: LeaseSerial,
}

/// What the lease says of the content, and what this mount did to it since.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// As a region last told.
    pub(super) attr: Option<Attr>,
    /// As a call was last told.
    pub(super) shown: Option<Attr>,
    /// The inode's change number after the last change of content that is known here.
    pub(super) number: u64,
    pub(super) inline: Option<Bytes>,
    pub(super) map: ChunkMap,
    /// A cut to be carried out before the file grows.
    pub(super) cut: Option<u64>,
    /// With what was written here.
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    /// Which leaders of data regions have answered under this lease after a read index; what this mount writes there ends
    /// it, as it may reach their successor.
    pub(super) led: BTreeMap<GroupId, u64>,
    /// The inode has no `security.capability`.
    pub(super) no_capability: bool,
}

impl Content {
    /// The name of a chunk and whether it was written.
    pub(super) fn chunk(&self, number: u64) -> Option<(ChunkName, bool)> {
        let run = self.map.find(number)?;
        let attr = self.attr.as_ref()?;
        let name = ChunkName {
            ino: attr.ino,
            version: run.version,
            number,
        };
        Some((name, run.written))
    }

    /// The inline bytes, if there are any.
    pub(super) fn inline_bytes(&self) -> Bytes {
        self.inline.clone().unwrap_or_default()
    }

    /// The bytes between two offsets that a pending cut makes zeros.
    pub(super) fn cut_range(&self) -> Option<(u64, u64)> {
        let cut = self.cut?;
        let end = cut.next_multiple_of(CHUNK_BYTES);
        (cut < end).then_some((cut, end))
    }
}

/// A call that waits until what was written before it is committed.
#[derive(Debug)]
pub(super) struct SyncWaiter {
    pub(super) id: CallId,
    pub(super) target: u64,
    pub(super) reply: Reply,
    /// For everything before, not for one write alone.
    pub(super) of_all: bool,
    /// The handle that hears with the answer what it has not been told; all when none is named.
    pub(super) by: Option<Handle>,
}

/// What was written and not yet committed.
#[derive(Debug, Default)]
pub(super) struct WriteBack {
    pub(super) dirty: Dirty,
    pub(super) flying: Dirty,
    /// Writes so far, and how many of them are committed. A time left behind when bytes were committed counts as one.
    pub(super) writes: u64,
    pub(super) committed: u64,
    /// The last write that brought bytes.
    pub(super) brought: u64,
    /// Committed up to this as soon as possible ...
    pub(super) wanted: u64,
    /// ... with times at most [`TIMES_BEHIND`] old ...
    pub(super) timely: u64,
    /// ... with their very times.
    pub(super) exact: u64,
    pub(super) since: Option<Instant>,
    /// Write-back waits for the reads in flight: one that began before some writes must not see the later of them
    /// without the earlier. No read begins meanwhile.
    pub(super) after_reads: bool,
    pub(super) syncs: Vec<SyncWaiter>,
    pub(super) habit: Habit,
}

/// Wake-ups for what was written fall together in spans of this: one for many writes.
const WAKE_GRID: Duration = Duration::from_millis(16);

/// When what has been dirty since then is written back: after [`WRITE_BACK_AGE`], or up to [`WAKE_GRID`] earlier.
pub(super) fn write_back_due(since: Instant) -> Instant {
    let latest = since + WRITE_BACK_AGE;
    let grid = u64::try_from(WAKE_GRID.as_nanos()).expect("a short span");
    Instant(latest.0 / grid * grid)
}

impl WriteBack {
    /// What was written up to `target` is to be committed, with its times or nearly so unless `data_only`.
    pub(super) fn want(&mut self, target: u64, data_only: bool) {
        self.wanted = self.wanted.max(target);
        if !data_only {
            self.timely = self.timely.max(target);
        }
    }

    /// Everything, times included, is to be committed.
    pub(super) fn want_all(&mut self) {
        self.wanted = self.writes;
        self.exact = self.writes;
    }

    /// How far behind times may be left when the next bytes are committed.
    pub(super) fn times_behind(&self) -> Duration {
        if self.exact > self.committed {
            Duration::ZERO
        } else if self.timely > self.committed {
            TIMES_BEHIND
        } else {
            WRITE_BACK_AGE
        }
    }
}

/// One file.
#[derive(Debug, Default)]
pub(super) struct FileState {
    pub(super) opens: u32,
    pub(super) lease: LeaseState,
    pub(super) content: Content,
    pub(super) pages: Pages,
    pub(super) back: WriteBack,
    pub(super) queue: VecDeque<ContentCall>,
    pub(super) reads: u32,
    pub(super) job: Option<Job>,
    /// A call whose job was carried out in part and waits to be carried out again, under a new lease.
    pub(super) half_done: Option<CallId>,
    pub(super) idle_since: Instant,
}

impl FileState {
    /// Whether the lease may be used now for something that needs `kind`.
    pub(super) fn allows(&self, kind: LeaseKind, now: Instant) -> bool {
        !self.lease.mapping
            && self.lease.held.is_some_and(|held| {
                held.kind >= kind && (cfg!(planted = "expired_lease_used") || now < held.until)
            })
    }

    /// What a new leader of its region must know (P8): a lease that is held or lapsed, or that something may be under way
    /// under one.
    pub(super) fn hold(&self, ino: Ino, now: Instant) -> Option<Hold> {
        let under_way = self.job.is_some() || self.reads > 0 || self.is_dirty();
        let held = self.lease.held.or(self.lease.lapsed);
        if held.is_none() && !under_way {
            return None;
        }
        let claim = Claim {
            serial: held.map(|held| held.serial).unwrap_or_default(),
            fence: self
                .content
                .attr
                .as_ref()
                .map(|attr| attr.fence)
                .unwrap_or_default(),
            lasts: held.is_some_and(|held| now < held.until),
        };
        let kind = held.map_or(LeaseKind::Exclusive, |held| held.kind);
        Some(Hold { ino, kind, claim })
    }

    /// Whether something of this mount's is not committed.
    pub(super) fn is_dirty(&self) -> bool {
        self.back.writes > self.back.committed
    }

    /// Whether nothing waits or is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty()
            && self.reads == 0
            && self.job.is_none()
            && !self.is_dirty()
            && self.lease.acquiring.is_none()
            && self.lease.recall.is_none()
            && !self.lease.mapping
            && self.back.syncs.is_empty()
    }

    /// Whether a region has to hear of bytes, not just of times.
    pub(super) fn has_bytes(&self) -> bool {
        self.back.brought > self.back.committed
    }

    /// Whether the times of what is written may be left behind by so much.
    pub(super) fn times_within(&self, span: Duration) -> bool {
        let (told, mtime) = (self.told_time(), self.content.mtime);
        told.is_some_and(|told| told <= mtime && mtime <= told + span)
    }

    /// Whether a region has yet to hear of the last time of change.
    pub(super) fn is_behind(&self) -> bool {
        self.told_time()
            .is_some_and(|told| told < self.content.mtime)
    }

    fn told_time(&self) -> Option<Timestamp> {
        self.content.attr.as_ref().map(|attr| attr.mtime)
    }

    /// Bytes written and not committed, between two offsets, newest last.
    pub(super) fn overlay(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let mut pieces = self.back.flying.within(from, to);
        pieces.extend(self.back.dirty.within(from, to));
        pieces
    }
}
