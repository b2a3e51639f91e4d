//! A tiny cluster: one state for all regions, strict about what a client may ask of it.
//!
//! Owns names, contents, slots and leases, as little of them as the client's rules can be shown with.

mod leases;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use crate::attr::{Attr, FileKind, Name, NewInode};
use crate::client::port::{MasterReply, MasterRequest, RegionLine, ReplicaPlace};
use crate::error::FsError;
use crate::ids::{Epoch, Fence, GroupId, NodeId, Renewal, ReplicaId, SessionId, VolumeId};
use crate::limits::CHUNK_BYTES;
use crate::locks::Delegation;
use crate::place::{Bucket, Cookie, Ino, NameHash, PLACES, Place, Places, Salt};
use crate::region::lock::{Outcome, Record};
use crate::request::*;
use crate::time::Timestamp;
use crate::vfs::{DirEntry, FsStats, XattrMode};

#[derive(Debug)]
pub(super) struct Inode {
    pub attr: Attr,
    /// The change number after the last change of content.
    pub content: u64,
    pub entries: BTreeMap<Name, Ino>,
    pub inline: Option<Bytes>,
    pub map: BTreeMap<u64, (u64, bool)>,
    pub cut: Option<u64>,
    pub xattrs: BTreeMap<Name, Bytes>,
    target: Bytes,
}

#[derive(Clone, Debug)]
struct Waiter {
    session: SessionId,
    kind: LeaseKind,
    reply_to: u64,
}

#[derive(Debug, Default)]
struct Leases {
    holders: BTreeMap<SessionId, (LeaseKind, LeaseSerial)>,
    waiting: VecDeque<Waiter>,
}

/// What the cluster sends besides direct answers.
#[derive(Debug)]
pub(super) enum Sent {
    Answer(u64, Answer),
    Recall(SessionId, Recall),
}

#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub inodes: BTreeMap<Ino, Inode>,
    pub chunks: BTreeMap<ChunkName, Vec<u8>>,
    pub lines: Vec<RegionLine>,
    pub map_for_clients: Vec<RegionLine>,
    pub executed: u64,
    /// Questions about names and inodes.
    pub queries: u64,
    /// Of each read of data: whether it names a leadership that has answered before.
    pub reads_led: core::cell::RefCell<Vec<bool>>,
    slots: BTreeMap<(GroupId, SessionId, u8), (u64, Answer)>,
    leases: BTreeMap<Ino, Leases>,
    /// As a region keeps them; who meets a delegation is refused, and its holder recalled.
    pub locks: BTreeMap<Ino, Record>,
    /// Recalls of locks so far; none is sent while they are `recalls_lost`.
    pub lock_recalls: u64,
    pub recalls_lost: bool,
    /// What is written to chunks fails.
    pub data_lost: bool,
    ended: Vec<SessionId>,
    sessions: BTreeMap<u64, SessionId>,
    pub sent: Vec<Sent>,
    serial: u64,
    numbers: u32,
    clock: i64,
    pub closed: Vec<SessionId>,
}

pub(super) const ROOT: Ino = Ino::new(Place::new(Bucket(0), 0), 1);

/// Whether one region holds both.
pub(super) fn same_region(one: Ino, other: Ino) -> bool {
    one.place().0 / (PLACES / 2) == other.place().0 / (PLACES / 2)
}

const fn ino_of(op: &MetaOp) -> Ino {
    match op {
        MetaOp::SetLock { ino, .. } | MetaOp::Unlock { ino, .. } => *ino,
        _ => panic!("no operation that meets a delegation"),
    }
}

fn new_attr(ino: Ino, new: &NewInode, time: Timestamp, parent: Ino, salt: Salt) -> Attr {
    Attr {
        ino,
        kind: new.kind,
        mode: new.mode,
        nlink: 1,
        uid: new.uid,
        gid: new.gid,
        rdev: new.rdev,
        size: 0,
        allocated: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        change: 1,
        fence: Fence(1),
        volume: VolumeId(1),
        salt,
        parent,
    }
}

pub(super) fn kind_of(kind: FileKind) -> NewInode {
    NewInode {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Bytes::new(),
    }
}

