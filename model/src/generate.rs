//! Calls for a workload: drawn at random, but so that most of them hit something.
//!
//! Owns the mix. What exists is learnt from outcomes; a call picks one of the known things by a random number, so that
//! few steps are wasted. Names are few, so that clients meet.

use bytes::Bytes;
use rand::{Rng, RngExt as _};

use polyfs_core::attr::{FileKind, NewInode, SetAttr};
use polyfs_core::place::{Cookie, Ino};
use polyfs_core::vfs::{
    AllocateMode, Call, Handle, LockKind, LockOwner, LockRange, OpenFlags, Outcome, RenameMode,
    Reply, XattrMode,
};

/// Names that calls use.
const NAMES: u32 = 6;
/// Directories remembered.
const DIRS_MAX: usize = 6;
/// Open files at a time.
const OPEN_MAX: usize = 6;

/// An open file, and whether what is written to it is appended.
type Opened = (Ino, Handle, bool);

/// What one client knows, and what it does next.
#[derive(Clone, Debug)]
pub struct Workload {
    dirs: Vec<Ino>,
    files: Vec<Ino>,
    open: Vec<Opened>,
    /// How large files get, in bytes: small ones stay inline, larger ones have chunks.
    size_max: u64,
}

impl Workload {
    /// A client that knows the root.
    #[must_use]
    pub fn new(root: Ino, size_max: u64) -> Self {
        Self {
            dirs: vec![root],
            files: Vec::new(),
            open: Vec::new(),
            size_max,
        }
    }

    /// Learns from how a call ended.
    pub fn learn(&mut self, call: &Call, outcome: &Outcome) {
        match (call, outcome) {
            (_, Ok(Reply::Created(attr, handle))) => {
                self.know(attr.ino, attr.kind);
                // A create may meet a symbolic link; the kernel does not give that to its caller.
                if attr.kind == FileKind::Regular {
                    let appends = matches!(call, Call::Create { flags, .. } if flags.append);
                    self.open.push((attr.ino, *handle, appends));
                }
            }
            (Call::Lookup { .. } | Call::Make { .. }, Ok(Reply::Attr(attr))) => {
                self.know(attr.ino, attr.kind);
            }
            (Call::Open { ino, flags }, Ok(Reply::Opened(handle))) => {
                self.open.push((*ino, *handle, flags.append));
            }
            _ => {}
        }
    }

    fn know(&mut self, ino: Ino, kind: FileKind) {
        let (known, max) = match kind {
            FileKind::Directory => (&mut self.dirs, DIRS_MAX),
            FileKind::Regular => (&mut self.files, 16),
            // Nothing else is ever opened through the filesystem: the kernel does that itself.
            _ => return,
        };
        if !known.contains(&ino) {
            known.push(ino);
            if known.len() > max {
                // The root stays.
                known.remove(1);
            }
        }
    }

    /// The next call.
    pub fn next(&mut self, random: &mut impl Rng) -> Call {
        if self.open.len() > OPEN_MAX {
            let (ino, handle, _) = self.open.remove(0);
            return Call::Release {
                ino,
                handle,
                owner: None,
            };
        }
        if !self.open.is_empty() && random.random_ratio(1, 2) {
            return self.on_open_file(random);
        }
        if !self.files.is_empty() && random.random_ratio(1, 4) {
            return self.on_file(random);
        }
        if random.random_ratio(1, 3) {
            return self.look(random);
        }
        self.on_names(random)
    }

    /// What programs do most: look up names and stat what they name, in few places, again and again.
    fn look(&self, random: &mut impl Rng) -> Call {
        let dir = self.dir(random);
        match random.random_range(0..4) {
            0 | 1 => Call::Lookup {
                dir,
                name: name(random),
            },
            2 => Call::GetAttr { ino: dir },
            _ if self.files.is_empty() => Call::GetAttr { ino: dir },
            _ => Call::GetAttr {
                ino: pick(&self.files, random),
            },
        }
    }

    fn dir(&self, random: &mut impl Rng) -> Ino {
        // The root is as likely as all others together: that is where clients meet.
        if random.random_ratio(1, 2) {
            self.dirs[0]
        } else {
            pick(&self.dirs, random)
        }
    }

