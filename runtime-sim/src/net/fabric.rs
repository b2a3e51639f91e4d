//! The state of the whole network, and everything that happens to it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use polyfs_node::runtime::NetError;

use super::LinkSettings;
use super::connection::{ConnectionId, Content, End, Received, Room, Side, reset};
use super::topology::{MachineId, Topology};
use crate::{chance, context};

/// A dead connection is found out by a probe or a repetition within this.
const PROBE_MAX: Duration = Duration::from_secs(1);
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// The network. Clones are the same network.
#[derive(Clone, Default)]
pub(crate) struct Fabric(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) topology: Topology,
    connections: BTreeMap<ConnectionId, [End; 2]>,
    listeners: BTreeMap<(MachineId, u16), Queue>,
    next_connection: u64,
}

/// A listening port.
#[derive(Default)]
struct Queue {
    life: u64,
    waiting: VecDeque<(ConnectionId, String)>,
    waker: Option<Waker>,
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).expect("delays are short")
}

fn two(ends: &mut [End; 2], side: Side) -> (&mut End, &mut End) {
    let [dialler, acceptor] = ends;
    match side {
        Side::Dialler => (dialler, acceptor),
        Side::Acceptor => (acceptor, dialler),
    }
}

impl Fabric {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Adds a machine, without power.
    pub(crate) fn add(&self, id: MachineId, name: &str, ip: IpAddr) {
        self.lock().topology.add(id, name, ip);
    }

    /// The machine's program starts; returns its life.
    pub(crate) fn start(&self, id: MachineId) -> u64 {
        self.change(|state| {
            let host = state.topology.host_mut(id);
            host.powered = true;
            host.life += 1;
            host.life
        })
    }

    /// The machine's program ends or is killed: its kernel closes what it had open.
    pub(crate) fn end_process(&self, id: MachineId) {
        self.change(|state| {
            state.topology.host_mut(id).life += 1;
            state.listeners.retain(|(machine, _), _| *machine != id);
            let mine: Vec<_> = state.connections_of(id);
            for (connection, side) in mine {
                state.close(connection, side);
            }
        });
    }

    /// The machine loses its power: nobody hears a word.
    pub(crate) fn power_off(&self, id: MachineId) {
        self.change(|state| {
            let host = state.topology.host_mut(id);
            host.powered = false;
            host.life += 1;
            state.listeners.retain(|(machine, _), _| *machine != id);
            for (connection, side) in state.connections_of(id) {
                if let Some(ends) = state.connections.get_mut(&connection) {
                    two(ends, side).0.die();
                }
            }
        });
    }

    /// Changes who reaches whom, and lets the connections feel it.
    pub(crate) fn rewire(&self, what: &'static str, change: impl FnOnce(&mut Wiring<'_>)) {
        context::record(what, &[]);
        self.change(|state| change(&mut Wiring(&mut state.topology)));
    }

    /// Breaks every connection between two machines.
    pub(crate) fn break_between(&self, one: MachineId, other: MachineId) {
        self.change(|state| {
            let now = context::true_now();
            for (id, ends) in &mut state.connections {
                let [a, b] = ends;
                if (a.machine, b.machine) == (one, other) || (b.machine, a.machine) == (one, other)
                {
                    context::record("broken", &[id.0]);
                    a.break_at(now, reset());
                    b.break_at(now, reset());
                }
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        state.feel();
        result
    }
}

/// What [`Fabric::rewire`] lets a test change.
pub(crate) struct Wiring<'a>(&'a mut Topology);

impl Wiring<'_> {
    pub(crate) fn cut(&mut self, from: MachineId, to: MachineId) {
        self.0.cut(from, to);
    }

    pub(crate) fn isolate(&mut self, id: MachineId) {
        for other in self.0.others(id) {
            self.0.cut(id, other);
            self.0.cut(other, id);
        }
    }

    pub(crate) fn heal(&mut self, from: MachineId, to: MachineId) {
        self.0.heal(from, to);
    }

    pub(crate) fn heal_all(&mut self) {
        self.0.heal_all();
    }

    pub(crate) fn set_everywhere(&mut self, settings: LinkSettings) {
        self.0.set_everywhere(settings);
    }

    pub(crate) fn set_link(&mut self, from: MachineId, to: MachineId, settings: LinkSettings) {
        self.0.set_link(from, to, settings);
    }

    pub(crate) fn set_ip(&mut self, id: MachineId, ip: IpAddr) {
        assert!(
            self.0
                .others(id)
                .into_iter()
                .all(|other| self.0.host(other).ip != ip),
            "machines have addresses of their own: {ip}"
        );
        self.0.host_mut(id).ip = ip;
    }
}

