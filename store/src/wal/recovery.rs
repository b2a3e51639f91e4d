//! From what the segments hold to what the log says.
//!
//! Owns P10's Recovery for the log: the mark is the highest found anywhere; a bad batch at or below it, or before a
//! valid one, is corruption; any other is a torn tail and cut. Replays the rest into a fresh index. Deliberately
//! decides nothing about replicas: it says which groups may be affected.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use polyfs_core::ids::GroupId;

use super::batch::BATCH_HEADER_BYTES;
use super::error::{LogError, Poison};
use super::index::{GroupState, LogIndex, Settled};
use super::reader::LogReader;
use super::record::{self, Record, RecordFault};
use super::scan::{Place, Scan, body, scan};
use super::segment::{self, FIRST_BATCH, Files, Position, SegmentId, Window};
use super::writer::{LogWriter, Tail, Use};
use super::{Log, LogConfig};
use crate::disk::{Dir, Disk, DiskError};
use crate::extent_ref::ExtentRef;

/// What recovery thinks of what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was ever written is there, as far as can be seen.
    Clean,
    /// The last batch was cut: a power loss does this; it may have been acknowledged all the same (P10).
    TornTail,
    /// Acknowledged records are damaged or missing: a broken promise of the disk.
    Corrupt {
        /// The first bad batch.
        sequence: u64,
        /// Whose records.
        affected: Affected,
    },
}

/// Groups whose records may be damaged. The log can go on without them: destroy them ([`Record::Destroy`]), and the
/// damage no longer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// It cannot be told.
    All,
    /// These and no others.
    Groups(BTreeSet<GroupId>),
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// What is known of each group; of affected ones, what is left.
    pub groups: BTreeMap<GroupId, GroupState>,
    /// Whether to trust it.
    pub verdict: Verdict,
    /// Every extent that an unpurged entry refers to.
    pub extents: Vec<ExtentRef>,
    /// The sequence of the next batch.
    pub next_sequence: u64,
    /// Every batch up to this one was known to be durable.
    pub mark: u64,
    /// The highest boot number in the log; 0 when it is empty: nobody has ever started with it.
    pub boot: u64,
    /// How many segments there are.
    pub segments: usize,
}

/// A recovered log that is not yet being written to.
pub struct Recovery<D: Dir> {
    /// What was found.
    pub report: Recovered,
    index: LogIndex,
    files: Arc<Files<D::Disk>>,
    poison: Poison,
    tail: Tail,
    in_use: VecDeque<Use>,
}

/// Makes a new, empty log of `life` (random, never 0, never used before on this store) in `dir`. When it returns,
/// the log is durable; when it fails or the power goes, `recover` finds no log or an empty one.
///
/// # Errors
/// `Config`, also when there is a log already; failures of the disk.
pub fn create<D: Dir>(dir: &D, config: &LogConfig, life: u64) -> Result<(), LogError> {
    config.validate()?;
    if life == 0 {
        return Err(LogError::Config("a log's life is not 0"));
    }
    if segment::open_all(dir)?.is_some() {
        return Err(LogError::Config("there is a log already"));
    }
    segment::remove_unfinished(dir)?;
    let shape = segment::Shape {
        life,
        segment_bytes: config.segment_bytes,
    };
    let ids: Vec<SegmentId> = (1..).take(config.segments_initial).map(SegmentId).collect();
    segment::make(dir, shape, &ids)?;
    Ok(())
}

/// Reads the log in `dir`, changing nothing; None when there is none.
///
/// # Errors
/// `Corrupt` when no segment says what log it belongs to; `Newer`; failures of the disk. Damage to what was written is
/// no error but a [`Verdict`].
pub fn recover<D: Dir>(dir: &D, config: &LogConfig) -> Result<Option<Recovery<D>>, LogError> {
    config.validate()?;
    let Some(found) = segment::open_all(dir)? else {
        return Ok(None);
    };
    if config.batch_bytes_max as u64 + FIRST_BATCH > found.files.shape.segment_bytes {
        return Err(LogError::Config("a batch must fit the segments that exist"));
    }
    let scan = scan(&found.files)?;
    let poison = Poison::default();
    let segment_bytes = found.files.shape.segment_bytes;
    let mut replay = Replay {
        index: LogIndex::new(config.clone(), segment_bytes, poison.clone()),
        damaged: BTreeSet::new(),
        first_bad: None,
        all: false,
        chain: Vec::new(),
    };
    // Segments are numbered without gaps, and a log is written only when those that a creation left out are there.
    if !found.damaged.is_empty() || (found.has_gap() && scan.has_trace()) {
        replay.all_bad(0);
    }
    replay.run(&scan, &found.files)?;
    let verdict = replay.verdict(&scan);
    let tail = replay.tail(&scan);
    let in_use = replay.in_use();
    let index = replay.index;
    let groups = index
        .group_ids()
        .filter_map(|id| index.group(id).map(|state| (id, state)))
        .collect();
    let report = Recovered {
        groups,
        verdict,
        extents: index.extents(),
        next_sequence: tail.sequence + 1,
        mark: scan.mark,
        boot: scan.boot,
        segments: found.files.ids().len(),
    };
    Ok(Some(Recovery {
        report,
        index,
        files: Arc::new(found.files),
        poison,
        tail,
        in_use,
    }))
}

