//! One connection, shared by everything two machines say to each other.
//!
//! Owns questions and their answers, the two tasks that move frames, and the bound on what waits to be sent. A thread that
//! is not the executor's sends by itself when nothing waits before it: waking the task would cost more than the call.
//! Deliberately knows no address and no deadline: those are [`crate::links`]' and the caller's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, select};
use parking_lot::Mutex;

use crate::group::Answerer;
use crate::notify::Bell;
use crate::raft::types::LogId;
use crate::runtime::{Frame, FrameReceiver, FrameSender, Runtime, Shortcut, Tried};
use crate::wire::{AppendStop, Call, Message, NodeIdentity, Refused, Reply};

/// What may wait to be sent, in bytes; more is refused.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Frames handed to the network at once.
const FRAMES_AT_ONCE: usize = 64;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A node.
    Node(NodeIdentity),
    /// A mount.
    Mount,
}

/// What arrives and is no answer goes here; must not block.
pub trait Incoming: Send + Sync + 'static {
    /// A frame has arrived.
    fn incoming(&self, from: &Arc<Conn>, message: Message, payload: Bytes);
    /// The connection is over.
    fn closed(&self, conn: &Arc<Conn>);
}

/// How one append of a stream ended.
pub type Appended = Result<Option<LogId>, AppendStop>;

type Waiting = BTreeMap<u64, Answerer>;

/// What the sending task is told.
enum Outgoing {
    Frame(Frame),
    /// The network took only a part of a frame: the rest is to be sent.
    Rest,
}

/// The way out of an open connection.
struct Out {
    queue: mpsc::UnboundedSender<Outgoing>,
    shortcut: Option<Box<dyn Shortcut>>,
}

/// A living or dead connection.
pub struct Conn {
    peer: Peer,
    number: u64,
    out: Mutex<Option<Out>>,
    /// Bytes that the network has not taken yet, more or less; none when nothing is under way.
    queued: AtomicUsize,
    next: AtomicU64,
    closing: Bell,
    /// Whoever takes what arrives has heard that the connection is over.
    told_closed: AtomicBool,
    calls: Mutex<Option<Waiting>>,
    streams: Mutex<Option<BTreeMap<u64, mpsc::UnboundedSender<Appended>>>>,
}

impl Outgoing {
    /// Never 0.
    fn bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => frame_bytes(frame).max(1),
            Self::Rest => 1,
        }
    }
}

