//! Each kind of damage is found, alone; what is whole has no finding.

use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::*;
use crate::attr::NewInode;
use crate::ids::{SessionId, VolumeId};
use crate::place::{Bucket, Cookie, NameHash, Place, Places, Salt};
use crate::region::kv::Kv as _;
use crate::region::mem::MemKv;
use crate::region::{inode, write};
use crate::time::Timestamp;

const ROOT: Ino = Ino::new(Place::new(Bucket(1), 0), 1);
const SUB: Ino = Ino::new(Place::new(Bucket(2), 0), 1);
const FILE: Ino = Ino::new(Place::new(Bucket(1), 5), 2);

fn new(kind: FileKind, parent: Ino) -> Inode {
    let new = NewInode {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Bytes::new(),
    };
    Inode::new(&new, Salt(3), parent, VolumeId(1), Timestamp::default())
}

fn name_key(dir: Ino, name: &[u8]) -> Vec<u8> {
    key::entry(dir, NameHash::of(Salt(3), name).cookie(0))
}

fn name(state: &mut MemKv, dir: Ino, name: &[u8], child: Ino, kind: FileKind) {
    let entry = Entry {
        name: name.to_vec(),
        child,
        kind,
    };
    write(state, &name_key(dir, name), &entry).expect("memory does not fail");
}

fn count(state: &mut MemKv, dir: Ino, entries: u64) {
    let mut fragment = Fragment::of(&new(FileKind::Directory, dir));
    fragment.entries = entries;
    write(state, &key::fragment(dir, Places::ALL), &fragment).expect("memory does not fail");
}

fn change(state: &mut MemKv, ino: Ino, change: impl FnOnce(&mut Inode)) {
    let mut changed = inode::expect(state, ino).expect("it is there");
    change(&mut changed);
    inode::put(state, ino, &changed).expect("memory does not fail");
}

fn run(state: &mut MemKv, last: u64, count: u64, written: bool) {
    let value = codec::encode_versioned(crate::region::VERSION, &(count, 1_u64, written));
    state
        .put(&key::run(FILE, last), &value)
        .expect("memory does not fail");
}

/// A root with a directory and a file of two chunks.
fn whole() -> MemKv {
    let mut state = MemKv::default();
    let mut root = new(FileKind::Directory, ROOT);
    root.nlink = 3;
    let mut file = new(FileKind::Regular, ROOT);
    file.mapped = 2;
    for (ino, inode) in [
        (ROOT, root),
        (SUB, new(FileKind::Directory, ROOT)),
        (FILE, file),
    ] {
        inode::put(&mut state, ino, &inode).expect("memory does not fail");
    }
    name(&mut state, ROOT, b"sub", SUB, FileKind::Directory);
    name(&mut state, ROOT, b"file", FILE, FileKind::Regular);
    count(&mut state, ROOT, 2);
    count(&mut state, SUB, 0);
    run(&mut state, 1, 2, true);
    state
}

fn judge(state: &MemKv) -> Vec<Finding> {
    let mut census = Census::default();
    for (key, value) in state.pairs() {
        census.take(key, value);
    }
    census.judge()
}

fn after(damage: impl FnOnce(&mut MemKv)) -> Vec<Finding> {
    let mut state = whole();
    damage(&mut state);
    judge(&state)
}

fn delete(state: &mut MemKv, key: &[u8]) {
    state.delete(key).expect("memory does not fail");
}

#[test]
fn what_is_whole_has_no_finding() {
    assert_eq!(judge(&whole()), vec![]);
}

#[test]
fn a_name_without_an_inode_is_found() {
    let found = after(|state| {
        delete(state, &key::of_inode(Kind::Inode, FILE));
        delete(state, &key::run(FILE, 1));
    });
    let expected = Finding::EntryWithoutInode {
        dir: ROOT,
        child: FILE,
    };
    assert_eq!(found, vec![expected]);
}

#[test]
fn counts_that_do_not_match_are_found() {
    let found = after(|state| change(state, FILE, |inode| inode.nlink = 2));
    let (names, nlink) = (1, 2);
    assert_eq!(
        found,
        vec![Finding::LinkCount {
            ino: FILE,
            names,
            nlink
        }]
    );
    let found = after(|state| change(state, ROOT, |inode| inode.nlink = 2));
    let (subdirs, nlink) = (1, 2);
    assert_eq!(
        found,
        vec![Finding::SubdirectoryCount {
            ino: ROOT,
            subdirs,
            nlink
        }]
    );
    let found = after(|state| count(state, ROOT, 5));
    let (entries, counted) = (2, 5);
    assert_eq!(
        found,
        vec![Finding::EntryCount {
            dir: ROOT,
            entries,
            counted
        }]
    );
    let found = after(|state| change(state, FILE, |inode| inode.mapped = 7));
    let (named, counted) = (2, 7);
    assert_eq!(
        found,
        vec![Finding::ChunkCount {
            ino: FILE,
            named,
            counted
        }]
    );
}

