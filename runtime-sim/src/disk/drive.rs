//! The test's handle on a machine's disk: what shall go wrong, and what has.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polyfs_node::runtime::Lane;

use super::media::Media;
use super::{PowerLossHook, Shared, SimDir};
use crate::{chance, context};

/// How often an operation fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fails {
    /// It works.
    #[default]
    Never,
    /// The next so many times.
    Next(u32),
    /// Until told otherwise.
    Always,
}

/// What shall go wrong.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) read: Fails,
    pub(super) write: Fails,
    pub(super) sync: Fails,
    pub(super) misdirect: bool,
    pub(super) power_fails_after: Option<u64>,
    pub(super) capacity: u64,
    delays: [Range<Duration>; 3],
    stalled_until: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            read: Fails::Never,
            write: Fails::Never,
            sync: Fails::Never,
            misdirect: false,
            power_fails_after: None,
            capacity: 1 << 40,
            delays: std::array::from_fn(|_| Duration::ZERO..Duration::ZERO),
            stalled_until: 0,
        }
    }
}

/// What a disk has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Writes asked for.
    pub writes: u64,
    /// Syncs that succeeded, of files and of the directory.
    pub syncs: u64,
    /// Power cuts.
    pub crashes: u64,
    /// Unsynced changes that a power cut lost.
    pub lost: u64,
    /// Unsynced changes that survived a power cut.
    pub kept: u64,
    /// Unsynced writes of which a power cut left a part.
    pub torn: u64,
    /// Writes that went to the wrong place.
    pub misdirected: u64,
}

/// A machine's disk, as the test holds it. Outlives the machine's boots. Clones are the same disk.
#[derive(Clone)]
pub struct Drive(Arc<Shared>);

fn slot(lane: Lane) -> usize {
    match lane {
        Lane::Log => 0,
        Lane::Checkpoint => 1,
        Lane::Read => 2,
    }
}

impl Drive {
    pub(crate) fn new(machine: u64) -> Self {
        Self(Arc::new(Shared {
            media: Mutex::new(Media::new(machine)),
            on_power_loss: Mutex::new(None),
        }))
    }

    /// What else happens when the power fails by itself ([`Drive::power_fails_after`]).
    pub(crate) fn on_power_loss(&self, hook: PowerLossHook) {
        *self.0.on_power_loss.lock() = Some(hook);
    }

    /// Begins the next boot and hands out its directory.
    pub(crate) fn boot(&self) -> SimDir {
        let mut media = self.0.media.lock();
        media.boot += 1;
        media.powered = true;
        SimDir {
            shared: Arc::clone(&self.0),
            boot: media.boot,
        }
    }

    pub(crate) fn cut_power(&self) {
        self.0.media.lock().cut_power();
    }

    pub(crate) fn end_boot(&self) {
        self.0.media.lock().end_boot();
    }

    /// The power fails at the write or sync that comes after `operations` more of them, in the middle of it: a write
    /// may be lost, torn or whole, and its caller is told [`polyfs_store::disk::DiskError::PowerLost`]. The machine crashes
    /// with it.
    pub fn power_fails_after(&self, operations: u64) {
        self.0.media.lock().faults.power_fails_after = Some(operations);
    }

    /// Lets reads fail.
    pub fn fail_reads(&self, fails: Fails) {
        self.0.media.lock().faults.read = fails;
    }

    /// Lets writes fail; a part of them may get through.
    pub fn fail_writes(&self, fails: Fails) {
        self.0.media.lock().faults.write = fails;
    }

    /// Lets syncs fail. What such a sync covered is durable, still to be synced, or lost for good while the machine
    /// still reads it back: each change meets its own fate.
    pub fn fail_syncs(&self, fails: Fails) {
        self.0.media.lock().faults.sync = fails;
    }

    /// Lets the next write to a file that has another place for it land there, without an error.
    pub fn misdirect_next_write(&self) {
        self.0.media.lock().faults.misdirect = true;
    }

    /// Sets the disk's size in bytes; beyond it writes answer `Full`. 1 TiB unless set.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.media.lock().faults.capacity = bytes;
    }

    /// Flips a bit of the byte at `offset` of a file, on the disk and in the cache. Nothing happens where nothing but
    /// zeros was ever written.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn rot(&self, name: &str, offset: u64) {
        let bit = u32::try_from(chance::below(8)).expect("below 8");
        let mut media = self.0.media.lock();
        let id = *media
            .names
            .get(name)
            .unwrap_or_else(|| panic!("bits rot in files that exist, not in {name}"));
        context::record("rot", &[media.machine, id.0, offset]);
        let file = media.file(id);
        file.view.flip(offset, bit);
        file.durable.flip(offset, bit);
    }

    /// Flips a bit somewhere in a file whose name begins with `prefix`, and tells where; `None` if nothing is written
    /// there.
    pub fn rot_somewhere(&self, prefix: &str) -> Option<(String, u64)> {
        let mut places = Vec::new();
        {
            let mut media = self.0.media.lock();
            let names: Vec<_> = media
                .names
                .iter()
                .map(|(name, id)| (name.clone(), *id))
                .collect();
            for (name, id) in names
                .into_iter()
                .filter(|(name, _)| name.starts_with(prefix))
            {
                for page in media.file(id).view.written() {
                    places.push((name.clone(), page));
                }
            }
        }
        let (name, page) = places.get(chance::index(places.len()))?.clone();
        let offset = page * 4096 + chance::below(4096);
        self.rot(&name, offset);
        Some((name, offset))
    }

    /// The disk answers nothing for this long, from now: blocking work given to any lane waits (P2: a leader with a
    /// stalled disk must step down).
    pub fn stall(&self, span: Duration) {
        let until = context::true_now() + u64::try_from(span.as_nanos()).expect("stalls are short");
        self.0.media.lock().faults.stalled_until = until;
    }

    /// How long blocking work takes on a lane. Nothing unless set; what is not zero is a millisecond at least.
    pub fn set_delay(&self, lane: Lane, range: Range<Duration>) {
        self.0.media.lock().faults.delays[slot(lane)] = range;
    }

    /// What it has been through.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        self.0.media.lock().stats
    }

    /// How long the next piece of work on a lane takes.
    pub(crate) fn delay(&self, lane: Lane) -> Duration {
        let range = self.0.media.lock().faults.delays[slot(lane)].clone();
        chance::span(&range)
    }

    /// Until when (true nanoseconds) the disk answers nothing; in the past if it answers.
    pub(crate) fn stalled_until(&self) -> u64 {
        self.0.media.lock().faults.stalled_until
    }
}
