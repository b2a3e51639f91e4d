//! Power cuts at every boundary: what comes back is what was there, and nothing else.
//!
//! Each seed is a machine that lives several times. A life opens log and store, compares the store with a plain model
//! at the index it claims to have applied, replays the rest, compares again, and goes on working at random until the
//! power goes, or the process ends without a checkpoint and the power goes after that.

use std::collections::BTreeMap;

use polyfs_core::ids::{GroupId, Lineage};

use super::toy_log::{Op, ToyLog};
use super::{open, seeds};
use crate::disk::DiskError;
use crate::extents::LogPins;
use crate::memory::{Dice, MemoryDir};
use crate::state::{LineageState, RegionKv, StateDb, StateView, StoreError};

const GROUP: GroupId = GroupId(7);
const LINEAGES: u64 = 2;
const KEYS: u64 = 6;
const CHUNKS: u64 = 4;
/// The part of a chunk that the model looks at.
const SPAN: usize = 96 << 10;

/// What the store should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    values: BTreeMap<(u64, u8), Vec<u8>>,
    chunks: BTreeMap<(u64, u8), Vec<u8>>,
}

/// An operation with all of its bytes, as replication would carry it.
#[derive(Clone, Debug)]
struct Entry {
    op: Op,
    payload: Vec<u8>,
}

impl Model {
    fn chunk(&mut self, lineage: u64, chunk: u8) -> &mut Vec<u8> {
        self.chunks
            .entry((lineage, chunk))
            .or_insert_with(|| vec![0; SPAN])
    }

