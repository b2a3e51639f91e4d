//! The key-value store that a region's state machine sees.
//!
//! Owns the trait. Deliberately knows no lineage: an implementation adds and strips it.

use super::error::StoreError;

/// Keys with their values, in order.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The ordered keys and values of one region, inside one transaction; sees its own writes.
pub trait RegionKv {
    /// The value of a key.
    ///
    /// # Errors
    /// `Corrupt` when the stored value is not what was written; failures of the disk.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Sets the value of a key.
    ///
    /// # Errors
    /// Failures of the disk.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    /// Removes a key; one that is absent is no error.
    ///
    /// # Errors
    /// Failures of the disk.
    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError>;
    /// Up to `limit` keys in `from..to` with their values, in order. Go on from the last key with a zero byte
    /// appended.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, StoreError>;
}
