//! The master's controller at work: heartbeats in, proposals and directives out.
//!
//! Owns what one leadership of group 0 knows of the nodes (nothing of it replicated: each master rebuilds it from
//! heartbeats) and the spreading of the ends of sessions. Deliberately knows no rule of placement: core's controller
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use polyfs_core::ids::{GroupId, NodeId, SessionId};
use polyfs_core::limits::REGION_REPLICAS_GOAL;
use polyfs_core::master::controller::{Controller, Directive, Input, Liveness, Output};
use polyfs_core::master::entry::Entry;
use polyfs_core::master::state::MasterState;
use polyfs_core::master::status::{ClusterStatus, Vitals};
use polyfs_core::time::Now;
use polyfs_core::vfs::FsStats;

use crate::heartbeat::{Heard, Heartbeat};
use crate::master::Master;
use crate::node::Peers;
use crate::runtime::Runtime;
use crate::wire::{Call, Reply};

/// How often the controller is asked what is to be done.
const STEER_EVERY: Duration = Duration::from_millis(250);
/// How many ended sessions a region is told of at a time.
const ENDS_AT_ONCE: usize = 256;

/// What one leadership knows of the nodes.
pub(crate) struct Steering {
    controller: Controller,
    vitals: BTreeMap<NodeId, Vitals>,
    /// Which regions hold an ended session to be over.
    over_at: BTreeMap<SessionId, BTreeSet<GroupId>>,
}

impl Steering {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            controller: Controller::new(now),
            vitals: BTreeMap::new(),
            over_at: BTreeMap::new(),
        }
    }

    /// Space for file data: that of all nodes heard, divided by the copies each byte has.
    fn stats(&self, now: Now, state: &MasterState) -> Option<FsStats> {
        let alive = |node: &NodeId| self.controller.liveness(now.mono, *node) == Liveness::Alive;
        let heard = self.vitals.iter().filter(|(node, _)| alive(node));
        let (mut total, mut used, mut inodes) = (0, 0, 0);
        for (_, vitals) in heard {
            inodes += vitals.inodes;
            total += vitals.capacity_bytes;
            used += vitals.used_bytes.min(vitals.capacity_bytes);
        }
        let copies = u64::try_from(REGION_REPLICAS_GOAL.min(state.nodes.len())).ok()?;
        (total > 0).then(|| FsStats {
            bytes_total: total / copies.max(1),
            bytes_free: (total - used) / copies.max(1),
            inodes_used: inodes,
        })
    }
}

/// Who is where, as group 0 has it.
fn peers_of(state: &MasterState) -> Peers {
    let addresses = state.addresses();
    let mut replicas = BTreeMap::new();
    for (group, known) in &state.groups {
        let placed = known.replicas.iter();
        replicas.extend(placed.map(|(replica, placed)| ((*group, *replica), placed.node)));
    }
    Peers {
        addresses: addresses.map(|(node, at)| (node, at.to_owned())).collect(),
        replicas,
    }
}

impl<R: Runtime> Master<R> {
    /// A node's heartbeat; `None` when this node does not lead group 0.
    pub(crate) fn hear(&self, heartbeat: Heartbeat) -> Option<Heard> {
        let state = self.state()?;
        let me = self.node.identity().node;
        let node = heartbeat.report.node;
        self.steering(|steering, now| {
            steering.vitals.insert(node, heartbeat.vitals);
            let input = Input::Report(heartbeat.report);
            steering.controller.handle_input(now, &state, input);
        })?;
        let version = state.header.map_version;
        Some(Heard {
            master: Some(me),
            version,
            peers: (version != heartbeat.knows).then(|| peers_of(&state)),
        })
    }

    /// The node that leads a group, by heartbeats.
    pub(crate) fn reported_leader(&self, group: GroupId) -> Option<NodeId> {
        self.steering(|steering, now| {
            let leader = steering.controller.leader(now.mono, group);
            leader.map(|(node, _, _)| node)
        })?
    }

    pub(crate) fn cluster_stats(&self) -> Option<FsStats> {
        let state = self.state()?;
        self.steering(|steering, now| steering.stats(now, &state))?
    }

    pub(crate) fn cluster_status(&self, commits: bool) -> Option<ClusterStatus> {
        let state = self.state()?;
        let me = self.node.identity().node;
        self.steering(|steering, now| {
            let Steering {
                controller, vitals, ..
            } = steering;
            ClusterStatus::new(me, &state, controller, vitals, commits, now.mono)
        })
    }

