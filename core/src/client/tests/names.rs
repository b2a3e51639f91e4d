//! Names, routing, retries, slots, locks.

use alloc::vec::Vec;
use core::time::Duration;

use super::cluster::{ROOT, kind_of};
use super::harness::Net;
use crate::attr::{Attr, FileKind};
use crate::client::port::Input;
use crate::error::FsError;
use crate::ids::{Epoch, NodeId};
use crate::place::{Cookie, Ino};
use crate::vfs::{Call, DirEntry, Handle, LockKind, LockOwner, LockRange, RenameMode, Reply};

pub(super) fn attr(outcome: crate::vfs::Outcome) -> Attr {
    match outcome {
        Ok(Reply::Attr(attr)) => attr,
        other => panic!("no attributes: {other:?}"),
    }
}

fn make(dir: Ino, name: &[u8], kind: FileKind) -> Call {
    Call::Make {
        dir,
        name: name.to_vec(),
        new: kind_of(kind),
    }
}

fn list(net: &mut Net, ino: Ino, limit: u32) -> Vec<DirEntry> {
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let cookie = all.last().map_or(Cookie::START, |entry| entry.cookie);
        let call = Call::ReadDir {
            ino,
            handle: Handle(0),
            cookie,
            limit,
            plus: false,
        };
        let Ok(Reply::Entries(entries)) = net.call(0, call) else {
            panic!("no entries")
        };
        if entries.is_empty() {
            return all;
        }
        all.extend(entries);
    }
}

#[test]
fn names_are_made_found_moved_and_removed() {
    let mut net = Net::new(1, 1);
    let dir = attr(net.call(0, make(ROOT, b"d", FileKind::Directory))).ino;
    let file = attr(net.call(0, make(dir, b"f", FileKind::Regular))).ino;
    let lookup = |name: &[u8]| Call::Lookup {
        dir,
        name: name.to_vec(),
    };
    assert_eq!(attr(net.call(0, lookup(b"f"))).ino, file);
    let rename = Call::Rename {
        dir,
        name: b"f".to_vec(),
        to_dir: ROOT,
        to_name: b"g".to_vec(),
        mode: RenameMode::Replace,
    };
    assert_eq!(net.call(0, rename), Ok(Reply::Done));
    assert_eq!(net.call(0, lookup(b"f")), Err(FsError::NotFound));
    let link = Call::Link {
        ino: file,
        to_dir: dir,
        to_name: b"h".to_vec(),
    };
    assert_eq!(attr(net.call(0, link)).ino, file);
    let unlink = Call::Unlink {
        dir,
        name: b"h".to_vec(),
    };
    assert_eq!(net.call(0, unlink.clone()), Ok(Reply::Done));
    assert_eq!(net.call(0, unlink), Err(FsError::NotFound));
    for number in 0..50_u8 {
        net.call(0, make(dir, &[b'n', number + 1], FileKind::Fifo))
            .unwrap();
    }
    assert_eq!(list(&mut net, dir, 7).len(), 52);
    assert_eq!(list(&mut net, dir, 1)[1].name, b"..");
    assert_eq!(
        net.call(
            0,
            Call::Lookup {
                dir: file,
                name: b"x".to_vec()
            }
        ),
        Err(FsError::NotDirectory)
    );
}

#[test]
fn what_is_retried_after_lost_answers_happens_once() {
    for seed in 0..20 {
        let mut net = Net::new(1, seed);
        net.loss_percent = 25;
        for number in 0..30_u8 {
            let kind = if number % 2 == 0 {
                FileKind::Directory
            } else {
                FileKind::Fifo
            };
            let made = net.call(0, make(ROOT, &[b'a', number + 1], kind));
            assert!(made.is_ok(), "seed {seed}: {made:?}");
        }
        for number in 0..30_u8 {
            let name = [b'a', number + 1].to_vec();
            let gone = net.call(0, Call::Unlink { dir: ROOT, name });
            assert_eq!(gone, Ok(Reply::Done), "seed {seed}");
        }
    }
}

#[test]
fn refusals_mend_the_map() {
    let mut net = Net::new(1, 3);
    net.call(0, Call::GetAttr { ino: ROOT }).unwrap();
    for line in &mut net.cluster.lines {
        line.leader = line.leader.map(|node| NodeId(1 + node.0 % 3));
        line.epoch = Epoch(6);
    }
    let before = net.now;
    net.call(0, make(ROOT, b"d", FileKind::Directory)).unwrap();
    assert!(
        net.now.since(before) < Duration::from_millis(100),
        "no pauses"
    );
}

