//! The drivers of the regions' leaders.
//!
//! Owns what happens between a leader machine and the toy consensus: proposals, read indexes, its answers, its questions
//! to other regions, its timer.

use std::time::Duration;

use bytes::Bytes;
use polyfs_core::ids::{GroupId, NodeId, Renewal, SessionId};
use polyfs_core::limits::CLIENT_RETRY;
use polyfs_core::place::{Place, Places};
use polyfs_core::region;
use polyfs_core::region::leader::port::{Asker, Input, Output, Token};
use polyfs_core::region::leader::{Config, Leader};
use polyfs_core::request::{
    Answer, Aside, Assertion, DataOp, Header, Recall, RecallKind, Refusal, Request, RequestBody,
    Space,
};
use polyfs_core::time::Timestamp;
use polyfs_core::txn::TxnReply;
use rand::{Rng as _, RngExt as _};

use super::consensus::{Proposal, Term};
use super::events::{Event, Origin, Timer};
use super::router::{From, TRIES, Wants};
use super::world::World;
use crate::history::ClientId;

impl World {
    pub(super) fn request_arrives(
        &mut self,
        node: NodeId,
        origin: Origin,
        request: Request,
        payload: Bytes,
    ) {
        if !self.reachable(node) {
            return;
        }
        let group = request.header.group;
        if !self.leads(group, node) {
            let leader = self.groups.get(&group).and_then(|group| group.leader);
            let leader = leader
                .filter(|leader| *leader != node)
                .map(|leader| (leader, self.groups[&group].replicas[&leader].id));
            let refusal = Refusal::NotLeader { leader };
            return self.send_answer(node, origin, Answer::Refused(refusal), Bytes::new());
        }
        let asker = self.askers.entry((group, node)).or_default().add(origin);
        let replica = &self.groups[&group].replicas[&node];
        let leads = replica.term == self.groups[&group].term;
        let is_stale = leads && request.header.epoch != replica.epoch();
        self.give(
            group,
            node,
            Input::Request {
                asker,
                request,
                payload,
            },
        );
        if is_stale {
            self.mark("request of another epoch");
            assert!(
                self.take_asker(group, node, asker).is_none(),
                "a request that names another epoch was not answered at once (P5)"
            );
        }
    }

    pub(super) fn lease_frame_arrives(
        &mut self,
        node: NodeId,
        client: ClientId,
        message: polyfs_core::client::port::MessageId,
        session: SessionId,
        renewal: Renewal,
        assertions: Vec<Assertion>,
    ) {
        if !self.reachable(node) {
            return;
        }
        let led: Vec<GroupId> = self
            .groups
            .keys()
            .copied()
            .filter(|group| self.leads(*group, node))
            .collect();
        let frame = self
            .clients
            .get_mut(&client)
            .expect("a known client")
            .frame(message, node, led.len());
        if frame {
            let delay = self.delay();
            self.schedule.after(
                delay,
                Event::LeasesRenewed {
                    client,
                    message,
                    node,
                    by: Vec::new(),
                },
            );
        }
        for group in led {
            let to_it = |assertion: &&Assertion| assertion.to.group == group;
            let assertion = assertions.iter().find(to_it).cloned();
            let origin = Origin::Lease(client, message);
            let asker = self.askers.entry((group, node)).or_default().add(origin);
            self.give(
                group,
                node,
                Input::Renew {
                    asker,
                    session,
                    renewal,
                    assertion,
                },
            );
        }
    }

    pub(super) fn leads(&self, group: GroupId, node: NodeId) -> bool {
        let replica = self
            .groups
            .get(&group)
            .and_then(|group| group.replicas.get(&node));
        replica.is_some_and(|replica| replica.leader.is_some())
    }

    /// Gives a leader one input and carries out what it wants.
    pub(super) fn give(&mut self, group: GroupId, node: NodeId, input: Input) {
        let now = self.now();
        let replica = self
            .groups
            .get_mut(&group)
            .and_then(|group| group.replicas.get_mut(&node))
            .expect("a known replica");
        let Some(leader) = &mut replica.leader else {
            return;
        };
        leader
            .handle_input(now, &replica.state, input.clone())
            .expect("memory does not fail");
        self.drain(group, node, Some(&input));
    }

