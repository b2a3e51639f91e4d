//! What the log holds: records of all groups, and their encoding.
//!
//! Owns the record format (docs/format.md). A record has a header with its own CRC, so that damage to a payload still
//! says whose payload it was. Deliberately knows no consensus engine: votes, log ids and entry heads are opaque bytes.

use bytes::Bytes;
use crc_fast::crc32_iscsi;
use polyfs_core::ids::GroupId;
use polyfs_core::limits::EXTENT_PAYLOAD_BYTES_MIN;

use crate::aligned::AlignedBuffer;
use crate::extent_ref::ExtentRef;

/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 44;
const EXTENT_BYTES: usize = 20;

/// An extent that is on stable storage. The log takes no other (P10, ordering rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncedExtent(ExtentRef);

impl SyncedExtent {
    /// Vouches that `extent` was written and that its file's `sync_data` has since succeeded. Only the code that
    /// saw both happen may say so.
    #[must_use]
    pub fn after_sync(extent: ExtentRef) -> Self {
        Self(extent)
    }

    /// The pointer.
    #[must_use]
    pub fn get(self) -> ExtentRef {
        self.0
    }
}

/// Where an entry's bulk bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PayloadRef {
    /// It has none.
    #[default]
    None,
    /// In the log itself: less than [`EXTENT_PAYLOAD_BYTES_MIN`].
    InLog(Bytes),
    /// In a data file, synced before the record.
    Extent(SyncedExtent),
}

/// One entry of a group's Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What the node encoded: log id, kind, command.
    pub head: Bytes,
    /// What it carries beside the head.
    pub payload: PayloadRef,
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry was appended: the index follows the group's last.
    Entry {
        /// Whose.
        group: GroupId,
        /// What.
        entry: LogEntry,
    },
    /// The group's vote is now this.
    Vote {
        /// Whose.
        group: GroupId,
        /// The encoded vote.
        bytes: Bytes,
    },
    /// The group's committed log id is at least this.
    Committed {
        /// Whose.
        group: GroupId,
        /// The encoded log id.
        bytes: Bytes,
    },
    /// Entries from this index on are void.
    Truncate {
        /// Whose.
        group: GroupId,
        /// The first void index.
        from_index: u64,
    },
    /// Entries up to this index, included, are no longer needed.
    Purge {
        /// Whose.
        group: GroupId,
        /// The last purged index.
        upto_index: u64,
        /// The encoded log id of it.
        bytes: Bytes,
    },
    /// The group lives on this node; or what is known of its birth has changed.
    Create {
        /// Whose.
        group: GroupId,
        /// Encoded: replica id, range, parent.
        bytes: Bytes,
    },
    /// The group is gone from this node, with all its records.
    Destroy {
        /// Whose.
        group: GroupId,
    },
}

impl Record {
    /// The group it belongs to.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::Entry { group, .. }
            | Self::Vote { group, .. }
            | Self::Committed { group, .. }
            | Self::Truncate { group, .. }
            | Self::Purge { group, .. }
            | Self::Create { group, .. }
            | Self::Destroy { group } => *group,
        }
    }

    /// Its size in the log, in bytes.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self {
                Self::Entry { entry, .. } => entry.head.len() + payload_bytes(&entry.payload),
                Self::Vote { bytes, .. }
                | Self::Committed { bytes, .. }
                | Self::Purge { bytes, .. }
                | Self::Create { bytes, .. } => bytes.len(),
                Self::Truncate { .. } | Self::Destroy { .. } => 0,
            }
    }
}

fn payload_bytes(payload: &PayloadRef) -> usize {
    match payload {
        PayloadRef::None => 0,
        PayloadRef::InLog(bytes) => bytes.len(),
        PayloadRef::Extent(_) => EXTENT_BYTES,
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// The header is damaged, or the bytes end too early: what follows cannot be found.
    Header,
    /// The header is good, the bytes behind it are not: the next record begins `bytes` further on.
    Body { group: GroupId, bytes: usize },
}

const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_COMMITTED: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;
const KIND_CREATE: u8 = 6;
const KIND_DESTROY: u8 = 7;

const PAYLOAD_NONE: u8 = 0;
const PAYLOAD_IN_LOG: u8 = 1;
const PAYLOAD_EXTENT: u8 = 2;

struct Parts<'a> {
    kind: u8,
    index: u64,
    term: u64,
    head: &'a [u8],
    payload_kind: u8,
    payload: &'a [u8],
}

/// Appends the record to `out`: the one copy its bytes make on their way to the disk.
pub(crate) fn encode(record: &Record, out: &mut AlignedBuffer) {
    let extent;
    let mut parts = Parts {
        kind: 0,
        index: 0,
        term: 0,
        head: &[],
        payload_kind: PAYLOAD_NONE,
        payload: &[],
    };
    match record {
        Record::Entry { entry, .. } => {
            parts.kind = KIND_ENTRY;
            parts.index = entry.index;
            parts.term = entry.term;
            parts.head = &entry.head;
            match &entry.payload {
                PayloadRef::None => {}
                PayloadRef::InLog(bytes) => {
                    parts.payload_kind = PAYLOAD_IN_LOG;
                    parts.payload = bytes;
                }
                PayloadRef::Extent(synced) => {
                    extent = encode_extent(synced.get());
                    parts.payload_kind = PAYLOAD_EXTENT;
                    parts.payload = &extent;
                }
            }
        }
        Record::Vote { bytes, .. } => (parts.kind, parts.head) = (KIND_VOTE, bytes),
        Record::Committed { bytes, .. } => (parts.kind, parts.head) = (KIND_COMMITTED, bytes),
        Record::Create { bytes, .. } => (parts.kind, parts.head) = (KIND_CREATE, bytes),
        Record::Purge {
            upto_index, bytes, ..
        } => {
            (parts.kind, parts.index, parts.head) = (KIND_PURGE, *upto_index, bytes);
        }
        Record::Truncate { from_index, .. } => {
            (parts.kind, parts.index) = (KIND_TRUNCATE, *from_index);
        }
        Record::Destroy { .. } => parts.kind = KIND_DESTROY,
    }
    encode_parts(record.group(), &parts, out);
}

