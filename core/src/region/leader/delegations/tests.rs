//! What the leader makes of requests that meet a delegation, and what entries make of it.

use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use crate::attr::{FileKind, NewInode};
use crate::error::FsError;
use crate::ids::{Epoch, GroupId, Renewal, SessionId, VolumeId};
use crate::limits::{LOCKS_AWAITED, LOCKS_CONTENDED};
use crate::locks::HeldLock;
use crate::place::{Bucket, Ino, Place, Salt};
use crate::region::command::{Applied, Command, CommandBody};
use crate::region::inode::{self, Inode};
use crate::region::leader::port::{Asker, Input, Output};
use crate::region::leader::tests::region;
use crate::region::leader::{Config, Leader};
use crate::region::mem::MemKv;
use crate::request::{
    Answer, Aside, Header, MetaOp, MetaQuery, MetaReply, RecallKind, Refusal, Request, RequestBody,
    SlotUse,
};
use crate::time::{Instant, Now, Timestamp};
use crate::vfs::{LockKind, LockOwner, LockRange};

const FILE: Ino = Ino::new(Place::new(Bucket(0), 0), 9);
const HOLDER: SessionId = SessionId(3);
const OTHER: SessionId = SessionId(4);

/// A leader over a state in which what it proposes is applied at once.
struct Region {
    state: MemKv,
    leader: Leader,
    at: Duration,
    asked: u64,
    sequence: u64,
    answers: Vec<(u64, Answer)>,
    recalled: Vec<(SessionId, u64)>,
}

const fn lock(at: u64) -> LockRange {
    LockRange {
        start: at,
        end: at,
        kind: LockKind::Exclusive,
        pid: 7,
    }
}

const fn set(at: u64, delegate: Option<u64>) -> MetaOp {
    MetaOp::SetLock {
        ino: FILE,
        owner: LockOwner(1),
        lock: lock(at),
        delegate,
    }
}

fn give_back(grant: u64, held: &[u64]) -> MetaOp {
    let held_lock = |at: &u64| HeldLock {
        owner: LockOwner(1),
        range: lock(*at),
    };
    MetaOp::ReturnLocks {
        ino: FILE,
        grant,
        locks: Some(held.iter().map(held_lock).collect()),
        recalled: true,
    }
}

fn lead(state: &MemKv, term: u64) -> Leader {
    let config = Config {
        group: GroupId(1),
        term,
        requests_max: 99,
    };
    Leader::new(config, 1, Now::default(), state).expect("memory")
}

impl Region {
    fn new() -> Self {
        let mut state = region();
        let new = NewInode {
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Bytes::new(),
        };
        let file = Inode::new(&new, Salt(0), FILE, VolumeId(1), Timestamp::default());
        inode::put(&mut state, FILE, &file).expect("memory");
        let leader = lead(&state, 1);
        Self {
            state,
            leader,
            at: Duration::from_secs(100),
            asked: 0,
            sequence: 0,
            answers: Vec::new(),
            recalled: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Instant(0) + self.at,
            wall: Timestamp::default() + self.at,
        }
    }

    fn give(&mut self, input: Input) {
        let now = self.now();
        let given = self.leader.handle_input(now, &self.state, input);
        given.expect("memory");
        while let Some(output) = self.leader.poll_output() {
            let next = match output {
                Output::Propose { token, command, .. } => {
                    let applied = self.apply(&command);
                    Input::Applied { token, applied }
                }
                Output::ReadIndex { token } => Input::ReadReady { token },
                Output::Answer { asker, answer, .. } => {
                    self.answers.push((asker.0, answer));
                    continue;
                }
                Output::Recall { session, recall } => {
                    assert_eq!((recall.ino, recall.want), (FILE, RecallKind::Locks));
                    self.recalled.push((session, recall.round));
                    continue;
                }
                other @ (Output::AskTxn { .. }
                | Output::AskQuery { .. }
                | Output::DeleteChunks { .. }
                | Output::Renewed { .. }
                | Output::AskOpen { .. }) => panic!("nothing else is wanted: {other:?}"),
            };
            let given = self.leader.handle_input(now, &self.state, next);
            given.expect("memory");
        }
    }

    fn apply(&mut self, command: &Command) -> Applied {
        crate::region::apply(&mut self.state, command, &Bytes::new()).expect("memory")
    }

    fn send(&mut self, session: SessionId, slot: Option<SlotUse>, body: RequestBody) -> u64 {
        self.asked += 1;
        let header = Header {
            group: GroupId(1),
            epoch: Epoch(1),
            session,
            renewal: Renewal(1),
            slot,
            seen: Timestamp::default(),
            aside: Aside::default(),
        };
        self.give(Input::Request {
            asker: Asker(self.asked),
            request: Request { header, body },
            payload: Bytes::new(),
        });
        self.asked
    }

    fn ask(&mut self, session: SessionId, op: MetaOp) -> u64 {
        self.sequence += 1;
        let sequence = self.sequence;
        let slot = SlotUse { slot: 0, sequence };
        self.send(session, Some(slot), RequestBody::MetaOp(op))
    }

    fn test(&mut self, session: SessionId, at: u64) -> u64 {
        let query = MetaQuery::TestLock {
            ino: FILE,
            owner: LockOwner(1),
            lock: lock(at),
        };
        self.send(session, None, RequestBody::MetaQuery(query))
    }

    fn answer(&self, asked: u64) -> Option<&Answer> {
        let mut answers = self.answers.iter();
        answers
            .find(|(to, _)| *to == asked)
            .map(|(_, answer)| answer)
    }

