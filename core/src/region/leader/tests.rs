//! What a leader owes to others, step by step.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::port::{Asker, Input, Output, Token};
use super::queries::Query;
use super::{Config, Leader};
use crate::error::FsError;
use crate::ids::{Epoch, Fence, GroupId, Renewal, SessionId};
use crate::place::{Bucket, Ino, Place, Places};
use crate::region::command::{Command, CommandBody, Descriptor};
use crate::region::key;
use crate::region::mem::MemKv;
use crate::request::{
    Answer, Aside, ChunkName, ContentOp, DataOp, DataQuery, DataReply, Header, Leadership,
    LeaseKind, MetaOp, MetaQuery, MetaReply, Refusal, Request, RequestBody, SlotUse, Space,
};
use crate::time::{Instant, Now, Timestamp};
use crate::txn::{Decision, Step, TxnId, TxnRecord, TxnReply};

fn now(ms: u64) -> Now {
    Now {
        mono: Instant(0) + Duration::from_millis(ms),
        ..Now::default()
    }
}

/// A meta region of the first bucket alone.
pub(super) fn region() -> MemKv {
    founded(Space::Meta, Bucket(0).places())
}

/// A data region of everything.
fn data_region() -> MemKv {
    founded(Space::Data, Places::ALL)
}

fn founded(space: Space, places: Places) -> MemKv {
    let mut state = MemKv::default();
    let descriptor = Descriptor {
        space,
        places,
        epoch: Epoch(1),
    };
    crate::region::found(&mut state, &descriptor, None).expect("memory");
    state
}

fn lead(state: &MemKv) -> Leader {
    let config = Config {
        group: GroupId(1),
        term: 1,
        requests_max: 99,
    };
    Leader::new(config, 1, now(0), state).expect("memory")
}

/// The questions to participants among what the leader wants, and whether it forgets a transaction.
fn told(leader: &mut Leader) -> (Vec<(Places, Token)>, bool) {
    let (mut asked, mut forgets) = (Vec::new(), false);
    while let Some(output) = leader.poll_output() {
        if let Output::AskTxn { token, places, .. } = output {
            asked.push((places, token));
        } else if let Output::Propose { command, .. } = output {
            forgets |= matches!(command.body, CommandBody::Forget { .. });
        }
    }
    (asked, forgets)
}

/// P7: the record of a commit stays until every participant has confirmed. What one of them says twice, because it was
/// told twice, is no other's confirmation.
#[test]
fn a_commit_is_forgotten_only_when_each_participant_has_confirmed() {
    let mut state = region();
    let txn = TxnId {
        session: SessionId(7),
        slot: SlotUse {
            slot: 0,
            sequence: 1,
        },
        place: Place(0),
        began: Timestamp::default(),
    };
    let elsewhere = |bucket| Step::Moved {
        ino: Ino::new(Place::new(Bucket(bucket), 0), 1),
        parent: None,
    };
    let record = TxnRecord {
        txn,
        steps: vec![elsewhere(1), elsewhere(2), elsewhere(3)],
        reply: MetaReply::Done,
        decision: Some(Decision::Commit(Timestamp::default())),
    };
    crate::region::write(&mut state, &key::txn(&txn), &record).expect("memory");
    let mut leader = lead(&state);
    let (first, _) = told(&mut leader);
    assert_eq!(first.len(), 3, "each participant is told");
    let answer = |leader: &mut Leader, at, token, answer| {
        let input = Input::TxnAnswer { token, answer };
        leader.handle_input(now(at), &state, input).expect("memory");
    };
    // One can't be reached; the others are slow. Perhaps all are told again meanwhile.
    answer(&mut leader, 10, first[0].1, None);
    leader
        .handle_input(now(400), &state, Input::Tick)
        .expect("memory");
    let (second, forgets) = told(&mut leader);
    assert!(!forgets);
    let last = first[2].0;
    for (places, token) in first[1..].iter().chain(&second) {
        if *places != last {
            answer(&mut leader, 450, *token, Some(TxnReply::Finished));
        }
    }
    let (third, forgets) = told(&mut leader);
    assert!(!forgets, "the last participant has confirmed nothing");
    // It never answers what it was told first.
    answer(&mut leader, 500, first[2].1, None);
    leader
        .handle_input(now(900), &state, Input::Tick)
        .expect("memory");
    let (fourth, forgets) = told(&mut leader);
    assert!(!forgets);
    for (_, token) in second.iter().chain(&third).chain(&fourth) {
        answer(&mut leader, 950, *token, Some(TxnReply::Finished));
    }
    let (_, forgets) = told(&mut leader);
    assert!(forgets, "now all have");
}

/// P9: however many orphans a session holds open, it is asked about all of them in turn.
#[test]
fn orphans_that_stay_open_keep_none_from_being_asked_about() {
    let mut state = region();
    let holder = SessionId(3);
    for number in 1..=600 {
        let ino = Ino::new(Place::new(Bucket(0), 0), number);
        let orphan = key::of_inode(key::Kind::Orphan, ino);
        crate::region::write(&mut state, &orphan, &vec![holder]).expect("memory");
    }
    let mut leader = lead(&state);
    let mut asked = BTreeSet::new();
    for step in 1..=3 {
        let tick = leader.handle_input(now(step * 600), &state, Input::Tick);
        tick.expect("memory");
        while let Some(output) = leader.poll_output() {
            if let Output::AskOpen { inos, .. } = output {
                asked.extend(inos);
            }
        }
    }
    assert_eq!(asked.len(), 600);
}

