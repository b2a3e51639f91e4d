//! Which machines there are, which of them are up, and between which the way is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use polyfs_node::runtime::NetError;

use super::LinkSettings;

/// A machine of the simulation, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct MachineId(pub(crate) u32);

impl From<MachineId> for u64 {
    fn from(id: MachineId) -> Self {
        Self::from(id.0)
    }
}

/// What the network knows of a machine.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    /// Has power: its kernel answers.
    pub(super) powered: bool,
    /// Raised by each start and each end of its program: sockets belong to one life.
    pub(super) life: u64,
    next_port: u16,
}

/// Machines and the ways between them.
#[derive(Debug, Default)]
pub(super) struct Topology {
    hosts: BTreeMap<MachineId, Host>,
    cuts: BTreeSet<(MachineId, MachineId)>,
    everywhere: LinkSettings,
    links: BTreeMap<(MachineId, MachineId), LinkSettings>,
}

impl Topology {
    pub(super) fn add(&mut self, id: MachineId, name: &str, ip: IpAddr) {
        let host = Host {
            name: name.to_owned(),
            ip,
            powered: false,
            life: 0,
            next_port: 40_000,
        };
        assert!(
            self.hosts
                .values()
                .all(|other| other.name != name && other.ip != ip),
            "machines have names and addresses of their own: {name}, {ip}"
        );
        self.hosts.insert(id, host);
    }

    pub(super) fn host(&self, id: MachineId) -> &Host {
        &self.hosts[&id]
    }

    pub(super) fn host_mut(&mut self, id: MachineId) -> &mut Host {
        self.hosts.get_mut(&id).expect("machines are never removed")
    }

    pub(super) fn ephemeral_port(&mut self, id: MachineId) -> u16 {
        let host = self.host_mut(id);
        let port = host.next_port;
        host.next_port = port.checked_add(1).unwrap_or(40_000);
        port
    }

    pub(super) fn cut(&mut self, from: MachineId, to: MachineId) {
        if from != to {
            self.cuts.insert((from, to));
        }
    }

    pub(super) fn heal(&mut self, from: MachineId, to: MachineId) {
        self.cuts.remove(&(from, to));
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn others(&self, id: MachineId) -> Vec<MachineId> {
        self.hosts
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect()
    }

    /// Whether packets get from one kernel to the other.
    pub(super) fn is_open(&self, from: MachineId, to: MachineId) -> bool {
        self.host(from).powered && self.host(to).powered && !self.cuts.contains(&(from, to))
    }

    /// Whether packets get there and answers back.
    pub(super) fn is_round_trip(&self, one: MachineId, other: MachineId) -> bool {
        self.is_open(one, other) && self.is_open(other, one)
    }

    pub(super) fn settings(&self, from: MachineId, to: MachineId) -> &LinkSettings {
        self.links.get(&(from, to)).unwrap_or(&self.everywhere)
    }

    pub(super) fn set_everywhere(&mut self, settings: LinkSettings) {
        self.everywhere = settings;
        self.links.clear();
    }

    pub(super) fn set_link(&mut self, from: MachineId, to: MachineId, settings: LinkSettings) {
        self.links.insert((from, to), settings);
    }

    /// Finds the machine that `asker` means by a host's name or address.
    pub(super) fn resolve(&self, asker: MachineId, host: &str) -> Result<MachineId, NetError> {
        if matches!(host, "localhost" | "127.0.0.1" | "0.0.0.0") {
            return Ok(asker);
        }
        let ip = host.parse::<IpAddr>().ok();
        self.hosts
            .iter()
            .find(|(_, candidate)| candidate.name == host || Some(candidate.ip) == ip)
            .map(|(id, _)| *id)
            .ok_or_else(|| NetError::Failed(format!("no machine is called {host}")))
    }
}

/// Cuts an address into host and port.
pub(super) fn parse(address: &str) -> Result<(&str, u16), NetError> {
    address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| NetError::Failed(format!("{address} is no host:port")))
}
