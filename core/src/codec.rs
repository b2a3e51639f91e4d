//! The one place that turns values into bytes and back.
//!
//! Owns the encoding of every header on the wire, record in the log and value in the state: bincode 2 (little endian,
//! variable-length integers), frozen at 2.0.1. Bulk bytes never pass through here: a frame or a record carries them
//! beside its header. Deliberately knows no type it encodes; those that are stored carry a version of their own.

use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::limits::FRAME_HEADER_BYTES_MAX;

/// Why bytes are not the value they should be. Never a panic: such bytes come from disks and networks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end too early, claim more than the limit, or name what does not exist.
    #[error("the bytes are no valid {0}")]
    Invalid(&'static str),
    /// The value is followed by bytes that belong to nothing.
    #[error("{1} bytes follow a {0}")]
    Trailing(&'static str, usize),
    /// A newer PolyFS wrote this.
    #[error(
        "a {what} of version {found} was written by a newer PolyFS; this one reads up to {known}: upgrade it"
    )]
    Newer {
        /// What was read.
        what: &'static str,
        /// The version it carries.
        found: u8,
        /// The newest version this binary knows.
        known: u8,
    },
}

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<FRAME_HEADER_BYTES_MAX>,
> = bincode::config::standard().with_limit::<FRAME_HEADER_BYTES_MAX>();

/// Encodes a value.
///
/// # Panics
/// When the value is larger than [`FRAME_HEADER_BYTES_MAX`]: what is encoded is made here and bounded when made.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, CONFIG).expect("values are bounded when they are made")
}

/// Decodes a value that fills `bytes` exactly; allocates at most [`FRAME_HEADER_BYTES_MAX`].
///
/// # Errors
/// When the bytes are not exactly one such value; `what` names it in the message.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|_| DecodeError::Invalid(what))?;
    if used != bytes.len() {
        return Err(DecodeError::Trailing(what, bytes.len() - used));
    }
    Ok(value)
}

/// Encodes a stored value: a version byte, then the value.
///
/// # Panics
/// As [`encode`].
#[must_use]
pub fn encode_versioned<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = alloc::vec![version];
    bytes.append(&mut encode(value));
    bytes
}

/// Decodes a stored value of exactly the version `known`, the only one so far.
///
/// # Errors
/// As [`decode`], and [`DecodeError::Newer`] when the version is higher.
pub fn decode_versioned<T: DeserializeOwned>(
    what: &'static str,
    known: u8,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    match bytes.split_first() {
        Some((version, rest)) if *version == known => decode(what, rest),
        Some((version, _)) if *version > known => Err(DecodeError::Newer {
            what,
            found: *version,
            known,
        }),
        _ => Err(DecodeError::Invalid(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    #[test]
    fn what_was_encoded_comes_back_and_nothing_else_does() {
        let value = (7_u64, String::from("name"), alloc::vec![1_u32, 2, 3]);
        let bytes = encode(&value);
        assert_eq!(
            decode::<(u64, String, Vec<u32>)>("triple", &bytes),
            Ok(value)
        );
        for end in 0..bytes.len() {
            assert!(decode::<(u64, String, Vec<u32>)>("triple", &bytes[..end]).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(
            decode::<(u64, String, Vec<u32>)>("triple", &longer),
            Err(DecodeError::Trailing("triple", 1))
        );
    }

    #[test]
    fn a_claimed_length_allocates_nothing_beyond_the_limit() {
        let claim = encode(&(u64::from(u32::MAX)));
        assert_eq!(
            decode::<Vec<u8>>("bytes", &claim),
            Err(DecodeError::Invalid("bytes"))
        );
    }

    #[test]
    fn a_newer_version_says_so() {
        let bytes = encode_versioned(2, &1_u8);
        assert_eq!(
            decode_versioned::<u8>("value", 1, &bytes),
            Err(DecodeError::Newer {
                what: "value",
                found: 2,
                known: 1
            })
        );
    }
}
