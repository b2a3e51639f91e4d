//! The client: turns a mount's calls into requests to regions, and caches what leases allow.
//!
//! Owns routing, retries, deadlines, slots, the mount's side of sessions and leases, and write-back. Deliberately knows
//! no socket, thread, kernel or clock: a driver moves its messages, the FUSE adapter its calls.

mod caches;
mod calls;
mod content;
mod delegations;
mod foresight;
mod ops;
pub mod port;
mod questions;
mod regions;
mod rng;
mod session;
mod slots;
mod timers;
mod unmount;
mod views;

#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use crate::place::Ino;
use crate::request::Answer;
use crate::time::{Instant, Now};
use crate::vfs::{Call, LockOwner};

use caches::Caches;
use content::Files;
use delegations::Delegations;
use ops::Tasks;
use port::{CallId, Input, Output};
use questions::{Owner, Questions, Route};
use regions::RegionMap;
use rng::Rng;
use session::Session;
use slots::Slots;
use timers::{Timers, Wake};
use views::Views;

/// What a mount is told when it starts.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The volume to mount.
    pub volume: String,
    /// Changes are refused with `ReadOnly`.
    pub read_only: bool,
    /// Dirty bytes in memory at most; writers wait beyond it. At least one write is always taken.
    pub write_back_bytes_max: usize,
}

/// The mount's machine: one input in, outputs drained, the timer armed anew.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    now: Now,
    rng: Rng,
    out: VecDeque<Output>,
    timers: Timers,
    session: Session,
    regions: RegionMap,
    questions: Questions,
    slots: Slots,
    caches: Caches,
    views: Views,
    tasks: Tasks,
    files: Files,
    /// Who may hold locks: freed at close.
    locks: BTreeMap<(Ino, LockOwner), ()>,
    delegations: Delegations,
    /// Owners whose locks are being freed, and what they want to lock anew: an owner's name is used again at once.
    freeing: BTreeMap<(Ino, LockOwner), Vec<(CallId, Call)>>,
    /// Lookups of `security.capability` on the way.
    capabilities: BTreeMap<CallId, Ino>,
    mounted: bool,
    unmount: unmount::Unmount,
}

impl Client {
    /// A mount that opens its session at once. Everything it draws at random follows from `seed`.
    #[must_use]
    pub fn new(config: ClientConfig, seed: u64, now: Now) -> Self {
        let mut rng = Rng::new(seed);
        let nonce = rng.next();
        let mut client = Self {
            config,
            now,
            rng,
            out: VecDeque::new(),
            timers: Timers::default(),
            session: Session::new(nonce),
            regions: RegionMap::default(),
            questions: Questions::default(),
            slots: Slots::new(),
            caches: Caches::default(),
            views: Views::default(),
            tasks: Tasks::default(),
            files: Files::default(),
            locks: BTreeMap::new(),
            delegations: Delegations::new(),
            freeing: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            mounted: false,
            unmount: unmount::Unmount::No,
        };
        client.drive_session();
        client
    }

    /// Takes one input.
    pub fn handle_input(&mut self, now: Now, input: Input) {
        self.now = now;
        match input {
            Input::Call { id, call } => self.call(id, call),
            Input::Cancel { id } => self.cancel_call(id),
            Input::Answer {
                message,
                answer,
                payload,
            } => self.answered(message, answer, payload),
            Input::Undelivered { message } => self.undelivered(message),
            Input::MasterAnswer { message, reply } => self.master_answer(message, reply),
            Input::MasterSilent { message } => self.master_silent(message),
            Input::LeasesRenewed { message, node, by } => {
                self.leases_renewed(message, node, &by);
            }
            Input::Recall { node, recall } => {
                self.recalled(node, recall);
            }
            Input::AskOpen { inos } => self.asked_open(inos),
            Input::Invalidated { ino } => self.invalidated(ino),
            Input::Unmount => self.start_unmount(),
            Input::Tick => {}
        }
        while let Some(wake) = self.timers.due(now.mono) {
            self.wake(wake);
        }
        self.dispatch_ready();
        self.drive_unmount();
        self.dispatch_ready();
    }

    /// What it wants done next; `None` when there is nothing more.
    pub fn poll_output(&mut self) -> Option<Output> {
        let outdated = self.views.outdated().map(|ino| Output::DropAttr { ino });
        outdated.or_else(|| self.out.pop_front())
    }

    /// When it wants a `Tick` at the latest, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next()
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Session => self.drive_session(),
            Wake::Leases => self.drive_leases(),
            Wake::Question(id) => self.wake_question(id),
            Wake::Task(id) => self.wake_task(id),
            Wake::File(ino) => self.pump(ino),
        }
        self.dispatch_ready();
    }

    /// An answer goes to whoever asked.
    fn deliver(&mut self, owner: Owner, answer: Answer, route: Option<Route>) {
        match owner {
            Owner::Task(id) => self.task_answer(id, answer, route),
            Owner::Acquire(ino) => self.acquired(ino, answer, route),
            Owner::Map(ino) => self.mapped(ino, answer),
            Owner::Job(ino) => self.job_answer(ino, answer),
            Owner::Read(id, part) => self.read_answer(id, part, answer, route),
            Owner::Nobody => {}
        }
    }
}
