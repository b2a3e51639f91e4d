//! Which region holds a place, and who leads it, as far as this mount knows.
//!
//! Owns the mount's copy of the region map and its mending from refusals. Knows no request: it only names nodes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::port::RegionLine;
use crate::ids::{Epoch, GroupId, NodeId};
use crate::place::{Bucket, Ino, Place, Places};
use crate::request::Space;

use super::rng::Rng;

/// The mount's region map.
#[derive(Debug, Default)]
pub(super) struct RegionMap {
    lines: BTreeMap<GroupId, RegionLine>,
    index: BTreeMap<(Space, u32), GroupId>,
}

impl RegionMap {
    /// Takes what the master says; a line mended since to a later epoch stays, as does a leader heard from replicas.
    pub(super) fn replace(&mut self, lines: Vec<RegionLine>) {
        let mut fresh = BTreeMap::new();
        for mut line in lines {
            if let Some(old) = self.lines.get(&line.group) {
                if old.epoch > line.epoch {
                    line.epoch = old.epoch;
                    line.places = old.places;
                }
                line.leader = line.leader.or(old.leader);
            }
            fresh.insert(line.group, line);
        }
        self.lines = fresh;
        self.reindex();
    }

    fn reindex(&mut self) {
        let mut lines: Vec<&RegionLine> = self.lines.values().collect();
        lines.sort_by_key(|line| line.epoch);
        self.index = lines
            .into_iter()
            .map(|line| ((line.space, line.places.start), line.group))
            .collect();
    }

    /// The region believed to hold a place.
    pub(super) fn find(&self, space: Space, place: Place) -> Option<&RegionLine> {
        let (_, group) = self
            .index
            .range((space, 0)..=(space, place.0))
            .next_back()?;
        self.lines
            .get(group)
            .filter(|line| line.places.contains(place))
    }

    /// A replica said that its region has another epoch and range.
    pub(super) fn mend_epoch(&mut self, group: GroupId, epoch: Epoch, places: Places) {
        if let Some(line) = self.lines.get_mut(&group)
            && epoch >= line.epoch
        {
            line.epoch = epoch;
            line.places = places;
            self.reindex();
        }
    }

    /// A replica said who leads.
    pub(super) fn mend_leader(&mut self, group: GroupId, leader: Option<NodeId>) {
        if let Some(line) = self.lines.get_mut(&group) {
            line.leader = leader;
        }
    }

    /// Where a region's replicas are.
    pub(super) fn replicas(&self, group: GroupId) -> impl Iterator<Item = NodeId> {
        let line = self.lines.get(&group).into_iter();
        line.flat_map(|line| line.replicas.iter().map(|replica| replica.node))
    }

    /// The region believed to hold an inode.
    pub(super) fn meta_group(&self, ino: Ino) -> Option<GroupId> {
        self.group_at(ino.place())
    }

    /// The meta region believed to hold a place.
    pub(super) fn group_at(&self, place: Place) -> Option<GroupId> {
        self.find(Space::Meta, place).map(|line| line.group)
    }

    /// Whom to ask: the leader, unless it is the one that just failed; then the next replica after that.
    pub(super) fn node_for(line: &RegionLine, failed: Option<NodeId>) -> Option<NodeId> {
        if line.leader.is_some() && line.leader != failed {
            return line.leader;
        }
        let nodes: Vec<NodeId> = line.replicas.iter().map(|replica| replica.node).collect();
        let after = failed
            .and_then(|node| nodes.iter().position(|other| *other == node))
            .map_or(0, |position| (position + 1) % nodes.len());
        nodes.get(after).copied()
    }

    /// Buckets for new directories: whole ones of one meta region drawn at random.
    pub(super) fn draw_buckets(&self, rng: &mut Rng, count: usize) -> Vec<Bucket> {
        let regions: Vec<_> = self
            .lines
            .values()
            .filter(|line| line.space == Space::Meta && !line.places.whole_buckets().is_empty())
            .collect();
        let Some(bound) = u64::try_from(regions.len()).ok().filter(|len| *len > 0) else {
            return Vec::new();
        };
        let chosen = usize::try_from(rng.below(bound)).expect("below a usize");
        let buckets = regions[chosen].places.whole_buckets();
        let span = u64::from(buckets.end - buckets.start);
        (0..count)
            .map(|_| {
                let offset = u32::try_from(rng.below(span)).expect("below a u32");
                Bucket(buckets.start + offset)
            })
            .collect()
    }
}
