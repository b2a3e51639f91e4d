//! What a waypoint answers, case by case.

use super::*;
use core::time::Duration;
use std::string::ToString;
use std::vec;

fn at(ms: u64) -> Now {
    Now {
        mono: Instant(0) + Duration::from_millis(ms),
        ..Now::default()
    }
}

fn waypoint(state_file: bool, remembered: Option<ClusterId>) -> Waypoint {
    let config = Config {
        id: WaypointId(7),
        state_file,
        remembered,
        skip_warm_up: false,
    };
    Waypoint::new(config, at(0))
}

fn member(cluster: u128, node: u64, boot: u64, term: Option<u64>) -> Member {
    Member {
        cluster: ClusterId(cluster),
        node: NodeId(node),
        store: StoreId(u128::from(node)),
        address: std::format!("n{node}:1"),
        boot: BootNumber(boot),
        master_term: term,
    }
}

fn claim(nonce: u128, names: &[&str]) -> Claim {
    let waypoints = names.iter().map(ToString::to_string).collect();
    Claim {
        cluster: ClusterId(nonce),
        nonce,
        waypoints,
    }
}

fn ask(w: &mut Waypoint, ms: u64, body: Request) -> Answer {
    w.handle_input(at(ms), Input::Request { from: 1, body });
    loop {
        match w.poll_output().expect("every request is answered") {
            Output::Reply { reply, .. } => return reply.answer,
            Output::Remember(_) => w.handle_input(at(ms), Input::Remembered),
        }
    }
}

const WHO: Request = Request::Who { store: StoreId(99) };

#[test]
fn a_fresh_waypoint_warms_up_then_knows_nobody() {
    let mut w = waypoint(false, None);
    assert_eq!(ask(&mut w, 1999, WHO), Answer::JustStarted);
    assert_eq!(ask(&mut w, 2000, WHO), Answer::None);
}

#[test]
fn the_highest_term_is_master_and_silence_turns_into_lost() {
    let mut w = waypoint(false, None);
    ask(&mut w, 0, Request::Register(member(5, 1, 1, None)));
    let addresses = vec!["n1:1".to_string()];
    assert_eq!(
        ask(&mut w, 1, WHO),
        Answer::Members {
            cluster: ClusterId(5),
            addresses
        }
    );
    ask(&mut w, 0, Request::Register(member(5, 1, 1, Some(3))));
    ask(&mut w, 0, Request::Register(member(5, 2, 1, Some(4))));
    let master = Answer::Master {
        cluster: ClusterId(5),
        address: "n2:1".to_string(),
        others: vec!["n1:1".to_string()],
    };
    assert_eq!(ask(&mut w, 10, WHO), master);
    assert_eq!(ask(&mut w, 60_000, WHO), Answer::Lost(ClusterId(5)));
    assert!(matches!(
        ask(&mut w, 60_000, Request::Claim(claim(9, &["a"]))),
        Answer::ClaimRefused(Refusal::Taken(_))
    ));
    let forget = Request::Forget(ClusterId(5));
    assert_eq!(ask(&mut w, 60_001, forget.clone()), Answer::Done);
    assert_eq!(ask(&mut w, 60_001, forget.clone()), Answer::None);
    assert_eq!(ask(&mut w, 60_002, WHO), Answer::None);
    ask(&mut w, 60_003, Request::Register(member(5, 1, 1, None)));
    let heard = ask(&mut w, 60_004, forget);
    assert!(matches!(heard, Answer::Members { .. }), "{heard:?}");
}

#[test]
fn an_older_start_does_not_replace_a_newer_one() {
    let mut w = waypoint(false, None);
    ask(&mut w, 0, Request::Register(member(5, 1, 2, Some(9))));
    ask(&mut w, 0, Request::Register(member(5, 1, 1, None)));
    assert!(matches!(ask(&mut w, 1, WHO), Answer::Master { .. }));
}

