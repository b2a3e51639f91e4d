//! Snapshots: the state of one replica, held still while it is carried to another.
//!
//! Owns what openraft takes for a snapshot. Its metadata always belongs to exactly the state it pins: openraft credits
//! a follower with the metadata it was handed. Deliberately not a file: a view of the state is enough.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::{AsyncRuntime, Select2};

use openraft::OptionalSend;
use openraft::errors::{ReplicationClosed, StreamingError};
use openraft::raft::SnapshotResponse;
use polyfs_core::codec::DecodeError;
use polyfs_core::ids::{GroupId, Lineage};
use polyfs_core::limits::{CHUNK_BYTES, FRAME_HEADER_BYTES_MAX, PAGE_BYTES};
use polyfs_store::disk::Dir;
use polyfs_store::state::{RegionKv, StateView, StoreError};

use super::network::{Network, unreachable_because};
use super::state::{ReplicaRecord, SharedState};
use super::types::{LeaderTerm, LogId, SnapshotMeta, TypeConfig, Vote};
use crate::health::Health;
use crate::runtime::Runtime;
use crate::wire::{RaftCall, RaftReply, SnapshotPiece};

/// A snapshot, as openraft passes it around.
pub type SnapshotOf<R> = openraft::storage::Snapshot<LeaderTerm, u64, (), Snapshot<R>>;

/// Where a snapshot's content is.
pub enum Snapshot<R: Runtime> {
    /// Nowhere: only its metadata counts.
    Known,
    /// In a view of this node's state; damage to it is reported there.
    Pinned(Arc<StateView<R::Dir>>, Lineage, Health),
    /// Received, under a lineage of its own, not yet current (P5).
    Staged(Lineage),
}

impl<R: Runtime> Snapshot<R> {
    /// The lineage it was received under.
    #[must_use]
    pub fn staged(&self) -> Option<Lineage> {
        match self {
            Self::Staged(lineage) => Some(*lineage),
            Self::Known | Self::Pinned(..) => None,
        }
    }
}

/// The state of a group as of now, with the metadata that belongs to exactly it; `None` while it has applied nothing.
///
/// # Errors
/// When the state can't be read.
pub(super) fn pin<R: Runtime>(
    state: &SharedState<R>,
    group: GroupId,
    health: &Health,
) -> Result<Option<SnapshotOf<R>>, StoreError> {
    let view = state.db().view()?;
    let Some(record) = view.get_group(group)? else {
        return Ok(None);
    };
    let record = ReplicaRecord::decode(&record)?;
    if record.applied.is_none() {
        return Ok(None);
    }
    let snapshot = Snapshot::Pinned(Arc::new(view), record.lineage, health.clone());
    Ok(Some(SnapshotOf::<R> {
        meta: record.meta(),
        snapshot,
    }))
}

/// How often a broken transfer is taken up again.
const RETRY: Duration = Duration::from_millis(200);
/// One piece is answered within this, or asked about again.
const PIECE_DEADLINE: Duration = Duration::from_secs(5);
/// Pairs in one piece at most ...
const PAIRS_MAX: usize = 256;
/// ... their bytes, since they travel in a frame's header (one pair is far smaller) ...
const PAIR_BYTES_MAX: usize = FRAME_HEADER_BYTES_MAX / 4;
/// ... and chunk bytes.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// Carries a snapshot to another replica, piece by piece, going on where a break left off, until it is there or openraft
/// gives it up.
pub(super) async fn send<R: Runtime>(
    network: &mut Network<R>,
    vote: Vote,
    snapshot: SnapshotOf<R>,
    cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
) -> Result<SnapshotResponse<TypeConfig<R>>, StreamingError<TypeConfig<R>>> {
    let unreachable = |why: &str| StreamingError::Unreachable(unreachable_because::<R>(why));
    let Snapshot::Pinned(view, lineage, health) = &snapshot.snapshot else {
        return Err(unreachable("there is nothing to send"));
    };
    let carried = carry(network, vote, &snapshot.meta, view, *lineage, health);
    match R::Async::select2(cancel, carried).await {
        Select2::First(closed) => Err(StreamingError::Closed(closed)),
        Select2::Second(Ok(vote)) => Ok(SnapshotResponse::new(vote)),
        Select2::Second(Err(why)) => Err(unreachable(&why)),
    }
}

