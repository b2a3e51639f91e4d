//! The times entries are stamped with (P9).
//!
//! Owns the region's last stamp. It is not lower than that of any inode here, so one nanosecond more is later than
//! each of them: times rise strictly with every change.

use super::kv::{Kv, KvError};
use super::{key, record};
use crate::time::Timestamp;

/// Draws this entry's stamp: the entry's time, or just after the last stamp when that is later.
pub(super) fn stamp(state: &mut dyn Kv, time: Timestamp) -> Result<Timestamp, KvError> {
    let last: Option<Timestamp> = record::read(state, "clock", &key::clock())?;
    let stamp = last.map_or(time, |last| time.max(last.next()));
    record::write(state, &key::clock(), &stamp)?;
    Ok(stamp)
}
