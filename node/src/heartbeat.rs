//! Heartbeats: what every node tells the master twice a second, and what it hears back.
//!
//! Owns the frames, the finding of the master by a node that has no replica of group 0, and asking it on behalf of
//! others. A lost heartbeat is not repeated: the next is soon. What all nodes must know of each other comes with the
//! answers, only when it has changed. Deliberately decides nothing about nodes that fall silent: the controller does.

use core::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use openraft::ServerState;
use openraft_rt::AsyncRuntime;
use openraft_rt::watch::WatchReceiver;
use parking_lot::Mutex;
use polyfs_core::client::port::{MasterReply, MasterRequest};
use polyfs_core::ids::{GroupId, NodeId, ReplicaId};
use polyfs_core::limits::REQUEST_DEADLINE;
use polyfs_core::master::controller::{
    Directive, LeaderReport, MemberReport, NodeReport, ReplicaReport,
};
use polyfs_core::master::entry::Role;
use polyfs_core::master::status::Vitals;
use polyfs_core::time::Instant;
use serde::{Deserialize, Serialize};

use crate::group::Group;
use crate::node::{Node, Peers};
use crate::raft::replica::Replica;
use crate::runtime::Runtime;
use crate::wire::{Call, Reply};

/// Between two heartbeats.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);
/// Redirects followed for one question to the master.
const REDIRECTS_MAX: usize = 4;

/// What a node tells the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its replicas.
    pub report: NodeReport,
    /// The rest of it.
    pub vitals: Vitals,
    /// Up to which version of the region map it knows who is where; 0: nothing.
    pub knows: u64,
}

/// What it hears back, from the master or from a node that knows better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The node that leads group 0, as far as the answering one knows; the answering node itself when it took the
    /// heartbeat in.
    pub master: Option<NodeId>,
    /// The version that `peers` brings the asker to.
    pub version: u64,
    /// Who is where, when the asker knows another version.
    pub peers: Option<Peers>,
}

/// A node whose heartbeats were not taken in for this long takes what comes from the master for old news.
const IN_TOUCH: Duration = Duration::from_secs(2);

/// What a node knows of the master and from it.
#[derive(Default)]
pub(crate) struct Known(Mutex<Facts>);

#[derive(Default)]
struct Facts {
    master: Option<NodeId>,
    version: u64,
    /// When the last heartbeat went out that the master took in.
    taken: Option<Instant>,
}

impl Known {
    fn master(&self) -> Option<NodeId> {
        self.0.lock().master
    }

    fn set_master(&self, master: Option<NodeId>) {
        self.0.lock().master = master;
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.lock().version
    }

    fn raise_version(&self, version: u64) {
        let mut known = self.0.lock();
        known.version = known.version.max(version);
    }

    fn note_taken(&self, now: Instant) {
        self.0.lock().taken = Some(now);
    }

    fn in_touch(&self, now: Instant) -> bool {
        let taken = self.0.lock().taken;
        taken.is_some_and(|taken| now.since(taken) <= IN_TOUCH)
    }
}

/// What the leader of a group knows of it; `None` when this replica does not lead.
pub(crate) fn leader_report<R: Runtime>(replica: &Replica<R>) -> Option<LeaderReport> {
    let metrics = replica.raft().metrics();
    let metrics = metrics.borrow_watched();
    if metrics.state != ServerState::Leader || metrics.running_state.is_err() {
        return None;
    }
    let last_log = metrics.last_log_index.unwrap_or(0);
    let membership = metrics.membership_config.membership();
    let configs = membership.get_joint_config();
    // Of a joint change the wish counts: whoever finishes it goes there.
    let voters = configs.last()?;
    let matched = |id: u64| {
        if id == replica.id().0 {
            return last_log;
        }
        let of = metrics.replication.as_ref().and_then(|all| all.get(&id));
        of.and_then(Option::as_ref).map_or(0, |id| id.index())
    };
    let members = membership.nodes().map(|(id, ())| MemberReport {
        replica: ReplicaId(*id),
        role: if voters.contains(id) {
            Role::Voter
        } else {
            Role::Learner
        },
        matched: matched(*id),
    });
    Some(LeaderReport {
        term: metrics.current_term,
        last_log,
        joint: configs.len() > 1,
        members: members.collect(),
    })
}

