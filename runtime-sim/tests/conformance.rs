//! The simulated runtime keeps every promise of the conformance suites.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::time::Duration;

use polyfs_node::runtime::{Lane, Runtime};
use polyfs_node::testing;
use polyfs_runtime_sim::{LinkSettings, SimRuntime, World};

/// Runs a program on one machine to its end.
fn on_a_machine<F, T>(seed: u64, setup: impl FnOnce(&World) + Send + 'static, program: F)
where
    F: Fn(SimRuntime) -> T + Send + Sync + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    World::run(seed, async move |world| {
        let machine = world.machine("alone");
        setup(&world);
        machine.start(program);
        while machine.is_running() {
            world.sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn runtime() {
    on_a_machine(
        1,
        |_| (),
        async |runtime| {
            testing::runtime(&runtime).await;
        },
    );
}

#[test]
fn runtime_with_a_drifting_clock_and_a_slow_disk() {
    for (seed, ppm) in [(2, 10_000), (3, -10_000), (4, 250_000)] {
        World::run(seed, async move |world| {
            let machine = world.machine("alone");
            machine.clock().set_drift_ppm(ppm);
            for lane in [Lane::Log, Lane::Checkpoint, Lane::Read] {
                let range = Duration::from_millis(1)..Duration::from_millis(9);
                machine.disk().set_delay(lane, range);
            }
            machine.start(async |runtime: SimRuntime| testing::runtime(&runtime).await);
            while machine.is_running() {
                world.sleep(Duration::from_millis(10)).await;
            }
        });
    }
}

#[test]
fn net() {
    on_a_machine(
        5,
        |_| (),
        async |runtime| {
            testing::net(runtime.net(), "localhost").await;
            testing::net(runtime.net(), "alone").await;
        },
    );
}

#[test]
fn net_on_slow_links() {
    let setup = |world: &World| {
        world.network().set_all(LinkSettings {
            slow_per_million: 200_000,
            bytes_per_second: Some(50 << 20),
            ..LinkSettings::default()
        });
    };
    on_a_machine(6, setup, async |runtime| {
        testing::net(runtime.net(), "10.0.0.1").await;
    });
}

#[test]
fn dir() {
    on_a_machine(7, |_| (), async |runtime| testing::dir(&runtime.dir()));
}
