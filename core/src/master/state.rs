//! The replicated state of group 0: who is there, which regions exist, who mounts what.
//!
//! Owns [`MasterState`] and what each [`Entry`] does to it: a pure function, the same on every replica. Stored and
//! sent as pieces, one per thing ([`Piece`]). Deliberately knows no liveness: heartbeats are not replicated.

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Reply, Role};
use crate::client::port::{RegionLine, ReplicaPlace};
use crate::ids::{
    BootNumber, ClusterId, Epoch, GroupId, NodeId, ReplicaId, SessionId, StoreId, VolumeId,
};
use crate::limits::FIRST_REGIONS_PER_KIND;
use crate::place::{Ino, PLACES, Places};
use crate::request::Space;

/// The longest name, address, zone or setting, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// Nodes, volumes, sessions and settings, each.
pub const TABLE_MAX: usize = 65_536;

/// A machine's daemon, as the cluster knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its store.
    pub store: StoreId,
    /// The highest boot number it came with.
    pub boot: BootNumber,
    /// The process that came with it.
    pub process: u128,
    /// Where it listens.
    pub address: String,
    /// Its failure domain; empty: a zone of its own.
    pub zone: String,
    /// Bytes it offers.
    pub capacity: u64,
    /// Its replicas are being moved away.
    pub draining: bool,
}

/// One placement of a group on a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// Where.
    pub node: NodeId,
    /// As what, as last reported by the leader.
    pub role: Role,
}

/// A Raft group: a region, or group 0 itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    /// What it holds; `None` for group 0.
    pub region: Option<(Space, Places)>,
    /// Raised by each split.
    pub epoch: Epoch,
    /// Its replicas.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// The version of the map that changed it last.
    pub version: u64,
    /// Ids drawn for a split that has not been reported yet: the new group, and per old replica the new one.
    pub split: Option<(GroupId, Vec<(ReplicaId, ReplicaId)>)>,
}

/// A named tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its root.
    pub root: Ino,
}

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its volume.
    pub volume: VolumeId,
    /// The root of that.
    pub root: Ino,
    /// It changes nothing.
    pub read_only: bool,
    /// What its mount drew.
    pub nonce: u64,
    /// Over: remembered until every region holds that it is.
    pub ended: bool,
}

/// What is one of its kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The cluster.
    pub cluster: ClusterId,
    /// The last ids given out; none is ever given out again (P1).
    pub last_node: NodeId,
    /// See `last_node`.
    pub last_replica: ReplicaId,
    /// See `last_node`.
    pub last_group: GroupId,
    /// See `last_node`.
    pub last_session: SessionId,
    /// See `last_node`.
    pub last_volume: VolumeId,
    /// Raised by each change of the region map or of a node's address.
    pub map_version: u64,
    /// Whether a session was ever allowed to write (P3).
    pub wrote: bool,
    /// The cluster that this one gave way to.
    pub dissolved: Option<ClusterId>,
}

/// One piece of the state, as stored and as sent in a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Piece {
    /// What is one of its kind.
    Header(Header),
    /// A node.
    Node(NodeId, Node),
    /// A group.
    Group(GroupId, Group),
    /// A volume.
    Volume(String, Volume),
    /// A session.
    Session(SessionId, Session),
    /// A setting.
    Setting(String, String),
}

/// The whole state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MasterState {
    /// What is one of its kind.
    pub header: Header,
    /// All nodes that ever joined.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Group 0 and all regions.
    pub groups: BTreeMap<GroupId, Group>,
    /// By name.
    pub volumes: BTreeMap<String, Volume>,
    /// Alive, and over but not forgotten.
    pub sessions: BTreeMap<SessionId, Session>,
    /// By name.
    pub settings: BTreeMap<String, String>,
}

