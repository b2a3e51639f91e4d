//! Questions of a leader to other regions: found out which, asked until answered or given up.
//!
//! Owns the questions under way; what a node's internal router does in production.

use std::collections::BTreeMap;

use polyfs_core::ids::{GroupId, NodeId};
use polyfs_core::place::Places;
use polyfs_core::region::leader::port::Token;
use polyfs_core::request::{Answer, RequestBody, Space};
use polyfs_core::txn::{Decision, TxnReply};

use super::consensus::Term;

/// How often a question is asked before it is given up.
pub(super) const TRIES: u32 = 4;

/// Who asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct From {
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) term: Term,
    pub(super) token: Token,
}

/// What kind of answer the asker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    Txn,
    Query,
    /// That chunks were deleted.
    Deleted,
}

/// One question, to one or more regions.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) from: From,
    pub(super) wants: Wants,
    pub(super) space: Space,
    /// Parts not yet answered: where, and what.
    pub(super) open: Vec<(Places, RequestBody)>,
    pub(super) answers: Vec<Answer>,
    pub(super) tries: u32,
}

/// All questions.
#[derive(Default, Debug)]
pub(super) struct Router {
    next: u64,
    pub(super) questions: BTreeMap<u64, Question>,
}

impl Router {
    /// A new question; its parts are asked one after the other.
    pub(super) fn ask(
        &mut self,
        from: From,
        wants: Wants,
        space: Space,
        open: Vec<(Places, RequestBody)>,
    ) -> u64 {
        self.next += 1;
        let question = Question {
            from,
            wants,
            space,
            open,
            answers: Vec::new(),
            tries: 0,
        };
        self.questions.insert(self.next, question);
        self.next
    }
}

impl Question {
    /// The one answer that several regions' answers amount to: the worst.
    pub(super) fn txn_answer(&self) -> Option<TxnReply> {
        let mut worst = None;
        for answer in &self.answers {
            let reply = match answer {
                Answer::Txn(reply) => reply.clone(),
                Answer::Data(Ok(_)) => TxnReply::Finished,
                _ => return None,
            };
            worst = match worst {
                Some(held) if badness(&held) >= badness(&reply) => Some(held),
                _ => Some(reply),
            };
        }
        worst
    }
}

fn badness(reply: &TxnReply) -> u8 {
    match reply {
        TxnReply::Prepared | TxnReply::Finished | TxnReply::Decided(Decision::Commit(_)) => 0,
        TxnReply::Decided(Decision::Abort) | TxnReply::Undecided => 1,
        // An error counts only when nobody else is unsure of what it was asked.
        TxnReply::Failed(_) => 2,
        TxnReply::Conflict(_) => 3,
        TxnReply::Changed => 4,
    }
}
