//! Content leases: acquiring, renewing, recalls (P8).
//!
//! Owns the mount's side of them. Terms count from when a question was sent, shortened by the drift bound.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

use super::file::{Content, Held, RecallStage, Recalling};
use super::leaders::Leaders;
use super::map::ChunkMap;
use crate::client::Client;
use crate::client::questions::{Owner, Route};
use crate::client::timers::Wake;
use crate::error::FsError;
use crate::ids::NodeId;
use crate::limits::{CALL_DEADLINE, CLOCK_DRIFT_PPM, LEASE_TERM};
use crate::place::Ino;
use crate::request::{
    Answer, Claim, Grant, LeaseDone, LeaseKind, LeaseSerial, MetaQuery, MetaReply, Recall,
    RecallKind, RequestBody,
};
use crate::time::Instant;

/// Until when what was confirmed by an answer to a question sent then may be used.
pub(in super::super) fn term_end(sent: Instant) -> Instant {
    sent + (LEASE_TERM - LEASE_TERM * CLOCK_DRIFT_PPM / 1_000_000)
}

impl Client {
    /// Asks for a lease and waits until others have given theirs back.
    pub(super) fn acquire(&mut self, ino: Ino, kind: LeaseKind) {
        let now = self.now.mono;
        let file = self.file(ino);
        if file.lease.acquiring.is_some() || file.lease.mapping {
            return;
        }
        let held = file.lease.held.or(file.lease.lapsed);
        // A new leader that was told of less than is held would let others in beside it.
        let stronger = held.filter(|held| now < held.until || file.is_dirty());
        let planted = cfg!(planted = "lease_asserted_weaker");
        let kind = stronger.map_or(
            kind,
            |held| if planted { kind } else { kind.max(held.kind) },
        );
        file.lease.acquiring = Some(kind);
        let fence = file.content.attr.as_ref().map(|attr| attr.fence);
        let held = held
            .filter(|held| held.kind >= kind && (now < held.until || file.is_dirty()))
            .map(|held| Claim {
                serial: held.serial,
                fence: fence.unwrap_or_default(),
                lasts: now < held.until,
            });
        let query = MetaQuery::Open {
            ino,
            lease: kind,
            patient: true,
            held,
        };
        self.ask(
            Owner::Acquire(ino),
            RequestBody::MetaQuery(query),
            Bytes::new(),
        );
    }

    pub(in super::super) fn acquired(&mut self, ino: Ino, answer: Answer, route: Option<Route>) {
        self.file(ino).lease.acquiring = None;
        match answer {
            Answer::Meta(Ok(
                MetaReply::Granted(grant)
                | MetaReply::Inode {
                    grant: Some(grant), ..
                },
            )) => {
                if let Some(route) = route {
                    self.install(ino, grant, &route);
                }
                self.pump(ino);
            }
            Answer::Meta(Ok(_))
            | Answer::Data(_)
            | Answer::Txn(_)
            | Answer::Refused(_)
            | Answer::Viewed(..) => {
                self.not_acquired(ino, FsError::Io);
            }
            Answer::Meta(Err(error)) => {
                let gone = error == FsError::NotFound;
                let error = if gone { FsError::Stale } else { error };
                self.not_acquired(ino, error);
            }
        }
    }

    fn not_acquired(&mut self, ino: Ino, error: FsError) {
        let queue = core::mem::take(&mut self.file(ino).queue);
        for call in queue {
            self.fail_waiting(&call, error);
        }
        self.lose_dirty(ino, error);
        self.pump(ino);
    }

