//! What must hold in the state of a cluster's meta regions together (fsck, and every simulation's end).
//!
//! Owns the checks: every entry has its inode, link counts match, fragments count their entries, parents are right, runs
//! don't overlap, what is kept of an inode has one. Works on records as they are stored, in any order. Deliberately does
//! not know whether the records were read at one moment: whoever reads a living cluster reads what looks wrong again.

mod finding;
#[cfg(test)]
mod tests;

pub use finding::Finding;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::entry::{Entry, Fragment};
use super::inode::Inode;
use super::intent::Intent;
use super::key::{self, Kind};
use super::kv::{KvError, KvRead};
use super::{garbage, runs};
use crate::attr::FileKind;
use crate::codec;
use crate::place::Ino;
use crate::request::{ChunkName, Run};
use crate::txn::Step;

/// The kinds of records that a census takes; of [`KEYS_ONLY`] the values are not looked at.
pub const KINDS: &[Kind] = &[
    Kind::Inode,
    Kind::Entry,
    Kind::Fragment,
    Kind::Xattr,
    Kind::Inline,
    Kind::Run,
    Kind::Locks,
    Kind::Orphan,
    Kind::Garbage,
    Kind::Intent,
    Kind::Txn,
];
/// See [`KINDS`].
pub const KEYS_ONLY: &[Kind] = &[
    Kind::Xattr,
    Kind::Inline,
    Kind::Locks,
    Kind::Orphan,
    Kind::Txn,
];

/// What is kept of an inode.
#[derive(Clone, Copy)]
struct Counted {
    kind: FileKind,
    nlink: u32,
    mapped: u64,
    parent: Ino,
}

/// What one region, or several together, hold.
#[derive(Default)]
pub struct Census {
    /// Only what concerns these counts; `None`: everything.
    only: Option<BTreeSet<Ino>>,
    inodes: BTreeMap<Ino, Counted>,
    /// Entries by child: which directories name it, as what.
    named: BTreeMap<Ino, Vec<(Ino, FileKind)>>,
    subdirs: BTreeMap<Ino, u32>,
    entries: BTreeMap<Ino, u64>,
    counted: BTreeMap<Ino, u64>,
    orphans: BTreeSet<Ino>,
    runs: BTreeMap<Ino, Vec<Run>>,
    garbage: BTreeMap<Ino, Vec<Run>>,
    kept: BTreeMap<Ino, BTreeSet<&'static str>>,
    /// Inodes that a transaction under way concerns: what looks wrong about them may not be.
    moving: BTreeSet<Ino>,
    unfinished: Vec<Vec<u8>>,
    damaged: Vec<Finding>,
}

/// Audits the meta regions of a cluster at rest; what it finds wrong, in words.
///
/// # Errors
/// As [`KvError`].
pub fn meta(regions: &[&dyn KvRead]) -> Result<Vec<String>, KvError> {
    let mut census = Census::default();
    for state in regions {
        for kind in KINDS {
            let (from, to) = key::all_of(*kind);
            for (key, value) in state.scan(&from, &to, usize::MAX)? {
                census.take(&key, &value);
            }
        }
    }
    let mut words: Vec<String> = census
        .judge()
        .iter()
        .map(|found| format!("{found}"))
        .collect();
    let left = census.unfinished.iter();
    words.extend(left.map(|key| format!("a transaction left {key:?} behind")));
    Ok(words)
}

impl Census {
    /// A census of these inodes alone: their records, and the entries that name them or are theirs.
    #[must_use]
    pub fn of(subjects: BTreeSet<Ino>) -> Self {
        Self {
            only: Some(subjects),
            ..Self::default()
        }
    }

    /// Counts one record.
    pub fn take(&mut self, key: &[u8], value: &[u8]) {
        if let Err(error) = self.count(key, value) {
            self.damaged.push(Finding::Undecodable {
                key: key.to_vec(),
                what: error.to_string(),
            });
        }
    }