struct Replay {
    index: LogIndex,
    damaged: BTreeSet<GroupId>,
    first_bad: Option<u64>,
    all: bool,
    /// The log's batches, in order.
    chain: Vec<Place>,
}

impl Replay {
    fn all_bad(&mut self, sequence: u64) {
        self.first_bad.get_or_insert(sequence);
        self.all = true;
    }

    fn run<K: Disk>(&mut self, scan: &Scan, files: &Files<K>) -> Result<(), LogError> {
        let mut window = Window::new(files, 1 << 20);
        // Only sound batches say where the log begins: a torn one's floor may be forgotten again with it.
        let floor = scan
            .batches
            .values()
            .map(|place| place.header.floor)
            .max()
            .unwrap_or(1);
        let last = scan
            .batches
            .keys()
            .next_back()
            .copied()
            .unwrap_or(0)
            .max(scan.mark);
        let mut previous = None;
        for sequence in floor..=last {
            let next = scan.batches.get(&(sequence + 1));
            let Some((place, sound)) = find(scan, sequence, next) else {
                self.all_bad(sequence);
                return Ok(());
            };
            if previous.is_some_and(|crc| crc != place.header.previous) {
                self.all_bad(sequence);
                return Ok(());
            }
            if !sound {
                self.first_bad.get_or_insert(sequence);
            }
            previous = Some(place.crc);
            self.chain.push(place);
            match body(&mut window, &place.header)? {
                Some(bytes) => self.replay_batch(&place, bytes),
                None => self.all_bad(sequence),
            }
            self.index.evict();
        }
        Ok(())
    }

    /// Applies a batch's records, stepping over damaged ones whose extent and group are still known.
    fn replay_batch(&mut self, place: &Place, bytes: &[u8]) {
        let (mut at, mut records) = (0, 0);
        while at < bytes.len() {
            let used = match record::decode(&bytes[at..]) {
                Ok((record, used)) => {
                    self.replay_record(record, position(place, at, used));
                    used
                }
                Err(RecordFault::Body { group, bytes }) => {
                    self.damaged.insert(group);
                    bytes
                }
                Err(RecordFault::Header) => break,
            };
            at += used;
            records += 1;
        }
        if at != bytes.len() || records != place.header.records {
            self.all_bad(place.header.sequence);
        }
    }

    fn replay_record(&mut self, record: Record, at: Position) {
        if let Record::Destroy { group } = &record {
            self.damaged.remove(group);
        }
        let item = self.index.admit(record);
        self.index.settle(item, at, &mut Settled::default());
    }

    fn verdict(&mut self, scan: &Scan) -> Verdict {
        for (id, group) in &self.index.groups {
            if !group.is_contiguous() {
                self.damaged.insert(*id);
            }
        }
        let sequence = self.first_bad.unwrap_or(0);
        if self.all {
            return Verdict::Corrupt {
                sequence,
                affected: Affected::All,
            };
        }
        if !self.damaged.is_empty() {
            let affected = Affected::Groups(std::mem::take(&mut self.damaged));
            return Verdict::Corrupt { sequence, affected };
        }
        if self.is_torn(scan) && !cfg!(planted = "torn_tail_taken_for_clean") {
            Verdict::TornTail
        } else {
            Verdict::Clean
        }
    }

    /// Whether something was begun after the last batch: a sound header of a later one, or what may have been a header
    /// at a place where the next batch would be.
    fn is_torn(&self, scan: &Scan) -> bool {
        let last = self.chain.last();
        let later =
            |place: &Place| last.is_none_or(|last| place.header.sequence > last.header.sequence);
        let behind_last = last.map(|last| (last.header.segment, last.header.end()));
        let used: BTreeSet<SegmentId> = self
            .chain
            .iter()
            .map(|place| place.header.segment)
            .collect();
        let suspect = |place: &(SegmentId, u64)| {
            Some(*place) == behind_last || (place.1 == FIRST_BATCH && !used.contains(&place.0))
        };
        scan.broken.iter().any(later) || scan.suspects.iter().any(suspect)
    }

