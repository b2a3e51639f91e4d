//! What was committed since the last checkpoint, in memory: the *pending* state.
//!
//! ```text
//!   batch: own ─▶ active ─▶ frozen ─▶ stored (redb)       newest first; what stands in front hides what is behind
//!           │commit   │freeze   │checkpoint
//!           └────────▶└────────▶└─────────▶ durable
//! ```
//! Owns a table's layers: rows whose deletion is a value too, of several commits where a view still looks at an older
//! one. Log and checkpoints make state durable, so nothing here is ever written but by a checkpoint (P10). Deliberately
//! knows neither redb nor how a value is stored.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use crate::extents::PageMap;

/// A key as stored, lineage and all; shared, as it is held by a batch, by the pending state and by whoever scans.
pub(super) type Key = Arc<[u8]>;
/// The bytes of a value, without its checksum.
pub(super) type Value = Arc<[u8]>;

/// The number of a commit: 1, 2, ... in this life of the store.
pub(super) type Commit = u64;

/// About what a row takes in memory beside its key and value.
const ROW_BYTES: usize = 96;

/// What is held in a layer.
pub(super) trait Size {
    /// About how many bytes it takes.
    fn size(&self) -> usize;
}

impl Size for Value {
    fn size(&self) -> usize {
        self.len()
    }
}

impl Size for Arc<PageMap> {
    fn size(&self) -> usize {
        self.memory_bytes()
    }
}

/// The commits that open views look at, with how many do.
pub(super) type Viewed = BTreeMap<Commit, u32>;

#[derive(Debug)]
struct Version<V> {
    commit: Commit,
    /// None: the key was deleted.
    value: Option<V>,
}

#[derive(Debug)]
struct Row<V> {
    newest: Version<V>,
    /// Older ones that a view needs, newest first.
    older: Vec<Version<V>>,
}

impl<V: Size> Row<V> {
    fn at(&self, at: Commit) -> Option<&Option<V>> {
        if self.newest.commit <= at {
            return Some(&self.newest.value);
        }
        let found = self.older.iter().find(|version| version.commit <= at);
        found.map(|version| &version.value)
    }

    fn bytes(&self) -> usize {
        let all = std::iter::once(&self.newest).chain(&self.older);
        all.map(|version| version.value.as_ref().map_or(0, V::size))
            .sum()
    }

    /// Sets the newest version aside for the views that look at it, and forgets what none looks at.
    fn replace(&mut self, new: Version<V>, viewed: &Viewed) {
        let mut until = new.commit;
        let old = std::mem::replace(&mut self.newest, new);
        if viewed.is_empty() {
            self.older.clear();
            return;
        }
        self.older.insert(0, old);
        self.older.retain(|version| {
            let needed = viewed.range(version.commit..until).next().is_some();
            until = version.commit;
            needed
        });
    }
}

/// The rows of one table.
#[derive(Debug)]
pub(super) struct Layer<V> {
    rows: BTreeMap<Key, Row<V>>,
    bytes: usize,
}

impl<V> Default for Layer<V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl<V: Clone + Size> Layer<V> {
    /// What this layer says of a key as of a commit: nothing, that it was deleted, or its value.
    pub(super) fn get(&self, key: &[u8], at: Commit) -> Option<&Option<V>> {
        self.rows.get(key)?.at(at)
    }

    /// Sets or deletes a key.
    pub(super) fn set(&mut self, key: Key, value: Option<V>, commit: Commit, viewed: &Viewed) {
        let new = Version { commit, value };
        match self.rows.get_mut(&key) {
            Some(row) => {
                let before = row.bytes();
                row.replace(new, viewed);
                self.bytes = self.bytes + row.bytes() - before;
            }
            None => {
                let row = Row {
                    newest: new,
                    older: Vec::new(),
                };
                self.bytes += ROW_BYTES + key.len() + row.bytes();
                self.rows.insert(key, row);
            }
        }
    }

    /// The newest of every row, in order.
    pub(super) fn newest(&self) -> impl Iterator<Item = (&Key, &Option<V>)> {
        self.rows.iter().map(|(key, row)| (key, &row.newest.value))
    }

    fn take_in(&mut self, other: Self, commit: Commit, viewed: &Viewed) {
        for (key, row) in other.rows {
            self.set(key, row.newest.value, commit, viewed);
        }
    }

    /// Puts what an older layer says below what this one says.
    fn put_below(&mut self, older: &Self) {
        for (key, row) in &older.rows {
            if !self.rows.contains_key(key) {
                let value = row.newest.value.clone();
                self.set(Arc::clone(key), value, row.newest.commit, &Viewed::new());
            }
        }
    }
}

/// The pending rows of all four tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) state: Layer<Value>,
    pub(super) pages: Layer<Arc<PageMap>>,
    pub(super) groups: Layer<Value>,
    pub(super) node: Layer<Value>,
}

