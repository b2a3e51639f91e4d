//! The reference filesystem: what one local filesystem would answer, in the simplest way.
//!
//! Owns the meaning of every call on one tree, without replication, caching or failure. An inode number that the real
//! system drew is taken from its answer; one that was drawn by a call whose outcome nobody learnt gets a stand-in until
//! it is seen.

mod after;
mod calls;
mod expected;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use polyfs_core::attr::{FileKind, MODE_SGID, Name, NewInode, SetAttr};
use polyfs_core::error::FsError;
use polyfs_core::limits::NAME_BYTES_MAX;
use polyfs_core::place::{Cookie, Ino};
use polyfs_core::vfs::{
    AllocateMode, Call, Handle, LockKind, LockOwner, LockRange, OpenFlags, Outcome, RenameMode,
    Reply, XattrMode,
};

use crate::history::ClientId;
use calls::{drawn_number, either, subject};
use expected::Expected;
use node::{Node, Nodes, Shown};

/// Stand-ins for numbers nobody has seen count down from here; real ones are below 2^63.
const STAND_IN: u64 = u64::MAX;

/// One state of the tree. What has no name and no descriptor left stays: it may still show to who looked it up before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tree {
    nodes: Nodes,
    opens: BTreeMap<(ClientId, Handle), Ino>,
    stand_ins: u64,
}

impl Tree {
    /// A tree that holds nothing but its root.
    #[must_use]
    pub fn new(root: Ino, mode: u16, uid: u32, gid: u32) -> Self {
        let node = Node {
            mode,
            uid,
            gid,
            parent: root,
            ..Node::new(FileKind::Directory, root)
        };
        Self {
            nodes: Nodes::of(root, node),
            opens: BTreeMap::new(),
            stand_ins: 0,
        }
    }

    /// The tree after `call`, if a filesystem in this state may answer it with `outcome`; `None` when it may not.
    /// With no outcome known, the tree after the call took effect.
    #[must_use]
    pub fn step(&self, client: ClientId, call: &Call, outcome: Option<&Outcome>) -> Option<Self> {
        let (mut after, expected) = self.judge(client, call, outcome);
        match (expected, outcome) {
            (_, None) => Some(after),
            (Ok(fits), Some(Ok(reply))) => {
                if !fits.admits(reply) {
                    return None;
                }
                after.note_open(client, call, reply);
                Some(after)
            }
            (Err(error), Some(Err(found))) => {
                let allowed = error == *found
                    || either(call, error, *found)
                    || after.may_be_gone(client, call, *found);
                allowed.then(|| self.clone())
            }
            (Ok(_), Some(Err(found))) => {
                self.may_be_gone(client, call, *found).then(|| self.clone())
            }
            (Err(_), Some(Ok(_))) => None,
        }
    }

    fn judge(
        &self,
        client: ClientId,
        call: &Call,
        outcome: Option<&Outcome>,
    ) -> (Self, Result<Expected, FsError>) {
        let mut after = self.clone();
        if let Some(Ok(reply)) = outcome {
            after.bind(call, reply);
        }
        let drawn = outcome.and_then(drawn_number);
        let expected = after.carry_out(client, call, drawn);
        (after, expected)
    }

    /// What a filesystem in this state would answer, for people to read.
    #[must_use]
    pub fn expects(&self, client: ClientId, call: &Call, outcome: Option<&Outcome>) -> String {
        format!("{:?}", self.judge(client, call, outcome).1)
    }

    /// An inode that nobody names and this mount does not hold open may be gone for it already, or not yet.
    fn may_be_gone(&self, client: ClientId, call: &Call, found: FsError) -> bool {
        let gone = matches!(found, FsError::NotFound | FsError::Stale);
        let subject = subject(call).and_then(|ino| self.nodes.get(&ino).map(|node| (ino, node)));
        gone && subject.is_none_or(|(ino, node)| node.nlink == 0 && !self.is_open(client, ino))
    }

