//! A toy consensus: one agreed log for each group, and everything that may go wrong around it.
//!
//! Owns what Raft would own: terms, who leads, what is committed, what each replica has applied. A proposal counts when
//! it arrives while its term is the newest; a leader that was deposed does not know it until told.

use std::collections::BTreeMap;

use bytes::Bytes;
use polyfs_core::ids::{Epoch, GroupId, NodeId, ReplicaId};
use polyfs_core::region::command::{Applied, Command};
use polyfs_core::region::leader::Leader;
use polyfs_core::region::leader::port::Token;
use polyfs_core::region::mem::MemKv;
use polyfs_core::request::{Answer, Refusal};

/// A term; 0 is before the first election.
pub(super) type Term = u64;

/// What is proposed.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) command: Command,
    pub(super) payload: Bytes,
}

struct Entry {
    term: Term,
    token: Token,
    change: Change,
}

/// What an entry does.
enum Change {
    Command(Proposal),
    /// The region has this epoch from here on, as a split gives it one.
    Epoch(Epoch),
}

/// No leader's proposal.
const NOBODYS: Token = Token(0);

/// One replica of a group.
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    pub(super) state: MemKv,
    /// Entries applied here.
    pub(super) applied: usize,
    /// The newest term heard of.
    pub(super) term: Term,
    /// There while this replica believes that it leads.
    pub(super) leader: Option<Leader>,
    /// Read indexes to be confirmed once so many entries are applied.
    pub(super) reads: Vec<(usize, Token)>,
    /// Of a fresh leader: it begins once so many entries are applied.
    pub(super) leads_from: Option<usize>,
}

/// One group.
pub(super) struct Group {
    pub(super) term: Term,
    pub(super) leader: Option<NodeId>,
    log: Vec<Entry>,
    pub(super) replicas: BTreeMap<NodeId, Replica>,
}

/// What applying one entry yielded, for the leader that proposed it.
pub(super) struct Yielded {
    pub(super) token: Token,
    pub(super) applied: Applied,
}

impl Replica {
    /// The region's epoch, as far as applied here.
    pub(super) fn epoch(&self) -> Epoch {
        let descriptor = polyfs_core::region::descriptor(&self.state);
        descriptor.expect("memory does not fail").epoch
    }

    fn apply(&mut self, change: &Change) -> Applied {
        match change {
            Change::Command(proposal) => self.carry_out(proposal),
            Change::Epoch(epoch) => {
                let descriptor = polyfs_core::region::descriptor(&self.state);
                let mut descriptor = descriptor.expect("memory does not fail");
                descriptor.epoch = *epoch;
                polyfs_core::region::found(&mut self.state, &descriptor, None)
                    .expect("memory does not fail");
                let places = descriptor.places;
                let epoch = *epoch;
                Applied::Answer(Answer::Refused(Refusal::Epoch { epoch, places }))
            }
        }
    }

    fn carry_out(&mut self, proposal: &Proposal) -> Applied {
        let Proposal { command, payload } = proposal;
        let is_stale = command.epoch != self.epoch();
        let before = is_stale.then(|| self.state.clone());
        let applied = polyfs_core::region::apply(&mut self.state, command, payload);
        let applied = applied.expect("memory does not fail");
        assert!(
            before.is_none_or(|before| before == self.state),
            "an entry accepted under {:?} changed something under {:?} (P5): {:?}",
            command.epoch,
            self.epoch(),
            command.body
        );
        applied
    }
}

impl Group {
    pub(super) fn new(id: GroupId, nodes: impl Iterator<Item = (NodeId, MemKv)>) -> Self {
        let replica = |(node, state): (NodeId, MemKv)| {
            let id = ReplicaId(id.0 * 100 + node.0);
            let replica = Replica {
                id,
                state,
                applied: 0,
                term: 0,
                leader: None,
                reads: Vec::new(),
                leads_from: None,
            };
            (node, replica)
        };
        Self {
            term: 0,
            leader: None,
            log: Vec::new(),
            replicas: nodes.map(replica).collect(),
        }
    }

    pub(super) fn committed(&self) -> usize {
        self.log.len()
    }

    /// A node wins an election: from now on only its proposals count.
    pub(super) fn elect(&mut self, node: NodeId) {
        self.term += 1;
        self.leader = Some(node);
        let committed = self.committed();
        let replica = self
            .replicas
            .get_mut(&node)
            .expect("a leader has a replica");
        replica.term = self.term;
        replica.leader = None;
        replica.reads.clear();
        replica.leads_from = Some(committed);
    }

    /// Commits a proposal; false when its term is over.
    pub(super) fn propose(&mut self, term: Term, token: Token, proposal: Proposal) -> bool {
        if term != self.term {
            return false;
        }
        self.log.push(Entry {
            term,
            token,
            change: Change::Command(proposal),
        });
        true
    }

    /// Gives the region its next epoch.
    pub(super) fn raise_epoch(&mut self, epoch: Epoch) {
        self.log.push(Entry {
            term: self.term,
            token: NOBODYS,
            change: Change::Epoch(epoch),
        });
    }

    /// Applies up to `entries` entries at a replica; yields those that its present leadership proposed.
    ///
    /// # Panics
    /// When a replica's state can't be read: memory does not fail.
    pub(super) fn apply(&mut self, node: NodeId, entries: usize) -> Vec<Yielded> {
        let replica = self.replicas.get_mut(&node).expect("only replicas apply");
        let mut yielded = Vec::new();
        for entry in self.log.iter().skip(replica.applied).take(entries) {
            let Entry {
                term,
                token,
                change,
            } = entry;
            let applied = replica.apply(change);
            replica.applied += 1;
            if *term == replica.term && replica.leader.is_some() {
                yielded.push(Yielded {
                    token: *token,
                    applied,
                });
            }
        }
        yielded
    }

    /// A replica's node crashed: what it had applied is kept, its leadership is not.
    pub(super) fn crash(&mut self, node: NodeId) {
        if let Some(replica) = self.replicas.get_mut(&node) {
            replica.leader = None;
            replica.reads.clear();
            replica.leads_from = None;
        }
        if self.leader == Some(node) {
            self.leader = None;
        }
    }
}
