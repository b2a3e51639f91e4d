//! What a power cut does.
//!
//! Each cut draws a mood first, since the two extremes (nothing unsynced survives, everything does) are the likeliest
//! in the world and the rarest under fair coins. Otherwise every change meets its own fate, which also covers every
//! order in which a disk may have written them: a change that another one overtook is one that was lost. Only two
//! changes to the same bytes always keep their order, as a page cache and a disk's cache see to.

use std::collections::BTreeMap;

use super::changes::{Change, NameChange};
use super::drive::DiskStats;
use super::media::{File, Media, tear};
use crate::{chance, context};

#[derive(Clone, Copy)]
enum Mood {
    AllLost,
    AllKept,
    Mixed,
}

#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    Torn,
}

impl Mood {
    fn draw() -> Self {
        match chance::below(8) {
            0 | 1 => Self::AllLost,
            2 => Self::AllKept,
            _ => Self::Mixed,
        }
    }

    fn fate(self) -> Fate {
        match self {
            Self::AllLost => Fate::Lost,
            Self::AllKept => Fate::Kept,
            Self::Mixed => match chance::below(5) {
                0 | 1 => Fate::Lost,
                2 | 3 => Fate::Kept,
                _ => Fate::Torn,
            },
        }
    }
}

impl Media {
    /// Cuts the power: handles of this boot are dead, and what was not synced is at the mercy of the seed.
    pub(super) fn cut_power(&mut self) {
        if !self.powered {
            return;
        }
        self.powered = false;
        self.faults.power_fails_after = None;
        self.stats.crashes += 1;
        context::record("power cut", &[self.machine]);
        for file in self.files.values_mut() {
            settle(file, Mood::draw(), &mut self.stats);
        }
        self.settle_names(Mood::draw());
        let names = &self.names;
        self.files
            .retain(|id, _| names.values().any(|named| named == id));
    }

    /// Ends a boot without a power cut: the process is gone, the machine's cache is not.
    pub(super) fn end_boot(&mut self) {
        self.powered = false;
        for file in self.files.values_mut() {
            file.handles = 0;
        }
    }

    fn settle_names(&mut self, mood: Mood) {
        for change in std::mem::take(&mut self.name_changes) {
            // A name is changed or not; there is no half.
            if !matches!(mood.fate(), Fate::Lost) {
                apply(change, &mut self.durable_names);
                self.stats.kept += 1;
            } else {
                self.stats.lost += 1;
            }
        }
        self.names = self.durable_names.clone();
    }
}

fn apply(change: NameChange, names: &mut BTreeMap<String, super::media::FileId>) {
    let mut take = |name: &String, file| {
        if names.get(name) == Some(&file) {
            names.remove(name);
        }
    };
    match change {
        NameChange::Create(name, file) => {
            names.insert(name, file);
        }
        NameChange::Remove(name, file) => take(&name, file),
        NameChange::Rename(from, to, file) => {
            take(&from, file);
            names.insert(to, file);
        }
    }
}

fn settle(file: &mut File, mood: Mood, stats: &mut DiskStats) {
    file.handles = 0;
    for change in std::mem::take(&mut file.changes) {
        match (mood.fate(), &change) {
            (Fate::Lost, _) => stats.lost += 1,
            (Fate::Torn, Change::Write(offset, bytes)) => {
                stats.torn += 1;
                tear(*offset, bytes).apply(&mut file.durable);
            }
            (Fate::Kept | Fate::Torn, change) => {
                stats.kept += 1;
                change.apply(&mut file.durable);
            }
        }
    }
    file.view = file.durable.clone();
}