    fn tail(&self, scan: &Scan) -> Tail {
        // Numbers go on behind everything seen when the log cannot be trusted as a whole; it won't be written anyway.
        let seen = scan
            .batches
            .keys()
            .next_back()
            .copied()
            .unwrap_or(0)
            .max(scan.mark);
        self.chain.last().map_or(
            Tail {
                sequence: seen,
                crc: 0,
                offset: FIRST_BATCH,
            },
            |last| Tail {
                sequence: last.header.sequence,
                crc: last.crc,
                offset: last.header.end(),
            },
        )
    }

    fn in_use(&self) -> VecDeque<Use> {
        let mut uses: VecDeque<Use> = VecDeque::new();
        for place in &self.chain {
            let (segment, first_sequence) = (place.header.segment, place.header.sequence);
            if uses.back().is_none_or(|last| last.segment != segment) {
                uses.push_back(Use {
                    segment,
                    first_sequence,
                });
            }
        }
        uses
    }
}

/// The batch of a sequence, and whether it is sound. A broken one counts only if it is the one that `next` follows.
fn find(scan: &Scan, sequence: u64, next: Option<&Place>) -> Option<(Place, bool)> {
    if let Some(place) = scan.batches.get(&sequence) {
        return Some((*place, true));
    }
    let fits = |place: &&Place| {
        place.header.sequence == sequence
            && next.is_none_or(|next| next.header.previous == place.crc)
    };
    let broken = scan
        .broken
        .iter()
        .filter(fits)
        .max_by_key(|place| place.header.boot)?;
    Some((*broken, false))
}

fn position(place: &Place, at: usize, bytes: usize) -> Position {
    let small = |number: u64| u32::try_from(number).expect("segments are below 4 GiB");
    Position {
        segment: place.header.segment,
        offset: small(place.header.offset + (BATCH_HEADER_BYTES + at) as u64),
        bytes: small(bytes as u64),
    }
}

impl<D: Dir> Recovery<D> {
    /// Goes on with the log: makes durable what was read, completes the segments, and pins the cut with a first batch
    /// of this boot. If some groups are affected by damage, destroying them comes first.
    ///
    /// # Errors
    /// `Corrupt` when all groups may be affected; `BootBehind`; failures of the disk.
    pub fn start(self, dir: &D, boot: u64) -> Result<Log<D>, LogError> {
        if matches!(
            self.report.verdict,
            Verdict::Corrupt {
                affected: Affected::All,
                ..
            }
        ) {
            return Err(LogError::Corrupt);
        }
        if boot <= self.report.boot {
            return Err(LogError::BootBehind {
                found: self.report.boot,
                boot,
            });
        }
        segment::remove_unfinished(dir)?;
        // After kill -9 the last batch may have been read from a cache of the disk: synced, it is really there.
        for id in self.files.ids() {
            self.files.disk(id).sync_data()?;
        }
        self.complete(dir)?;
        let mut index = self.index;
        let reader = LogReader {
            files: Arc::clone(&self.files),
            poison: self.poison.clone(),
        };
        let config = index.config.clone();
        let mut writer = LogWriter::new(
            self.files,
            self.poison,
            config,
            boot,
            self.tail,
            self.in_use,
        );
        index.layout = writer.layout();
        index.mark_due = true;
        let mark = index
            .take_mark()?
            .expect("nothing waits in a log that was just read");
        match writer.write(&mark) {
            Ok(written) => drop(index.written(mark, written)),
            Err(LogError::Full) => index.put_back(mark),
            Err(other) => return Err(other),
        }
        Ok(Log {
            index,
            writer,
            reader,
        })
    }

    #[cfg(test)]
    pub(crate) fn parts(&self) -> (&LogIndex, LogReader<D>) {
        let reader = LogReader {
            files: Arc::clone(&self.files),
            poison: self.poison.clone(),
        };
        (&self.index, reader)
    }

    /// Makes what an interrupted creation left out, if the disk has room.
    fn complete(&self, dir: &D) -> Result<(), LogError> {
        let ids = self.files.ids();
        let last = ids.last().map_or(0, |last| last.0);
        let wanted = self.index.config.segments_initial.saturating_sub(ids.len());
        let missing = (1..).map(SegmentId).filter(|id| !ids.contains(id));
        let gaps = (1..=last).count() - ids.len();
        for id in missing.take(wanted.max(gaps)) {
            match segment::make(dir, self.files.shape, &[id]) {
                Ok(made) => made.into_iter().for_each(|disk| self.files.add(id, disk)),
                // What a gap later means is damage: no log with one is ever written.
                Err(LogError::Disk(DiskError::Full)) if id.0 > last => {
                    segment::remove_unfinished(dir)?;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}
