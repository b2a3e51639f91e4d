//! What the simulated network promises when things go wrong (the list is in src/net/mod.rs).
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use polyfs_node::runtime::{Frame, FrameReceiver, FrameSender, Listener, Net, NetError, Runtime};
use polyfs_runtime_sim::{LinkSettings, Machine, SimRuntime, World};

const SECOND: Duration = Duration::from_secs(1);

fn numbered(number: u64) -> Frame {
    Frame {
        header: Bytes::copy_from_slice(&number.to_le_bytes()),
        payload: vec![],
    }
}

fn number(frame: &Frame) -> u64 {
    u64::from_le_bytes(frame.header[..].try_into().unwrap())
}

/// What happened, with the true time.
type Log<T> = Arc<Mutex<Vec<(Duration, T)>>>;

fn add<T>(world: &World, log: &Log<T>, what: T) {
    log.lock().push((world.now(), what));
}

/// A machine that answers each frame with itself, and tells how its connections end.
fn echo(world: &World, name: &str) -> (Machine, Log<Result<u64, NetError>>) {
    let machine = world.machine(name);
    let log: Log<_> = Arc::default();
    let (there, then) = (world.clone(), Arc::clone(&log));
    machine.start(move |runtime: SimRuntime| {
        let (there, then) = (there.clone(), Arc::clone(&then));
        async move {
            let mut listener = runtime.net().listen("0.0.0.0:7000").await.unwrap();
            loop {
                let (mut sender, mut receiver, _) = listener.accept().await.unwrap();
                let (there, then) = (there.clone(), Arc::clone(&then));
                runtime.spawn(async move {
                    loop {
                        match receiver.receive().await {
                            Ok(frame) => {
                                add(&there, &then, Ok(number(&frame)));
                                let _ = sender.send(vec![frame]).await;
                            }
                            Err(error) => {
                                add(&there, &then, Err(error));
                                return;
                            }
                        }
                    }
                });
            }
        }
    });
    (machine, log)
}

/// A machine that dials `to` once, sends a number every 100 ms, and tells what comes back and how it ends.
fn client(world: &World, name: &str, to: &str) -> (Machine, Log<Result<u64, NetError>>) {
    let machine = world.machine(name);
    let log: Log<_> = Arc::default();
    let (there, then) = (world.clone(), Arc::clone(&log));
    let address = format!("{to}:7000");
    machine.start(move |runtime: SimRuntime| {
        let (there, then) = (there.clone(), Arc::clone(&then));
        let address = address.clone();
        async move {
            let (mut sender, mut receiver) = match runtime.net().dial(&address).await {
                Ok(halves) => halves,
                Err(error) => return add(&there, &then, Err(error)),
            };
            let clock = runtime.clone();
            runtime.spawn(async move {
                for n in 0.. {
                    if sender.send(vec![numbered(n)]).await.is_err() {
                        return;
                    }
                    clock.sleep(SECOND / 10).await;
                }
            });
            loop {
                let received = receiver.receive().await;
                let ended = received.is_err();
                add(
                    &there,
                    &then,
                    received.as_ref().map(number).map_err(Clone::clone),
                );
                if ended {
                    return;
                }
            }
        }
    });
    (machine, log)
}

fn end<T: Clone>(log: &Log<Result<T, NetError>>) -> Option<(Duration, NetError)> {
    let log = log.lock();
    log.iter()
        .find_map(|(at, what)| Some((*at, what.as_ref().err()?.clone())))
}

fn numbers(log: &Log<Result<u64, NetError>>) -> Vec<u64> {
    log.lock()
        .iter()
        .filter_map(|(_, what)| what.clone().ok())
        .collect()
}

fn assert_in_order(numbers: &[u64]) {
    assert!(
        numbers.iter().copied().eq(0..numbers.len() as u64),
        "in order, once, without a gap: {numbers:?}"
    );
}

#[test]
fn a_short_cut_delays_and_loses_nothing() {
    for one_way in [false, true] {
        World::run(1, async move |world| {
            let (server, _) = echo(&world, "server");
            let (client, back) = client(&world, "client", "server");
            world.sleep(SECOND).await;
            if one_way {
                world.network().one_way(&client, &server);
            } else {
                world.network().partition(&[&client], &[&server]);
            }
            world.sleep(SECOND / 100).await;
            let before = numbers(&back).len();
            world.sleep(2 * SECOND).await;
            assert_eq!(numbers(&back).len(), before, "nothing gets through a cut");
            world.network().heal();
            world.sleep(2 * SECOND).await;
            assert_eq!(end(&back), None, "three seconds break no connection");
            let numbers = numbers(&back);
            assert_in_order(&numbers);
            assert!(
                numbers.len() >= 45,
                "what waited has arrived: {}",
                numbers.len()
            );
        });
    }
}

