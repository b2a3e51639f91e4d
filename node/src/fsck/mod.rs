//! fsck: everything a cluster holds, read through its leaders and held against each other.
//!
//! Owns the order of reading that keeps a living cluster from looking damaged. What is damage, core's audit says.
//!
//! ```text
//!  chunks' names ─▶ all meta records ─▶ census ─▶ suspects ─▶ read again, twice the same ─▶ findings
//!                                          └─▶ chunks written ─▶ verified ─▶ suspects ──┘
//! ```
//! A suspect's own records are read before and after the names that concern it. When both readings agree and no
//! transaction concerns it, all of them were true at one moment: every change of an inode raises its change number, every
//! change of a directory's names its fragment's times. P9: a chunk is judged by a reading of the map that is *later*
//! than the chunk's.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polyfs_core::place::{Ino, Place};
use polyfs_core::region::audit::{self, Census, Finding};
use polyfs_core::region::key::Kind;
use polyfs_core::request::{ChunkName, ChunkState, Space};
use thiserror::Error;

use crate::access::Access;
use crate::runtime::Runtime;
use reader::{Reader, Record};

/// A suspect is read again this often at most.
const ROUNDS: u32 = 8;
/// How often in a row it must look the same.
const CONFIRMATIONS: u32 = 2;
/// The pause before a round; what is under way ends meanwhile.
const PAUSE: Duration = Duration::from_millis(300);

/// Why an audit could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FsckError {
    /// Nobody knows the regions.
    #[error("no master answers: without it nobody knows the regions; see polyfs status")]
    NoMaster,
    /// A region is not served.
    #[error("the {space:?} region that holds {place:?} does not answer; see polyfs status")]
    NoAnswer {
        /// Of which kind.
        space: Space,
        /// What it holds.
        place: Place,
    },
    /// A node of another version.
    #[error("a node gave an answer that makes no sense here, perhaps of another version: {0}")]
    Unexpected(String),
}

/// How far an audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub stage: &'static str,
    /// How much of that is done.
    pub done: u64,
    /// Of how much, when that is known.
    pub total: Option<u64>,
}

/// What an audit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Regions read.
    pub regions: u64,
    /// Inodes counted.
    pub inodes: u64,
    /// Chunks that the data regions hold.
    pub chunks: u64,
    /// Chunks that were read whole.
    pub verified: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What changed so fast that it could not be judged: run it again.
    pub unsettled: u64,
}

/// Audits a cluster, living or at rest.
///
/// # Errors
/// When a region can't be read.
pub async fn run<R: Runtime>(
    access: Access<R>,
    told: &(dyn Fn(Progress) + Sync),
) -> Result<Report, FsckError> {
    let reader = Reader::new(access).await?;
    Auditor { reader, told }.run().await
}

struct Auditor<'a, R: Runtime> {
    reader: Reader<R>,
    told: &'a (dyn Fn(Progress) + Sync),
}

