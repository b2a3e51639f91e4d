//! Delegated locks: calls that ask nobody, and what ends that (P8).

use alloc::vec::Vec;
use core::time::Duration;

use super::content::{create, open};
use super::harness::Net;
use crate::client::port::Input;
use crate::client::rng::Rng;
use crate::error::FsError;
use crate::ids::{GroupId, NodeId, SessionId};
use crate::limits::LOCK_CALLS_ASKED;
use crate::locks::Locks;
use crate::place::Ino;
use crate::region::lock::Record;
use crate::request::{LeaseSerial, Recall, RecallKind};
use crate::vfs::{Call, Handle, LockKind, LockOwner, LockRange, OpenFlags, Reply};

const A: LockOwner = LockOwner(1);
const B: LockOwner = LockOwner(2);

const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};

const fn byte(at: u64) -> LockRange {
    LockRange {
        start: at,
        end: at,
        kind: LockKind::Exclusive,
        pid: 70,
    }
}

const fn set(ino: Ino, owner: LockOwner, at: u64) -> Call {
    Call::SetLock {
        ino,
        owner,
        lock: byte(at),
        wait: false,
    }
}

const fn test(ino: Ino, owner: LockOwner, at: u64) -> Call {
    let lock = byte(at);
    Call::TestLock { ino, owner, lock }
}

const fn unlock(ino: Ino, owner: LockOwner, at: u64) -> Call {
    Call::Unlock {
        ino,
        owner,
        start: at,
        end: at,
    }
}

/// Makes lock calls until the file's locks are the mount's; it holds byte 0 then.
fn delegate(net: &mut Net, client: usize, ino: Ino) {
    for _ in 0..LOCK_CALLS_ASKED {
        assert_eq!(net.call(client, set(ino, A, 0)), Ok(Reply::Done));
    }
}

fn recall(ino: Ino, grant: u64) -> Input {
    Input::Recall {
        node: NodeId(2),
        recall: Recall {
            group: GroupId(1),
            ino,
            serial: LeaseSerial::default(),
            round: grant,
            want: RecallKind::Locks,
        },
    }
}

fn shared_file(net: &mut Net) -> (Ino, Handle) {
    let (ino, handle) = create(net, 0);
    open(net, 1, ino, READ);
    (ino, handle)
}

#[test]
fn from_the_fourth_lock_call_on_nobody_is_asked() {
    let mut net = Net::new(2, 1);
    let (ino, _) = shared_file(&mut net);
    delegate(&mut net, 0, ino);
    let (executed, before) = (net.cluster.executed, net.now);
    assert_eq!(net.call(0, set(ino, B, 1)), Ok(Reply::Done));
    assert_eq!(net.call(0, set(ino, B, 0)), Err(FsError::WouldBlock));
    assert_eq!(net.call(0, test(ino, B, 0)), Ok(Reply::Lock(Some(byte(0)))));
    assert_eq!(net.call(0, unlock(ino, A, 0)), Ok(Reply::Done));
    assert_eq!(net.call(0, test(ino, B, 0)), Ok(Reply::Lock(None)));
    assert_eq!((net.cluster.executed, net.now), (executed, before));
}

#[test]
fn what_is_held_here_is_in_the_way_of_others_as_ever() {
    let mut net = Net::new(2, 2);
    let (ino, _) = shared_file(&mut net);
    delegate(&mut net, 0, ino);
    net.call(0, set(ino, B, 1)).unwrap();
    net.call(0, unlock(ino, A, 0)).unwrap();
    assert_eq!(net.call(1, test(ino, A, 1)), Ok(Reply::Lock(Some(byte(1)))));
    assert!(net.cluster.lock_recalls > 0);
    assert_eq!(net.call(1, set(ino, A, 1)), Err(FsError::WouldBlock));
    assert_eq!(net.call(1, set(ino, A, 0)), Ok(Reply::Done), "it was freed");
    // Both want it: the region decides for a while.
    let recalls = net.cluster.lock_recalls;
    net.call(1, unlock(ino, A, 0)).unwrap();
    net.call(0, unlock(ino, B, 1)).unwrap();
    for _ in 0..3 {
        assert_eq!(net.call(0, set(ino, A, 0)), Ok(Reply::Done));
        assert_eq!(net.call(1, set(ino, A, 0)), Err(FsError::WouldBlock));
    }
    assert_eq!(net.cluster.lock_recalls, recalls);
}

#[test]
fn a_recall_that_is_lost_comes_again_with_who_waits() {
    let mut net = Net::new(2, 3);
    let (ino, _) = shared_file(&mut net);
    delegate(&mut net, 0, ino);
    net.cluster.recalls_lost = true;
    let waits = net.start(1, set(ino, A, 0));
    net.pass(Duration::from_secs(5));
    assert!(!net.outcomes.contains_key(&(1, waits)), "it is no conflict");
    net.cluster.recalls_lost = false;
    net.pass(Duration::from_secs(1));
    assert_eq!(net.outcomes[&(1, waits)], Err(FsError::WouldBlock));
}

