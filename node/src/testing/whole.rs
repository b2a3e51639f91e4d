//! What clocks, randomness and blocking lanes promise.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use parking_lot::Mutex;

use crate::runtime::{Lane, Runtime};

/// Runs the suite on one machine's runtime.
///
/// # Panics
/// With the promise that is not kept.
pub async fn runtime<R: Runtime>(runtime: &R) {
    clocks_move_on(runtime).await;
    assert_ne!(
        runtime.random(),
        runtime.random(),
        "64 random bits do not repeat at once"
    );
    lanes_keep_order(runtime).await;
    work_survives_its_asker(runtime).await;
    tasks_run(runtime).await;
}

async fn clocks_move_on<R: Runtime>(runtime: &R) {
    let before = runtime.now();
    runtime.sleep(Duration::from_millis(20)).await;
    let after = runtime.now();
    assert!(
        after.mono.since(before.mono) >= Duration::from_millis(20),
        "a sleep lasts at least its span by the machine's own clock: {before:?} to {after:?}"
    );
    assert!(
        after.wall > before.wall,
        "the wall clock moves on: {before:?} to {after:?}"
    );
}

async fn lanes_keep_order<R: Runtime>(runtime: &R) {
    for lane in [Lane::Log, Lane::Checkpoint] {
        let done = Arc::new(Mutex::new(Vec::new()));
        let jobs: Vec<_> = (0..50)
            .map(|number| {
                let done = Arc::clone(&done);
                runtime.blocking(lane, move || {
                    done.lock().push(number);
                    number
                })
            })
            .collect();
        // Awaited backwards: the order is that of the calls, not of the waiting.
        for (job, number) in jobs.into_iter().zip(0..50).rev() {
            assert_eq!(job.await, number, "each caller gets its own answer");
        }
        assert_eq!(
            *done.lock(),
            (0..50).collect::<Vec<_>>(),
            "a lane works in order of the calls"
        );
    }
    let (one, two) = join(
        runtime.blocking(Lane::Read, || 1),
        runtime.blocking(Lane::Read, || 2),
    )
    .await;
    assert_eq!((one, two), (1, 2));
}

async fn work_survives_its_asker<R: Runtime>(runtime: &R) {
    let done = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&done);
    drop(runtime.blocking(Lane::Log, move || *flag.lock() = true));
    runtime.blocking(Lane::Log, || ()).await;
    assert!(*done.lock(), "work runs even if nobody waits for it");
}

async fn tasks_run<R: Runtime>(runtime: &R) {
    let done = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&done);
    runtime.spawn(async move { *flag.lock() = true });
    for _ in 0..1000 {
        if *done.lock() {
            return;
        }
        runtime.sleep(Duration::from_millis(1)).await;
    }
    panic!("a spawned task runs");
}