/// The founder, as it joins its own cluster.
#[derive(Clone, Debug)]
pub struct Founder {
    /// Its store.
    pub store: StoreId,
    /// This start.
    pub boot: BootNumber,
    /// This process.
    pub process: u128,
    /// Where it listens.
    pub address: String,
    /// Its failure domain.
    pub zone: String,
    /// Bytes it offers.
    pub capacity: u64,
}

impl MasterState {
    /// The state of a cluster that is being founded: the founder as node 1 holds the only replica of group 0 and of the
    /// first regions, which divide the places evenly; the volume "default" has the root inode `root`. A pure function,
    /// so that a founding resumed after a crash founds the same cluster.
    #[must_use]
    pub fn found(cluster: ClusterId, founder: Founder, root: Ino) -> Self {
        let Founder {
            store,
            boot,
            process,
            address,
            zone,
            capacity,
        } = founder;
        let header = Header {
            cluster,
            last_node: NodeId(1),
            last_replica: ReplicaId(0),
            last_group: GroupId::MASTER,
            last_session: SessionId::CLUSTER,
            last_volume: VolumeId(1),
            map_version: 1,
            wrote: false,
            dissolved: None,
        };
        let node = Node {
            store,
            boot,
            process,
            address,
            zone,
            capacity,
            draining: false,
        };
        let mut state = Self {
            header,
            nodes: BTreeMap::from([(NodeId(1), node)]),
            groups: BTreeMap::new(),
            volumes: BTreeMap::from([(
                "default".into(),
                Volume {
                    id: VolumeId(1),
                    root,
                },
            )]),
            sessions: BTreeMap::new(),
            settings: BTreeMap::new(),
        };
        state.first_group(GroupId::MASTER, None);
        let size = PLACES / FIRST_REGIONS_PER_KIND;
        for space in [Space::Meta, Space::Data] {
            for part in 0..FIRST_REGIONS_PER_KIND {
                let start = part * size;
                let end = if part + 1 == FIRST_REGIONS_PER_KIND {
                    PLACES
                } else {
                    start + size
                };
                state.header.last_group.0 += 1;
                let group = state.header.last_group;
                state.first_group(group, Some((space, Places { start, end })));
            }
        }
        state.check_invariants();
        state
    }

    fn first_group(&mut self, id: GroupId, region: Option<(Space, Places)>) {
        let replica = self.next_replica();
        let replicas = BTreeMap::from([(
            replica,
            Replica {
                node: NodeId(1),
                role: Role::Voter,
            },
        )]);
        let group = Group {
            region,
            epoch: Epoch(1),
            replicas,
            version: 1,
            split: None,
        };
        self.groups.insert(id, group);
    }

    const fn next_replica(&mut self) -> ReplicaId {
        self.header.last_replica.0 += 1;
        self.header.last_replica
    }

    /// One entry, in the order of group 0's log.
    pub fn apply(&mut self, entry: Entry) -> Reply {
        let reply = self.apply_entry(entry);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        reply
    }