impl Cluster {
    pub(super) fn new() -> Self {
        let mut cluster = Self::default();
        let half = PLACES / 2;
        for (group, space, start, end) in [
            (1, Space::Meta, 0, half),
            (2, Space::Meta, half, PLACES),
            (3, Space::Data, 0, half),
            (4, Space::Data, half, PLACES),
        ] {
            cluster.lines.push(RegionLine {
                group: GroupId(group),
                space,
                places: Places { start, end },
                epoch: Epoch(5),
                replicas: (1..=3)
                    .map(|node| ReplicaPlace {
                        replica: ReplicaId(group * 10 + node),
                        node: NodeId(node),
                    })
                    .collect(),
                leader: Some(NodeId(1 + group % 3)),
            });
        }
        cluster.map_for_clients = cluster.lines.clone();
        let root = kind_of(FileKind::Directory);
        cluster.add(ROOT, &root, ROOT, Salt(9));
        cluster
    }

    fn time(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp {
            seconds: 1_000_000 + self.clock,
            nanos: 0,
        }
    }

    fn add(&mut self, ino: Ino, new: &NewInode, parent: Ino, salt: Salt) -> Attr {
        let time = self.time();
        let attr = new_attr(ino, new, time, parent, salt);
        let inode = Inode {
            content: attr.change,
            attr: attr.clone(),
            entries: BTreeMap::new(),
            inline: Some(Bytes::new()),
            map: BTreeMap::new(),
            cut: None,
            xattrs: BTreeMap::new(),
            target: new.target.clone(),
        };
        self.inodes.insert(ino, inode);
        attr
    }

    pub(super) fn master(&mut self, request: MasterRequest) -> MasterReply {
        match request {
            MasterRequest::OpenSession { nonce, .. } => {
                let next = SessionId(1 + self.sessions.len() as u64);
                MasterReply::Opened {
                    session: *self.sessions.entry(nonce).or_insert(next),
                    renewal: Renewal(1),
                    root: ROOT,
                }
            }
            MasterRequest::Renew { session, .. } if self.ended.contains(&session) => {
                MasterReply::SessionOver
            }
            MasterRequest::Renew { renewal, .. } => MasterReply::Renewed(Renewal(renewal.0 + 1)),
            MasterRequest::CloseSession { session } => {
                self.closed.push(session);
                MasterReply::Closed
            }
            MasterRequest::Map => MasterReply::Map(self.map_for_clients.clone()),
            MasterRequest::Stats | MasterRequest::Status | MasterRequest::Join(_) => {
                MasterReply::Stats(FsStats::default())
            }
        }
    }

    /// A request has arrived at a node; answers go to `sent`.
    pub(super) fn request(
        &mut self,
        node: NodeId,
        reply_to: u64,
        request: &Request,
        payload: &Bytes,
    ) -> Option<Bytes> {
        let header = &request.header;
        let line = self
            .lines
            .iter()
            .find(|line| line.group == header.group)
            .cloned();
        let refusal = match line {
            None => Some(Refusal::NoRegion),
            Some(line) if line.leader != Some(node) => {
                let leader = line.leader.map(|node| (node, ReplicaId(0)));
                Some(Refusal::NotLeader { leader })
            }
            Some(line) if line.epoch != header.epoch => Some(Refusal::Epoch {
                epoch: line.epoch,
                places: line.places,
            }),
            Some(_) if self.ended.contains(&header.session) => Some(Refusal::SessionEnded),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            self.sent
                .push(Sent::Answer(reply_to, Answer::Refused(refusal)));
            return None;
        }
        let mut bytes = None;
        let answer = match &request.body {
            RequestBody::MetaQuery(MetaQuery::Open {
                ino,
                lease,
                patient,
                held: _,
            }) => {
                self.queries += 1;
                self.open(header.session, *ino, *lease, *patient, reply_to)
            }
            RequestBody::MetaQuery(MetaQuery::TestLock { ino, owner, lock }) => {
                let record = self.locks.entry(*ino).or_default();
                Some(match record.test((header.session, *owner), *lock) {
                    Outcome::Replied(result) => Answer::Meta(result),
                    Outcome::Elsewhere(by) => self.recall_locks(*ino, by),
                })
            }
            RequestBody::MetaQuery(query) => {
                self.queries += 1;
                let found = self.query(query);
                Some(self.with_lease(header.session, query, found, reply_to))
            }
            RequestBody::MetaOp(_) | RequestBody::DataOp(_) => {
                Some(self.slotted(header, &request.body, payload))
            }
            RequestBody::DataQuery(query) => {
                let (answer, read) = self.data_query(query);
                bytes = Some(read);
                Some(answer)
            }
            RequestBody::LeaseDone(done) => {
                self.lease_done(header.session, done);
                Some(Answer::Meta(Ok(MetaReply::Done)))
            }
            RequestBody::Txn(_) => panic!("a client takes no part in transactions"),
        };
        if let Some(answer) = answer {
            self.sent.push(Sent::Answer(reply_to, answer));
        }
        bytes
    }

