//! Pending over stored state against a plain map: whatever is committed, frozen, thawed, written or viewed meanwhile,
//! a batch sees the newest and a view what was there when it was made.

use std::collections::BTreeMap;

use polyfs_core::ids::{GroupId, Lineage};

use super::{open, seeds};
use crate::memory::{Dice, MemoryDir};
use crate::state::{CheckpointPlan, LineageState, RegionKv, StateDb, StateView, StoreError};

const LINEAGES: u64 = 3;
const KEYS: u64 = 150;
const GROUPS: u64 = 3;

type Key = (u64, Vec<u8>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    values: BTreeMap<Key, Vec<u8>>,
    /// The first byte of each of four pages.
    chunks: BTreeMap<Key, [u8; 4]>,
    groups: BTreeMap<u64, u64>,
}

fn key(dice: &mut Dice) -> Vec<u8> {
    let number = u8::try_from(dice.below(KEYS)).unwrap();
    // Some are the beginning of others.
    if dice.below(3) == 0 {
        vec![number]
    } else {
        vec![number, number / 2]
    }
}

/// A range, open or not, and how much of it.
fn range(dice: &mut Dice) -> (Vec<u8>, Option<Vec<u8>>, usize) {
    let from = if dice.below(4) == 0 {
        vec![]
    } else {
        key(dice)
    };
    let to = (dice.below(3) > 0).then(|| key(dice));
    let limit = [0, 1, 2, 7, 64, 65, 1000][dice.below_len(7)];
    (from, to, limit)
}

fn part<'m, V>(
    map: &'m BTreeMap<Key, V>,
    lineage: u64,
    from: &'m [u8],
    to: Option<&'m [u8]>,
) -> impl Iterator<Item = (&'m Vec<u8>, &'m V)> {
    let all = map.iter().filter(move |entry| entry.0.0 == lineage);
    all.map(|(key, value)| (&key.1, value))
        .filter(move |(key, _)| &key[..] >= from && to.is_none_or(|to| &key[..] < to))
}