#[test]
fn a_cut_the_other_way_lets_requests_through() {
    World::run(2, async |world| {
        let (server, seen) = echo(&world, "server");
        let (client, back) = client(&world, "client", "server");
        world.sleep(SECOND).await;
        world.network().one_way(&server, &client);
        world.sleep(SECOND / 100).await;
        let (before, seen_before) = (numbers(&back).len(), numbers(&seen).len());
        world.sleep(2 * SECOND).await;
        assert_eq!(numbers(&back).len(), before);
        assert!(
            numbers(&seen).len() >= seen_before + 15,
            "requests are carried out, answers lost"
        );
    });
}

#[test]
fn a_long_cut_breaks_both_ends_by_themselves() {
    World::run(3, async |world| {
        let (server, seen) = echo(&world, "server");
        let (client, back) = client(&world, "client", "server");
        world.sleep(SECOND).await;
        let cut = world.now();
        world.network().isolate(&server);
        world.sleep(9 * SECOND).await;
        for log in [&seen, &back] {
            let (at, why) = end(log).expect("a silent peer is given up");
            assert!(
                at - cut >= 5 * SECOND && at - cut <= 7 * SECOND,
                "{at:?} {why}"
            );
        }
        world.network().heal();
        drop(client);
    });
}

#[test]
fn a_dead_machine_says_nothing_and_a_restarted_one_resets() {
    World::run(4, async |world| {
        let (server, _) = echo(&world, "server");
        let (_client, back) = client(&world, "client", "server");
        world.sleep(SECOND).await;
        let crash = world.now();
        server.crash();
        world.sleep(4 * SECOND).await;
        assert_eq!(
            end(&back),
            None,
            "nobody tells that a machine has lost its power"
        );
        world.sleep(4 * SECOND).await;
        let (at, _) = end(&back).expect("it does not look alive for ever");
        assert!(at - crash >= 5 * SECOND, "{at:?}");
    });
    World::run(5, async |world| {
        let (server, _) = echo(&world, "server");
        let (_client, back) = client(&world, "client", "server");
        world.sleep(SECOND).await;
        server.crash();
        world.sleep(SECOND).await;
        let restart = world.now();
        server.restart();
        world.sleep(2 * SECOND).await;
        let (at, why) =
            end(&back).expect("the new life knows nothing of the old one's connections");
        assert!(
            at >= restart && at - restart <= SECOND + SECOND / 10,
            "{at:?} {why}"
        );
    });
}

#[test]
fn a_killed_process_closes_its_connections_at_once() {
    World::run(6, async |world| {
        let (server, _) = echo(&world, "server");
        let (_client, back) = client(&world, "client", "server");
        world.sleep(SECOND).await;
        let kill = world.now();
        server.kill();
        world.sleep(SECOND).await;
        let (at, _) = end(&back).expect("its kernel closes");
        assert!(at - kill < SECOND / 10, "{at:?}");
    });
}

#[test]
fn dials_end_in_time() {
    World::run(7, async |world| {
        let refused_at =
            |log: &Log<Result<u64, NetError>>| end(log).map(|(at, why)| (at, why.to_string()));
        let (server, _) = echo(&world, "server");
        let nobody = world.machine("nobody");
        nobody.start(async |_| std::future::pending().await);
        let start = world.now();
        let (_a, a) = client(&world, "a", "nobody");
        world.sleep(SECOND / 10).await;
        let (at, why) = refused_at(&a).expect("where nobody listens a dial is refused at once");
        assert!(
            at - start < SECOND / 10 && why.contains("refused"),
            "{at:?} {why}"
        );

        server.crash();
        let start = world.now();
        let (_b, b) = client(&world, "b", "server");
        world.sleep(3 * SECOND).await;
        let (at, _) = refused_at(&b).expect("a dial to a dead machine ends");
        assert!(
            at - start >= 2 * SECOND && at - start < 5 * SECOND / 2,
            "{at:?}"
        );

        server.restart();
        let c_machine = world.machine("c");
        world.network().one_way(&server, &c_machine);
        let log: Log<Result<u64, NetError>> = Arc::default();
        let (there, then) = (world.clone(), Arc::clone(&log));
        c_machine.start(move |runtime: SimRuntime| {
            let (there, then) = (there.clone(), Arc::clone(&then));
            async move {
                let dialled = runtime.net().dial("server:7000").await;
                add(&there, &then, dialled.map(|_| 0));
            }
        });
        world.sleep(SECOND).await;
        world.network().heal();
        world.sleep(SECOND).await;
        assert_eq!(
            numbers(&log),
            [0],
            "a dial goes on trying while the way is cut"
        );
    });
}

#[test]
fn a_paused_machine_takes_bytes_and_says_nothing() {
    World::run(8, async |world| {
        let (server, _) = echo(&world, "server");
        let (_early, before) = client(&world, "early", "server");
        world.sleep(SECOND).await;
        server.pause();
        world.sleep(SECOND / 10).await;
        let count = numbers(&before).len();
        let (_late, after) = client(&world, "late", "server");
        world.sleep(20 * SECOND).await;
        assert_eq!(numbers(&before).len(), count);
        assert_eq!(numbers(&after).len(), 0);
        assert_eq!(
            (end(&before), end(&after)),
            (None, None),
            "its kernel still acknowledges"
        );
        server.resume();
        world.sleep(SECOND).await;
        for log in [&before, &after] {
            let numbers = numbers(log);
            assert_in_order(&numbers);
            assert!(numbers.len() > 190, "{}", numbers.len());
        }
    });
}

