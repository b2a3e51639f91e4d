//! The simulated network: connections that carry frames as bytes, as TCP would on a bad day.
//!
//! ```text
//! SimSender ──push──▶ inbox of the other end: [bytes, when they arrive | held] ──▶ SimReceiver (decodes)
//!                        ▲ Network: cuts, delays, breaks        ▲ Machine: power, process
//! ```
//! What is promised, and tested in tests/network.rs:
//! * Bytes arrive in order, once, unaltered (unless damage is asked for), or the connection breaks. What was on the way
//!   when it breaks may be lost.
//! * Where the way is cut, in one direction or both, bytes wait and arrive after it heals; if that takes longer than
//!   [`PEER_TIMEOUT`] each end that notices breaks by itself. Nothing tells an end that its peer is dead but that time.
//! * A machine that comes back resets the connections of its former life; a process that dies closes its own.
//! * A dial to a machine without power, or beyond a cut, ends after [`CONNECT_TIMEOUT`]; to one where nobody listens,
//!   after a round trip. A paused machine accepts and takes bytes, as its kernel would, and says nothing.
//! * A sender that is [`WINDOW`] bytes ahead of its receiver waits; if the receiver takes nothing for [`PEER_TIMEOUT`],
//!   the connection breaks (Linux counts a closed window as silence, too).

mod connection;
mod endpoint;
mod fabric;
mod topology;

use std::ops::Range;
use std::time::Duration;

pub(crate) use endpoint::Attachment;
pub use endpoint::{SimListener, SimNet, SimReceiver, SimSender};
pub(crate) use fabric::Fabric;
pub(crate) use topology::MachineId;

/// An end whose peer does not answer breaks after this (TCP_USER_TIMEOUT and keepalive in production).
pub(crate) const PEER_TIMEOUT: Duration = Duration::from_secs(6);
/// A dial without an answer is given up after this.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes on the way or unread, beyond which a sender waits.
pub(crate) const WINDOW: usize = 4 << 20;

/// How one direction between two machines behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// How long a frame is on its way. Order is kept all the same: one that would overtake waits.
    pub delay: Range<Duration>,
    /// Of a million frames, so many are lost below TCP and repeated: they take `slow` longer.
    pub slow_per_million: u32,
    /// What a repetition costs.
    pub slow: Range<Duration>,
    /// Of a million frames, at so many the connection breaks; that frame may or may not arrive.
    pub breaks_per_million: u32,
    /// Of a million frames, so many arrive with a bit flipped: receivers see no frame and end the connection.
    pub damage_per_million: u32,
    /// How many bytes get through in a second; all at once if `None`.
    pub bytes_per_second: Option<u64>,
}

impl Default for LinkSettings {
    /// A decent network: 1 to 2 ms (the executor's timers have a grain of 1 ms), nothing lost, nothing broken.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(1)..Duration::from_millis(2),
            slow_per_million: 0,
            slow: Duration::from_millis(200)..Duration::from_millis(400),
            breaks_per_million: 0,
            damage_per_million: 0,
            bytes_per_second: None,
        }
    }
}
