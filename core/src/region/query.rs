//! What a region answers from its state alone.
//!
//! Owns the reading side of every record. Whether the state is recent enough and who holds a lease is the leader's.

use alloc::vec::Vec;
use bytes::Bytes;

use super::entry::{self, Entry};
use super::key::{self, Kind};
use super::kv::{KvError, KvRead};
use super::{data as chunks, inode, plan, record, runs};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Fence;
use crate::place::{Cookie, Ino, Places};
use crate::request::{
    ChunkName, DataQuery, DataReply, Grant, LeaseKind, LeaseSerial, MetaQuery, MetaReply, Refusal,
    Seen,
};
use crate::txn::TxnId;
use crate::vfs::DirEntry;

/// Runs of one answer; a longer map is fetched in pieces.
const RUNS_MAX: usize = 512;

/// Why a query has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It fails as file operations fail.
    Error(FsError),
    /// Nothing was done: do what the refusal says.
    Refused(Refusal),
    /// A transaction's intent is in the way: ask its coordinator. Not yet answered by this version: it keeps none.
    Blocked(TxnId),
    /// Of a read: commit this fence at the chunk first, then ask again (P8).
    NeedsFence(ChunkName, Fence),
}

impl From<FsError> for Obstacle {
    fn from(error: FsError) -> Self {
        Self::Error(error)
    }
}

fn elsewhere(state: &dyn KvRead) -> Result<Obstacle, KvError> {
    let here = record::descriptor(state)?;
    Ok(Obstacle::Refused(Refusal::Epoch {
        epoch: here.epoch,
        places: here.places,
    }))
}

fn unbuilt(what: &str) -> Obstacle {
    let why = alloc::format!("{what} are not supported by this version");
    Obstacle::Refused(Refusal::Unavailable(why))
}

/// Answers a query of a meta region; `grant` is always `None`.
///
/// # Errors
/// As [`KvError`].
pub fn meta(state: &dyn KvRead, query: &MetaQuery) -> Result<Result<MetaReply, Obstacle>, KvError> {
    let places = record::descriptor(state)?.places;
    let of = match query {
        MetaQuery::GetAttr { ino }
        | MetaQuery::Open { ino, .. }
        | MetaQuery::Map { ino, .. }
        | MetaQuery::ReadLink { ino } => Some(ino.place()),
        MetaQuery::Lookup {
            dir, salt, name, ..
        } => Some(crate::place::NameHash::of(*salt, name).place(*dir)),
        MetaQuery::ReadDir { .. }
        | MetaQuery::GetXattr { .. }
        | MetaQuery::ListXattr { .. }
        | MetaQuery::TestLock { .. }
        | MetaQuery::Named { .. }
        | MetaQuery::Audit { .. } => None,
    };
    if of.is_some_and(|place| !places.contains(place)) {
        return Ok(Err(elsewhere(state)?));
    }
    Ok(match query {
        MetaQuery::Lookup {
            dir, salt, name, ..
        } => match entry::find(state, *dir, *salt, name)? {
            _ if plan::bad_name(name) == Some(FsError::NameTooLong) => {
                Err(FsError::NameTooLong.into())
            }
            None => Err(FsError::NotFound.into()),
            Some((_, Entry { child, kind, .. })) if !places.contains(child.place()) => {
                let seen = Seen { ino: child, kind };
                Ok(MetaReply::Elsewhere { seen })
            }
            Some((_, there)) => inode(state, places, there.child)?,
        },
        MetaQuery::GetAttr { ino } => inode(state, places, *ino)?,
        MetaQuery::Open { ino, lease, .. } => match grant(state, *ino, *lease)? {
            Some(grant) => Ok(MetaReply::Inode {
                attr: grant.attr,
                grant: None,
            }),
            None => Err(FsError::Stale.into()),
        },
        MetaQuery::Map { ino, from } => {
            let mut map = runs::load(state, *ino)?;
            map.retain(|run| run.first + run.count > *from);
            let complete = map.len() <= RUNS_MAX;
            map.truncate(RUNS_MAX);
            Ok(MetaReply::Map {
                runs: map,
                complete,
            })
        }
        MetaQuery::ReadLink { ino } => match inode::read(state, *ino)? {
            None => Err(FsError::Stale.into()),
            Some(inode) if inode.attr.kind != FileKind::Symlink => Err(FsError::Invalid.into()),
            Some(_) => {
                let target = state.get(&key::of_inode(Kind::Inline, *ino))?;
                Ok(MetaReply::Bytes(target.unwrap_or_default().into()))
            }
        },
        MetaQuery::ReadDir {
            dir,
            cookie,
            limit,
            plus,
        } => read_dir(state, places, *dir, *cookie, *limit, *plus)?,
        MetaQuery::Named { chunks } => {
            let mut named = Vec::new();
            for name in chunks {
                if !places.contains(name.ino.place()) {
                    return Ok(Err(elsewhere(state)?));
                }
                named.push(runs::load(state, name.ino)?.iter().any(|run| {
                    run.version == name.version
                        && (run.first..run.first + run.count).contains(&name.number)
                }));
            }
            Ok(MetaReply::Named(named))
        }
        MetaQuery::GetXattr { .. } | MetaQuery::ListXattr { .. } => {
            Err(unbuilt("extended attributes"))
        }
        MetaQuery::TestLock { .. } => Err(unbuilt("locks")),
        MetaQuery::Audit { .. } => Err(unbuilt("audits over the network")),
    })
}

