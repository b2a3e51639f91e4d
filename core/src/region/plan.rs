//! From an operation on names to steps (P7), by what this region can see.
//!
//! Owns what each of make, unlink, rmdir, link and rename amounts to, and the order in which POSIX wants their errors.
//! What other regions hold is taken from what the client saw; the steps' preconditions find out if that is wrong.

use alloc::vec;
use alloc::vec::Vec;

use super::entry::{self, Entry};
use super::inode;
use super::kv::{KvError, KvRead};
use super::step::Against;
use crate::attr::{Attr, FileKind, MODE_SGID, Name, NewInode};
use crate::error::FsError;
use crate::limits::{NAME_BYTES_MAX, SYMLINK_BYTES_MAX};
use crate::place::{Ino, Places, Salt};
use crate::request::{MetaOp, MetaReply, Seen};
use crate::time::Timestamp;
use crate::txn::Step;
use crate::vfs::RenameMode;

/// What an operation amounts to.
pub(super) enum Plan {
    /// These steps, and this answer.
    Steps {
        steps: Vec<Step>,
        reply: MetaReply,
        ancestors_unseen: bool,
    },
    /// Nothing to do: this answer.
    Answer(MetaReply),
    /// It fails.
    Against(Against),
}

fn fail(error: FsError) -> Result<Plan, KvError> {
    Ok(Plan::Against(Against::Error(error)))
}

fn steps(steps: Vec<Step>, reply: MetaReply) -> Result<Plan, KvError> {
    Ok(Plan::Steps {
        steps,
        reply,
        ancestors_unseen: false,
    })
}

/// Plans an operation on names; `time` is what its answer shows as the time of what it makes.
pub(super) fn plan(
    state: &dyn KvRead,
    places: Places,
    op: &MetaOp,
    time: Timestamp,
) -> Result<Plan, KvError> {
    match op {
        MetaOp::Make {
            dir,
            salt,
            name,
            new,
            home,
            exclusive,
            ..
        } => {
            let at = Named {
                dir: *dir,
                salt: *salt,
                name,
            };
            make(state, places, at, new, *home, *exclusive, time)
        }
        MetaOp::Unlink { dir, salt, name } => {
            let at = Named {
                dir: *dir,
                salt: *salt,
                name,
            };
            match find(state, places, at)? {
                Err(error) => fail(error),
                Ok(found) if found.kind == FileKind::Directory => fail(FsError::IsDirectory),
                Ok(found) => steps(
                    vec![at.remove(found.child), Step::DropLink { ino: found.child }],
                    MetaReply::Done,
                ),
            }
        }
        MetaOp::RemoveDir { dir, salt, name } => {
            let at = Named {
                dir: *dir,
                salt: *salt,
                name,
            };
            match find(state, places, at)? {
                Err(error) => fail(error),
                Ok(found) if found.kind != FileKind::Directory => fail(FsError::NotDirectory),
                Ok(Entry { child, .. }) => steps(
                    vec![
                        at.remove(child),
                        Step::Kill { dir: child },
                        Step::DropDir { dir: child },
                        Step::Subdirs {
                            dir: *dir,
                            delta: -1,
                        },
                    ],
                    MetaReply::Done,
                ),
            }
        }
        MetaOp::Link {
            dir,
            salt,
            name,
            target,
        } => link(
            state,
            places,
            Named {
                dir: *dir,
                salt: *salt,
                name,
            },
            *target,
        ),
        MetaOp::Rename {
            dir,
            salt,
            name,
            source,
            to_dir,
            to_salt,
            to_name,
            target,
            mode,
        } => {
            let rename = Rename {
                from: Named {
                    dir: *dir,
                    salt: *salt,
                    name,
                },
                to: Named {
                    dir: *to_dir,
                    salt: *to_salt,
                    name: to_name,
                },
                source: *source,
                target: *target,
                mode: *mode,
            };
            rename.plan(state, places)
        }
        MetaOp::Reserve { .. }
        | MetaOp::SetAttr { .. }
        | MetaOp::SetXattr { .. }
        | MetaOp::RemoveXattr { .. }
        | MetaOp::SetLock { .. }
        | MetaOp::Unlock { .. }
        | MetaOp::ReturnLocks { .. }
        | MetaOp::Content { .. }
        | MetaOp::NotOpen { .. }
        | MetaOp::Reclaimed { .. }
        | MetaOp::Takeover { .. }
        | MetaOp::AdmitSession { .. }
        | MetaOp::EndSession { .. } => panic!("only operations on names are planned"),
    }
}

