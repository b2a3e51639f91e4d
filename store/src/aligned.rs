//! A byte buffer whose first byte lies at a block boundary, as O_DIRECT demands.
//!
//! Owns the alignment: the storage is allocated a block too large and used from its first aligned byte on, so no
//! unsafe code is needed. Deliberately knows nothing of what is put in.

/// The unit of direct I/O and of padding, in bytes: offsets, lengths and buffers are multiples of it.
pub const BLOCK_BYTES: usize = 4096;

/// A growable buffer that begins at a multiple of [`BLOCK_BYTES`] in memory. Reused, it allocates nothing.
#[derive(Debug)]
pub struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1).next_multiple_of(BLOCK_BYTES);
        let storage = vec![0; capacity + BLOCK_BYTES];
        let start = storage.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "a byte pointer can be aligned");
        Self {
            storage,
            start,
            len: 0,
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can hold without allocating.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.storage.len() - BLOCK_BYTES
    }

    /// Forgets the content, keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends a copy of `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.reserve(end);
        self.storage[self.start + self.len..self.start + end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Sets the length; bytes that this adds are zero.
    pub fn resize(&mut self, len: usize) {
        self.reserve(len);
        if len > self.len {
            self.storage[self.start + self.len..self.start + len].fill(0);
        }
        self.len = len;
    }

    /// Sets the length without clearing what this adds: for a buffer that is about to be read into.
    pub fn resize_for_read(&mut self, len: usize) {
        self.reserve(len);
        self.len = len;
    }

    /// Fills up with zeros to a multiple of [`BLOCK_BYTES`].
    pub fn pad(&mut self) {
        self.resize(self.len.next_multiple_of(BLOCK_BYTES));
    }

    /// The content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// The content, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }

    fn reserve(&mut self, capacity: usize) {
        if capacity <= self.capacity() {
            return;
        }
        let mut larger = Self::new(capacity.next_power_of_two());
        larger.storage[larger.start..larger.start + self.len].copy_from_slice(self.as_slice());
        larger.len = self.len;
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_aligned_while_it_grows_and_pads_with_zeros() {
        let mut buffer = AlignedBuffer::new(10);
        let mut expected = Vec::new();
        for round in 0..200_u8 {
            let piece = vec![round; usize::from(round) * 7];
            buffer.extend(&piece);
            expected.extend_from_slice(&piece);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
        }
        assert_eq!(buffer.as_slice(), expected);
        buffer.pad();
        expected.resize(expected.len().next_multiple_of(BLOCK_BYTES), 0);
        assert_eq!(buffer.as_slice(), expected);
        buffer.clear();
        buffer.resize(100);
        assert_eq!(
            buffer.as_slice(),
            [0; 100],
            "old content does not shine through"
        );
    }
}
