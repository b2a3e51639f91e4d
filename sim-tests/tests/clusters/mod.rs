//! The seed swarm over clusters of whole nodes. POLYFS_SEED=N runs one seed, POLYFS_SEEDS=A..B several (B excluded).

use std::ops::Range;

use polyfs_sim_tests::cluster::{self, Run};

use crate::support;

/// Seeds that run when none are asked for.
const DEFAULT: Range<u64> = 1..41;
/// The seeds are shared by so many tests, which run side by side.
const PARTS: u64 = 4;

fn tell(seed: u64, run: &Run) {
    let of_lost = run.failures.iter().filter(|failure| failure.was_lost);
    println!(
        "seed {seed}: {} nodes, {} of {} calls ended, {} EIO ({} told as lost), {} faults, {} starts, formed after {:?}, \
         {:?} simulated, {} events",
        run.plan.nodes,
        run.ended,
        run.history.events().len(),
        run.failures.len(),
        of_lost.count(),
        run.plan.faults,
        run.starts,
        run.formed,
        run.took,
        run.trace.events
    );
}

fn part(part: u64) {
    support::show_log();
    let mut failed = Vec::new();
    for seed in support::wanted(DEFAULT).filter(|seed| seed % PARTS == part) {
        if failed.len() >= support::failures_max() {
            break;
        }
        let Ok(run) = std::panic::catch_unwind(|| cluster::run(seed, false)) else {
            println!("seed {seed} failed: a panic");
            failed.push(seed);
            continue;
        };
        tell(seed, &run);
        for failure in &run.failures {
            println!("  {failure:?}");
        }
        if let Err(wrong) = run.judge() {
            println!(
                "seed {seed} failed: {:#?}\n{wrong}",
                (run.plan, &run.faults)
            );
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

#[test]
fn seeds_0() {
    part(0);
}

#[test]
fn seeds_1() {
    part(1);
}

#[test]
fn seeds_2() {
    part(2);
}

#[test]
fn seeds_3() {
    part(3);
}

/// In a child this runs the world; in the parent it does nothing.
#[test]
fn child() {
    let Some(seed) = support::of_child() else {
        return;
    };
    let run = cluster::run(seed, std::env::var_os(support::TRACE).is_some());
    support::tell(run.trace.hash, run.trace.events, &run.text);
}

#[test]
fn same_seed_same_trace() {
    support::assert_same_trace(support::wanted(DEFAULT).start, "clusters::child");
}