    /// A grant came.
    pub(super) fn install(&mut self, ino: Ino, grant: Grant, route: &Route) {
        let now = self.now.mono;
        if !self.granted_by(route, grant.serial.term) {
            return;
        }
        let file = self.file(ino);
        let old = file.lease.held.map(|held| held.serial).unwrap_or_default();
        if grant.serial <= file.lease.revoked || grant.serial < old {
            return;
        }
        let before = file.lease.lapsed.take();
        file.lease.held = file.lease.held.or(before);
        if file.lease.held.is_some_and(|held| now < held.until) {
            // Under a lease that never ran out nobody else changed content: only the term is new.
            return self.prolong(ino, &grant, route);
        }
        // A job holds on to the content it was planned for, and its end will ask again. Until then the grant is held and
        // not used: given back now, it would go to somebody else while the job's requests are still on their way.
        // So it is with a grant that was on its way while this mount changed content itself.
        if file.job.is_some() || grant.content < file.content.number {
            return self.hold_unused(ino, &grant, route);
        }
        // A fence was raised for somebody who has seen the file without what was written here.
        let fence = file.content.attr.as_ref().map(|attr| attr.fence);
        let changed = grant.content != file.content.number || fence != Some(grant.attr.fence);
        if file.is_dirty() && changed && !cfg!(planted = "change_unchecked") {
            self.lose_dirty(ino, FsError::Io);
        }
        if changed {
            self.pages_outdated(ino);
            if !cfg!(planted = "half_done_again") {
                self.give_up_half_done(ino);
            }
        }
        let file = self.file(ino);
        file.lease.held = Some(Held {
            kind: grant.kind,
            serial: grant.serial,
            node: route.node,
            group: route.group,
            since: now,
            until: term_end(route.sent),
        });
        let (mut size, mut mtime) = (grant.attr.size, grant.attr.mtime);
        if file.has_bytes() {
            size = size.max(file.content.size);
        }
        if file.is_dirty() {
            mtime = mtime.max(file.content.mtime);
        }
        file.content = Content {
            attr: Some(grant.attr),
            shown: None,
            number: grant.content,
            inline: grant.inline,
            map: ChunkMap::of(&grant.map),
            cut: grant.cut,
            size,
            mtime,
            led: BTreeMap::new(),
            no_capability: false,
        };
        file.lease.mapping = !grant.map_complete;
        self.overtake_recall(ino, grant.serial);
        if !grant.map_complete {
            self.ask_map(ino);
        }
        self.drive_leases();
    }

    /// A lease that is held was granted once more.
    fn prolong(&mut self, ino: Ino, grant: &Grant, route: &Route) {
        let now = self.now.mono;
        let file = self.file(ino);
        if let Some(held) = &mut file.lease.held {
            *held = Held {
                kind: held.kind.max(grant.kind),
                serial: grant.serial,
                node: route.node,
                group: route.group,
                since: now,
                until: held.until.max(term_end(route.sent)),
            };
        }
        let fence = file.content.attr.as_ref().map(|attr| attr.fence);
        let known = file.content.attr.as_ref().map(|attr| attr.change);
        if known < Some(grant.attr.change) {
            file.content.attr = Some(grant.attr.clone());
        } else if let Some(attr) = &mut file.content.attr {
            attr.fence = attr.fence.max(grant.attr.fence);
        }
        // Who shared the lease has been shut out meanwhile: names beyond the end are gone, a cut is noted.
        let others = fence < Some(grant.attr.fence) && file.job.is_none() && !file.lease.mapping;
        if others {
            file.content.map = ChunkMap::of(&grant.map);
            file.content.cut = grant.cut;
            file.lease.mapping = !grant.map_complete;
        }
        self.overtake_recall(ino, grant.serial);
        if others && !grant.map_complete {
            self.ask_map(ino);
        }
        self.drive_leases();
    }

    /// A lease that is held for its leader's eyes only: it is recalled and given back as any other.
    fn hold_unused(&mut self, ino: Ino, grant: &Grant, route: &Route) {
        let now = self.now.mono;
        self.file(ino).lease.held = Some(Held {
            kind: grant.kind,
            serial: grant.serial,
            node: route.node,
            group: route.group,
            since: now,
            until: now,
        });
        self.overtake_recall(ino, grant.serial);
    }

    /// A recall of an earlier grant is history once a later one is held.
    fn overtake_recall(&mut self, ino: Ino, serial: LeaseSerial) {
        let recall = &mut self.file(ino).lease.recall;
        if let Some(recall) = recall.take_if(|recall| recall.serial < serial) {
            self.lease_done(LeaseDone::Released(ino, recall.serial));
        }
    }