    fn on_names(&self, random: &mut impl Rng) -> Call {
        let (dir, name) = (self.dir(random), name(random));
        match random.random_range(0..100) {
            0..25 => {
                let exclusive = random.random_ratio(1, 3);
                let flags = OpenFlags {
                    read: true,
                    write: true,
                    exclusive,
                    ..open_flags(random)
                };
                Call::Create {
                    dir,
                    name,
                    new: new(FileKind::Regular, random),
                    flags,
                }
            }
            25..40 => Call::Lookup { dir, name },
            40..50 => Call::Make {
                dir,
                name,
                new: new(FileKind::Directory, random),
            },
            50..54 => Call::Make {
                dir,
                name,
                new: new(FileKind::Symlink, random),
            },
            54..68 => Call::Unlink { dir, name },
            68..74 => Call::RemoveDir { dir, name },
            74..90 => {
                let mode = match random.random_range(0..6) {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                let (to_dir, to_name) = (self.dir(random), self::name(random));
                Call::Rename {
                    dir,
                    name,
                    to_dir,
                    to_name,
                    mode,
                }
            }
            90..95 if !self.files.is_empty() => Call::Link {
                ino: pick(&self.files, random),
                to_dir: dir,
                to_name: name,
            },
            _ => {
                let (handle, cookie) = (Handle(0), Cookie::START);
                Call::ReadDir {
                    ino: dir,
                    handle,
                    cookie,
                    limit: 1000,
                    plus: random.random(),
                }
            }
        }
    }

    fn on_file(&self, random: &mut impl Rng) -> Call {
        let ino = pick(&self.files, random);
        match random.random_range(0..10) {
            0..4 => Call::GetAttr { ino },
            4 => {
                let mode = Some(random.random_range(0..0o1000));
                let set = SetAttr {
                    mode,
                    ..SetAttr::default()
                };
                Call::SetAttr {
                    ino,
                    set,
                    size: None,
                    handle: None,
                }
            }
            5 => {
                let (name, mode) = (b"user.x".to_vec(), XattrMode::Set);
                Call::SetXattr {
                    ino,
                    name,
                    value: bytes(random, 8),
                    mode,
                }
            }
            6 => Call::GetXattr {
                ino,
                name: b"user.x".to_vec(),
            },
            7 => Call::ListXattr { ino },
            _ => Call::Open {
                ino,
                flags: OpenFlags {
                    read: true,
                    write: true,
                    ..open_flags(random)
                },
            },
        }
    }

    fn on_open_file(&mut self, random: &mut impl Rng) -> Call {
        let at = random.random_range(0..self.open.len());
        let (ino, handle, appends) = self.open[at];
        let offset = random.random_range(0..self.size_max);
        match random.random_range(0..100) {
            0..35 => {
                let len = random.random_range(1..=(self.size_max / 4).clamp(1, 4096));
                Call::Write {
                    ino,
                    handle,
                    offset: (!appends).then_some(offset),
                    data: bytes(random, len),
                }
            }
            35..65 => Call::Read {
                ino,
                handle,
                offset,
                size: 4096,
            },
            65..73 => Call::Sync {
                ino,
                handle: Some(handle),
                data_only: random.random(),
            },
            73..80 => {
                let size = Some(random.random_range(0..self.size_max));
                Call::SetAttr {
                    ino,
                    set: SetAttr::default(),
                    size,
                    handle: Some(handle),
                }
            }
            80..84 => {
                let mode = match random.random_range(0..3) {
                    0 => AllocateMode::Punch,
                    1 => AllocateMode::Zero,
                    _ => AllocateMode::Extend,
                };
                let len = random.random_range(1..=self.size_max);
                Call::Allocate {
                    ino,
                    handle,
                    offset,
                    len,
                    mode,
                }
            }
            84..90 => {
                let (owner, lock) = (LockOwner(handle.0), lock(random));
                Call::SetLock {
                    ino,
                    owner,
                    lock,
                    wait: false,
                }
            }
            90..93 => {
                let start = random.random_range(0..8);
                Call::Unlock {
                    ino,
                    owner: LockOwner(handle.0),
                    start,
                    end: start + 4,
                }
            }
            _ => {
                self.open.remove(at);
                Call::Release {
                    ino,
                    handle,
                    owner: Some(LockOwner(handle.0)),
                }
            }
        }
    }
}

fn pick(known: &[Ino], random: &mut impl Rng) -> Ino {
    known[random.random_range(0..known.len())]
}

fn name(random: &mut impl Rng) -> Vec<u8> {
    format!("n{}", random.random_range(0..NAMES)).into_bytes()
}

fn bytes(random: &mut impl Rng, len: u64) -> Bytes {
    (0..len).map(|_| random.random::<u8>()).collect()
}

fn open_flags(random: &mut impl Rng) -> OpenFlags {
    OpenFlags {
        append: random.random_ratio(1, 6),
        truncate: random.random_ratio(1, 12),
        ..OpenFlags::default()
    }
}

fn new(kind: FileKind, random: &mut impl Rng) -> NewInode {
    let target = match kind {
        FileKind::Symlink => bytes(random, 9),
        _ => Bytes::new(),
    };
    NewInode {
        kind,
        mode: 0o644,
        uid: random.random_range(0..3),
        gid: 7,
        rdev: 0,
        target,
    }
}

fn lock(random: &mut impl Rng) -> LockRange {
    let start = random.random_range(0..8);
    let end = start + random.random_range(0..8);
    let kind = if random.random() {
        LockKind::Shared
    } else {
        LockKind::Exclusive
    };
    LockRange {
        start,
        end,
        kind,
        pid: 1,
    }
}
