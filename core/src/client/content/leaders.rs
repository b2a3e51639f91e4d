//! Who leads the regions where this mount has leases, its frames to them, and what it re-asserts to a new one (P8).
//!
//! Owns what is known of each such region's leadership. A region is *in doubt* from the first sign that its leader is gone
//! (a broken connection, silence, an answer that does not confirm) until some leadership answers: its replicas are all
//! asked meanwhile. A region once leased from is kept in touch with as long as the session lives: its leaders wait for it.
//!
//! ```text
//!  confirmed ──sign──▶ in doubt: frames to all replicas ──T waits──▶ asserts all to T ──taken──▶ confirmed by T
//! ```

use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use super::lease::term_end;
use crate::client::Client;
use crate::client::port::{MessageId, Output};
use crate::client::questions::Route;
use crate::client::timers::Wake;
use crate::ids::{GroupId, NodeId};
use crate::limits::{LEASE_RENEWAL, LEASE_TERM};
use crate::place::Ino;
use crate::request::{Assertion, Leadership, LeaseSerial, RecallKind, Renewed};
use crate::time::Instant;

/// A frame unanswered for this long is forgotten.
const FRAME_LIFE: Duration = LEASE_TERM;
/// While a region is in doubt its replicas are asked this often.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// A mount with more leases in a region asserts nothing there: its frame would be too big. The new leader waits its term.
const HOLDS_MAX: usize = 10_000;

/// What is known of one region's leadership.
#[derive(Clone, Copy, Debug)]
struct Led {
    /// The latest heard of: grants and recalls of earlier ones count no more.
    term: u64,
    node: NodeId,
    /// It led when asked then.
    heard: Instant,
    in_doubt: bool,
}

/// A frame under way.
#[derive(Debug)]
struct Frame {
    node: NodeId,
    sent: Instant,
    /// What it asserts, to which leadership.
    asserted: BTreeMap<Leadership, BTreeMap<Ino, LeaseSerial>>,
}

/// All leaders that this mount has to do with.
#[derive(Debug, Default)]
pub(super) struct Leaders {
    led: BTreeMap<GroupId, Led>,
    frames: BTreeMap<MessageId, Frame>,
    frames_at: Option<Instant>,
}

impl Leaders {
    /// Whether a later leadership is known.
    pub(super) fn is_deposed(&self, group: GroupId, term: u64) -> bool {
        self.led.get(&group).is_some_and(|led| term < led.term)
    }
}

impl Client {
    /// A grant came: false when its leadership is over. A successor may have been told already what is held here, without
    /// this one.
    pub(in super::super) fn granted_by(&mut self, route: &Route, term: u64) -> bool {
        let by = Leadership {
            group: route.group,
            term,
        };
        if self.files.leaders.is_deposed(by.group, by.term) {
            return false;
        }
        if self.leads(by, route.node, route.sent) {
            self.send_frames_soon();
        }
        true
    }

    /// A region was asked for a lease at a node that leads it: its leaders may wait for this mount from now on.
    pub(in super::super) fn leased_from(&mut self, group: GroupId, node: NodeId, asked: Instant) {
        if let Entry::Vacant(unknown) = self.files.leaders.led.entry(group) {
            unknown.insert(Led {
                term: 0,
                node,
                heard: asked,
                in_doubt: false,
            });
            self.send_frames_soon();
        }
    }

    /// A leadership was heard of that is not over, as far as known; true when it is a new one.
    fn leads(&mut self, by: Leadership, node: NodeId, asked: Instant) -> bool {
        let before = self.files.leaders.led.get(&by.group).copied();
        let is_new = before.is_none_or(|led| led.term < by.term);
        let led = Led {
            term: by.term,
            node,
            heard: before.map_or(asked, |led| led.heard.max(asked)),
            in_doubt: false,
        };
        self.files.leaders.led.insert(by.group, led);
        if is_new {
            self.views.led(by);
            self.regions.mend_leader(by.group, Some(node));
            self.hurry(by.group, node);
        }
        is_new
    }

    /// The leader that `node` was is perhaps gone.
    fn doubt_node(&mut self, node: NodeId) {
        let of = |(group, led): (&GroupId, &Led)| (led.node == node).then_some(*group);
        let groups: Vec<GroupId> = self.files.leaders.led.iter().filter_map(of).collect();
        for group in groups {
            self.doubt(group, node);
        }
    }

    /// The leadership of `group` at `node` is perhaps over: its replicas are asked until one of them leads.
    pub(in super::super) fn doubt(&mut self, group: GroupId, node: NodeId) {
        if let Some(led) = self.files.leaders.led.get_mut(&group)
            && led.node == node
            && !led.in_doubt
        {
            led.in_doubt = true;
            self.send_frames_soon();
        }
    }

    fn send_frames_soon(&mut self) {
        self.files.leaders.frames_at = None;
        self.timers.set(self.now.mono, Wake::Leases);
    }

    /// Sends a lease frame to each leader, and to whoever may have become one, when it is time.
    pub(in super::super) fn drive_leases(&mut self) {
        let now = self.now.mono;
        if self.files.leaders.frames_at.is_some_and(|at| now < at) {
            return;
        }
        if self.files.leaders.led.is_empty() {
            return;
        }
        if self.session.live().is_none() {
            return self.timers.set(now + LEASE_RENEWAL, Wake::Leases);
        }
        self.doubt_the_silent();
        let leaders = &self.files.leaders;
        let mut nodes: BTreeSet<NodeId> = leaders.led.values().map(|led| led.node).collect();
        let doubtful = leaders.led.iter().filter(|(_, led)| led.in_doubt);
        let doubtful: Vec<GroupId> = doubtful.map(|(group, _)| *group).collect();
        for group in &doubtful {
            nodes.extend(self.regions.replicas(*group));
        }
        for node in nodes {
            self.send_frame(node, Vec::new());
        }
        let pause = if doubtful.is_empty() {
            LEASE_RENEWAL
        } else {
            PROBE_PAUSE
        };
        self.files.leaders.frames_at = Some(now + pause);
        self.timers.set(now + pause, Wake::Leases);
    }

