//! What goes wrong in a cluster, one thing at a time.
//!
//! Owns the drawing of faults and their carrying out, the end of each included.

use std::time::Duration;

use polyfs_core::limits::CLOCK_DRIFT_PPM;
use polyfs_runtime_sim::{LinkSettings, Machine};

use super::{Course, programs};
use crate::workload::Seat;

/// The longest fault of a node among several, in milliseconds: well below a call's deadline.
const LONGEST: u64 = 15_000;
/// The longest time without all nodes, or without a mount: it keeps its session (P8).
const LONGEST_ALONE: u64 = 6_000;
/// So long after a node has noticed that its disk stands still (something waits for a sync for 1 s) it leads no group with
/// other voters: they begin an election 1.6 s later at most, and hear each other.
const LEADS_WITHOUT_DISK: Duration = Duration::from_millis(3_000);
/// Of how many operations the power may fail in the middle.
const OPERATIONS: u64 = 60;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power of a node fails, and comes back.
    NodeCrash,
    /// The power of the node that leads some group.
    LeaderCrash,
    /// A leader stands still, and the power of a node fails that has just granted a vote to another.
    VoterCrash,
    /// A node's process is killed; its machine lives.
    NodeKill,
    /// A node or a mount's machine stands still.
    Pause,
    /// Nothing gets to or from a node.
    Isolation,
    /// Nothing gets to a node, or nothing from it.
    OneWay,
    /// Two nodes can't reach each other.
    PairCut,
    /// Frames are lost below the connections, late, and connections break.
    Weather,
    /// Clocks jump on the wall and run at different rates.
    Clocks,
    /// The waypoint is restarted.
    Waypoint,
    /// The power of a mount's machine fails.
    MountCrash,
    /// A node's disk stands still.
    Stall,
}

const FAULTS: [Fault; 17] = [
    Fault::NodeCrash,
    Fault::NodeCrash,
    Fault::LeaderCrash,
    Fault::LeaderCrash,
    Fault::VoterCrash,
    Fault::NodeKill,
    Fault::Pause,
    Fault::Pause,
    Fault::Isolation,
    Fault::Isolation,
    Fault::OneWay,
    Fault::PairCut,
    Fault::Weather,
    Fault::Clocks,
    Fault::Waypoint,
    Fault::MountCrash,
    Fault::Stall,
];

impl Course {
    fn below(&self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("few");
        usize::try_from(self.world.random() % bound).expect("few")
    }

    async fn a_while(&self, least: u64, most: u64) {
        let millis = least + self.world.random() % (most - least);
        self.world.sleep(Duration::from_millis(millis)).await;
    }

    /// A machine stands still, or can't be reached: if a mount is there, its leases may run out.
    fn disturb(&mut self, machine: &Machine) {
        let is_it = |other: &Machine| other.name() == machine.name();
        let mount = self.machines.mounts.iter().position(is_it);
        let inside = self.plan.mount_inside;
        let inside = inside.filter(|number| is_it(&self.machines.nodes[*number]));
        let mount = mount.map(|number| Seat(u32::try_from(number).expect("few")));
        self.disturbed
            .extend(mount.or(inside.map(|_| programs::INSIDE)));
    }

    /// The longest fault of a node.
    fn longest(&self, number: usize) -> u64 {
        if self.plan.nodes == 1 || self.plan.mount_inside == Some(number) {
            LONGEST_ALONE
        } else {
            LONGEST
        }
    }

    /// Something goes wrong, and is right again.
    pub(super) async fn some_fault(&mut self) {
        let fault = FAULTS[self.below(FAULTS.len())];
        let number = match fault {
            Fault::LeaderCrash | Fault::VoterCrash | Fault::Stall => {
                let groups: Vec<_> = self.shared.groups().into_iter().collect();
                let drawn = self.below(groups.len().max(1));
                let leader = groups
                    .get(drawn)
                    .and_then(|group| self.shared.leader(*group));
                leader.unwrap_or(0)
            }
            _ => self.below(self.plan.nodes),
        };
        self.note(format!("{fault:?} of node {number}"));
        let node = self.machines.nodes[number].clone();
        match fault {
            Fault::NodeCrash | Fault::LeaderCrash => self.cut_power(number).await,
            Fault::VoterCrash => self.cut_power_of_voter(number).await,
            Fault::NodeKill => {
                node.kill();
                self.shared.nodes.lock().remove(&number);
                self.a_while(1, 5_000).await;
                node.restart();
            }
            Fault::Pause => self.pause(number).await,
            Fault::Isolation => {
                self.disturb(&node);
                self.world.network().isolate(&node);
                self.a_while(300, self.longest(number)).await;
                self.world.network().heal();
            }
            Fault::OneWay => self.one_way(number).await,
            Fault::PairCut => {
                let next = (number + 1) % self.plan.nodes;
                let other = match self.plan.nodes {
                    1 => self.machines.mounts[0].clone(),
                    _ => self.machines.nodes[next].clone(),
                };
                // Either may have the mount inside.
                let longest = self.longest(number).min(self.longest(next));
                self.disturb(&node);
                self.disturb(&other);
                self.world.network().partition(&[&node], &[&other]);
                self.a_while(300, longest).await;
                self.world.network().heal();
            }
            Fault::Weather => self.weather().await,
            Fault::Clocks => self.clocks(),
            Fault::Waypoint => {
                let waypoint = self.machines.waypoint.clone();
                match self.below(2) {
                    0 => waypoint.kill(),
                    _ => waypoint.crash(),
                }
                self.a_while(1, 5_000).await;
                waypoint.restart();
            }
            Fault::MountCrash => {
                let mount = self.machines.mounts[self.below(self.machines.mounts.len())].clone();
                mount.crash();
                self.a_while(1, 5_000).await;
                mount.restart();
            }
            Fault::Stall => self.stall(number).await,
        }
        self.note("over");
    }

