//! A mount's client at work: the machine, driven by whoever calls it and by what comes back.
//!
//! Owns the driving: calls go into [`polyfs_core::client::Client`] on the caller's own thread and often come back on it;
//! what the machine wants sent leaves through [`Access`]: to the node of this process, or over connections. No lock is
//! held while anything is answered or sent. Deliberately knows no rule of the protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use openraft_rt::AsyncRuntime;
use openraft_rt::Select2;
use parking_lot::Mutex;
use polyfs_core::attr::{Attr, Name};
use polyfs_core::client::port::{CallId, Input, MasterRequest, MessageId, Output};
use polyfs_core::client::{Client, ClientConfig};
use polyfs_core::ids::{NodeId, Renewal, SessionId};
use polyfs_core::place::Ino;
use polyfs_core::request::{Assertion, Request};
use polyfs_core::time::Instant;
use polyfs_core::vfs::{Call, Handle, Outcome};
use thiserror::Error;

use crate::access::{Access, way_to};
use crate::node::Node;
use crate::notify::Bell;
use crate::runtime::Runtime;
use crate::wire::{Message, Reply};

/// A machine that wants nothing is asked again after this.
const IDLE: Duration = Duration::from_secs(1);

/// Takes the outcome of a call.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// What a mount's users hold: calls go in, outcomes come out. Cheap to clone; no type parameter.
#[derive(Clone)]
pub struct ClientHandle(Arc<dyn Calls>);

/// What a handle stands for.
trait Calls: Send + Sync {
    fn call(&self, call: Call, done: Done) -> CallId;
    fn feed(&self, input: Input);
    fn keeps_pages(&self, handle: Handle) -> bool;
    fn keep_attr(&self, attr: &Attr) -> Duration;
    fn on_drop_attr(&self, told: Box<dyn Fn(Ino) + Send + Sync>);
    fn on_invalidate(&self, told: Box<dyn Fn(Ino) + Send + Sync>);
    fn on_lost(&self, told: Box<dyn Fn(Ino) + Send + Sync>);
    fn unmount(&self, done: Box<dyn FnOnce() + Send>);
}

impl ClientHandle {
    /// Makes a call; `done` is called once, on any thread, possibly before this returns.
    pub fn call(&self, call: Call, done: Done) -> CallId {
        self.0.call(call, done)
    }

    /// The caller of a waiting call has died or was interrupted.
    pub fn cancel(&self, call: CallId) {
        self.0.feed(Input::Cancel { id: call });
    }

    /// Whether the kernel may keep what it caches of the file that was just opened by this handle.
    #[must_use]
    pub fn keeps_pages(&self, handle: Handle) -> bool {
        self.0.keeps_pages(handle)
    }

    /// How long the kernel may keep these attributes, if it is told them now.
    #[must_use]
    pub fn keep_attr(&self, attr: &Attr) -> Duration {
        self.0.keep_attr(attr)
    }

    /// Who makes the kernel drop the attributes of an inode. It is told so under a lock, so it must wait for nothing;
    /// without it the kernel must keep none.
    pub fn on_drop_attr(&self, told: Box<dyn Fn(Ino) + Send + Sync>) {
        self.0.on_drop_attr(told);
    }

    /// The kernel has dropped what it cached of an inode.
    pub fn invalidated(&self, ino: Ino) {
        self.0.feed(Input::Invalidated { ino });
    }

    /// Says who is told to make the kernel drop an inode; [`Self::invalidated`] must follow each. It must not wait.
    pub fn on_invalidate(&self, told: Box<dyn Fn(Ino) + Send + Sync>) {
        self.0.on_invalidate(told);
    }

    /// Says who is told of an inode whose uncommitted changes can't be saved any more (P8). It must not wait.
    pub fn on_lost(&self, told: Box<dyn Fn(Ino) + Send + Sync>) {
        self.0.on_lost(told);
    }

    /// Writes everything back and gives everything back; `done` is called when nothing is left to do.
    pub fn unmount(&self, done: Box<dyn FnOnce() + Send>) {
        self.0.unmount(done);
    }
}

/// Why a client could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenClientError {
    /// The cluster has no such volume.
    #[error("the cluster has no volume {0}; look whether it is the right cluster: polyfs status")]
    NoVolume(String),
    /// The node stopped meanwhile.
    #[error("the node stopped before the mount was made")]
    Stopped,
}

/// Opens a client that reaches the cluster through `node`, in this process.
///
/// # Errors
/// When there is no such volume, or the node stops.
pub async fn open<R: Runtime>(
    node: Node<R>,
    config: ClientConfig,
) -> Result<(ClientHandle, Ino), OpenClientError> {
    open_through(Access::inside(node), config).await
}