    fn apply_entry(&mut self, entry: Entry) -> Reply {
        match entry {
            Entry::Join {
                store,
                boot,
                process,
                address,
                zone,
                capacity,
            } => self.join(Node {
                store,
                boot,
                process,
                address,
                zone,
                capacity,
                draining: false,
            }),
            Entry::SetDraining { node, draining } => match self.nodes.get_mut(&node) {
                Some(node) => {
                    node.draining = draining;
                    Reply::Done
                }
                None => Reply::NotFound,
            },
            Entry::Place { group, node } => self.place(group, node),
            Entry::SetRole {
                group,
                replica,
                role,
            } => {
                let version = self.header.map_version + 1;
                let Some(group) = self.groups.get_mut(&group) else {
                    return Reply::NotFound;
                };
                let Some(known) = group.replicas.get_mut(&replica) else {
                    return Reply::NotFound;
                };
                known.role = role;
                group.version = version;
                self.header.map_version = version;
                Reply::Done
            }
            Entry::Unplace {
                group,
                replica,
                version,
            } => self.unplace(group, replica, version),
            Entry::DrawSplit { group, epoch } => self.draw_split(group, epoch),
            Entry::Split { group, at, epoch } => self.split(group, at.0, epoch),
            Entry::CreateVolume { name, root } => self.create_volume(name, root),
            Entry::RemoveVolume { name } => match self.volumes.remove(&name) {
                Some(_) => Reply::Done,
                None => Reply::NotFound,
            },
            Entry::CreateSession {
                volume,
                read_only,
                nonce,
            } => self.create_session(&volume, read_only, nonce),
            Entry::EndSession { session } => match self.sessions.get_mut(&session) {
                Some(session) => {
                    session.ended = true;
                    Reply::Done
                }
                None => Reply::NotFound,
            },
            Entry::ForgetSession { session } => match self.sessions.get(&session) {
                Some(known) if known.ended => {
                    self.sessions.remove(&session);
                    Reply::Done
                }
                Some(_) => Reply::InUse,
                None => Reply::Done,
            },
            Entry::Set { name, value } => self.set(name, value),
            Entry::Dissolve { in_favour_of } => {
                if let Some(other) = self.header.dissolved {
                    return Reply::Dissolved(other);
                }
                if self.header.wrote || self.nodes.len() > 1 {
                    return Reply::InUse;
                }
                self.header.dissolved = Some(in_favour_of);
                Reply::Dissolved(in_favour_of)
            }
        }
    }

    /// P1: the same store gets the same answer; an older start, or a second process of the same one, is a copy.
    fn join(&mut self, new: Node) -> Reply {
        if let Some(other) = self.header.dissolved {
            return Reply::Dissolved(other);
        }
        if new.address.len() > TEXT_BYTES_MAX || new.zone.len() > TEXT_BYTES_MAX {
            return Reply::TooLarge;
        }
        let known = self
            .nodes
            .iter_mut()
            .find(|(_, node)| node.store == new.store);
        let Some((id, node)) = known else {
            if self.nodes.len() >= TABLE_MAX {
                return Reply::TooLarge;
            }
            self.header.last_node.0 += 1;
            self.header.map_version += 1;
            self.nodes.insert(self.header.last_node, new);
            return Reply::Joined(self.header.last_node);
        };
        let is_copy =
            new.boot < node.boot || (new.boot == node.boot && new.process != node.process);
        if is_copy && !cfg!(planted = "boot_number_unchecked") {
            return Reply::ComeBackEmpty;
        }
        let id = *id;
        let has_moved = node.address != new.address;
        *node = Node {
            draining: node.draining,
            ..new
        };
        if has_moved {
            self.header.map_version += 1;
        }
        Reply::Joined(id)
    }

    fn place(&mut self, group: GroupId, node: NodeId) -> Reply {
        if !self.nodes.contains_key(&node) {
            return Reply::NotFound;
        }
        let Some(known) = self.groups.get_mut(&group) else {
            return Reply::NotFound;
        };
        if let Some((replica, _)) = known
            .replicas
            .iter()
            .find(|(_, placed)| placed.node == node)
        {
            return Reply::Placed(*replica);
        }
        self.header.last_replica.0 += 1;
        self.header.map_version += 1;
        known.version = self.header.map_version;
        let replica = self.header.last_replica;
        known.replicas.insert(
            replica,
            Replica {
                node,
                role: Role::Learner,
            },
        );
        Reply::Placed(replica)
    }

    fn unplace(&mut self, group: GroupId, replica: ReplicaId, decided_on: u64) -> Reply {
        let version = self.header.map_version + 1;
        let Some(group) = self.groups.get_mut(&group) else {
            return Reply::NotFound;
        };
        let is_last = group.replicas.len() == 1;
        let is_late = group.version != decided_on && !cfg!(planted = "unplaced_together");
        if is_last || is_late || group.replicas.remove(&replica).is_none() {
            return Reply::NotFound;
        }
        group.version = version;
        self.header.map_version = version;
        Reply::Done
    }