#[test]
fn recalls_of_what_is_not_held_and_late_ones_do_no_harm() {
    let mut net = Net::new(2, 4);
    let (ino, _) = shared_file(&mut net);
    net.input(0, recall(ino, 40));
    net.pass(Duration::from_secs(1));
    delegate(&mut net, 0, ino);
    net.input(0, recall(ino, 40));
    assert_eq!(net.call(0, set(ino, B, 1)), Ok(Reply::Done));
    net.call(1, test(ino, A, 0)).unwrap();
    net.input(0, recall(ino, 1));
    net.input(0, recall(ino, 1));
    net.pass(Duration::from_secs(1));
    assert_eq!(net.call(1, set(ino, A, 0)), Err(FsError::WouldBlock));
    assert_eq!(net.call(1, set(ino, A, 1)), Err(FsError::WouldBlock));
}

/// The recall overtakes the answer: what came with the grant is as it was, and is used by nobody here.
#[test]
fn a_recall_before_the_answer_gives_back_what_was_never_used() {
    let mut net = Net::new(2, 5);
    let (ino, _) = shared_file(&mut net);
    for _ in 1..LOCK_CALLS_ASKED {
        net.call(0, set(ino, A, 0)).unwrap();
    }
    let wished = net.start(0, set(ino, A, 1));
    net.input(0, recall(ino, 1));
    net.pass(Duration::from_secs(1));
    assert_eq!(net.outcomes[&(0, wished)], Ok(Reply::Done));
    for at in [0, 1] {
        assert_eq!(net.call(1, set(ino, A, at)), Err(FsError::WouldBlock));
    }
}

#[test]
fn locks_go_back_with_the_last_close_and_at_unmount() {
    let mut net = Net::new(2, 6);
    let (ino, handle) = shared_file(&mut net);
    let again = open(&mut net, 0, ino, READ);
    delegate(&mut net, 0, ino);
    let release = |handle, owner| Call::Release { ino, handle, owner };
    net.call(0, release(again, None)).unwrap();
    net.pass(Duration::from_secs(1));
    let executed = net.cluster.executed;
    net.call(0, set(ino, A, 1)).unwrap();
    assert_eq!(net.cluster.executed, executed, "it is still open");
    net.call(0, release(handle, Some(A))).unwrap();
    net.pass(Duration::from_secs(1));
    assert_eq!(net.cluster.locks[&ino], Record::default());
    open(&mut net, 0, ino, READ);
    delegate(&mut net, 0, ino);
    net.input(0, Input::Unmount);
    net.pass(Duration::from_secs(5));
    assert_eq!(net.gone, [0]);
    assert_eq!(net.call(1, set(ino, A, 1)), Ok(Reply::Done));
    assert_eq!(net.call(1, set(ino, A, 0)), Err(FsError::WouldBlock));
    assert_eq!(net.cluster.lock_recalls, 0);
}

/// Somebody else may have been let in when the session has ended.
#[test]
fn while_the_session_is_uncertain_no_lock_is_given() {
    let mut net = Net::new(2, 7);
    let (ino, _) = shared_file(&mut net);
    delegate(&mut net, 0, ino);
    net.master_silent = true;
    net.pass(Duration::from_secs(12));
    net.cluster.end_session(SessionId(1));
    assert_eq!(net.call(1, set(ino, A, 1)), Ok(Reply::Done));
    let asked = net.start(0, set(ino, B, 1));
    net.pass(Duration::from_secs(1));
    assert_ne!(net.outcomes.get(&(0, asked)), Some(&Ok(Reply::Done)));
}

/// The region knows that the session lives: what is asked of it does not wait for the master.
#[test]
fn while_the_master_is_silent_the_region_gives_locks() {
    let mut net = Net::new(2, 7);
    let (ino, _) = shared_file(&mut net);
    delegate(&mut net, 0, ino);
    net.master_silent = true;
    net.pass(Duration::from_secs(12));
    assert_eq!(net.call(0, set(ino, B, 1)), Ok(Reply::Done));
    assert_eq!(net.call(1, set(ino, A, 1)), Err(FsError::WouldBlock));
}

#[test]
fn delegations_end_with_the_session() {
    let mut net = Net::new(2, 8);
    let (ino, _) = shared_file(&mut net);
    delegate(&mut net, 0, ino);
    net.cluster.end_session(SessionId(1));
    assert_eq!(net.call(1, set(ino, A, 0)), Ok(Reply::Done));
    net.pass(Duration::from_secs(3));
    assert_eq!(net.call(0, set(ino, A, 0)), Err(FsError::WouldBlock));
}

