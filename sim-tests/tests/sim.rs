//! The seed swarm over whole nodes. POLYFS_SEED=N runs one seed, POLYFS_SEEDS=A..B several (B excluded).
#![allow(clippy::print_stdout, reason = "tests tell what they did")]

mod clusters;
mod support;

use std::ops::Range;

use polyfs_sim_tests::world;

/// Seeds that run when none are asked for.
const DEFAULT: Range<u64> = 1..21;

#[test]
fn seeds() {
    support::show_log();
    let mut failed = Vec::new();
    for seed in support::wanted(DEFAULT) {
        if failed.len() >= support::failures_max() {
            break;
        }
        let Ok(run) = std::panic::catch_unwind(|| world::run(seed, false)) else {
            println!("seed {seed} failed: a panic");
            failed.push(seed);
            continue;
        };
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
    let Some(seed) = support::of_child() else {
        return;
    };
    let run = world::run(seed, std::env::var_os(support::TRACE).is_some());
    support::tell(run.trace.hash, run.trace.events, &run.text);
}

#[test]
fn same_seed_same_trace() {
    support::assert_same_trace(support::wanted(DEFAULT).start, "child");
}