impl<R: Runtime> Auditor<'_, R> {
    fn tell(&self, stage: &'static str, done: usize, total: Option<usize>) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        (self.told)(Progress {
            stage,
            done: count(done),
            total: total.map(count),
        });
    }

    async fn run(mut self) -> Result<Report, FsckError> {
        self.tell("listing chunks", 0, None);
        let chunks = self.reader.chunks().await?;
        let mut census = Census::default();
        for kind in audit::KINDS {
            self.tell("reading names", census.inodes(), None);
            let mut take = |record: &Record| census.take(&record.0, &record.1);
            self.reader.scan(*kind, &mut take).await?;
        }
        let mut report = Report {
            regions: self.reader.regions() as u64,
            inodes: census.inodes() as u64,
            chunks: chunks.len() as u64,
            ..Report::default()
        };
        let suspects = census.judge();
        let unclaimed = chunks.into_iter().filter(|chunk| !census.claims(chunk));
        let mut unclaimed: Vec<ChunkName> = unclaimed.collect();
        let mut written: Vec<ChunkName> = census.written().collect();
        drop(census);
        written.sort_by_key(|chunk| (chunk.place(), *chunk));
        unclaimed.sort_by_key(|chunk| (chunk.place(), *chunk));
        report.verified = written.len() as u64;
        let broken = self.verify("verifying chunks", &written).await?;
        let broken = broken.into_iter();
        let broken = broken.filter(|(_, state)| *state != ChunkState::Whole);
        let broken: Vec<ChunkName> = broken.map(|(chunk, _)| chunk).collect();
        self.settle(suspects, &mut report).await?;
        self.judge_broken(&broken, &mut report).await?;
        self.judge_unclaimed(&unclaimed, &mut report).await?;
        report.findings.sort();
        report.findings.dedup();
        Ok(report)
    }

    async fn verify(
        &mut self,
        stage: &'static str,
        chunks: &[ChunkName],
    ) -> Result<Vec<(ChunkName, ChunkState)>, FsckError> {
        let mut found = Vec::with_capacity(chunks.len());
        while found.len() < chunks.len() {
            self.tell(stage, found.len(), Some(chunks.len()));
            let rest = &chunks[found.len()..];
            let states = self.reader.verify(rest).await?;
            found.extend(rest.iter().copied().zip(states));
        }
        Ok(found)
    }

    /// Reads what looked wrong again until it is seen to be right, or wrong twice in readings of one moment.
    async fn settle(
        &mut self,
        suspects: Vec<Finding>,
        report: &mut Report,
    ) -> Result<(), FsckError> {
        let (racy, sure): (Vec<_>, Vec<_>) = suspects
            .into_iter()
            .partition(|found| !found.subjects().is_empty());
        report.findings.extend(sure);
        let mut pending: BTreeMap<Finding, u32> = racy.into_iter().map(|f| (f, 0)).collect();
        for _ in 0..ROUNDS {
            if pending.is_empty() {
                return Ok(());
            }
            self.tell("reading again", 0, Some(pending.len()));
            self.reader.pause(PAUSE).await;
            let subjects = pending.keys().flat_map(Finding::subjects).collect();
            let (found, unsettled) = self.read_again(subjects).await?;
            let is_settled = |found: &Finding| {
                let mut subjects = found.subjects().into_iter();
                subjects.all(|subject| !unsettled.contains(&subject))
            };
            let mut next: BTreeMap<Finding, u32> = BTreeMap::new();
            for (suspect, _) in pending.iter().filter(|(suspect, _)| !is_settled(suspect)) {
                next.insert(suspect.clone(), 0);
            }
            for suspect in found.into_iter().filter(is_settled) {
                let times = pending.get(&suspect).map_or(0, |times| *times) + 1;
                if times >= CONFIRMATIONS {
                    report.findings.push(suspect);
                } else {
                    next.insert(suspect, times);
                }
            }
            pending = next;
        }
        report.unsettled += pending.len() as u64;
        Ok(())
    }

    /// What is wrong with these inodes now, and of which of them that can't be said.
    async fn read_again(
        &mut self,
        subjects: BTreeSet<Ino>,
    ) -> Result<(Vec<Finding>, BTreeSet<Ino>), FsckError> {
        let mut census = Census::of(subjects.clone());
        let mut before = BTreeMap::new();
        for subject in &subjects {
            let records = self.reader.records_of(*subject).await?;
            for (key, value) in &records {
                census.take(key, value);
            }
            before.insert(*subject, records);
        }
        // Intents around the names: one that ends before the first reading has left what the names show, one that
        // begins after it changes the subject, or is seen by the second.
        for kind in [Kind::Intent, Kind::Entry, Kind::Intent] {
            let mut take = |record: &Record| census.take(&record.0, &record.1);
            self.reader.scan(kind, &mut take).await?;
        }
        let mut unsettled = census.moving().clone();
        for (subject, before) in before {
            if self.reader.records_of(subject).await? != before {
                unsettled.insert(subject);
            }
        }
        Ok((census.judge(), unsettled))
    }

    async fn map_of(&mut self, ino: Ino) -> Result<Census, FsckError> {
        let mut census = Census::of(BTreeSet::from([ino]));
        for (key, value) in self.reader.records_of(ino).await? {
            census.take(&key, &value);
        }
        Ok(census)
    }

    /// A written chunk that is not whole: its name must be in the map before and after it is looked at.
    async fn judge_broken(
        &mut self,
        suspects: &[ChunkName],
        report: &mut Report,
    ) -> Result<(), FsckError> {
        for (done, chunk) in suspects.iter().enumerate() {
            self.tell("reading again", done, Some(suspects.len()));
            if !self.map_of(chunk.ino).await?.is_written(chunk) {
                continue;
            }
            let state = self.reader.verify(&[*chunk]).await?[0];
            if state == ChunkState::Whole || !self.map_of(chunk.ino).await?.is_written(chunk) {
                continue;
            }
            let chunk = *chunk;
            report.findings.push(match state {
                ChunkState::Absent => Finding::ChunkMissing { chunk },
                ChunkState::Damaged | ChunkState::Whole => Finding::ChunkDamaged { chunk },
            });
        }
        Ok(())
    }

    /// P9: a chunk that a later reading of the map does not name. One that is being freed is gone when its garbage
    /// record is, so it is looked at once more after that.
    async fn judge_unclaimed(
        &mut self,
        suspects: &[ChunkName],
        report: &mut Report,
    ) -> Result<(), FsckError> {
        for (done, chunk) in suspects.iter().enumerate() {
            self.tell("reading again", done, Some(suspects.len()));
            let here = self.reader.verify(&[*chunk]).await?[0] != ChunkState::Absent;
            if !here || self.map_of(chunk.ino).await?.claims(chunk) {
                continue;
            }
            if self.reader.verify(&[*chunk]).await?[0] != ChunkState::Absent {
                report
                    .findings
                    .push(Finding::ChunkUnclaimed { chunk: *chunk });
            }
        }
        Ok(())
    }
}
