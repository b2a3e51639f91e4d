//! Machines: clocks, power, processes, and how their tasks and lanes end with them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant as _};
use parking_lot::Mutex;
use polyfs_core::time::Now;
use polyfs_node::runtime::{Lane, Runtime};
use polyfs_runtime_sim::{Machine, SimAsync, SimInstant, SimRuntime, World};

const SECOND: Duration = Duration::from_secs(1);

/// Counts seconds by its own clock, in a task of its own.
fn ticker(world: &World, name: &str) -> (Machine, Arc<AtomicU64>) {
    let machine = world.machine(name);
    let ticks = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&ticks);
    machine.start(move |runtime: SimRuntime| {
        let count = Arc::clone(&count);
        async move {
            let clock = runtime.clone();
            runtime.spawn(async move {
                loop {
                    clock.sleep(SECOND).await;
                    count.fetch_add(1, Relaxed);
                }
            });
            std::future::pending::<()>().await;
        }
    });
    (machine, ticks)
}

#[test]
fn clocks_run_at_their_own_rates_in_all_their_forms() {
    World::run(1, async |world| {
        let readings: Arc<Mutex<Vec<(Now, Now, Duration)>>> = Arc::default();
        for (name, ppm) in [("fast", 100_000), ("true", 0), ("slow", -100_000)] {
            let machine = world.machine(name);
            machine.clock().set_drift_ppm(ppm);
            let readings = Arc::clone(&readings);
            machine.start(move |runtime: SimRuntime| {
                let readings = Arc::clone(&readings);
                async move {
                    let (before, instant) = (runtime.now(), SimInstant::now());
                    SimAsync::sleep_until(instant + 30 * SECOND).await;
                    SimAsync::sleep(30 * SECOND).await;
                    let pending = std::future::pending::<()>();
                    assert!(SimAsync::timeout(40 * SECOND, pending).await.is_err());
                    let (after, passed) = (runtime.now(), SimInstant::now() - instant);
                    assert!(after.mono.since(before.mono) >= 100 * SECOND);
                    readings.lock().push((before, after, passed));
                }
            });
        }
        world.sleep(120 * SECOND).await;
        let readings = readings.lock();
        assert_eq!(readings.len(), 3);
        let near = |a: Duration, b: Duration| a.abs_diff(b) < Duration::from_millis(20);
        // The fast one is done first; all have seen 100 s pass by their own clock.
        for ((before, after, passed), truly) in readings.iter().zip([90.909, 100.0, 111.111]) {
            assert!(near(*passed, 100 * SECOND), "{passed:?}");
            assert!(near(after.mono.since(before.mono), 100 * SECOND));
            let wall = (after.wall.seconds - before.wall.seconds) as f64;
            assert!(
                (wall - truly).abs() < 1.1,
                "the wall clock shows true time: {wall}, {truly}"
            );
        }
    });
}

#[test]
fn the_wall_clock_is_skewed_apart_from_the_other() {
    World::run(2, async |world| {
        let machine = world.machine("m");
        let truth = machine.clock().now();
        machine.clock().set_wall_skew(-3_600_000_000_001);
        let skewed = machine.clock().now();
        assert_eq!(truth.wall.seconds - skewed.wall.seconds, 3601);
        assert_eq!(skewed.wall.nanos, 999_999_999);
        assert_eq!(skewed.mono, truth.mono);
    });
}

#[test]
fn a_crash_starts_the_boot_clock_anew_and_a_kill_does_not() {
    World::run(3, async |world| {
        let (machine, _) = ticker(&world, "m");
        world.sleep(1000 * SECOND).await;
        let before = machine.clock().now().mono;
        machine.kill();
        machine.restart();
        assert!(machine.clock().now().mono >= before);
        machine.crash();
        machine.restart();
        assert!(machine.clock().now().mono < before);
        assert_eq!(machine.starts(), 3);
    });
}