/// A name in a directory.
#[derive(Clone, Copy)]
struct Named<'a> {
    dir: Ino,
    salt: Salt,
    name: &'a Name,
}

impl Named<'_> {
    fn insert(self, seen: Seen) -> Step {
        let (dir, salt, name) = (self.dir, self.salt, self.name.clone());
        Step::Insert {
            dir,
            salt,
            name,
            child: seen.ino,
            kind: seen.kind,
        }
    }
    fn remove(self, child: Ino) -> Step {
        Step::Remove {
            dir: self.dir,
            salt: self.salt,
            name: self.name.clone(),
            child,
        }
    }
    fn replace(self, old: Ino, seen: Seen) -> Step {
        let (dir, salt, name) = (self.dir, self.salt, self.name.clone());
        Step::Replace {
            dir,
            salt,
            name,
            old,
            child: seen.ino,
            kind: seen.kind,
        }
    }
    fn is_here(self, places: Places) -> bool {
        places.contains(crate::place::NameHash::of(self.salt, self.name).place(self.dir))
    }
}

fn is_valid(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// The entry of a name that lives here.
fn find(
    state: &dyn KvRead,
    places: Places,
    at: Named<'_>,
) -> Result<Result<Entry, FsError>, KvError> {
    if at.name.len() > NAME_BYTES_MAX {
        return Ok(Err(FsError::NameTooLong));
    }
    if !is_valid(at.name) {
        return Ok(Err(FsError::Invalid));
    }
    if entry::fragment(state, places, at.dir)?.is_none() {
        return Ok(Err(FsError::NotFound));
    }
    let found = entry::find(state, at.dir, at.salt, at.name)?;
    Ok(found.map(|(_, entry)| entry).ok_or(FsError::NotFound))
}

fn make(
    state: &dyn KvRead,
    places: Places,
    at: Named<'_>,
    new: &NewInode,
    home: Option<(Ino, Salt)>,
    exclusive: bool,
    time: Timestamp,
) -> Result<Plan, KvError> {
    if new.target.len() > SYMLINK_BYTES_MAX {
        return fail(FsError::NameTooLong);
    }
    match find(state, places, at)? {
        Ok(found) => {
            return existing(
                state,
                places,
                &found,
                exclusive || new.kind != FileKind::Regular,
            );
        }
        Err(FsError::NotFound) => {}
        Err(error) => return fail(error),
    }
    let Some(fragment) = entry::fragment(state, places, at.dir)? else {
        return fail(FsError::NotFound);
    };
    let is_dir = new.kind == FileKind::Directory;
    let mut new = new.clone();
    if let Some(gid) = fragment.gid {
        new.gid = gid;
        if is_dir {
            new.mode |= MODE_SGID;
        }
    }
    let (ino, salt) = match (is_dir, home) {
        (true, Some(home)) => home,
        (true, None) => return fail(FsError::Invalid),
        (false, _) => {
            let place = crate::place::NameHash::of(at.salt, at.name).place(at.dir);
            match inode::next_number(state, place)? {
                Some(ino) => (ino, Salt::default()),
                // Numbers are never reused (P4): this directory has had four billion files.
                None => return fail(FsError::NoSpace),
            }
        }
    };
    let seen = Seen {
        ino,
        kind: new.kind,
    };
    let volume = fragment.volume;
    let attr = inode::Inode::new(&new, salt, at.dir, volume, time).attr(ino, None);
    let mut planned = vec![
        at.insert(seen),
        Step::Create {
            ino,
            new,
            salt,
            parent: at.dir,
            volume,
        },
    ];
    if is_dir {
        planned.push(Step::Subdirs {
            dir: at.dir,
            delta: 1,
        });
    }
    steps(
        planned,
        MetaReply::Made {
            attr,
            existed: false,
            grant: None,
        },
    )
}

/// The name is there: opened by a non-exclusive create, in the way of everything else.
fn existing(
    state: &dyn KvRead,
    places: Places,
    found: &Entry,
    in_the_way: bool,
) -> Result<Plan, KvError> {
    if in_the_way {
        return fail(FsError::Exists);
    }
    match found.kind {
        FileKind::Regular => {}
        FileKind::Directory => return fail(FsError::IsDirectory),
        // Not a file's to open: the kernel looks the name up again and follows or opens what it finds itself.
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => return fail(FsError::Stale),
    }
    let seen = Seen {
        ino: found.child,
        kind: found.kind,
    };
    if !places.contains(found.child.place()) {
        return Ok(Plan::Answer(MetaReply::Elsewhere { seen }));
    }
    let inode = inode::expect(state, found.child)?;
    let attr: Attr = inode::attr(state, places, found.child, &inode)?;
    Ok(Plan::Answer(MetaReply::Made {
        attr,
        existed: true,
        grant: None,
    }))
}

fn link(state: &dyn KvRead, places: Places, at: Named<'_>, target: Seen) -> Result<Plan, KvError> {
    if target.kind == FileKind::Directory {
        return fail(FsError::NotPermitted);
    }
    match find(state, places, at)? {
        Ok(_) => return fail(FsError::Exists),
        Err(FsError::NotFound) => {}
        Err(error) => return fail(error),
    }
    if entry::fragment(state, places, at.dir)?.is_none() {
        return fail(FsError::NotFound);
    }
    let reply = MetaReply::Elsewhere { seen: target };
    steps(
        vec![at.insert(target), Step::AddLink { ino: target.ino }],
        reply,
    )
}

struct Rename<'a> {
    from: Named<'a>,
    to: Named<'a>,
    source: Seen,
    target: Option<Seen>,
    mode: RenameMode,
}

