//! Between the kernel's types and ours.
//!
//! Owns the mapping of inode numbers: FUSE calls the root 1, a volume's root is an ordinary number (P4). The two are
//! swapped, so that the mapping stays one to one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use polyfs_core::attr::{Attr, FileKind, SetTime};
use polyfs_core::place::Ino;
use polyfs_core::time::Timestamp;
use polyfs_core::vfs::{AllocateMode, LockKind, LockRange, OpenFlags, RenameMode, XattrMode};

/// Swaps the volume's root and number 1.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) root: Ino,
}

impl Numbers {
    /// The inode the kernel means.
    pub(crate) fn ino(self, number: INodeNo) -> Ino {
        Ino(self.swap(number.0))
    }
    /// What the kernel calls an inode.
    pub(crate) fn number(self, ino: Ino) -> INodeNo {
        INodeNo(self.swap(ino.0))
    }
    fn swap(self, number: u64) -> u64 {
        match number {
            1 => self.root.0,
            root if root == self.root.0 => 1,
            other => other,
        }
    }
    /// Attributes as the kernel wants them.
    pub(crate) fn attr(self, attr: &Attr) -> FileAttr {
        FileAttr {
            ino: self.number(attr.ino),
            size: attr.size,
            blocks: attr.allocated.div_ceil(512),
            atime: system_time(attr.atime),
            mtime: system_time(attr.mtime),
            ctime: system_time(attr.ctime),
            crtime: system_time(attr.btime),
            kind: file_type(attr.kind),
            perm: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Attributes of an entry whose inode was not looked at: only number and kind mean anything.
pub(crate) fn bare(number: INodeNo, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: number,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// What the kernel calls a kind.
pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in a mode of mknod(2); none for what is no kind of inode.
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Some(FileKind::Regular),
        libc::S_IFDIR => Some(FileKind::Directory),
        libc::S_IFLNK => Some(FileKind::Symlink),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

/// The permission bits of a mode, less the umask.
pub(crate) fn permissions(mode: u32, umask: u32) -> u16 {
    u16::try_from(mode & !umask & 0o7777).expect("twelve bits fit sixteen")
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|base| base.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Timestamp {
                    seconds: -seconds,
                    nanos: 0,
                },
                nanos => Timestamp {
                    seconds: -seconds - 1,
                    nanos: 1_000_000_000 - nanos,
                },
            }
        }
    }
}

/// A time to set.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(timestamp(time)),
    }
}

/// The flags of open(2) that matter here.
pub(crate) fn open_flags(flags: i32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access == libc::O_RDONLY || access == libc::O_RDWR,
        write: access == libc::O_WRONLY || access == libc::O_RDWR,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        sync: flags & (libc::O_SYNC | libc::O_DSYNC) != 0,
        direct: flags & libc::O_DIRECT != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

/// What renameat2(2) is to do; none for flags nobody supports.
pub(crate) fn rename_mode(flags: fuser::RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == fuser::RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == fuser::RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

/// What setxattr(2) is to do; none for flags nobody supports.
pub(crate) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    match flags {
        0 => Some(XattrMode::Set),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        _ => None,
    }
}

/// What fallocate(2) is to do; none for modes that are not supported.
pub(crate) fn allocate_mode(mode: i32) -> Option<AllocateMode> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP;
    match mode {
        0 => Some(AllocateMode::Extend),
        KEEP => Some(AllocateMode::KeepSize),
        PUNCH => Some(AllocateMode::Punch),
        ZERO => Some(AllocateMode::Zero),
        ZERO_KEEP => Some(AllocateMode::ZeroKeepSize),
        _ => None,
    }
}

/// A lock to take or look for; none for one that is to be given up (F_UNLCK).
pub(crate) fn lock_range(start: u64, end: u64, typ: i32, pid: u32) -> Option<LockRange> {
    let kind = match typ {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        _ => return None,
    };
    Some(LockRange {
        start,
        end,
        kind,
        pid,
    })
}

/// What the kernel calls a kind of lock.
pub(crate) fn lock_type(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polyfs_core::place::Place;

    #[test]
    fn the_root_and_number_one_change_places_and_nothing_else_does() {
        let numbers = Numbers {
            root: Ino::new(Place(77), 5),
        };
        assert_eq!(numbers.number(numbers.root), INodeNo(1));
        assert_eq!(numbers.ino(INodeNo(1)), numbers.root);
        assert_eq!(numbers.number(Ino(1)), INodeNo(numbers.root.0));
        for number in [0, 1, 2, 5, numbers.root.0, u64::MAX] {
            assert_eq!(
                numbers.number(numbers.ino(INodeNo(number))),
                INodeNo(number)
            );
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for seconds in [-2, -1, 0, 1, 4_000_000_000] {
            for nanos in [0, 1, 999_999_999] {
                let time = Timestamp { seconds, nanos };
                assert_eq!(timestamp(system_time(time)), time);
            }
        }
    }
}
