//! The kernel's requests, one by one.
//!
//! Owns the translation of each request into a call and of its outcome into the reply. Nothing here waits: the reply
//! travels with the call and is sent by whoever completes it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use polyfs_core::attr::{FileKind, NewInode, SetAttr};
use polyfs_core::error::FsError;
use polyfs_core::limits::NAME_BYTES_MAX;
use polyfs_core::vfs::{AllocateMode, Call, DirEntry, Handle, Reply, SeekWhat};

use crate::calls::{Adapter, KEEP, add_plus, failure, handle, is_acl, new_inode, owner, too_long};
use crate::convert;
use crate::errno::errno;

/// The kernel writes at most this much in one request.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Requests the kernel may have in the background (read-ahead, asynchronous I/O).
const BACKGROUND_MAX: u16 = 64;

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            // Regions drop privileges with every change of content or owner; without it each write asks for an xattr.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "this kernel does not offer a capability");
            }
        }
        // What the kernel refuses it replaces by the nearest it accepts.
        if let Err(nearest) = config.set_max_write(WRITE_BYTES_MAX) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_background(BACKGROUND_MAX) {
            let _ = config.set_max_background(nearest);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if too_long(name) {
            return reply.error(Errno::ENAMETOOLONG);
        }
        self.find(parent, name, reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, _nlookup: u64) {
        self.known.forgotten(ino);
    }

    /// The kernel names an open file only before it reads what it caches, and to find the end (lseek); stat(2) and
    /// fstat(2) come without.
    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.look(ino, fh, reply);
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| convert::permissions(mode, 0)),
            uid,
            gid,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            clear_sgid: false,
        };
        let ino = self.numbers.ino(ino);
        self.attr(
            Call::SetAttr {
                ino,
                set,
                size,
                handle: fh.map(handle),
            },
            reply,
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.data(
            Call::ReadLink {
                ino: self.numbers.ino(ino),
            },
            reply,
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = convert::kind_of_mode(mode) else {
            return reply.error(Errno::EINVAL);
        };
        let new = NewInode {
            rdev,
            ..new_inode(request, kind, convert::permissions(mode, umask))
        };
        self.make(parent, name, new, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = convert::permissions(mode, umask);
        self.make(
            parent,
            name,
            new_inode(request, FileKind::Directory, mode),
            reply,
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (dir, name) = (self.numbers.ino(parent), name.as_bytes().to_vec());
        self.empty(Call::Unlink { dir, name }, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (dir, name) = (self.numbers.ino(parent), name.as_bytes().to_vec());
        self.empty(Call::RemoveDir { dir, name }, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let new = NewInode {
            target,
            ..new_inode(request, FileKind::Symlink, 0o777)
        };
        self.make(parent, link_name, new, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::rename_mode(flags) else {
            return reply.error(Errno::EINVAL);
        };
        let (dir, to_dir) = (self.numbers.ino(parent), self.numbers.ino(newparent));
        let (name, to_name) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.empty(
            Call::Rename {
                dir,
                name,
                to_dir,
                to_name,
                mode,
            },
            reply,
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (ino, to_dir) = (self.numbers.ino(ino), self.numbers.ino(newparent));
        self.entry(
            Call::Link {
                ino,
                to_dir,
                to_name: newname.as_bytes().to_vec(),
            },
            reply,
        );
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let call = Call::Open {
            ino: self.numbers.ino(ino),
            flags: convert::open_flags(flags.0),
        };
        let client = self.client.clone();
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Opened(opened)) => {
                let keep = if client.keeps_pages(opened) {
                    FopenFlags::FOPEN_KEEP_CACHE
                } else {
                    FopenFlags::empty()
                };
                reply.opened(FileHandle(opened.0), keep);
            }
            other => reply.error(failure(other)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let numbers = self.numbers;
        let call = Call::Create {
            dir: numbers.ino(parent),
            name: name.as_bytes().to_vec(),
            new: new_inode(
                request,
                FileKind::Regular,
                convert::permissions(mode, umask),
            ),
            flags: convert::open_flags(flags),
        };
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Created(attr, Handle(fh))) => {
                let (attr, fh) = (numbers.attr(&attr), FileHandle(fh));
                reply.created(&KEEP, &attr, Generation(0), fh, FopenFlags::empty());
            }
            other => reply.error(failure(other)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let ino = self.numbers.ino(ino);
        self.data(
            Call::Read {
                ino,
                handle: handle(fh),
                offset,
                size,
            },
            reply,
        );
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (ino, data) = (self.numbers.ino(ino), Bytes::copy_from_slice(data));
        // What comes from the page cache has its place, whoever's descriptor the kernel names with it.
        let from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let appends = !from_cache && convert::open_flags(flags.0).append;
        let call = Call::Write {
            ino,
            handle: handle(fh),
            offset: (!appends).then_some(offset),
            data,
        };
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Written(bytes)) => reply.written(bytes),
            other => reply.error(failure(other)),
        });
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.known.named(ino);
        let ino = self.numbers.ino(ino);
        self.empty(
            Call::Flush {
                ino,
                handle: handle(fh),
                owner: owner(lock_owner),
            },
            reply,
        );
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let ino = self.numbers.ino(ino);
        let call = Call::Release {
            ino,
            handle: handle(fh),
            owner: lock_owner.map(owner),
        };
        self.empty(call, reply);
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(
            Call::Sync {
                ino: self.numbers.ino(ino),
                handle: Some(handle(fh)),
                data_only: datasync,
            },
            reply,
        );
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, ino, fh, datasync, reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.call(
            Call::OpenDir {
                ino: self.numbers.ino(ino),
            },
            move |outcome| match outcome {
                Ok(Reply::Opened(Handle(fh))) => reply.opened(FileHandle(fh), FopenFlags::empty()),
                other => reply.error(failure(other)),
            },
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let numbers = self.numbers;
        let place = (ino, fh, offset);
        let add = move |reply: &mut ReplyDirectory, entry: &DirEntry| {
            reply.add(
                numbers.number(entry.ino),
                entry.cookie.0,
                convert::file_type(entry.kind),
                OsStr::from_bytes(&entry.name),
            )
        };
        self.list(place, false, move |listed| match listed {
            Ok(listed) => {
                listed.into(|entry| add(&mut reply, entry));
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let numbers = self.numbers;
        self.list((ino, fh, offset), true, move |listed| match listed {
            Ok(listed) => {
                listed.into(|entry| add_plus(&mut reply, numbers, entry));
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.closed(fh);
        self.empty(Call::ReleaseDir { handle: handle(fh) }, reply);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.call(Call::StatFs, move |outcome| match outcome {
            Ok(Reply::Stats(stats)) => {
                let (total, free) = (stats.bytes_total / 4096, stats.bytes_free / 4096);
                let room = u64::from(u32::MAX);
                let name = u32::try_from(NAME_BYTES_MAX).expect("names are short");
                reply.statfs(
                    total,
                    free,
                    free,
                    stats.inodes_used + room,
                    room,
                    4096,
                    name,
                    4096,
                );
            }
            other => reply.error(failure(other)),
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::xattr_mode(flags) else {
            return reply.error(Errno::EINVAL);
        };
        if is_acl(name) {
            return reply.error(errno(FsError::Unsupported));
        }
        let (ino, name) = (self.numbers.ino(ino), name.as_bytes().to_vec());
        self.empty(
            Call::SetXattr {
                ino,
                name,
                value: Bytes::copy_from_slice(value),
                mode,
            },
            reply,
        );
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        if is_acl(name) {
            return reply.error(errno(FsError::Unsupported));
        }
        let (ino, name) = (self.numbers.ino(ino), name.as_bytes().to_vec());
        self.xattr(Call::GetXattr { ino, name }, size, reply);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.xattr(
            Call::ListXattr {
                ino: self.numbers.ino(ino),
            },
            size,
            reply,
        );
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (ino, name) = (self.numbers.ino(ino), name.as_bytes().to_vec());
        self.empty(Call::RemoveXattr { ino, name }, reply);
    }

    fn getlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(lock) = convert::lock_range(start, end, typ, pid) else {
            return reply.error(Errno::EINVAL);
        };
        let (ino, owner) = (self.numbers.ino(ino), owner(lock_owner));
        self.call(
            Call::TestLock { ino, owner, lock },
            move |outcome| match outcome {
                Ok(Reply::Lock(None)) => reply.locked(start, end, libc::F_UNLCK, 0),
                Ok(Reply::Lock(Some(held))) => {
                    reply.locked(
                        held.start,
                        held.end,
                        convert::lock_type(held.kind),
                        held.pid,
                    );
                }
                other => reply.error(failure(other)),
            },
        );
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (ino, owner) = (self.numbers.ino(ino), owner(lock_owner));
        match convert::lock_range(start, end, typ, pid) {
            None => self.empty(
                Call::Unlock {
                    ino,
                    owner,
                    start,
                    end,
                },
                reply,
            ),
            Some(lock) => {
                let call = Call::SetLock {
                    ino,
                    owner,
                    lock,
                    wait: sleep,
                };
                self.lock(call, request.pid(), sleep, reply);
            }
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::allocate_mode(mode) else {
            return reply.error(errno(FsError::Unsupported));
        };
        let ino = self.numbers.ino(ino);
        let call = Call::Allocate {
            ino,
            handle: handle(fh),
            offset,
            len: length,
            mode,
        };
        match mode {
            AllocateMode::Punch => self.empty(call, reply),
            AllocateMode::Extend
            | AllocateMode::KeepSize
            | AllocateMode::Zero
            | AllocateMode::ZeroKeepSize => self.allocate(ino, length, call, reply),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => SeekWhat::Data,
            libc::SEEK_HOLE => SeekWhat::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let ino = self.numbers.ino(ino);
        let call = Call::Seek {
            ino,
            handle: handle(fh),
            offset,
            what,
        };
        self.call(call, move |outcome| match outcome {
            Ok(Reply::Offset(found)) => match i64::try_from(found) {
                Ok(found) => reply.offset(found),
                Err(_) => reply.error(Errno::EOVERFLOW),
            },
            other => reply.error(failure(other)),
        });
    }
}