#[test]
fn two_clusters_are_a_conflict_that_both_hear_of() {
    let mut w = waypoint(false, None);
    ask(&mut w, 0, Request::Register(member(5, 1, 1, None)));
    let Answer::Registered { others, .. } =
        ask(&mut w, 0, Request::Register(member(6, 2, 1, None)))
    else {
        panic!("registered")
    };
    assert_eq!(others, vec![(ClusterId(5), "n1:1".to_string())]);
    assert_eq!(
        ask(&mut w, 1, WHO),
        Answer::Conflict(vec![ClusterId(5), ClusterId(6)])
    );
}

#[test]
fn only_the_standing_claim_becomes_a_registration() {
    let mut w = waypoint(false, None);
    let (a, b) = (claim(1, &["x"]), claim(2, &["x"]));
    assert_eq!(
        ask(&mut w, 2000, Request::Claim(a.clone())),
        Answer::ClaimGranted
    );
    assert_eq!(
        ask(&mut w, 2001, Request::Claim(b.clone())),
        Answer::ClaimRefused(Refusal::Claimed)
    );
    assert!(matches!(
        ask(&mut w, 2001, Request::Claim(claim(3, &["x", "y"]))),
        Answer::ClaimRefused(Refusal::OtherWaypoints { .. })
    ));
    // a renews; then it runs out, and b is next.
    assert_eq!(
        ask(&mut w, 11_000, Request::Claim(a.clone())),
        Answer::ClaimGranted
    );
    assert_eq!(
        ask(&mut w, 21_000, Request::Claim(b.clone())),
        Answer::ClaimGranted
    );
    let found = Request::Found {
        claim: a,
        member: member(1, 1, 1, None),
    };
    assert!(
        matches!(ask(&mut w, 21_001, found), Answer::ClaimRefused(_)),
        "a claim that ran out founds nothing"
    );
    let found = Request::Found {
        claim: b.clone(),
        member: member(2, 2, 1, None),
    };
    assert_eq!(ask(&mut w, 21_002, found.clone()), Answer::Founded);
    assert_eq!(
        ask(&mut w, 21_003, found.clone()),
        Answer::Founded,
        "a repeat is the same"
    );
    // Withdrawn, nothing of it comes back.
    assert_eq!(
        ask(&mut w, 21_004, Request::Withdraw(b.clone())),
        Answer::Done
    );
    assert_eq!(ask(&mut w, 21_005, WHO), Answer::None);
    assert!(matches!(
        ask(&mut w, 21_006, Request::Claim(b)),
        Answer::ClaimRefused(_)
    ));
    assert!(matches!(
        ask(&mut w, 21_006, found),
        Answer::ClaimRefused(_)
    ));
}

#[test]
fn a_state_file_remembers_before_the_founder_is_told() {
    let mut w = waypoint(true, None);
    let a = claim(1, &["x"]);
    ask(&mut w, 2000, Request::Claim(a.clone()));
    let body = Request::Found {
        claim: a,
        member: member(1, 1, 1, None),
    };
    w.handle_input(at(2001), Input::Request { from: 4, body });
    assert_eq!(w.poll_output(), Some(Output::Remember(Some(ClusterId(1)))));
    assert_eq!(w.poll_output(), None, "the answer waits for the write");
    w.handle_input(at(2002), Input::Remembered);
    assert!(matches!(w.poll_output(), Some(Output::Reply { to: 4, .. })));
    let mut again = waypoint(true, Some(ClusterId(1)));
    assert_eq!(ask(&mut again, 2000, WHO), Answer::Lost(ClusterId(1)));
    again.handle_input(
        at(2001),
        Input::Request {
            from: 1,
            body: Request::Forget(ClusterId(1)),
        },
    );
    assert_eq!(again.poll_output(), Some(Output::Remember(None)));
}

#[test]
fn the_last_member_of_a_cluster_may_make_room_for_its_next_one() {
    let mut w = waypoint(false, None);
    ask(&mut w, 2000, Request::Register(member(1, 1, 1, None)));
    let others = u64::try_from(MEMBERS_MAX).expect("a few thousand");
    for node in 2..=others {
        ask(&mut w, 2001, Request::Register(member(2, node, 1, None)));
    }
    let next = Request::Register(member(1, others + 1, 1, None));
    let answer = ask(&mut w, 2002, next);
    assert!(matches!(answer, Answer::Registered { others, .. } if others.len() == 1));
    assert_eq!(w.lost.len(), 0, "it has a living member");
}
