//! One group's log, as openraft wants it, over the node's shared log.
//!
//! Owns the translation between entries and records. A vote is durable before it counts; entries are readable before
//! they are durable, so that replication does not wait for this disk. Deliberately knows nothing of batches.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use polyfs_core::codec;
use polyfs_core::ids::GroupId;
use polyfs_store::extent_ref::ExtentRef;
use polyfs_store::wal::{Found, GroupState, LogEntry, LogError, PayloadRef, Record, Standing};

use super::log_driver::{SharedLog, StagedEntry, Waiter};
use super::types::{Entry, LogId, TypeConfig, Vote, join_entry, log_id, split_entry};
use crate::runtime::{Lane, Runtime};

/// One AppendEntries carries about this many bytes at most: several are on their way at once.
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Entries that are read at once for apply.
const READ_BYTES_MAX: usize = 8 << 20;

/// The log of one group on this node.
pub struct GroupLog<R: Runtime> {
    shared: SharedLog<R>,
    group: GroupId,
    committed_unknown: bool,
}

impl<R: Runtime> Clone for GroupLog<R> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            group: self.group,
            committed_unknown: self.committed_unknown,
        }
    }
}

impl<R: Runtime> Debug for GroupLog<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "log of {}", self.group)
    }
}

fn encode_id(id: LogId) -> Bytes {
    codec::encode_versioned(1, &(id.committed_leader_id().term, id.index())).into()
}

fn decode_id(bytes: &[u8]) -> Result<LogId, io::Error> {
    let (term, index) = codec::decode_versioned("log id", 1, bytes).map_err(io::Error::other)?;
    Ok(log_id(term, index))
}

fn payload_bytes(payload: &PayloadRef) -> usize {
    match payload {
        PayloadRef::None => 0,
        PayloadRef::InLog(bytes) => bytes.len(),
        PayloadRef::Extent(extent) => {
            usize::try_from(extent.get().bytes).expect("usize has at least 32 bits")
        }
    }
}

impl<R: Runtime> GroupLog<R> {
    /// The log of `group`.
    #[must_use]
    pub fn new(shared: SharedLog<R>, group: GroupId) -> Self {
        Self {
            shared,
            group,
            committed_unknown: false,
        }
    }

    /// The same, silent about what was committed: nothing is applied before a leader says so.
    #[must_use]
    pub fn with_committed_unknown(mut self) -> Self {
        self.committed_unknown = true;
        self
    }

    fn state(&self) -> GroupState {
        self.shared
            .books()
            .index
            .group(self.group)
            .unwrap_or_default()
    }

    /// Entries of a range that the log has, in order; `bytes_max` ends it early, after at least one.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        // A purged entry's place may be written anew between looking and loading: then look again.
        for _ in 0..3 {
            let (found, staged, extents) = self.look(range.clone(), bytes_max)?;
            let located: Vec<_> = found
                .iter()
                .filter_map(|one| match one {
                    Found::Stored(located) => Some(*located),
                    Found::Cached(_) => None,
                })
                .collect();
            let loaded = if located.is_empty() {
                self.shared.reader().load(found)
            } else {
                let reader = self.shared.reader().clone();
                self.shared
                    .runtime()
                    .blocking(Lane::Read, move || reader.load(found))
                    .await
            };
            match loaded {
                Ok(entries) => {
                    let all = self.assemble(entries, staged, extents, bytes_max).await?;
                    if let Some(all) = all {
                        return Ok(all);
                    }
                }
                Err(LogError::Damaged { .. })
                    if located
                        .iter()
                        .any(|one| !self.shared.books().index.is_current(one)) => {}
                Err(error) => {
                    self.shared.health().log_failed(self.group, &error);
                    return Err(io::Error::other(error));
                }
            }
        }
        Err(io::Error::other(
            "the log is being purged faster than it can be read",
        ))
    }

    /// What is known of a range, under the lock: indexed entries, and those still waiting for their payloads.
    #[expect(
        clippy::type_complexity,
        reason = "three lists of one look, taken apart at once"
    )]
    fn look(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<(Vec<Found>, Vec<StagedEntry>, Vec<Option<Bytes>>), io::Error> {
        let books = self.shared.books();
        let known = books
            .index
            .group(self.group)
            .and_then(|state| state.entries);
        let mut found = Vec::new();
        let mut end = range.start;
        if let Some(known) = known {
            let start = range.start.max(known.first);
            end = range.end.min(known.last + 1);
            if start < end {
                let read = books.index.read(self.group, start..end, bytes_max);
                found = read.map_err(io::Error::other)?;
            }
            if start < end && (found.len() as u64) < end - start {
                end = u64::MAX;
            }
        }
        let mut staged = Vec::new();
        if end < range.end
            && let Some(waiting) = books.staged_entries.get(&self.group)
        {
            let mut bytes = 0;
            for (_, entry) in waiting.range(range) {
                bytes += entry.payload.len() + entry.head.len();
                if bytes > bytes_max && !(staged.is_empty() && found.is_empty()) {
                    break;
                }
                staged.push(entry.clone());
            }
        }
        let bulk = found.iter().map(|one| {
            let (index, term) = match one {
                Found::Cached(entry) => (entry.index, entry.term),
                Found::Stored(located) => (located.index, located.term),
            };
            books.bulk(self.group, index, term)
        });
        let bulk = bulk.collect();
        Ok((found, staged, bulk))
    }

    /// Entries with their payloads; none when one of them went meanwhile: look again.
    async fn assemble(
        &self,
        stored: Vec<LogEntry>,
        staged: Vec<StagedEntry>,
        bulk: Vec<Option<Bytes>>,
        bytes_max: usize,
    ) -> Result<Option<Vec<Entry>>, io::Error> {
        let mut entries = Vec::with_capacity(stored.len() + staged.len());
        let mut bytes = 0;
        for (one, bulk) in stored.into_iter().zip(bulk) {
            // The log counts a payload in an extent as its pointer.
            bytes += one.head.len() + payload_bytes(&one.payload);
            if bytes > bytes_max && !entries.is_empty() {
                return Ok(Some(entries));
            }
            let id = log_id(one.term, one.index);
            let (payload, extent) = match (one.payload, bulk) {
                (PayloadRef::None, _) => (Bytes::new(), None),
                (PayloadRef::InLog(bytes), _) => (bytes, None),
                (PayloadRef::Extent(extent), Some(bytes)) => (bytes, Some(extent.get())),
                (PayloadRef::Extent(extent), None) => {
                    let Some(bytes) = self.load_extent(extent.get(), &id).await? else {
                        return Ok(None);
                    };
                    (bytes, Some(extent.get()))
                }
            };
            let mut entry = join_entry(id, one.head, payload).map_err(io::Error::other)?;
            if let EntryPayload::Normal(command) = &mut entry.payload {
                command.extent = extent;
            }
            entries.push(entry);
        }
        for one in staged {
            bytes += one.head.len() + one.payload.len();
            if bytes > bytes_max && !entries.is_empty() {
                return Ok(Some(entries));
            }
            let id = log_id(one.term, one.index);
            entries.push(join_entry(id, one.head, one.payload).map_err(io::Error::other)?);
        }
        Ok(Some(entries))
    }

    /// The payload of an entry; none when the entry is in the log no more: then its extent may be anybody's.
    async fn load_extent(&self, extent: ExtentRef, of: &LogId) -> Result<Option<Bytes>, io::Error> {
        let data = self.shared.data().clone();
        let read = self
            .shared
            .runtime()
            .blocking(Lane::Read, move || data.read(extent, 0..extent.bytes))
            .await;
        let error = match read {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) => error,
        };
        let term = of.committed_leader_id().term;
        let gone = {
            let books = self.shared.books();
            let known = books.index.group(self.group).unwrap_or_default();
            let purged = known.purged.is_some_and(|(index, _)| index >= of.index());
            let standing = books.index.standing(self.group, of.index(), term);
            purged || standing == Standing::Unknown
        };
        if gone {
            return Ok(None);
        }
        self.shared.health().store_failed(self.group, &error);
        Err(io::Error::other(error))
    }
}

