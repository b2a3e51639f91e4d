//! What a meta region's leader does at leisure: deletes data whose names were freed, and finds out who still holds open
//! what has no name (P9).
//!
//! Owns the pace. Which names are garbage and which inodes are orphans is region state.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::port::Output;
use super::{Job, Leader, transaction};
use crate::ids::SessionId;
use crate::place::Ino;
use crate::region::command::CommandBody;
use crate::region::kv::{KvError, KvRead};
use crate::region::{garbage, intent, orphan};
use crate::request::{ChunkName, MetaOp, Space};
use crate::time::{Instant, Now};
use crate::txn::TxnReply;

/// How often garbage and orphans are looked at.
const PACE: Duration = Duration::from_millis(500);
/// Chunks deleted by one step.
const CHUNKS_PER_STEP: usize = 256;
/// Orphans asked about by one step.
const ORPHANS_PER_STEP: usize = 256;

/// Intents looked at by one step.
const INTENTS_PER_STEP: usize = 256;

#[derive(Debug)]
pub(super) struct Reclaim {
    next: Instant,
    /// Whether a step's deletions are on the way.
    busy: bool,
    /// The orphan asked about last: those that stay open for long do not keep others from being asked about.
    asked: Option<Ino>,
}

impl Reclaim {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: now + PACE,
            busy: false,
            asked: None,
        }
    }

    pub(super) fn timeout(&self) -> Instant {
        self.next
    }
}

impl Leader {
    pub(super) fn reclaim_step(&mut self, now: Now, state: &dyn KvRead) -> Result<(), KvError> {
        if now.mono < self.reclaim.next {
            return Ok(());
        }
        self.reclaim.next = now.mono + PACE;
        if self.descriptor.space != Space::Meta {
            return Ok(());
        }
        if !self.reclaim.busy {
            self.delete_garbage(state)?;
        }
        self.resume_transactions(now, state)?;
        self.resolve_old_intents(now, state)?;
        self.ask_about_orphans(state)
    }

    /// A prepare that came after its transaction was over left intents that nobody may ever meet (P7).
    fn resolve_old_intents(&mut self, now: Now, state: &dyn KvRead) -> Result<(), KvError> {
        for txn in intent::older_than(state, now.wall, INTENTS_PER_STEP)? {
            let asked = self.jobs.values().any(|job| {
                matches!(job, Job::Resolve { txn: other } | Job::FinishHere { txn: other } if *other == txn)
            });
            if transaction::is_old(now, &txn) && !asked && !self.txns.contains_key(&txn) {
                self.resolve(now, state, txn)?;
            }
        }
        Ok(())
    }

    fn delete_garbage(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let chunks = garbage::list(state, CHUNKS_PER_STEP)?;
        if chunks.is_empty() {
            return Ok(());
        }
        self.reclaim.busy = true;
        let token = self.begin(Job::Reclaim {
            chunks: chunks.clone(),
        });
        self.outputs
            .push_back(Output::DeleteChunks { token, chunks });
        Ok(())
    }

    /// The data regions have answered: what is deleted is struck off, and the next step need not wait.
    pub(super) fn deleted(&mut self, now: Now, chunks: Vec<ChunkName>, answer: Option<TxnReply>) {
        self.reclaim.busy = false;
        if answer != Some(TxnReply::Finished) {
            return;
        }
        if chunks.len() == CHUNKS_PER_STEP {
            self.reclaim.next = now.mono;
        }
        let body = CommandBody::Meta(MetaOp::Reclaimed { chunks });
        let command = self.own_command(now, None, body);
        self.propose(Job::Unawaited, command, Bytes::new());
    }

    fn ask_about_orphans(&mut self, state: &dyn KvRead) -> Result<(), KvError> {
        let mut asks: BTreeMap<SessionId, Vec<Ino>> = BTreeMap::new();
        let orphans = orphan::list_after(state, self.reclaim.asked, ORPHANS_PER_STEP)?;
        let all = orphans.len() < ORPHANS_PER_STEP;
        self.reclaim.asked = orphans.last().map(|(ino, _)| *ino).filter(|_| !all);
        for (ino, sessions) in orphans {
            for session in sessions {
                asks.entry(session).or_default().push(ino);
            }
        }
        for (session, inos) in asks {
            self.ask_open(session, inos);
        }
        Ok(())
    }
}