    fn ask_map(&mut self, ino: Ino) {
        let from = self.file(ino).content.map.end();
        let query = MetaQuery::Map { ino, from };
        self.ask(Owner::Map(ino), RequestBody::MetaQuery(query), Bytes::new());
    }

    pub(in super::super) fn mapped(&mut self, ino: Ino, answer: Answer) {
        let file = self.file(ino);
        if let Answer::Meta(Ok(MetaReply::Map { runs, complete })) = answer {
            for run in &runs {
                file.content.map.set(*run);
            }
            if !complete && !runs.is_empty() {
                return self.ask_map(ino);
            }
        } else {
            file.lease.held = None;
        }
        self.file(ino).lease.mapping = false;
        self.pump(ino);
    }

    /// A lease in use whose leader does not confirm it any more: its successor is told, while the term lasts (P8).
    pub(super) fn assert_anew(&mut self, ino: Ino) {
        let now = self.now.mono;
        let file = self.file(ino);
        let used = file.opens > 0 || !file.is_quiet();
        let held = file.lease.held.filter(|held| now < held.until);
        if let Some(held) = held.filter(|_| used) {
            self.acquire(ino, held.kind);
        }
    }

    /// Tells the leader about a lease.
    pub(in super::super) fn lease_done(&mut self, done: LeaseDone) {
        self.ask(Owner::Nobody, RequestBody::LeaseDone(done), Bytes::new());
    }

    /// A leader wants something of a lease.
    pub(in super::super) fn recalled(&mut self, node: NodeId, recall: Recall) {
        let (ino, serial) = (recall.ino, recall.serial);
        let now = self.now.mono;
        if recall.want == RecallKind::View {
            return self.view_recalled(recall.group, ino, serial);
        }
        if recall.want == RecallKind::Locks {
            return self.locks_recalled(ino, recall.round);
        }
        // Its successor knows, or will know, what is held here, and recalls it anew.
        if self.files.leaders.is_deposed(recall.group, serial.term) {
            return;
        }
        let file = self.files.by_ino.get(&ino);
        let held = file
            .and_then(|file| file.lease.held)
            .filter(|held| held.serial <= serial);
        // The leader counts the lease as held, whatever became of it here: what is dirty is written back under it.
        let counted = file.is_some_and(|file| file.is_dirty() && file.lease.held.is_none());
        let held = held.or(counted.then_some(Held {
            kind: LeaseKind::Exclusive,
            serial,
            node,
            group: recall.group,
            since: now,
            until: now,
        }));
        let Some(held) = held else {
            return self.recalled_unheld(recall);
        };
        let file = self.file(ino);
        // A later grant than ours may be on the way, its question repeated: what is asked of that one holds for ours. A
        // flush leaves it to come: a recall of it may follow before it does.
        if recall.want == RecallKind::Flush {
            file.lease.held = Some(held);
        } else {
            if held.serial < serial {
                file.lease.revoked = file.lease.revoked.max(serial);
            }
            file.lease.held = Some(Held { serial, ..held });
        }
        if recall.want == RecallKind::Share && held.kind == LeaseKind::Shared {
            return self.lease_done(LeaseDone::Downgraded(ino, serial));
        }
        // One that asks for as much is under way already: its answer is to name the latest grant, or the leader would take
        // it for history and wait for ever.
        if let Some(before) = &mut file.lease.recall
            && before.want >= recall.want
            && before.want != RecallKind::Flush
        {
            before.serial = before.serial.max(serial);
            return;
        }
        let stage = if recall.want == RecallKind::Flush {
            RecallStage::Draining
        } else {
            RecallStage::Invalidating
        };
        file.lease.recall = Some(Recalling {
            want: recall.want,
            serial,
            stage,
            round: recall.round,
            target: file.back.writes,
        });
        if stage == RecallStage::Invalidating {
            self.drop_pages(ino);
        }
        self.pump(ino);
    }

