//! Requests that wait until a mount has given an inode's locks back (P8).
//!
//! Owns who waits, and the recalls. Whose the locks are to give is the state's to say, and is asked again whenever an entry
//! has been applied. Nothing here outlives the leadership: who waits asks again, and so is the recall sent again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::operations::Waiting;
use super::port::{Output, Token};
use super::{Job, Leader, operations, queries};
use crate::limits::LOCKS_AWAITED;
use crate::locks::Delegation;
use crate::place::Ino;
use crate::region::command::CommandBody;
use crate::region::kv::{KvError, KvRead};
use crate::region::{lock, slot};
use crate::request::{LeaseSerial, MetaOp, Recall, RecallKind, Refusal};
use crate::time::{Instant, Now};

/// Those who wait for one inode's locks.
#[derive(Debug)]
struct Awaited {
    /// By whom they are to be given back.
    by: Delegation,
    /// Each with when it began to wait.
    waiting: Vec<(Token, Instant)>,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct AwaitedLocks(BTreeMap<Ino, Awaited>);

impl Leader {
    /// Whom an operation that has not been proposed would have to wait for, as far as is known here: a proposal is saved.
    pub(super) fn awaits_locks(
        state: &dyn KvRead,
        operation: &operations::Operation,
    ) -> Result<Option<(Ino, Delegation)>, KvError> {
        let CommandBody::Meta(MetaOp::SetLock { ino, .. }) = &operation.body else {
            return Ok(None);
        };
        let (ino, session) = (*ino, operation.header.session);
        let by = lock::elsewhere(state, ino, session)?;
        // What was done under an earlier leader is no less done (P6).
        let done = || slot::earlier(state, session, operation.header.slot);
        Ok(match by {
            Some(by) if done()?.is_none() => Some((ino, by)),
            Some(_) | None => None,
        })
    }

    /// A request waits until the locks have been given back; they are recalled.
    pub(super) fn await_locks(&mut self, now: Now, ino: Ino, by: Delegation, job: Job) {
        let token = self.begin(job);
        let waiting = Vec::new();
        let awaited = self.locks.0.entry(ino).or_insert(Awaited { by, waiting });
        awaited.by = by;
        awaited.waiting.push((token, now.mono));
        let recall = Recall {
            group: self.config.group,
            ino,
            serial: LeaseSerial {
                term: self.config.term,
                number: 0,
            },
            round: by.grant,
            want: RecallKind::Locks,
        };
        let session = by.session;
        self.outputs.push_back(Output::Recall { session, recall });
    }

    /// Something was applied: whoever waited for locks that are not that mount's any more goes on.
    pub(super) fn locks_may_be_back(
        &mut self,
        now: Now,
        state: &dyn KvRead,
    ) -> Result<(), KvError> {
        let mut back = Vec::new();
        for (ino, awaited) in &self.locks.0 {
            if lock::delegation(state, *ino)? != Some(awaited.by) {
                back.push(*ino);
            }
        }
        for ino in back {
            let awaited = self.locks.0.remove(&ino).expect("it was there");
            for (token, _) in awaited.waiting {
                match self.jobs.remove(&token) {
                    Some(Job::Operation(operation)) => {
                        self.propose_operation(now, state, operation, Vec::new())?;
                    }
                    Some(Job::Query(query)) => self.read_index(Job::Query(query)),
                    Some(job) => panic!("only requests wait for locks, not {job:?}"),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Whoever has waited for long asks again: the recall may be lost, and a mount that is gone ends with its session.
    pub(super) fn put_off_awaiting_locks(&mut self, now: Now) {
        let mut late = Vec::new();
        self.locks.0.retain(|_, awaited| {
            let waiting = awaited.waiting.iter();
            let is_late = |since: Instant| now.mono.since(since) >= LOCKS_AWAITED;
            late.extend(
                waiting
                    .filter(|(_, since)| is_late(*since))
                    .map(|(token, _)| *token),
            );
            awaited.waiting.retain(|(_, since)| !is_late(*since));
            !awaited.waiting.is_empty()
        });
        for token in late {
            let asker = match self.jobs.remove(&token) {
                Some(Job::Operation(operations::Operation {
                    waiting: Waiting::Client(asker) | Waiting::Query(queries::Query { asker, .. }),
                    ..
                }))
                | Some(Job::Query(queries::Query { asker, .. })) => asker,
                Some(job) => panic!("only requests wait for locks, not {job:?}"),
                None => continue,
            };
            self.refuse(asker, Refusal::Busy);
        }
    }

    pub(super) fn locks_timeout(&self) -> Option<Instant> {
        let waiting = self.locks.0.values().flat_map(|awaited| &awaited.waiting);
        waiting.map(|(_, since)| *since + LOCKS_AWAITED).min()
    }
}

#[cfg(test)]
mod tests;
