//! The drivers of the client machines, and the programs that use their mounts.
//!
//! Owns what happens between a client machine and the toy network, and each mount's threads: one call after the other,
//! drawn by the generator, noted in the history.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use polyfs_core::attr::Attr;
use polyfs_core::client::port::{CallId, Input, MasterRequest, MessageId, Output, RegionLine};
use polyfs_core::client::{Client, ClientConfig};
use polyfs_core::ids::NodeId;
use polyfs_core::limits::CALL_DEADLINE;
use polyfs_core::place::Ino;
use polyfs_core::request::{Answer, Renewed};
use polyfs_core::time::Now;
use polyfs_core::vfs::{Call, Outcome, Reply};
use rand::{Rng as _, RngExt as _};

use super::events::{Event, Origin, Timer};
use super::world::World;
use crate::generate::Workload;
use crate::history::ClientId;

/// Nobody was asked.
const AT_ONCE: Duration = Duration::from_nanos(1);

/// A call under way.
struct UnderWay {
    /// Which event of the history.
    event: usize,
    thread: u32,
    call: Call,
    /// Since when, in simulated nanoseconds.
    since: u64,
}

/// One mount.
pub(super) struct Mount {
    client: Client,
    /// There once the mount is up.
    workload: Option<Workload>,
    next_call: u64,
    calls: BTreeMap<CallId, UnderWay>,
    /// Lease frames under way: parts not yet answered, and who has confirmed.
    frames: BTreeMap<MessageId, (NodeId, usize, Vec<Renewed>)>,
    /// It has lost uncommitted changes: some of its calls may end in EIO at once.
    lost: bool,
    /// What its kernel keeps, and until when.
    kept: BTreeMap<Ino, (Attr, u64)>,
}

impl Mount {
    /// The calls under way, as text.
    pub(super) fn open_calls(&self) -> impl Iterator<Item = String> {
        self.calls
            .iter()
            .map(|(id, open)| format!("{id:?} {:?} since {}", open.call, open.since))
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.calls.is_empty()
    }

    /// What its kernel answers without asking.
    fn keeps(&self, call: &Call, now: u64) -> Option<Attr> {
        let Call::GetAttr { ino } = call else {
            return None;
        };
        let (attr, until) = self.kept.get(ino)?;
        (now < *until).then(|| attr.clone())
    }

    /// Its kernel is told attributes, and keeps them as long as it may.
    fn told(&mut self, call: &Call, outcome: &Outcome, now: Now) {
        if let Call::GetAttr { .. } | Call::Lookup { .. } = call
            && let Ok(Reply::Attr(attr)) = outcome
        {
            let keep = self.client.keep_attr(now, attr);
            if !keep.is_zero() {
                let until = (now.mono + keep).0;
                self.kept.insert(attr.ino, (attr.clone(), until));
            }
        }
    }

    /// Its machine is gone: its calls are under way no more.
    pub(super) fn die(&mut self) {
        self.calls.clear();
    }

    /// A lease frame reached a node that leads so many groups; true when that leaves nothing to confirm.
    pub(super) fn frame(&mut self, message: MessageId, node: NodeId, groups: usize) -> bool {
        self.frames.insert(message, (node, groups, Vec::new()));
        groups == 0
    }
}

impl World {
    pub(super) fn mount(&mut self, id: ClientId) {
        let seed = self.random.next_u64();
        let config = ClientConfig {
            volume: "default".into(),
            read_only: false,
            write_back_bytes_max: 1 << 20,
        };
        let mut client = Client::new(config, seed, self.now());
        client.delegate_locks_from(self.config.delegate_locks_from);
        let mount = Mount {
            client,
            workload: None,
            next_call: 0,
            calls: BTreeMap::new(),
            frames: BTreeMap::new(),
            lost: false,
            kept: BTreeMap::new(),
        };
        self.clients.insert(id, mount);
        self.drain_client(id);
    }

