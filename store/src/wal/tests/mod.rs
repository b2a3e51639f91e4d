//! Tests of the log as a whole, on the in-memory disk.

mod behaviour;
mod crash;
mod format;
mod model;
mod rot;

use std::collections::VecDeque;

use bytes::Bytes;
use polyfs_core::ids::GroupId;

use self::model::Model;
use super::{
    Log, LogConfig, LogEntry, LogError, PayloadRef, Record, Recovered, Recovery, Settled,
    SyncedExtent, Ticket, create, recover,
};
use crate::extent_ref::ExtentRef;
use crate::memory::{Dice, MemoryDir};

const LIFE: u64 = 0x1234_5678_9abc_def0;

/// Which seeds to run: the first ones, or what `POLYFS_SEEDS=from..to` says, to repeat one or to run many.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("POLYFS_SEEDS") else {
        return 0..default;
    };
    let (from, to) = text.split_once("..").expect("from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 32 << 10,
        segments_initial: 3,
        segments_max: 5,
        segments_spare: 2,
        batch_bytes_max: 12 << 10,
        cache_bytes_max: 8 << 10,
    }
}

fn entry(group: u64, index: u64, term: u64, payload: PayloadRef) -> Record {
    let head = Bytes::from(format!("{group}/{index}/{term}"));
    Record::Entry {
        group: GroupId(group),
        entry: LogEntry {
            index,
            term,
            head,
            payload,
        },
    }
}

fn in_log(len: usize, byte: u8) -> PayloadRef {
    PayloadRef::InLog(Bytes::from(vec![byte; len]))
}