#[test]
fn a_bad_network_delays_breaks_and_never_invents() {
    for seed in 100..120 {
        World::run(seed, async move |world| {
            world.network().set_all(LinkSettings {
                delay: Duration::from_millis(1)..Duration::from_millis(30),
                slow_per_million: 50_000,
                breaks_per_million: 3_000,
                damage_per_million: 3_000,
                ..LinkSettings::default()
            });
            let (_server, seen) = echo(&world, "server");
            let clients: Vec<_> = (0..4)
                .map(|n| client(&world, &format!("client{n}"), "server"))
                .collect();
            world.sleep(30 * SECOND).await;
            assert!(!numbers(&seen).is_empty());
            for (_, log) in &clients {
                let got = log.lock();
                let mut next = 0;
                for (at, what) in got.iter() {
                    match what {
                        Ok(n) => {
                            assert_eq!(*n, next, "seed {seed} at {at:?}: in order and once");
                            next += 1;
                        }
                        Err(_) => assert_eq!(*at, got.last().unwrap().0, "an end is the end"),
                    }
                }
            }
        });
    }
}

#[test]
fn damage_is_noticed() {
    World::run(9, async |world| {
        world.network().set_all(LinkSettings {
            damage_per_million: 100_000,
            ..LinkSettings::default()
        });
        let (_server, seen) = echo(&world, "server");
        let (_client, back) = client(&world, "client", "server");
        world.sleep(30 * SECOND).await;
        let ends = [end(&seen), end(&back)];
        assert!(
            ends.iter()
                .flatten()
                .any(|(_, why)| matches!(why, NetError::Garbage(_))),
            "{ends:?}"
        );
    });
}

#[test]
fn names_lead_to_new_addresses() {
    World::run(10, async |world| {
        let (server, _) = echo(&world, "server");
        world
            .network()
            .set_address(&server, "10.9.9.9".parse().unwrap());
        let (_by_name, by_name) = client(&world, "by-name", "server");
        let (_by_ip, by_ip) = client(&world, "by-ip", "10.9.9.9");
        let (_old, old) = client(&world, "old", "10.0.0.1");
        world.sleep(SECOND).await;
        assert!(!numbers(&by_name).is_empty() && !numbers(&by_ip).is_empty());
        assert!(numbers(&old).is_empty() && end(&old).is_some());
    });
}

#[test]
fn broken_by_a_firewall_both_ends_know_at_once() {
    World::run(11, async |world| {
        let (server, seen) = echo(&world, "server");
        let (client, back) = client(&world, "client", "server");
        world.sleep(SECOND).await;
        world.network().break_between(&server, &client);
        world.sleep(SECOND / 100).await;
        assert!(end(&seen).is_some() && end(&back).is_some());
    });
}

#[test]
fn what_is_on_the_way_when_it_is_cut_waits() {
    World::run(12, async |world| {
        world.network().set_delay(SECOND..SECOND + SECOND / 10);
        let (server, seen) = echo(&world, "server");
        let (client, _back) = client(&world, "client", "server");
        world.sleep(5 * SECOND).await;
        world.network().one_way(&client, &server);
        let count = numbers(&seen).len();
        assert!(count > 5);
        world.sleep(2 * SECOND).await;
        assert_eq!(numbers(&seen).len(), count, "ten frames were on their way");
        world.network().heal();
        world.sleep(4 * SECOND).await;
        assert_in_order(&numbers(&seen));
        assert!(numbers(&seen).len() > count + 30);
    });
}

#[test]
fn a_peer_that_reads_nothing_breaks_a_sender_that_waits_for_it() {
    for paused in [3 * SECOND, 20 * SECOND] {
        World::run(13, async move |world| {
            let (server, _) = echo(&world, "server");
            let machine = world.machine("client");
            let log: Log<Result<(), NetError>> = Arc::default();
            let (there, then) = (world.clone(), Arc::clone(&log));
            machine.start(move |runtime: SimRuntime| {
                let (there, then) = (there.clone(), Arc::clone(&then));
                async move {
                    let dialled = runtime.net().dial("server:7000").await;
                    let (mut sender, _receiver) = dialled.unwrap();
                    runtime.sleep(SECOND).await;
                    for _ in 0..10 {
                        let mut frame = numbered(1);
                        frame.payload = vec![vec![0; 1 << 20].into()];
                        add(&there, &then, sender.send(vec![frame]).await);
                    }
                }
            });
            world.sleep(SECOND).await;
            server.pause();
            world.sleep(paused).await;
            server.resume();
            world.sleep(20 * SECOND).await;
            assert_eq!(log.lock().len(), 10);
            let broken = end(&log).map(|(at, _)| at);
            if paused < 5 * SECOND {
                assert_eq!(broken, None, "a short pause breaks nothing");
            } else {
                let at = broken.expect("a long one does");
                assert!(at > 6 * SECOND && at < 9 * SECOND, "{at:?}");
            }
        });
    }
}
