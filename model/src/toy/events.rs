//! Simulated time and what happens in it.
//!
//! Owns the queue of events: ordered by time, then by the order in which they were planned.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use polyfs_core::client::port::{CallId, MasterReply, MasterRequest, MessageId};
use polyfs_core::ids::{Epoch, GroupId, NodeId, Renewal, SessionId};
use polyfs_core::place::Ino;
use polyfs_core::region::leader::port::{Asker, Token};
use polyfs_core::request::{Answer, Assertion, Recall, Renewed, Request};
use polyfs_core::txn::TxnReply;
use polyfs_core::vfs::Outcome;

use super::consensus::{Proposal, Term};
use crate::history::ClientId;

/// Who waits for the answer to a request at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client, under its own name for the message.
    Client(ClientId, MessageId),
    /// A leader's question to another region.
    Router(u64),
    /// A client's lease frame, one group's part of it.
    Lease(ClientId, MessageId),
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A request reaches a node.
    Request {
        node: NodeId,
        origin: Origin,
        request: Request,
        payload: Bytes,
    },
    /// An answer reaches whoever asked.
    Answer {
        origin: Origin,
        answer: Answer,
        payload: Bytes,
    },
    /// A message of a client could not be delivered.
    Undelivered {
        client: ClientId,
        message: MessageId,
    },
    /// A client's lease frame reaches a node.
    LeaseFrame {
        node: NodeId,
        client: ClientId,
        message: MessageId,
        session: SessionId,
        renewal: Renewal,
        assertions: Vec<Assertion>,
    },
    /// A node has confirmed a lease frame.
    LeasesRenewed {
        client: ClientId,
        message: MessageId,
        node: NodeId,
        by: Vec<Renewed>,
    },
    /// A recall reaches a client.
    Recall {
        client: ClientId,
        node: NodeId,
        recall: Recall,
    },
    /// A question about orphans reaches a client.
    AskOpen { client: ClientId, inos: Vec<Ino> },
    /// A client's request reaches the master.
    Master {
        client: ClientId,
        message: MessageId,
        request: MasterRequest,
    },
    /// The master's answer reaches a client; none when it could not be found.
    MasterAnswer {
        client: ClientId,
        message: MessageId,
        reply: Option<MasterReply>,
    },
    /// A client's kernel has dropped an inode.
    Invalidated { client: ClientId, ino: Ino },
    /// A proposal reaches the consensus.
    Proposed {
        group: GroupId,
        node: NodeId,
        term: Term,
        token: Token,
        proposal: Proposal,
    },
    /// A leader's question about its leadership reaches the others.
    ReadIndex {
        group: GroupId,
        node: NodeId,
        term: Term,
        token: Token,
    },
    /// A replica applies what is committed.
    Apply { group: GroupId, node: NodeId },
    /// A replica learns who leads.
    LearnTerm { group: GroupId, node: NodeId },
    /// A leader's question to another region got its answer, or none.
    TxnAnswer {
        group: GroupId,
        node: NodeId,
        term: Term,
        token: Token,
        answer: Option<TxnReply>,
    },
    /// As `TxnAnswer`, of a query.
    QueryAnswer {
        group: GroupId,
        node: NodeId,
        term: Term,
        token: Token,
        answer: Option<Answer>,
    },
    /// The router tries again.
    RouterRetry { question: u64 },
    /// A machine's timer.
    LeaderTick { group: GroupId, node: NodeId },
    /// A client machine's timer.
    ClientTick { client: ClientId },
    /// The next call of a client's thread.
    NextCall { client: ClientId, thread: u32 },
    /// A call ended.
    Ended {
        client: ClientId,
        id: CallId,
        outcome: Outcome,
    },
    /// The master looks for sessions that ran out.
    MasterTick,
    /// The next fault.
    Fault,
    /// Some region gets its next epoch.
    NextEpoch,
    /// The master, and who routes by its map, hears of a region's epoch.
    LearnEpoch { group: GroupId, epoch: Epoch },
}

impl Event {
    /// The mount on whose machine it happens, if it does on one's.
    pub(super) const fn at_mount(&self) -> Option<ClientId> {
        match self {
            Self::Undelivered { client, .. }
            | Self::LeasesRenewed { client, .. }
            | Self::Recall { client, .. }
            | Self::AskOpen { client, .. }
            | Self::Invalidated { client, .. }
            | Self::MasterAnswer { client, .. }
            | Self::ClientTick { client }
            | Self::NextCall { client, .. }
            | Self::Ended { client, .. }
            | Self::Answer {
                origin: Origin::Client(client, _),
                ..
            } => Some(*client),
            Self::Answer { .. }
            | Self::Request { .. }
            | Self::LeaseFrame { .. }
            | Self::Proposed { .. }
            | Self::ReadIndex { .. }
            | Self::Apply { .. }
            | Self::LearnTerm { .. }
            | Self::LeaderTick { .. }
            | Self::TxnAnswer { .. }
            | Self::QueryAnswer { .. }
            | Self::RouterRetry { .. }
            | Self::Master { .. }
            | Self::MasterTick
            | Self::NextEpoch
            | Self::LearnEpoch { .. }
            | Self::Fault => None,
        }
    }
}

/// Simulated nanoseconds and the events to come.
#[derive(Default)]
pub(super) struct Schedule {
    now: u64,
    planned: u64,
    queue: BTreeMap<(u64, u64), Event>,
    /// Timers that are planned: one for each machine, the earliest it asked for.
    timers: BTreeMap<Timer, u64>,
}

/// Whose timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Leader(GroupId, NodeId),
    Client(ClientId),
}

impl Schedule {
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        let at = self.now + u64::try_from(delay.as_nanos()).expect("simulations are short");
        self.at(at, event);
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.queue.insert((at.max(self.now), self.planned), event);
    }

    /// Arms a machine's timer: the event comes at `at`, unless an earlier one is planned.
    pub(super) fn arm(&mut self, timer: Timer, at: u64) {
        let at = at.max(self.now);
        if self.timers.get(&timer).is_none_or(|planned| at < *planned) {
            self.timers.insert(timer, at);
            let event = match timer {
                Timer::Leader(group, node) => Event::LeaderTick { group, node },
                Timer::Client(client) => Event::ClientTick { client },
            };
            self.at(at, event);
        }
    }

    /// A timer's event came.
    pub(super) fn fired(&mut self, timer: Timer) {
        if self
            .timers
            .get(&timer)
            .is_some_and(|planned| *planned <= self.now)
        {
            self.timers.remove(&timer);
        }
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }
}

/// The leader's name for an origin that waits: the world's table of them.
#[derive(Default, Debug)]
pub(super) struct Askers {
    next: u64,
    waiting: BTreeMap<Asker, Origin>,
}

impl Askers {
    pub(super) fn add(&mut self, origin: Origin) -> Asker {
        self.next += 1;
        self.waiting.insert(Asker(self.next), origin);
        Asker(self.next)
    }

    pub(super) fn take(&mut self, asker: Asker) -> Option<Origin> {
        self.waiting.remove(&asker)
    }
}