fn vote(group: u64, text: &str) -> Record {
    Record::Vote {
        group: GroupId(group),
        bytes: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn purge(group: u64, upto_index: u64) -> Record {
    let bytes = Bytes::from(format!("purged {upto_index}"));
    Record::Purge {
        group: GroupId(group),
        upto_index,
        bytes,
    }
}

fn extent(number: u32) -> PayloadRef {
    let extent = ExtentRef {
        file: 1,
        offset: u64::from(number) << 16,
        bytes: 65536,
        crc: number,
    };
    PayloadRef::Extent(SyncedExtent::after_sync(extent))
}

/// A log, what it should say now, and what it has promised to say after a crash.
struct Rig {
    dir: MemoryDir,
    config: LogConfig,
    log: Log<MemoryDir>,
    boot: u64,
    acked: Model,
    pending: VecDeque<(Ticket, Record)>,
    now: Model,
    /// How often the oldest segment was carried forward.
    carried: u64,
}

impl Rig {
    fn new(config: LogConfig) -> Self {
        let dir = MemoryDir::new(1);
        create(&dir, &config, LIFE).unwrap();
        Self::open(dir, config, 1, Model::default()).unwrap()
    }

    fn open(dir: MemoryDir, config: LogConfig, boot: u64, model: Model) -> Result<Self, LogError> {
        let log = find(&dir, &config).start(&dir, boot)?;
        let (acked, now) = (model.clone(), model);
        Ok(Self {
            dir,
            config,
            log,
            boot,
            acked,
            pending: VecDeque::new(),
            now,
            carried: 0,
        })
    }

    fn push(&mut self, record: Record) -> Result<Ticket, LogError> {
        let ticket = self.log.index.push(record.clone())?;
        self.now.apply(&record);
        self.pending.push_back((ticket, record));
        Ok(ticket)
    }

    /// What a driver does in one round: make room, write one batch.
    fn turn(&mut self) -> Result<Option<Settled>, LogError> {
        let Log {
            index,
            writer,
            reader,
        } = &mut self.log;
        if let Some(plan) = index.plan_carry() {
            let entries = reader.load(plan.found.clone())?;
            index.carry(&plan, entries);
            self.carried += 1;
        } else if let Some(wanted) = writer.wants_segment() {
            writer.adopt(wanted.make(&self.dir)?);
        }
        let batch = match index.take_batch()? {
            Some(batch) => batch,
            None => match index.take_mark()? {
                Some(mark) => mark,
                None => return Ok(None),
            },
        };
        let written = match writer.write(&batch) {
            Ok(written) => written,
            Err(error) => {
                index.put_back(batch);
                return Err(error);
            }
        };
        let settled = index.written(batch, written);
        while let Some((_, record)) = self
            .pending
            .pop_front_if(|(ticket, _)| *ticket <= settled.durable)
        {
            self.acked.apply(&record);
        }
        Ok(Some(settled))
    }

    /// Writes until nothing is left to be written, the mark included.
    fn settle(&mut self) -> Result<(), LogError> {
        for _ in 0..100 {
            if self.turn()?.is_none() {
                return Ok(());
            }
        }
        panic!("the log falls idle when nobody wants anything");
    }

    fn says(&self) -> Model {
        Model::of(&self.log.index, &self.log.reader)
    }

    /// Stops without a power cut and starts again.
    fn reopen(self) -> Self {
        let (dir, config) = (self.dir, self.config);
        let recovery = find(&dir, &config);
        let model = recovered_model(&recovery);
        Self::open(dir, config, self.boot + 1, model).unwrap()
    }
}

fn find(dir: &MemoryDir, config: &LogConfig) -> Recovery<MemoryDir> {
    recover(dir, config).unwrap().expect("the log is there")
}

fn recovered_model(recovery: &Recovery<MemoryDir>) -> Model {
    let (index, reader) = recovery.parts();
    let model = Model::of(index, &reader);
    let mut extents = recovery.report.extents.clone();
    let mut expected = model.extents();
    extents.sort();
    expected.sort();
    assert_eq!(extents, expected);
    model
}

fn report(dir: &MemoryDir, config: &LogConfig) -> Recovered {
    find(dir, config).report
}

/// One random record that keeps Raft's laws, given what the log says now.
fn random_record(dice: &mut Dice, now: &Model) -> Record {
    let id = 1 + dice.below(5);
    let group = GroupId(id);
    let known = now.0.get(&group).cloned().unwrap_or_default();
    let text = Bytes::from(format!("value {}", dice.below(1000)));
    let last = known.last_index();
    match dice.below(100) {
        0..8 => Record::Vote { group, bytes: text },
        8..16 => Record::Committed { group, bytes: text },
        16..19 => Record::Create { group, bytes: text },
        19..21 => Record::Destroy { group },
        21..27 if !known.entries.is_empty() => {
            let entries = known.entries.len();
            let index = known.entries.keys().nth(dice.below_len(entries)).unwrap();
            Record::Truncate {
                group,
                from_index: *index,
            }
        }
        27..35 if last.is_some() => {
            let first = known.purged.map_or(0, |purged| purged.0);
            // Sometimes beyond the end, as after a snapshot.
            let upto = first + dice.below(last.unwrap() + 3 - first.min(last.unwrap()));
            purge(id, upto.max(first))
        }
        _ => {
            let payload = match dice.below(8) {
                0..2 => PayloadRef::None,
                2..4 => extent(u32::try_from(dice.below(1 << 20)).unwrap()),
                _ => {
                    let limit = if dice.below(8) == 0 { 11_000 } else { 600 };
                    in_log(
                        dice.below_len(limit),
                        u8::try_from(dice.below(256)).unwrap(),
                    )
                }
            };
            entry(id, last.map_or(1, |last| last + 1), dice.below(9), payload)
        }
    }
}

/// Pushes a random record; when the log is full, purges what holds it.
fn random_step(rig: &mut Rig, dice: &mut Dice) -> Result<(), LogError> {
    let record = random_record(dice, &rig.now);
    match rig.push(record) {
        Ok(_) => {}
        Err(LogError::Full) => purge_holders(rig)?,
        Err(other) => return Err(other),
    }
    if dice.below(3) == 0 {
        match rig.turn() {
            Ok(_) => {}
            Err(LogError::Full) => panic!("the reserve keeps the writer from being stuck"),
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

fn purge_holders(rig: &mut Rig) -> Result<(), LogError> {
    rig.settle()?;
    for (group, bytes, upto) in rig.log.index.holders() {
        assert!(bytes > 0);
        rig.push(purge(group.0, upto))?;
    }
    rig.settle()
}