    fn slotted(&mut self, header: &Header, body: &RequestBody, payload: &Bytes) -> Answer {
        let used = header.slot.expect("operations have slots (P6)");
        let key = (header.group, header.session, used.slot);
        if let Some((sequence, answer)) = self.slots.get(&key) {
            if *sequence == used.sequence {
                return answer.clone();
            }
            if *sequence > used.sequence {
                return Answer::Refused(Refusal::OldSequence);
            }
        }
        let answer = match body {
            RequestBody::DataOp(op) => self.data_op(op, payload),
            RequestBody::MetaOp(
                op @ (MetaOp::SetLock { .. } | MetaOp::Unlock { .. } | MetaOp::ReturnLocks { .. }),
            ) => {
                self.executed += 1;
                match self.lock_op(header.session, op) {
                    Outcome::Replied(result) => Answer::Meta(result),
                    Outcome::Elsewhere(by) => return self.recall_locks(ino_of(op), by),
                }
            }
            RequestBody::MetaOp(op) => {
                self.executed += 1;
                match self.op(header.session, op) {
                    Some(result) => Answer::Meta(result),
                    None => return Answer::Refused(Refusal::NoLease),
                }
            }
            other => panic!("no operation: {other:?}"),
        };
        self.slots.insert(key, (used.sequence, answer.clone()));
        answer
    }

    fn lock_op(&mut self, session: SessionId, op: &MetaOp) -> Outcome {
        let now = self.time();
        match op {
            MetaOp::SetLock {
                ino,
                owner,
                lock,
                delegate,
            } => {
                let record = self.locks.entry(*ino).or_default();
                record.set((session, *owner), *lock, *delegate, now)
            }
            MetaOp::Unlock {
                ino,
                owner,
                start,
                end,
            } => {
                let record = self.locks.entry(*ino).or_default();
                Outcome::Replied(Ok(record.unlock((session, *owner), (*start, *end), now)))
            }
            MetaOp::ReturnLocks {
                ino,
                grant,
                locks,
                recalled,
            } => {
                let grant = *grant;
                let to = Delegation { session, grant };
                let record = self.locks.entry(*ino).or_default();
                record.give_back(to, locks.as_deref(), *recalled, now);
                Outcome::Replied(Ok(MetaReply::Done))
            }
            other => panic!("no operation on locks: {other:?}"),
        }
    }

    /// A session is over; nobody has told its mount yet.
    pub(super) fn end_session(&mut self, session: SessionId) {
        self.ended.push(session);
        for record in self.locks.values_mut() {
            record.drop_session(session);
        }
    }

    /// Who meets a delegation asks again; its holder is asked to give it back.
    fn recall_locks(&mut self, ino: Ino, by: Delegation) -> Answer {
        let recall = Recall {
            group: GroupId(1),
            ino,
            serial: LeaseSerial::default(),
            round: by.grant,
            want: RecallKind::Locks,
        };
        self.lock_recalls += 1;
        if !self.recalls_lost {
            self.sent.push(Sent::Recall(by.session, recall));
        }
        Answer::Refused(Refusal::Busy)
    }

    fn inode(&self, ino: Ino) -> Result<&Inode, FsError> {
        self.inodes.get(&ino).ok_or(FsError::NotFound)
    }

    fn find(&self, dir: Ino, name: &Name) -> Result<Ino, FsError> {
        let entries = &self.inode(dir)?.entries;
        entries.get(name).copied().ok_or(FsError::NotFound)
    }