/// Each mount waits in every slot it may use for locks that are the other's to give.
#[test]
fn two_mounts_that_wait_for_each_other_in_all_their_slots_come_through() {
    let mut net = Net::new(2, 9);
    let (mine, _) = shared_file(&mut net);
    let make = |name: &[u8]| Call::Create {
        dir: super::cluster::ROOT,
        name: name.to_vec(),
        new: super::cluster::kind_of(crate::attr::FileKind::Regular),
        flags: READ,
    };
    let Ok(Reply::Created(attr, _)) = net.call(1, make(b"theirs")) else {
        panic!("not created");
    };
    delegate(&mut net, 0, mine);
    delegate(&mut net, 1, attr.ino);
    net.cluster.recalls_lost = true;
    for owner in 2..90 {
        net.start(0, set(attr.ino, LockOwner(owner), 0));
        net.start(1, set(mine, LockOwner(owner), 0));
    }
    net.pass(Duration::from_secs(2));
    let before = net.outcomes.len();
    net.cluster.recalls_lost = false;
    let done = |net: &Net| net.outcomes.len() == before + 2 * 88;
    assert!(
        net.run_until(Duration::from_secs(5), done),
        "all are answered"
    );
    let blocked = |outcome: &&crate::vfs::Outcome| **outcome == Err(FsError::WouldBlock);
    assert_eq!(net.outcomes.values().filter(blocked).count(), 2 * 88);
}

/// One call after the other, from several mounts and owners, while messages are lost, late and repeated.
#[test]
fn whatever_is_lost_or_late_locks_are_those_of_one_machine() {
    for seed in 0..60 {
        let mut net = Net::new(2, seed);
        net.clients[0].delegate_locks_from(1 + u32::try_from(seed % 3).unwrap());
        net.clients[1].delegate_locks_from(1);
        let (ino, _) = shared_file(&mut net);
        net.loss_percent = seed % 4 * 6;
        let mut expected = Locks::default();
        let mut dice = Rng::new(seed);
        for step in 0..80 {
            // Mostly one mount, so that the locks are its own for a while.
            let usual = usize::from(step / 20 % 2 == 0);
            let client = if dice.below(8) == 0 { 1 - usual } else { usual };
            let owner = [A, B][usize::from(dice.below(2) == 0)];
            let (who, at) = ((client, owner), dice.below(3));
            let (call, outcome) = match dice.below(5) {
                0 => {
                    let found = expected.in_the_way(who, byte(at));
                    (test(ino, owner, at), Ok(Reply::Lock(found)))
                }
                1 | 2 => {
                    expected.unlock(who, at, at);
                    (unlock(ino, owner, at), Ok(Reply::Done))
                }
                _ => {
                    let taken = expected.set(who, byte(at));
                    (set(ino, owner, at), taken.map(|()| Reply::Done))
                }
            };
            assert_eq!(net.call(client, call), outcome, "seed {seed}, step {step}");
        }
    }
}

/// Calls of several owners at once, a grant among them: each has its own byte, so their order does not matter.
#[test]
fn calls_beside_a_grant_or_a_return_are_done_once_and_not_lost() {
    for seed in 0..60 {
        let mut net = Net::new(2, 100 + seed);
        net.clients[0].delegate_locks_from(1);
        let (ino, _) = shared_file(&mut net);
        net.loss_percent = seed % 4 * 6;
        let mut dice = Rng::new(seed);
        let mut held = [false; 6];
        for round in 0..10 {
            let mut calls = Vec::new();
            for (at, held) in held.iter_mut().enumerate() {
                let (owner, at) = (LockOwner(at as u64), at as u64);
                if dice.below(3) == 0 {
                    continue;
                }
                let call = if *held { unlock } else { set };
                *held = !*held;
                calls.push(net.start(0, call(ino, owner, at)));
            }
            if dice.below(3) == 0 {
                net.start(1, test(ino, A, 9));
            }
            let done = |net: &Net| calls.iter().all(|id| net.outcomes.contains_key(&(0, *id)));
            assert!(
                net.run_until(Duration::from_secs(20), done),
                "seed {seed}, round {round}"
            );
            for id in &calls {
                assert_eq!(net.outcomes[&(0, *id)], Ok(Reply::Done), "seed {seed}");
            }
        }
        for (at, held) in held.into_iter().enumerate() {
            let found = net.call(1, test(ino, A, at as u64));
            assert_eq!(
                found,
                Ok(Reply::Lock(held.then_some(byte(at as u64)))),
                "seed {seed}"
            );
        }
    }
}