    pub(super) fn happen_to_client(&mut self, event: Event) {
        match event {
            Event::Undelivered { client, message } => {
                self.give_client(client, Input::Undelivered { message });
            }
            Event::LeasesRenewed {
                client,
                message,
                node,
                by,
            } => {
                self.give_client(client, Input::LeasesRenewed { message, node, by });
            }
            Event::Recall {
                client,
                node,
                recall,
            } => {
                self.give_client(client, Input::Recall { node, recall });
            }
            Event::AskOpen { client, inos } => self.give_client(client, Input::AskOpen { inos }),
            Event::Invalidated { client, ino } => {
                self.give_client(client, Input::Invalidated { ino });
            }
            Event::Master {
                client,
                message,
                request,
            } => {
                let (now, lines) = (self.schedule.now(), self.lines_now());
                let reply = Some(self.master.answer(now, client, &request, || lines));
                let delay = self.delay();
                self.schedule.after(
                    delay,
                    Event::MasterAnswer {
                        client,
                        message,
                        reply,
                    },
                );
            }
            Event::MasterAnswer {
                client,
                message,
                reply,
            } => {
                let input = match reply {
                    Some(reply) => Input::MasterAnswer { message, reply },
                    None => Input::MasterSilent { message },
                };
                self.give_client(client, input);
            }
            Event::ClientTick { client } => {
                self.schedule.fired(Timer::Client(client));
                self.give_client(client, Input::Tick);
            }
            Event::NextCall { client, thread } => self.next_call(client, thread),
            Event::Ended {
                client,
                id,
                outcome,
            } => self.ended(client, id, outcome),
            event => panic!("{event:?} does not happen to a client"),
        }
    }

    fn lines_now(&self) -> Vec<RegionLine> {
        let mut lines = self.lines.clone();
        for line in &mut lines {
            line.leader = self.groups[&line.group].leader;
        }
        lines
    }

    pub(super) fn answered(&mut self, origin: Origin, answer: Answer, payload: Bytes) {
        match origin {
            Origin::Client(client, message) => {
                self.give_client(
                    client,
                    Input::Answer {
                        message,
                        answer,
                        payload,
                    },
                );
            }
            Origin::Router(question) => self.router_answered(question, answer),
            Origin::Lease(..) => panic!("a lease frame is not answered as a request"),
        }
    }

    pub(super) fn lease_part(
        &mut self,
        client: ClientId,
        message: MessageId,
        node: NodeId,
        by: Option<Renewed>,
    ) {
        let mount = self.clients.get_mut(&client).expect("a known client");
        let Some((_, parts, confirmed)) = mount.frames.get_mut(&message) else {
            return;
        };
        *parts -= 1;
        confirmed.extend(by);
        if *parts > 0 {
            return;
        }
        let by = std::mem::take(confirmed);
        mount.frames.remove(&message);
        if self.reachable(node) && !self.is_lost() {
            let delay = self.delay();
            self.schedule.after(
                delay,
                Event::LeasesRenewed {
                    client,
                    message,
                    node,
                    by,
                },
            );
        }
    }

    fn give_client(&mut self, id: ClientId, input: Input) {
        let now = self.now();
        self.clients
            .get_mut(&id)
            .expect("a known client")
            .client
            .handle_input(now, input);
        self.drain_client(id);
    }

    fn drain_client(&mut self, id: ClientId) {
        loop {
            let mount = self.clients.get_mut(&id).expect("a known client");
            let Some(output) = mount.client.poll_output() else {
                if let Some((at, _)) = mount.client.poll_timeout() {
                    self.schedule.arm(Timer::Client(id), at.0);
                }
                return;
            };
            self.carry_out_for(id, output);
        }
    }

