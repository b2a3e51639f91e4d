//! What is asked of a region and what it answers.
//!
//! Owns the vocabulary between clients (mounts, coordinators, the master's controller, audits) and regions: queries,
//! which change nothing, and operations, which become log entries. Who may ask and in which order is decided where
//! they are applied (`region`), not here. Bulk bytes travel beside a request or answer, as its payload.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attr::{Attr, FileKind, Name, NewInode, SetAttr};
use crate::error::FsError;
use crate::ids::{Epoch, Fence, GroupId, NodeId, Renewal, ReplicaId, SessionId};
use crate::limits::CHUNK_BYTES;
use crate::locks::HeldLock;
use crate::place::{Bucket, Cookie, Ino, Place, Places, Salt};
use crate::time::Timestamp;
use crate::vfs::{DirEntry, LockOwner, LockRange, RenameMode, XattrMode};

/// The two key spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Space {
    /// Directories, entries, inodes.
    Meta,
    /// Chunks of files.
    Data,
}

/// What every request to a region says first. Checked at receipt to save work, and again when applied (P5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The region it is meant for.
    pub group: GroupId,
    /// The epoch under which the sender believes that region holds the request's keys.
    pub epoch: Epoch,
    /// Who asks.
    pub session: SessionId,
    /// The session's renewal number when the request was made.
    pub renewal: Renewal,
    /// Of an operation: what makes it happen once. Queries have none.
    pub slot: Option<SlotUse>,
    /// The highest file time this mount has seen, so that times never run backwards along one program's actions (P9).
    pub seen: Timestamp,
    /// What the sender makes of its own views.
    pub aside: Aside,
}

/// What a sender says of the views that it holds (P8): a change is shown to nobody before everybody who was shown what it
/// changes has forgotten that, but for the sender itself where it says so.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Aside {
    /// Raised whenever the sender has given up a change whose outcome it does not know: it has forgotten all views by
    /// then, and what it is shown later must be recalled if that change comes after all. 0: it caches no views.
    pub generation: u64,
    /// Of a change: the inodes of whose views the sender uses none that the change concerns, from before it was sent
    /// until it is answered. They need not be recalled from it.
    pub inos: Vec<Ino>,
}

/// One use of one of a session's slots (P6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotUse {
    /// Below `limits::SLOTS_PER_SESSION`.
    pub slot: u8,
    /// Rises by at least one with each new operation in the slot; a repetition keeps it.
    pub sequence: u64,
}

/// A request to a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Meant for which region, from whom.
    pub header: Header,
    /// What is asked.
    pub body: RequestBody,
}

/// What is asked of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Read something of a meta region.
    MetaQuery(MetaQuery),
    /// Change something in a meta region.
    MetaOp(MetaOp),
    /// Read something of a data region.
    DataQuery(DataQuery),
    /// Change something in a data region.
    DataOp(DataOp),
    /// Give a content lease back, or say that what a recall asked for has been done (P8).
    LeaseDone(LeaseDone),
    /// Part of a transaction across regions, between nodes (P7).
    Txn(crate::txn::TxnRequest),
}

/// What a mount wants of a file's content (P8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseKind {
    /// To read; shared with other readers.
    Shared,
    /// To write; alone.
    Exclusive,
}

/// Which grant of a lease a message is about: each grant has a higher one than those before it, those of earlier
/// leaders included, so that giving back an old one can't take a new one away.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct LeaseSerial {
    /// The term of the leadership that granted.
    pub term: u64,
    /// Which of its grants.
    pub number: u64,
}

impl LeaseSerial {
    /// Of a lease that a leader took up from its predecessor: before all of its own grants, after all earlier ones. A
    /// session asserts once to a leadership, so no two such leases of a file are the same session's.
    #[must_use]
    pub const fn taken_up(term: u64) -> Self {
        Self { term, number: 0 }
    }
}

/// A mount tells a new leader what its predecessor granted and it has not given back (P8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// By which grant.
    pub serial: LeaseSerial,
    /// The inode's fence that came with it: another one by now says that somebody else was let in.
    pub fence: Fence,
    /// The term of the lease lasts yet. Else it ran out with changes that are not committed.
    pub lasts: bool,
}

