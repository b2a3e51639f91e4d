//! Calls that a local filesystem, too, carries out in several steps, between which others may come.
//!
//! Owns which these are. `open` with `O_TRUNC` opens, then truncates. Finding a name is one thing, looking at the inode it
//! names another: `stat` of a name that is being unlinked may show no links. What a region decides in one entry or query
//! stays whole: a name and an inode that share a bucket share a region.

use polyfs_core::attr::{Attr, Name, SetAttr};
use polyfs_core::place::{Cookie, Ino};
use polyfs_core::vfs::{Call, DirEntry, Handle, OpenFlags, Outcome, Reply};

use super::Kind;

/// One step of a call.
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) call: Call,
    pub(super) outcome: Outcome,
}

impl Step {
    const fn of(call: Call, outcome: Outcome) -> Self {
        Self {
            kind: Kind::Call,
            call,
            outcome,
        }
    }
}

/// The steps of a call that ended so; none when it is one step.
pub(super) fn of(call: &Call, outcome: &Outcome) -> Vec<Step> {
    match (call, outcome) {
        (Call::Open { ino, flags }, Ok(Reply::Opened(handle))) if flags.truncate => {
            vec![open(*ino, *flags, *handle), cut(*ino, *handle)]
        }
        (Call::Lookup { dir, name }, Ok(Reply::Attr(attr))) if is_elsewhere(*dir, attr) => {
            let look = Call::GetAttr { ino: attr.ino };
            vec![named(*dir, name, attr), Step::of(look, outcome.clone())]
        }
        (
            Call::Link {
                ino,
                to_dir,
                to_name: _,
            },
            Ok(Reply::Attr(attr)),
        ) if is_elsewhere(*to_dir, attr) => {
            // As its size is beside the point of a link, so it is here.
            let look = set_attr(*ino, None, Handle(0));
            vec![
                Step::of(call.clone(), Ok(Reply::Done)),
                Step::of(look, outcome.clone()),
            ]
        }
        (
            Call::Create {
                dir, name, flags, ..
            },
            Ok(Reply::Created(attr, handle)),
        ) => create(call, (*dir, name), *flags, (attr, *handle)),
        _ => Vec::new(),
    }
}

fn create(
    call: &Call,
    (dir, name): (Ino, &Name),
    flags: OpenFlags,
    (attr, handle): (&Attr, Handle),
) -> Vec<Step> {
    let mut steps = Vec::new();
    if is_elsewhere(dir, attr) {
        // It was there: what is made has its place beside its name.
        steps.push(named(dir, name, attr));
        steps.push(open(attr.ino, flags, handle));
        let look = set_attr(attr.ino, None, handle);
        steps.push(Step::of(look, Ok(Reply::Attr(attr.clone()))));
    } else if flags.truncate
        && let Call::Create { new, .. } = call
    {
        let call = Call::Create {
            dir,
            name: name.clone(),
            new: new.clone(),
            flags: OpenFlags {
                truncate: false,
                ..flags
            },
        };
        steps.push(Step::of(call, Ok(Reply::Created(attr.clone(), handle))));
    }
    if flags.truncate {
        steps.push(cut(attr.ino, handle));
    }
    steps
}

/// Whether a name's inode may live in another region than the name.
fn is_elsewhere(dir: Ino, attr: &Attr) -> bool {
    dir.bucket() != attr.ino.bucket()
}

/// The name was there: as a listing shows it.
fn named(dir: Ino, name: &Name, attr: &Attr) -> Step {
    let call = Call::ReadDir {
        ino: dir,
        handle: Handle(0),
        cookie: Cookie::START,
        limit: 1,
        plus: false,
    };
    let entry = DirEntry {
        cookie: Cookie::START,
        name: name.clone(),
        ino: attr.ino,
        kind: attr.kind,
        attr: None,
    };
    Step::of(call, Ok(Reply::Entries(vec![entry])))
}

fn open(ino: Ino, flags: OpenFlags, handle: Handle) -> Step {
    let flags = OpenFlags {
        truncate: false,
        ..flags
    };
    Step::of(Call::Open { ino, flags }, Ok(Reply::Opened(handle)))
}

fn cut(ino: Ino, handle: Handle) -> Step {
    Step {
        kind: Kind::Cut,
        ..Step::of(set_attr(ino, Some(0), handle), Ok(Reply::Done))
    }
}

fn set_attr(ino: Ino, size: Option<u64>, handle: Handle) -> Call {
    Call::SetAttr {
        ino,
        set: SetAttr::default(),
        size,
        handle: Some(handle),
    }
}
