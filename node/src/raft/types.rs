//! What openraft is instantiated with.
//!
//! Owns [`TypeConfig`] and the payload of log entries. An entry is a *head* (encoded once, where it is proposed, and
//! from then on carried as bytes through wire and log) and a *payload* of bulk bytes beside it that never passes through
//! a codec. Deliberately knows nothing of what a head says beyond its first byte.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use openraft::impls::leader_id_std::LeaderId;
use openraft::impls::{BoxedErrorSource, InlineBatch, ProgressResponder};
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};
use polyfs_core::codec::{self, DecodeError};
use polyfs_core::region::command::Applied;
use polyfs_store::extent_ref::ExtentRef;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::runtime::Runtime;

/// openraft's types for a runtime.
pub struct TypeConfig<R>(PhantomData<fn() -> R>);

/// The id of a committed leadership: its term.
pub type LeaderTerm = <LeaderId<u64, u64> as openraft::vote::RaftLeaderId>::Committed;
/// Term and index of a log entry.
pub type LogId = openraft::LogId<LeaderTerm>;
/// Whom a replica has voted for.
pub type Vote = openraft::impls::Vote<LeaderId<u64, u64>>;
/// Voters and learners, by replica id.
pub type Membership = openraft::Membership<u64, ()>;
/// A membership and the entry it came from.
pub type StoredMembership = openraft::StoredMembership<LeaderTerm, u64, ()>;
/// What a snapshot contains.
pub type SnapshotMeta = openraft::storage::SnapshotMeta<LeaderTerm, u64, ()>;
/// One log entry in memory.
pub type Entry = openraft::Entry<LeaderTerm, EntryPayload<GroupCommand, u64, ()>>;

/// The log id of a term and an index.
#[must_use]
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderTerm::new(term), index)
}

/// What a group's log orders: opaque to consensus.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupCommand {
    /// The encoded command; its first byte is the version of the encoding, below those of consensus' own entries.
    pub head: Bytes,
    /// The bytes beside it.
    pub payload: Bytes,
    /// Where this node's log keeps the payload, if in an extent. Of this node alone: never sent.
    pub extent: Option<ExtentRef>,
}

/// Heads beginning with this or more are consensus' own entries.
const HEAD_BLANK: u8 = 0x80;
const HEAD_MEMBERSHIP: u8 = 0x81;
/// The version of the encoding of commands.
const COMMAND_VERSION: u8 = 1;
const MEMBERSHIP_VERSION: u8 = 1;

impl GroupCommand {
    /// Encodes a command.
    #[must_use]
    pub fn new<T: Serialize>(command: &T, payload: Bytes) -> Self {
        let head = codec::encode_versioned(COMMAND_VERSION, command).into();
        Self {
            head,
            payload,
            extent: None,
        }
    }

    /// Decodes it again.
    ///
    /// # Errors
    /// When the head is no such command, or a newer one.
    pub fn decode<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
    ) -> Result<T, DecodeError> {
        codec::decode_versioned(what, COMMAND_VERSION, &self.head)
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// The head of an entry, as wire and log carry it, and its payload.
#[must_use]
pub fn split_entry(entry: &Entry) -> (Bytes, Bytes) {
    match &entry.payload {
        EntryPayload::Blank => (Bytes::from_static(&[HEAD_BLANK]), Bytes::new()),
        EntryPayload::Normal(command) => (command.head.clone(), command.payload.clone()),
        EntryPayload::Membership(membership) => {
            let mut head = vec![HEAD_MEMBERSHIP];
            head.append(&mut codec::encode_versioned(MEMBERSHIP_VERSION, membership));
            (head.into(), Bytes::new())
        }
    }
}

/// The entry of a head and a payload.
///
/// # Errors
/// When the head is none of ours, or carries a payload that does not belong to it.
pub fn join_entry(id: LogId, head: Bytes, payload: Bytes) -> Result<Entry, DecodeError> {
    let invalid = || DecodeError::Invalid("log entry");
    let payload = match head.first() {
        None => return Err(invalid()),
        Some(&HEAD_BLANK) if head.len() == 1 && payload.is_empty() => EntryPayload::Blank,
        Some(&HEAD_MEMBERSHIP) if payload.is_empty() => {
            let membership = codec::decode_versioned("membership", MEMBERSHIP_VERSION, &head[1..])?;
            EntryPayload::Membership(membership)
        }
        Some(first) if *first >= HEAD_BLANK => return Err(invalid()),
        Some(_) => EntryPayload::Normal(GroupCommand {
            head,
            payload,
            extent: None,
        }),
    };
    Ok(Entry {
        log_id: id,
        payload,
    })
}

/// Bytes an entry carries.
#[must_use]
pub fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Blank => 1,
        EntryPayload::Normal(command) => command.bytes(),
        EntryPayload::Membership(_) => 64,
    }
}

/// What applying an entry yields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupApplied {
    /// It was consensus' own entry.
    Nothing,
    /// A region's.
    Region(Applied),
    /// The master's, in its own encoding.
    Master(Bytes),
}

impl fmt::Display for GroupApplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Region(_) => "applied to a region",
            Self::Master(_) => "applied to the master's state",
        })
    }
}

impl fmt::Debug for GroupCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "command of {} + {} bytes",
            self.head.len(),
            self.payload.len()
        )
    }
}

impl fmt::Display for GroupCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// openraft asks for serde of every payload, but whatever leaves the process goes through `split_entry`.
impl Serialize for GroupCommand {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(
            "bulk bytes never pass through a codec",
        ))
    }
}

impl<'de> Deserialize<'de> for GroupCommand {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(
            "bulk bytes never pass through a codec",
        ))
    }
}

impl<R: Runtime> RaftTypeConfig for TypeConfig<R> {
    type D = GroupCommand;
    type R = GroupApplied;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = Vote;
    type Payload = EntryPayload<GroupCommand, u64, ()>;
    type Entry = Entry;
    type AsyncRuntime = R::Async;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

impl<R> Clone for TypeConfig<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for TypeConfig<R> {}
impl<R> Default for TypeConfig<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<R> fmt::Debug for TypeConfig<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<R> PartialEq for TypeConfig<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R> Eq for TypeConfig<R> {}
impl<R> PartialOrd for TypeConfig<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for TypeConfig<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_from_head_and_payload() {
        let id = log_id(3, 7);
        let membership = Membership::new_with_defaults(vec![[1, 2].into()], [1, 2, 3]);
        let command = GroupCommand::new(&5_u64, Bytes::from_static(b"bulk"));
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Membership(membership),
            EntryPayload::Normal(command),
        ] {
            let entry = Entry {
                log_id: id,
                payload,
            };
            let (head, payload) = split_entry(&entry);
            assert_eq!(join_entry(id, head, payload), Ok(entry));
        }
    }

    #[test]
    fn nonsense_is_no_entry() {
        for head in [&b""[..], &[HEAD_BLANK, 1], &[HEAD_MEMBERSHIP, 9], &[0xff]] {
            assert!(join_entry(log_id(1, 1), Bytes::from_static(head), Bytes::new()).is_err());
        }
        let blank = Bytes::from_static(&[HEAD_BLANK]);
        assert!(join_entry(log_id(1, 1), blank, Bytes::from_static(b"x")).is_err());
    }
}
