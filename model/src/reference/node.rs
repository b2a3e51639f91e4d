//! One inode of the reference filesystem, and what of it shows.
//!
//! Owns what writing, cutting and showing an inode mean. The tree is [`super`]'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Index;
use std::sync::Arc;

use polyfs_core::attr::{Attr, FileKind, MODE_GROUP_EXEC, MODE_SGID, MODE_SUID, Name};
use polyfs_core::place::Ino;
use polyfs_core::vfs::{LockOwner, LockRange};

use crate::content::Content;
use crate::history::ClientId;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) parent: Ino,
    pub(super) entries: BTreeMap<Name, Ino>,
    pub(super) content: Content,
    /// Writes were lost in part: nobody can tell its content and size until it is cut to nothing.
    pub(super) lost: bool,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: BTreeMap<Name, Vec<u8>>,
    pub(super) locks: BTreeSet<(ClientId, LockOwner, LockRange)>,
}

/// The attributes that a local filesystem would promise; times are judged elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) ino: Option<Ino>,
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) size: Option<u64>,
}

impl Shown {
    pub(super) fn is(&self, attr: &Attr) -> bool {
        self.ino.is_none_or(|ino| ino == attr.ino)
            && (self.kind, self.mode, self.uid, self.gid)
                == (attr.kind, attr.mode, attr.uid, attr.gid)
            && self.nlink == attr.nlink
            && self.size.is_none_or(|size| size == attr.size)
    }
}

impl Node {
    pub(super) fn new(kind: FileKind, parent: Ino) -> Self {
        Self {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            parent,
            entries: BTreeMap::new(),
            content: Content::default(),
            lost: false,
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            locks: BTreeSet::new(),
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        if !self.lost {
            self.content.write(offset, data);
        }
        self.drop_set_id();
    }

    pub(super) fn resize(&mut self, size: u64) {
        self.lost &= size > 0;
        if !self.lost {
            self.content.resize(size);
        }
        self.drop_set_id();
    }

    /// Uncommitted writes were lost; what of them is there is not known.
    pub(super) fn lose(&mut self) {
        if self.kind == FileKind::Regular {
            self.lost = true;
            self.content = Content::default();
        }
    }

    /// Set-id bits do not survive a change by whoever is not the owner's program (POSIX write, chown).
    pub(super) fn drop_set_id(&mut self) {
        if self.kind != FileKind::Directory {
            self.mode &= !MODE_SUID;
            if self.mode & MODE_GROUP_EXEC != 0 {
                self.mode &= !MODE_SGID;
            }
        }
    }
}

/// All inodes. Trees that the checker tries are copies of each other: what two have in common is shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Nodes(BTreeMap<Ino, Arc<Node>>);

impl Nodes {
    pub(super) fn of(ino: Ino, node: Node) -> Self {
        Self(BTreeMap::from([(ino, Arc::new(node))]))
    }

    pub(super) fn get(&self, ino: &Ino) -> Option<&Node> {
        self.0.get(ino).map(AsRef::as_ref)
    }

    pub(super) fn get_mut(&mut self, ino: &Ino) -> Option<&mut Node> {
        self.0.get_mut(ino).map(Arc::make_mut)
    }

    pub(super) fn contains_key(&self, ino: &Ino) -> bool {
        self.0.contains_key(ino)
    }

    pub(super) fn insert(&mut self, ino: Ino, node: Node) {
        self.0.insert(ino, Arc::new(node));
    }

    pub(super) fn remove(&mut self, ino: &Ino) -> Option<Node> {
        self.0.remove(ino).map(Arc::unwrap_or_clone)
    }

    /// The numbers of those that fit.
    pub(super) fn those(&self, fits: impl Fn(&Node) -> bool) -> Vec<Ino> {
        let those = self.0.iter().filter(|(_, node)| fits(node));
        those.map(|(ino, _)| *ino).collect()
    }
}

impl Index<&Ino> for Nodes {
    type Output = Node;

    fn index(&self, ino: &Ino) -> &Node {
        self.get(ino).expect("an inode that is known")
    }
}
