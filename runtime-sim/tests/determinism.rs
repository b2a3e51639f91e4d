//! One seed is one run: the same trace in two processes.
//!
//! Two runs in one process may differ (dependencies keep process-wide state), so the test runs itself as its own
//! children.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test that can't go on has failed, and a child speaks by printing"
)]

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::{AsyncRuntime, Watch, WatchReceiver, WatchSender};
use polyfs_node::runtime::{
    Frame, FrameReceiver, FrameSender, Lane, Listener, Net, NetError, Runtime,
};
use polyfs_runtime_sim::{LinkSettings, Machine, SimAsync, SimRuntime, Trace, World};
use polyfs_store::disk::{Dir, Disk, DiskError, OpenMode};

/// Set in a child: the seed it runs.
const SEED: &str = "POLYFS_TEST_SEED";
const MACHINES: u32 = 4;

/// Keeps writing to its disk what the others send, and sending what it has written.
async fn gossip(runtime: SimRuntime) {
    let (changed, mut change) = <<SimAsync as AsyncRuntime>::Watch as Watch>::channel(0_u64);
    let mut listener = runtime
        .net()
        .listen("0.0.0.0:7000")
        .await
        .expect("a free port");
    for peer in 1..=MACHINES {
        let (sends, mut change) = (runtime.clone(), change.clone());
        runtime.spawn(async move {
            loop {
                let _ = send_changes(&sends, peer, &mut change).await;
                sends
                    .sleep(Duration::from_millis(sends.random() % 300))
                    .await;
            }
        });
    }
    let writes = runtime.clone();
    runtime.spawn(async move {
        while change.changed().await.is_ok() {
            let value = *change.borrow_watched();
            let dir = writes.dir();
            let written = writes.blocking(Lane::Log, move || write(&dir, value));
            if written.await.is_err() {
                return;
            }
        }
    });
    loop {
        let Ok((_sender, mut receiver, _)) = listener.accept().await else {
            return;
        };
        let (changed, draws) = (changed.clone(), runtime.clone());
        runtime.spawn(async move {
            while let Ok(frame) = receiver.receive().await {
                let received = frame.header.first().copied().map_or(0, u64::from);
                changed.send_if_modified(|value| {
                    *value = value
                        .wrapping_mul(31)
                        .wrapping_add(received ^ draws.random());
                    true
                });
            }
        });
    }
}

fn write(dir: &impl Dir, value: u64) -> Result<(), DiskError> {
    let mode = OpenMode {
        create: true,
        direct: false,
    };
    let disk = dir.open(&format!("f{}", value % 5), mode)?;
    disk.write_at(value % 100_000, &vec![1; 1 + (value % 9000) as usize])?;
    if value.is_multiple_of(3) {
        disk.sync_data()?;
        dir.sync()?;
    }
    Ok(())
}

async fn send_changes(
    runtime: &SimRuntime,
    peer: u32,
    change: &mut impl WatchReceiver<<SimAsync as AsyncRuntime>::Watch, u64>,
) -> Result<(), NetError> {
    let (mut sender, _receiver) = runtime.net().dial(&format!("m{peer}:7000")).await?;
    loop {
        let _ = SimAsync::timeout(Duration::from_millis(200), change.changed()).await;
        let value = *change.borrow_watched();
        let frame = Frame {
            header: Bytes::copy_from_slice(&value.to_le_bytes()),
            payload: vec![vec![1; (value % 2000) as usize].into()],
        };
        sender.send(vec![frame]).await?;
        runtime.sleep(Duration::from_millis(20)).await;
    }
}

async fn chaos(world: World) -> (Trace, Vec<String>) {
    if std::env::var_os("POLYFS_TEST_TRACE").is_some() {
        world.keep_trace_text();
    }
    let network = world.network();
    network.set_all(LinkSettings {
        slow_per_million: 20_000,
        breaks_per_million: 2_000,
        ..LinkSettings::default()
    });
    let machines: Vec<Machine> = (1..=MACHINES)
        .map(|n| world.machine(&format!("m{n}")))
        .collect();
    for machine in &machines {
        machine
            .clock()
            .set_drift_ppm((world.random() % 20_000) as i32 - 10_000);
        machine
            .disk()
            .set_delay(Lane::Log, Duration::ZERO..Duration::from_millis(5));
        machine.start(gossip);
    }
    for _ in 0..40 {
        let some = |n: u64| &machines[(n % u64::from(MACHINES)) as usize];
        let (one, other) = (some(world.random()), some(world.random()));
        match world.random() % 8 {
            0 => one.crash(),
            1 => one.kill(),
            2 => one.disk().power_fails_after(world.random() % 9),
            3 => network.partition(&[one], &[other]),
            4 => network.isolate(one),
            5 => network.one_way(one, other),
            6 => one.pause(),
            _ => one.disk().stall(Duration::from_millis(700)),
        }
        world
            .sleep(Duration::from_millis(world.random() % 1500))
            .await;
        network.heal();
        one.resume();
        for machine in &machines {
            if !machine.is_running() {
                machine.restart();
            }
        }
        world
            .sleep(Duration::from_millis(world.random() % 1000))
            .await;
    }
    (world.trace(), world.trace_text())
}

/// In a child this runs the world; in the parent it does nothing.
#[test]
fn child() {
    let Ok(seed) = std::env::var(SEED) else {
        return;
    };
    let seed = seed.parse().expect("a seed is a number");
    let (trace, text) = World::run(seed, chaos);
    if let Some(path) = std::env::var_os("POLYFS_TEST_TRACE") {
        std::fs::write(path, text.join("\n")).expect("the trace can be written");
    }
    println!("trace {:016x} events {}.", trace.hash, trace.events);
}

fn run(seed: u64) -> (String, u64) {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--exact", "determinism::child", "--nocapture"])
        .env(SEED, seed.to_string())
        .output()
        .expect("a test can run itself");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "seed {seed}: {said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line = said
        .lines()
        .find_map(|line| line.split_once("trace ").map(|(_, rest)| rest.to_owned()))
        .unwrap_or_else(|| panic!("a child tells its trace: {said}"));
    let events = line.split_once("events ").expect("it tells the events").1;
    let events = events.trim_end_matches('.').parse().expect("a number");
    (line, events)
}

#[test]
fn one_seed_is_one_run_in_every_process() {
    let mut all = std::collections::BTreeSet::new();
    for seed in 1..=6 {
        let (first, events) = run(seed);
        assert!(events > 2_000, "the world was busy: {events} events");
        assert_eq!(first, run(seed).0, "seed {seed} in two processes");
        all.insert(first);
    }
    assert_eq!(all.len(), 6, "six seeds are six runs");
}
