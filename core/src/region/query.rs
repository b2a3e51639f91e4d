//! What a region answers from its state alone.
//!
//! Owns the reading side of every record. Whether the state is recent enough, and who may hold what in a cache, is the
//! leader's business.

use alloc::vec::Vec;
use bytes::Bytes;

use super::kv::{KvError, KvRead};
use super::{content, data, entry, inode, intent, lock, orphan, runs, xattr};
use crate::attr::{Attr, FileKind};
use crate::error::FsError;
use crate::ids::{Fence, SessionId};
use crate::limits::{FRAME_HEADER_BYTES_MAX, NAME_BYTES_MAX};
use crate::locks::Delegation;
use crate::place::{Ino, Places};
use crate::request::{
    ChunkName, ChunkState, DataQuery, DataReply, Grant, LeaseKind, LeaseSerial, MetaQuery,
    MetaReply, Refusal, Seen,
};
use crate::txn::TxnId;
use crate::vfs::DirEntry;

/// Runs that come with a grant; a longer map is fetched in pieces.
const RUNS_PER_GRANT: usize = 512;
/// Records of one audit answer at most.
const AUDIT_MAX: u32 = 4096;
/// ... and bytes of them: they travel in a frame's header.
const AUDIT_BYTES_MAX: usize = FRAME_HEADER_BYTES_MAX / 2;
/// Names of one list at most.
const LISTED_MAX: u32 = 16_384;
/// Chunks read whole for one answer: the leader does nothing else meanwhile.
const VERIFIED_MAX: usize = 8;

/// Why a query has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// A transaction's intent is in the way.
    Blocked(TxnId),
    /// The call fails.
    Error(FsError),
    /// The inode's locks are another mount's to give.
    Delegated(Ino, Delegation),
    /// The question does not belong here.
    Refused(Refusal),
}

impl From<FsError> for Miss {
    fn from(error: FsError) -> Self {
        Self::Error(error)
    }
}

/// A query under way: the state, what the region holds, whose intents are read past.
struct Reader<'a> {
    state: &'a dyn KvRead,
    places: Places,
    past: &'a [TxnId],
    session: SessionId,
}

type Replied<T> = Result<Result<T, Miss>, KvError>;

/// Answers a query of a meta region. Of the transactions in `past` the old values are taken: they are undecided (P7);
/// any other intent in the way is a miss that says whose it is.
///
/// # Errors
/// As [`KvError`]; the inner error says why there is no reply.
pub fn meta(
    state: &dyn KvRead,
    query: &MetaQuery,
    past: &[TxnId],
    session: SessionId,
) -> Replied<MetaReply> {
    let places = super::descriptor(state)?.places;
    Reader {
        state,
        places,
        past,
        session,
    }
    .answer(query)
}