    /// Does what the controller wants, for as long as the node runs.
    pub(crate) async fn steer(self: Arc<Self>) {
        while !self.node.is_stopped() {
            self.node.runtime().sleep(STEER_EVERY).await;
            let Some(outputs) = self.wishes() else {
                continue;
            };
            let mut directives: BTreeMap<NodeId, Vec<Directive>> = BTreeMap::new();
            let mut entries = Vec::new();
            for output in outputs {
                match output {
                    Output::Propose(entry) => entries.push(entry),
                    Output::Direct(node, directive) => {
                        directives.entry(node).or_default().push(directive);
                    }
                }
            }
            for (node, directives) in directives {
                self.direct(node, directives);
            }
            if !entries.is_empty() {
                self.propose_all(entries);
            }
        }
    }

    fn wishes(&self) -> Option<Vec<Output>> {
        let state = self.state()?;
        self.steering(|steering, now| {
            steering.controller.handle_input(now, &state, Input::Tick);
            std::iter::from_fn(|| steering.controller.poll_output()).collect()
        })
    }

    /// What is lost on the way comes again.
    fn direct(self: &Arc<Self>, node: NodeId, directives: Vec<Directive>) {
        tracing::debug!(%node, ?directives, "directing");
        if node == self.node.identity().node {
            return self.node.obey(directives);
        }
        let master = Arc::clone(self);
        self.node.runtime().spawn(async move {
            master.node.ask_node(node, Call::Direct(directives)).await;
        });
    }

    /// One after the other, and no more before these are through: without a majority they wait for one.
    fn propose_all(self: &Arc<Self>, entries: Vec<Entry>) {
        if !self.begin_proposing() {
            return;
        }
        let master = Arc::clone(self);
        self.node.runtime().spawn(async move {
            for entry in entries {
                tracing::debug!(?entry, "proposing");
                master.propose(entry).await;
            }
            master.end_proposing();
        });
    }

    /// Tells every region of the sessions that are over until it holds that they are, then lets group 0 forget them.
    pub(crate) async fn spread_ends(self: &Arc<Self>) {
        let Some(state) = self.state() else { return };
        let ended = state.sessions.iter().filter(|(_, session)| session.ended);
        let ended: Vec<SessionId> = ended.map(|(id, _)| *id).collect();
        if ended.is_empty() {
            return;
        }
        let regions = state
            .groups
            .iter()
            .filter(|(_, group)| group.region.is_some());
        let regions: Vec<GroupId> = regions.map(|(id, _)| *id).collect();
        let told = regions.iter().map(|group| self.tell_region(*group, &ended));
        futures::future::join_all(told).await;
        let done = self.steering(|steering, _| {
            let everywhere = |session: &&SessionId| {
                let over_at = steering.over_at.get(session);
                over_at.is_some_and(|at| regions.iter().all(|group| at.contains(group)))
            };
            let done: Vec<SessionId> = ended.iter().filter(everywhere).copied().collect();
            for session in &done {
                steering.over_at.remove(session);
            }
            done
        });
        for session in done.unwrap_or_default() {
            self.propose(Entry::ForgetSession { session }).await;
        }
    }

    async fn tell_region(&self, group: GroupId, ended: &[SessionId]) {
        let told_already = |steering: &mut Steering, _| {
            let is_over = |session: &&SessionId| {
                let at = steering.over_at.get(session);
                at.is_some_and(|at| at.contains(&group))
            };
            let left = ended.iter().filter(|session| !is_over(session));
            // Those that another region has yet to hear of don't keep this one from hearing of later ones.
            left.copied().take(ENDS_AT_ONCE).collect::<Vec<_>>()
        };
        let Some(sessions) = self.steering(told_already).filter(|left| !left.is_empty()) else {
            return;
        };
        let Some(node) = self
            .reported_leader(group)
            .or_else(|| self.node.leader_of(group))
        else {
            return;
        };
        let over = if node == self.node.identity().node {
            self.node.end_sessions(group, &sessions)
        } else {
            let call = Call::EndSessions { group, sessions };
            match self.node.ask_node(node, call).await {
                Some(Reply::SessionsOver(over)) => over,
                _ => return,
            }
        };
        self.steering(|steering, _| {
            for session in over {
                steering.over_at.entry(session).or_default().insert(group);
            }
        });
    }
}