/// One leadership of one region: leases are good only while that one which granted them confirms them (P8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Leadership {
    /// The region.
    pub group: GroupId,
    /// The leader's term.
    pub term: u64,
}

/// What a mount has of one file by the grant of an earlier leader of its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which file.
    pub ino: Ino,
    /// What the lease allows; of one that is not held any more: what may still be under way under it.
    pub kind: LeaseKind,
    /// By which grant.
    pub claim: Claim,
}

/// A mount re-asserts to a new leader what the leaders before it granted (P8): *everything* it has in that region, as of
/// after this leadership began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertion {
    /// To which leadership: to any other it means nothing.
    pub to: Leadership,
    /// All that it holds, and all under which something may be on the way.
    pub holds: Vec<Hold>,
}

/// One leadership's answer to a lease frame: the leases it granted or has taken up live on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Which leadership.
    pub by: Leadership,
    /// It waits for this mount's assertion.
    pub waits: bool,
    /// Which of the leases that the frame asserts to it are its own now, under the serial of [`LeaseSerial::taken_up`].
    pub taken: Vec<Ino>,
    /// The region's epoch: views of an earlier one may concern places that are another region's by now.
    pub epoch: Epoch,
    /// Views that were recalled and are not forgotten yet, as far as is known: a recall that was lost is repeated before
    /// what it is about can live on.
    pub recalled: Vec<(Ino, LeaseSerial)>,
}

/// Views: what an answer shows may be shown again by the mount without asking, until it is recalled or the term of the
/// leadership that granted it is over (P8). The view of an inode is what stat says of it and, of a directory, which of
/// its names are there and what they name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Views {
    /// Which grant of the leader's it is.
    pub serial: LeaseSerial,
    /// Names in directories: what is there, or that nothing is.
    pub names: Vec<NameView>,
    /// Attributes.
    pub attrs: Vec<Attr>,
}

/// What a directory holds under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameView {
    /// The directory.
    pub dir: Ino,
    /// The name.
    pub name: Name,
    /// What it names; nothing when it is not there.
    pub seen: Option<Seen>,
}

/// Queries of a meta region. None changes replicated state; those that ask for a lease change the leader's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the calls' own arguments")]
pub enum MetaQuery {
    /// Finds a name: its attributes when its inode lives in this region, else its number and kind. `lease` asks for
    /// the content lease too, given when nobody holds one in conflict.
    Lookup {
        dir: Ino,
        salt: Salt,
        name: Name,
        lease: Option<LeaseKind>,
    },
    /// An inode's attributes, after its exclusive holder (if it is not the asker) has committed what it has.
    GetAttr { ino: Ino },
    /// An inode, its content lease, and what the lease says; waits until others have given theirs back. `patient`
    /// is false when the answer may come without the lease, at once. `held` is what the asker holds already, at
    /// least of this kind.
    Open {
        ino: Ino,
        lease: LeaseKind,
        patient: bool,
        held: Option<Claim>,
    },
    /// More of a file's chunk map, from a chunk number on.
    Map { ino: Ino, from: u64 },
    /// A symbolic link's target.
    ReadLink { ino: Ino },
    /// Entries after `cookie` that live in this region, at most `limit`.
    ReadDir {
        dir: Ino,
        cookie: Cookie,
        limit: u32,
        plus: bool,
    },
    /// One extended attribute.
    GetXattr { ino: Ino, name: Name },
    /// The names of all extended attributes.
    ListXattr { ino: Ino },
    /// A lock in the way of `lock`, if any.
    TestLock {
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
    },
    /// Whether these chunk names are still in the map: what scrub and reclaim ask (P9).
    Named { chunks: Vec<ChunkName> },
    /// For the audit: raw records with `from <= key < to`, the first of them, at most `limit` and at most a frame's
    /// worth; without their values when `keys_only`. The range lies in the places of one region.
    Audit {
        from: Vec<u8>,
        to: Vec<u8>,
        limit: u32,
        keys_only: bool,
    },
}