    fn carry_out_for(&mut self, client: ClientId, output: Output) {
        let delay = self.delay();
        match output {
            Output::Reply { id, outcome } => {
                self.schedule.after(
                    AT_ONCE,
                    Event::Ended {
                        client,
                        id,
                        outcome,
                    },
                );
            }
            Output::Send {
                message,
                node,
                request,
                payload,
            } => {
                if self.is_lost() {
                    if self.random.random_ratio(1, 2) {
                        self.schedule
                            .after(delay, Event::Undelivered { client, message });
                    }
                    return;
                }
                let origin = Origin::Client(client, message);
                let delay = self.request_delay();
                self.schedule.after(
                    delay,
                    Event::Request {
                        node,
                        origin,
                        request,
                        payload,
                    },
                );
            }
            Output::SendMaster { message, request } => {
                self.ask_master(client, message, request, delay);
            }
            Output::RenewLeases {
                message,
                node,
                session,
                renewal,
                assertions,
            } => {
                if self.is_lost() {
                    if self.random.random_ratio(1, 2) {
                        self.schedule
                            .after(delay, Event::Undelivered { client, message });
                    }
                } else {
                    let event = Event::LeaseFrame {
                        node,
                        client,
                        message,
                        session,
                        renewal,
                        assertions,
                    };
                    self.schedule.after(delay, event);
                }
            }
            Output::Invalidate { ino } => {
                let mount = self.clients.get_mut(&client).expect("a known client");
                mount.kept.remove(&ino);
                self.schedule
                    .after(delay, Event::Invalidated { client, ino });
            }
            Output::DropAttr { ino } => {
                let mount = self.clients.get_mut(&client).expect("a known client");
                if mount.kept.remove(&ino).is_some() {
                    self.mark("the kernel dropped what it was told to keep");
                }
            }
            Output::Mounted { root } => {
                let workload = Workload::new(root, self.config.file_bytes_max);
                let mount = self.clients.get_mut(&client).expect("a known client");
                mount.workload = Some(workload);
                for thread in 0..self.config.threads {
                    self.schedule
                        .after(delay, Event::NextCall { client, thread });
                }
            }
            Output::Refused { volume } => panic!("there is a volume: {volume:?}"),
            Output::Lost { ino } => {
                let mount = self.clients.get_mut(&client).expect("a known client");
                mount.lost = true;
                self.history.lost(client, ino);
            }
            Output::Gone => {}
        }
    }

    fn ask_master(
        &mut self,
        client: ClientId,
        message: MessageId,
        request: MasterRequest,
        delay: Duration,
    ) {
        let event = if self.is_lost() {
            Event::MasterAnswer {
                client,
                message,
                reply: None,
            }
        } else {
            Event::Master {
                client,
                message,
                request,
            }
        };
        self.schedule.after(delay, event);
    }

    fn next_call(&mut self, client: ClientId, thread: u32) {
        if self.calls_left == 0 {
            return;
        }
        self.calls_left -= 1;
        let mount = self.clients.get_mut(&client).expect("a known client");
        let workload = mount
            .workload
            .as_mut()
            .expect("only mounted clients make calls");
        let call = workload.next(&mut self.random);
        mount.next_call += 1;
        let id = CallId(mount.next_call);
        let event = self.history.invoke(client, call.clone());
        let under_way = UnderWay {
            event,
            thread,
            call: call.clone(),
            since: self.schedule.now(),
        };
        mount.calls.insert(id, under_way);
        if let Some(attr) = mount.keeps(&call, self.schedule.now()) {
            self.mark("answered by the kernel");
            let outcome = Ok(Reply::Attr(attr));
            let ended = Event::Ended {
                client,
                id,
                outcome,
            };
            return self.schedule.after(AT_ONCE, ended);
        }
        self.give_client(client, Input::Call { id, call });
    }

    fn ended(&mut self, client: ClientId, id: CallId, outcome: Outcome) {
        let now = self.now();
        let mount = self.clients.get_mut(&client).expect("a known client");
        let UnderWay {
            event,
            thread,
            call,
            since,
        } = mount
            .calls
            .remove(&id)
            .expect("a call has exactly one outcome");
        let lost = mount.lost;
        if let Some(workload) = &mut mount.workload {
            workload.learn(&call, &outcome);
        }
        let by_kernel = mount.keeps(&call, since).is_some();
        if !by_kernel {
            mount.told(&call, &outcome, now);
        }
        let took = Duration::from_nanos(self.schedule.now() - since);
        if took > self.slowest.0 {
            self.slowest = (took, event);
        }
        if took <= AT_ONCE && matches!(&call, Call::Lookup { .. } | Call::GetAttr { .. }) {
            self.mark("answered from a view");
        }
        let locked = matches!((&call, &outcome), (Call::SetLock { .. }, Ok(_)));
        if took <= AT_ONCE && locked {
            self.mark("locked without asking");
        }
        let synced = matches!((&call, &outcome), (Call::Sync { .. }, Ok(_)));
        // EIO at the deadline says nothing about what happened.
        if outcome != Err(polyfs_core::error::FsError::Io) {
            self.history.end(event, outcome);
        } else if took < CALL_DEADLINE / 2 && !lost {
            self.early_errors.push((took, event));
        }
        if synced && std::mem::take(&mut self.dies_synced) && self.kill_mount(client) {
            self.mark("mount died after fsync");
            return;
        }
        let delay = self.delay();
        self.schedule
            .after(delay, Event::NextCall { client, thread });
    }
}