fn encode_parts(group: GroupId, parts: &Parts<'_>, out: &mut AlignedBuffer) {
    let start = out.len();
    out.resize(start + RECORD_HEADER_BYTES);
    out.extend(parts.head);
    out.extend(parts.payload);
    let (header, body) = out.as_mut_slice()[start..].split_at_mut(RECORD_HEADER_BYTES);
    header[4] = parts.kind;
    header[5] = parts.payload_kind;
    header[8..16].copy_from_slice(&group.0.to_le_bytes());
    header[16..24].copy_from_slice(&parts.index.to_le_bytes());
    header[24..32].copy_from_slice(&parts.term.to_le_bytes());
    header[32..36].copy_from_slice(&length(parts.head).to_le_bytes());
    header[36..40].copy_from_slice(&length(parts.payload).to_le_bytes());
    header[40..44].copy_from_slice(&crc32_iscsi(body).to_le_bytes());
    let crc = crc32_iscsi(&header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("push refuses records larger than a batch")
}

fn encode_extent(extent: ExtentRef) -> [u8; EXTENT_BYTES] {
    let mut out = [0; EXTENT_BYTES];
    out[..4].copy_from_slice(&extent.file.to_le_bytes());
    out[4..12].copy_from_slice(&extent.offset.to_le_bytes());
    out[12..16].copy_from_slice(&extent.bytes.to_le_bytes());
    out[16..].copy_from_slice(&extent.crc.to_le_bytes());
    out
}

/// Decodes the record that `bytes` begins with; the second value is its size. Copies what it keeps, so that a small
/// record does not hold a whole batch in memory.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Record, usize), RecordFault> {
    let header = bytes
        .get(..RECORD_HEADER_BYTES)
        .ok_or(RecordFault::Header)?;
    if u32_at(header, 0) != crc32_iscsi(&header[4..]) {
        return Err(RecordFault::Header);
    }
    let head_bytes = usize::try_from(u32_at(header, 32)).map_err(|_| RecordFault::Header)?;
    let payload_bytes = usize::try_from(u32_at(header, 36)).map_err(|_| RecordFault::Header)?;
    let used = RECORD_HEADER_BYTES
        .checked_add(head_bytes)
        .and_then(|sum| sum.checked_add(payload_bytes))
        .ok_or(RecordFault::Header)?;
    let body = bytes
        .get(RECORD_HEADER_BYTES..used)
        .ok_or(RecordFault::Header)?;
    let group = GroupId(u64_at(header, 8));
    if u32_at(header, 40) != crc32_iscsi(body) {
        return Err(RecordFault::Body { group, bytes: used });
    }
    let (head, payload) = body.split_at(head_bytes);
    let record = assemble(header, group, head, payload).ok_or(RecordFault::Header)?;
    Ok((record, used))
}

/// None when the header, though its CRC is right, is none that this version writes.
fn assemble(header: &[u8], group: GroupId, head: &[u8], payload: &[u8]) -> Option<Record> {
    let kind = header[4];
    if kind != KIND_ENTRY && (header[5] != PAYLOAD_NONE || !payload.is_empty()) {
        return None;
    }
    let index = u64_at(header, 16);
    let bytes = Bytes::copy_from_slice(head);
    Some(match kind {
        KIND_ENTRY => {
            let payload = decode_payload(header[5], payload)?;
            let entry = LogEntry {
                index,
                term: u64_at(header, 24),
                head: bytes,
                payload,
            };
            Record::Entry { group, entry }
        }
        KIND_VOTE => Record::Vote { group, bytes },
        KIND_COMMITTED => Record::Committed { group, bytes },
        KIND_TRUNCATE if head.is_empty() => Record::Truncate {
            group,
            from_index: index,
        },
        KIND_PURGE => Record::Purge {
            group,
            upto_index: index,
            bytes,
        },
        KIND_CREATE => Record::Create { group, bytes },
        KIND_DESTROY if head.is_empty() => Record::Destroy { group },
        _ => return None,
    })
}

fn decode_payload(kind: u8, bytes: &[u8]) -> Option<PayloadRef> {
    match kind {
        PAYLOAD_NONE if bytes.is_empty() => Some(PayloadRef::None),
        PAYLOAD_IN_LOG if bytes.len() < EXTENT_PAYLOAD_BYTES_MIN => {
            Some(PayloadRef::InLog(Bytes::copy_from_slice(bytes)))
        }
        PAYLOAD_EXTENT if bytes.len() == EXTENT_BYTES => {
            let extent = ExtentRef {
                file: u32_at(bytes, 0),
                offset: u64_at(bytes, 4),
                bytes: u32_at(bytes, 12),
                crc: u32_at(bytes, 16),
            };
            Some(PayloadRef::Extent(SyncedExtent::after_sync(extent)))
        }
        _ => None,
    }
}

/// The little-endian number at `at`; the caller has checked the length.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// As [`u16_at`].
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// As [`u16_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