impl Rename<'_> {
    fn plan(&self, state: &dyn KvRead, places: Places) -> Result<Plan, KvError> {
        match find(state, places, self.from)? {
            Err(error) => return fail(error),
            Ok(found) if found.child != self.source.ino => {
                return Ok(Plan::Against(Against::Changed));
            }
            Ok(_) => {}
        }
        if self.to.name.len() > NAME_BYTES_MAX {
            return fail(FsError::NameTooLong);
        }
        if !is_valid(self.to.name) {
            return fail(FsError::Invalid);
        }
        if self.to.is_here(places) {
            if entry::fragment(state, places, self.to.dir)?.is_none() {
                return fail(FsError::NotFound);
            }
            let found = entry::find(state, self.to.dir, self.to.salt, self.to.name)?;
            if found.map(|(_, entry)| entry.child) != self.target.map(|seen| seen.ino) {
                return Ok(Plan::Against(Against::Changed));
            }
        }
        match (self.mode, self.target) {
            (RenameMode::NoReplace, Some(_)) => return fail(FsError::Exists),
            (RenameMode::Exchange, None) => return fail(FsError::NotFound),
            (_, Some(target)) if target.ino == self.source.ino => {
                return Ok(Plan::Answer(MetaReply::Done));
            }
            _ => {}
        }
        match self.below_itself(state, places)? {
            Below::Yes => fail(FsError::Invalid),
            Below::No => self.steps(state, places, false),
            Below::Unseen => self.steps(state, places, true),
        }
    }

    fn crosses(&self) -> bool {
        self.from.dir != self.to.dir
    }

    fn is_dir(seen: Option<Seen>) -> bool {
        seen.is_some_and(|seen| seen.kind == FileKind::Directory)
    }

    /// Whether a directory would become its own ancestor, as far as ancestors are to be seen here.
    fn below_itself(&self, state: &dyn KvRead, places: Places) -> Result<Below, KvError> {
        if !self.crosses() {
            return Ok(Below::No);
        }
        let mut verdict = Below::No;
        if self.source.kind == FileKind::Directory {
            verdict = is_below(state, places, self.to.dir, self.source.ino)?;
        }
        if self.mode == RenameMode::Exchange
            && let Some(target) = self.target
            && target.kind == FileKind::Directory
        {
            verdict = verdict.max(is_below(state, places, self.from.dir, target.ino)?);
        }
        Ok(verdict)
    }

    fn steps(
        &self,
        state: &dyn KvRead,
        places: Places,
        ancestors_unseen: bool,
    ) -> Result<Plan, KvError> {
        let (source_is_dir, target_is_dir) = (
            self.source.kind == FileKind::Directory,
            Self::is_dir(self.target),
        );
        let mut steps = Vec::new();
        if self.mode == RenameMode::Exchange {
            let target = self.target.expect("an exchange has a target");
            steps.push(self.from.replace(self.source.ino, target));
            steps.push(self.to.replace(target.ino, self.source));
            steps.push(self.moved(self.source, self.to.dir));
            steps.push(self.moved(target, self.from.dir));
            self.subdirs(
                &mut steps,
                i32::from(target_is_dir) - i32::from(source_is_dir),
                i32::from(source_is_dir) - i32::from(target_is_dir),
            );
        } else {
            match (source_is_dir, self.target) {
                (true, Some(_)) if !target_is_dir => return fail(FsError::NotDirectory),
                (false, Some(_)) if target_is_dir => return fail(FsError::IsDirectory),
                _ => {}
            }
            steps.push(self.from.remove(self.source.ino));
            match self.target {
                None => steps.push(self.to.insert(self.source)),
                Some(target) => {
                    steps.push(self.to.replace(target.ino, self.source));
                    if target_is_dir {
                        steps.push(Step::Kill { dir: target.ino });
                        steps.push(Step::DropDir { dir: target.ino });
                    } else {
                        steps.push(Step::DropLink { ino: target.ino });
                    }
                }
            }
            steps.push(self.moved(self.source, self.to.dir));
            self.subdirs(
                &mut steps,
                -i32::from(source_is_dir),
                i32::from(source_is_dir) - i32::from(target_is_dir),
            );
        }
        if self.crosses() && (source_is_dir || (self.mode == RenameMode::Exchange && target_is_dir))
        {
            let fragment = entry::fragment(state, places, self.from.dir)?;
            let volume = fragment.map(|fragment| fragment.volume).unwrap_or_default();
            steps.insert(0, Step::RenameLock { volume });
        }
        Ok(Plan::Steps {
            steps,
            reply: MetaReply::Done,
            ancestors_unseen,
        })
    }

    fn moved(&self, seen: Seen, dir: Ino) -> Step {
        let reparents = self.crosses() && seen.kind == FileKind::Directory;
        Step::Moved {
            ino: seen.ino,
            parent: reparents.then_some(dir),
        }
    }

    /// Subdirectories that the two directories lose or gain; one step when they are the same.
    fn subdirs(&self, steps: &mut Vec<Step>, from: i32, to: i32) {
        let changes: &[(Ino, i32)] = if self.crosses() {
            &[(self.from.dir, from), (self.to.dir, to)]
        } else {
            &[(self.from.dir, from + to)]
        };
        for (dir, delta) in changes {
            if *delta != 0 {
                steps.push(Step::Subdirs {
                    dir: *dir,
                    delta: *delta,
                });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Below {
    No,
    /// An ancestor lives in another region: the coordinator must look.
    Unseen,
    Yes,
}

fn is_below(state: &dyn KvRead, places: Places, dir: Ino, ancestor: Ino) -> Result<Below, KvError> {
    let mut at = dir;
    loop {
        if at == ancestor {
            return Ok(Below::Yes);
        }
        if !places.contains(at.place()) {
            return Ok(Below::Unseen);
        }
        match inode::get(state, at)? {
            Some(inode) if inode.parent != at => at = inode.parent,
            Some(_) | None => return Ok(Below::No),
        }
    }
}
