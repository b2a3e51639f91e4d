//! CRC32C over several pieces, as used for extents, pages and stored values.
//!
//! Owns the choice of checksum. Deliberately knows nothing of what is summed.

use crc_fast::{CrcAlgorithm, Digest};

/// A running CRC32C.
pub(crate) struct Crc(Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn add(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    pub(crate) fn finish(self) -> u32 {
        u32::try_from(self.0.finalize()).expect("CRC32C has 32 bits")
    }

    /// Of one piece.
    pub(crate) fn of(bytes: &[u8]) -> u32 {
        Self::new().add(bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_crc32c() {
        assert_eq!(Crc::of(b"123456789"), 0xE306_9283);
        assert_eq!(Crc::new().add(b"1234").add(b"56789").finish(), 0xE306_9283);
    }
}
