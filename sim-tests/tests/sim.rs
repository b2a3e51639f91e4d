//! The seed swarm over whole nodes. POLYFS_SEED=N runs one seed, POLYFS_SEEDS=A..B several (B excluded).
#![allow(clippy::print_stdout, reason = "tests tell what they did")]

use std::ops::Range;
use std::process::Command;

use polyfs_sim_tests::world;

/// Seeds that run when none are asked for.
const DEFAULT: Range<u64> = 1..21;
/// Set in a child: the seed it runs.
const CHILD: &str = "POLYFS_SIM_CHILD";
/// Where a child writes what happened, an event a line, if anywhere.
const TRACE: &str = "POLYFS_TEST_TRACE";
/// A run has at least so many events.
const EVENTS_MIN: u64 = 10_000;

fn wanted() -> Range<u64> {
    let number = |text: &str| text.trim().parse().expect("a seed is a number");
    if let Ok(one) = std::env::var("POLYFS_SEED") {
        return number(&one)..number(&one) + 1;
    }
    match std::env::var("POLYFS_SEEDS") {
        Ok(several) => {
            let (from, to) = several.split_once("..").expect("seeds are A..B");
            number(from)..number(to)
        }
        Err(_) => DEFAULT,
    }
}

#[test]
fn seeds() {
    let mut failed = Vec::new();
    for seed in wanted() {
        let run = world::run(seed, false);
        println!(
            "seed {seed}: {} of {} calls ended, {} starts, {:?} simulated, {} events",
            run.ended,
            run.history.events().len(),
            run.starts,
            run.took,
            run.trace.events
        );
        if let Err(wrong) = run.judge() {
            println!("seed {seed} failed: {wrong}");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

/// In a child this runs the world; in the parent it does nothing.
#[test]
fn child() {
    let Ok(seed) = std::env::var(CHILD) else {
        return;
    };
    let seed = seed.parse().expect("a seed is a number");
    let path = std::env::var_os(TRACE);
    let run = world::run(seed, path.is_some());
    if let Some(path) = path {
        std::fs::write(path, run.text.join("\n")).expect("the trace can be written");
    }
    println!("trace {:016x} events {}.", run.trace.hash, run.trace.events);
}

fn in_child(seed: u64) -> (String, u64) {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, seed.to_string())
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
    let (_, events) = line.split_once("events ").expect("it tells the events");
    let events = events.trim_end_matches('.').parse().expect("a number");
    (line, events)
}

#[test]
fn same_seed_same_trace() {
    let seed = wanted().start;
    let (first, events) = in_child(seed);
    assert!(events >= EVENTS_MIN, "the world was busy: {events} events");
    assert_eq!(first, in_child(seed).0, "seed {seed} in two processes");
}
