//! The calls a mount makes: what the kernel asks of a filesystem, in inodes and names.
//!
//! Owns the vocabulary that the FUSE adapter, the client, the reference filesystem and every workload share. It speaks
//! of one mounted tree; it deliberately knows no region, replica, lease or message.

use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attr::{Attr, FileKind, Name, NewInode, SetAttr};
use crate::error::FsError;
use crate::place::{Cookie, Ino};

/// An open file or directory of one mount, given out by its client; never reused while the mount lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handle(pub u64);

/// Whose lock it is inside one mount, as the kernel says: a process for fcntl, an open file for flock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockOwner(pub u64);

/// How a file is opened (the part of open(2)'s flags that matters here).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFlags {
    /// Reading is allowed.
    pub read: bool,
    /// Writing is allowed.
    pub write: bool,
    /// Each write goes to the end (O_APPEND).
    pub append: bool,
    /// Cut to nothing when opened (O_TRUNC).
    pub truncate: bool,
    /// Each write is durable when it returns (O_SYNC, O_DSYNC).
    pub sync: bool,
    /// Bypass caches (O_DIRECT).
    pub direct: bool,
    /// Of create: fail when the name exists (O_EXCL).
    pub exclusive: bool,
}

/// What to do when the target of a rename exists (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it (POSIX rename).
    Replace,
    /// Fail (RENAME_NOREPLACE).
    NoReplace,
    /// Swap the two (RENAME_EXCHANGE).
    Exchange,
}

/// How an extended attribute is set (setxattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Fail when it exists (XATTR_CREATE).
    Create,
    /// Fail when it doesn't (XATTR_REPLACE).
    Replace,
}

/// What fallocate(2) does to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllocateMode {
    /// Reserve space and extend the size.
    Extend,
    /// Reserve space only (FALLOC_FL_KEEP_SIZE).
    KeepSize,
    /// Make a hole (FALLOC_FL_PUNCH_HOLE | KEEP_SIZE).
    Punch,
    /// Make zeros (FALLOC_FL_ZERO_RANGE), extending the size.
    Zero,
    /// Make zeros and keep the size.
    ZeroKeepSize,
}

/// Kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// Shared with other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// A lock on a range of a file, both ends included (end `u64::MAX` means to the end, however it grows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Shared or exclusive.
    pub kind: LockKind,
    /// The process that asked, for F_GETLK.
    pub pid: u32,
}

/// Which way lseek(2) looks for data or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeekWhat {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// One call of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are the system calls' own arguments"
)]
pub enum Call {
    /// Finds a name in a directory ("." and ".." never arrive here).
    Lookup { dir: Ino, name: Name },
    /// stat(2).
    GetAttr { ino: Ino },
    /// Before cached bytes of an open file are read: its size and times as this mount knows them, its names and
    /// permissions perhaps as they were.
    Revalidate { ino: Ino, handle: Handle },
    /// chmod, chown, utimens; with `size` also truncate.
    SetAttr {
        ino: Ino,
        set: SetAttr,
        size: Option<u64>,
        handle: Option<Handle>,
    },
    /// readlink(2).
    ReadLink { ino: Ino },
    /// mknod, mkdir, symlink: a new inode that is not opened. Fails when the name exists.
    Make { dir: Ino, name: Name, new: NewInode },
    /// unlink(2).
    Unlink { dir: Ino, name: Name },
    /// rmdir(2).
    RemoveDir { dir: Ino, name: Name },
    /// renameat2(2).
    Rename {
        dir: Ino,
        name: Name,
        to_dir: Ino,
        to_name: Name,
        mode: RenameMode,
    },
    /// link(2).
    Link {
        ino: Ino,
        to_dir: Ino,
        to_name: Name,
    },
    /// open(2) of what exists.
    Open { ino: Ino, flags: OpenFlags },
    /// open(2) with O_CREAT.
    Create {
        dir: Ino,
        name: Name,
        new: NewInode,
        flags: OpenFlags,
    },
    /// pread(2).
    Read {
        ino: Ino,
        handle: Handle,
        offset: u64,
        size: u32,
    },
    /// pwrite(2); without an offset at the end of the file. Whether a write appends is said with each: O_APPEND may be set
    /// and cleared while a file is open (fcntl(2)), and what is written through a mapping has its place.
    Write {
        ino: Ino,
        handle: Handle,
        offset: Option<u64>,
        data: Bytes,
    },
    /// close(2) of one descriptor: frees the owner's locks, starts writing back.
    Flush {
        ino: Ino,
        handle: Handle,
        owner: LockOwner,
    },
    /// The last descriptor is gone.
    Release {
        ino: Ino,
        handle: Handle,
        owner: Option<LockOwner>,
    },
    /// fsync(2), fdatasync(2); on a directory too. Says once for each handle what went wrong since; who names none hears
    /// it for all of them.
    Sync {
        ino: Ino,
        handle: Option<Handle>,
        data_only: bool,
    },
    /// opendir(3).
    OpenDir { ino: Ino },
    /// getdents(2) after `cookie`; at most `limit` entries; with attributes when `plus`.
    ReadDir {
        ino: Ino,
        handle: Handle,
        cookie: Cookie,
        limit: u32,
        plus: bool,
    },
    /// closedir(3).
    ReleaseDir { handle: Handle },
    /// statfs(2).
    StatFs,
    /// getxattr(2).
    GetXattr { ino: Ino, name: Name },
    /// listxattr(2).
    ListXattr { ino: Ino },
    /// setxattr(2).
    SetXattr {
        ino: Ino,
        name: Name,
        value: Bytes,
        mode: XattrMode,
    },
    /// removexattr(2).
    RemoveXattr { ino: Ino, name: Name },
    /// F_GETLK.
    TestLock {
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
    },
    /// F_SETLK, F_SETLKW, flock(2); without `wait` a held lock is `WouldBlock`.
    SetLock {
        ino: Ino,
        owner: LockOwner,
        lock: LockRange,
        wait: bool,
    },
    /// F_UNLCK.
    Unlock {
        ino: Ino,
        owner: LockOwner,
        start: u64,
        end: u64,
    },
    /// fallocate(2).
    Allocate {
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: AllocateMode,
    },
    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    Seek {
        ino: Ino,
        handle: Handle,
        offset: u64,
        what: SeekWhat,
    },
}

/// One directory entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// Where readdir goes on after it.
    pub cookie: Cookie,
    /// Its name.
    pub name: Name,
    /// What it names.
    pub ino: Ino,
    /// What kind that is.
    pub kind: FileKind,
    /// Its attributes, when they were asked for and the entry still names it.
    pub attr: Option<Attr>,
}

/// What statfs(2) tells, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsStats {
    /// Bytes the cluster can hold, replicas taken into account.
    pub bytes_total: u64,
    /// Bytes of these that are free.
    pub bytes_free: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// The answer to a call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// Of lookup, make, link: the inode. Of getattr, setattr: its attributes now.
    Attr(Attr),
    /// Of open and opendir.
    Opened(Handle),
    /// Of create.
    Created(Attr, Handle),
    /// Of read, readlink, getxattr: at most as many bytes as were asked for.
    Data(Bytes),
    /// Of write: how many bytes were taken.
    Written(u32),
    /// Of readdir: empty at the end.
    Entries(Vec<DirEntry>),
    /// Of listxattr.
    Names(Vec<Name>),
    /// Of F_GETLK: a lock in the way, or none.
    Lock(Option<LockRange>),
    /// Of seek.
    Offset(u64),
    /// Of statfs.
    Stats(FsStats),
}

/// What a call ends with.
pub type Outcome = Result<Reply, FsError>;