    /// A lease is recalled that this mount does not know of, or knows no more. "Given back" means that nothing is on the
    /// way under it: what still is ends first.
    fn recalled_unheld(&mut self, recall: Recall) {
        let (ino, serial) = (recall.ino, recall.serial);
        // The grant may still be on its way, of a file that this mount does not even know yet.
        let now = self.now.mono;
        let file = self.file(ino);
        file.lease.revoked = file.lease.revoked.max(serial);
        file.idle_since = file.idle_since.max(now);
        if file.lease.held.is_none() && (file.job.is_some() || file.reads > 0) {
            file.lease.recall = Some(Recalling {
                want: RecallKind::Release,
                serial,
                stage: RecallStage::Draining,
                round: recall.round,
                target: 0,
            });
            return;
        }
        // What had lapsed is given back too: a later grant must not find it and believe that nobody came in between.
        file.lease.lapsed = file.lease.lapsed.filter(|lapsed| lapsed.serial > serial);
        self.timers.set(now + CALL_DEADLINE, Wake::File(ino));
        self.lease_done(LeaseDone::Released(ino, serial));
    }

    /// The kernel has dropped its pages of a file.
    pub(in super::super) fn invalidated(&mut self, ino: Ino) {
        if !self.pages_dropped(ino) {
            return;
        }
        if let Some(recall) = &mut self.file(ino).lease.recall {
            recall.stage = RecallStage::Draining;
        }
        self.pump(ino);
    }

    /// Answers a recall when all it asks for is done.
    pub(super) fn drive_recall(&mut self, ino: Ino) {
        let file = self.file(ino);
        let Some(recall) = file.lease.recall else {
            return;
        };
        if recall.stage == RecallStage::Invalidating {
            return;
        }
        if file.lease.held.is_none() && file.job.is_none() && file.reads == 0 {
            // The lease was lost meanwhile: nothing is on the way under it, and what is dirty needs another one.
            file.lease.recall = None;
            file.lease.lapsed = None;
            file.lease.revoked = file.lease.revoked.max(recall.serial);
            return self.lease_done(LeaseDone::Released(ino, recall.serial));
        }
        let done = match recall.want {
            RecallKind::View | RecallKind::Locks => {
                panic!("no content lease is concerned when a view or locks are recalled")
            }
            RecallKind::Flush => {
                file.back.wanted = file.back.wanted.max(recall.target);
                file.back.exact = file.back.exact.max(recall.target);
                if file.back.committed < recall.target {
                    return;
                }
                LeaseDone::Flushed(ino, recall.serial, recall.round)
            }
            RecallKind::Share | RecallKind::Release => {
                file.back.want_all();
                let drained = !file.is_dirty() && file.job.is_none();
                let planted = cfg!(planted = "lease_returned_undrained");
                let reading = recall.want == RecallKind::Release && file.reads > 0;
                if (!drained || reading) && !planted {
                    return;
                }
                if recall.want == RecallKind::Share {
                    if let Some(held) = &mut file.lease.held {
                        held.kind = LeaseKind::Shared;
                    }
                    LeaseDone::Downgraded(ino, recall.serial)
                } else {
                    file.lease.held = None;
                    file.lease.lapsed = None;
                    file.lease.revoked = file.lease.revoked.max(recall.serial);
                    LeaseDone::Released(ino, recall.serial)
                }
            }
        };
        file.lease.recall = None;
        self.lease_done(done);
    }

    /// Gives a lease back that nobody has used for a while, or at unmount.
    pub(super) fn release_lease(&mut self, ino: Ino) {
        if let Some(held) = self.file(ino).lease.held.take() {
            self.lease_done(LeaseDone::Released(ino, held.serial));
        }
    }

    /// The session is over: no lease is left, and nothing dirty can be saved.
    pub(in super::super) fn lose_all_leases(&mut self) {
        self.files.leaders = Leaders::default();
        let inos: Vec<Ino> = self.files.by_ino.keys().copied().collect();
        for ino in inos {
            let file = self.file(ino);
            file.lease.held = None;
            file.lease.lapsed = None;
            file.lease.recall = None;
            if file.job.is_none() {
                self.lose_dirty(ino, FsError::Io);
            }
            self.pump(ino);
        }
    }
}