/// What a client saw under a name, so that a coordinator in another region need not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The inode.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
}

/// Operations on a meta region: each is one log entry, or the first of a transaction.
///
/// The *first key* of each decides which region is asked and remembers the answer (P6); see [`MetaOp::first_place`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the calls' own arguments")]
pub enum MetaOp {
    /// Takes fresh inode numbers in a bucket, for directories to be made there.
    Reserve { buckets: Vec<Bucket> },
    /// Makes an inode and its entry. `home` is a reserved number and a fresh salt, for a directory; every other kind
    /// lives at its entry's place under a number drawn when applied. An existing regular file is opened instead when
    /// `exclusive` is false. `lease` asks for the content lease of a regular file.
    Make {
        dir: Ino,
        salt: Salt,
        name: Name,
        new: NewInode,
        home: Option<(Ino, Salt)>,
        exclusive: bool,
        lease: Option<LeaseKind>,
    },
    /// Removes an entry that is no directory.
    Unlink { dir: Ino, salt: Salt, name: Name },
    /// Removes an empty directory.
    RemoveDir { dir: Ino, salt: Salt, name: Name },
    /// Moves an entry. `source` and `target` are what the client last saw there: when that is no longer so, the
    /// answer is `Refusal::Changed` and the client looks again.
    Rename {
        dir: Ino,
        salt: Salt,
        name: Name,
        source: Seen,
        to_dir: Ino,
        to_salt: Salt,
        to_name: Name,
        target: Option<Seen>,
        mode: RenameMode,
    },
    /// Adds an entry for an inode that is no directory. First key: the new entry.
    Link {
        dir: Ino,
        salt: Salt,
        name: Name,
        target: Seen,
    },
    /// Changes attributes (never the size).
    SetAttr { ino: Ino, set: SetAttr },
    /// Sets an extended attribute.
    SetXattr {
        ino: Ino,
        name: Name,
        value: Bytes,
        mode: XattrMode,
    },
    /// Removes an extended attribute.
    RemoveXattr { ino: Ino, name: Name },
    /// Takes a lock, replacing what the owner holds in the range; `FsError::WouldBlock` when another is in the way.
    /// `delegate` is the number of a wish to be given all locks of the inode: `MetaReply::LocksGiven`.
    SetLock {
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
        delegate: Option<u64>,
    },
    /// Gives up an owner's locks in a range.
    Unlock {
        ino: Ino,
        owner: LockOwner,
        start: u64,
        end: u64,
    },
    /// Changes content, under the exclusive content lease (P9).
    Content {
        ino: Ino,
        fence: Fence,
        change: ContentOp,
    },
    /// The session says it does not hold open an inode whose last name is gone.
    NotOpen { inos: Vec<Ino> },
    /// The data of these names is gone: their garbage records may go (P9).
    Reclaimed { chunks: Vec<ChunkName> },
    /// Shuts the holder `dead` of a lease or lock out: raises the fence (P8).
    Takeover { ino: Ino, dead: SessionId },
    /// The leader may give leases to this session from now on (P8, "Leader change").
    AdmitSession { session: SessionId },
    /// A session is over: its locks go, its earlier proposals are refused from here on.
    EndSession { session: SessionId },
    /// Gives an inode's locks back: these are held now. `None`: those as they were given, which were never used. Nothing
    /// happens if that grant is over. They are given to nobody for a while if they were `recalled`.
    ReturnLocks {
        ino: Ino,
        grant: u64,
        locks: Option<Vec<HeldLock<LockOwner>>>,
        recalled: bool,
    },
}