impl Model {
    fn rows(
        &self,
        lineage: u64,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = part(&self.values, lineage, from, to).take(limit);
        rows.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn chunk_keys(
        &self,
        lineage: u64,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Vec<u8>> {
        let keys = part(&self.chunks, lineage, from, to).take(limit);
        keys.map(|(key, _)| key.clone()).collect()
    }

    fn compare(&self, view: &StateView<MemoryDir>, dice: &mut Dice) {
        for lineage in 0..LINEAGES {
            let (from, to, limit) = range(dice);
            let to = to.as_deref();
            let found = view.scan(Lineage(lineage), &from, to, limit).unwrap();
            assert_eq!(found, self.rows(lineage, &from, to, limit));
            let found = view.chunk_keys(Lineage(lineage), &from, to, limit).unwrap();
            assert_eq!(found, self.chunk_keys(lineage, &from, to, limit));
            let key = key(dice);
            let expected = self.values.get(&(lineage, key.clone()));
            assert_eq!(view.get(Lineage(lineage), &key).unwrap().as_ref(), expected);
            let page = dice.below(4);
            let chunk = self.chunks.get(&(lineage, key.clone()));
            let expected = chunk.map_or(0, |chunk| chunk[usize::try_from(page).unwrap()]);
            let read = view.read_chunk(Lineage(lineage), &key, page * 4096, 2);
            assert_eq!(read.unwrap()[..], [expected; 2]);
        }
        let groups = view.groups().unwrap().into_iter();
        let groups: BTreeMap<_, _> = groups.map(|(id, kept)| (id.0, kept.applied)).collect();
        assert_eq!(groups, self.groups);
        let with_keys = self.values.keys().chain(self.chunks.keys());
        let lineages = with_keys.map(|key| Lineage(key.0)).collect();
        assert_eq!(view.lineages().unwrap(), lineages);
    }

    fn change(
        &mut self,
        state: &mut LineageState<'_, MemoryDir>,
        lineage: u64,
        dice: &mut Dice,
    ) -> Result<(), StoreError> {
        let key = key(dice);
        let entry = (lineage, key.clone());
        let byte = u8::try_from(1 + dice.below(255)).unwrap();
        match dice.below(16) {
            0..6 => {
                let value = vec![byte; dice.below_len(40)];
                state.put(&key, &value)?;
                self.values.insert(entry, value);
            }
            6..8 => {
                state.delete(&key)?;
                self.values.remove(&entry);
            }
            8..11 => {
                let page = dice.below_len(4);
                state.write_small(&key, page as u64 * 4096, &[byte; 4096])?;
                self.chunks.entry(entry).or_default()[page] = byte;
            }
            11 => {
                state.delete_chunk(&key)?;
                self.chunks.remove(&entry);
            }
            12 => {
                let (from, to, limit) = range(dice);
                let (to, limit) = (to.as_deref(), limit.min(30));
                let gone = self.rows(lineage, &from, to, limit);
                assert_eq!(state.delete_range(&from, to, limit)?, gone.len());
                for (key, _) in gone {
                    self.values.remove(&(lineage, key));
                }
            }
            13 => {
                let (from, to, limit) = range(dice);
                let (to, limit) = (to.as_deref(), limit.min(5));
                let gone = self.chunk_keys(lineage, &from, to, limit);
                assert_eq!(state.delete_chunks(&from, to, limit)?, gone.len());
                for key in gone {
                    self.chunks.remove(&(lineage, key));
                }
            }
            _ => {
                let (from, to, limit) = range(dice);
                let to = to.unwrap_or_else(|| vec![255; 3]);
                let rows = state.scan(&from, &to, limit)?;
                assert_eq!(rows, self.rows(lineage, &from, Some(&to), limit));
                assert_eq!(state.get(&key)?.as_ref(), self.values.get(&entry));
            }
        }
        Ok(())
    }
}

struct Life {
    dir: MemoryDir,
    db: StateDb<MemoryDir>,
    model: Model,
    views: Vec<(StateView<MemoryDir>, Model)>,
    plan: Option<(CheckpointPlan<MemoryDir>, Model)>,
    durable: Model,
    checkpoints: u32,
    thawed: u32,
}

impl Life {
    fn batch(&mut self, dice: &mut Dice) {
        let mut model = self.model.clone();
        let mut batch = self.db.begin().unwrap();
        for _ in 0..dice.below(8) {
            let lineage = dice.below(LINEAGES);
            let mut state = batch.lineage(Lineage(lineage)).unwrap();
            model.change(&mut state, lineage, dice).unwrap();
        }
        let group = dice.below(GROUPS);
        if dice.below(5) == 0 {
            batch.delete_group(GroupId(group)).unwrap();
            model.groups.remove(&group);
        } else {
            let applied = dice.below(1000);
            batch.set_group(GroupId(group), applied, b"kept").unwrap();
            model.groups.insert(group, applied);
        }
        if dice.below(30) == 0 {
            let lineage = dice.below(LINEAGES);
            while !batch.delete_lineage(Lineage(lineage), 20).unwrap() {}
            model.values.retain(|key, _| key.0 != lineage);
            model.chunks.retain(|key, _| key.0 != lineage);
        }
        if dice.below(6) > 0 {
            batch.commit().unwrap();
            self.model = model;
        }
    }

    fn checkpoint(&mut self, dice: &mut Dice) {
        let Some((plan, model)) = self.plan.take() else {
            self.plan = Some((self.db.prepare_checkpoint().unwrap(), self.model.clone()));
            return;
        };
        let ahead = model.groups.values().any(|applied| *applied > 0);
        match dice.below(4) {
            0 => drop(plan),
            1 if ahead => assert!(plan.commit(|_| 0).is_err()),
            _ => {
                let done = plan.commit(|_| u64::MAX).unwrap();
                assert_eq!(done.applied.len(), model.groups.len());
                self.checkpoints += 1;
                self.durable = model;
                return;
            }
        }
        self.thawed += 1;
    }

    fn step(&mut self, dice: &mut Dice) {
        match dice.below(12) {
            0..5 => self.batch(dice),
            5..7 => self.checkpoint(dice),
            7 => {
                let view = self.db.view().unwrap();
                self.views.push((view, self.model.clone()));
            }
            8 if !self.views.is_empty() => {
                self.views.swap_remove(dice.below_len(self.views.len()));
            }
            9 => self.model.compare(&self.db.view().unwrap(), dice),
            _ if !self.views.is_empty() => {
                let (view, model) = &self.views[dice.below_len(self.views.len())];
                model.compare(view, dice);
            }
            _ => {}
        }
    }

    /// Everything is let go without a checkpoint: what the last one made durable is there, and no block is lost.
    fn end(self, dice: &mut Dice) {
        let Self {
            dir,
            db,
            views,
            plan,
            durable,
            ..
        } = self;
        drop((views, plan, db));
        let db = open(&dir.restart(1), &[]).unwrap().db;
        let view = db.view().unwrap();
        assert_eq!(view.verify().unwrap(), BTreeMap::new());
        for _ in 0..10 {
            durable.compare(&view, dice);
        }
        let pages = |chunk: &[u8; 4]| chunk.iter().filter(|byte| **byte > 0).count() as u64;
        let pages: u64 = durable.chunks.values().map(pages).sum();
        assert_eq!(db.data().usage().used, pages * 4096);
    }
}

#[test]
fn batches_and_views_agree_with_a_plain_map_over_checkpoints() {
    let (mut checkpoints, mut thawed) = (0, 0);
    for seed in seeds(60) {
        let run = || {
            let mut dice = Dice::new(seed);
            let dir = MemoryDir::new(seed);
            let db = open(&dir, &[]).unwrap().db;
            let mut life = Life {
                dir,
                db,
                model: Model::default(),
                views: vec![],
                plan: None,
                durable: Model::default(),
                checkpoints: 0,
                thawed: 0,
            };
            for _ in 0..250 {
                life.step(&mut dice);
            }
            let counts = (life.checkpoints, life.thawed);
            life.end(&mut dice);
            counts
        };
        let done = std::panic::catch_unwind(run);
        let counts = done.unwrap_or_else(|cause| {
            let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            eprintln!("seed {seed} failed: {text}");
            panic!("POLYFS_SEED={seed} POLYFS_SEEDS=1: {text}")
        });
        checkpoints += counts.0;
        thawed += counts.1;
    }
    assert!(checkpoints > 20 && thawed > 20, "the test does its work");
}