    fn drain(&mut self, group: GroupId, node: NodeId, after: Option<&Input>) {
        loop {
            let replica = self.groups.get_mut(&group).expect("a known group");
            let replica = replica.replicas.get_mut(&node).expect("a known replica");
            let term = replica.term;
            let Some(leader) = &mut replica.leader else {
                return;
            };
            let Some(output) = leader.poll_output() else {
                if let Some((at, _)) = leader.poll_timeout() {
                    self.schedule.arm(Timer::Leader(group, node), at.0);
                }
                return;
            };
            if let (Some(input), Output::Propose { command, .. }) = (after, &output)
                && let Some(mark) = super::marks::of_released(input, &command.body)
            {
                self.mark(mark);
            }
            self.carry_out(
                From {
                    group,
                    node,
                    term,
                    token: Token(0),
                },
                output,
            );
        }
    }

    fn carry_out(&mut self, from: From, output: Output) {
        let From {
            group, node, term, ..
        } = from;
        match output {
            Output::Propose {
                token,
                command,
                payload,
            } => {
                let proposal = Proposal { command, payload };
                let delay = self.delay();
                self.schedule.after(
                    delay,
                    Event::Proposed {
                        group,
                        node,
                        term,
                        token,
                        proposal,
                    },
                );
            }
            Output::ReadIndex { token } => {
                let delay = self.delay();
                self.schedule.after(
                    delay,
                    Event::ReadIndex {
                        group,
                        node,
                        term,
                        token,
                    },
                );
            }
            Output::Answer {
                asker,
                answer,
                payload,
            } => {
                if let Some(origin) = self.take_asker(group, node, asker) {
                    self.send_answer(node, origin, answer, payload);
                }
            }
            Output::Renewed { asker, renewed } => {
                if let Some(Origin::Lease(client, message)) = self.take_asker(group, node, asker) {
                    self.lease_part(client, message, node, renewed);
                }
            }
            Output::AskTxn {
                token,
                places,
                request,
            } => {
                let open = vec![(places, RequestBody::Txn(request))];
                self.ask(From { token, ..from }, Wants::Txn, Space::Meta, open);
            }
            Output::AskQuery {
                token,
                place,
                query,
            } => {
                let open = vec![(only(place), RequestBody::MetaQuery(query))];
                self.ask(From { token, ..from }, Wants::Query, Space::Meta, open);
            }
            Output::DeleteChunks { token, chunks } => {
                let delete = |chunk| {
                    let op = DataOp::Delete {
                        chunks: vec![chunk],
                    };
                    (only(chunk.place()), RequestBody::DataOp(op))
                };
                let open = chunks.into_iter().map(delete).collect();
                self.ask(From { token, ..from }, Wants::Deleted, Space::Data, open);
            }
            Output::AskOpen { session, inos } => {
                if let Some(client) = self.master.client_of(session)
                    && !self.is_lost()
                {
                    let delay = self.delay();
                    self.schedule.after(delay, Event::AskOpen { client, inos });
                }
            }
            Output::Recall { session, recall } => self.send_recall(node, session, recall),
        }
    }

    /// Recalls may be lost with their connection, and the session goes on over another. Those of views are repeated with the
    /// next confirmation, others when somebody who waits asks again.
    fn send_recall(&mut self, node: NodeId, session: SessionId, recall: Recall) {
        let lost = self.is_lost();
        if lost {
            self.mark(match recall.want {
                RecallKind::Locks => "recall of locks lost",
                RecallKind::View => "recall of a view lost",
                RecallKind::Flush => "recall of a flush lost",
                RecallKind::Share | RecallKind::Release => "recall of a lease lost",
            });
        }
        if let Some(client) = self.master.client_of(session)
            && !lost
        {
            let delay = self.delay();
            let event = Event::Recall {
                client,
                node,
                recall,
            };
            self.schedule.after(delay, event);
        }
    }

    fn take_asker(&mut self, group: GroupId, node: NodeId, asker: Asker) -> Option<Origin> {
        self.askers
            .get_mut(&(group, node))
            .and_then(|askers| askers.take(asker))
    }

    pub(super) fn send_answer(
        &mut self,
        node: NodeId,
        origin: Origin,
        answer: Answer,
        payload: Bytes,
    ) {
        if self.reachable(node) && !self.is_lost() {
            let delay = self.delay();
            self.schedule.after(
                delay,
                Event::Answer {
                    origin,
                    answer,
                    payload,
                },
            );
        }
    }

    pub(super) fn proposed(
        &mut self,
        group: GroupId,
        node: NodeId,
        term: Term,
        token: Token,
        proposal: Proposal,
    ) {
        let lost = !self.reachable(node) || self.is_lost();
        let committed = !lost
            && self
                .groups
                .get_mut(&group)
                .expect("a known group")
                .propose(term, token, proposal);
        if committed {
            let nodes: Vec<NodeId> = self.groups[&group].replicas.keys().copied().collect();
            for node in nodes {
                let delay = self.delay();
                self.schedule.after(delay, Event::Apply { group, node });
            }
        } else if self.groups[&group].replicas[&node].term == term {
            self.give(group, node, Input::Unknown { token });
        }
    }