impl<R: Runtime> RaftLogReader<TypeConfig<R>> for GroupLog<R> {
    async fn try_get_log_entries<B>(&mut self, range: B) -> Result<Vec<Entry>, io::Error>
    where
        B: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut next = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries = Vec::new();
        while next < end {
            let mut more = self.read(next..end, READ_BYTES_MAX).await?;
            let Some(last) = more.last() else { break };
            next = last.log_id.index() + 1;
            entries.append(&mut more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, APPEND_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.state().vote;
        vote.map(|bytes| codec::decode_versioned("vote", 1, &bytes).map_err(io::Error::other))
            .transpose()
    }
}

impl<R: Runtime> RaftLogStorage<TypeConfig<R>> for GroupLog<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<R>>, io::Error> {
        let state = self.state();
        let purged = state
            .purged
            .map(|(_, bytes)| decode_id(&bytes))
            .transpose()?;
        let last = state
            .entries
            .map(|entries| log_id(entries.last_term, entries.last));
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes: Bytes = codec::encode_versioned(1, vote).into();
        let record = Record::Vote {
            group: self.group,
            bytes,
        };
        if cfg!(planted = "vote_unsynced") {
            return self.shared.push(record).map_err(io::Error::other);
        }
        // openraft takes a durable vote for the end of every append before it.
        let staged = self.shared.staged_first(self.group).await;
        staged.map_err(io::Error::other)?;
        self.shared
            .push_durably(record)
            .await
            .map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(id) = committed {
            let (index, bytes) = (id.index(), encode_id(id));
            self.shared.note_committed(self.group, index, bytes);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        if self.committed_unknown {
            return Ok(None);
        }
        self.state()
            .committed
            .map(|bytes| decode_id(&bytes))
            .transpose()
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig<R>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let split = |entry: Entry| {
            let (head, payload) = split_entry(&entry);
            (
                entry.log_id.index(),
                entry.log_id.committed_leader_id().term,
                head,
                payload,
            )
        };
        let entries = entries.into_iter().map(split).collect();
        let appended = self
            .shared
            .append(self.group, entries, Waiter::Flushed(callback));
        appended.map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from_index = last.map_or(0, |id| id.index() + 1);
        let indexed = {
            let mut books = self.shared.books();
            books.unstage(self.group, from_index);
            let entries = books
                .index
                .group(self.group)
                .and_then(|state| state.entries);
            entries.is_some_and(|entries| entries.last >= from_index)
        };
        if !indexed {
            return Ok(());
        }
        let record = Record::Truncate {
            group: self.group,
            from_index,
        };
        self.shared.push(record).map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let index = upto.index();
        self.shared.books().unstage_upto(self.group, index);
        let record = Record::Purge {
            group: self.group,
            upto_index: index,
            bytes: encode_id(upto),
        };
        self.shared.push(record).map_err(io::Error::other)
    }
}