impl Reader<'_> {
    fn answer(&self, query: &MetaQuery) -> Replied<MetaReply> {
        match query {
            MetaQuery::Lookup {
                dir, salt, name, ..
            } => self.lookup(*dir, *salt, name),
            MetaQuery::GetAttr { ino } => Ok(self
                .attr(*ino)?
                .map(|attr| MetaReply::Inode { attr, grant: None })),
            MetaQuery::Open { ino, .. } => {
                // A session that was struck off would find it freed under its hands (P9).
                if orphan::is_lost_to(self.state, *ino, self.session)? {
                    return Ok(Err(FsError::NotFound.into()));
                }
                let attr = self.attr(*ino)?;
                Ok(attr.map(|attr| MetaReply::Inode { attr, grant: None }))
            }
            MetaQuery::Map { ino, from } => {
                let runs = runs::list(self.state, *ino, *from, u64::MAX, RUNS_PER_GRANT)?;
                let complete = runs.len() < RUNS_PER_GRANT;
                Ok(Ok(MetaReply::Map { runs, complete }))
            }
            MetaQuery::ReadLink { ino } => self.read_link(*ino),
            MetaQuery::ReadDir {
                dir,
                cookie,
                limit,
                plus,
            } => self.read_dir(*dir, *cookie, *limit, *plus),
            MetaQuery::GetXattr { ino, name } => self.on_inode(*ino, |state| {
                Ok(xattr::get(state, *ino, name)?
                    .map(MetaReply::Bytes)
                    .ok_or(FsError::NoData))
            }),
            MetaQuery::ListXattr { ino } => self.on_inode(*ino, |state| {
                Ok(Ok(MetaReply::Names(xattr::names(state, *ino)?)))
            }),
            MetaQuery::TestLock { ino, owner, lock } => {
                if let Err(miss) = self.attr(*ino)? {
                    return Ok(Err(miss));
                }
                let owner = (self.session, *owner);
                Ok(match lock::test(self.state, *ino, owner, *lock)? {
                    lock::Outcome::Replied(reply) => reply.map_err(Miss::from),
                    lock::Outcome::Elsewhere(by) => Err(Miss::Delegated(*ino, by)),
                })
            }
            MetaQuery::Named { chunks } => self.named(chunks),
            MetaQuery::Audit {
                from,
                to,
                limit,
                keys_only,
            } => self.audit(from, to, *limit, *keys_only),
        }
    }

    fn audit(&self, from: &[u8], to: &[u8], limit: u32, keys_only: bool) -> Replied<MetaReply> {
        let limit = usize::try_from(limit.min(AUDIT_MAX)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut records = Vec::new();
        for (key, mut value) in self.state.scan(from, to, limit)? {
            if keys_only {
                value.clear();
            }
            bytes += key.len() + value.len();
            if bytes > AUDIT_BYTES_MAX && !records.is_empty() {
                break;
            }
            records.push((key, value));
        }
        Ok(Ok(MetaReply::Records(records)))
    }

    /// Whose intent is in the way, if that matters to this query.
    fn blocked(&self, found: Result<Option<TxnId>, KvError>) -> Replied<()> {
        Ok(found?.map_or(Ok(()), |txn| Err(Miss::Blocked(txn))))
    }

    fn attr(&self, ino: Ino) -> Replied<Attr> {
        if !self.places.contains(ino.place()) {
            return Ok(Err(Miss::Refused(Refusal::NoRegion)));
        }
        if let Err(miss) = self.blocked(intent::blocks_inode(self.state, ino, self.past))? {
            return Ok(Err(miss));
        }
        let Some(inode) = inode::get(self.state, ino)? else {
            return Ok(Err(FsError::NotFound.into()));
        };
        if inode.kind == FileKind::Directory
            && let Err(miss) = self.blocked(intent::blocks_listing(
                self.state,
                self.places,
                ino,
                self.past,
            ))?
        {
            return Ok(Err(miss));
        }
        Ok(Ok(inode::attr(self.state, self.places, ino, &inode)?))
    }

    fn lookup(&self, dir: Ino, salt: crate::place::Salt, name: &[u8]) -> Replied<MetaReply> {
        if name.len() > NAME_BYTES_MAX {
            return Ok(Err(FsError::NameTooLong.into()));
        }
        if let Err(miss) =
            self.blocked(intent::blocks_name(self.state, dir, salt, name, self.past))?
        {
            return Ok(Err(miss));
        }
        if entry::fragment(self.state, self.places, dir)?.is_none() {
            return Ok(Err(FsError::NotFound.into()));
        }
        let Some((_, found)) = entry::find(self.state, dir, salt, name)? else {
            return Ok(Err(FsError::NotFound.into()));
        };
        if !self.places.contains(found.child.place()) {
            let seen = Seen {
                ino: found.child,
                kind: found.kind,
            };
            return Ok(Ok(MetaReply::Elsewhere { seen }));
        }
        Ok(self
            .attr(found.child)?
            .map(|attr| MetaReply::Inode { attr, grant: None }))
    }

    fn read_link(&self, ino: Ino) -> Replied<MetaReply> {
        self.on_inode(ino, |state| {
            let inode = inode::expect(state, ino)?;
            if inode.kind != FileKind::Symlink {
                return Ok(Err(FsError::Invalid));
            }
            let target = state.get(&super::key::of_inode(super::key::Kind::Inline, ino))?;
            Ok(Ok(MetaReply::Bytes(target.unwrap_or_default().into())))
        })
    }

    fn read_dir(
        &self,
        dir: Ino,
        cookie: crate::place::Cookie,
        limit: u32,
        plus: bool,
    ) -> Replied<MetaReply> {
        if let Err(miss) = self.blocked(intent::blocks_listing(
            self.state,
            self.places,
            dir,
            self.past,
        ))? {
            return Ok(Err(miss));
        }
        // A directory that is gone but still open reads as empty.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        let found = entry::list(self.state, self.places, dir, cookie, limit)?;
        let end = found.len() < limit;
        let mut entries = Vec::with_capacity(found.len());
        for (cookie, entry) in found {
            let attr = if plus && self.places.contains(entry.child.place()) {
                match self.attr(entry.child)? {
                    Ok(attr) => Some(attr),
                    Err(Miss::Blocked(txn)) => return Ok(Err(Miss::Blocked(txn))),
                    Err(Miss::Error(_) | Miss::Refused(_) | Miss::Delegated(..)) => None,
                }
            } else {
                None
            };
            let entry::Entry { name, child, kind } = entry;
            entries.push(DirEntry {
                cookie,
                name,
                ino: child,
                kind,
                attr,
            });
        }
        Ok(Ok(MetaReply::Entries { entries, end }))
    }

    fn named(&self, chunks: &[ChunkName]) -> Replied<MetaReply> {
        let mut named = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let runs = runs::list(self.state, chunk.ino, chunk.number, chunk.number + 1, 1)?;
            named.push(
                runs.iter()
                    .any(|run| run.version == chunk.version && run.first <= chunk.number),
            );
        }
        Ok(Ok(MetaReply::Named(named)))
    }

    /// Reads something of an inode that is there and that no transaction is in the way of.
    fn on_inode(
        &self,
        ino: Ino,
        read: impl FnOnce(&dyn KvRead) -> Result<Result<MetaReply, FsError>, KvError>,
    ) -> Replied<MetaReply> {
        if let Err(miss) = self.attr(ino)? {
            return Ok(Err(miss));
        }
        Ok(read(self.state)?.map_err(Miss::from))
    }
}

