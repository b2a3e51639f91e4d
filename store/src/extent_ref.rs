//! Where a payload lies in a data file: the pointer that log records and page maps carry.
//!
//! Owns the type alone. Deliberately knows neither who allocates extents nor who reads them.

use serde::{Deserialize, Serialize};

/// A run of bytes in a data file, never overwritten while anything refers to it (P10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExtentRef {
    /// Which data file.
    pub file: u32,
    /// Where it begins there, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u32,
    /// CRC32C of its bytes.
    pub crc: u32,
}
