//! Queries: answered from applied state after a read index (P2), with leases and flushes where they need them (P8).
//!
//! Owns the order of these steps. What a query reads is `region::query`'s business.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

use super::leases::Wish;
use super::port::{Asker, Output};
use super::{Job, Leader};
use crate::attr::{Attr, FileKind};
use crate::error::FsError;
use crate::place::Ino;
use crate::region::kv::{KvError, KvRead};
use crate::region::query::{self, DataFound, Miss};
use crate::request::{
    Answer, DataOp, DataQuery, DataReply, LeaseKind, MetaQuery, MetaReply, Refusal, Request,
    RequestBody,
};
use crate::time::Now;
use crate::txn::{TxnId, TxnRequest};

/// A query under way.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) asker: Asker,
    pub(super) request: Request,
    /// Intents were in the way of the last reading: what was read past them, until all are known to be undecided.
    unsure: Option<Unsure>,
    /// Inodes whose exclusive holder was asked to commit what it had since this query arrived, each as it looked then.
    flushed: BTreeMap<Ino, Attr>,
}

/// What a query has read past intents. It held at that moment if none of their transactions was decided by then: so each
/// coordinator is asked afterwards, and nothing that was read later is mixed with it (P7).
#[derive(Debug)]
struct Unsure {
    reply: Result<MetaReply, Miss>,
    ask: Vec<TxnId>,
}

impl Query {
    pub(super) const fn new(asker: Asker, request: Request) -> Self {
        Self {
            asker,
            request,
            unsure: None,
            flushed: BTreeMap::new(),
        }
    }
}

impl Leader {
    pub(super) fn start_query(&mut self, asker: Asker, request: Request) {
        self.read_index(Job::Query(Query::new(asker, request)));
    }

    pub(super) fn query_failed(&mut self, query: Query) {
        self.refuse(query.asker, Refusal::NotLeader { leader: None });
    }

    pub(super) fn run_query(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        query: Query,
    ) -> Result<(), KvError> {
        if query.request.header.epoch != self.descriptor.epoch {
            let (epoch, places) = (self.descriptor.epoch, self.descriptor.places);
            self.refuse(query.asker, Refusal::Epoch { epoch, places });
            return Ok(());
        }
        match query.request.body.clone() {
            RequestBody::MetaQuery(asked) => self.run_meta(now, state, query, &asked),
            RequestBody::DataQuery(asked) => self.run_data(now, state, query, &asked),
            RequestBody::Txn(TxnRequest::Outcome { txn, abort_if_old }) => {
                self.run_outcome(now, state, &query, txn, abort_if_old)
            }
            body @ (RequestBody::MetaOp(_)
            | RequestBody::DataOp(_)
            | RequestBody::LeaseDone(_)
            | RequestBody::Txn(_)) => panic!("only queries run as queries, not {body:?}"),
        }
    }

    fn run_meta(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        mut query: Query,
        asked: &MetaQuery,
    ) -> Result<(), KvError> {
        let session = query.request.header.session;
        let mut past = Vec::new();
        let reply = loop {
            match query::meta(state, asked, &past, session)? {
                Err(Miss::Blocked(txn)) => past.push(txn),
                reply => break reply,
            }
        };
        let Some(first) = past.first().copied() else {
            return self.conclude(now, state, query, asked, (reply, true));
        };
        query.unsure = Some(Unsure { reply, ask: past });
        self.block(now, state, first, Job::Query(query))
    }

    /// A transaction in the way of a query is undecided: the old values held when they were read.
    pub(super) fn read_past(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        mut query: Query,
        txn: TxnId,
    ) -> Result<(), KvError> {
        let RequestBody::MetaQuery(asked) = query.request.body.clone() else {
            panic!("only queries of meta regions meet intents")
        };
        let Some(mut unsure) = query.unsure.take() else {
            self.read_index(Job::Query(query));
            return Ok(());
        };
        unsure.ask.retain(|other| *other != txn);
        match unsure.ask.first().copied() {
            None => self.conclude(now, state, query, &asked, (unsure.reply, false)),
            Some(next) => {
                query.unsure = Some(unsure);
                self.block(now, state, next, Job::Query(query))
            }
        }
    }

    /// A query has its reply: with a lease and after flushes where it needs them, it is the answer. One that holds now, and
    /// no intent says otherwise, is `current`, and comes with views.
    fn conclude(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        query: Query,
        asked: &MetaQuery,
        (reply, current): (Result<MetaReply, Miss>, bool),
    ) -> Result<(), KvError> {
        let reply = match reply {
            Ok(reply) => reply,
            Err(Miss::Blocked(txn)) => panic!("intents of {txn:?} were read past"),
            Err(Miss::Error(error)) => {
                let header = &query.request.header;
                let views = if current && error == FsError::NotFound {
                    self.views_of_nothing(now, state, header, asked)?
                } else {
                    None
                };
                self.answer_viewed(query.asker, Answer::Meta(Err(error)), views);
                return Ok(());
            }
            Err(Miss::Delegated(ino, by)) => {
                self.await_locks(now, ino, by, Job::Query(query));
                return Ok(());
            }
            Err(Miss::Refused(refusal)) => {
                self.refuse(query.asker, refusal);
                return Ok(());
            }
        };
        let header = query.request.header.clone();
        let query = match wanted_lease(asked, &reply) {
            None => query,
            Some((ino, kind, patient)) => {
                match self.wish(now, state, ino, kind, patient, query)? {
                    Wish::Waits => return Ok(()),
                    Wish::Denied(query) => query,
                    Wish::Granted(asker, grant) => {
                        let reply = MetaReply::Inode {
                            attr: grant.attr.clone(),
                            grant: Some(grant),
                        };
                        let views = if current {
                            self.views_of(now, &header, asked, &reply)
                        } else {
                            None
                        };
                        self.answer_viewed(asker, Answer::Meta(Ok(reply)), views);
                        return Ok(());
                    }
                }
            }
        };
        let inos: Vec<Ino> = shown(&reply).map(|attr| attr.ino).collect();
        let Some(query) = self.settle_shown(now, &inos, query) else {
            return Ok(());
        };
        let Some(query) = self.flush_shown(query, &reply) else {
            return Ok(());
        };
        let views = if current {
            self.views_of(now, &header, asked, &reply)
        } else {
            None
        };
        self.answer_viewed(query.asker, Answer::Meta(Ok(reply)), views);
        Ok(())
    }

