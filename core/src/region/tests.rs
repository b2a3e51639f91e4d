//! Entries against a region that holds every place, by the public entry points alone.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::command::{Applied, Command, CommandBody, Descriptor};
use super::mem::MemKv;
use super::{Root, apply, audit, found, query};
use crate::attr::{Attr, FileKind, NewInode};
use crate::error::FsError;
use crate::ids::{Epoch, Fence, Renewal, SessionId, VolumeId};
use crate::place::{Bucket, Ino, Place, Places, Salt};
use crate::request::*;
use crate::time::Timestamp;

const ROOT: Ino = Ino::new(Place::new(Bucket(1), 0), 1);
const SALT: Salt = Salt(7);

struct Region {
    state: MemKv,
    sequence: u64,
}

fn region(space: Space) -> Region {
    let mut state = MemKv::default();
    let descriptor = Descriptor {
        space,
        places: Places::ALL,
        epoch: Epoch(1),
    };
    let root = Root {
        ino: ROOT,
        salt: SALT,
        uid: 0,
        gid: 0,
        volume: VolumeId(1),
        time: Timestamp::default(),
    };
    found(
        &mut state,
        &descriptor,
        (space == Space::Meta).then_some(root),
    )
    .unwrap();
    Region { state, sequence: 0 }
}