/// Changes of a regular file's content map (P9). The sender holds the exclusive content lease and names its fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are explained at each")]
pub enum ContentOp {
    /// Names fresh chunks wherever `first..first+count` has holes, unwritten. With `size` the file grows to at least
    /// that (fallocate).
    Allocate {
        first: u64,
        count: u64,
        size: Option<u64>,
    },
    /// The data of these runs is committed: marks them written, raises the size to at least `size`, sets mtime and
    /// ctime to the entry's time (or `mtime` when that is later), clears suid and sgid.
    Commit {
        written: Vec<(u64, u64)>,
        size: u64,
        mtime: Timestamp,
    },
    /// The time of overwrites that are committed already: raises mtime and ctime to it, and no further.
    Times { mtime: Timestamp },
    /// The whole content, at most `limits::INLINE_BYTES_MAX` bytes, of a file that has no chunks.
    WriteInline { content: Bytes, mtime: Timestamp },
    /// Inline content has been copied to chunk 0: forget the inline bytes, mark chunk 0 written.
    ToChunks,
    /// A new size. Names beyond it become garbage; a cut inside a chunk is noted.
    Truncate { size: u64 },
    /// The noted cut has been carried out in the data region.
    CutDone { size: u64 },
    /// Frees the names of whole chunks: holes (punch), or fresh unwritten names (zero).
    Free { first: u64, count: u64 },
}

/// The name of a chunk: a freed name never returns (P9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkName {
    /// The file.
    pub ino: Ino,
    /// The file's change number when the chunk was allocated.
    pub version: u64,
    /// Which MiB of the file.
    pub number: u64,
}

/// A run of a file's chunk map: chunks `first..first+count` are named with `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// First chunk number.
    pub first: u64,
    /// How many chunks.
    pub count: u64,
    /// Their version.
    pub version: u64,
    /// Whether their data was committed: an unwritten chunk that is absent reads as zeros, a written one is lost.
    pub written: bool,
}

/// What a content lease says of the file it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What it allows.
    pub kind: LeaseKind,
    /// Which grant it is.
    pub serial: LeaseSerial,
    /// The inode; its fence is in it.
    pub attr: Attr,
    /// What the inode's change number was after the last change of its content: what a mount wrote under a lease that
    /// ran out is still good while this stands (P8). Attributes and names that changed since don't matter.
    pub content: u64,
    /// The whole content, when it is kept with the inode.
    pub inline: Option<Bytes>,
    /// The chunk map from its start ...
    pub map: Vec<Run>,
    /// ... and whether that is all of it.
    pub map_complete: bool,
    /// A size at which the last chunk must be cut in the data region before the file grows, if one was noted.
    pub cut: Option<u64>,
}

/// What a mount reports of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseDone {
    /// The lease is given back; nothing of it is on the way. Also the answer of a mount that does not hold it.
    Released(Ino, LeaseSerial),
    /// The exclusive lease is now a shared one.
    Downgraded(Ino, LeaseSerial),
    /// Data, size and times so far are committed, as the recall of this round asked; the lease stays.
    Flushed(Ino, LeaseSerial, u64),
    /// The view of an inode is forgotten, and so will be what was granted of it up to this serial and is still on its
    /// way.
    Forgot(Ino, LeaseSerial),
}

impl LeaseDone {
    /// Which grant it is about.
    #[must_use]
    pub const fn serial(&self) -> LeaseSerial {
        let (Self::Released(_, serial)
        | Self::Downgraded(_, serial)
        | Self::Flushed(_, serial, _)
        | Self::Forgot(_, serial)) = self;
        *serial
    }

    /// Which inode it is about.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        let (Self::Released(ino, _)
        | Self::Downgraded(ino, _)
        | Self::Flushed(ino, _, _)
        | Self::Forgot(ino, _)) = self;
        *ino
    }
}

/// What a leader asks of a mount that holds a lease; sent over the mount's connection, answered with a [`LeaseDone`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// The region that asks.
    pub group: GroupId,
    /// The inode.
    pub ino: Ino,
    /// Which grant it recalls; a mount that has not got that yet treats it as given back when it comes. Of a view: the
    /// leader's last grant of any view.
    pub serial: LeaseSerial,
    /// Of a flush: which one. Those who asked since the mount began the last one wait for the next. Of locks: the number
    /// under which they were given.
    pub round: u64,
    /// What it wants.
    pub want: RecallKind,
}

/// What a recall wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecallKind {
    /// Commit data, size and times; keep the lease.
    Flush,
    /// Keep at most a shared lease.
    Share,
    /// Give it back.
    Release,
    /// Forget the view of the inode: no content lease is concerned.
    View,
    /// Give back the inode's locks (`MetaOp::ReturnLocks`): no content lease is concerned.
    Locks,
}