async fn carry<R: Runtime>(
    network: &Network<R>,
    vote: Vote,
    meta: &SnapshotMeta,
    view: &StateView<R::Dir>,
    lineage: Lineage,
    health: &Health,
) -> Result<Vote, String> {
    loop {
        let begin = RaftCall::SnapshotBegin {
            from_leader: vote,
            meta: meta.clone(),
        };
        let RaftReply::SnapshotAt(there) = network.ask(begin, vec![], PIECE_DEADLINE).await? else {
            return Err("the answer belongs to another question".into());
        };
        match send_pieces(network, vote, meta, view, lineage, there).await {
            Ok(vote) => return Ok(vote),
            Err(Broken::Way(why)) => {
                tracing::debug!(why, "a snapshot's way broke; it goes on where it was");
            }
            Err(Broken::Source(error)) => {
                // Trying again would read the same bytes: this replica can't be the source (P1).
                health.store_failed(network.ends.group, &error);
                return Err(error.to_string());
            }
        }
        R::Async::sleep(RETRY).await;
    }
}

/// Why a snapshot did not arrive.
enum Broken {
    /// The connection or the receiver.
    Way(String),
    /// What is to be sent can't be read.
    Source(StoreError),
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self::Way(why)
    }
}

async fn send_pieces<R: Runtime>(
    network: &Network<R>,
    vote: Vote,
    meta: &SnapshotMeta,
    view: &StateView<R::Dir>,
    lineage: Lineage,
    there: u64,
) -> Result<Vote, Broken> {
    let mut cursor = Cursor::default();
    let mut number = 0;
    loop {
        let next = cursor.next(view, lineage).map_err(Broken::Source)?;
        let Some((pairs, chunks, payload)) = next else {
            break;
        };
        if number >= there {
            let piece = SnapshotPiece {
                last: meta.last_log_id,
                number,
                pairs,
                chunks,
            };
            match network
                .ask(RaftCall::SnapshotPiece(piece), payload, PIECE_DEADLINE)
                .await?
            {
                RaftReply::SnapshotAt(at) if at == number + 1 => {}
                _ => return Err(Broken::Way("the receiver is elsewhere".into())),
            }
        }
        number += 1;
    }
    let end = RaftCall::SnapshotEnd {
        from_leader: vote,
        meta: meta.clone(),
        pieces: number,
    };
    match network.ask(end, vec![], PIECE_DEADLINE * 4).await? {
        RaftReply::SnapshotDone(vote) => Ok(vote),
        _ => Err(Broken::Way("the receiver is elsewhere".into())),
    }
}

type Piece = (Vec<(Bytes, Bytes)>, Vec<(Bytes, u64, u32)>, Vec<Bytes>);

/// How far a view has been read: all keys, then all chunks. The same state always falls into the same pieces.
#[derive(Default)]
struct Cursor {
    from: Vec<u8>,
    in_chunks: bool,
    done: bool,
}

fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Drops pairs that are too many for one piece; the first always stays.
fn fit(pairs: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    let mut bytes = 0;
    let mut fits = |(key, value): &(Vec<u8>, Vec<u8>)| {
        bytes += key.len() + value.len();
        bytes <= PAIR_BYTES_MAX || cfg!(planted = "snapshot_piece_too_big")
    };
    let count = pairs.iter().take_while(|pair| fits(pair)).count();
    pairs.truncate(count.max(1));
}