    pub(super) fn read_index(&mut self, group: GroupId, node: NodeId, term: Term, token: Token) {
        let confirmed = self.reachable(node) && self.groups[&group].term == term;
        let committed = self.groups[&group].committed();
        let replica = self.groups.get_mut(&group).expect("a known group");
        let replica = replica.replicas.get_mut(&node).expect("a known replica");
        if replica.term != term {
            return;
        }
        if confirmed {
            replica.reads.push((committed, token));
            self.serve_reads(group, node);
        } else {
            self.give(group, node, Input::ReadFailed { token });
        }
    }

    fn serve_reads(&mut self, group: GroupId, node: NodeId) {
        loop {
            let replica = self.groups.get_mut(&group).expect("a known group");
            let replica = replica.replicas.get_mut(&node).expect("a known replica");
            let applied = replica.applied;
            let Some(ready) = replica
                .reads
                .iter()
                .position(|(index, _)| *index <= applied)
            else {
                return;
            };
            let (_, token) = replica.reads.remove(ready);
            self.give(group, node, Input::ReadReady { token });
        }
    }

    pub(super) fn apply(&mut self, group: GroupId, node: NodeId) {
        if self.down.contains(&node) {
            return;
        }
        // Sometimes a replica lags.
        let entries = if self.random.random_ratio(1, 8) {
            1
        } else {
            usize::MAX
        };
        let yielded = self
            .groups
            .get_mut(&group)
            .expect("a known group")
            .apply(node, entries);
        for entry in yielded {
            let input = Input::Applied {
                token: entry.token,
                applied: entry.applied,
            };
            self.give(group, node, input);
        }
        self.begin_leading(group, node);
        self.serve_reads(group, node);
        let behind = self.groups[&group].replicas[&node].applied < self.groups[&group].committed();
        if behind {
            let delay = self.delay();
            self.schedule.after(delay, Event::Apply { group, node });
        }
    }

    fn begin_leading(&mut self, group: GroupId, node: NodeId) {
        let (now, seed) = (self.now(), self.random.next_u64());
        let replica = self.groups.get_mut(&group).expect("a known group");
        let replica = replica.replicas.get_mut(&node).expect("a known replica");
        if replica.leads_from.is_none_or(|from| replica.applied < from) {
            return;
        }
        replica.leads_from = None;
        let config = Config {
            group,
            term: replica.term,
            requests_max: 1000,
        };
        let leader = Leader::new(config, seed, now, &replica.state);
        replica.leader = Some(leader.expect("memory does not fail"));
        self.drain(group, node, None);
    }

    /// A replica hears of the newest term: one that led in an older one leads no more.
    pub(super) fn learn_term(&mut self, group: GroupId, node: NodeId) {
        if !self.reachable(node) {
            return;
        }
        let term = self.groups[&group].term;
        let replica = self.groups.get_mut(&group).expect("a known group");
        let replica = replica.replicas.get_mut(&node).expect("a known replica");
        if replica.term < term {
            replica.term = term;
            replica.leader = None;
            replica.reads.clear();
            self.askers.remove(&(group, node));
        }
    }

    pub(super) fn leader_tick(&mut self, group: GroupId, node: NodeId) {
        self.schedule.fired(Timer::Leader(group, node));
        self.give(group, node, Input::Tick);
    }

    /// Tells the meta regions of sessions that are over, until each has said so in an entry of its own.
    pub(super) fn end_sessions(&mut self) {
        for session in self.master.ending.clone() {
            let mut open = false;
            for line in self.lines.clone() {
                let group = &self.groups[&line.group];
                let knows = |replica: &super::consensus::Replica| {
                    region::session::is_over(&replica.state, session).expect("memory does not fail")
                };
                if line.space == Space::Data || group.replicas.values().any(knows) {
                    continue;
                }
                open = true;
                let delegated = |replica: &super::consensus::Replica| {
                    let inos = region::delegated_to(&replica.state, session);
                    !inos.expect("memory does not fail").is_empty()
                };
                let delegated = group.replicas.values().any(delegated);
                if let Some(node) = group.leader.filter(|node| self.reachable(*node)) {
                    if delegated {
                        self.mark("session ended with locks delegated");
                    }
                    self.give(line.group, node, Input::SessionOver { session });
                }
            }
            if !open {
                self.master.ending.remove(&session);
                self.mark("session ended");
            }
        }
    }