/// Queries of a data region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are explained at each")]
pub enum DataQuery {
    /// Bytes of a chunk. A fence higher than the chunk has seen is committed first. `absent_is_hole` is true for an
    /// unwritten name: then what is not there reads as zeros; else it is corruption. `led` names the leadership that has
    /// answered the asker after a read index under this very lease, and that it has written nothing to since: this one
    /// answers from its state at once (P8, "Local reads").
    Read {
        chunk: ChunkName,
        fence: Fence,
        offset: u32,
        len: u32,
        absent_is_hole: bool,
        led: Option<Leadership>,
    },
    /// The names this region holds after one, at most `limit`: for audit and scrub.
    List {
        after: Option<(Place, ChunkName)>,
        limit: u32,
    },
    /// Checks the checksums of these chunks; of the first of them, when they are many.
    Verify { chunks: Vec<ChunkName> },
}

/// Operations on a data region. A mount's are remembered in slots like operations on names: a late copy of a write must
/// not undo what was written after it, and a clean recall raises no fence. The cluster's own have no slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are explained at each")]
pub enum DataOp {
    /// Writes the request's payload at an offset of a chunk; creates the chunk.
    Write {
        chunk: ChunkName,
        fence: Fence,
        offset: u32,
    },
    /// Makes a range of a chunk read as zeros.
    Zero {
        chunk: ChunkName,
        fence: Fence,
        offset: u32,
        len: u32,
    },
    /// Notes a fence without writing (for a read under a higher one).
    RaiseFence { chunk: ChunkName, fence: Fence },
    /// Deletes chunks whose names are garbage; leaves tombstones that refuse late writes.
    Delete { chunks: Vec<ChunkName> },
}

/// An answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It was carried out, or failed as file operations fail. Remembered under the slot.
    Meta(Result<MetaReply, FsError>),
    /// It was carried out in a data region; bytes read are the answer's payload.
    Data(Result<DataReply, FsError>),
    /// A transaction message was taken.
    Txn(crate::txn::TxnReply),
    /// Nothing was done: do what the refusal says.
    Refused(Refusal),
    /// One of the others, with views that hold from now on.
    Viewed(Box<Self>, Views),
}

/// What a meta region answers to a query or operation that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the results themselves")]
pub enum MetaReply {
    /// Nothing more to say.
    Done,
    /// An inode as it is now; the lease that was asked for, if it was free.
    Inode { attr: Attr, grant: Option<Grant> },
    /// A name was found whose inode lives in another region.
    Elsewhere { seen: Seen },
    /// An inode was made (`existed` false) or was there (non-exclusive create).
    Made {
        attr: Attr,
        existed: bool,
        grant: Option<Grant>,
    },
    /// Fresh inode numbers, one per bucket asked.
    Reserved(Vec<Ino>),
    /// The content lease.
    Granted(Grant),
    /// More of the chunk map.
    Map { runs: Vec<Run>, complete: bool },
    /// A file's content map after a [`ContentOp`]: its attributes and the runs that changed.
    Content { attr: Attr, runs: Vec<Run> },
    /// Bytes: a link's target, an attribute's value.
    Bytes(Bytes),
    /// Names of extended attributes.
    Names(Vec<Name>),
    /// Entries; `end` when this region holds no more.
    Entries { entries: Vec<DirEntry>, end: bool },
    /// A lock in the way, or none.
    Lock(Option<LockRange>),
    /// Which of the chunks asked are named.
    Named(Vec<bool>),
    /// Raw records for the audit.
    Records(Vec<(Vec<u8>, Vec<u8>)>),
    /// The lock was taken, and from here on all locks of the inode are the asker's to give, under the number of its wish;
    /// these are held, the new one among them.
    LocksGiven {
        grant: u64,
        locks: Vec<HeldLock<LockOwner>>,
    },
    /// Nothing was done, nor looked at: the inode's locks are the asker's to give, who does it itself.
    LocksAreYours { grant: u64 },
}

