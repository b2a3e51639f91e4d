//! What an inode is, as everybody outside its region sees it.
//!
//! Owns kinds, attributes and the changes that may be asked for. How a region stores them is `region::meta`'s business.

use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Fence, VolumeId};
use crate::place::{Ino, Salt};
use crate::time::Timestamp;

/// The name of a directory entry or an extended attribute: any bytes but '/' and zero.
pub type Name = Vec<u8>;

/// What kind of thing an inode is (POSIX `st_mode & S_IFMT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Set-user-id bit of a mode.
pub const MODE_SUID: u16 = 0o4000;
/// Set-group-id bit of a mode.
pub const MODE_SGID: u16 = 0o2000;
/// Group-execute bit of a mode: without it, set-group-id does not mean execution.
pub const MODE_GROUP_EXEC: u16 = 0o010;
/// All bits of a mode.
pub const MODE_ALL: u16 = 0o7777;

/// What stays of a mode when the content or the owner changes: set-id bits do not survive a change by somebody else's
/// hand (POSIX write, chown, truncate). They mean nothing of the kind on directories.
#[must_use]
pub const fn without_set_id(kind: FileKind, mode: u16) -> u16 {
    match kind {
        FileKind::Directory => mode,
        FileKind::Regular
        | FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => {
            if mode & MODE_GROUP_EXEC != 0 {
                mode & !(MODE_SUID | MODE_SGID)
            } else {
                mode & !MODE_SUID
            }
        }
    }
}

/// An inode's attributes (POSIX `struct stat`, and what a mount needs besides).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits: 0..=0o7777.
    pub mode: u16,
    /// Entries that name it; for a directory 2 + its subdirectories; 0 once it only lives because it is open.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Bytes; of a symbolic link its target's length; of a directory its number of entries.
    pub size: u64,
    /// Bytes of storage it holds, as far as the chunk map tells.
    pub allocated: u64,
    /// Last access (as relatime keeps it).
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Counts changes of this inode; rises with each.
    pub change: u64,
    /// The fence its data requests must carry.
    pub fence: Fence,
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// Of a directory: what keys the hashes of its names.
    pub salt: Salt,
    /// Of a directory: the directory it is in (a volume's root is its own).
    pub parent: Ino,
}

/// What a new inode starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInode {
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits, umask already taken off.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory passes its own on (set-group-id).
    pub gid: u32,
    /// Device number, of devices; else 0.
    pub rdev: u32,
    /// Target, of a symbolic link; else empty.
    pub target: Bytes,
}

/// A time to set: a given one, or that of the entry that sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The time of the change (UTIME_NOW).
    Now,
    /// This time.
    To(Timestamp),
}

/// Attributes to change; what is `None` stays. Size is not here: it is a change of content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// New permission bits.
    pub mode: Option<u16>,
    /// New owner; clears set-user-id and set-group-id of what is no directory (POSIX chown).
    pub uid: Option<u32>,
    /// New group; as for the owner.
    pub gid: Option<u32>,
    /// New time of last access.
    pub atime: Option<SetTime>,
    /// New time of last change of content.
    pub mtime: Option<SetTime>,
    /// The caller may not keep set-group-id with the group it asks for (neither a member nor privileged).
    pub clear_sgid: bool,
}
