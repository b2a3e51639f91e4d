//! Who is told of the votes that replicas grant: simulations, which hold each replica to what it promised (P1, P2).
//!
//! Owns the way to tell. Deliberately judges nothing; in production nobody is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use polyfs_core::ids::{GroupId, ReplicaId};

use super::types::Vote;

/// A vote that was granted to another replica, just before it hears so.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The group.
    pub group: GroupId,
    /// Who grants it.
    pub replica: ReplicaId,
    /// To whom, and in which term.
    pub vote: Vote,
    /// The leader itself asked for the election.
    pub is_transfer: bool,
    /// How many grants of this node had been told when it was asked for. Two that wait for the same sync may be told in
    /// either order.
    pub asked: u64,
}

type Tell = Box<dyn Fn(&Granted) + Send + Sync>;

/// Whoever watches, if anybody does. Clones are the same.
#[derive(Clone, Default)]
pub struct Witness(Arc<Inner>);

#[derive(Default)]
struct Inner {
    tell: OnceLock<Tell>,
    told: AtomicU64,
}

impl Witness {
    /// From now on `tell` is told. The first who watches stays.
    pub fn watch(&self, tell: impl Fn(&Granted) + Send + Sync + 'static) {
        let _ = self.0.tell.set(Box::new(tell));
    }

    pub(super) fn tell(&self, granted: &Granted) {
        if let Some(tell) = self.0.tell.get() {
            self.0.told.fetch_add(1, Ordering::Relaxed);
            tell(granted);
        }
    }

    /// How many grants were told so far.
    pub(super) fn told(&self) -> u64 {
        self.0.told.load(Ordering::Relaxed)
    }
}