    fn is_open(&self, client: ClientId, ino: Ino) -> bool {
        let held =
            |((holder, _), open): (&(ClientId, Handle), &Ino)| *holder == client && *open == ino;
        self.opens.iter().any(held)
    }

    /// A number seen for the first time where a stand-in is: from now on that is its name.
    fn bind(&mut self, call: &Call, reply: &Reply) {
        let mut seen = Vec::new();
        match (call, reply) {
            (Call::Lookup { dir, name }, Reply::Attr(attr))
            | (Call::Create { dir, name, .. }, Reply::Created(attr, _)) => {
                seen.push((*dir, name.clone(), attr.ino));
            }
            (Call::ReadDir { ino, .. }, Reply::Entries(entries)) => {
                let named = entries
                    .iter()
                    .map(|entry| (*ino, entry.name.clone(), entry.ino));
                seen.extend(named);
            }
            _ => {}
        }
        for (dir, name, ino) in seen {
            let named = self
                .nodes
                .get(&dir)
                .and_then(|node| node.entries.get(&name))
                .copied();
            if let Some(stand_in) = named
                && stand_in.0 > i64::MAX as u64
                && !self.nodes.contains_key(&ino)
            {
                self.rename_node(stand_in, ino);
            }
        }
    }

    fn rename_node(&mut self, from: Ino, to: Ino) {
        if let Some(node) = self.nodes.remove(&from) {
            self.nodes.insert(to, node);
        }
        let names_it =
            |node: &Node| node.parent == from || node.entries.values().any(|it| *it == from);
        for ino in self.nodes.those(names_it) {
            let node = self.nodes.get_mut(&ino).expect("listed just now");
            if node.parent == from {
                node.parent = to;
            }
            for entry in node.entries.values_mut().filter(|it| **it == from) {
                *entry = to;
            }
        }
    }

    fn note_open(&mut self, client: ClientId, call: &Call, reply: &Reply) {
        match (call, reply) {
            (Call::Open { ino, .. }, Reply::Opened(handle)) => {
                self.opens.insert((client, *handle), *ino);
            }
            (Call::Create { .. }, Reply::Created(attr, handle)) => {
                self.opens.insert((client, *handle), attr.ino);
            }
            (Call::Release { handle, .. }, _) => {
                self.opens.remove(&(client, *handle));
            }
            _ => {}
        }
    }

