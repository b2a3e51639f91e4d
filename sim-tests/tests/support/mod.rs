//! What both swarms need: which seeds are wanted, and a seed in a process of its own.

use std::ops::Range;
use std::process::Command;

/// Set in a child: the seed it runs.
pub(crate) const CHILD: &str = "POLYFS_SIM_CHILD";
/// Where a child writes what happened, an event a line, if anywhere.
pub(crate) const TRACE: &str = "POLYFS_TEST_TRACE";
/// A run has at least so many events.
const EVENTS_MIN: u64 = 10_000;

/// POLYFS_SEED=N one, POLYFS_SEEDS=A..B several (B excluded), else `default`.
pub(crate) fn wanted(default: Range<u64>) -> Range<u64> {
    let number = |text: &str| text.trim().parse().expect("a seed is a number");
    if let Ok(one) = std::env::var("POLYFS_SEED") {
        return number(&one)..number(&one) + 1;
    }
    match std::env::var("POLYFS_SEEDS") {
        Ok(several) => {
            let (from, to) = several.split_once("..").expect("seeds are A..B");
            number(from)..number(to)
        }
        Err(_) => default,
    }
}

/// After so many failed seeds a test gives up: POLYFS_FAILURES, else never.
pub(crate) fn failures_max() -> usize {
    let asked = std::env::var("POLYFS_FAILURES").ok();
    asked.map_or(usize::MAX, |number| {
        number.parse().expect("POLYFS_FAILURES is a number")
    })
}

/// POLYFS_LOG says what of the product's own log is shown (as `polyfs --log` does); nothing by default.
pub(crate) fn show_log() {
    let Ok(filter) = std::env::var("POLYFS_LOG") else {
        return;
    };
    let shown = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time();
    // Another test of this process may have done it.
    drop(shown.try_init());
}

/// The seed a child is to run.
pub(crate) fn of_child() -> Option<u64> {
    let seed = std::env::var(CHILD).ok()?;
    Some(seed.parse().expect("a seed is a number"))
}

/// In a child: tells what the parent compares.
pub(crate) fn tell(hash: u64, events: u64, text: &[String]) {
    if let Some(path) = std::env::var_os(TRACE) {
        std::fs::write(path, text.join("\n")).expect("the trace can be written");
    }
    println!("trace {hash:016x} events {events}.");
}

/// Runs a seed in two processes and compares.
pub(crate) fn assert_same_trace(seed: u64, child: &str) {
    let (first, events) = in_child(seed, child);
    assert!(events >= EVENTS_MIN, "the world was busy: {events} events");
    assert_eq!(
        first,
        in_child(seed, child).0,
        "seed {seed} in two processes"
    );
}

fn in_child(seed: u64, child: &str) -> (String, u64) {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--exact", child, "--nocapture"])
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
