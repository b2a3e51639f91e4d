//! Leases of the toy cluster: who holds which, who waits, who is recalled.

use alloc::vec::Vec;

use super::{Cluster, Sent, Waiter};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::{GroupId, SessionId};
use crate::place::Ino;
use crate::request::{
    Answer, Grant, LeaseDone, LeaseKind, LeaseSerial, MetaQuery, MetaReply, Recall, RecallKind, Run,
};

impl Cluster {
    /// How many mounts hold a lease of a file.
    pub(in super::super) fn holders(&self, ino: Ino) -> usize {
        self.leases
            .get(&ino)
            .map_or(0, |leases| leases.holders.len())
    }

    /// Which lease of a file a mount holds.
    pub(in super::super) fn held_by(&self, session: SessionId, ino: Ino) -> Option<LeaseKind> {
        let holders = &self.leases.get(&ino)?.holders;
        holders.get(&session).map(|(kind, _)| *kind)
    }

    /// A lookup that asks for a lease has it if nobody is in the way.
    pub(super) fn with_lease(
        &mut self,
        session: SessionId,
        query: &MetaQuery,
        found: Result<MetaReply, FsError>,
        reply_to: u64,
    ) -> Answer {
        match (query, &found) {
            (
                MetaQuery::Lookup {
                    lease: Some(kind), ..
                },
                Ok(MetaReply::Inode { attr, .. }),
            ) if attr.kind == FileKind::Regular => {
                let opened = self.open(session, attr.ino, *kind, false, reply_to);
                opened.expect("who is impatient is answered")
            }
            _ => Answer::Meta(found),
        }
    }

    pub(super) fn grant(&mut self, session: SessionId, ino: Ino, kind: LeaseKind) -> Grant {
        self.serial += 1;
        let serial = LeaseSerial {
            term: 1,
            number: self.serial,
        };
        let leases = self.leases.entry(ino).or_default();
        leases.holders.insert(session, (kind, serial));
        let inode = &self.inodes[&ino];
        let run = |(first, (version, written)): (&u64, &(u64, bool))| Run {
            first: *first,
            count: 1,
            version: *version,
            written: *written,
        };
        let half = inode.map.len().div_ceil(2);
        Grant {
            kind,
            serial,
            attr: inode.attr.clone(),
            content: inode.content,
            inline: inode.inline.clone(),
            map: inode.map.iter().take(half).map(run).collect(),
            map_complete: half == inode.map.len(),
            cut: inode.cut,
        }
    }

    pub(super) fn open(
        &mut self,
        session: SessionId,
        ino: Ino,
        kind: LeaseKind,
        patient: bool,
        reply_to: u64,
    ) -> Option<Answer> {
        if !self.inodes.contains_key(&ino) {
            return Some(Answer::Meta(Err(FsError::NotFound)));
        }
        let leases = self.leases.entry(ino).or_default();
        leases.waiting.retain(|waiter| waiter.session != session);
        let waiter = Waiter {
            session,
            kind,
            reply_to,
        };
        if patient {
            leases.waiting.push_back(waiter);
            self.serve(ino);
            return None;
        }
        let free = leases.waiting.is_empty() && self.conflicts(session, ino, kind).is_empty();
        let grant = free.then(|| self.grant(session, ino, kind));
        let attr = self.inodes[&ino].attr.clone();
        Some(Answer::Meta(Ok(MetaReply::Inode { attr, grant })))
    }

    fn conflicts(
        &self,
        session: SessionId,
        ino: Ino,
        kind: LeaseKind,
    ) -> Vec<(SessionId, LeaseSerial)> {
        let holders = self.leases.get(&ino).map(|leases| leases.holders.clone());
        holders
            .unwrap_or_default()
            .into_iter()
            .filter(|(other, (held, _))| {
                *other != session && (kind == LeaseKind::Exclusive || *held == LeaseKind::Exclusive)
            })
            .map(|(other, (_, serial))| (other, serial))
            .collect()
    }

    pub(super) fn serve(&mut self, ino: Ino) {
        while let Some(waiter) = self
            .leases
            .get(&ino)
            .and_then(|leases| leases.waiting.front().cloned())
        {
            let conflicts = self.conflicts(waiter.session, ino, waiter.kind);
            if !conflicts.is_empty() {
                let want = match waiter.kind {
                    LeaseKind::Shared => RecallKind::Share,
                    LeaseKind::Exclusive => RecallKind::Release,
                };
                for (session, serial) in conflicts {
                    let group = GroupId(1);
                    self.sent.push(Sent::Recall(
                        session,
                        Recall {
                            group,
                            ino,
                            serial,
                            round: 0,
                            want,
                        },
                    ));
                }
                return;
            }
            self.leases
                .get_mut(&ino)
                .expect("there")
                .waiting
                .pop_front();
            let grant = self.grant(waiter.session, ino, waiter.kind);
            self.sent.push(Sent::Answer(
                waiter.reply_to,
                Answer::Meta(Ok(MetaReply::Granted(grant))),
            ));
        }
    }

    pub(super) fn lease_done(&mut self, session: SessionId, done: &LeaseDone) {
        let (ino, serial) = (&done.ino(), &done.serial());
        let leases = self.leases.entry(*ino).or_default();
        if leases
            .holders
            .get(&session)
            .is_some_and(|(_, held)| held == serial)
        {
            if matches!(done, LeaseDone::Released(..)) {
                leases.holders.remove(&session);
            } else if matches!(done, LeaseDone::Downgraded(..)) {
                leases.holders.insert(session, (LeaseKind::Shared, *serial));
            }
        }
        self.serve(*ino);
    }
}