    fn carry_out(
        &mut self,
        client: ClientId,
        call: &Call,
        drawn: Option<Ino>,
    ) -> Result<Expected, FsError> {
        match call {
            Call::Lookup { dir, name } => {
                let ino = self.find(*dir, name)?;
                self.expect_attr(ino)
            }
            Call::GetAttr { ino } | Call::Revalidate { ino, .. } => self.expect_attr(*ino),
            Call::SetAttr { ino, set, size, .. } => self.set_attr(*ino, set, *size),
            Call::ReadLink { ino } => {
                let target = self.node(*ino)?.target.clone();
                Ok(Expected::Data(target))
            }
            Call::Make { dir, name, new } => {
                let ino = self.make(*dir, name, new, drawn)?;
                self.expect_attr(ino)
            }
            Call::Create {
                dir,
                name,
                new,
                flags,
            } => self.create(*dir, name, new, *flags, drawn),
            Call::Unlink { dir, name } => self.unlink(*dir, name),
            Call::RemoveDir { dir, name } => self.remove_dir(*dir, name),
            Call::Rename {
                dir,
                name,
                to_dir,
                to_name,
                mode,
            } => self.rename((*dir, name), (*to_dir, to_name), *mode),
            Call::Link {
                ino,
                to_dir,
                to_name,
            } => self.link(*ino, *to_dir, to_name),
            Call::Open { ino, flags } => self.open(*ino, *flags),
            Call::OpenDir { ino } => {
                self.directory(*ino)?;
                Ok(Expected::Opened)
            }
            Call::Read {
                ino, offset, size, ..
            } => {
                let node = self.node(*ino)?;
                if node.lost {
                    return Ok(Expected::AnyData);
                }
                let bytes = node.content.read(*offset, u64::from(*size));
                Ok(Expected::Data(bytes))
            }
            Call::Write {
                ino, offset, data, ..
            } => {
                let node = self.node_mut(*ino)?;
                let offset = offset.unwrap_or(node.content.len());
                node.write(offset, data);
                Ok(Expected::Written(data.len()))
            }
            Call::Allocate {
                ino,
                offset,
                len,
                mode,
                ..
            } => self.allocate(*ino, *offset, *len, *mode),
            Call::Release { .. } | Call::Flush { .. } => {
                self.free_locks(client, call);
                Ok(Expected::Done)
            }
            Call::Sync { .. } | Call::ReleaseDir { .. } => Ok(Expected::Done),
            Call::ReadDir {
                ino, cookie, limit, ..
            } => {
                let limit = (*cookie == Cookie::START).then_some(*limit);
                self.read_dir(*ino, limit)
            }
            Call::StatFs => Ok(Expected::Stats),
            Call::GetXattr { ino, name } => {
                let value = self
                    .node(*ino)?
                    .xattrs
                    .get(name)
                    .cloned()
                    .ok_or(FsError::NoData)?;
                Ok(Expected::Data(value))
            }
            Call::ListXattr { ino } => {
                let names: BTreeSet<Name> = self.node(*ino)?.xattrs.keys().cloned().collect();
                Ok(Expected::Names(names))
            }
            Call::SetXattr {
                ino,
                name,
                value,
                mode,
            } => {
                let xattrs = &mut self.node_mut(*ino)?.xattrs;
                match (mode, xattrs.contains_key(name)) {
                    (XattrMode::Create, true) => Err(FsError::Exists),
                    (XattrMode::Replace, false) => Err(FsError::NoData),
                    _ => {
                        xattrs.insert(name.clone(), value.to_vec());
                        Ok(Expected::Done)
                    }
                }
            }
            Call::RemoveXattr { ino, name } => {
                self.node_mut(*ino)?
                    .xattrs
                    .remove(name)
                    .ok_or(FsError::NoData)?;
                Ok(Expected::Done)
            }
            Call::TestLock { ino, owner, lock } => {
                let free = self.lock_in_the_way(client, *ino, *owner, *lock)?.is_none();
                Ok(Expected::Lock { free })
            }
            Call::SetLock {
                ino, owner, lock, ..
            } => self.set_lock(client, *ino, *owner, *lock),
            Call::Unlock {
                ino,
                owner,
                start,
                end,
            } => {
                self.unlock(client, *ino, *owner, *start, *end);
                Ok(Expected::Done)
            }
            // Where holes are is the filesystem's own affair; only that data is never called a hole is promised.
            Call::Seek { .. } => Ok(Expected::Offset),
        }
    }

    fn node(&self, ino: Ino) -> Result<&Node, FsError> {
        self.nodes.get(&ino).ok_or(FsError::NotFound)
    }

    fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, FsError> {
        self.nodes.get_mut(&ino).ok_or(FsError::NotFound)
    }

    fn directory(&self, ino: Ino) -> Result<&Node, FsError> {
        let node = self.node(ino)?;
        if node.kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        if node.nlink == 0 {
            return Err(FsError::NotFound);
        }
        Ok(node)
    }