    fn draw_split(&mut self, group: GroupId, epoch: Epoch) -> Reply {
        let Some(known) = self.groups.get(&group).filter(|g| g.region.is_some()) else {
            return Reply::NotFound;
        };
        if known.epoch != epoch {
            return Reply::NotFound;
        }
        let olds: Vec<ReplicaId> = known.replicas.keys().copied().collect();
        if let Some((child, replicas)) = &known.split
            && replicas
                .iter()
                .map(|(old, _)| *old)
                .eq(olds.iter().copied())
        {
            return Reply::SplitDrawn {
                group: *child,
                replicas: replicas.clone(),
            };
        }
        self.header.last_group.0 += 1;
        let child = self.header.last_group;
        let replicas: Vec<_> = olds
            .into_iter()
            .map(|old| (old, self.next_replica()))
            .collect();
        if let Some(known) = self.groups.get_mut(&group) {
            known.split = Some((child, replicas.clone()));
        }
        Reply::SplitDrawn {
            group: child,
            replicas,
        }
    }

    fn split(&mut self, group: GroupId, at: u32, epoch: Epoch) -> Reply {
        let Some(known) = self.groups.get_mut(&group) else {
            return Reply::NotFound;
        };
        let Some((space, places)) = known.region else {
            return Reply::NotFound;
        };
        if epoch <= known.epoch {
            return Reply::Done;
        }
        if at <= places.start || at >= places.end {
            return Reply::NotFound;
        }
        let Some((child, ids)) = known.split.take() else {
            return Reply::NotFound;
        };
        self.header.map_version += 1;
        let version = self.header.map_version;
        let replicas = ids
            .iter()
            .filter_map(|(old, new)| Some((*new, known.replicas.get(old)?.clone())))
            .collect();
        known.region = Some((
            space,
            Places {
                start: places.start,
                end: at,
            },
        ));
        (known.epoch, known.version) = (epoch, version);
        let region = Some((
            space,
            Places {
                start: at,
                end: places.end,
            },
        ));
        self.groups.insert(
            child,
            Group {
                region,
                epoch,
                replicas,
                version,
                split: None,
            },
        );
        Reply::Done
    }

    fn create_volume(&mut self, name: String, root: Ino) -> Reply {
        if let Some(volume) = self.volumes.get(&name) {
            return Reply::Volume(volume.id, volume.root);
        }
        if name.is_empty() || name.len() > TEXT_BYTES_MAX || self.volumes.len() >= TABLE_MAX {
            return Reply::TooLarge;
        }
        self.header.last_volume.0 += 1;
        let id = self.header.last_volume;
        self.volumes.insert(name, Volume { id, root });
        Reply::Volume(id, root)
    }

    fn create_session(&mut self, volume: &str, read_only: bool, nonce: u64) -> Reply {
        if let Some(other) = self.header.dissolved {
            return Reply::Dissolved(other);
        }
        let Some(volume) = self.volumes.get(volume) else {
            return Reply::NotFound;
        };
        let same = self.sessions.iter().find(|(_, session)| {
            session.nonce == nonce
                && session.volume == volume.id
                && session.read_only == read_only
                && !session.ended
        });
        if let Some((id, session)) = same {
            return Reply::Session(*id, session.root);
        }
        if self.sessions.len() >= TABLE_MAX {
            return Reply::TooLarge;
        }
        self.header.wrote |= !read_only;
        self.header.last_session.0 += 1;
        let id = self.header.last_session;
        let (volume, root) = (volume.id, volume.root);
        self.sessions.insert(
            id,
            Session {
                volume,
                root,
                read_only,
                nonce,
                ended: false,
            },
        );
        Reply::Session(id, root)
    }

    fn set(&mut self, name: String, value: String) -> Reply {
        let is_full = self.settings.len() >= TABLE_MAX && !self.settings.contains_key(&name);
        if name.len() > TEXT_BYTES_MAX || value.len() > TEXT_BYTES_MAX || is_full {
            return Reply::TooLarge;
        }
        if value.is_empty() {
            self.settings.remove(&name);
        } else {
            self.settings.insert(name, value);
        }
        Reply::Done
    }

