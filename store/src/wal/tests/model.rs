//! What the log should say: the same records applied to plain maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use polyfs_core::ids::GroupId;

use crate::disk::Dir;
use crate::extent_ref::ExtentRef;
use crate::wal::{LogEntry, LogIndex, LogReader, PayloadRef, Record};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ModelGroup {
    pub(super) created: Option<Bytes>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) entries: BTreeMap<u64, LogEntry>,
}

impl ModelGroup {
    pub(super) fn last_index(&self) -> Option<u64> {
        let last = self.entries.keys().next_back().copied();
        last.or(self.purged.as_ref().map(|purged| purged.0))
    }
}

/// Groups that hold nothing are not told from groups that are not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model(pub(super) BTreeMap<GroupId, ModelGroup>);

impl Model {
    pub(super) fn apply(&mut self, record: &Record) {
        let id = record.group();
        let group = self.0.entry(id).or_default();
        match record.clone() {
            Record::Entry { entry, .. } => drop(group.entries.insert(entry.index, entry)),
            Record::Vote { bytes, .. } => group.vote = Some(bytes),
            Record::Committed { bytes, .. } => group.committed = Some(bytes),
            Record::Create { bytes, .. } => group.created = Some(bytes),
            Record::Truncate { from_index, .. } => group.entries.retain(|i, _| *i < from_index),
            Record::Purge {
                upto_index, bytes, ..
            } => {
                group.entries.retain(|index, _| *index > upto_index);
                group.purged = Some((upto_index, bytes));
            }
            Record::Destroy { .. } => drop(self.0.remove(&id)),
        }
        if self.0.get(&id) == Some(&ModelGroup::default()) {
            self.0.remove(&id);
        }
    }

    /// What a log says, entries loaded.
    pub(super) fn of<D: Dir>(index: &LogIndex, reader: &LogReader<D>) -> Self {
        let mut model = Self::default();
        for id in index.group_ids() {
            let state = index.group(id).unwrap();
            let mut group = ModelGroup {
                created: state.created,
                vote: state.vote,
                committed: state.committed,
                purged: state.purged,
                entries: BTreeMap::new(),
            };
            if let Some(entries) = state.entries {
                let range = entries.first..entries.last + 1;
                let found = index.read(id, range.clone(), usize::MAX).unwrap();
                let loaded = reader.load(found).unwrap();
                assert!(loaded.iter().map(|entry| entry.index).eq(range), "no holes");
                assert_eq!(loaded.last().unwrap().term, entries.last_term);
                group.entries = loaded
                    .into_iter()
                    .map(|entry| (entry.index, entry))
                    .collect();
            }
            if group != ModelGroup::default() {
                model.0.insert(id, group);
            }
        }
        model
    }

    pub(super) fn extents(&self) -> Vec<ExtentRef> {
        let entries = self.0.values().flat_map(|group| group.entries.values());
        entries
            .filter_map(|entry| match &entry.payload {
                PayloadRef::Extent(synced) => Some(synced.get()),
                PayloadRef::None | PayloadRef::InLog(_) => None,
            })
            .collect()
    }
}