impl State {
    fn connections_of(&self, id: MachineId) -> Vec<(ConnectionId, Side)> {
        let mut found = Vec::new();
        for (connection, [dialler, acceptor]) in &self.connections {
            for (end, side) in [(dialler, Side::Dialler), (acceptor, Side::Acceptor)] {
                if end.machine == id && !end.dead {
                    found.push((*connection, side));
                }
            }
        }
        found
    }

    /// Every connection takes note of who reaches whom now.
    fn feel(&mut self) {
        let now = context::true_now();
        let topology = &self.topology;
        for ends in self.connections.values_mut() {
            for end in ends.iter_mut() {
                end.notice_silence(now);
            }
            for side in [Side::Dialler, Side::Acceptor] {
                let (end, peer) = two(ends, side);
                feel(topology, end, peer, now);
            }
        }
        self.connections
            .retain(|_, [one, other]| one.is_held() || other.is_held());
    }

    /// How long a frame from one machine is on its way to another, and what happens to it there.
    fn travel(&self, from: MachineId, to: MachineId, bytes: usize) -> Duration {
        if from == to {
            return Duration::ZERO;
        }
        let settings = self.topology.settings(from, to);
        let mut span = chance::span(&settings.delay);
        if chance::happens(settings.slow_per_million) {
            span += chance::span(&settings.slow);
        }
        if let Some(rate) = settings.bytes_per_second {
            span +=
                Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.max(1));
        }
        span
    }

    /// Puts something on its way from one end to the other.
    fn put(&mut self, id: ConnectionId, side: Side, content: Content) {
        let Some([dialler, acceptor]) = self.connections.get(&id) else {
            return;
        };
        let (from, to) = match side {
            Side::Dialler => (dialler.machine, acceptor.machine),
            Side::Acceptor => (acceptor.machine, dialler.machine),
        };
        let bytes = match &content {
            Content::Bytes(bytes) => bytes.len(),
            Content::End => 0,
        };
        let arrives = self
            .topology
            .is_open(from, to)
            .then(|| context::true_now() + nanos(self.travel(from, to, bytes)));
        let ends = self.connections.get_mut(&id).expect("found above");
        let (_, peer) = two(ends, side);
        if peer.is_held() {
            peer.put(arrives, content);
        }
    }

    /// Closes an end, as its kernel does: the other side learns it after what was sent before.
    fn close(&mut self, id: ConnectionId, side: Side) {
        let Some(ends) = self.connections.get_mut(&id) else {
            return;
        };
        let (end, _) = two(ends, side);
        if !end.is_held() {
            return;
        }
        end.die();
        self.put(id, side, Content::End);
        let ends = self.connections.get_mut(&id).expect("found above");
        let (_, peer) = two(ends, side);
        peer.wake();
        if !peer.is_held() {
            self.connections.remove(&id);
        }
    }

    // What endpoints ask.

    pub(super) fn is_alive(&self, machine: MachineId, life: u64) -> bool {
        let host = self.topology.host(machine);
        host.powered && host.life == life
    }

    pub(super) fn listen(
        &mut self,
        machine: MachineId,
        life: u64,
        port: u16,
    ) -> Result<u16, NetError> {
        let port = if port == 0 {
            loop {
                let port = self.topology.ephemeral_port(machine);
                if !self.listeners.contains_key(&(machine, port)) {
                    break port;
                }
            }
        } else {
            port
        };
        if self.listeners.contains_key(&(machine, port)) {
            return Err(NetError::Failed(format!("port {port} is in use")));
        }
        let queue = Queue {
            life,
            ..Queue::default()
        };
        self.listeners.insert((machine, port), queue);
        Ok(port)
    }

    pub(super) fn accept(
        &mut self,
        machine: MachineId,
        port: u16,
        life: u64,
        waker: &Waker,
    ) -> Poll<Result<(ConnectionId, String), NetError>> {
        match self.listeners.get_mut(&(machine, port)) {
            Some(queue) if queue.life == life => match queue.waiting.pop_front() {
                Some(found) => Poll::Ready(Ok(found)),
                None => {
                    queue.waker = Some(waker.clone());
                    Poll::Pending
                }
            },
            _ => Poll::Ready(Err(NetError::Closed)),
        }
    }

    pub(super) fn stop_listening(&mut self, machine: MachineId, port: u16, life: u64) {
        let key = (machine, port);
        if self
            .listeners
            .get(&key)
            .is_some_and(|queue| queue.life == life)
        {
            let queue = self.listeners.remove(&key).expect("found above");
            for (connection, _) in queue.waiting {
                self.close(connection, Side::Acceptor);
            }
        }
    }

    /// A round trip's worth of delay for a dial, or `None` when no answer would come.
    pub(super) fn handshake(&self, from: MachineId, to: MachineId) -> Option<Duration> {
        self.topology
            .is_round_trip(from, to)
            .then(|| self.travel(from, to, 0) + self.travel(to, from, 0))
    }

    /// The dial has reached the other machine.
    pub(super) fn connect(
        &mut self,
        from: (MachineId, u64),
        to: (MachineId, u16),
    ) -> Result<ConnectionId, NetError> {
        let port = self.topology.ephemeral_port(from.0);
        let peer = format!("{}:{port}", self.topology.host(from.0).ip);
        let Some(queue) = self
            .listeners
            .get_mut(&to)
            .filter(|queue| queue.waiting.len() < BACKLOG)
        else {
            return Err(NetError::Failed("connection refused".into()));
        };
        self.next_connection += 1;
        let id = ConnectionId(self.next_connection);
        queue.waiting.push_back((id, peer));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        let ends = [End::new(from.0, from.1), End::new(to.0, queue.life)];
        self.connections.insert(id, ends);
        context::record("connect", &[id.0, from.0.into(), to.0.into()]);
        Ok(id)
    }

    pub(super) fn receive(&mut self, id: ConnectionId, side: Side, waker: &Waker) -> Received {
        let now = context::true_now();
        let Some(ends) = self.connections.get_mut(&id) else {
            return Received::Ended(NetError::Closed);
        };
        let (end, peer) = two(ends, side);
        let received = end.receive(now, waker);
        if let Received::Bytes(bytes) = &received {
            peer.blocked_since = None;
            peer.wake();
            let words = bytes
                .chunks_exact(4)
                .take(5)
                .map(|word| u64::from(u32::from_le_bytes(word.try_into().expect("four bytes"))));
            let mut numbers = vec![id.0, end.machine.into()];
            numbers.extend(words);
            context::record("deliver", &numbers);
        }
        received
    }

    pub(super) fn room(&mut self, id: ConnectionId, side: Side, waker: &Waker) -> Room {
        let Some(ends) = self.connections.get_mut(&id) else {
            return Room::Ended(NetError::Closed);
        };
        let (end, peer) = two(ends, side);
        end.room(peer, context::true_now(), waker)
    }

    /// Sends one frame; the network may damage it, or break the connection at it.
    pub(super) fn send(&mut self, id: ConnectionId, side: Side, frame: Bytes) {
        let Some(ends) = self.connections.get_mut(&id) else {
            return;
        };
        let (end, peer) = two(ends, side);
        let (from, to) = (end.machine, peer.machine);
        let settings = self.topology.settings(from, to);
        let (breaks, damage) = (settings.breaks_per_million, settings.damage_per_million);
        if from == to {
            self.put(id, side, Content::Bytes(frame));
            return;
        }
        let frame = if chance::happens(damage) {
            damaged(&frame)
        } else {
            frame
        };
        if !chance::happens(breaks) {
            self.put(id, side, Content::Bytes(frame));
            return;
        }
        context::record("break", &[id.0]);
        if chance::below(2) == 0 {
            self.put(id, side, Content::Bytes(frame));
        }
        let (here, there) = (self.travel(to, from, 0), self.travel(from, to, 0));
        let now = context::true_now();
        let ends = self.connections.get_mut(&id).expect("found above");
        let (end, peer) = two(ends, side);
        end.break_at(now + nanos(here), reset());
        peer.break_at(now + nanos(there), reset());
    }

    /// One half of an end is dropped.
    pub(super) fn drop_half(&mut self, id: ConnectionId, side: Side, life: u64) {
        let Some(ends) = self.connections.get_mut(&id) else {
            return;
        };
        let (end, _) = two(ends, side);
        if end.dead || end.life != life {
            return;
        }
        if end.halves == 1 {
            self.close(id, side);
        } else {
            end.halves -= 1;
        }
    }
}

fn damaged(frame: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&frame[..]);
    let at = chance::index(bytes.len());
    bytes[at] ^= 1 << chance::below(8);
    bytes.freeze()
}

/// One end takes note of who reaches whom now.
fn feel(topology: &Topology, end: &mut End, peer: &End, now: u64) {
    if !end.is_held() {
        return;
    }
    if topology.is_round_trip(end.machine, peer.machine) {
        end.silent_since = None;
        // Nobody answers for the other end any more, and nobody said so: the next packet that goes there is reset.
        if !peer.answers(now) && !end.has_end_in_inbox() {
            let found_out = chance::below(nanos(PROBE_MAX));
            end.break_at(now + found_out, reset());
        }
    } else {
        end.silent_since.get_or_insert(now);
    }
    if topology.is_open(peer.machine, end.machine) {
        let settings = topology.settings(peer.machine, end.machine);
        let again = chance::span(&settings.delay) + chance::span(&settings.slow);
        end.release(now + nanos(again));
    } else {
        end.hold(now);
    }
    end.wake();
}