    fn apply(&mut self, entry: &Entry) {
        match &entry.op {
            Op::Put {
                lineage,
                key,
                value,
            } => {
                self.values.insert((*lineage, *key), value.clone());
            }
            Op::Delete { lineage, key } => {
                self.values.remove(&(*lineage, *key));
            }
            Op::Small {
                lineage,
                chunk,
                offset,
                bytes,
            } => {
                let at = usize::try_from(*offset).unwrap();
                self.chunk(*lineage, *chunk)[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Op::Extent {
                lineage,
                chunk,
                offset,
                from,
                ..
            } => {
                let at = usize::try_from(*offset).unwrap();
                let bytes = &entry.payload[*from as usize..];
                self.chunk(*lineage, *chunk)[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Op::Zero {
                lineage,
                chunk,
                offset,
                len,
            } => {
                let at = usize::try_from(*offset).unwrap();
                if let Some(chunk) = self.chunks.get_mut(&(*lineage, *chunk)) {
                    chunk[at..at + len].fill(0);
                }
            }
            Op::DeleteChunk { lineage, chunk } => {
                self.chunks.remove(&(*lineage, *chunk));
            }
            Op::DeleteLineage { lineage } => {
                self.values.retain(|key, _| key.0 != *lineage);
                self.chunks.retain(|key, _| key.0 != *lineage);
            }
        }
    }

    fn compare(&self, view: &StateView<MemoryDir>, doing: &str) {
        for lineage in 0..LINEAGES {
            let rows = view.scan(Lineage(lineage), &[], None, 1000).unwrap();
            let found: Vec<_> = rows
                .into_iter()
                .map(|(key, value)| (key[0], value))
                .collect();
            let own = self.values.iter().filter(|entry| entry.0.0 == lineage);
            let expected: Vec<_> = own.map(|(key, value)| (key.1, value.clone())).collect();
            assert_eq!(found, expected, "values of lineage {lineage}: {doing}");
            let keys = view.chunk_keys(Lineage(lineage), &[], None, 1000).unwrap();
            let own = self.chunks.keys().filter(|key| key.0 == lineage);
            assert_eq!(
                keys,
                own.map(|key| vec![key.1]).collect::<Vec<_>>(),
                "chunks: {doing}"
            );
            for key in keys {
                let read = view.read_chunk(Lineage(lineage), &key, 0, SPAN);
                let read = read.unwrap_or_else(|error| panic!("{doing}: {error}"));
                let same = read[..] == self.chunks[&(lineage, key[0])][..];
                assert!(same, "chunk {key:?} of lineage {lineage}: {doing}");
            }
        }
    }
}

/// What outlives a power cut: the test's own knowledge.
struct World {
    dice: Dice,
    /// Every entry ever appended that may still be in the log, from index 1 on.
    history: Vec<Entry>,
    /// The log was synced through here: these entries may never be lost.
    promised: u64,
    /// A checkpoint answered Ok with this applied index.
    checkpointed: u64,
    purged: u64,
    crashes: u64,
    replayed: u64,
    aligned: u64,
}

enum End {
    Power,
    Exit,
}

struct Life {
    db: StateDb<MemoryDir>,
    log: ToyLog,
    pins: LogPins,
    applied: u64,
    model: Model,
    views: Vec<(StateView<MemoryDir>, Model)>,
}

fn power(error: StoreError) -> End {
    match error {
        StoreError::Disk(DiskError::PowerLost) => End::Power,
        StoreError::Poisoned(reason) if reason.contains("lost power") => End::Power,
        other => panic!("unexpected: {other}"),
    }
}

fn cut(error: DiskError) -> End {
    power(StoreError::Disk(error))
}

impl World {
    fn model_at(&self, index: u64) -> Model {
        let mut model = Model::default();
        for entry in &self.history[..usize::try_from(index).unwrap()] {
            model.apply(entry);
        }
        model
    }

    fn begin_life(&mut self, dir: &MemoryDir) -> Result<Life, End> {
        let log = ToyLog::open(dir).map_err(cut)?;
        assert!(
            log.last >= self.promised,
            "the log lost {}..={}",
            log.last,
            self.promised
        );
        self.history.truncate(usize::try_from(log.last).unwrap());
        let extents: Vec<_> = log
            .entries
            .iter()
            .filter_map(|(index, op)| match op {
                Op::Extent { extent, .. } => Some((*index, *extent)),
                _ => None,
            })
            .collect();
        let refs: Vec<_> = extents.iter().map(|entry| entry.1).collect();
        let opened = open(dir, &refs).map_err(power)?;
        assert_eq!(opened.damaged, []);
        let db = opened.db;
        for (index, extent) in &extents {
            let bytes = db.data().read(*extent, 0..extent.bytes);
            let bytes = match bytes {
                Err(StoreError::Disk(error)) => return Err(cut(error)),
                other => {
                    other.unwrap_or_else(|error| panic!("rule 1 or 3, entry {index}: {error}"))
                }
            };
            let entry = &self.history[usize::try_from(*index).unwrap() - 1];
            assert!(
                bytes[..] == entry.payload[..],
                "rule 3: the extent of entry {index}"
            );
        }
        let view = db.view().map_err(power)?;
        let applied = view
            .get_group(GROUP)
            .unwrap()
            .map_or(0, |record| record.applied);
        assert!(
            applied <= log.last,
            "rule 4: applied {applied}, the log ends at {}",
            log.last
        );
        assert!(applied >= self.checkpointed, "a checkpoint was lost");
        let model = self.model_at(applied);
        model.compare(&view, "after recovery, before replay");
        drop(view);
        let pins = LogPins::new(opened.pins);
        let mut life = Life {
            db,
            log,
            pins,
            applied,
            model,
            views: Vec::new(),
        };
        self.promised = self.promised.max(life.log.synced);
        self.replayed += life.log.last - applied;
        while life.applied < life.log.last {
            let some = 1 + self.dice.below(4);
            life.apply(self, some)?;
        }
        life.compare("after replay")?;
        Ok(life)
    }

    fn live(&mut self, dir: &MemoryDir) -> End {
        let mut life = match self.begin_life(dir) {
            Ok(life) => life,
            Err(end) => return end,
        };
        for _ in 0..20 + self.dice.below(40) {
            let done = match self.dice.below(16) {
                0..8 => life.append(self),
                8..11 => life.apply(self, 4),
                11 => life.log.sync().map_err(cut),
                12 | 13 => life.checkpoint(self),
                14 => life.purge(self),
                _ => life.look_around(self),
            };
            self.promised = self.promised.max(life.log.synced);
            if let Err(end) = done {
                return end;
            }
        }
        let whole = self.dice.below(2) == 0;
        match if whole {
            life.compare("at the end")
        } else {
            Ok(())
        } {
            Ok(()) => End::Exit,
            Err(end) => end,
        }
    }
}

impl Life {
    fn compare(&self, doing: &str) -> Result<(), End> {
        let view = self.db.view().map_err(power)?;
        self.model.compare(&view, doing);
        Ok(())
    }

    fn append(&mut self, world: &mut World) -> Result<(), End> {
        let dice = &mut world.dice;
        let lineage = dice.below(LINEAGES);
        let key = u8::try_from(dice.below(KEYS)).unwrap();
        let chunk = u8::try_from(dice.below(CHUNKS)).unwrap();
        let mut payload = Vec::new();
        let mut pin = None;
        let op = match dice.below(40) {
            0..8 => Op::Put {
                lineage,
                key,
                value: noise(dice, 600),
            },
            8..10 => Op::Delete { lineage, key },
            10..24 => {
                let bytes = noise(dice, 10_000);
                Op::Small {
                    lineage,
                    chunk,
                    offset: place(dice, bytes.len()),
                    bytes,
                }
            }
            24..33 => {
                payload = noise(dice, 60_000);
                let from = u32::try_from(dice.below_len(payload.len()) / 3).unwrap();
                let offset = place(dice, payload.len());
                let aligned = dice.below(3) > 0;
                let lead = (offset + 4096 * 32 - u64::from(from)) % 4096;
                let lead = if aligned { lead } else { dice.below(4096) };
                world.aligned += u64::from(aligned);
                let lead = usize::try_from(lead).unwrap();
                let written = self.db.data().write_extent(&payload, lead).map_err(power)?;
                let synced = self.db.data().sync().map_err(power)?;
                assert!(synced.covers(&written), "rule 1");
                let extent = written.pin.extent();
                pin = Some(written.pin);
                Op::Extent {
                    lineage,
                    chunk,
                    offset,
                    extent,
                    from,
                }
            }
            33..36 => {
                let len = dice.below_len(20_000);
                Op::Zero {
                    lineage,
                    chunk,
                    offset: place(dice, len),
                    len,
                }
            }
            36..39 => Op::DeleteChunk { lineage, chunk },
            _ => Op::DeleteLineage { lineage },
        };
        world.history.push(Entry {
            op: op.clone(),
            payload,
        });
        self.log.append(op).map_err(cut)?;
        if let Some(pin) = pin {
            self.pins.hold(pin);
        }
        // What a majority holds is applied, synced here or not.
        if world.dice.below(2) == 0 {
            self.log.sync().map_err(cut)
        } else {
            Ok(())
        }
    }

    /// Applies up to `most` entries in one batch; now and then the batch is dropped and done again.
    fn apply(&mut self, world: &mut World, most: u64) -> Result<(), End> {
        let through = self.log.last.min(self.applied + most);
        let entries = self.applied..through;
        if entries.is_empty() {
            return Ok(());
        }
        let entries =
            usize::try_from(entries.start).unwrap()..usize::try_from(entries.end).unwrap();
        let entries = world.history[entries].to_vec();
        let attempts = 1 + u64::from(world.dice.below(8) == 0);
        for attempt in 1..=attempts {
            let mut batch = self.db.begin().map_err(power)?;
            for entry in &entries {
                if let Op::DeleteLineage { lineage } = entry.op {
                    while !batch.delete_lineage(Lineage(lineage), 3).map_err(power)? {}
                    continue;
                }
                let (Op::Put { lineage, .. }
                | Op::Delete { lineage, .. }
                | Op::Small { lineage, .. }
                | Op::Extent { lineage, .. }
                | Op::Zero { lineage, .. }
                | Op::DeleteChunk { lineage, .. }
                | Op::DeleteLineage { lineage }) = entry.op;
                let mut state = batch.lineage(Lineage(lineage)).map_err(power)?;
                let at_hand = world.dice.below(2) == 0;
                apply_one(&mut state, entry, at_hand).map_err(power)?;
            }
            batch.set_group(GROUP, through, b"record").map_err(power)?;
            if attempt == attempts {
                batch.commit().map_err(power)?;
            }
        }
        for entry in &entries {
            self.model.apply(entry);
        }
        self.applied = through;
        Ok(())
    }

    fn checkpoint(&mut self, world: &mut World) -> Result<(), End> {
        let hasty = world.dice.below(2) == 0;
        let plan = self.db.prepare_checkpoint().map_err(power)?;
        if !hasty {
            self.log.sync().map_err(cut)?;
        }
        let synced = self.log.synced;
        match plan.commit(|_| synced) {
            Ok(done) => {
                let applied = done.applied.get(&GROUP).copied().unwrap_or(0);
                assert_eq!(applied, self.applied);
                world.checkpointed = applied;
                Ok(())
            }
            Err(StoreError::CheckpointAheadOfLog {
                group: GROUP,
                applied,
                synced,
            }) => {
                assert!(hasty && applied > synced);
                Ok(())
            }
            Err(error) => Err(power(error)),
        }
    }

    fn purge(&mut self, world: &mut World) -> Result<(), End> {
        let room = world.checkpointed.saturating_sub(world.purged);
        let through = world.purged + world.dice.below(room + 1);
        let gone = self.log.purge(through).map_err(cut)?;
        world.purged = through;
        self.pins.release(&gone);
        Ok(())
    }

    /// Views that outlive what they show, and work for idle times.
    fn look_around(&mut self, world: &mut World) -> Result<(), End> {
        match world.dice.below(5) {
            0 => self
                .views
                .push((self.db.view().map_err(power)?, self.model.clone())),
            1 => {
                self.db.data().punch_free(64 << 10).map_err(power)?;
            }
            2 => {
                let mut batch = self.db.begin().map_err(power)?;
                let mut state = batch
                    .lineage(Lineage(world.dice.below(LINEAGES)))
                    .map_err(power)?;
                let chunk = u8::try_from(world.dice.below(CHUNKS)).unwrap();
                state.rewrite_when_fragmented(&[chunk], 2).map_err(power)?;
                batch.commit().map_err(power)?;
            }
            3 => self.compare("now")?,
            _ => {
                if let Some((view, model)) = self.views.pop() {
                    model.compare(&view, "in an old view");
                }
            }
        }
        Ok(())
    }
}

fn apply_one(
    state: &mut LineageState<'_, MemoryDir>,
    entry: &Entry,
    at_hand: bool,
) -> Result<(), StoreError> {
    match &entry.op {
        Op::Put { key, value, .. } => state.put(&[*key], value),
        Op::Delete { key, .. } => state.delete(&[*key]),
        Op::Small {
            chunk,
            offset,
            bytes,
            ..
        } => state.write_small(&[*chunk], *offset, bytes),
        Op::Extent {
            chunk,
            offset,
            extent,
            from,
            ..
        } => {
            let content = at_hand.then_some(&entry.payload[..]);
            state.write_extent(&[*chunk], *offset, *extent, *from..extent.bytes, content)
        }
        Op::Zero {
            chunk, offset, len, ..
        } => state.zero(&[*chunk], *offset, *len),
        Op::DeleteChunk { chunk, .. } => state.delete_chunk(&[*chunk]),
        Op::DeleteLineage { .. } => unreachable!("handled by the batch"),
    }
}

fn noise(dice: &mut Dice, longest: usize) -> Vec<u8> {
    let len = 1 + dice.below_len(longest);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Somewhere in the span, often at a page's start.
fn place(dice: &mut Dice, len: usize) -> u64 {
    let offset = dice.below_len(SPAN - len + 1) as u64;
    if dice.below(2) == 0 {
        offset / 4096 * 4096
    } else {
        offset
    }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            history: Vec::new(),
            promised: 0,
            checkpointed: 0,
            purged: 0,
            crashes: 0,
            replayed: 0,
            aligned: 0,
        }
    }

    /// A last life without faults, in which nothing is missing.
    fn end(mut self, dir: &MemoryDir) -> Self {
        let life = self
            .begin_life(dir)
            .unwrap_or_else(|_| panic!("nothing cuts the power now"));
        drop(life);
        self
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    let mut dir = MemoryDir::new(seed);
    for _ in 0..5 {
        if world.dice.below(3) > 0 {
            dir.cut_power_after(1 + world.dice.below(300));
        }
        let end = world.live(&dir);
        world.crashes += u64::from(matches!(end, End::Power));
        dir = dir.restart(world.dice.roll());
    }
    world.end(&dir)
}

#[test]
fn what_was_promised_survives_power_cuts_at_any_boundary() {
    let (mut crashes, mut replayed, mut aligned) = (0, 0, 0);
    let seeds = seeds(150);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let done = std::panic::catch_unwind(|| run(seed));
        let world = done.unwrap_or_else(|cause| {
            let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            eprintln!("seed {seed} failed: {text}");
            panic!("POLYFS_SEED={seed} POLYFS_SEEDS=1: {text}")
        });
        crashes += world.crashes;
        replayed += world.replayed;
        aligned += world.aligned;
    }
    assert!(
        crashes > count && replayed > count && aligned > count,
        "the test does its work"
    );
}

#[test]
fn a_power_cut_at_each_single_boundary_of_a_life_is_survived() {
    for seed in [1, 2] {
        let mut cut_after = 1;
        loop {
            let mut world = World::new(seed);
            let dir = MemoryDir::new(seed);
            dir.cut_power_after(cut_after);
            let end = world.live(&dir);
            let dir = dir.restart(cut_after);
            world.end(&dir);
            if matches!(end, End::Exit) {
                break;
            }
            cut_after += 1;
        }
        assert!(
            cut_after > 100,
            "seed {seed} has only {cut_after} boundaries"
        );
    }
}