#[test]
fn an_unanswered_call_fails_at_the_deadline() {
    let mut net = Net::new(1, 4);
    net.call(0, Call::GetAttr { ino: ROOT }).unwrap();
    net.cut_off = true;
    let before = net.now;
    assert_eq!(net.call(0, Call::GetAttr { ino: ROOT }), Err(FsError::Io));
    assert_eq!(net.now.since(before), crate::limits::CALL_DEADLINE);
}

#[test]
fn a_mount_finds_the_replicas_that_came_after_its_map() {
    let mut net = Net::new(1, 4);
    let gone = NodeId(9);
    for line in &mut net.cluster.map_for_clients {
        line.replicas.truncate(1);
        line.replicas[0].node = gone;
        line.leader = Some(gone);
    }
    net.dead = Some(gone);
    net.pass(Duration::from_secs(1));
    net.cluster.map_for_clients = net.cluster.lines.clone();
    let before = net.now;
    net.call(0, Call::GetAttr { ino: ROOT }).unwrap();
    assert!(net.now.since(before) < Duration::from_secs(2));
}

#[test]
fn more_calls_than_slots_wait() {
    let mut net = Net::new(1, 5);
    net.loss_percent = 10;
    let ids: Vec<_> = (0..300_u16)
        .map(|number| net.start(0, make(ROOT, &number.to_be_bytes(), FileKind::Fifo)))
        .collect();
    let count = ids.len();
    assert!(net.run_until(Duration::from_secs(60), |net| net.outcomes.len() == count));
    assert!(net.outcomes.values().all(Result::is_ok));
    assert_eq!(net.cluster.inodes[&ROOT].entries.len(), 300);
}

const OWNER: LockOwner = LockOwner(1);

fn set_lock(ino: Ino, wait: bool) -> Call {
    let lock = LockRange {
        start: 0,
        end: 9,
        kind: LockKind::Exclusive,
        pid: 1,
    };
    Call::SetLock {
        ino,
        owner: OWNER,
        lock,
        wait,
    }
}

#[test]
fn a_blocked_lock_waits_and_can_be_interrupted() {
    let mut net = Net::new(2, 6);
    let ino = attr(net.call(0, make(ROOT, b"l", FileKind::Regular))).ino;
    let owner = OWNER;
    let set = |wait| set_lock(ino, wait);
    assert_eq!(net.call(0, set(false)), Ok(Reply::Done));
    assert_eq!(net.call(1, set(false)), Err(FsError::WouldBlock));
    let waiting = net.start(1, set(true));
    net.pass(Duration::from_secs(2));
    assert!(!net.outcomes.contains_key(&(1, waiting)));
    net.input(1, Input::Cancel { id: waiting });
    net.pass(Duration::from_secs(1));
    assert_eq!(net.outcomes[&(1, waiting)], Err(FsError::Interrupted));
    let waiting = net.start(1, set(true));
    net.pass(Duration::from_secs(1));
    net.call(
        0,
        Call::Unlock {
            ino,
            owner,
            start: 0,
            end: u64::MAX,
        },
    )
    .unwrap();
    net.pass(Duration::from_secs(1));
    assert_eq!(net.outcomes[&(1, waiting)], Ok(Reply::Done));
}

/// P8: locks end with the descriptor; an owner's name is used again at once, so freeing must not undo what it locks anew.
#[test]
fn locks_that_could_not_be_freed_in_time_are_freed_later_and_before_their_owner_locks_anew() {
    let mut net = Net::new(2, 7);
    let (ino, handle) = super::content::create(&mut net, 0);
    let owner = OWNER;
    let set = set_lock(ino, false);
    assert_eq!(net.call(0, set.clone()), Ok(Reply::Done));
    net.silent = true;
    let flush = Call::Flush { ino, handle, owner };
    assert_eq!(net.call(0, flush), Err(FsError::Io), "nobody knows when");
    let again = net.start(0, set.clone());
    net.silent = false;
    assert_eq!(net.call(1, set.clone()), Err(FsError::WouldBlock));
    net.pass(Duration::from_secs(40));
    assert_eq!(net.outcomes[&(0, again)], Ok(Reply::Done));
    net.pass(Duration::from_secs(40));
    assert_eq!(
        net.call(1, set),
        Err(FsError::WouldBlock),
        "it is not undone"
    );
}