    fn concerns(&self, ino: Ino) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&ino))
    }

    fn count(&mut self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        let Some(kind) = KINDS
            .iter()
            .find(|kind| key.first() == Some(&(**kind as u8)))
        else {
            return Ok(());
        };
        let ino = key::number(key, 0).map(Ino);
        let ino = ino.ok_or_else(|| KvError::Corrupt("its key is short".into()))?;
        if *kind == Kind::Entry {
            let entry: Entry = codec::decode_versioned("entry", super::VERSION, value)?;
            self.count_entry(ino, &entry);
            return Ok(());
        }
        if *kind == Kind::Intent {
            let intent: Intent = codec::decode_versioned("intent", super::VERSION, value)?;
            self.moving.extend(concerned(&intent.step));
            self.unfinished.push(key.to_vec());
            return Ok(());
        }
        if *kind == Kind::Txn {
            self.unfinished.push(key.to_vec());
            return Ok(());
        }
        if !self.concerns(ino) {
            return Ok(());
        }
        match kind {
            Kind::Inode => {
                let inode: Inode = codec::decode_versioned("inode", super::VERSION, value)?;
                let counted = Counted {
                    kind: inode.kind,
                    nlink: inode.nlink,
                    mapped: inode.mapped,
                    parent: inode.parent,
                };
                self.inodes.insert(ino, counted);
            }
            Kind::Fragment => {
                let fragment: Fragment =
                    codec::decode_versioned("fragment", super::VERSION, value)?;
                *self.counted.entry(ino).or_default() += fragment.entries;
            }
            Kind::Run => {
                let run = runs::decode(key, value)?;
                self.runs.entry(ino).or_default().push(run);
                self.keep(ino, "a chunk map");
            }
            Kind::Garbage => {
                let (ino, run) = garbage::decode(key, value)?;
                self.garbage.entry(ino).or_default().push(run);
            }
            Kind::Orphan => {
                self.orphans.insert(ino);
            }
            Kind::Xattr => self.keep(ino, "an extended attribute"),
            Kind::Inline => self.keep(ino, "content"),
            Kind::Locks => self.keep(ino, "locks"),
            Kind::Entry | Kind::Intent | Kind::Txn => unreachable!("counted above"),
            Kind::Descriptor
            | Kind::Slot
            | Kind::Session
            | Kind::Admitted
            | Kind::Counter
            | Kind::Clock
            | Kind::Chunk
            | Kind::Tombstone => {}
        }
        Ok(())
    }

    fn keep(&mut self, ino: Ino, what: &'static str) {
        self.kept.entry(ino).or_default().insert(what);
    }

    fn count_entry(&mut self, dir: Ino, entry: &Entry) {
        if self.concerns(entry.child) {
            let named = self.named.entry(entry.child).or_default();
            named.push((dir, entry.kind));
        }
        if self.concerns(dir) {
            *self.entries.entry(dir).or_default() += 1;
            if entry.kind == FileKind::Directory {
                *self.subdirs.entry(dir).or_default() += 1;
            }
        }
    }

    /// What is wrong, in order.
    #[must_use]
    pub fn judge(&self) -> Vec<Finding> {
        let mut findings = self.damaged.clone();
        self.judge_names(&mut findings);
        for (ino, inode) in &self.inodes {
            self.judge_inode(*ino, inode, &mut findings);
        }
        for (dir, counted) in &self.counted {
            let (dir, counted) = (*dir, *counted);
            let entries = self.entries.get(&dir).copied().unwrap_or(0);
            if counted != entries {
                findings.push(Finding::EntryCount {
                    dir,
                    entries,
                    counted,
                });
            }
        }
        let without = |dir: &&Ino| !self.counted.contains_key(dir);
        let without = self.entries.keys().filter(without);
        findings.extend(without.map(|dir| Finding::NoFragment { dir: *dir }));
        for (ino, kept) in &self.kept {
            if !self.inodes.contains_key(ino) {
                let stray = |what: &&str| Finding::Stray {
                    ino: *ino,
                    what: what.to_string(),
                };
                findings.extend(kept.iter().map(stray));
            }
        }
        findings.sort();
        findings
    }

    fn judge_names(&self, findings: &mut Vec<Finding>) {
        for (child, dirs) in &self.named {
            // Of what is not counted nothing is known.
            if !self.concerns(*child) {
                continue;
            }
            for (dir, entry) in dirs {
                let (dir, child, entry) = (*dir, *child, *entry);
                match self.inodes.get(&child) {
                    None => findings.push(Finding::EntryWithoutInode { dir, child }),
                    Some(inode) if inode.kind != entry => findings.push(Finding::KindDiffers {
                        dir,
                        child,
                        entry,
                        inode: inode.kind,
                    }),
                    Some(_) => {}
                }
            }
        }
    }

    fn judge_inode(&self, ino: Ino, inode: &Counted, findings: &mut Vec<Finding>) {
        let dirs = self.named.get(&ino).map_or(&[][..], Vec::as_slice);
        let names = dirs.len() as u64;
        let nlink = inode.nlink;
        if nlink == 0 && !self.orphans.contains(&ino) {
            findings.push(Finding::Forgotten { ino });
        }
        if inode.kind == FileKind::Directory {
            if nlink == 0 {
                return;
            }
            let is_root = inode.parent == ino;
            let subdirs = self.subdirs.get(&ino).copied().unwrap_or(0);
            if nlink != 2 + subdirs {
                findings.push(Finding::SubdirectoryCount {
                    ino,
                    subdirs,
                    nlink,
                });
            }
            if names != u64::from(!is_root) {
                findings.push(Finding::DirectoryNames { ino, names });
            } else if !is_root && !dirs.iter().any(|(dir, _)| *dir == inode.parent) {
                let parent = inode.parent;
                findings.push(Finding::WrongParent { ino, parent });
            }
            return;
        }
        if u64::from(nlink) != names {
            findings.push(Finding::LinkCount { ino, names, nlink });
        }
        self.judge_map(ino, inode, findings);
    }

    fn judge_map(&self, ino: Ino, inode: &Counted, findings: &mut Vec<Finding>) {
        let mut map = self.runs.get(&ino).cloned().unwrap_or_default();
        map.sort_by_key(|run| run.first);
        for pair in map.windows(2) {
            if pair[0].first + pair[0].count > pair[1].first {
                let number = pair[1].first;
                findings.push(Finding::RunsOverlap { ino, number });
            }
        }
        let (named, counted) = (map.iter().map(|run| run.count).sum(), inode.mapped);
        if named != counted {
            findings.push(Finding::ChunkCount {
                ino,
                named,
                counted,
            });
        }
    }

    /// Inodes that a transaction under way concerns.
    #[must_use]
    pub const fn moving(&self) -> &BTreeSet<Ino> {
        &self.moving
    }

    /// How many inodes were counted.
    #[must_use]
    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// All chunks whose data was committed, in order of their files.
    pub fn written(&self) -> impl Iterator<Item = ChunkName> + '_ {
        let written = |(ino, runs): (&Ino, &Vec<Run>)| {
            let (ino, runs) = (*ino, runs.clone());
            runs.into_iter()
                .filter(|run| run.written)
                .flat_map(move |run| {
                    (run.first..run.first + run.count).map(move |number| ChunkName {
                        ino,
                        version: run.version,
                        number,
                    })
                })
        };
        self.runs.iter().flat_map(written)
    }

    /// Whether a map names a chunk, or a garbage record says that it will be freed.
    #[must_use]
    pub fn claims(&self, chunk: &ChunkName) -> bool {
        let holds = |runs: &BTreeMap<Ino, Vec<Run>>| {
            let of_file = runs.get(&chunk.ino).map_or(&[][..], Vec::as_slice);
            of_file.iter().any(|run| holds(run, chunk))
        };
        holds(&self.runs) || holds(&self.garbage)
    }

    /// Whether a map says that a chunk was written.
    #[must_use]
    pub fn is_written(&self, chunk: &ChunkName) -> bool {
        let of_file = self.runs.get(&chunk.ino).map_or(&[][..], Vec::as_slice);
        of_file.iter().any(|run| run.written && holds(run, chunk))
    }
}

fn holds(run: &Run, chunk: &ChunkName) -> bool {
    let numbers = run.first..run.first + run.count;
    run.version == chunk.version && numbers.contains(&chunk.number)
}

/// The inodes that a step concerns.
fn concerned(step: &Step) -> Vec<Ino> {
    match step {
        Step::Insert { dir, child, .. } | Step::Remove { dir, child, .. } => {
            alloc::vec![*dir, *child]
        }
        Step::Replace {
            dir, child, old, ..
        } => alloc::vec![*dir, *child, *old],
        Step::Create { ino, parent, .. } => alloc::vec![*ino, *parent],
        Step::AddLink { ino } | Step::DropLink { ino } | Step::Moved { ino, .. } => {
            alloc::vec![*ino]
        }
        Step::Subdirs { dir, .. } | Step::Kill { dir } | Step::DropDir { dir } => {
            alloc::vec![*dir]
        }
        Step::RenameLock { .. } => Vec::new(),
    }
}