fn frame_bytes(frame: &Frame) -> usize {
    frame.header.len() + frame.payload.iter().map(Bytes::len).sum::<usize>()
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("peer", &self.peer)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Conn {
    /// Starts the tasks of a connection whose greetings are over. `number` is its name in this process.
    pub fn start<R: Runtime>(
        runtime: &R,
        (sender, receiver): (impl FrameSender, impl FrameReceiver),
        peer: Peer,
        number: u64,
        incoming: Arc<dyn Incoming>,
    ) -> Arc<Self> {
        let (queue, frames) = mpsc::unbounded();
        let out = Out {
            queue,
            shortcut: sender.shortcut(),
        };
        let conn = Arc::new(Self {
            peer,
            number,
            out: Mutex::new(Some(out)),
            queued: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            closing: Bell::default(),
            told_closed: AtomicBool::new(false),
            calls: Mutex::new(Some(BTreeMap::new())),
            streams: Mutex::new(Some(BTreeMap::new())),
        });
        runtime.spawn(Arc::clone(&conn).send_frames(sender, frames, Arc::clone(&incoming)));
        runtime.spawn(Arc::clone(&conn).receive_frames(receiver, incoming));
        conn
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The connection's name in this process.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether frames may still go out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.out.lock().is_some()
    }

    /// Queues a frame. That it was queued says nothing of its arrival.
    ///
    /// # Errors
    /// `Stopping` on a dead connection, `Overloaded` when too much waits.
    pub fn send(&self, message: &Message, payload: Vec<Bytes>) -> Result<(), Refused> {
        let frame = message.frame(payload);
        let bytes = frame_bytes(&frame);
        let out = self.out.lock();
        let out = out.as_ref().ok_or(Refused::Stopping)?;
        let queued = self.queued.load(Ordering::Acquire);
        if queued + bytes > QUEUE_BYTES_MAX {
            return Err(Refused::Overloaded);
        }
        // Nobody else sends: the task has nothing, and others wait for the lock.
        let tried = match &out.shortcut {
            Some(shortcut) if queued == 0 => shortcut.try_send(&frame),
            _ => Tried::Refused,
        };
        let outgoing = match tried {
            Tried::Sent => return Ok(()),
            Tried::Begun => Outgoing::Rest,
            Tried::Refused => Outgoing::Frame(frame),
        };
        self.queued.fetch_add(outgoing.bytes(), Ordering::AcqRel);
        out.queue
            .unbounded_send(outgoing)
            .map_err(|_| Refused::Stopping)
    }

    /// Asks; `answer` is called once, with a refusal when the connection ends first. It is called before anything that
    /// arrives after the answer is looked at: a recall must not overtake its grant. It must not wait.
    pub fn ask(&self, body: Call, payload: Vec<Bytes>, answer: Answerer) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let unasked = {
            let mut calls = self.calls.lock();
            match calls.as_mut() {
                Some(calls) => {
                    calls.insert(id, answer);
                    None
                }
                None => Some((Refused::Stopping, answer)),
            }
        };
        let unasked = unasked.or_else(|| {
            let refused = self.send(&Message::Call { id, body }, payload).err()?;
            let answer = self.calls.lock().as_mut()?.remove(&id)?;
            Some((refused, answer))
        });
        if let Some((refused, answer)) = unasked {
            answer(Reply::Refused(refused), Bytes::new());
        }
    }

    /// Asks; the answer, or nothing when the connection ends first. Drop it to stop waiting.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn call(&self, body: Call, payload: Vec<Bytes>) -> Result<(Reply, Bytes), Refused> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        // Whoever asked may have given up.
        let tell = move |reply, payload| drop(sender.send((reply, payload)));
        self.calls
            .lock()
            .as_mut()
            .ok_or(Refused::Stopping)?
            .insert(id, Box::new(tell));
        let _forget = Forget { conn: self, id };
        self.send(&Message::Call { id, body }, payload)?;
        match answer.await {
            Ok((Reply::Refused(Refused::Stopping), _)) | Err(_) => Err(Refused::Stopping),
            Ok(answer) => Ok(answer),
        }
    }

    /// Answers a question.
    pub fn reply(&self, id: u64, body: Reply, payload: Bytes) {
        let payload = if payload.is_empty() {
            vec![]
        } else {
            vec![payload]
        };
        if let Err(refused) = self.send(&Message::Reply { id, body }, payload) {
            // The asker's deadline covers it.
            tracing::debug!(%refused, "an answer was not sent");
        }
    }

    /// Opens a stream of appends: its name, and what becomes of each.
    pub(crate) fn open_stream(&self) -> Result<(u64, mpsc::UnboundedReceiver<Appended>), Refused> {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, results) = mpsc::unbounded();
        self.streams
            .lock()
            .as_mut()
            .ok_or(Refused::Stopping)?
            .insert(stream, sender);
        Ok((stream, results))
    }

    /// Closes it.
    pub(crate) fn close_stream(&self, stream: u64) {
        if let Some(streams) = self.streams.lock().as_mut() {
            streams.remove(&stream);
        }
        // A dead connection has no streams to end.
        let _ = self.send(&Message::AppendEnd { stream }, vec![]);
    }

    /// Ends the connection: everything that waits for it learns so.
    pub fn close(&self) {
        drop(self.out.lock().take());
        let unanswered = self.calls.lock().take();
        drop(self.streams.lock().take());
        self.closing.ring();
        for (_, answer) in unanswered.into_iter().flatten() {
            answer(Reply::Refused(Refused::Stopping), Bytes::new());
        }
    }

    async fn send_frames(
        self: Arc<Self>,
        mut sender: impl FrameSender,
        frames: mpsc::UnboundedReceiver<Outgoing>,
        incoming: Arc<dyn Incoming>,
    ) {
        let mut frames = frames.ready_chunks(FRAMES_AT_ONCE);
        while let Some(batch) = frames.next().await {
            let bytes: usize = batch.iter().map(Outgoing::bytes).sum();
            let frames = batch.into_iter().filter_map(|outgoing| match outgoing {
                Outgoing::Frame(frame) => Some(frame),
                Outgoing::Rest => None,
            });
            if let Err(error) = sender.send(frames.collect()).await {
                tracing::debug!(%error, "a connection broke");
                break;
            }
            // Only now may somebody else send.
            self.queued.fetch_sub(bytes, Ordering::AcqRel);
        }
        self.end(&*incoming);
    }

    async fn receive_frames(
        self: Arc<Self>,
        mut receiver: impl FrameReceiver,
        incoming: Arc<dyn Incoming>,
    ) {
        while self.is_open() {
            let received = {
                let closing = std::pin::pin!(self.closing.rung());
                match select(closing, std::pin::pin!(receiver.receive())).await {
                    Either::Left(_) => break,
                    Either::Right((received, _)) => received,
                }
            };
            let message = match received {
                Ok(frame) => Message::of(frame),
                Err(error) => {
                    tracing::debug!(%error, "a connection ended");
                    break;
                }
            };
            match message {
                Ok((message, payload)) => self.arrived(message, payload, &*incoming),
                Err(error) => {
                    tracing::warn!(%error, "a peer sent what is no message: the connection ends");
                    break;
                }
            }
        }
        self.end(&*incoming);
    }

    fn end(self: &Arc<Self>, incoming: &dyn Incoming) {
        self.close();
        // Also after somebody else has closed it: what was kept for it goes now.
        if !self.told_closed.swap(true, Ordering::AcqRel) {
            incoming.closed(self);
        }
    }

    fn arrived(self: &Arc<Self>, message: Message, payload: Bytes, incoming: &dyn Incoming) {
        match message {
            Message::Reply { id, body } => {
                let waiting = self
                    .calls
                    .lock()
                    .as_mut()
                    .and_then(|calls| calls.remove(&id));
                if let Some(answer) = waiting {
                    answer(body, payload);
                }
            }
            Message::Appended { stream, result } => {
                let streams = self.streams.lock();
                if let Some(results) = streams.as_ref().and_then(|all| all.get(&stream)) {
                    let _ = results.unbounded_send(result);
                }
            }
            other => incoming.incoming(self, other, payload),
        }
    }
}

/// Stops waiting for an answer.
struct Forget<'a> {
    conn: &'a Conn,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(calls) = self.conn.calls.lock().as_mut() {
            calls.remove(&self.id);
        }
    }
}
