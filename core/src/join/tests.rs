//! Founding, scripted and simulated: many nodes and waypoints under a seed.

use super::*;
use std::string::ToString;
use std::vec;

fn at(ms: u64) -> Now {
    Now {
        mono: Instant(0) + Duration::from_millis(ms),
        ..Now::default()
    }
}

fn config(record: Record) -> Config {
    Config {
        waypoints: vec!["w".to_string()],
        address: "me:1".to_string(),
        store: StoreId(5),
        boot: BootNumber(1),
        expect: 1,
        join_only: false,
        record,
    }
}

/// Runs one node against one scripted waypoint until it serves or `until` ms have passed.
fn run(
    join: &mut Join,
    until: u64,
    answer: &mut dyn FnMut(&Request) -> Option<Answer>,
) -> Vec<Output> {
    let mut seen = vec![];
    for ms in (0..until).step_by(50) {
        join.handle_input(at(ms), Input::Tick);
        while let Some(output) = join.poll_output() {
            seen.push(output.clone());
            match output {
                Output::Ask { ask, request, .. } => {
                    let reply = answer(&request).map(|answer| Reply {
                        waypoint: WaypointId(1),
                        candidates: 1,
                        answer,
                    });
                    join.handle_input(at(ms), Input::Answered { ask, reply });
                }
                Output::Persist { op, .. } => join.handle_input(at(ms), Input::Persisted { op }),
                Output::Prepare(cluster) => join.handle_input(at(ms), Input::Prepared(cluster)),
                Output::JoinVia { cluster, .. } => {
                    let answer = JoinAnswer::Accepted {
                        cluster,
                        node: NodeId(9),
                    };
                    join.handle_input(at(ms), Input::Joined(answer));
                }
                Output::Serve { .. } => return seen,
                Output::Peers(_) | Output::OtherCluster(..) | Output::Waiting(_) => {}
            }
        }
    }
    seen
}

#[test]
fn a_fresh_node_joins_the_master_it_is_told() {
    let mut join = Join::new(config(Record::Fresh), 1, at(0));
    let seen = run(&mut join, 2000, &mut |_| {
        Some(Answer::Master {
            cluster: ClusterId(3),
            address: "m:1".to_string(),
            others: Vec::new(),
        })
    });
    assert!(matches!(
        seen.last(),
        Some(Output::Serve {
            node: NodeId(9),
            founded: false,
            ..
        })
    ));
    assert!(join.is_member());
}

#[test]
fn three_rounds_of_none_found_and_the_record_comes_before_the_claim() {
    let mut join = Join::new(config(Record::Fresh), 1, at(0));
    let seen = run(&mut join, 9000, &mut |request| {
        Some(match request {
            Request::Who { .. } | Request::Where => Answer::None,
            Request::Claim(_) => Answer::ClaimGranted,
            Request::Found { .. } => Answer::Founded,
            Request::Register(_) | Request::Withdraw(_) | Request::Forget(_) => Answer::Done,
        })
    });
    let place = |wanted: &dyn Fn(&Output) -> bool| seen.iter().position(wanted).expect("seen");
    let is_who = |o: &&Output| {
        matches!(
            o,
            Output::Ask {
                request: Request::Who { .. },
                ..
            }
        )
    };
    let record = place(&|o| {
        matches!(
            o,
            Output::Persist {
                record: Record::Founding(_),
                ..
            }
        )
    });
    let claim = place(&|o| {
        matches!(
            o,
            Output::Ask {
                request: Request::Claim(_),
                ..
            }
        )
    });
    let prepare = place(&|o| matches!(o, Output::Prepare(_)));
    let member = place(&|o| {
        matches!(
            o,
            Output::Persist {
                record: Record::Member { .. },
                ..
            }
        )
    });
    assert_eq!(seen[..record].iter().filter(is_who).count(), 3);
    assert!(record < claim && claim < prepare && prepare < member);
    assert!(matches!(
        seen.last(),
        Some(Output::Serve {
            node: FOUNDER,
            founded: true,
            ..
        })
    ));
}

#[test]
fn nobody_founds_over_a_lost_cluster_or_without_every_waypoint_and_says_why() {
    for (answer, text) in [
        (Some(Answer::Lost(ClusterId(3))), "forget"),
        (None, "waypoint w does not answer"),
        (Some(Answer::JustStarted), "just started"),
    ] {
        let mut join = Join::new(config(Record::Fresh), 1, at(0));
        let seen = run(&mut join, 20_000, &mut |_| answer.clone());
        assert!(!seen.iter().any(|o| matches!(o, Output::Persist { .. })));
        let said = seen
            .iter()
            .any(|o| matches!(o, Output::Waiting(w) if w.to_string().contains(text)));
        assert!(said, "{text}");
    }
}

#[test]
fn join_only_and_expect_wait() {
    for (join_only, expect) in [(true, 1), (false, 3)] {
        let mut join = Join::new(
            Config {
                join_only,
                expect,
                ..config(Record::Fresh)
            },
            1,
            at(0),
        );
        let seen = run(&mut join, 20_000, &mut |_| Some(Answer::None));
        assert!(!seen.iter().any(|o| matches!(o, Output::Persist { .. })));
    }
}

#[test]
fn a_member_serves_at_once_and_learns_where_the_others_are() {
    let record = Record::Member {
        cluster: ClusterId(3),
        node: NodeId(2),
        peers: vec![],
    };
    let mut join = Join::new(config(record), 1, at(0));
    assert!(matches!(
        join.poll_output(),
        Some(Output::Serve {
            node: NodeId(2),
            ..
        })
    ));
    let addresses = vec!["new:1".to_string(), "me:1".to_string()];
    let seen = run(&mut join, 2000, &mut |_| {
        Some(Answer::Registered {
            addresses: addresses.clone(),
            others: vec![],
        })
    });
    assert!(seen.contains(&Output::Peers(vec!["new:1".to_string()])));
    let registered = |o: &&Output| {
        matches!(
            o,
            Output::Ask {
                request: Request::Register(_),
                ..
            }
        )
    };
    assert_eq!(seen.iter().filter(registered).count(), 4);
}

#[test]
fn a_refused_founder_takes_back_its_record() {
    let claim = Claim {
        cluster: ClusterId(8),
        nonce: 8,
        waypoints: vec!["w".to_string()],
    };
    let mut join = Join::new(config(Record::Founding(claim)), 1, at(0));
    let seen = run(&mut join, 3000, &mut |request| {
        Some(match request {
            Request::Who { .. } | Request::Where => Answer::None,
            Request::Claim(_) => Answer::ClaimRefused(Refusal::Claimed),
            Request::Withdraw(_) => Answer::Done,
            Request::Found { .. } | Request::Register(_) | Request::Forget(_) => Answer::TooLarge,
        })
    });
    assert!(seen.iter().any(|o| matches!(
        o,
        Output::Persist {
            record: Record::Fresh,
            ..
        }
    )));
}