    fn ask(&mut self, from: From, wants: Wants, space: Space, open: Vec<(Places, RequestBody)>) {
        let cut = self.cut(space, open);
        let question = self.router.ask(from, wants, space, cut);
        self.router_send(question);
    }

    /// Cuts the parts of a question along the regions that hold their places.
    fn cut(&self, space: Space, open: Vec<(Places, RequestBody)>) -> Vec<(Places, RequestBody)> {
        let regions: Vec<Places> = self
            .lines
            .iter()
            .filter(|line| line.space == space)
            .map(|line| line.places)
            .collect();
        let parts = |(places, body): (Places, RequestBody)| {
            let here = regions
                .iter()
                .filter_map(move |region| region.overlap(places));
            here.map(move |part| (part, body.clone()))
                .collect::<Vec<_>>()
        };
        open.into_iter().flat_map(parts).collect()
    }

    fn router_send(&mut self, id: u64) {
        let Some(question) = self.router.questions.get_mut(&id) else {
            return;
        };
        question.tries += 1;
        let (asker, space) = (question.from.node, question.space);
        let Some((places, body)) = question.open.first().cloned() else {
            return self.router_done(id);
        };
        if question.tries > TRIES + 64 {
            return self.router_give_up(id);
        }
        let line = self
            .lines
            .iter()
            .find(|line| line.space == space && line.places.contains(Place(places.start)));
        let line = line.expect("regions tile the space");
        let (group, epoch) = (line.group, line.epoch);
        let leader = self.groups[&group].leader;
        let reachable = self.reachable(asker);
        let header = Header {
            group,
            epoch,
            session: SessionId::CLUSTER,
            renewal: Renewal(0),
            slot: None,
            seen: Timestamp::default(),
            aside: Aside::default(),
        };
        if let Some(node) = leader.filter(|node| reachable && self.reachable(*node))
            && !self.is_lost()
        {
            let request = Request { header, body };
            let (origin, payload) = (Origin::Router(id), Bytes::new());
            let delay = self.delay();
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
        self.schedule
            .after(CLIENT_RETRY, Event::RouterRetry { question: id });
    }

    pub(super) fn router_retry(&mut self, id: u64) {
        let stale = self
            .router
            .questions
            .get(&id)
            .is_some_and(|question| question.tries >= TRIES);
        if stale {
            self.router_give_up(id)
        } else {
            self.router_send(id)
        }
    }

    pub(super) fn router_answered(&mut self, id: u64, answer: Answer) {
        let Some(question) = self.router.questions.get_mut(&id) else {
            return;
        };
        if matches!(answer, Answer::Refused(_)) {
            // Asked again by the retry that is planned.
            return;
        }
        question.answers.push(answer);
        question.open.remove(0);
        question.tries = 0;
        self.router_send(id);
    }

    fn router_give_up(&mut self, id: u64) {
        if let Some(question) = self.router.questions.get_mut(&id) {
            question.answers.clear();
            self.router_done(id);
        }
    }

    fn router_done(&mut self, id: u64) {
        let Some(question) = self.router.questions.remove(&id) else {
            return;
        };
        let From {
            group,
            node,
            term,
            token,
        } = question.from;
        let delay = Duration::from_micros(1);
        let event = match question.wants {
            Wants::Query => {
                let answer = question.answers.first().cloned();
                Event::QueryAnswer {
                    group,
                    node,
                    term,
                    token,
                    answer,
                }
            }
            Wants::Txn | Wants::Deleted => {
                let answer = question.txn_answer();
                Event::TxnAnswer {
                    group,
                    node,
                    term,
                    token,
                    answer,
                }
            }
        };
        self.schedule.after(delay, event);
    }

    pub(super) fn txn_answered(
        &mut self,
        group: GroupId,
        node: NodeId,
        term: Term,
        token: Token,
        answer: Option<TxnReply>,
    ) {
        if self.groups[&group].replicas[&node].term == term {
            self.give(group, node, Input::TxnAnswer { token, answer });
        }
    }

    pub(super) fn query_answered(
        &mut self,
        group: GroupId,
        node: NodeId,
        term: Term,
        token: Token,
        answer: Option<Answer>,
    ) {
        if self.groups[&group].replicas[&node].term == term {
            self.give(group, node, Input::QueryAnswer { token, answer });
        }
    }
}

fn only(place: Place) -> Places {
    Places {
        start: place.0,
        end: place.0 + 1,
    }
}