/// P8: a session that is over and has not heard of it yet gets no lease: the next leader would not wait for it.
#[test]
fn a_session_that_is_over_is_not_admitted_to_leases() {
    let mut state = region();
    let (dead, file) = (SessionId(5), Ino::new(Place::new(Bucket(0), 0), 9));
    let mut leader = lead(&state);
    let own = |body| Command {
        epoch: Epoch(1),
        session: SessionId::CLUSTER,
        renewal: Renewal(0),
        slot: None,
        time: Timestamp::default(),
        unseen: Vec::new(),
        body: CommandBody::Meta(body),
    };
    let end = own(MetaOp::EndSession { session: dead });
    crate::region::apply(&mut state, &end, &Bytes::new()).expect("memory");
    let admit = own(MetaOp::AdmitSession { session: dead });
    let query = MetaQuery::Open {
        ino: file,
        lease: LeaseKind::Shared,
        patient: true,
        held: None,
    };
    let header = Header {
        group: GroupId(1),
        epoch: Epoch(1),
        session: dead,
        renewal: Renewal(1),
        slot: None,
        seen: Timestamp::default(),
        aside: Aside::default(),
    };
    let request = Request {
        header,
        body: RequestBody::MetaQuery(query),
    };
    leader.ask_admission(now(0), dead, Query::new(Asker(1), request));
    let Some(Output::Propose { token, .. }) = leader.poll_output() else {
        panic!("it is admitted first");
    };
    let applied = crate::region::apply(&mut state, &admit, &Bytes::new()).expect("memory");
    let applied = Input::Applied { token, applied };
    leader
        .handle_input(now(1), &state, applied)
        .expect("memory");
    let refused = Answer::Refused(Refusal::SessionEnded);
    assert!(
        matches!(leader.poll_output(), Some(Output::Answer { answer, .. }) if answer == refused)
    );
}

const CHUNK: ChunkName = ChunkName {
    ino: Ino::new(Place::new(Bucket(0), 0), 9),
    version: 1,
    number: 0,
};

fn read_of(fence: Fence, (offset, len): (u32, u32), led: Option<Leadership>) -> RequestBody {
    RequestBody::DataQuery(DataQuery::Read {
        chunk: CHUNK,
        fence,
        offset,
        len,
        absent_is_hole: true,
        led,
    })
}

/// What a new leader does about a request once the others have confirmed that it leads.
fn confirmed(state: &MemKv, body: RequestBody) -> Output {
    let mut leader = lead(state);
    ask(&mut leader, state, body);
    let Some(Output::ReadIndex { token }) = leader.poll_output() else {
        panic!("it asks whether it still leads");
    };
    let ready = Input::ReadReady { token };
    leader.handle_input(now(1), state, ready).expect("memory");
    leader.poll_output().expect("one thing")
}

/// P8: a higher fence is committed at the chunk before a read is served, also at one that is not yet written: else what a
/// dead holder has in some log would still change what was read.
#[test]
fn a_read_under_a_higher_fence_raises_it_first() {
    let fence = Fence(3);
    let said = confirmed(&data_region(), read_of(fence, (0, 10), None));
    let raised = CommandBody::Data(DataOp::RaiseFence {
        chunk: CHUNK,
        fence,
    });
    assert!(matches!(said, Output::Propose { command, .. } if command.body == raised));
}

/// P9: nodes enforce limits, whoever asks.
#[test]
fn a_read_that_leaves_its_chunk_is_refused_and_reads_nothing() {
    for range in [(0, u32::MAX), (u32::MAX, 1), (1 << 20, 1)] {
        let said = confirmed(&data_region(), read_of(Fence(0), range, None));
        let refused = Answer::Data(Err(FsError::Invalid));
        assert!(
            matches!(said, Output::Answer { answer, .. } if answer == refused),
            "{range:?}"
        );
    }
}

/// P8: a deposed leader knows nothing of the leases that its successor gave: who has none here is told so only once the
/// others have confirmed that it still leads.
#[test]
fn that_a_lease_is_missing_is_said_only_by_a_confirmed_leader() {
    let op = MetaOp::Content {
        ino: Ino::new(Place::new(Bucket(0), 0), 9),
        fence: Fence(0),
        change: ContentOp::ToChunks,
    };
    let said = confirmed(&region(), RequestBody::MetaOp(op));
    let refused = Answer::Refused(Refusal::NoLease);
    assert!(matches!(said, Output::Answer { answer, .. } if answer == refused));
}

fn ask(leader: &mut Leader, state: &MemKv, body: RequestBody) {
    let header = Header {
        group: GroupId(1),
        epoch: Epoch(1),
        session: SessionId(5),
        renewal: Renewal(1),
        slot: None,
        seen: Timestamp::default(),
        aside: Aside::default(),
    };
    let input = Input::Request {
        asker: Asker(1),
        request: Request { header, body },
        payload: Bytes::new(),
    };
    leader.handle_input(now(0), state, input).expect("memory");
}

/// P8, local reads: without a round only for who has had an answer of this very leadership.
#[test]
fn only_the_leadership_that_has_answered_reads_without_a_round() {
    let state = data_region();
    let mut leader = lead(&state);
    let mut read = |led: Option<(u64, u64)>| {
        let led = led.map(|(group, term)| Leadership {
            group: GroupId(group),
            term,
        });
        ask(&mut leader, &state, read_of(Fence(0), (0, 10), led));
        let said = leader.poll_output().expect("one thing");
        assert!(leader.poll_output().is_none());
        said
    };
    let reply = Answer::Data(Ok(DataReply::Read { term: 1 }));
    assert!(
        matches!(read(Some((1, 1))), Output::Answer { answer, payload, .. }
            if answer == reply && payload[..] == [0; 10])
    );
    for led in [None, Some((1, 2)), Some((1, 0)), Some((2, 1))] {
        assert!(matches!(read(led), Output::ReadIndex { .. }), "{led:?}");
    }
}
