//! One connection: two ends, each with an inbox of what is on its way there.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use polyfs_node::runtime::NetError;

use super::topology::MachineId;
use super::{PEER_TIMEOUT, WINDOW};

/// A connection, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Dialler,
    Acceptor,
}

/// Something on its way to an end.
#[derive(Debug)]
pub(super) enum Content {
    /// One frame.
    Bytes(Bytes),
    /// The other side has closed.
    End,
}

#[derive(Debug)]
pub(super) struct Segment {
    /// When it arrives; `None` while the way is cut.
    pub(super) arrives: Option<u64>,
    pub(super) content: Content,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) machine: MachineId,
    pub(super) life: u64,
    /// Halves not yet dropped; 0 is closed.
    pub(super) halves: u8,
    /// Its machine or process is gone: nobody will ever ask again.
    pub(super) dead: bool,
    /// From when on (true nanoseconds) this end finds the connection broken, and how.
    pub(super) breaks: Option<(u64, NetError)>,
    /// Since when the other end's machine has not answered.
    pub(super) silent_since: Option<u64>,
    /// Since when the other end has taken nothing though this one has a window full for it.
    pub(super) blocked_since: Option<u64>,
    pub(super) inbox: VecDeque<Segment>,
    pub(super) inbox_bytes: usize,
    last_arrival: u64,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

/// What a receiver finds.
pub(super) enum Received {
    Bytes(Bytes),
    Ended(NetError),
    /// Nothing before that time, unless it is woken.
    Wait(Option<u64>),
}

/// What a sender finds.
pub(super) enum Room {
    Free,
    Ended(NetError),
    Wait(Option<u64>),
}

fn timeout_nanos() -> u64 {
    u64::try_from(PEER_TIMEOUT.as_nanos()).expect("a few seconds")
}

pub(super) fn silence() -> NetError {
    NetError::Failed("the other machine does not answer".into())
}

pub(super) fn reset() -> NetError {
    NetError::Failed("connection reset by the other machine".into())
}

impl End {
    pub(super) fn new(machine: MachineId, life: u64) -> Self {
        Self {
            machine,
            life,
            halves: 2,
            dead: false,
            breaks: None,
            silent_since: None,
            blocked_since: None,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            last_arrival: 0,
            receiver: None,
            sender: None,
        }
    }

    /// Whether somebody still holds it.
    pub(super) fn is_held(&self) -> bool {
        !self.dead && self.halves > 0
    }

    /// Whether its kernel would still answer for it at that time.
    pub(super) fn answers(&self, now: u64) -> bool {
        self.is_held() && !matches!(self.breaks, Some((at, _)) if at <= now)
    }

    pub(super) fn has_end_in_inbox(&self) -> bool {
        self.inbox
            .iter()
            .any(|segment| matches!(segment.content, Content::End))
    }

    /// Breaks this end at a time, unless it breaks earlier anyway.
    pub(super) fn break_at(&mut self, at: u64, why: NetError) {
        if self
            .breaks
            .as_ref()
            .is_none_or(|(earlier, _)| *earlier > at)
        {
            self.breaks = Some((at, why));
        }
        self.wake();
    }

    /// Nobody will ask again.
    pub(super) fn die(&mut self) {
        self.dead = true;
        self.inbox.clear();
        self.inbox_bytes = 0;
    }

    /// Puts something on its way to this end, behind what is.
    pub(super) fn put(&mut self, arrives: Option<u64>, content: Content) {
        let held_before = self.inbox.back().is_some_and(|last| last.arrives.is_none());
        let arrives = arrives
            .filter(|_| !held_before)
            .map(|at| at.max(self.last_arrival));
        if let Some(at) = arrives {
            self.last_arrival = at;
        }
        if let Content::Bytes(bytes) = &content {
            self.inbox_bytes += bytes.len();
        }
        self.inbox.push_back(Segment { arrives, content });
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }

    /// The way here is cut: what has not arrived waits.
    pub(super) fn hold(&mut self, now: u64) {
        for segment in &mut self.inbox {
            segment.arrives = segment.arrives.filter(|at| *at <= now);
        }
        self.last_arrival = now;
    }

    /// The way here is open again: what waited arrives from then on.
    pub(super) fn release(&mut self, from: u64) {
        for segment in &mut self.inbox {
            if segment.arrives.is_none() {
                self.last_arrival = self.last_arrival.max(from);
                segment.arrives = Some(self.last_arrival);
            }
        }
    }

    pub(super) fn wake(&mut self) {
        for waker in [self.receiver.take(), self.sender.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }

    /// Turns a silence that has lasted too long into a break.
    pub(super) fn notice_silence(&mut self, now: u64) {
        for since in [self.silent_since, self.blocked_since]
            .into_iter()
            .flatten()
        {
            let at = since + timeout_nanos();
            if at <= now {
                self.break_at(at, silence());
            }
        }
    }

    /// When this end must look again though nothing happens.
    fn deadline(&self) -> Option<u64> {
        let since = [self.silent_since, self.blocked_since];
        let silence = since.into_iter().flatten().min();
        let silence = silence.map(|since| since + timeout_nanos());
        let breaks = self.breaks.as_ref().map(|(at, _)| *at);
        [silence, breaks].into_iter().flatten().min()
    }

    /// Takes what has arrived.
    pub(super) fn receive(&mut self, now: u64, waker: &Waker) -> Received {
        self.notice_silence(now);
        let broken = self.breaks.clone();
        let until = broken.as_ref().map_or(now, |(at, _)| now.min(*at));
        let next = self.inbox.front().and_then(|segment| segment.arrives);
        if next.is_some_and(|at| at <= until) {
            return self.take();
        }
        if let Some((at, why)) = broken
            && at <= now
        {
            return Received::Ended(why);
        }
        self.receiver = Some(waker.clone());
        Received::Wait([next, self.deadline()].into_iter().flatten().min())
    }

    fn take(&mut self) -> Received {
        let segment = self.inbox.front().expect("the caller has looked");
        match &segment.content {
            // Stays there: an end stays an end.
            Content::End => Received::Ended(NetError::Closed),
            Content::Bytes(bytes) => {
                let bytes = bytes.clone();
                self.inbox.pop_front();
                self.inbox_bytes -= bytes.len();
                Received::Bytes(bytes)
            }
        }
    }

    /// Whether this end may send to `peer`.
    pub(super) fn room(&mut self, peer: &Self, now: u64, waker: &Waker) -> Room {
        self.notice_silence(now);
        if let Some((at, why)) = &self.breaks
            && *at <= now
        {
            return Room::Ended(why.clone());
        }
        let end_arrived = self.inbox.iter().any(|segment| {
            matches!(segment.content, Content::End) && segment.arrives.is_some_and(|at| at <= now)
        });
        if end_arrived && !peer.is_held() {
            return Room::Ended(reset());
        }
        if peer.is_held() && peer.inbox_bytes >= WINDOW {
            self.sender = Some(waker.clone());
            self.blocked_since.get_or_insert(now);
            return Room::Wait(self.deadline());
        }
        Room::Free
    }
}