/// Whether a directory lives that has names here.
pub(super) fn is_directory_here(state: &dyn KvRead, dir: Ino) -> Result<bool, KvError> {
    let places = super::descriptor(state)?.places;
    Ok(entry::fragment(state, places, dir)?.is_some())
}

/// What a content lease says; `None` when the inode is gone or no regular file.
///
/// # Errors
/// As [`KvError`].
pub fn grant(
    state: &dyn KvRead,
    ino: Ino,
    kind: LeaseKind,
    serial: LeaseSerial,
) -> Result<Option<Grant>, KvError> {
    let Some(inode) = inode::get(state, ino)? else {
        return Ok(None);
    };
    if inode.kind != FileKind::Regular {
        return Ok(None);
    }
    let map = runs::list(state, ino, 0, u64::MAX, RUNS_PER_GRANT)?;
    let map_complete = map.len() < RUNS_PER_GRANT;
    let inline = content::inline(state, ino, &inode)?;
    let (attr, cut, content) = (inode.attr(ino, None), inode.cut, inode.content);
    Ok(Some(Grant {
        kind,
        serial,
        attr,
        content,
        inline,
        map,
        map_complete,
        cut,
    }))
}

/// What a data region has for a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataFound {
    /// This, with these bytes.
    Reply(DataReply, Bytes),
    /// The query fails.
    Error(FsError),
    /// It is not answered.
    Refused(Refusal),
    /// The reader's fence must be committed first.
    RaiseFence {
        /// Which chunk.
        chunk: ChunkName,
        /// To what.
        fence: Fence,
    },
}

/// Answers a query of a data region.
///
/// # Errors
/// As [`KvError`].
pub fn data(state: &dyn KvRead, query: &DataQuery) -> Result<DataFound, KvError> {
    match query {
        DataQuery::Read {
            chunk,
            fence,
            offset,
            len,
            absent_is_hole,
            led: _,
        } => {
            let places = super::descriptor(state)?.places;
            if !places.contains(chunk.place()) {
                return Ok(DataFound::Refused(Refusal::NoRegion));
            }
            read(state, chunk, *fence, (*offset, *len), *absent_is_hole)
        }
        DataQuery::List { after, limit } => {
            let places = super::descriptor(state)?.places;
            let limit = usize::try_from((*limit).min(LISTED_MAX)).unwrap_or(usize::MAX);
            let after = after.as_ref().map(|(_, name)| name);
            let names = data::list(state, places, after, limit)?;
            Ok(DataFound::Reply(DataReply::Chunks(names), Bytes::new()))
        }
        DataQuery::Verify { chunks } => {
            let looked_at = chunks.iter().take(VERIFIED_MAX);
            let states = looked_at.map(|chunk| verify(state, chunk)).collect();
            Ok(DataFound::Reply(DataReply::Verified(states), Bytes::new()))
        }
    }
}

/// Reads a chunk whole. A store that can't be read at all shows at the next entry.
fn verify(state: &dyn KvRead, chunk: &ChunkName) -> ChunkState {
    match state.verify_chunk(chunk) {
        Ok(true) => ChunkState::Whole,
        Ok(false) => ChunkState::Absent,
        Err(_) => ChunkState::Damaged,
    }
}

fn read(
    state: &dyn KvRead,
    name: &ChunkName,
    fence: Fence,
    (offset, len): (u32, u32),
    absent_is_hole: bool,
) -> Result<DataFound, KvError> {
    if !ChunkName::has_room_for(offset, len) {
        return Ok(DataFound::Error(FsError::Invalid));
    }
    let chunk = data::chunk(state, name)?;
    let seen = chunk.map_or(Fence(0), |chunk| chunk.fence);
    if fence < seen {
        return Ok(DataFound::Refused(Refusal::Fenced));
    }
    if fence > seen && !cfg!(planted = "read_raises_no_fence") {
        return Ok(DataFound::RaiseFence {
            chunk: *name,
            fence,
        });
    }
    let bytes = match chunk {
        Some(chunk) if chunk.written => state.read_chunk(name, offset, len)?,
        Some(_) | None => None,
    };
    let size = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(match bytes {
        Some(bytes) => DataFound::Reply(DataReply::Done, bytes),
        None if absent_is_hole => DataFound::Reply(DataReply::Done, alloc::vec![0; size].into()),
        // A name that is marked written has data, or it was lost.
        None => DataFound::Error(FsError::Io),
    })
}