    #[track_caller]
    fn says(&self, asked: u64, reply: Result<MetaReply, FsError>) {
        assert_eq!(self.answer(asked), Some(&Answer::Meta(reply)));
    }
}

fn given(grant: u64, held: &[u64]) -> Result<MetaReply, FsError> {
    let held_lock = |at: &u64| HeldLock {
        owner: LockOwner(1),
        range: lock(*at),
    };
    let locks = held.iter().map(held_lock).collect();
    Ok(MetaReply::LocksGiven { grant, locks })
}

#[test]
fn who_meets_a_delegation_waits_until_it_is_back_and_is_answered_by_what_is_held_then() {
    let mut region = Region::new();
    let granted = region.ask(HOLDER, set(0, Some(5)));
    region.says(granted, given(5, &[0]));
    let yours = region.ask(HOLDER, set(2, Some(6)));
    region.says(yours, Ok(MetaReply::LocksAreYours { grant: 5 }));
    let (sets, tests) = (region.ask(OTHER, set(1, Some(1))), region.test(OTHER, 0));
    assert_eq!(region.recalled, vec![(HOLDER, 5), (HOLDER, 5)]);
    assert_eq!((region.answer(sets), region.answer(tests)), (None, None));
    region.ask(HOLDER, give_back(4, &[]));
    assert_eq!(region.answer(sets), None, "that was another one");
    region.ask(HOLDER, give_back(5, &[1]));
    region.says(sets, Err(FsError::WouldBlock));
    region.says(tests, Ok(MetaReply::Lock(None)));
    // Both want it: nobody is given it for a while.
    let unlock = MetaOp::Unlock {
        ino: FILE,
        owner: LockOwner(1),
        start: 0,
        end: 9,
    };
    region.ask(HOLDER, unlock);
    let again = region.ask(HOLDER, set(0, Some(7)));
    region.says(again, Ok(MetaReply::Done));
    region.at += LOCKS_CONTENDED + Duration::from_millis(1);
    let later = region.ask(HOLDER, set(1, Some(8)));
    let both = region.answer(later).cloned();
    let joined = matches!(&both, Some(Answer::Meta(Ok(MetaReply::LocksGiven { grant: 8, locks })))
        if locks.len() == 1);
    assert!(joined, "{both:?}");
}

#[test]
fn nobody_is_given_what_somebody_else_has_a_lock_of() {
    let mut region = Region::new();
    region.ask(OTHER, set(1, None));
    let beside = region.ask(HOLDER, set(0, Some(1)));
    region.says(beside, Ok(MetaReply::Done));
}

#[test]
fn an_end_of_the_session_frees_what_was_delegated() {
    let mut region = Region::new();
    region.ask(HOLDER, set(0, Some(5)));
    let waits = region.ask(OTHER, set(0, None));
    assert_eq!(region.answer(waits), None);
    region.give(Input::SessionOver { session: HOLDER });
    region.says(waits, Ok(MetaReply::Done));
}

#[test]
fn who_waits_for_long_asks_again_and_so_does_the_recall() {
    let mut region = Region::new();
    region.ask(HOLDER, set(0, Some(5)));
    let (sets, tests) = (region.ask(OTHER, set(0, None)), region.test(OTHER, 0));
    region.at += LOCKS_AWAITED;
    assert!(
        region
            .leader
            .poll_timeout()
            .is_some_and(|(at, _)| at <= region.now().mono)
    );
    region.give(Input::Tick);
    let busy = Answer::Refused(Refusal::Busy);
    assert_eq!(region.answer(sets), Some(&busy));
    assert_eq!(region.answer(tests), Some(&busy));
    region.ask(OTHER, set(0, None));
    assert_eq!(region.recalled.len(), 3);
}

#[test]
fn the_next_leader_finds_it_and_a_repeated_grant_is_the_same() {
    let mut region = Region::new();
    let slot = Some(SlotUse {
        slot: 3,
        sequence: 1,
    });
    let wish = RequestBody::MetaOp(set(0, Some(5)));
    region.send(HOLDER, slot, wish.clone());
    region.leader = lead(&region.state, 2);
    let repeated = region.send(HOLDER, slot, wish);
    region.says(repeated, given(5, &[0]));
    let waits = region.ask(OTHER, set(0, None));
    assert_eq!(region.recalled, vec![(HOLDER, 5)]);
    let unused = MetaOp::ReturnLocks {
        ino: FILE,
        grant: 5,
        locks: None,
        recalled: true,
    };
    region.ask(HOLDER, unused);
    region.says(waits, Err(FsError::WouldBlock));
}

/// The leader may not have seen it yet: the entry itself changes nothing.
#[test]
fn an_entry_that_meets_a_delegation_changes_nothing() {
    let mut region = Region::new();
    region.ask(HOLDER, set(0, Some(5)));
    let before = region.state.clone();
    let command = Command {
        epoch: Epoch(1),
        session: OTHER,
        renewal: Renewal(1),
        slot: Some(SlotUse {
            slot: 0,
            sequence: 1,
        }),
        time: region.now().wall,
        unseen: Vec::new(),
        body: CommandBody::Meta(set(7, None)),
    };
    let applied = region.apply(&command);
    assert!(matches!(applied, Applied::Delegated(FILE, by) if by.session == HOLDER));
    let locks = |state: &MemKv| crate::region::lock::delegation(state, FILE).expect("memory");
    assert_eq!(locks(&region.state), locks(&before));
    let yours = region.ask(HOLDER, set(7, None));
    region.says(yours, Ok(MetaReply::LocksAreYours { grant: 5 }));
}
