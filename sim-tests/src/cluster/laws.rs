//! Laws of the consensus that hold at every moment, whatever mounts see: a term has one leader, in one life of its
//! process (P2), and no replica forgets a vote, votes twice in a term, or votes right after its process has started (P1, P2).
//!
//! Owns what was promised, beside the simulation, and what was broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft_rt::watch::WatchReceiver as _;
use parking_lot::Mutex;
use polyfs_core::ids::{GroupId, ReplicaId};
use polyfs_core::limits::RAFT_ELECTION_MAX;
use polyfs_core::time::Instant;
use polyfs_node::Runtime as _;
use polyfs_node::node::Node;
use polyfs_node::raft::replica::Replica;
use polyfs_node::raft::types::Vote;
use polyfs_node::raft::witness::Granted;
use polyfs_runtime_sim::SimRuntime;

/// What was promised and broken. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Laws(Arc<Mutex<Known>>);

/// One start of a node's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    node: usize,
    number: u64,
}

#[derive(Default)]
struct Known {
    lives: u64,
    /// Who leads or led a term.
    leaders: BTreeMap<(GroupId, u64), Life>,
    /// The highest vote that a replica granted.
    votes: BTreeMap<(GroupId, ReplicaId), Promised>,
    /// How many grants each life of a node has told of.
    told: BTreeMap<u64, u64>,
    /// The node on which a vote was granted last.
    voter: Option<usize>,
    broken: BTreeSet<String>,
}

/// A vote that was granted, in which life of the node and as the how manieth.
#[derive(Clone, Copy)]
struct Promised {
    vote: Vote,
    life: u64,
    told: u64,
}

impl Laws {
    /// What was broken, in words.
    pub(super) fn broken(&self) -> Vec<String> {
        self.0.lock().broken.iter().cloned().collect()
    }

    /// The node that has granted a vote since this was asked last.
    pub(super) fn take_voter(&self) -> Option<usize> {
        self.0.lock().voter.take()
    }

    pub(super) fn break_one(&self, what: String) {
        self.0.lock().broken.insert(what);
    }

    /// A node has come up: its replicas remember what they promised, and from now on its votes are watched. It was
    /// `started` at that time or before. Returns what looks at its leaders.
    pub(super) fn came_up(
        &self,
        number: usize,
        node: &Node<SimRuntime>,
        started: Instant,
    ) -> impl Fn() + Send + 'static {
        let replicas: Vec<_> = node.groups();
        let replicas = replicas.iter().map(|group| group.replica().clone());
        let replicas: Vec<Replica<SimRuntime>> = replicas.collect();
        let mut known = self.0.lock();
        for replica in &replicas {
            known.remembers(number, replica);
        }
        known.lives += 1;
        let life = Life {
            node: number,
            number: known.lives,
        };
        drop(known);
        // Those that were made by this very process, and those that are alone, may vote at once.
        let guarded = replicas.iter().filter(|replica| !replica.was_alone());
        let guarded: BTreeSet<_> = guarded.map(Replica::id).collect();
        let (laws, runtime) = (self.clone(), node.runtime().clone());
        node.witness().watch(move |granted| {
            let early = runtime.now().mono < started + RAFT_ELECTION_MAX;
            let early = early && guarded.contains(&granted.replica) && !granted.is_transfer;
            laws.0.lock().granted(life, granted, early);
        });
        let (laws, node) = (self.clone(), node.clone());
        move || laws.0.lock().look_at_leaders(life, &node)
    }
}

impl Known {
    fn remembers(&mut self, number: usize, replica: &Replica<SimRuntime>) {
        let Some(promised) = self.votes.get(&(replica.group(), replica.id())) else {
            return;
        };
        let kept = replica.raft().metrics().borrow_watched().vote;
        let promised = promised.vote;
        if kept.leader_id.term < promised.leader_id.term {
            let (group, id) = (replica.group(), replica.id());
            self.broken.insert(format!(
                "replica {id} of {group} on node {number} granted {promised} and knows only of {kept} after a start"
            ));
        }
    }

    fn granted(&mut self, life: Life, granted: &Granted, early: bool) {
        let number = life.node;
        self.voter = Some(number);
        let Granted {
            group,
            replica,
            vote,
            asked,
            ..
        } = granted;
        if early {
            self.broken.insert(format!(
                "replica {replica} of {group} granted {vote} right after the start of node {number}"
            ));
        }
        let told = self.told.entry(life.number).or_default();
        *told += 1;
        let promise = Promised {
            vote: *vote,
            life: life.number,
            told: *told,
        };
        let Some(before) = self.votes.get_mut(&(*group, *replica)) else {
            self.votes.insert((*group, *replica), promise);
            return;
        };
        let (old, new) = (before.vote.leader_id, vote.leader_id);
        // What was asked for before the other grant was told may have been granted before it.
        let later = before.life != life.number || *asked >= before.told;
        if (new.term < old.term && later)
            || (new.term == old.term && new.voted_for != old.voted_for)
        {
            let before = before.vote;
            self.broken.insert(format!(
                "replica {replica} of {group} on node {number} granted {before}, then {vote}"
            ));
        } else if new.term >= old.term {
            *before = promise;
        }
    }

    fn look_at_leaders(&mut self, life: Life, node: &Node<SimRuntime>) {
        for group in node.groups() {
            let replica = group.replica();
            let (leads, term) = {
                let metrics = replica.raft().metrics();
                let metrics = metrics.borrow_watched();
                (metrics.state.is_leader(), metrics.vote.leader_id.term)
            };
            if !leads {
                continue;
            }
            let before = *self.leaders.entry((replica.group(), term)).or_insert(life);
            if before != life {
                let group = replica.group();
                self.broken.insert(format!(
                    "term {term} of {group} is led by {before:?} and {life:?}"
                ));
            }
        }
    }
}
