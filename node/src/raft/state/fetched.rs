//! What was read of chunks ahead of the requests that want it.
//!
//! Owns the bytes between the thread that read them and the group's task, which gets them only while the chunk's map says
//! of every page what it said when they were read. Deliberately bounded: what finds no room is read again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use polyfs_core::ids::Lineage;
use polyfs_store::extents::PageMap;

/// So many bytes wait here at most, in so many pieces; the oldest are forgotten first.
const WAITING_BYTES_MAX: usize = 32 << 20;
const PIECES_MAX: usize = 256;

/// A range of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) lineage: Lineage,
    pub(crate) key: Vec<u8>,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

#[derive(Debug)]
struct Piece {
    part: Part,
    map: Arc<PageMap>,
    bytes: Bytes,
}

/// The pieces of one group, in the order in which they were read.
#[derive(Debug, Default)]
pub(crate) struct Fetched(Mutex<VecDeque<Piece>>);

impl Fetched {
    /// Keeps bytes that were read by `map`.
    pub(crate) fn put(&self, part: Part, map: Arc<PageMap>, bytes: Bytes) {
        let mut pieces = self.0.lock();
        pieces.push_back(Piece { part, map, bytes });
        let mut waiting: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        while (waiting > WAITING_BYTES_MAX || pieces.len() > PIECES_MAX)
            && let Some(oldest) = pieces.pop_front()
        {
            waiting -= oldest.bytes.len();
        }
    }

    /// Hands out what was read of `part`, if its chunk still has this map.
    pub(crate) fn take(&self, part: &Part, map: &PageMap) -> Option<Bytes> {
        let mut pieces = self.0.lock();
        let place = pieces.iter().position(|piece| piece.part == *part)?;
        let piece = pieces.remove(place)?;
        (*piece.map == *map).then_some(piece.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, len: usize) -> Part {
        Part {
            lineage: Lineage(7),
            key: b"chunk".to_vec(),
            offset,
            len,
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

    #[test]
    fn bytes_are_handed_out_once_and_only_for_the_map_they_were_read_by() {
        let (fetched, map) = (Fetched::default(), PageMap::default());
        fetched.put(
            part(0, 4),
            Arc::new(map.clone()),
            Bytes::from_static(b"read"),
        );
        assert_eq!(fetched.take(&part(4, 4), &map), None);
        assert_eq!(
            fetched.take(&part(0, 4), &map).as_deref(),
            Some(&b"read"[..])
        );
        assert_eq!(fetched.take(&part(0, 4), &map), None);
        fetched.put(
            part(0, 4),
            Arc::new(map.clone()),
            Bytes::from_static(b"read"),
        );
        assert_eq!(fetched.take(&part(0, 4), &other_map()), None);
        assert_eq!(fetched.take(&part(0, 4), &map), None);
    }

    #[test]
    fn the_oldest_make_room() {
        let (fetched, map) = (Fetched::default(), Arc::new(PageMap::default()));
        let len = WAITING_BYTES_MAX / 2;
        for offset in 0..3 {
            fetched.put(part(offset, len), Arc::clone(&map), vec![0; len].into());
        }
        assert_eq!(fetched.take(&part(0, len), &map), None);
        for offset in 1..3 {
            assert!(fetched.take(&part(offset, len), &map).is_some());
        }
    }
}
