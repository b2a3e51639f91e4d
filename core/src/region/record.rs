//! Values of region state: encoded with a version, decoded or reported as corrupt.
//!
//! Owns how any record is read and written; which records there are is the business of the modules that own them.

use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::command::Descriptor;
use super::key;
use super::kv::{Kv, KvError, KvRead};
use crate::codec;

const VERSION: u8 = 1;

pub(super) fn read<T: DeserializeOwned>(
    state: &dyn KvRead,
    what: &'static str,
    key: &[u8],
) -> Result<Option<T>, KvError> {
    state
        .get(key)?
        .map(|bytes| decode(what, &bytes))
        .transpose()
}

pub(super) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, KvError> {
    Ok(codec::decode_versioned(what, VERSION, bytes)?)
}

pub(super) fn write<T: Serialize>(
    state: &mut dyn Kv,
    key: &[u8],
    value: &T,
) -> Result<(), KvError> {
    state.put(key, &codec::encode_versioned(VERSION, value))
}

/// All records between two keys, decoded.
pub(super) fn all<T: DeserializeOwned>(
    state: &dyn KvRead,
    what: &'static str,
    (from, to): (Vec<u8>, Vec<u8>),
) -> Result<Vec<(Vec<u8>, T)>, KvError> {
    state
        .scan(&from, &to, usize::MAX)?
        .into_iter()
        .map(|(key, value)| Ok((key, decode(what, &value)?)))
        .collect()
}

/// What the region is.
pub(super) fn descriptor(state: &dyn KvRead) -> Result<Descriptor, KvError> {
    read(state, "descriptor", &key::descriptor())?
        .ok_or_else(|| KvError::Corrupt("a region without a descriptor".into()))
}