#[test]
fn tasks_stop_with_their_machine_and_pause_with_it() {
    World::run(4, async |world| {
        let (machine, ticks) = ticker(&world, "m");
        world.sleep(10 * SECOND + SECOND / 2).await;
        assert_eq!(ticks.load(Relaxed), 10);
        machine.pause();
        world.sleep(10 * SECOND).await;
        assert_eq!(ticks.load(Relaxed), 10, "a paused program does nothing");
        machine.resume();
        world.sleep(10 * SECOND).await;
        assert!(ticks.load(Relaxed) >= 19);
        for stop in [Machine::crash, Machine::kill] {
            stop(&machine);
            let stopped = ticks.load(Relaxed);
            world.sleep(10 * SECOND).await;
            assert_eq!(ticks.load(Relaxed), stopped);
            assert!(!machine.is_running());
            machine.restart();
            world.sleep(3 * SECOND + SECOND / 2).await;
            assert_eq!(ticks.load(Relaxed), stopped + 3, "one life at a time");
        }
    });
}

#[test]
fn a_process_that_ends_takes_its_tasks_along() {
    World::run(5, async |world| {
        let ticks = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&ticks);
        let machine = world.machine("m");
        machine.start(move |runtime: SimRuntime| {
            let count = Arc::clone(&count);
            async move {
                let clock = runtime.clone();
                runtime.spawn(async move {
                    loop {
                        clock.sleep(SECOND).await;
                        count.fetch_add(1, Relaxed);
                    }
                });
                runtime.sleep(3 * SECOND + SECOND / 2).await;
            }
        });
        world.sleep(20 * SECOND).await;
        assert!(!machine.is_running());
        assert_eq!(ticks.load(Relaxed), 3);
        machine.restart();
        world.sleep(20 * SECOND).await;
        assert_eq!(ticks.load(Relaxed), 6);
    });
}

#[test]
fn a_stalled_disk_holds_up_blocking_work_and_nothing_else() {
    World::run(6, async |world| {
        let (done, ticks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (work, count) = (Arc::clone(&done), Arc::clone(&ticks));
        let machine = world.machine("m");
        machine.start(move |runtime: SimRuntime| {
            let (work, count) = (Arc::clone(&work), Arc::clone(&count));
            async move {
                let clock = runtime.clone();
                runtime.spawn(async move {
                    loop {
                        clock.sleep(SECOND / 10).await;
                        count.fetch_add(1, Relaxed);
                    }
                });
                loop {
                    runtime.blocking(Lane::Log, || ()).await;
                    work.fetch_add(1, Relaxed);
                    runtime.sleep(SECOND / 10).await;
                }
            }
        });
        world.sleep(SECOND).await;
        machine.disk().stall(5 * SECOND);
        let (work, count) = (done.load(Relaxed), ticks.load(Relaxed));
        world.sleep(5 * SECOND - SECOND / 10).await;
        assert!(done.load(Relaxed) <= work + 1, "the log waits for its disk");
        assert!(ticks.load(Relaxed) >= count + 45, "tasks don't");
        world.sleep(SECOND).await;
        assert!(done.load(Relaxed) >= work + 5);
    });
}

#[test]
fn a_crash_may_find_work_done_and_not_yet_answered() {
    let (mut done_unanswered, mut not_done) = (0, 0);
    for seed in 0..40 {
        let (did, answered) = World::run(seed, async |world| {
            let (did, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let (does, answer) = (Arc::clone(&did), Arc::clone(&answered));
            let machine = world.machine("m");
            let range = SECOND..2 * SECOND;
            machine.disk().set_delay(Lane::Log, range);
            machine.start(move |runtime: SimRuntime| {
                let (does, answer) = (Arc::clone(&does), Arc::clone(&answer));
                async move {
                    let work = move || does.fetch_add(1, Relaxed);
                    runtime.blocking(Lane::Log, work).await;
                    answer.fetch_add(1, Relaxed);
                }
            });
            world.sleep(SECOND * 9 / 10).await;
            machine.crash();
            world.sleep(5 * SECOND).await;
            (did.load(Relaxed), answered.load(Relaxed))
        });
        assert_eq!(answered, 0);
        done_unanswered += did;
        not_done += 1 - did;
    }
    assert!(
        done_unanswered > 5 && not_done > 5,
        "{done_unanswered} {not_done}"
    );
}
