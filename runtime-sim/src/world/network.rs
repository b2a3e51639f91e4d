//! The test's handle on what lies between the machines.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use super::machine::Machine;
use crate::net::{Fabric, LinkSettings};

/// The network, as the test holds it.
#[derive(Clone)]
pub struct Network(Fabric);

impl Network {
    pub(super) fn new(fabric: Fabric) -> Self {
        Self(fabric)
    }

    /// Cuts the way from one machine to another; the way back stays as it is.
    pub fn one_way(&self, from: &Machine, to: &Machine) {
        self.0
            .rewire("cut", |wiring| wiring.cut(from.id(), to.id()));
    }

    /// Cuts every way between two sides, both directions.
    pub fn partition(&self, one: &[&Machine], other: &[&Machine]) {
        self.0.rewire("partition", |wiring| {
            for a in one {
                for b in other {
                    wiring.cut(a.id(), b.id());
                    wiring.cut(b.id(), a.id());
                }
            }
        });
    }

    /// Cuts every way to and from a machine.
    pub fn isolate(&self, machine: &Machine) {
        self.0
            .rewire("isolate", |wiring| wiring.isolate(machine.id()));
    }

    /// Opens the ways between two machines again.
    pub fn heal_between(&self, one: &Machine, other: &Machine) {
        self.0.rewire("heal", |wiring| {
            wiring.heal(one.id(), other.id());
            wiring.heal(other.id(), one.id());
        });
    }

    /// Opens all ways again. Delays and breaks stay as they were set.
    pub fn heal(&self) {
        self.0.rewire("heal", |wiring| wiring.heal_all());
    }

    /// Sets how every way behaves, the ones that had settings of their own included.
    pub fn set_all(&self, settings: LinkSettings) {
        self.0
            .rewire("settings", |wiring| wiring.set_everywhere(settings));
    }

    /// Sets how one way behaves.
    pub fn set_link(&self, from: &Machine, to: &Machine, settings: LinkSettings) {
        self.0.rewire("settings", |wiring| {
            wiring.set_link(from.id(), to.id(), settings);
        });
    }

    /// Sets how long frames are on every way, with nothing else wrong.
    pub fn set_delay(&self, delay: Range<Duration>) {
        self.set_all(LinkSettings {
            delay,
            ..LinkSettings::default()
        });
    }

    /// Breaks all connections between two machines, as a firewall's reset would.
    pub fn break_between(&self, one: &Machine, other: &Machine) {
        self.0.break_between(one.id(), other.id());
    }

    /// Gives a machine another address. Connections it has go on; its name leads to the new one.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn set_address(&self, machine: &Machine, ip: IpAddr) {
        self.0
            .rewire("address", |wiring| wiring.set_ip(machine.id(), ip));
    }
}