    fn find(&self, dir: Ino, name: &[u8]) -> Result<Ino, FsError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        self.directory(dir)?
            .entries
            .get(name)
            .copied()
            .ok_or(FsError::NotFound)
    }

    fn expect_attr(&self, ino: Ino) -> Result<Expected, FsError> {
        let shown = self.shown(ino)?;
        Ok(Expected::Attr(shown))
    }

    /// Attributes that come beside an answer nobody called stat for: no flush recall is sent for them (P8), so what
    /// another mount has written and not committed need not show in the size. No program sees them: the kernel asks again
    /// before it shows a size (attributes time out at once, P11).
    fn expect_attr_beside(&self, ino: Ino) -> Result<Expected, FsError> {
        let shown = Shown {
            size: None,
            ..self.shown(ino)?
        };
        Ok(Expected::Attr(shown))
    }

    fn shown(&self, ino: Ino) -> Result<Shown, FsError> {
        let node = self.node(ino)?;
        let size = match node.kind {
            FileKind::Directory => None,
            FileKind::Symlink => Some(node.target.len() as u64),
            _ => (!node.lost).then(|| node.content.len()),
        };
        let ino = (ino.0 <= i64::MAX as u64).then_some(ino);
        let Node {
            kind,
            mode,
            uid,
            gid,
            nlink,
            ..
        } = *node;
        Ok(Shown {
            ino,
            kind,
            mode,
            uid,
            gid,
            nlink,
            size,
        })
    }

    fn make(
        &mut self,
        dir: Ino,
        name: &Name,
        new: &NewInode,
        drawn: Option<Ino>,
    ) -> Result<Ino, FsError> {
        match self.find(dir, name) {
            Ok(_) => return Err(FsError::Exists),
            Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let home = self.directory(dir)?;
        let inherits = home.mode & MODE_SGID != 0;
        let gid = if inherits { home.gid } else { new.gid };
        let is_dir = new.kind == FileKind::Directory;
        let mode = if inherits && is_dir {
            new.mode | MODE_SGID
        } else {
            new.mode
        };
        let ino = drawn.unwrap_or_else(|| {
            self.stand_ins += 1;
            Ino(STAND_IN - self.stand_ins)
        });
        let node = Node {
            mode,
            uid: new.uid,
            gid,
            target: new.target.to_vec(),
            ..Node::new(new.kind, dir)
        };
        if self.nodes.contains_key(&ino) {
            // A number that is in use can't have been drawn.
            return Err(FsError::Io);
        }
        self.nodes.insert(ino, node);
        self.insert(dir, name, ino);
        Ok(ino)
    }

    fn insert(&mut self, dir: Ino, name: &Name, ino: Ino) {
        let is_dir = self.nodes[&ino].kind == FileKind::Directory;
        let home = self.nodes.get_mut(&dir).expect("the directory was found");
        home.entries.insert(name.clone(), ino);
        home.nlink += u32::from(is_dir);
        if is_dir {
            self.nodes
                .get_mut(&ino)
                .expect("the inode was found")
                .parent = dir;
        }
    }

    fn remove(&mut self, dir: Ino, name: &Name) -> Ino {
        let home = self.nodes.get_mut(&dir).expect("the directory was found");
        let ino = home.entries.remove(name).expect("the entry was found");
        let is_dir = self.nodes[&ino].kind == FileKind::Directory;
        self.nodes
            .get_mut(&dir)
            .expect("the directory was found")
            .nlink -= u32::from(is_dir);
        ino
    }

    fn create(
        &mut self,
        dir: Ino,
        name: &Name,
        new: &NewInode,
        flags: OpenFlags,
        drawn: Option<Ino>,
    ) -> Result<Expected, FsError> {
        let ino = match self.find(dir, name) {
            Ok(_) if flags.exclusive => return Err(FsError::Exists),
            Ok(ino) => {
                match self.node(ino)?.kind {
                    FileKind::Regular => {}
                    FileKind::Directory => return Err(FsError::IsDirectory),
                    // The kernel looks again, and follows or opens what it finds itself.
                    _ => return Err(FsError::Stale),
                }
                if flags.truncate {
                    self.node_mut(ino)?.resize(0);
                }
                ino
            }
            Err(FsError::NotFound) => self.make(dir, name, new, drawn)?,
            Err(error) => return Err(error),
        };
        let mut shown = self.shown(ino)?;
        shown.size = shown.size.filter(|_| flags.truncate);
        Ok(Expected::Created(shown))
    }

    fn open(&mut self, ino: Ino, flags: OpenFlags) -> Result<Expected, FsError> {
        let node = self.node_mut(ino)?;
        match node.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            FileKind::Symlink => return Err(FsError::Loop),
            _ => return Err(FsError::NoSuchAddress),
        }
        if flags.truncate {
            node.resize(0);
        }
        Ok(Expected::Opened)
    }

    fn set_attr(
        &mut self,
        ino: Ino,
        set: &SetAttr,
        size: Option<u64>,
    ) -> Result<Expected, FsError> {
        let node = self.node_mut(ino)?;
        if let Some(size) = size {
            if node.kind == FileKind::Directory {
                return Err(FsError::IsDirectory);
            }
            node.resize(size);
        }
        if set.uid.is_some() || set.gid.is_some() {
            node.uid = set.uid.unwrap_or(node.uid);
            node.gid = set.gid.unwrap_or(node.gid);
            node.drop_set_id();
        }
        if let Some(mode) = set.mode {
            node.mode = mode;
        }
        match size {
            Some(_) => self.expect_attr(ino),
            None => self.expect_attr_beside(ino),
        }
    }

    fn unlink(&mut self, dir: Ino, name: &Name) -> Result<Expected, FsError> {
        let ino = self.find(dir, name)?;
        if self.node(ino)?.kind == FileKind::Directory {
            return Err(FsError::IsDirectory);
        }
        self.remove(dir, name);
        self.drop_link(ino);
        Ok(Expected::Done)
    }

    fn drop_link(&mut self, ino: Ino) {
        let node = self.nodes.get_mut(&ino).expect("the inode was found");
        node.nlink -= 1;
    }

    fn remove_dir(&mut self, dir: Ino, name: &Name) -> Result<Expected, FsError> {
        let ino = self.find(dir, name)?;
        let node = self.node(ino)?;
        if node.kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        if !node.entries.is_empty() {
            return Err(FsError::NotEmpty);
        }
        self.remove(dir, name);
        self.drop_dir(ino);
        Ok(Expected::Done)
    }

    fn drop_dir(&mut self, ino: Ino) {
        self.nodes.get_mut(&ino).expect("the inode was found").nlink = 0;
    }

    fn link(&mut self, ino: Ino, dir: Ino, name: &Name) -> Result<Expected, FsError> {
        let node = self.node(ino)?;
        if node.kind == FileKind::Directory {
            return Err(FsError::NotPermitted);
        }
        let orphan = node.nlink == 0;
        match self.find(dir, name) {
            Ok(_) => return Err(FsError::Exists),
            Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        self.directory(dir)?;
        if orphan {
            return Err(FsError::NotFound);
        }
        self.insert(dir, name, ino);
        self.node_mut(ino)?.nlink += 1;
        // link(2) shows no attributes. Those in the reply may have been asked for afterwards, of the region that has the
        // inode: they hold at a later moment than the link.
        Ok(Expected::Linked(ino))
    }

    fn is_below(&self, ino: Ino, ancestor: Ino) -> bool {
        let mut at = ino;
        loop {
            if at == ancestor {
                return true;
            }
            match self.nodes.get(&at) {
                Some(node) if node.parent != at => at = node.parent,
                _ => return false,
            }
        }
    }

    fn rename(
        &mut self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
    ) -> Result<Expected, FsError> {
        let source = self.find(from.0, from.1)?;
        let target = match self.find(to.0, to.1) {
            Ok(target) => Some(target),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        let is_dir = |tree: &Self, ino: Ino| tree.nodes[&ino].kind == FileKind::Directory;
        if self.directory(to.0).is_err() && is_dir(self, source) && self.is_below(to.0, source) {
            return Err(FsError::Invalid);
        }
        self.directory(to.0)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            _ => {}
        }
        if target == Some(source) {
            return Ok(Expected::Done);
        }
        if is_dir(self, source) && self.is_below(to.0, source) {
            return Err(FsError::Invalid);
        }
        if mode == RenameMode::Exchange {
            let target = target.expect("an exchange has a target");
            if is_dir(self, target) && self.is_below(from.0, target) {
                return Err(FsError::Invalid);
            }
            self.remove(from.0, from.1);
            self.remove(to.0, to.1);
            self.insert(from.0, from.1, target);
            self.insert(to.0, to.1, source);
            return Ok(Expected::Done);
        }
        if let Some(target) = target {
            match (is_dir(self, source), is_dir(self, target)) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                (true, true) if !self.nodes[&target].entries.is_empty() => {
                    return Err(FsError::NotEmpty);
                }
                _ => {}
            }
            self.remove(to.0, to.1);
        }
        self.remove(from.0, from.1);
        self.insert(to.0, to.1, source);
        if let Some(target) = target {
            if is_dir(self, target) {
                self.drop_dir(target)
            } else {
                self.drop_link(target)
            }
        }
        Ok(Expected::Done)
    }

    fn read_dir(&self, ino: Ino, limit: Option<u32>) -> Result<Expected, FsError> {
        let node = self.node(ino)?;
        if node.kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        Ok(Expected::Entries {
            entries: node.entries.clone(),
            limit,
        })
    }

    fn allocate(
        &mut self,
        ino: Ino,
        offset: u64,
        len: u64,
        mode: AllocateMode,
    ) -> Result<Expected, FsError> {
        let node = self.node_mut(ino)?;
        let (start, end) = (offset, offset + len);
        if node.lost {
            return Ok(Expected::Done);
        }
        if matches!(mode, AllocateMode::Extend | AllocateMode::Zero) && node.content.len() < end {
            node.content.resize(end);
        }
        if matches!(
            mode,
            AllocateMode::Punch | AllocateMode::Zero | AllocateMode::ZeroKeepSize
        ) {
            node.content.zero(start, end);
        }
        Ok(Expected::Done)
    }

    fn lock_in_the_way(
        &self,
        client: ClientId,
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
    ) -> Result<Option<LockRange>, FsError> {
        let held = self.node(ino)?.locks.iter().find(|(whose, who, held)| {
            (*whose, *who) != (client, owner)
                && held.start <= lock.end
                && lock.start <= held.end
                && (held.kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
        });
        Ok(held.map(|(_, _, held)| *held))
    }

    fn set_lock(
        &mut self,
        client: ClientId,
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
    ) -> Result<Expected, FsError> {
        if self.lock_in_the_way(client, ino, owner, lock)?.is_some() {
            return Err(FsError::WouldBlock);
        }
        self.unlock(client, ino, owner, lock.start, lock.end);
        self.node_mut(ino)?.locks.insert((client, owner, lock));
        Ok(Expected::Done)
    }

    fn unlock(&mut self, client: ClientId, ino: Ino, owner: LockOwner, start: u64, end: u64) {
        let Ok(node) = self.node_mut(ino) else { return };
        for (whose, who, held) in std::mem::take(&mut node.locks) {
            let hit = (whose, who) == (client, owner) && held.start <= end && start <= held.end;
            if !hit {
                node.locks.insert((whose, who, held));
                continue;
            }
            if held.start < start {
                node.locks.insert((
                    whose,
                    who,
                    LockRange {
                        end: start - 1,
                        ..held
                    },
                ));
            }
            if held.end > end {
                node.locks.insert((
                    whose,
                    who,
                    LockRange {
                        start: end + 1,
                        ..held
                    },
                ));
            }
        }
    }

    fn free_locks(&mut self, client: ClientId, call: &Call) {
        match call {
            Call::Flush { ino, owner, .. }
            | Call::Release {
                ino,
                owner: Some(owner),
                ..
            } => {
                self.unlock(client, *ino, *owner, 0, u64::MAX);
            }
            _ => {}
        }
    }
}