    fn query(&mut self, query: &MetaQuery) -> Result<MetaReply, FsError> {
        Ok(match query {
            MetaQuery::Lookup { dir, name, .. } => {
                let ino = self.find(*dir, name)?;
                let attr = self.inodes[&ino].attr.clone();
                if same_region(ino, *dir) {
                    MetaReply::Inode { attr, grant: None }
                } else {
                    let kind = attr.kind;
                    MetaReply::Elsewhere {
                        seen: Seen { ino, kind },
                    }
                }
            }
            MetaQuery::GetAttr { ino } => MetaReply::Inode {
                attr: self.inode(*ino)?.attr.clone(),
                grant: None,
            },
            MetaQuery::ReadLink { ino } => MetaReply::Bytes(self.inode(*ino)?.target.clone()),
            MetaQuery::Map { ino, from } => self.map_rest(*ino, *from),
            MetaQuery::ReadDir {
                dir, cookie, limit, ..
            } => self.list(*dir, *cookie, *limit)?,
            MetaQuery::GetXattr { ino, name } => {
                let value = self.inode(*ino)?.xattrs.get(name).cloned();
                MetaReply::Bytes(value.ok_or(FsError::NoData)?)
            }
            MetaQuery::ListXattr { ino } => {
                MetaReply::Names(self.inode(*ino)?.xattrs.keys().cloned().collect())
            }
            other => panic!("not in this cluster: {other:?}"),
        })
    }

    fn list(&self, dir: Ino, cookie: Cookie, limit: u32) -> Result<MetaReply, FsError> {
        let inode = self.inode(dir)?;
        let mut entries: Vec<DirEntry> = inode
            .entries
            .iter()
            .map(|(name, ino)| DirEntry {
                cookie: NameHash::of(inode.attr.salt, name).cookie(0),
                name: name.clone(),
                ino: *ino,
                kind: self.inodes[ino].attr.kind,
                attr: None,
            })
            .filter(|entry| entry.cookie > cookie)
            .collect();
        entries.sort_by_key(|entry| entry.cookie);
        let end = entries.len() <= limit as usize;
        entries.truncate(limit as usize);
        Ok(MetaReply::Entries { entries, end })
    }

    fn op(&mut self, session: SessionId, op: &MetaOp) -> Option<Result<MetaReply, FsError>> {
        if let MetaOp::Content { ino, change, .. } = op {
            let holds = self
                .leases
                .get(ino)
                .and_then(|leases| leases.holders.get(&session));
            if holds.is_none_or(|(kind, _)| *kind != LeaseKind::Exclusive) {
                return None;
            }
            return Some(self.content(*ino, change));
        }
        Some(self.name_op(session, op))
    }

