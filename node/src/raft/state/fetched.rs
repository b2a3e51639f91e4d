//! What was read of chunks ahead of the requests that want it.
//!
//! Owns the bytes between the thread that read them and the group's task, which gets them only while the chunk's map says
//! of every page what it said when they were read. They live as long as the request they were read for. Deliberately
//! bounded: what finds no room is read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use polyfs_core::ids::Lineage;
use polyfs_store::extents::PageMap;

/// So many bytes of one group wait at most.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// A range of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) lineage: Lineage,
    pub(crate) key: Vec<u8>,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// Bytes that were read by `map`.
#[derive(Debug)]
pub(crate) struct Fetched {
    part: Part,
    map: Arc<PageMap>,
    bytes: Bytes,
    _room: Room,
}

/// Taken until it is dropped.
#[derive(Debug)]
struct Room {
    bytes: usize,
    taken: Arc<AtomicUsize>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What one group has fetched.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    taken: Arc<AtomicUsize>,
    /// Whose requests are being handled.
    offered: Mutex<Vec<Fetched>>,
}

impl Waiting {
    /// Keeps bytes that were read by `map`, if there is room.
    pub(crate) fn hold(&self, part: Part, map: Arc<PageMap>, bytes: Bytes) -> Option<Fetched> {
        let room = Room {
            bytes: bytes.len(),
            taken: Arc::clone(&self.taken),
        };
        let before = self.taken.fetch_add(room.bytes, Ordering::AcqRel);
        (before + room.bytes <= WAITING_BYTES_MAX).then_some(Fetched {
            part,
            map,
            bytes,
            _room: room,
        })
    }

    /// Offers what was read for the requests that are handled next, in the place of what was left from those before.
    pub(crate) fn offer(&self, fetched: Vec<Fetched>) {
        *self.offered.lock() = fetched;
    }

    /// Hands out what was read of `part`, if its chunk still has this map.
    pub(crate) fn take(&self, part: &Part, map: &PageMap) -> Option<Bytes> {
        let mut offered = self.offered.lock();
        let fits = |fetched: &Fetched| fetched.part == *part && *fetched.map == *map;
        let place = offered.iter().position(fits)?;
        Some(offered.swap_remove(place).bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64) -> Part {
        Part {
            lineage: Lineage(7),
            key: b"chunk".to_vec(),
            offset,
            len: 4,
        }
    }

    fn other_map() -> PageMap {
        let piece = polyfs_store::extents::Piece {
            page: 3,
            file: 0,
            block: 9,
            crcs: vec![[1; 4]],
        };
        PageMap::of(&[piece])
    }

    fn hold(
        waiting: &Waiting,
        offset: u64,
        map: &PageMap,
        bytes: &'static [u8],
    ) -> Option<Fetched> {
        let map = Arc::new(map.clone());
        waiting.hold(part(offset), map, Bytes::from_static(bytes))
    }

    #[test]
    fn bytes_are_handed_out_once_and_only_for_the_map_they_were_read_by() {
        let (waiting, map) = (Waiting::default(), PageMap::default());
        let fetched = [
            hold(&waiting, 0, &other_map(), b"gone"),
            hold(&waiting, 0, &map, b"here"),
        ];
        waiting.offer(fetched.into_iter().flatten().collect());
        assert_eq!(waiting.take(&part(4), &map), None);
        assert_eq!(waiting.take(&part(0), &map).as_deref(), Some(&b"here"[..]));
        assert_eq!(waiting.take(&part(0), &map), None);
        waiting.offer(Vec::new());
        assert_eq!(waiting.take(&part(0), &other_map()), None);
    }

    #[test]
    fn what_finds_no_room_is_not_kept_and_room_comes_back() {
        static HALF: [u8; WAITING_BYTES_MAX / 2] = [0; WAITING_BYTES_MAX / 2];
        let (waiting, map) = (Waiting::default(), PageMap::default());
        let first = hold(&waiting, 0, &map, &HALF).expect("there is room");
        let second = hold(&waiting, 1, &map, &HALF).expect("there is room");
        assert!(hold(&waiting, 2, &map, b"more").is_none());
        drop(first);
        assert!(hold(&waiting, 2, &map, b"more").is_some());
        waiting.offer(vec![second]);
        waiting.offer(Vec::new());
        assert_eq!(waiting.taken.load(Ordering::Acquire), 0);
    }
}
