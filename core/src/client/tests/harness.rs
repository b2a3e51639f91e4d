//! Clients and a cluster with a network between them that may lose, delay and repeat, all from one seed.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::cluster::{Cluster, Sent};
use crate::client::port::{CallId, Input, MessageId, Output};
use crate::client::rng::Rng;
use crate::client::{Client, ClientConfig};
use crate::ids::{NodeId, SessionId};
use crate::limits::LEASE_TERM;
use crate::request::Request;
use crate::time::{Instant, Now, Timestamp};
use crate::vfs::{Call, Outcome};

enum Event {
    Arrive(usize, MessageId, NodeId, Request, Bytes),
    Input(usize, Input),
    Tick,
}

pub(super) struct Net {
    pub clients: Vec<Client>,
    pub cluster: Cluster,
    pub loss_percent: u64,
    pub cut_off: bool,
    /// No request reaches any node; the master is heard.
    pub silent: bool,
    /// The master answers nothing.
    pub master_silent: bool,
    /// Nothing reaches this node.
    pub dead: Option<NodeId>,
    pub outcomes: BTreeMap<(usize, CallId), Outcome>,
    pub gone: Vec<usize>,
    pub now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    asked: BTreeMap<u64, (usize, MessageId)>,
    order: u64,
    rng: Rng,
    calls: u64,
}

impl Net {
    pub(super) fn new(clients: usize, seed: u64) -> Self {
        let mut net = Self {
            clients: Vec::new(),
            cluster: Cluster::new(),
            loss_percent: 0,
            cut_off: false,
            silent: false,
            master_silent: false,
            dead: None,
            outcomes: BTreeMap::new(),
            gone: Vec::new(),
            now: Instant(1_000_000_000),
            events: BTreeMap::new(),
            asked: BTreeMap::new(),
            order: 0,
            rng: Rng::new(seed),
            calls: 0,
        };
        for index in 0..clients {
            let config = ClientConfig {
                volume: String::from("v"),
                read_only: false,
                write_back_bytes_max: 3 << 20,
            };
            net.clients
                .push(Client::new(config, seed * 10 + index as u64, net.both()));
        }
        for index in 0..clients {
            net.drain(index);
        }
        net
    }

    pub(super) fn both(&self) -> Now {
        // Ahead of the clock that the cluster stamps with.
        let seconds = 2_000_000 + i64::try_from(self.now.0 / 1_000_000_000).unwrap();
        Now {
            mono: self.now,
            wall: Timestamp {
                seconds,
                nanos: u32::try_from(self.now.0 % 1_000_000_000).unwrap(),
            },
        }
    }

    /// Requests on their way to nodes.
    pub(super) fn arriving(&self) -> usize {
        let arrives = |event: &&Event| matches!(event, Event::Arrive(..));
        self.events.values().filter(arrives).count()
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.events.insert((self.now + delay, self.order), event);
    }

    fn delay(&mut self) -> Duration {
        let slow = self.loss_percent > 0 && self.rng.below(20) == 0;
        Duration::from_millis(if slow {
            self.rng.below(900)
        } else {
            1 + self.rng.below(3)
        })
    }

    fn lost(&mut self) -> bool {
        self.cut_off || self.rng.below(100) < self.loss_percent
    }

    pub(super) fn input(&mut self, client: usize, input: Input) {
        let now = self.both();
        self.clients[client].handle_input(now, input);
        self.drain(client);
    }