#[test]
fn a_directory_in_the_wrong_place_is_found() {
    let found = after(|state| change(state, SUB, |inode| inode.parent = FILE));
    let parent = FILE;
    assert_eq!(found, vec![Finding::WrongParent { ino: SUB, parent }]);
    let found = after(|state| {
        delete(state, &name_key(ROOT, b"sub"));
        count(state, ROOT, 1);
        change(state, ROOT, |inode| inode.nlink = 2);
    });
    assert_eq!(found, vec![Finding::DirectoryNames { ino: SUB, names: 0 }]);
    let found = after(|state| delete(state, &key::fragment(ROOT, Places::ALL)));
    assert_eq!(found, vec![Finding::NoFragment { dir: ROOT }]);
}

#[test]
fn a_name_of_another_kind_is_found() {
    let found = after(|state| name(state, ROOT, b"file", FILE, FileKind::Fifo));
    assert!(
        matches!(found[..], [Finding::KindDiffers { .. }]),
        "{found:?}"
    );
}

#[test]
fn what_nobody_waits_for_is_found() {
    let unlink = |state: &mut MemKv| {
        delete(state, &name_key(ROOT, b"file"));
        count(state, ROOT, 1);
        change(state, FILE, |inode| inode.nlink = 0);
    };
    assert_eq!(after(unlink), vec![Finding::Forgotten { ino: FILE }]);
    let found = after(|state| {
        unlink(state);
        let orphan = key::of_inode(Kind::Orphan, FILE);
        write(state, &orphan, &vec![SessionId(4)]).expect("memory does not fail");
    });
    assert_eq!(found, vec![]);
    let found = after(|state| {
        let xattr = key::xattr(SUB, b"user.a");
        state.put(&xattr, b"x").expect("memory does not fail");
        delete(state, &key::of_inode(Kind::Inode, SUB));
    });
    assert!(
        found.iter().any(|found| found.kind() == "stray"),
        "{found:?}"
    );
}

#[test]
fn a_damaged_map_is_found() {
    let found = after(|state| {
        run(state, 2, 2, true);
        change(state, FILE, |inode| inode.mapped = 4);
    });
    let number = 1;
    assert_eq!(found, vec![Finding::RunsOverlap { ino: FILE, number }]);
    let found = after(|state| {
        let key = key::of_inode(Kind::Inode, SUB);
        state.put(&key, b"rot").expect("memory does not fail");
    });
    assert!(
        found.iter().any(|found| found.kind() == "undecodable"),
        "{found:?}"
    );
}

#[test]
fn chunks_are_claimed_by_maps_and_by_garbage() {
    let mut state = whole();
    run(&mut state, 9, 3, false);
    let garbage = key::garbage(FILE, 6, 20);
    write(&mut state, &garbage, &2_u64).expect("memory does not fail");
    let mut census = Census::of(BTreeSet::from([FILE]));
    for (key, value) in state.pairs() {
        census.take(key, value);
    }
    let chunk = |version, number| ChunkName {
        ino: FILE,
        version,
        number,
    };
    let written: Vec<_> = census.written().collect();
    assert_eq!(written, vec![chunk(1, 0), chunk(1, 1)]);
    assert!(census.claims(&chunk(1, 8)) && !census.is_written(&chunk(1, 8)));
    assert!(census.claims(&chunk(6, 21)) && !census.claims(&chunk(6, 22)));
    assert!(!census.claims(&chunk(2, 0)));
}

#[test]
fn what_a_transaction_concerns_is_known() {
    let mut state = whole();
    let step = Step::Insert {
        dir: SUB,
        salt: Salt(3),
        name: b"new".to_vec(),
        child: FILE,
        kind: FileKind::Regular,
    };
    let txn = crate::txn::TxnId {
        began: Timestamp::default(),
        place: Place(0),
        session: SessionId(1),
        slot: crate::request::SlotUse {
            slot: 0,
            sequence: 1,
        },
    };
    let guarded = key::entry(SUB, Cookie(1 << 20));
    let intent = Intent { txn, step };
    write(&mut state, &key::intent(&guarded), &intent).expect("memory does not fail");
    let mut census = Census::default();
    for (key, value) in state.pairs() {
        census.take(key, value);
    }
    assert_eq!(census.moving(), &BTreeSet::from([SUB, FILE]));
}