impl<R: Runtime> Node<R> {
    /// What this node has to tell.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        let groups = self.groups();
        let replicas = groups.iter().map(|group| ReplicaReport {
            group: group.replica().group(),
            replica: group.replica().id(),
            suspect: self.is_suspect(group.replica().group(), group.replica().id()),
            leader: leader_report(group.replica()),
        });
        let led = groups.iter().map(Group::replica);
        let led = led.filter(|replica| replica.raft().is_leader());
        let inodes = led.filter_map(|replica| replica.state().inodes()).sum();
        let (status, room) = (self.status(), self.room());
        Heartbeat {
            report: NodeReport {
                node: self.identity().node,
                replicas: replicas.collect(),
            },
            vitals: Vitals {
                version: env!("CARGO_PKG_VERSION").into(),
                address: self.address(),
                used_bytes: room.total - room.free.min(room.total),
                capacity_bytes: room.total,
                log_stalled: status.log_stalled,
                inodes,
            },
            knows: self.known().version(),
        }
    }

    /// The node that leads group 0, as far as this one knows: by its own replica, else by what it was told last.
    #[must_use]
    pub fn master_node(&self) -> Option<NodeId> {
        self.leader_of(GroupId::MASTER)
            .or_else(|| self.known().master())
    }

    /// The node that leads a group which has a replica here, as far as that one knows.
    pub(crate) fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let replica = self.replica(group)?;
        let leader = replica.raft().metrics().borrow_watched().current_leader?;
        if leader == replica.id().0 {
            return Some(self.identity().node);
        }
        self.links().node_of(group, ReplicaId(leader))
    }

    /// Some node that may know who the master is: a member of group 0 if any is known.
    fn guess(&self) -> Option<NodeId> {
        let me = self.identity().node;
        let members = self.links().replicas_of(GroupId::MASTER);
        let mut nodes: Vec<NodeId> = members.into_iter().map(|(_, node)| node).collect();
        let drawn = self.runtime().random();
        // Now and then anybody: all members known here may be gone.
        if nodes.is_empty() || drawn.is_multiple_of(4) {
            nodes = self.links().addresses().into_keys().collect();
        }
        nodes.retain(|node| *node != me);
        let count = u64::try_from(nodes.len()).ok().filter(|count| *count > 0)?;
        let pick = usize::try_from((drawn >> 8) % count).expect("below a usize");
        Some(nodes[pick])
    }

    /// Asks another node; `None` when it does not answer in time.
    pub(crate) async fn ask_node(&self, node: NodeId, call: Call) -> Option<Reply> {
        let asked = async {
            let conn = self.links().reach(node).await?;
            let (reply, _) = conn.call(call, vec![]).await.ok()?;
            Some(reply)
        };
        R::Async::timeout(REQUEST_DEADLINE, asked).await.ok()?
    }

    /// Carries out what the master says, if it is news: a node that stood still finds what was said to it before, and not
    /// all of that is harmless by now. What is still wanted comes again.
    pub(crate) fn told_by_master(&self, directives: Vec<Directive>) {
        let now = self.runtime().now().mono;
        if self.known().in_touch(now) {
            self.obey(directives);
        } else {
            tracing::debug!(?directives, "may be old news: not carried out");
        }
    }

    /// Takes in another node's heartbeat, or says who does.
    pub(crate) fn hear(&self, heartbeat: Heartbeat) -> Heard {
        let knows = heartbeat.knows;
        if let Some(heard) = self
            .master_service()
            .and_then(|master| master.hear(heartbeat))
        {
            return heard;
        }
        let version = self.known().version();
        Heard {
            master: self
                .master_node()
                .filter(|node| *node != self.identity().node),
            version,
            peers: (version > knows).then(|| self.peers()),
        }
    }

    /// Tells the master, at its own pace, for as long as the node runs.
    pub(crate) async fn beat(self) {
        while !self.is_stopped() {
            self.beat_once().await;
            self.runtime().sleep(HEARTBEAT_EVERY).await;
        }
    }

    async fn beat_once(&self) {
        let me = self.identity().node;
        let mut target = self.master_node();
        for _ in 0..REDIRECTS_MAX {
            let Some(node) = target.or_else(|| self.guess()) else {
                return;
            };
            let (heartbeat, told) = (self.heartbeat(), self.runtime().now().mono);
            let heard = if node == me {
                Some(self.hear(heartbeat))
            } else {
                match self.ask_node(node, Call::Heartbeat(heartbeat)).await {
                    Some(Reply::Heard(heard)) => Some(heard),
                    _ => None,
                }
            };
            let Some(heard) = heard else {
                // Whoever was master is not there: ask somebody else next time.
                self.known().set_master(None);
                if target.is_none() {
                    return;
                }
                target = self.guess();
                continue;
            };
            self.take_note(&heard).await;
            if heard.master == Some(node) {
                self.known().note_taken(told);
            }
            if heard.master == Some(node) || heard.master.is_none() {
                return;
            }
            target = heard.master;
        }
    }

    async fn take_note(&self, heard: &Heard) {
        if heard.master.is_some() {
            self.known().set_master(heard.master);
        }
        let Some(peers) = &heard.peers else { return };
        match self.learn(peers).await {
            Ok(()) => self.known().raise_version(heard.version),
            Err(error) => tracing::warn!(%error, "who is where could not be noted"),
        }
    }

    /// Asks the master, wherever it is; `None` when it can't be found or does not answer in time.
    pub async fn ask_master(&self, request: MasterRequest) -> Option<MasterReply> {
        let me = self.identity().node;
        let mut target = self.master_node();
        for _ in 0..REDIRECTS_MAX {
            let node = target.or_else(|| self.guess()).unwrap_or(me);
            let reply = if node == me {
                let (answered, wait) = oneshot::channel();
                let answer = move |reply, _: Bytes| drop(answered.send(reply));
                self.master(request.clone(), Box::new(answer));
                R::Async::timeout(REQUEST_DEADLINE, wait).await.ok()?.ok()
            } else {
                self.ask_node(node, Call::Master(request.clone())).await
            };
            match reply? {
                Reply::Master(reply) => return Some(reply),
                Reply::NotMaster { leader } if leader.is_some() && leader != Some(node) => {
                    self.known().set_master(leader);
                    target = leader;
                }
                _ => return None,
            }
        }
        None
    }
}