    fn name_op(&mut self, session: SessionId, op: &MetaOp) -> Result<MetaReply, FsError> {
        Ok(match op {
            MetaOp::Reserve { buckets } => MetaReply::Reserved(
                buckets
                    .iter()
                    .map(|bucket| self.fresh(Place::new(*bucket, 0)))
                    .collect(),
            ),
            MetaOp::Make {
                dir,
                salt,
                name,
                new,
                home,
                exclusive,
                lease,
            } => {
                assert_eq!(*salt, self.inode(*dir)?.attr.salt);
                if let Ok(ino) = self.find(*dir, name) {
                    if *exclusive {
                        return Err(FsError::Exists);
                    }
                    let attr = self.inodes[&ino].attr.clone();
                    return Ok(MetaReply::Made {
                        attr,
                        existed: true,
                        grant: None,
                    });
                }
                let place = NameHash::of(*salt, name).place(*dir);
                let (ino, salt) = home.unwrap_or_else(|| (self.fresh(place), Salt(0)));
                let attr = self.add(ino, new, *dir, salt);
                let entries = &mut self.inodes.get_mut(dir).expect("found").entries;
                entries.insert(name.clone(), ino);
                let grant = lease.map(|kind| self.grant(session, ino, kind));
                MetaReply::Made {
                    attr,
                    existed: false,
                    grant,
                }
            }
            MetaOp::Unlink { dir, name, .. } | MetaOp::RemoveDir { dir, name, .. } => {
                self.find(*dir, name)?;
                self.inodes
                    .get_mut(dir)
                    .expect("found")
                    .entries
                    .remove(name);
                MetaReply::Done
            }
            MetaOp::Rename {
                dir,
                name,
                source,
                to_dir,
                to_name,
                target,
                ..
            } => {
                assert_eq!(self.find(*dir, name), Ok(source.ino));
                assert_eq!(
                    self.find(*to_dir, to_name).ok(),
                    target.map(|seen| seen.ino)
                );
                self.inodes
                    .get_mut(dir)
                    .expect("found")
                    .entries
                    .remove(name);
                let entries = &mut self.inodes.get_mut(to_dir).expect("found").entries;
                entries.insert(to_name.clone(), source.ino);
                MetaReply::Done
            }
            MetaOp::Link {
                dir, name, target, ..
            } => {
                if self.find(*dir, name).is_ok() {
                    return Err(FsError::Exists);
                }
                let entries = &mut self.inodes.get_mut(dir).expect("found").entries;
                entries.insert(name.clone(), target.ino);
                MetaReply::Done
            }
            MetaOp::SetAttr { ino, set } => {
                let inode = self.inodes.get_mut(ino).ok_or(FsError::NotFound)?;
                inode.attr.mode = set.mode.unwrap_or(inode.attr.mode);
                inode.attr.change += 1;
                MetaReply::Inode {
                    attr: inode.attr.clone(),
                    grant: None,
                }
            }
            MetaOp::SetXattr {
                ino,
                name,
                value,
                mode,
            } => {
                let inode = self.inodes.get_mut(ino).ok_or(FsError::NotFound)?;
                if *mode == XattrMode::Create && inode.xattrs.contains_key(name) {
                    return Err(FsError::Exists);
                }
                inode.xattrs.insert(name.clone(), value.clone());
                MetaReply::Done
            }
            MetaOp::NotOpen { .. } => MetaReply::Done,
            other => panic!("not in this cluster: {other:?}"),
        })
    }

    fn fresh(&mut self, place: Place) -> Ino {
        self.numbers += 1;
        Ino::new(place, 100 + self.numbers)
    }

    fn content(&mut self, ino: Ino, change: &ContentOp) -> Result<MetaReply, FsError> {
        let time = self.time();
        let inode = self.inodes.get_mut(&ino).ok_or(FsError::NotFound)?;
        inode.attr.change += 1;
        inode.content = inode.attr.change;
        inode.xattrs.remove(b"security.capability".as_slice());
        let version = inode.attr.change;
        let grows = |inode: &Inode, size: u64| {
            assert!(
                size <= inode.attr.size || inode.cut.is_none(),
                "a cut is carried out before growth (P9)"
            );
        };
        let (mut runs, mut told) = (Vec::new(), None);
        match change {
            ContentOp::Allocate { first, count, size } => {
                for number in *first..first + count {
                    let (version, written) = *inode.map.entry(number).or_insert((version, false));
                    runs.push(Run {
                        first: number,
                        count: 1,
                        version,
                        written,
                    });
                }
                if let Some(size) = size {
                    grows(inode, *size);
                    inode.attr.size = inode.attr.size.max(*size);
                }
            }
            ContentOp::Commit {
                written,
                size,
                mtime,
            } => {
                told = Some(time.max(*mtime));
                grows(inode, *size);
                inode.attr.size = inode.attr.size.max(*size);
                for number in written
                    .iter()
                    .flat_map(|(first, count)| *first..first + count)
                {
                    let named = inode
                        .map
                        .get_mut(&number)
                        .expect("allocated before commit (P9)");
                    named.1 = true;
                    let chunk = ChunkName {
                        ino,
                        version: named.0,
                        number,
                    };
                    assert!(self.chunks.contains_key(&chunk), "data before size (P9)");
                }
            }
            ContentOp::WriteInline { content, mtime } => {
                told = Some(time.max(*mtime));
                assert!(inode.map.is_empty(), "only without chunks");
                inode.attr.size = inode.attr.size.max(content.len() as u64);
                inode.inline = Some(content.clone());
            }
            ContentOp::ToChunks => {
                inode.inline = None;
                inode.map.get_mut(&0).expect("allocated").1 = true;
            }
            ContentOp::Truncate { size } => {
                grows(inode, *size);
                if *size < inode.attr.size {
                    let inside =
                        size % CHUNK_BYTES != 0 && inode.map.contains_key(&(size / CHUNK_BYTES));
                    inode.cut = inside.then_some(*size);
                }
                inode
                    .map
                    .retain(|number, _| *number < size.div_ceil(CHUNK_BYTES));
                if let Some(inline) = &mut inode.inline {
                    inline.truncate(*size as usize);
                }
                inode.attr.size = *size;
            }
            ContentOp::Times { mtime } => told = Some(*mtime),
            ContentOp::CutDone { size } => {
                if inode.cut == Some(*size) {
                    inode.cut = None;
                }
            }
            ContentOp::Free { first, count } => {
                inode
                    .map
                    .retain(|number, _| *number < *first || *number >= first + count);
            }
        }
        stamp(&mut inode.attr, change, told.unwrap_or(time));
        let attr = inode.attr.clone();
        Ok(MetaReply::Content { attr, runs })
    }

