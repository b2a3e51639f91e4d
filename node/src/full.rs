//! What is still taken when the disk is full (P10).
//!
//! Owns the list: below the reserve only what frees space, and what others' waiting depends on. Checked where requests
//! arrive, by the leader: what was ordered before is applied everywhere, from the reserve if need be. Deliberately
//! knows no disk.

use polyfs_core::request::{ContentOp, DataOp, MetaOp, RequestBody};

/// Whether a request is taken below the reserve: deletes, truncates, aborts, ends of sessions, and what they need. Locks
/// are: they take next to nothing, and a delete may wait for one. So is the size of data that was written before.
#[must_use]
pub fn is_taken(body: &RequestBody) -> bool {
    match body {
        RequestBody::MetaQuery(_)
        | RequestBody::DataQuery(_)
        | RequestBody::LeaseDone(_)
        | RequestBody::Txn(_) => true,
        RequestBody::MetaOp(op) => meta(op),
        RequestBody::DataOp(op) => match op {
            DataOp::Write { .. } => false,
            DataOp::Zero { .. } | DataOp::RaiseFence { .. } | DataOp::Delete { .. } => true,
        },
    }
}

fn meta(op: &MetaOp) -> bool {
    match op {
        MetaOp::Reserve { .. }
        | MetaOp::Make { .. }
        | MetaOp::Rename { .. }
        | MetaOp::Link { .. }
        | MetaOp::SetXattr { .. } => false,
        MetaOp::Content { change, .. } => match change {
            ContentOp::Allocate { .. } | ContentOp::WriteInline { .. } | ContentOp::ToChunks => {
                false
            }
            ContentOp::Commit { .. }
            | ContentOp::Times { .. }
            | ContentOp::Truncate { .. }
            | ContentOp::CutDone { .. }
            | ContentOp::Free { .. } => true,
        },
        MetaOp::Unlink { .. }
        | MetaOp::RemoveDir { .. }
        | MetaOp::SetAttr { .. }
        | MetaOp::RemoveXattr { .. }
        | MetaOp::SetLock { .. }
        | MetaOp::Unlock { .. }
        | MetaOp::ReturnLocks { .. }
        | MetaOp::NotOpen { .. }
        | MetaOp::Reclaimed { .. }
        | MetaOp::Takeover { .. }
        | MetaOp::AdmitSession { .. }
        | MetaOp::EndSession { .. } => true,
    }
}