    /// A disk stands still, now and then for so long that its node must lead no more (P2).
    async fn stall(&self, number: usize) {
        let disk = self.machines.nodes[number].disk();
        let span = Duration::from_millis(300 + self.world.random() % 6_000);
        disk.stall(span);
        let over = self.world.now() + span;
        let mut noticed = None;
        while self.world.now() < over {
            self.world.sleep(Duration::from_millis(100)).await;
            if !self.shared.is_stalled(number) {
                noticed = None;
                continue;
            }
            let since = *noticed.get_or_insert(self.world.now());
            if self.world.now() < since + LEADS_WITHOUT_DISK || self.world.now() >= over {
                continue;
            }
            for group in self.shared.led_by_one_alone(number) {
                self.shared.laws.break_one(format!(
                    "node {number} leads {group} with a disk that stands still"
                ));
            }
        }
        self.a_while(1_000, 7_000).await;
    }

    /// Of a node that has granted a vote: what it promised it must not forget.
    async fn cut_power_of_voter(&self, leader: usize) {
        if self.plan.nodes == 1 {
            return self.cut_power(leader).await;
        }
        self.shared.laws.take_voter();
        let leader = &self.machines.nodes[leader];
        leader.pause();
        let patience = self.world.now() + Duration::from_secs(5);
        while self.world.now() < patience {
            if let Some(voter) = self.shared.laws.take_voter() {
                let machine = &self.machines.nodes[voter];
                machine.crash();
                self.shared.nodes.lock().remove(&voter);
                self.a_while(1, 1_500).await;
                machine.restart();
                break;
            }
            self.world.sleep(Duration::from_micros(200)).await;
        }
        self.a_while(1, 1_500).await;
        leader.resume();
    }

    /// Now, or in the middle of some write or sync.
    async fn cut_power(&self, number: usize) {
        let machine = &self.machines.nodes[number];
        if self.world.random().is_multiple_of(2) {
            machine
                .disk()
                .power_fails_after(self.world.random() % OPERATIONS);
            let patience = self.world.now() + Duration::from_secs(5);
            while machine.is_running() && self.world.now() < patience {
                self.world.sleep(Duration::from_millis(1)).await;
            }
        }
        machine.crash();
        self.shared.nodes.lock().remove(&number);
        self.a_while(1, 6_000).await;
        machine.restart();
    }

    async fn pause(&mut self, number: usize) {
        let (machine, longest) = match self.below(4) {
            0 => {
                let mount = self.below(self.machines.mounts.len());
                (self.machines.mounts[mount].clone(), LONGEST_ALONE)
            }
            _ => (self.machines.nodes[number].clone(), self.longest(number)),
        };
        self.note(format!("it is {}", machine.name()));
        self.disturb(&machine);
        machine.pause();
        self.a_while(300, longest).await;
        machine.resume();
    }

    async fn one_way(&mut self, number: usize) {
        let node = &self.machines.nodes[number].clone();
        self.disturb(node);
        let network = self.world.network();
        let hears = self.below(2) == 0;
        for other in self
            .machines
            .all()
            .filter(|other| other.name() != node.name())
        {
            match hears {
                true => network.one_way(node, other),
                false => network.one_way(other, node),
            }
        }
        self.a_while(300, self.longest(number)).await;
        network.heal();
    }

    async fn weather(&self) {
        let most = 5 + self.world.random() % 60;
        self.world.network().set_all(LinkSettings {
            delay: Duration::from_millis(1)..Duration::from_millis(most),
            slow_per_million: 20_000,
            breaks_per_million: 1_000,
            ..LinkSettings::default()
        });
        self.a_while(2_000, LONGEST_ALONE).await;
        self.world.network().set_all(LinkSettings::default());
    }

    /// Any two clocks stay within the bound (P8).
    fn clocks(&self) {
        let bound = i32::try_from(CLOCK_DRIFT_PPM / 2).expect("below a million");
        for machine in self.machines.all() {
            let drawn = self.below(usize::try_from(2 * bound + 1).expect("positive"));
            let drift = i32::try_from(drawn).expect("below a million") - bound;
            machine.clock().set_drift_ppm(drift);
            let skew = i64::try_from(self.below(20_000)).expect("seconds") - 10_000;
            machine.clock().set_wall_skew(skew * 1_000_000);
        }
    }
}