impl Cursor {
    fn next<D: Dir>(
        &mut self,
        view: &StateView<D>,
        lineage: Lineage,
    ) -> Result<Option<Piece>, StoreError> {
        if !self.in_chunks {
            let mut pairs = view.scan(lineage, &self.from, None, PAIRS_MAX)?;
            fit(&mut pairs);
            if let Some((last, _)) = pairs.last() {
                self.from = after(last);
                let pairs = pairs
                    .into_iter()
                    .map(|(key, value)| (key.into(), value.into()));
                return Ok(Some((pairs.collect(), vec![], vec![])));
            }
            self.in_chunks = true;
            self.from.clear();
        }
        if self.done {
            return Ok(None);
        }
        let (mut chunks, mut payload, mut bytes) = (vec![], vec![], 0);
        while bytes < PIECE_BYTES_MAX {
            let keys = view.chunk_keys(lineage, &self.from, None, 1)?;
            let Some(key) = keys.into_iter().next() else {
                self.done = true;
                break;
            };
            self.from = after(&key);
            let map = view.chunk_map(lineage, &key)?;
            let before = chunks.len();
            for piece in map.iter().flat_map(|map| map.pieces()) {
                let pages = piece.pages();
                let offset = u64::from(pages.start) * PAGE_BYTES as u64;
                let len = usize::from(pages.end - pages.start) * PAGE_BYTES;
                let content = view.read_chunk(lineage, &key, offset, len)?;
                let own = u32::try_from(len).expect("a chunk is 1 MiB");
                chunks.push((Bytes::copy_from_slice(&key), offset, own));
                payload.push(content);
                bytes += len;
            }
            // Written, and all zeros: without a word of it there the reading of a hole would be a loss of data.
            if chunks.len() == before && !cfg!(planted = "empty_chunks_not_sent") {
                chunks.push((key.into(), 0, 0));
                bytes += PAGE_BYTES;
            }
        }
        Ok((!chunks.is_empty()).then_some((vec![], chunks, payload)))
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(super) struct Staging {
    last: Option<LogId>,
    lineage: Lineage,
    pieces: u64,
}

/// Receives snapshots for one replica.
pub(super) struct Stage<R: Runtime> {
    state: SharedState<R>,
    runtime: R,
    staging: futures::lock::Mutex<Option<Staging>>,
}

impl<R: Runtime> Stage<R> {
    pub(super) fn new(state: SharedState<R>, runtime: R) -> Self {
        Self {
            state,
            runtime,
            staging: futures::lock::Mutex::new(None),
        }
    }

    /// How many pieces of a snapshot are there; another one's are dropped.
    pub(super) async fn begin(&self, meta: &SnapshotMeta) -> u64 {
        let mut staging = self.staging.lock().await;
        if let Some(old) = staging.take_if(|staging| staging.last != meta.last_log_id) {
            self.state.forget_lineage(&self.runtime, old.lineage);
        }
        let last = meta.last_log_id;
        let fresh = || Staging {
            last,
            lineage: Lineage(self.runtime.random()),
            pieces: 0,
        };
        staging.get_or_insert_with(fresh).pieces
    }

    /// Takes the next piece; how many are there now.
    pub(super) async fn piece(
        &self,
        piece: SnapshotPiece,
        mut payload: Bytes,
    ) -> Result<u64, StoreError> {
        let mut staging = self.staging.lock().await;
        let Some(staging) = staging
            .as_mut()
            .filter(|staging| staging.last == piece.last)
        else {
            return Ok(0);
        };
        if staging.pieces != piece.number {
            return Ok(staging.pieces);
        }
        let _turn = self.state.turn().await;
        let mut batch = self.state.db().begin()?;
        {
            let mut state = batch.lineage(staging.lineage)?;
            for (key, value) in &piece.pairs {
                state.put(key, value)?;
            }
            for (key, offset, bytes) in &piece.chunks {
                let bytes = usize::try_from(*bytes).expect("usize has at least 32 bits");
                let end = offset.checked_add(bytes as u64);
                if bytes > payload.len() || end.is_none_or(|end| end > CHUNK_BYTES) {
                    return Err(DecodeError::Invalid("snapshot piece").into());
                }
                state.write_small(key, *offset, &payload.split_to(bytes))?;
            }
        }
        batch.commit()?;
        self.state.mark_changed();
        staging.pieces += 1;
        Ok(staging.pieces)
    }

    /// What was handed over, and is not wanted, goes.
    pub(super) fn forget(&self, lineage: Lineage) {
        self.state.forget_lineage(&self.runtime, lineage);
    }

    /// Hands the snapshot over, if it is complete.
    pub(super) async fn end(&self, meta: SnapshotMeta, pieces: u64) -> Option<SnapshotOf<R>> {
        let mut staging = self.staging.lock().await;
        let staged = staging.take_if(|staging| {
            let whole = staging.pieces == pieces || cfg!(planted = "part_of_a_snapshot_installed");
            staging.last == meta.last_log_id && whole
        })?;
        Some(SnapshotOf::<R> {
            meta,
            snapshot: Snapshot::Staged(staged.lineage),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many large attributes lie side by side: a piece of them must fit a frame, or no replica could ever be added.
    #[test]
    fn a_piece_of_large_values_fits_a_frame() {
        let pair = |bytes: usize| (vec![1; 40], vec![2; bytes]);
        let mut pairs: Vec<_> = (0..PAIRS_MAX).map(|_| pair(64 << 10)).collect();
        fit(&mut pairs);
        let bytes = pairs.iter().map(|(key, value)| key.len() + value.len());
        assert!(bytes.sum::<usize>() <= FRAME_HEADER_BYTES_MAX / 2 && !pairs.is_empty());
        let mut small: Vec<_> = (0..PAIRS_MAX).map(|_| pair(100)).collect();
        fit(&mut small);
        assert_eq!(small.len(), PAIRS_MAX);
        let mut huge = vec![pair(PAIR_BYTES_MAX), pair(1)];
        fit(&mut huge);
        assert_eq!(huge.len(), 1, "it goes on");
    }
}
