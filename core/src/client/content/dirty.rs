//! Bytes written by this mount and not yet committed, as pieces that don't overlap.
//!
//! Owns cutting and joining. Knows no file.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// The pieces, by offset.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Dirty {
    pieces: BTreeMap<u64, Bytes>,
    bytes: usize,
}

fn end_of(start: u64, piece: &Bytes) -> u64 {
    start + u64::try_from(piece.len()).expect("a length fits u64")
}

fn part(piece: &Bytes, start: u64, from: u64, to: u64) -> Bytes {
    let at = |offset: u64| usize::try_from(offset - start).expect("inside a piece");
    piece.slice(at(from)..at(to))
}

impl Dirty {
    /// How many bytes.
    pub(in super::super) const fn len(&self) -> usize {
        self.bytes
    }

    /// All pieces in order.
    pub(in super::super) fn pieces(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        self.pieces.iter().map(|(start, piece)| (*start, piece))
    }

    /// Puts a piece over what is there.
    pub(in super::super) fn put(&mut self, offset: u64, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.clear(offset, end_of(offset, &data));
        self.bytes += data.len();
        self.pieces.insert(offset, data);
    }

    /// Puts a piece under what is there.
    pub(in super::super) fn put_under(&mut self, offset: u64, data: Bytes) {
        let newer = self.within(offset, end_of(offset, &data));
        self.put(offset, data);
        for (start, piece) in newer {
            self.put(start, piece);
        }
    }

    fn clear(&mut self, from: u64, to: u64) {
        let first = self
            .pieces
            .range(..from)
            .next_back()
            .filter(|(start, piece)| end_of(**start, piece) > from)
            .map(|(start, _)| *start);
        let touched: Vec<u64> = first
            .into_iter()
            .chain(self.pieces.range(from..to).map(|(start, _)| *start))
            .collect();
        for start in touched {
            let piece = self.pieces.remove(&start).expect("listed just now");
            self.bytes -= piece.len();
            let end = end_of(start, &piece);
            if start < from {
                self.keep(start, part(&piece, start, start, from));
            }
            if end > to {
                self.keep(to, part(&piece, start, to, end));
            }
        }
    }

    fn keep(&mut self, offset: u64, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.insert(offset, piece);
    }

    /// What is there between two offsets.
    pub(in super::super) fn within(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let first = self.pieces.range(..from).next_back();
        first
            .into_iter()
            .chain(self.pieces.range(from..to.max(from)))
            .filter(|(start, piece)| **start < to && end_of(**start, piece) > from)
            .map(|(start, piece)| {
                let (low, high) = ((*start).max(from), end_of(*start, piece).min(to));
                (low, part(piece, *start, low, high))
            })
            .collect()
    }

    /// Whether every byte between two offsets is there.
    pub(in super::super) fn covers(&self, from: u64, to: u64) -> bool {
        let mut reached = from;
        for (start, piece) in self.within(from, to) {
            if start > reached {
                return false;
            }
            reached = end_of(start, &piece);
        }
        reached >= to
    }

    /// Takes everything.
    pub(in super::super) fn take(&mut self) -> Self {
        core::mem::take(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn pieces_cover_each_other_as_writes_do() {
        let mut rng = super::super::super::rng::Rng::new(7);
        for _ in 0..200 {
            let mut dirty = Dirty::default();
            let mut model: Vec<Option<u8>> = vec![None; 64];
            for value in 0..20_u8 {
                let from = usize::try_from(rng.below(60)).unwrap();
                let to = from + usize::try_from(rng.below(64 - from as u64)).unwrap();
                let data = Bytes::from(vec![value; to - from]);
                let under = rng.below(3) == 0;
                if under {
                    dirty.put_under(from as u64, data);
                } else {
                    dirty.put(from as u64, data);
                }
                for slot in &mut model[from..to] {
                    if !under || slot.is_none() {
                        *slot = Some(value);
                    }
                }
            }
            let mut shown = vec![None; 64];
            for (start, piece) in dirty.pieces() {
                for (index, byte) in piece.iter().enumerate() {
                    shown[usize::try_from(start).unwrap() + index] = Some(*byte);
                }
            }
            assert_eq!(shown, model);
            assert_eq!(dirty.len(), model.iter().flatten().count());
            assert_eq!(dirty.covers(0, 64), model.iter().all(Option::is_some));
        }
    }
}