/// What a data region answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataReply {
    /// Nothing more to say.
    Done,
    /// The bytes read are the payload; after a read index of this leadership, or under one that was asked for before.
    Read {
        /// Of which term.
        term: u64,
    },
    /// Names held.
    Chunks(Vec<ChunkName>),
    /// How the chunks asked are, as far as they were looked at.
    Verified(Vec<ChunkState>),
}

/// How a chunk is on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkState {
    /// Not there, or a fence without bytes.
    Absent,
    /// There, and its checksums match.
    Whole,
    /// There, and what is read is not what was written.
    Damaged,
}

/// Why a request was not carried out. None of these is an error: each says what the sender does next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// This replica does not lead; ask the one named, or any other.
    NotLeader {
        /// The leader, as far as known here.
        leader: Option<(NodeId, ReplicaId)>,
    },
    /// The region has another epoch and holds these places.
    Epoch {
        /// The epoch now.
        epoch: Epoch,
        /// What the region holds now.
        places: Places,
    },
    /// No such region here.
    NoRegion,
    /// The session is over or unknown: everything it had is gone.
    SessionEnded,
    /// The request was made too many renewals ago: renew, then send it again (P8).
    Renewal,
    /// A higher fence shut this holder out: its lease is gone.
    Fenced,
    /// The lease this needs is not held here (any more): acquire it again.
    NoLease,
    /// A lower sequence than the slot has seen: a duplicate from the past, to be dropped.
    OldSequence,
    /// What the client last saw has changed: look again, then use a new sequence.
    Changed,
    /// A transaction is in the way and undecided: try again after a pause, under the same sequence.
    Busy,
    /// Below the disk's reserve only what frees space is taken (P10).
    ReserveOnly,
    /// The replica can't answer for the moment (starting, stopping, too many requests): try again after a pause.
    Unavailable(String),
}

impl RequestBody {
    /// Whether it gives back what others may wait for, its sender among them in the end: it waits for no other request.
    #[must_use]
    pub const fn gives_back(&self) -> bool {
        matches!(
            self,
            Self::LeaseDone(_) | Self::MetaOp(MetaOp::ReturnLocks { .. })
        )
    }
}

impl MetaOp {
    /// Where the operation's first key lives: the region to ask, which also remembers the answer (P6). It follows
    /// from the arguments alone.
    #[must_use]
    pub fn first_place(&self) -> Place {
        let entry = |dir: &Ino, salt: &Salt, name: &[u8]| {
            crate::place::NameHash::of(*salt, name).place(*dir)
        };
        match self {
            Self::Reserve { buckets } => buckets
                .first()
                .map_or(Place(0), |bucket| Place::new(*bucket, 0)),
            Self::Make {
                dir, salt, name, ..
            }
            | Self::Unlink { dir, salt, name }
            | Self::RemoveDir { dir, salt, name }
            | Self::Rename {
                dir, salt, name, ..
            }
            | Self::Link {
                dir, salt, name, ..
            } => entry(dir, salt, name),
            Self::SetAttr { ino, .. }
            | Self::SetXattr { ino, .. }
            | Self::RemoveXattr { ino, .. }
            | Self::SetLock { ino, .. }
            | Self::Unlock { ino, .. }
            | Self::ReturnLocks { ino, .. }
            | Self::Content { ino, .. }
            | Self::Takeover { ino, .. } => ino.place(),
            Self::NotOpen { inos } => inos.first().map_or(Place(0), |ino| ino.place()),
            Self::Reclaimed { chunks } => chunks.first().map_or(Place(0), |name| name.ino.place()),
            Self::AdmitSession { .. } | Self::EndSession { .. } => Place(0),
        }
    }
}

impl ChunkName {
    /// Where the chunk lives among the data regions.
    #[must_use]
    pub fn place(&self) -> Place {
        crate::place::data_place(self.ino, self.number)
    }

    /// Whether a range of bytes lies inside a chunk.
    #[must_use]
    pub fn has_room_for(offset: u32, len: u32) -> bool {
        u64::from(offset) + u64::from(len) <= CHUNK_BYTES
    }
}