    /// The lines of the region map that changed after version `since` (0: all), and the version they bring it to.
    #[must_use]
    pub fn map_since(&self, since: u64) -> (u64, Vec<RegionLine>) {
        let changed = self
            .groups
            .iter()
            .filter(|(_, group)| group.version > since);
        let lines = changed.filter_map(|(id, group)| {
            let (space, places) = group.region?;
            let place = |(replica, placed): (&ReplicaId, &Replica)| ReplicaPlace {
                replica: *replica,
                node: placed.node,
            };
            let replicas = group.replicas.iter().map(place).collect();
            Some(RegionLine {
                group: *id,
                space,
                places,
                epoch: group.epoch,
                replicas,
                leader: None,
            })
        });
        (self.header.map_version, lines.collect())
    }

    /// Where every node listens.
    pub fn addresses(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.nodes
            .iter()
            .map(|(id, node)| (*id, node.address.as_str()))
    }

    /// The whole state, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let header = core::iter::once(Piece::Header(self.header.clone()));
        let nodes = self.nodes.iter().map(|(id, v)| Piece::Node(*id, v.clone()));
        let groups = self
            .groups
            .iter()
            .map(|(id, v)| Piece::Group(*id, v.clone()));
        let volumes = self
            .volumes
            .iter()
            .map(|(id, v)| Piece::Volume(id.clone(), v.clone()));
        let sessions = self
            .sessions
            .iter()
            .map(|(id, v)| Piece::Session(*id, v.clone()));
        let settings = self
            .settings
            .iter()
            .map(|(id, v)| Piece::Setting(id.clone(), v.clone()));
        header
            .chain(nodes)
            .chain(groups)
            .chain(volumes)
            .chain(sessions)
            .chain(settings)
    }

    /// The state that [`Self::pieces`] came from, or `None` when the header is missing.
    #[must_use]
    pub fn from_pieces(pieces: impl IntoIterator<Item = Piece>) -> Option<Self> {
        let mut header = None;
        let (mut nodes, mut groups) = (BTreeMap::new(), BTreeMap::new());
        let (mut volumes, mut sessions) = (BTreeMap::new(), BTreeMap::new());
        let mut settings = BTreeMap::new();
        for piece in pieces {
            match piece {
                Piece::Header(found) => header = Some(found),
                Piece::Node(id, value) => drop(nodes.insert(id, value)),
                Piece::Group(id, value) => drop(groups.insert(id, value)),
                Piece::Volume(id, value) => drop(volumes.insert(id, value)),
                Piece::Session(id, value) => drop(sessions.insert(id, value)),
                Piece::Setting(id, value) => drop(settings.insert(id, value)),
            }
        }
        Some(Self {
            header: header?,
            nodes,
            groups,
            volumes,
            sessions,
            settings,
        })
    }

    /// The laws of the state.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check_invariants(&self) {
        for space in [Space::Meta, Space::Data] {
            let mut parts: Vec<Places> = self
                .groups
                .values()
                .filter_map(|group| group.region)
                .filter(|(kind, _)| *kind == space)
                .map(|(_, places)| places)
                .collect();
            parts.sort();
            let end = parts.iter().fold(0, |at, part| {
                assert!(
                    at == part.start && part.start < part.end,
                    "regions tile the places"
                );
                part.end
            });
            assert!(end == PLACES, "regions tile the places to their end");
        }
        for group in self.groups.values() {
            let mut nodes: Vec<NodeId> = group.replicas.values().map(|r| r.node).collect();
            let count = nodes.len();
            nodes.sort();
            nodes.dedup();
            assert!(
                count == nodes.len(),
                "a node holds one replica of a group at most"
            );
            assert!(count > 0, "a group has a replica");
        }
    }
}