impl Tables {
    /// About how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.state.bytes + self.pages.bytes + self.groups.bytes + self.node.bytes
    }

    /// Takes in what a batch has set, as one commit.
    pub(super) fn take_in(&mut self, batch: Self, commit: Commit, viewed: &Viewed) {
        self.state.take_in(batch.state, commit, viewed);
        self.pages.take_in(batch.pages, commit, viewed);
        self.groups.take_in(batch.groups, commit, viewed);
        self.node.take_in(batch.node, commit, viewed);
    }

    /// Takes in what could not be checkpointed, below everything that came since.
    pub(super) fn put_below(&mut self, older: &Self) {
        self.state.put_below(&older.state);
        self.pages.put_below(&older.pages);
        self.groups.put_below(&older.groups);
        self.node.put_below(&older.node);
    }
}

/// The commits between two freezes. The last one takes commits; the one before is written by a checkpoint, or was.
#[derive(Debug, Default)]
pub(super) struct Generation(RwLock<Tables>);

impl Generation {
    /// Its rows, for a moment: commits wait.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.0.read().expect("nothing panics under this lock")
    }

    /// Changes it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        change(&mut self.0.write().expect("nothing panics under this lock"))
    }
}

/// Where a cursor reads.
pub(super) enum Source<'a> {
    /// A batch's own rows.
    Own(&'a Tables),
    /// A generation as of a commit.
    Shared(&'a Generation, Commit),
}

impl Source<'_> {
    fn look<T>(&self, look: impl FnOnce(&Tables, Commit) -> T) -> T {
        match self {
            Self::Own(tables) => look(tables, Commit::MAX),
            Self::Shared(generation, at) => look(&generation.read(), *at),
        }
    }
}

/// One layer's rows in a range, in order, fetched some at a time: nobody waits for a scan.
pub(super) struct Cursor<'a, V> {
    source: Source<'a>,
    layer: fn(&Tables) -> &Layer<V>,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    at_once: usize,
    fetched: VecDeque<(Key, Option<V>)>,
    ended: bool,
}

impl<'a, V: Clone + Size> Cursor<'a, V> {
    pub(super) fn new(
        source: Source<'a>,
        layer: fn(&Tables) -> &Layer<V>,
        (from, to): (Bound<Vec<u8>>, Bound<Vec<u8>>),
        at_once: usize,
    ) -> Self {
        let mut cursor = Self {
            source,
            layer,
            from,
            to,
            at_once: at_once.max(1),
            fetched: VecDeque::new(),
            ended: false,
        };
        cursor.fetch();
        cursor
    }

    fn fetch(&mut self) {
        let bounds = (slice(&self.from), slice(&self.to));
        let (layer, most) = (self.layer, self.at_once);
        let mut looked = 0;
        let (rows, last) = self.source.look(|tables, at| {
            let range = layer(tables).rows.range::<[u8], _>(bounds);
            let mut last = None;
            let mut rows = VecDeque::new();
            for (key, row) in range.take(most) {
                looked += 1;
                last = Some(Arc::clone(key));
                if let Some(value) = row.at(at) {
                    rows.push_back((Arc::clone(key), value.clone()));
                }
            }
            (rows, last)
        });
        self.fetched = rows;
        self.ended = looked < most;
        if let Some(last) = last {
            self.from = Bound::Excluded(last.to_vec());
        }
    }

    /// The key of the next row.
    pub(super) fn key(&mut self) -> Option<&[u8]> {
        while self.fetched.is_empty() && !self.ended {
            self.fetch();
        }
        self.fetched.front().map(|(key, _)| key.borrow())
    }

    /// Goes on to the next row; returns this one's value, None if its key was deleted.
    pub(super) fn step(&mut self) -> Option<V> {
        self.fetched.pop_front().and_then(|(_, value)| value)
    }
}

fn slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(byte: u8) -> Option<Value> {
        Some([byte].into())
    }

    #[test]
    fn a_row_keeps_what_views_look_at_and_nothing_else() {
        let mut layer = Layer::default();
        let key: Key = b"key".as_slice().into();
        let viewed = Viewed::from([(2, 1), (5, 1)]);
        for commit in 1..=9 {
            let shown: Viewed = viewed.range(..commit).map(|(at, by)| (*at, *by)).collect();
            layer.set(
                Arc::clone(&key),
                value(u8::try_from(commit).unwrap()),
                commit,
                &shown,
            );
        }
        assert_eq!(layer.get(&key, 2), Some(&value(2)));
        assert_eq!(layer.get(&key, 5), Some(&value(5)));
        assert_eq!(layer.get(&key, 9), Some(&value(9)));
        assert_eq!(layer.rows[&key].older.len(), 2);
        assert_eq!(layer.get(&key, 1), None, "nobody looked there");
        layer.set(Arc::clone(&key), None, 10, &Viewed::new());
        assert_eq!(layer.get(&key, 10), Some(&None));
        assert_eq!(layer.rows[&key].older.len(), 0);
        assert_eq!(layer.bytes, ROW_BYTES + 3);
    }

    #[test]
    fn what_could_not_be_written_lies_below_what_came_since() {
        let key = |name: &str| Key::from(name.as_bytes());
        let (mut old, mut new) = (Layer::default(), Layer::default());
        old.set(key("a"), value(1), 1, &Viewed::new());
        old.set(key("b"), value(1), 1, &Viewed::new());
        new.set(key("b"), None, 2, &Viewed::new());
        new.put_below(&old);
        assert_eq!(new.get(b"a", 2), Some(&value(1)));
        assert_eq!(new.get(b"b", 2), Some(&None));
    }
}
