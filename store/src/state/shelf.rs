//! Which layers there are now, and who may change them.
//!
//! Owns the moment: a commit, a view, a freeze and a checkpoint's end each see the layers as a whole. Writers and
//! checkpoints take turns, each among themselves. Deliberately knows no key.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::caught::Held;
use super::error::{Poison, StoreError};
use super::pending::{Commit, Generation, Tables, Viewed};
use super::record::{Bytes, GROUPS, NODE, PAGES, STATE};

pub(super) type Table = Held<ReadOnlyTable<Bytes, Bytes>>;

/// The tables as a checkpoint left them.
pub(super) struct Base {
    pub(super) state: Table,
    pub(super) pages: Table,
    pub(super) groups: Table,
    pub(super) node: Table,
}

impl Base {
    pub(super) fn open(database: &Database, poison: &Poison) -> Result<Self, StoreError> {
        let txn = poison.ask(|| database.begin_read())?;
        let txn = Held::new(txn, poison);
        let open = |table| {
            let opened = poison.ask(|| txn.open_table(table))?;
            Ok::<Table, StoreError>(Held::new(opened, poison))
        };
        Ok(Self {
            state: open(STATE)?,
            pages: open(PAGES)?,
            groups: open(GROUPS)?,
            node: open(NODE)?,
        })
    }
}

/// The layers as of one commit.
#[derive(Clone)]
pub(super) struct Sight {
    pub(super) at: Commit,
    pub(super) active: Arc<Generation>,
    pub(super) frozen: Option<Arc<Generation>>,
    pub(super) base: Arc<Base>,
}

impl Sight {
    /// The pending ones, newest first.
    pub(super) fn generations(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(&*self.active).chain(self.frozen.as_deref())
    }
}

/// The layers of today.
pub(super) struct Shelf {
    now: Sight,
    viewed: Viewed,
}

impl Shelf {
    pub(super) fn new(base: Base) -> Self {
        let now = Sight {
            at: 0,
            active: Arc::default(),
            frozen: None,
            base: Arc::new(base),
        };
        Self {
            now,
            viewed: BTreeMap::new(),
        }
    }

    /// For the one writer: what it reads is the newest of everything, until it commits.
    pub(super) fn newest(&self) -> Sight {
        Sight {
            at: Commit::MAX,
            ..self.now.clone()
        }
    }

    /// For a view; to be handed back with [`Self::leave`].
    pub(super) fn enter(&mut self) -> Sight {
        *self.viewed.entry(self.now.at).or_default() += 1;
        self.now.clone()
    }

    pub(super) fn leave(&mut self, at: Commit) {
        let views = self.viewed.get_mut(&at).expect("a view leaves once");
        *views -= 1;
        if *views == 0 {
            self.viewed.remove(&at);
        }
    }

    /// Makes a batch visible.
    pub(super) fn commit(&mut self, batch: Tables) {
        self.now.at += 1;
        let (at, viewed) = (self.now.at, &self.viewed);
        self.now
            .active
            .change(|tables| tables.take_in(batch, at, viewed));
    }

    /// Begins a new generation over the one there is, which a checkpoint writes.
    ///
    /// # Panics
    /// When one is being written already.
    pub(super) fn freeze(&mut self) -> Sight {
        assert!(
            self.now.frozen.is_none(),
            "one checkpoint is made at a time"
        );
        let frozen = std::mem::take(&mut self.now.active);
        let sight = Sight {
            active: Arc::clone(&frozen),
            ..self.now.clone()
        };
        self.now.frozen = Some(frozen);
        sight
    }

    /// The generation that a checkpoint writes.
    pub(super) fn frozen(&self) -> Option<Arc<Generation>> {
        self.now.frozen.clone()
    }

    /// The frozen generation could not be written: the next checkpoint writes it.
    pub(super) fn thaw(&mut self) {
        if let Some(frozen) = self.now.frozen.take() {
            let older = frozen.read();
            self.now.active.change(|tables| tables.put_below(&older));
        }
    }

    /// The frozen generation is durable and in `base`; what nobody needs any more is the caller's to drop.
    pub(super) fn settle(&mut self, base: Base) -> (Option<Arc<Generation>>, Arc<Base>) {
        let frozen = self.now.frozen.take();
        (
            frozen,
            std::mem::replace(&mut self.now.base, Arc::new(base)),
        )
    }

    /// About how many bytes of rows were committed since the last freeze.
    pub(super) fn pending_bytes(&self) -> usize {
        self.now.active.read().bytes()
    }
}

/// One after the other, on whatever threads. Each commit takes its turn, so the kernel is asked only when somebody waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<(Mutex<bool>, Condvar)>);

impl Turns {
    /// Waits for its turn, which ends when the answer is dropped.
    pub(super) fn take(&self) -> Turn {
        let (taken, free) = &*self.0;
        let mut taken = taken.lock();
        free.wait_while(&mut taken, |taken| *taken);
        *taken = true;
        Turn(self.clone())
    }
}

/// Somebody's turn.
#[derive(Debug)]
pub(super) struct Turn(Turns);

impl Drop for Turn {
    fn drop(&mut self) {
        let (taken, free) = &*self.0.0;
        *taken.lock() = false;
        free.notify_one();
    }
}