    /// Who does not answer a frame within a renewal is perhaps gone.
    fn doubt_the_silent(&mut self) {
        let now = self.now.mono;
        let leaders = &mut self.files.leaders;
        leaders
            .frames
            .retain(|_, frame| now.since(frame.sent) < FRAME_LIFE);
        for frame in leaders.frames.values() {
            let silent = now.since(frame.sent) >= LEASE_RENEWAL;
            for led in leaders.led.values_mut() {
                if silent && led.node == frame.node && led.heard <= frame.sent {
                    led.in_doubt = true;
                }
            }
        }
    }

    fn send_frame(&mut self, node: NodeId, assertions: Vec<Assertion>) {
        let Some(live) = self.session.live() else {
            return;
        };
        let message = self.questions.fresh_message();
        let mut asserted = BTreeMap::new();
        for assertion in &assertions {
            let holds = assertion.holds.iter();
            let holds = holds.map(|hold| (hold.ino, hold.claim.serial)).collect();
            asserted.insert(assertion.to, holds);
        }
        let frame = Frame {
            node,
            sent: self.now.mono,
            asserted,
        };
        self.files.leaders.frames.insert(message, frame);
        self.out.push_back(Output::RenewLeases {
            message,
            node,
            session: live.id,
            renewal: live.renewal,
            assertions,
        });
    }

    /// A frame could not be delivered; true when it was one.
    pub(in super::super) fn frame_undelivered(&mut self, message: MessageId) -> bool {
        let Some(frame) = self.files.leaders.frames.remove(&message) else {
            return false;
        };
        self.doubt_node(frame.node);
        true
    }

    /// A node answered a frame.
    pub(in super::super) fn leases_renewed(
        &mut self,
        message: MessageId,
        node: NodeId,
        by: &[Renewed],
    ) {
        let Some(frame) = self.files.leaders.frames.remove(&message) else {
            return;
        };
        if frame.node != node {
            return;
        }
        let mut assertions = Vec::new();
        for renewed in by {
            let by = renewed.by;
            let led = self.files.leaders.led.get(&by.group);
            if led.is_none_or(|led| by.term < led.term) {
                continue;
            }
            self.leads(by, node, frame.sent);
            if renewed.waits {
                assertions.extend(self.assertion(by));
            }
            self.confirmed(&frame, renewed);
            for (ino, serial) in &renewed.recalled {
                self.view_recalled(by.group, *ino, *serial);
            }
            let now = self.now.mono;
            self.views.confirmed(by, renewed.epoch, frame.sent, now);
        }
        if !assertions.is_empty() {
            self.send_frame(node, assertions);
        }
        let unconfirmed = |(group, led): (&GroupId, &Led)| {
            let gone = led.node == node
                && led.heard <= frame.sent
                && !by.iter().any(|renewed| renewed.by.group == *group);
            gone.then_some(*group)
        };
        let led = self.files.leaders.led.iter();
        let unconfirmed: Vec<GroupId> = led.filter_map(unconfirmed).collect();
        for group in unconfirmed {
            self.doubt(group, node);
        }
    }

    /// Everything this mount has by the grants of earlier leaders of a region.
    fn assertion(&mut self, to: Leadership) -> Option<Assertion> {
        let now = self.now.mono;
        let mut holds = Vec::new();
        for (ino, file) in &self.files.by_ino {
            let held = file.lease.held.or(file.lease.lapsed);
            let here = held.is_some_and(|held| held.group == to.group)
                || self.regions.meta_group(*ino) == Some(to.group);
            if let Some(hold) = file.hold(*ino, now)
                && here
                && hold.claim.serial.term < to.term
            {
                holds.push(hold);
            }
        }
        (holds.len() <= HOLDS_MAX).then_some(Assertion { to, holds })
    }

    /// A leadership has confirmed what it granted and what it has taken up.
    fn confirmed(&mut self, frame: &Frame, renewed: &Renewed) {
        let now = self.now.mono;
        let by = renewed.by;
        let until = term_end(frame.sent);
        let taken: BTreeSet<Ino> = renewed.taken.iter().copied().collect();
        let asserted = frame.asserted.get(&by);
        let mut deposed = Vec::new();
        for (ino, file) in &mut self.files.by_ino {
            // One that has run out may be somebody else's by now: a late confirmation doesn't bring it back.
            let Some(held) = file.lease.held.as_mut() else {
                continue;
            };
            if held.group != by.group || held.until <= now || held.since > frame.sent {
                continue;
            }
            let same = asserted.and_then(|asserted| asserted.get(ino)) == Some(&held.serial);
            if held.serial.term == by.term {
                held.until = held.until.max(until);
            } else if taken.contains(ino) && same {
                held.serial = LeaseSerial::taken_up(by.term);
                held.node = frame.node;
                held.until = held.until.max(until);
                // What the one before asked is answered to the one that is.
                if let Some(recall) = &mut file.lease.recall
                    && recall.want != RecallKind::Flush
                {
                    recall.serial = held.serial;
                }
            } else if !renewed.waits {
                deposed.push(*ino);
            }
        }
        for ino in deposed {
            self.assert_anew(ino);
        }
    }
}