fn inode(
    state: &dyn KvRead,
    places: Places,
    ino: Ino,
) -> Result<Result<MetaReply, Obstacle>, KvError> {
    Ok(inode::attr(state, places, ino)?
        .map(|attr| MetaReply::Inode { attr, grant: None })
        .ok_or(Obstacle::Error(FsError::Stale)))
}

fn read_dir(
    state: &dyn KvRead,
    places: Places,
    dir: Ino,
    after: Cookie,
    limit: u32,
    plus: bool,
) -> Result<Result<MetaReply, Obstacle>, KvError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(RUNS_MAX);
    let Some(here) = places.overlap(dir.bucket().places()) else {
        return Ok(Err(elsewhere(state)?));
    };
    let mut entries = Vec::new();
    // Keys sort by place before directory: each cell of the bucket is scanned by itself.
    for place in here.start..here.end {
        let mut cell = key::of_inode(Kind::Entry, dir);
        cell[1..5].copy_from_slice(&place.to_be_bytes());
        let all: Vec<(_, Entry)> = record::all(state, "entry", key::prefix(&cell))?;
        for (key, Entry { name, child, kind }) in all {
            let cookie = entry::cookie_of(&key)?;
            if cookie <= after {
                continue;
            }
            if entries.len() == limit {
                return Ok(Ok(MetaReply::Entries {
                    entries,
                    end: false,
                }));
            }
            let here = plus && places.contains(child.place());
            entries.push(DirEntry {
                cookie,
                name,
                ino: child,
                kind,
                attr: if here {
                    inode::attr(state, places, child)?
                } else {
                    None
                },
            });
        }
    }
    Ok(Ok(MetaReply::Entries { entries, end: true }))
}

/// What a lease of this kind says of an inode, with serial 0 (the leader numbers it); `None` when it is gone.
///
/// # Errors
/// As [`KvError`].
pub fn grant(state: &dyn KvRead, ino: Ino, kind: LeaseKind) -> Result<Option<Grant>, KvError> {
    let places = record::descriptor(state)?.places;
    let (Some(stored), Some(attr)) = (inode::read(state, ino)?, inode::attr(state, places, ino)?)
    else {
        return Ok(None);
    };
    let mut map = runs::load(state, ino)?;
    let map_complete = map.len() <= RUNS_MAX;
    map.truncate(RUNS_MAX);
    let inline = match attr.kind {
        FileKind::Regular => state.get(&key::of_inode(Kind::Inline, ino))?,
        FileKind::Directory
        | FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => None,
    };
    Ok(Some(Grant {
        kind,
        serial: LeaseSerial(0),
        attr,
        inline: inline.map(Bytes::from),
        map,
        map_complete,
        cut: stored.cut,
    }))
}

/// Answers a query of a data region, with the bytes of a read.
///
/// # Errors
/// As [`KvError`].
pub fn data(
    state: &dyn KvRead,
    query: &DataQuery,
) -> Result<Result<(DataReply, Bytes), Obstacle>, KvError> {
    let DataQuery::Read {
        chunk,
        fence,
        offset,
        len,
        absent_is_hole,
    } = query
    else {
        return Ok(Err(unbuilt("lists and checks of chunks")));
    };
    if !record::descriptor(state)?.places.contains(chunk.place()) {
        return Ok(Err(elsewhere(state)?));
    }
    let size = usize::try_from(*len).unwrap_or(usize::MAX);
    if !chunks::fits(*offset, size) {
        return Ok(Err(FsError::Invalid.into()));
    }
    let seen = chunks::fence(state, chunk)?;
    if seen.is_some_and(|seen| *fence < seen) {
        return Ok(Err(Obstacle::Refused(Refusal::Fenced)));
    }
    // A chunk not yet written has seen fence 0.
    if *fence > seen.unwrap_or_default() {
        return Ok(Err(Obstacle::NeedsFence(*chunk, *fence)));
    }
    Ok(match state.read_chunk(chunk, *offset, *len)? {
        Some(bytes) => Ok((DataReply::Done, bytes)),
        None if *absent_is_hole => Ok((DataReply::Done, alloc::vec![0; size].into())),
        None => Err(FsError::Io.into()),
    })
}
