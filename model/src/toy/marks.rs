//! Marks: what a seed has exercised.
//!
//! Derived from the events of the simulation alone, so that core carries no trace of it. Owns the names.

use std::collections::BTreeMap;

use polyfs_core::region::command::CommandBody;
use polyfs_core::region::leader::port::Input;
use polyfs_core::request::{
    Answer, ContentOp, DataQuery, LeaseDone, LeaseKind, MetaOp, MetaQuery, MetaReply, RecallKind,
    Refusal, RequestBody,
};
use polyfs_core::txn::Decision;
use polyfs_core::vfs::RenameMode;

use super::events::Event;

/// How often each thing was seen.
pub type Marks = BTreeMap<&'static str, u64>;

/// What an event shows to have happened, if it is of interest.
pub(super) fn of(event: &Event) -> Option<&'static str> {
    match event {
        Event::Recall { recall, .. } => Some(match recall.want {
            RecallKind::Flush => "flush recalled",
            RecallKind::Share => "lease recalled to be shared",
            RecallKind::Release => "lease recalled",
            RecallKind::View => "view recalled",
            RecallKind::Locks => "locks recalled",
        }),
        Event::AskOpen { .. } => Some("orphan asked after"),
        Event::Request { request, .. } => of_request(&request.body),
        Event::Proposed { proposal, .. } => of_command(&proposal.command.body),
        Event::Answer { answer, .. } => of_answer(answer),
        _ => None,
    }
}

fn of_request(body: &RequestBody) -> Option<&'static str> {
    match body {
        RequestBody::MetaQuery(MetaQuery::Open {
            lease: LeaseKind::Exclusive,
            patient: true,
            ..
        }) => Some("exclusive lease awaited"),
        RequestBody::MetaQuery(MetaQuery::Map { .. }) => Some("rest of a map asked for"),
        RequestBody::DataQuery(DataQuery::Read { led: Some(_), .. }) => {
            Some("read without a round")
        }
        RequestBody::LeaseDone(LeaseDone::Downgraded(..)) => Some("lease shared"),
        RequestBody::LeaseDone(LeaseDone::Released(..)) => Some("lease given back"),
        RequestBody::LeaseDone(LeaseDone::Flushed(..)) => Some("flush answered"),
        RequestBody::LeaseDone(LeaseDone::Forgot(..)) => Some("view forgotten"),
        _ => None,
    }
}

fn of_command(body: &CommandBody) -> Option<&'static str> {
    match body {
        CommandBody::Meta(MetaOp::Content { change, .. }) => Some(match change {
            ContentOp::ToChunks => "inline to chunks",
            ContentOp::CutDone { .. } => "cut carried out",
            ContentOp::Truncate { .. } => "truncated",
            ContentOp::Free { .. } => "chunks freed",
            ContentOp::Allocate { .. } => "chunks named",
            ContentOp::Commit { .. } => "chunks committed",
            ContentOp::WriteInline { .. } => "inline written",
            ContentOp::Times { .. } => "time told later",
        }),
        CommandBody::Meta(MetaOp::Rename {
            mode: RenameMode::Exchange,
            ..
        }) => Some("exchange"),
        CommandBody::Meta(MetaOp::NotOpen { .. }) => Some("orphan disowned"),
        CommandBody::Meta(MetaOp::ReturnLocks {
            locks, recalled, ..
        }) => Some(match (locks, recalled) {
            (None, _) => "locks returned unused",
            (Some(locks), true) if !locks.is_empty() => "locks returned, some held",
            (Some(_), true) => "locks returned, none held",
            (Some(_), false) => "locks returned at close",
        }),
        CommandBody::Meta(MetaOp::Reclaimed { .. }) => Some("garbage reclaimed"),
        CommandBody::Meta(MetaOp::Takeover { .. }) => Some("takeover"),
        CommandBody::Decide { decision, .. } => Some(match decision {
            Decision::Commit(_) => "transaction committed",
            Decision::Abort => "transaction aborted",
        }),
        _ => None,
    }
}

/// What an input to a leader sets going that was held up until then.
pub(super) fn of_released(input: &Input, command: &CommandBody) -> Option<&'static str> {
    let changes = match command {
        CommandBody::Meta(op) => !matches!(op, MetaOp::AdmitSession { .. }),
        CommandBody::Begin { .. } | CommandBody::Prepare { .. } => true,
        _ => false,
    };
    let own = matches!(
        command,
        CommandBody::Meta(MetaOp::Takeover { .. } | MetaOp::Reclaimed { .. })
            | CommandBody::Begin { .. }
    );
    match input {
        Input::Request { request, .. }
            if matches!(&request.body, RequestBody::LeaseDone(LeaseDone::Forgot(..))) =>
        {
            changes.then_some("change waited for a view")
        }
        Input::ReadReady { .. } if !own => changes.then_some("change waited for assertions"),
        Input::Tick if !own => changes.then_some("change waited for a term"),
        _ => None,
    }
}

fn of_answer(answer: &Answer) -> Option<&'static str> {
    match answer {
        Answer::Viewed(answer, _) => of_answer(answer).or(Some("view granted")),
        Answer::Meta(Ok(MetaReply::LocksGiven { .. })) => Some("locks delegated"),
        Answer::Meta(Ok(MetaReply::LocksAreYours { .. })) => Some("lock call left to the mount"),
        Answer::Meta(Ok(MetaReply::Elsewhere { .. })) => Some("name found, inode elsewhere"),
        Answer::Meta(Err(polyfs_core::error::FsError::WouldBlock)) => Some("lock in the way"),
        Answer::Refused(Refusal::Epoch { .. }) => Some("refused: epoch"),
        Answer::Refused(Refusal::Busy) => Some("refused: busy"),
        Answer::Refused(Refusal::Changed) => Some("refused: changed"),
        Answer::Refused(Refusal::NotLeader { .. }) => Some("redirected"),
        Answer::Refused(Refusal::Fenced) => Some("refused: fenced"),
        Answer::Refused(Refusal::NoLease) => Some("refused: no lease"),
        _ => None,
    }
}
