//! The region map: which region holds a place, and where its replicas are (DESIGN section 4, P5).
//!
//! Owns lines as learned from the master and, newer, from answers of the regions themselves: a client mends its map
//! without asking the master. Deliberately asks nobody; between a split and the new half's first line the map has a gap,
//! never two regions for one place.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::client::port::RegionLine;
use crate::ids::{GroupId, NodeId};
use crate::place::{PLACES, Place};
use crate::request::Space;

/// What a client or node knows of the regions.
#[derive(Clone, Debug, Default)]
pub struct RegionMap {
    /// By space and first place.
    lines: BTreeMap<(Space, u32), RegionLine>,
}

impl RegionMap {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lines: BTreeMap::new(),
        }
    }

    /// The region that holds `place`, as far as is known.
    #[must_use]
    pub fn lookup(&self, space: Space, place: Place) -> Option<&RegionLine> {
        let (_, line) = self.lines.range(..=(space, place.0)).next_back()?;
        (line.space == space && line.places.contains(place)).then_some(line)
    }

    /// A region by its group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&RegionLine> {
        self.lines.values().find(|line| line.group == group)
    }

    /// All lines, by space and place.
    pub fn lines(&self) -> impl Iterator<Item = &RegionLine> {
        self.lines.values()
    }

    /// Takes a line that somebody told, and says whether it changed anything. It is ignored when a region of a higher
    /// epoch is known for one of its places (epochs of both halves of a split are above their parent's, so of two
    /// regions that claim one place the one with the higher epoch is the younger); what it overlaps of lower epochs
    /// goes.
    pub fn learn(&mut self, line: RegionLine) -> bool {
        if line.places.start >= line.places.end || line.places.end > PLACES {
            return false;
        }
        let rivals: Vec<(Space, u32)> = self
            .lines
            .iter()
            .filter(|(_, known)| {
                known.group == line.group
                    || (known.space == line.space && known.places.overlap(line.places).is_some())
            })
            .map(|(key, _)| *key)
            .collect();
        let is_newer = |key: &(Space, u32)| {
            let known = &self.lines[key];
            known.epoch > line.epoch || (known.epoch == line.epoch && known.group != line.group)
        };
        let is_old = rivals.iter().any(is_newer) && !cfg!(planted = "map_epoch_unchecked");
        let is_known = rivals.iter().any(|key| self.lines[key] == line);
        if is_old || is_known {
            return false;
        }
        for key in rivals {
            self.lines.remove(&key);
        }
        self.lines.insert((line.space, line.places.start), line);
        true
    }

    /// Notes who was heard to lead a region, or that nobody does.
    pub fn set_leader(&mut self, group: GroupId, leader: Option<NodeId>) {
        for line in self.lines.values_mut().filter(|line| line.group == group) {
            line.leader = leader;
        }
    }

    /// Whether every place of both spaces has its region: else the master is to be asked.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        [Space::Meta, Space::Data].into_iter().all(|space| {
            let lines = self.lines.values().filter(|line| line.space == space);
            let covered: u64 = lines
                .map(|line| u64::from(line.places.end - line.places.start))
                .sum();
            covered == u64::from(PLACES)
        })
    }

    /// The law of the map.
    ///
    /// # Panics
    /// When two regions hold one place.
    pub fn check_invariants(&self) {
        let mut last: Option<&RegionLine> = None;
        for line in self.lines.values() {
            let is_apart = last.is_none_or(|last| {
                last.space != line.space || last.places.end <= line.places.start
            });
            assert!(is_apart, "one place has one region");
            last = Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::place::Places;

    fn line(group: u64, start: u32, end: u32, epoch: u64) -> RegionLine {
        RegionLine {
            group: GroupId(group),
            space: Space::Meta,
            places: Places { start, end },
            epoch: Epoch(epoch),
            replicas: Vec::new(),
            leader: None,
        }
    }

    #[test]
    fn a_split_is_learned_half_by_half_and_old_lines_change_nothing() {
        let mut map = RegionMap::new();
        assert!(map.learn(line(1, 0, PLACES, 1)));
        assert!(map.learn(RegionLine {
            space: Space::Data,
            ..line(2, 0, PLACES, 1)
        }));
        assert!(map.is_complete());
        assert!(map.learn(line(1, 0, 500, 2)));
        assert!(!map.is_complete(), "the other half is not known yet");
        assert_eq!(map.lookup(Space::Meta, Place(500)), None);
        assert!(!map.learn(line(1, 0, PLACES, 1)), "an old line");
        assert!(map.learn(line(3, 500, PLACES, 2)));
        assert!(map.is_complete());
        let group = |place| map.lookup(Space::Meta, Place(place)).map(|line| line.group);
        assert_eq!(
            (group(499), group(500)),
            (Some(GroupId(1)), Some(GroupId(3)))
        );
    }

    #[test]
    fn lines_in_any_order_end_at_the_same_map() {
        // The history of a region: 1 splits at 600, then 1 at 300, then 3 at 800.
        let lines = [
            line(1, 0, PLACES, 1),
            line(1, 0, 600, 2),
            line(3, 600, PLACES, 2),
            line(1, 0, 300, 3),
            line(4, 300, 600, 3),
            line(3, 600, 800, 3),
            line(5, 800, PLACES, 3),
        ];
        for seed in 0..2000 {
            let mut map = RegionMap::new();
            let mut draw = crate::join::Draw::new(seed);
            for index in draw.order(lines.len()) {
                map.learn(lines[index].clone());
                map.check_invariants();
            }
            for index in draw.order(lines.len()) {
                map.learn(lines[index].clone());
            }
            let groups: Vec<u64> = map.lines().map(|line| line.group.0).collect();
            assert_eq!(groups, [1, 4, 3, 5], "seed {seed}");
        }
    }
}
