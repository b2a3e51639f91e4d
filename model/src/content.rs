//! The content of one file of the reference: its size and those pages that are not all zeros.
//!
//! Owns bytes. Each state that the checker tries is a copy of a whole tree: pages are shared, and holes cost nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: usize = 512;
const PAGE_BYTES: u64 = PAGE as u64;

/// The content; equal when every byte is, since a page of zeros is never kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Content {
    size: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

fn inside(offset: u64) -> usize {
    usize::try_from(offset % PAGE_BYTES).expect("below a page")
}

fn small(len: u64) -> usize {
    usize::try_from(len).expect("the reference filesystem is small")
}

impl Content {
    pub(crate) const fn len(&self) -> u64 {
        self.size
    }

    pub(crate) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let start = offset.min(self.size);
        let end = start.saturating_add(len).min(self.size);
        let mut bytes = vec![0; small(end - start)];
        if start == end {
            return bytes;
        }
        for (number, page) in self
            .pages
            .range(start / PAGE_BYTES..=(end - 1) / PAGE_BYTES)
        {
            let first = number * PAGE_BYTES;
            let (low, high) = (first.max(start), (first + PAGE_BYTES).min(end));
            bytes[small(low - start)..small(high - start)]
                .copy_from_slice(&page[small(low - first)..small(high - first)]);
        }
        bytes
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let taken = (PAGE - inside(at)).min(rest.len());
            self.change(at / PAGE_BYTES, |page| {
                page[inside(at)..inside(at) + taken].copy_from_slice(&rest[..taken]);
            });
            at += taken as u64;
            rest = &rest[taken..];
        }
        self.size = self.size.max(at);
    }

    /// Makes bytes zeros; the size stays.
    pub(crate) fn zero(&mut self, from: u64, to: u64) {
        let touched = from / PAGE_BYTES..to.div_ceil(PAGE_BYTES);
        let numbers: Vec<u64> = self
            .pages
            .range(touched)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let first = number * PAGE_BYTES;
            let (low, high) = (first.max(from), (first + PAGE_BYTES).min(to));
            self.change(number, |page| {
                page[small(low - first)..small(high - first)].fill(0);
            });
        }
    }

    pub(crate) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, self.size);
        }
        self.size = size;
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut [u8; PAGE])) {
        let page = self
            .pages
            .entry(number)
            .or_insert_with(|| Arc::new([0; PAGE]));
        let bytes = Arc::make_mut(page);
        change(bytes);
        if bytes.iter().all(|byte| *byte == 0) {
            self.pages.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bytes() {
        let mut content = Content::default();
        content.write(500, &[7; 600]);
        assert_eq!((content.len(), content.read(499, 3)), (1100, vec![0, 7, 7]));
        content.zero(512, 1024);
        assert_eq!(content.read(511, 2), [7, 0]);
        assert_eq!(content.read(1023, 100), [vec![0], vec![7; 76]].concat());
        content.resize(0);
        assert_eq!(content, Content::default());
        content.write(9, &[0; 9]);
        assert_eq!((content.len(), content.pages.len()), (18, 0));
    }
}
