//! The bytes of one file, sparse: pages that were never written or allocated take no room.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A page in bytes.
pub(super) const PAGE: usize = 4096;
const PAGE_U64: u64 = PAGE as u64;

/// A page that has room on the disk; `None` stands for zeros.
type Page = Option<Arc<[u8; PAGE]>>;

/// A file's length and its pages. Clones share pages until they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    len: u64,
    pages: BTreeMap<u64, Page>,
}

/// The numbers of the pages that a range of bytes touches.
fn touched(offset: u64, bytes: u64) -> Option<RangeInclusive<u64>> {
    (bytes > 0).then(|| offset / PAGE_U64..=(offset + bytes - 1) / PAGE_U64)
}

/// A place inside a page or a buffer.
fn place(value: u64) -> usize {
    usize::try_from(value).expect("within memory")
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Pages that have room on the disk.
    pub(super) fn count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Pages of a range that have no room yet.
    pub(super) fn missing(&self, offset: u64, bytes: u64) -> u64 {
        touched(offset, bytes).map_or(0, |range| {
            let wanted = range.end() - range.start() + 1;
            wanted - self.pages.range(range).count() as u64
        })
    }

    /// The numbers of the pages that hold bytes other than zero.
    pub(super) fn written(&self) -> Vec<u64> {
        self.pages
            .iter()
            .filter(|(_, page)| page.is_some())
            .map(|(number, _)| *number)
            .collect()
    }

    /// Calls `each` with the page number, the range inside the page and the range of the bytes, page by page.
    fn walk(
        offset: u64,
        bytes: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let mut done = 0;
        while done < bytes {
            let at = offset + done as u64;
            let start = place(at % PAGE_U64);
            let step = (PAGE - start).min(bytes - done);
            each(at / PAGE_U64, start..start + step, done..done + step);
            done += step;
        }
    }

    /// Fills the buffer; the caller has checked the length.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        Self::walk(offset, buffer.len(), |number, inside, outside| {
            match self.pages.get(&number) {
                Some(Some(page)) => buffer[outside].copy_from_slice(&page[inside]),
                Some(None) | None => buffer[outside].fill(0),
            }
        });
    }

    /// Writes, extending the file if needed.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        Self::walk(offset, bytes.len(), |number, inside, outside| {
            let page = self.pages.entry(number).or_default();
            let bytes = &bytes[outside];
            if page.is_none() && bytes.iter().all(|byte| *byte == 0) {
                return;
            }
            let page = page.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[inside].copy_from_slice(bytes);
        });
        if !bytes.is_empty() {
            self.len = self.len.max(offset + bytes.len() as u64);
        }
    }

    /// Cuts or extends; what is cut off never comes back.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE_U64));
            if let Some(Some(page)) = self.pages.get_mut(&(len / PAGE_U64)) {
                Arc::make_mut(page)[place(len % PAGE_U64)..].fill(0);
            }
        }
        self.len = len;
    }

    /// Gives room to a range, extending the file if needed.
    pub(super) fn allocate(&mut self, offset: u64, bytes: u64) {
        for number in touched(offset, bytes).into_iter().flatten() {
            self.pages.entry(number).or_default();
        }
        if bytes > 0 {
            self.len = self.len.max(offset + bytes);
        }
    }

    /// Takes a range's room away where it covers whole pages, and zeroes the rest of it.
    pub(super) fn punch(&mut self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes);
        for number in touched(offset, bytes).into_iter().flatten() {
            let (first, last) = (number * PAGE_U64, (number + 1) * PAGE_U64);
            if offset <= first && last <= end {
                self.pages.remove(&number);
            } else if let Some(Some(page)) = self.pages.get_mut(&number) {
                let inside = place(offset.max(first) - first)..place(end.min(last) - first);
                Arc::make_mut(page)[inside].fill(0);
            }
        }
    }

    /// Takes over from `other` the pages of a range, shared, and the length.
    pub(super) fn adopt(&mut self, other: &Self, offset: u64, bytes: u64) {
        for number in touched(offset, bytes).into_iter().flatten() {
            match other.pages.get(&number) {
                Some(page) => self.pages.insert(number, page.clone()),
                None => self.pages.remove(&number),
            };
        }
        self.len = other.len;
    }

    /// Flips one bit of a byte, if the page it is in has been written.
    pub(super) fn flip(&mut self, offset: u64, bit: u32) {
        if let Some(Some(page)) = self.pages.get_mut(&(offset / PAGE_U64)) {
            Arc::make_mut(page)[place(offset % PAGE_U64)] ^= 1 << (bit % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator with a fixed seed.
    fn random(state: &mut u64, limit: u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % limit
    }

    #[test]
    fn pages_are_a_plain_array_of_bytes() {
        for seed in 0..100 {
            let mut state = seed;
            let (mut pages, mut plain) = (Pages::default(), Vec::<u8>::new());
            for step in 0..60_u8 {
                let offset = random(&mut state, 30_000);
                let bytes = random(&mut state, 12_000);
                let (start, end) = (place(offset), place(offset + bytes));
                match random(&mut state, 6) {
                    0 => {
                        pages.set_len(offset);
                        plain.resize(start, 0);
                    }
                    1 => {
                        pages.punch(offset, bytes);
                        let end = end.min(plain.len());
                        plain[start.min(end)..end].fill(0);
                    }
                    2 => {
                        pages.allocate(offset, bytes);
                        if bytes > 0 {
                            plain.resize(plain.len().max(end), 0);
                        }
                    }
                    _ => {
                        let fill = step % 4;
                        pages.write(offset, &vec![fill; place(bytes)]);
                        if bytes > 0 {
                            plain.resize(plain.len().max(end), 0);
                            plain[start..end].fill(fill);
                        }
                    }
                }
                assert_eq!(pages.len(), plain.len() as u64, "seed {seed}");
                let mut read = vec![9; plain.len()];
                pages.read(0, &mut read);
                assert!(read == plain, "seed {seed} step {step}");
            }
        }
    }
}