/// Opens a client that reaches the cluster as `access` does; completes once the master has given it a session.
///
/// # Errors
/// When there is no such volume, or the process stops.
pub async fn open_through<R: Runtime>(
    access: Access<R>,
    config: ClientConfig,
) -> Result<(ClientHandle, Ino), OpenClientError> {
    let volume = config.volume.clone();
    let (mounted, wait) = oneshot::channel();
    let (seed, now) = (access.runtime().random(), access.runtime().now());
    let inner = Inner {
        client: Client::new(config, seed, now),
        waiting: BTreeMap::new(),
        next_call: 0,
        armed: None,
        mounted: Some(mounted),
        gone: Vec::new(),
        over: false,
        drop_attr: None,
    };
    let driver = Arc::new(Driver {
        access: access.clone(),
        inner: Mutex::new(inner),
        invalidate: Mutex::new(None),
        lost: Mutex::new(None),
        bell: Bell::default(),
        session: AtomicU64::new(SessionId::CLUSTER.0),
    });
    access.runtime().spawn(Arc::clone(&driver).keep_time());
    driver.feed(Input::Tick);
    match wait.await {
        Ok(Ok(root)) => Ok((ClientHandle(Arc::new(driver)), root)),
        Ok(Err(_)) => Err(OpenClientError::NoVolume(volume)),
        Err(oneshot::Canceled) => Err(OpenClientError::Stopped),
    }
}

struct Inner {
    client: Client,
    waiting: BTreeMap<CallId, Done>,
    next_call: u64,
    /// When the timer's task wakes.
    armed: Option<Instant>,
    mounted: Option<oneshot::Sender<Result<Ino, Name>>>,
    gone: Vec<Box<dyn FnOnce() + Send>>,
    over: bool,
    /// Makes the kernel drop attributes: in the order of what the machine wants.
    drop_attr: Option<Told>,
}

type Told = Arc<dyn Fn(Ino) + Send + Sync>;

struct Driver<R: Runtime> {
    access: Access<R>,
    inner: Mutex<Inner>,
    invalidate: Mutex<Option<Told>>,
    lost: Mutex<Option<Told>>,
    bell: Bell,
    /// The session that nodes know this mount by.
    session: AtomicU64,
}

/// What is to be done once the machine's lock is free.
enum Deed {
    Finish(Done, Outcome),
    Mounted(oneshot::Sender<Result<Ino, Name>>, Result<Ino, Name>),
    Gone(Vec<Box<dyn FnOnce() + Send>>),
    Do(Output),
}

impl<R: Runtime> Driver<R> {
    /// Gives the machine an input and does what it wants.
    fn drive(self: &Arc<Self>, give: impl FnOnce(&mut Inner) -> Input) {
        let now = self.access.runtime().now();
        let deeds = {
            let mut inner = self.inner.lock();
            let input = give(&mut inner);
            tracing::trace!(?input, "client");
            inner.client.handle_input(now, input);
            let deeds = inner.drain();
            let wants = inner.client.poll_timeout().map(|(at, _)| at);
            if wants.is_some_and(|at| inner.armed.is_none_or(|armed| at < armed)) {
                inner.armed = wants;
                self.bell.ring();
            }
            deeds
        };
        for deed in deeds {
            self.act(deed);
        }
    }

    fn act(self: &Arc<Self>, deed: Deed) {
        match deed {
            Deed::Finish(done, outcome) => done(outcome),
            Deed::Mounted(mounted, result) => drop(mounted.send(result)),
            Deed::Gone(gone) => {
                let session = SessionId(self.session.load(Ordering::Acquire));
                self.access.sessions().forget(session);
                gone.into_iter().for_each(|gone| gone());
            }
            Deed::Do(output) => self.carry_out(output),
        }
    }

    fn carry_out(self: &Arc<Self>, output: Output) {
        tracing::trace!(?output, "client");
        match output {
            Output::Send {
                message,
                node,
                request,
                payload,
            } => {
                self.send(message, node, request, payload);
            }
            Output::SendMaster { message, request } => self.send_master(message, request),
            Output::RenewLeases {
                message,
                node,
                session,
                renewal,
                assertions,
            } => {
                self.renew_leases(message, node, session, renewal, assertions);
            }
            Output::Invalidate { ino } => {
                let told = self.invalidate.lock().clone();
                match told {
                    Some(told) => told(ino),
                    None => self.feed(Input::Invalidated { ino }),
                }
            }
            Output::Lost { ino } => {
                tracing::error!(?ino, "writes could not be saved; their writers are told");
                let told = self.lost.lock().clone();
                if let Some(told) = told {
                    told(ino);
                }
            }
            Output::Reply { .. }
            | Output::Mounted { .. }
            | Output::Refused { .. }
            | Output::Gone
            | Output::DropAttr { .. } => {
                unreachable!("taken out when drained")
            }
        }
    }

    /// What nodes say to a session reaches this mount.
    fn listen_as(self: &Arc<Self>, session: SessionId) {
        let before = SessionId(self.session.swap(session.0, Ordering::AcqRel));
        if before == session {
            return;
        }
        self.access.sessions().forget(before);
        let mount = Arc::downgrade(self);
        let way = way_to(move |node, message| {
            let Some(mount) = mount.upgrade() else { return };
            match message {
                Message::Recall { recall, .. } => mount.feed(Input::Recall { node, recall }),
                Message::AskOpen { inos, .. } => mount.feed(Input::AskOpen { inos }),
                _ => {}
            }
        });
        self.access.sessions().heard(session, &way);
    }

