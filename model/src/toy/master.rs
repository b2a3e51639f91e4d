//! A toy master: sessions and the region map, always there, always right.
//!
//! Owns which sessions live. Core's master machine has tests of its own.

use std::collections::{BTreeMap, BTreeSet};

use polyfs_core::client::port::{MasterReply, MasterRequest, RegionLine};
use polyfs_core::ids::{Renewal, SessionId};
use polyfs_core::limits::SESSION_TERM;
use polyfs_core::place::Ino;
use polyfs_core::vfs::FsStats;

use crate::history::ClientId;

struct Session {
    client: ClientId,
    renewal: Renewal,
    good_until: u64,
}

/// The toy master.
pub(super) struct Master {
    root: Ino,
    next: u64,
    sessions: BTreeMap<SessionId, Session>,
    by_nonce: BTreeMap<u64, SessionId>,
    /// Sessions that are over, until every meta region has the entry that says so.
    pub(super) ending: BTreeSet<SessionId>,
}

impl Master {
    pub(super) fn new(root: Ino) -> Self {
        Self {
            root,
            next: 0,
            sessions: BTreeMap::new(),
            by_nonce: BTreeMap::new(),
            ending: BTreeSet::new(),
        }
    }

    pub(super) fn answer(
        &mut self,
        now: u64,
        client: ClientId,
        request: &MasterRequest,
        map: impl FnOnce() -> Vec<RegionLine>,
    ) -> MasterReply {
        match request {
            MasterRequest::OpenSession { nonce, .. } => {
                let next = &mut self.next;
                let id = *self.by_nonce.entry(*nonce).or_insert_with(|| {
                    *next += 1;
                    SessionId(*next)
                });
                let fresh = Session {
                    client,
                    renewal: Renewal(1),
                    good_until: now + term(),
                };
                let session = self.sessions.entry(id).or_insert(fresh);
                MasterReply::Opened {
                    session: id,
                    renewal: session.renewal,
                    root: self.root,
                }
            }
            MasterRequest::Renew { session, .. } => match self.sessions.get_mut(session) {
                None => MasterReply::SessionOver,
                Some(session) => {
                    session.renewal.0 += 1;
                    session.good_until = now + term();
                    MasterReply::Renewed(session.renewal)
                }
            },
            MasterRequest::CloseSession { session } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.good_until = 0;
                }
                MasterReply::Closed
            }
            MasterRequest::Map => MasterReply::Map(map()),
            MasterRequest::Stats | MasterRequest::Status | MasterRequest::Join(_) => {
                MasterReply::Stats(FsStats::default())
            }
        }
    }

    pub(super) fn client_of(&self, session: SessionId) -> Option<ClientId> {
        self.sessions.get(&session).map(|session| session.client)
    }

    /// Notes the sessions whose life is over; whose they are.
    pub(super) fn find_over(&mut self, now: u64) -> Vec<ClientId> {
        let over = self.sessions.iter();
        let over = over.filter(|(_, session)| session.good_until < now);
        let over: Vec<SessionId> = over.map(|(id, _)| *id).collect();
        let end = |id| {
            let session = self.sessions.remove(&id).expect("listed just now");
            self.ending.insert(id);
            session.client
        };
        over.into_iter().map(end).collect()
    }
}

fn term() -> u64 {
    u64::try_from(SESSION_TERM.as_nanos()).expect("a term is short")
}