    /// Attributes that are shown must be those the exclusive holder has: it is asked to commit first (P8, flush recall).
    /// If a link or a chmod came since it was asked, it is asked once more: it may have written before that.
    fn flush_shown(&mut self, mut query: Query, reply: &MetaReply) -> Option<Query> {
        let session = query.request.header.session;
        let dirty = shown(reply).find(|attr| {
            let asked = query.flushed.get(&attr.ino);
            !asked.is_some_and(|before| same_beside_content(before, attr))
                && self.leases.table.dirty_elsewhere(attr.ino, session)
        });
        let Some(attr) = dirty else {
            return Some(query);
        };
        let ino = attr.ino;
        query.flushed.insert(ino, attr.clone());
        self.flush_first(ino, query)
    }

    fn run_data(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        query: Query,
        asked: &DataQuery,
    ) -> Result<(), KvError> {
        match query::data(state, asked)? {
            DataFound::Reply(reply, payload) => {
                let term = self.config.term;
                let reads = matches!(asked, DataQuery::Read { .. });
                let reply = if reads {
                    DataReply::Read { term }
                } else {
                    reply
                };
                self.answer_data(query.asker, Ok(reply), payload);
            }
            DataFound::Error(error) => self.answer_data(query.asker, Err(error), Bytes::new()),
            DataFound::Refused(refusal) => self.refuse(query.asker, refusal),
            DataFound::RaiseFence { chunk, fence } => {
                let op = DataOp::RaiseFence { chunk, fence };
                return self.raise_fence(now, state, query, op);
            }
        }
        Ok(())
    }

    fn answer_data(&mut self, asker: Asker, result: Result<DataReply, FsError>, payload: Bytes) {
        self.outputs.push_back(Output::Answer {
            asker,
            answer: Answer::Data(result),
            payload,
        });
    }
}

/// The lease a query asks for, of the regular file it found.
fn wanted_lease(asked: &MetaQuery, reply: &MetaReply) -> Option<(Ino, LeaseKind, bool)> {
    let MetaReply::Inode { attr, .. } = reply else {
        return None;
    };
    if attr.kind != FileKind::Regular {
        return None;
    }
    match asked {
        MetaQuery::Lookup {
            lease: Some(kind), ..
        } => Some((attr.ino, *kind, false)),
        MetaQuery::Open { lease, patient, .. } => Some((attr.ino, *lease, *patient)),
        MetaQuery::Lookup { lease: None, .. }
        | MetaQuery::GetAttr { .. }
        | MetaQuery::Map { .. }
        | MetaQuery::ReadLink { .. }
        | MetaQuery::ReadDir { .. }
        | MetaQuery::GetXattr { .. }
        | MetaQuery::ListXattr { .. }
        | MetaQuery::TestLock { .. }
        | MetaQuery::Named { .. }
        | MetaQuery::Audit { .. } => None,
    }
}

/// The regular files whose attributes a reply shows.
fn shown(reply: &MetaReply) -> impl Iterator<Item = &Attr> + '_ {
    let (one, many): (_, &[crate::vfs::DirEntry]) = match reply {
        MetaReply::Inode { attr, .. } => (Some(attr), &[]),
        MetaReply::Entries { entries, .. } => (None, entries),
        MetaReply::Done
        | MetaReply::Elsewhere { .. }
        | MetaReply::Made { .. }
        | MetaReply::Reserved(_)
        | MetaReply::Granted(_)
        | MetaReply::Map { .. }
        | MetaReply::Content { .. }
        | MetaReply::Bytes(_)
        | MetaReply::Names(_)
        | MetaReply::Lock(_)
        | MetaReply::LocksGiven { .. }
        | MetaReply::LocksAreYours { .. }
        | MetaReply::Named(_)
        | MetaReply::Records(_) => (None, &[]),
    };
    one.into_iter()
        .chain(many.iter().filter_map(|entry| entry.attr.as_ref()))
        .filter(|attr| attr.kind == FileKind::Regular)
}

/// Whether nothing but content changed between two views of an inode.
fn same_beside_content(before: &Attr, after: &Attr) -> bool {
    let beside = |attr: &Attr| (attr.mode, attr.nlink, attr.uid, attr.gid, attr.parent);
    beside(before) == beside(after)
}