    fn send(self: &Arc<Self>, message: MessageId, node: NodeId, request: Request, payload: Bytes) {
        self.listen_as(request.header.session);
        let mount = Arc::clone(self);
        let answer = move |reply, payload| mount.answered(message, reply, payload);
        self.access
            .request(node, request, payload, Box::new(answer));
    }

    fn answered(self: &Arc<Self>, message: MessageId, reply: Reply, payload: Bytes) {
        match reply {
            Reply::Answer(answer) => self.feed(Input::Answer {
                message,
                answer,
                payload,
            }),
            _ => self.feed(Input::Undelivered { message }),
        }
    }

    fn send_master(self: &Arc<Self>, message: MessageId, request: MasterRequest) {
        let mount = Arc::clone(self);
        self.access.runtime().spawn(async move {
            match mount.access.ask_master(request).await {
                Some(reply) => mount.feed(Input::MasterAnswer { message, reply }),
                None => mount.feed(Input::MasterSilent { message }),
            }
        });
    }

    fn renew_leases(
        self: &Arc<Self>,
        message: MessageId,
        node: NodeId,
        session: SessionId,
        renewal: Renewal,
        assertions: Vec<Assertion>,
    ) {
        self.listen_as(session);
        let mount = Arc::clone(self);
        let confirmed = move |reply, _: Bytes| match reply {
            Reply::LeasesRenewed(by) => mount.feed(Input::LeasesRenewed { message, node, by }),
            // Its leaders are perhaps gone: the others are asked at once.
            _ => mount.feed(Input::Undelivered { message }),
        };
        self.access
            .renew_leases(node, session, renewal, assertions, Box::new(confirmed));
    }

    /// Ticks the machine when it wants to be.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let now = self.access.runtime().now().mono;
            let pause = {
                let mut inner = self.inner.lock();
                if inner.over {
                    return;
                }
                inner.armed = inner.client.poll_timeout().map(|(at, _)| at);
                inner.armed.map_or(IDLE, |at| at.since(now).min(IDLE))
            };
            let slept =
                R::Async::select2(self.bell.rung(), self.access.runtime().sleep(pause)).await;
            if let Select2::Second(()) = slept {
                self.feed(Input::Tick);
            }
        }
    }
}

impl Inner {
    /// Takes out what the machine wants.
    fn drain(&mut self) -> Vec<Deed> {
        let mut deeds = Vec::new();
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Reply { id, outcome } => {
                    let done = self.waiting.remove(&id);
                    deeds.push(Deed::Finish(done.expect("a call has one outcome"), outcome));
                }
                Output::Mounted { root } => {
                    deeds.extend(
                        self.mounted
                            .take()
                            .map(|told| Deed::Mounted(told, Ok(root))),
                    );
                }
                Output::Refused { volume } => {
                    deeds.extend(
                        self.mounted
                            .take()
                            .map(|told| Deed::Mounted(told, Err(volume))),
                    );
                }
                Output::DropAttr { ino } => {
                    if let Some(told) = &self.drop_attr {
                        told(ino);
                    }
                }
                Output::Gone => {
                    self.over = true;
                    deeds.push(Deed::Gone(std::mem::take(&mut self.gone)));
                }
                output => deeds.push(Deed::Do(output)),
            }
        }
        deeds
    }
}

impl<R: Runtime> Calls for Arc<Driver<R>> {
    fn call(&self, call: Call, done: Done) -> CallId {
        let mut name = CallId(0);
        self.drive(|inner| {
            inner.next_call += 1;
            name = CallId(inner.next_call);
            inner.waiting.insert(name, done);
            Input::Call { id: name, call }
        });
        name
    }

    fn feed(&self, input: Input) {
        self.drive(|_| input);
    }

    fn keeps_pages(&self, handle: Handle) -> bool {
        let now = self.access.runtime().now();
        self.inner.lock().client.keeps_pages(now, handle)
    }

    fn keep_attr(&self, attr: &Attr) -> Duration {
        let now = self.access.runtime().now();
        let mut inner = self.inner.lock();
        if inner.drop_attr.is_none() {
            return Duration::ZERO;
        }
        inner.client.keep_attr(now, attr)
    }

    fn on_drop_attr(&self, told: Box<dyn Fn(Ino) + Send + Sync>) {
        self.inner.lock().drop_attr = Some(Arc::from(told));
    }

    fn on_lost(&self, told: Box<dyn Fn(Ino) + Send + Sync>) {
        *self.lost.lock() = Some(Arc::from(told));
    }

    fn on_invalidate(&self, told: Box<dyn Fn(Ino) + Send + Sync>) {
        *self.invalidate.lock() = Some(Arc::from(told));
    }

    fn unmount(&self, done: Box<dyn FnOnce() + Send>) {
        let mut done = Some(done);
        let over = {
            let mut inner = self.inner.lock();
            if !inner.over {
                inner.gone.extend(done.take());
            }
            inner.over
        };
        match done {
            Some(done) if over => done(),
            _ => self.drive(|_| Input::Unmount),
        }
    }
}
