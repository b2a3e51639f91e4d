//! What goes into a leader and what comes out.
//!
//! Owns the vocabulary between [`Leader`](super) and its driver: a node over openraft, or the model over its toy
//! consensus. The driver gives one input with the applied state of the replica, drains the outputs, re-arms the timer.

use alloc::vec::Vec;
use bytes::Bytes;

use crate::ids::{Renewal, SessionId};
use crate::place::{Ino, Place, Places};
use crate::region::command::{Applied, Command};
use crate::request::{Answer, Assertion, ChunkName, MetaQuery, Recall, Renewed, Request};
use crate::txn::{TxnReply, TxnRequest};

/// The driver's name for one request that waits for an answer: each gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker(pub u64);

/// The leader's name for something it asked its driver to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What happens to a leader.
#[derive(Clone, Debug)]
pub enum Input {
    /// A request arrived, with its payload.
    Request {
        /// Whom to answer.
        asker: Asker,
        /// The request.
        request: Request,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// A proposal was applied here while this replica still led.
    Applied {
        /// Which.
        token: Token,
        /// What it yielded.
        applied: Applied,
    },
    /// What became of a proposal is unknown: leadership was lost meanwhile, or the engine discarded it.
    Unknown {
        /// Which.
        token: Token,
    },
    /// The state given with this input contains everything that was committed when the read index was asked for.
    ReadReady {
        /// Which.
        token: Token,
    },
    /// No read index could be had: this replica may lead no more.
    ReadFailed {
        /// Which.
        token: Token,
    },
    /// Another region answered about a transaction, or could not be asked (`None`).
    TxnAnswer {
        /// Which.
        token: Token,
        /// Its answer.
        answer: Option<TxnReply>,
    },
    /// A query that the leader put to other regions (a directory's ancestors) was answered, or could not be.
    QueryAnswer {
        /// Which.
        token: Token,
        /// Its answer.
        answer: Option<Answer>,
    },
    /// A mount's lease frame arrived at this node, which leads this region: `Output::Renewed` follows once leadership
    /// is confirmed (P8: time travels only in answers).
    Renew {
        /// Whom to answer.
        asker: Asker,
        /// Whose frame it is.
        session: SessionId,
        /// Its renewal number.
        renewal: Renewal,
        /// What it asserts to this region's leader.
        assertion: Option<Assertion>,
    },
    /// The master says that a session is over.
    SessionOver {
        /// Whose.
        session: SessionId,
    },
    /// Time has passed. Spurious ones do nothing.
    Tick,
}

/// What a leader wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Order this entry; `Applied` or `Unknown` follows.
    Propose {
        /// Under this name.
        token: Token,
        /// The entry.
        command: Command,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// Confirm leadership and wait until everything committed by now is applied; `ReadReady` or `ReadFailed` follows.
    /// Those of one drain may share a round.
    ReadIndex {
        /// Under this name.
        token: Token,
    },
    /// Answer a request.
    Answer {
        /// Whose.
        asker: Asker,
        /// The answer.
        answer: Answer,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// Ask the leaders of the meta regions that hold `places`, each for its part; `TxnAnswer` follows with the worst of
    /// their answers, or none when one can't be had.
    AskTxn {
        /// Under this name.
        token: Token,
        /// Whose regions.
        places: Places,
        /// What.
        request: TxnRequest,
    },
    /// Put a query to the leader of the meta region that holds a place; `QueryAnswer` follows.
    AskQuery {
        /// Under this name.
        token: Token,
        /// Where.
        place: Place,
        /// What.
        query: MetaQuery,
    },
    /// Delete chunks whose names are garbage in the data regions that hold them. A `TxnAnswer` of `Finished` says that
    /// all are gone, none that it must be asked again.
    DeleteChunks {
        /// Under this name.
        token: Token,
        /// Which.
        chunks: Vec<ChunkName>,
    },
    /// A lease frame is confirmed as far as this region goes.
    Renewed {
        /// Whose.
        asker: Asker,
        /// Which leases live on; none when leadership could not be confirmed or the session is over.
        renewed: Option<Renewed>,
    },
    /// Ask a mount which of these inodes, whose last names are gone, it does not hold open; it answers with
    /// `MetaOp::NotOpen`.
    AskOpen {
        /// Whose.
        session: SessionId,
        /// Which.
        inos: Vec<Ino>,
    },
    /// Send a recall to a mount.
    Recall {
        /// Whose.
        session: SessionId,
        /// What.
        recall: Recall,
    },
}