    fn drain(&mut self, client: usize) {
        while let Some(output) = self.clients[client].poll_output() {
            let delay = self.delay();
            match output {
                Output::Reply { id, outcome } => {
                    assert!(
                        self.outcomes.insert((client, id), outcome).is_none(),
                        "one outcome"
                    );
                }
                Output::Send {
                    message,
                    node,
                    request,
                    payload,
                } => {
                    if !self.lost() && !self.silent && self.dead != Some(node) {
                        let event = Event::Arrive(client, message, node, request, payload);
                        self.at(delay, event);
                    }
                }
                Output::SendMaster { message, request } => {
                    let input = if self.master_silent {
                        Input::MasterSilent { message }
                    } else {
                        let reply = self.cluster.master(request);
                        Input::MasterAnswer { message, reply }
                    };
                    self.at(delay, Event::Input(client, input));
                }
                Output::RenewLeases { message, node, .. } => {
                    if !self.cut_off {
                        let by = self.cluster.renewed();
                        self.at(
                            delay,
                            Event::Input(client, Input::LeasesRenewed { message, node, by }),
                        );
                    }
                }
                Output::Invalidate { ino } => {
                    self.at(delay, Event::Input(client, Input::Invalidated { ino }));
                }
                Output::Mounted { .. } | Output::Lost { .. } | Output::DropAttr { .. } => {}
                Output::Refused { .. } => panic!("refused"),
                Output::Gone => self.gone.push(client),
            }
        }
    }

    fn carry(
        &mut self,
        client: usize,
        message: MessageId,
        node: NodeId,
        request: &Request,
        payload: &Bytes,
    ) {
        self.order += 1;
        let reply_to = self.order;
        self.asked.insert(reply_to, (client, message));
        let read = self.cluster.request(node, reply_to, request, payload);
        for sent in core::mem::take(&mut self.cluster.sent) {
            let delay = self.delay();
            match sent {
                Sent::Answer(to, answer) => {
                    let (client, message) = self.asked[&to];
                    let payload = read.clone().unwrap_or_default();
                    let input = Input::Answer {
                        message,
                        answer,
                        payload,
                    };
                    if self.lost() {
                        continue;
                    }
                    self.at(delay, Event::Input(client, input));
                }
                Sent::Recall(session, recall) => {
                    let SessionId(number) = session;
                    let client = usize::try_from(number - 1).unwrap();
                    self.at(delay, Event::Input(client, Input::Recall { node, recall }));
                }
            }
        }
    }

    /// Runs until `done` or until that long has passed; whether it is done.
    pub(super) fn run_until(&mut self, longest: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + longest;
        while !done(self) {
            let mut next = self.events.first_key_value().map(|((at, _), _)| *at);
            for client in &self.clients {
                let wake = client.poll_timeout().map(|(at, _)| at);
                next = next.into_iter().chain(wake).min();
            }
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(next);
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let event = if event.is_some_and(|at| at <= self.now) {
                self.events.pop_first().expect("looked at").1
            } else {
                Event::Tick
            };
            match event {
                Event::Arrive(client, message, node, request, payload) => {
                    self.carry(client, message, node, &request, &payload);
                    if self.loss_percent > 0 && self.rng.below(10) == 0 {
                        self.carry(client, message, node, &request, &payload);
                    }
                }
                Event::Input(client, input) => self.input(client, input),
                Event::Tick => {
                    for client in 0..self.clients.len() {
                        self.input(client, Input::Tick);
                    }
                }
            }
        }
        true
    }

    pub(super) fn start(&mut self, client: usize, call: Call) -> CallId {
        self.calls += 1;
        let id = CallId(self.calls);
        self.input(client, Input::Call { id, call });
        id
    }

    pub(super) fn call(&mut self, client: usize, call: Call) -> Outcome {
        let shown = alloc::format!("{call:?}");
        let id = self.start(client, call);
        let over = self.run_until(Duration::from_secs(60), |net| {
            net.outcomes.contains_key(&(client, id))
        });
        assert!(over, "no outcome of {}", &shown[..shown.len().min(200)]);
        self.outcomes[&(client, id)].clone()
    }

    /// Nobody is heard for longer than a lease lasts; what others do meanwhile.
    pub(super) fn lose_leases(&mut self, meanwhile: impl FnOnce(&mut Cluster)) {
        self.cut_off = true;
        self.pass(LEASE_TERM * 2);
        self.cluster.drop_leases();
        meanwhile(&mut self.cluster);
        self.cut_off = false;
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }
}
