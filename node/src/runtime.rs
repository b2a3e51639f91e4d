//! What a node needs of the world: clock, randomness, tasks, network, disk.
//!
//! Owns the traits; runtime-tokio and runtime-sim implement them. openraft's own `AsyncRuntime` is part of a runtime,
//! because consensus, glue and simulator must agree on one executor and one clock.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::AsyncRuntime;
use polyfs_core::time::Now;
use polyfs_store::disk::Dir;
use thiserror::Error;

/// One machine, as a node sees it. Cheap to clone.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Tasks, timers and channels, as openraft wants them.
    type Async: AsyncRuntime;
    /// The network.
    type Net: Net;
    /// The data directory.
    type Dir: Dir;

    /// Both clocks of this machine.
    fn now(&self) -> Now;
    /// 64 random bits; in simulation drawn from the seed.
    fn random(&self) -> u64;
    /// The network of this machine.
    fn net(&self) -> &Self::Net;
    /// Runs blocking work (reading and writing the disk) off the executor: on a thread in production, inline in
    /// simulation. The work is queued by the call itself and runs even if the future is dropped; work given to
    /// [`Lane::Log`] or [`Lane::Checkpoint`] runs in the order of the calls, one piece after the other. Work that
    /// panics ends the process: a broken law must not turn into an answer.
    fn blocking<T, F>(&self, lane: Lane, work: F) -> impl Future<Output = T> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static;
    /// Starts a task that lives as long as the machine or until it ends.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(<Self::Async as AsyncRuntime>::spawn(task));
    }
    /// Completes after `span`.
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send;
}

/// A thread of its own for blocking work, in production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The log's writes and syncs, in order, one after the other.
    Log,
    /// Checkpoints of region state: long syncs that must not hold up the log.
    Checkpoint,
    /// Reads of file data, its writes and new segments of the log: any number side by side, in no order.
    Read,
}

/// Connections that carry whole frames, in order, until they break. A frame that was sent may or may not have arrived
/// when a connection breaks; nothing arrives twice or altered without an error.
pub trait Net: Clone + Send + Sync + 'static {
    /// An open listener.
    type Listener: Listener<Sender = Self::Sender, Receiver = Self::Receiver>;
    /// The sending half of a connection.
    type Sender: FrameSender;
    /// The receiving half of a connection.
    type Receiver: FrameReceiver;

    /// Listens at `address` (`host:port`; port 0 picks one).
    fn listen(
        &self,
        address: &str,
    ) -> impl Future<Output = Result<Self::Listener, NetError>> + Send;
    /// Connects to `address`, whose name is resolved anew each time.
    fn dial(
        &self,
        address: &str,
    ) -> impl Future<Output = Result<(Self::Sender, Self::Receiver), NetError>> + Send;
}

/// A listener that hands out connections.
pub trait Listener: Send + 'static {
    /// The sending half of a connection.
    type Sender: FrameSender;
    /// The receiving half of a connection.
    type Receiver: FrameReceiver;
    /// Waits for the next connection; the string says from where, for logs.
    fn accept(
        &mut self,
    ) -> impl Future<Output = Result<(Self::Sender, Self::Receiver, String), NetError>> + Send;
    /// The address it really listens at.
    fn address(&self) -> String;
}

/// One frame: a header that is decoded, and raw bytes that never pass through a codec. Limits in `core::limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// What it says (bincode).
    pub header: Bytes,
    /// What it carries, in pieces that are sent one after the other and arrive as one.
    pub payload: Vec<Bytes>,
}

/// The sending half of a connection. Dropping both halves closes it.
pub trait FrameSender: Send + 'static {
    /// Sends some frames, in order, in as few system calls as it takes; completes when the network has taken them,
    /// which says nothing of their arrival. A future dropped before it completes breaks the connection, since half a
    /// frame may be on its way.
    ///
    /// # Errors
    /// When the connection is broken, or a frame exceeds the limits of `core::limits` (then nothing was sent).
    fn send(&mut self, frames: Vec<Frame>) -> impl Future<Output = Result<(), NetError>> + Send;

    /// A way past the executor for threads that are not its own, if this network has one.
    fn shortcut(&self) -> Option<Box<dyn Shortcut>> {
        None
    }
}

/// Sends on the caller's own thread, without waiting. Only for while no [`FrameSender::send`] is under way and nobody else
/// calls.
pub trait Shortcut: Send + Sync {
    /// Tries to send a frame. What is wrong with the connection or the frame is for the next [`FrameSender::send`] to say.
    fn try_send(&self, frame: &Frame) -> Tried;
}

/// What became of a frame that was to be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The network has taken it.
    Sent,
    /// The network has taken a part: the next [`FrameSender::send`], even of no frames, begins with the rest.
    Begun,
    /// Nothing was done: it is to be sent by [`FrameSender::send`].
    Refused,
}

/// The receiving half of a connection.
pub trait FrameReceiver: Send + 'static {
    /// The next frame; its payload is one piece (or none when empty). An error ends the connection. The future may be
    /// dropped and asked for again without losing anything.
    ///
    /// # Errors
    /// `Closed` after the last frame when the other side closed it in order; anything else otherwise.
    fn receive(&mut self) -> impl Future<Output = Result<Frame, NetError>> + Send;

    /// The next frame may have at most `bytes`, and no more memory is held for it: it comes from a stranger. The frames
    /// after it are as large as others. A network that holds no memory for what strangers send may ignore it.
    fn expect_small(&mut self, bytes: usize) {
        let _ = bytes;
    }
}

/// Why a connection could not be made or has ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetError {
    /// The other side closed it.
    #[error("the connection was closed")]
    Closed,
    /// What arrived is no frame of ours: another program, or damaged on the way.
    #[error("what arrived is not a PolyFS frame: {0}")]
    Garbage(&'static str),
    /// In the host's words: refused, unreachable, in use, no such name.
    #[error("{0}")]
    Failed(String),
}
