//! The simulated runtime: machines with clocks, networks and disks that fail by seed, on madsim's deterministic executor.
//!
//! ```text
//! World ── Machine (start, crash, kill, pause)  ── SimRuntime: one boot of one machine, what a node is given
//!   │         ├─ MachineClock (offset, rate, wall skew)
//!   │         └─ Drive (the disk, outlives boots) ── SimDir, SimDisk
//!   └──── Network (delays, cuts, breaks) ── Fabric ── SimNet: connections that carry frames as bytes
//! ```
//! One seed is one run: everything random is drawn from madsim's generator, nothing iterates a hash map, and every
//! delivery, disk access and timer goes into a [`Trace`] by which two runs can be compared. One run per fresh thread
//! ([`World::run`]); to compare runs use two processes, since process-wide state of dependencies may differ within one.
//! Deliberately knows nothing of what a node does.
#![warn(missing_docs)]

#[cfg(not(madsim))]
compile_error!(
    "the simulation needs --cfg madsim, which .cargo/config.toml sets; a RUSTFLAGS variable in the environment \
     replaces that: unset it"
);

mod chance;
mod clock;
mod context;
mod disk;
mod executor;
mod lanes;
mod net;
mod runtime;
mod trace;
mod world;

pub use clock::MachineClock;
pub use disk::{DiskStats, Drive, Fails, SimDir, SimDisk};
pub use executor::{
    Elapsed, JoinError, JoinHandle, SimAsync, SimInstant, SimRng, Sleep, Timeout, watch,
};
pub use net::{LinkSettings, SimListener, SimNet, SimReceiver, SimSender};
pub use runtime::SimRuntime;
pub use trace::Trace;
pub use world::{Machine, Network, World};