    fn data_query(&self, query: &DataQuery) -> (Answer, Bytes) {
        let DataQuery::Read {
            chunk,
            offset,
            len,
            absent_is_hole,
            led,
            ..
        } = query
        else {
            panic!("not in this cluster: {query:?}");
        };
        self.reads_led.borrow_mut().push(led.is_some());
        let data = self.chunks.get(chunk);
        assert!(
            data.is_some() || *absent_is_hole,
            "a written chunk is there (P9)"
        );
        let (from, len) = (*offset as usize, *len as usize);
        let mut bytes = vec![0; len];
        if let Some(data) = data {
            bytes.copy_from_slice(&data[from..from + len]);
        }
        let term = 1;
        (
            Answer::Data(Ok(DataReply::Read { term })),
            Bytes::from(bytes),
        )
    }

    fn data_op(&mut self, op: &DataOp, payload: &Bytes) -> Answer {
        let full = || vec![0; CHUNK_BYTES as usize];
        if self.data_lost {
            return Answer::Data(Err(FsError::Io));
        }
        match op {
            DataOp::Write { chunk, offset, .. } => {
                let at = *offset as usize;
                let data = self.chunks.entry(*chunk).or_insert_with(full);
                data[at..at + payload.len()].copy_from_slice(payload);
            }
            DataOp::Zero {
                chunk, offset, len, ..
            } => {
                let data = self.chunks.entry(*chunk).or_insert_with(full);
                data[*offset as usize..(*offset + *len) as usize].fill(0);
            }
            other => panic!("not in this cluster: {other:?}"),
        }
        Answer::Data(Ok(DataReply::Done))
    }

    /// The rest of a map, for `MetaQuery::Map`.
    pub(super) fn map_rest(&self, ino: Ino, from: u64) -> MetaReply {
        let runs = self.inodes[&ino]
            .map
            .range(from..)
            .map(|(first, (version, written))| Run {
                first: *first,
                count: 1,
                version: *version,
                written: *written,
            })
            .collect();
        MetaReply::Map {
            runs,
            complete: true,
        }
    }
}

impl Cluster {
    /// All leases have run out, as far as the leaders know.
    pub(super) fn drop_leases(&mut self) {
        self.leases.clear();
    }

    /// Somebody has changed a file's content.
    pub(super) fn change_content(&mut self, ino: Ino) {
        self.inodes.get_mut(&ino).expect("it is there").content += 1;
    }
}

impl Cluster {
    /// All its leaderships: nobody is ever deposed here.
    pub(super) fn renewed(&self) -> Vec<Renewed> {
        let leads = |line: &RegionLine| Renewed {
            by: Leadership {
                group: line.group,
                term: 1,
            },
            waits: false,
            taken: Vec::new(),
            epoch: line.epoch,
            recalled: Vec::new(),
        };
        self.lines.iter().map(leads).collect()
    }
}

/// As a region does: what changes no content leaves the time of its last change alone.
fn stamp(attr: &mut Attr, change: &ContentOp, time: Timestamp) {
    let leaves = matches!(
        change,
        ContentOp::Allocate { size: None, .. } | ContentOp::ToChunks | ContentOp::CutDone { .. }
    );
    attr.ctime = attr.ctime.max(time);
    if !leaves {
        attr.mtime = attr.ctime;
    }
}