impl Region {
    fn command(&mut self, body: CommandBody) -> Command {
        self.sequence += 1;
        Command {
            epoch: Epoch(1),
            session: SessionId(1),
            renewal: Renewal(0),
            slot: Some(SlotUse {
                slot: 0,
                sequence: self.sequence,
            }),
            time: Timestamp::default(),
            body,
        }
    }
    fn apply(&mut self, command: &Command, payload: &'static [u8]) -> Answer {
        match apply(&mut self.state, command, &Bytes::from_static(payload)).unwrap() {
            Applied::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
    fn meta(&mut self, op: MetaOp) -> Result<MetaReply, FsError> {
        let command = self.command(CommandBody::Meta(op));
        match self.apply(&command, b"") {
            Answer::Meta(result) => result,
            other => panic!("{other:?}"),
        }
    }
    fn make(&mut self, dir: Ino, name: &[u8], kind: FileKind) -> Result<Attr, FsError> {
        let home = if kind == FileKind::Directory {
            let bucket = Bucket(u32::try_from(self.sequence).unwrap() + 2);
            let buckets = vec![bucket];
            let Ok(MetaReply::Reserved(inos)) = self.meta(MetaOp::Reserve { buckets }) else {
                panic!("numbers are left");
            };
            Some((inos[0], SALT))
        } else {
            None
        };
        match self.meta(make_op(dir, name, kind, home))? {
            MetaReply::Made { attr, .. } => Ok(attr),
            other => panic!("{other:?}"),
        }
    }
    fn content(&mut self, ino: Ino, fence: u64, change: ContentOp) -> Answer {
        let fence = Fence(fence);
        let op = MetaOp::Content { ino, fence, change };
        let command = self.command(CommandBody::Meta(op));
        self.apply(&command, b"")
    }
    fn sound(&self) {
        assert_eq!(
            audit::check_invariants(&[&self.state]).unwrap(),
            Vec::<alloc::string::String>::new()
        );
    }
}

fn make_op(dir: Ino, name: &[u8], kind: FileKind, home: Option<(Ino, Salt)>) -> MetaOp {
    MetaOp::Make {
        dir,
        salt: SALT,
        name: name.to_vec(),
        new: NewInode {
            kind,
            mode: 0o644,
            uid: 1,
            gid: 1,
            rdev: 0,
            target: Bytes::new(),
        },
        home,
        exclusive: true,
        lease: None,
    }
}

#[test]
fn a_repetition_is_answered_and_not_executed() {
    let mut region = region(Space::Meta);
    let op = make_op(ROOT, b"a", FileKind::Regular, None);
    let command = region.command(CommandBody::Meta(op));
    let first = region.apply(&command, b"");
    let state = region.state.clone();
    assert!(matches!(first, Answer::Meta(Ok(_))));
    assert_eq!(region.apply(&command, b""), first);
    assert_eq!(region.state, state);
}

#[test]
fn an_entry_of_another_epoch_changes_nothing() {
    let mut region = region(Space::Meta);
    let op = make_op(ROOT, b"a", FileKind::Regular, None);
    let mut command = region.command(CommandBody::Meta(op));
    command.epoch = Epoch(0);
    let state = region.state.clone();
    let answer = region.apply(&command, b"");
    assert!(matches!(answer, Answer::Refused(Refusal::Epoch { .. })));
    assert_eq!(region.state, state);
}

#[test]
fn a_cut_is_noted_and_nothing_grows_before_it_is_carried_out() {
    let mut region = region(Space::Meta);
    let ino = region.make(ROOT, b"a", FileKind::Regular).unwrap().ino;
    let (first, count, size) = (0, 2, Some(2 << 20));
    region.content(ino, 0, ContentOp::Allocate { first, count, size });
    region.content(ino, 0, ContentOp::Truncate { size: 5 });
    let grant = query::grant(&region.state, ino, LeaseKind::Exclusive)
        .unwrap()
        .unwrap();
    assert_eq!(
        (grant.attr.size, grant.cut, grant.map.len()),
        (5, Some(5), 1)
    );
    assert_eq!((grant.map[0].count, grant.attr.allocated), (1, 4096));
    let grow = ContentOp::Truncate { size: 9 };
    assert_eq!(
        region.content(ino, 0, grow.clone()),
        Answer::Refused(Refusal::Changed)
    );
    region.content(ino, 0, ContentOp::CutDone { size: 5 });
    assert!(matches!(region.content(ino, 0, grow), Answer::Meta(Ok(_))));
    region.sound();
}

#[test]
fn a_lower_fence_and_a_late_write_are_refused() {
    let mut region = region(Space::Data);
    let (ino, version, number) = (ROOT, 1, 0);
    let chunk = ChunkName {
        ino,
        version,
        number,
    };
    let write = |fence| DataOp::Write {
        chunk,
        fence: Fence(fence),
        offset: 1,
    };
    let mut data = |op| {
        let command = region.command(CommandBody::Data(op));
        region.apply(&command, b"xy")
    };
    assert_eq!(data(write(2)), Answer::Data(Ok(DataReply::Done)));
    assert_eq!(data(write(1)), Answer::Refused(Refusal::Fenced));
    data(DataOp::Delete {
        chunks: vec![chunk],
    });
    assert_eq!(data(write(2)), Answer::Data(Err(FsError::Stale)));
}

/// Thousands of makes, links, unlinks and rmdirs against a plain tree.
#[test]
fn names_are_as_a_plain_tree_has_them() {
    for seed in 1..=4_u64 {
        let mut region = region(Space::Meta);
        let mut dirs = vec![ROOT];
        let mut tree: BTreeMap<(Ino, Vec<u8>), (Ino, FileKind)> = BTreeMap::new();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for round in 0..1000 {
            let mut draw = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let (what, pick) = (draw(5), usize::try_from(draw(64)).unwrap());
            let dir = dirs[pick % dirs.len()];
            let name = vec![b'a' + u8::try_from(draw(8)).unwrap()];
            let at = (dir, name.clone());
            let there = tree.get(&at).copied();
            let salt = SALT;
            let (got, want) = match what {
                0 | 1 => {
                    let kind = [FileKind::Regular, FileKind::Directory][usize::from(what == 1)];
                    let made = region.make(dir, &name, kind);
                    if let Ok(attr) = &made {
                        tree.insert(at, (attr.ino, kind));
                        if what == 1 {
                            dirs.push(attr.ino);
                        }
                    }
                    let want = there.map_or(Ok(()), |_| Err(FsError::Exists));
                    (made.map(|_| ()), want)
                }
                2 => {
                    let want = match there {
                        None => Err(FsError::NotFound),
                        Some((_, FileKind::Directory)) => Err(FsError::IsDirectory),
                        Some(_) => Ok(()),
                    };
                    let got = region.meta(MetaOp::Unlink { dir, salt, name });
                    want.is_ok().then(|| tree.remove(&at));
                    (got.map(|_| ()), want)
                }
                3 => {
                    let want = match there {
                        None => Err(FsError::NotFound),
                        Some((ino, FileKind::Directory)) => {
                            let full = tree.keys().any(|(dir, _)| *dir == ino);
                            if full {
                                Err(FsError::NotEmpty)
                            } else {
                                Ok(ino)
                            }
                        }
                        Some(_) => Err(FsError::NotDirectory),
                    };
                    let got = region.meta(MetaOp::RemoveDir { dir, salt, name });
                    if let Ok(ino) = want {
                        tree.remove(&at);
                        dirs.retain(|dir| *dir != ino);
                    }
                    (got.map(|_| ()), want.map(|_| ()))
                }
                _ => {
                    let file = tree.values().find(|(_, kind)| *kind == FileKind::Regular);
                    let Some((ino, kind)) = file.copied() else {
                        continue;
                    };
                    let target = Seen { ino, kind };
                    let got = region.meta(MetaOp::Link {
                        dir,
                        salt,
                        name,
                        target,
                    });
                    let want = there.map_or(Ok(()), |_| Err(FsError::Exists));
                    want.is_ok().then(|| tree.insert(at, (ino, kind)));
                    (got.map(|_| ()), want)
                }
            };
            assert_eq!(got, want, "seed {seed}, round {round}, kind {what}");
            if round % 50 == 0 {
                region.sound();
            }
        }
        region.sound();
    }
}
