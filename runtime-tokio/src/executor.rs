//! tokio for openraft, with ticks that come together.
//!
//! Owns when a wait until a given instant ends: on a grid that all groups of the process share. openraft's groups tick
//! each at a phase of its own, which would wake an idle process once for each of them. Everything else is tokio's.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant as _, OptionalSend};
use openraft_rt_tokio::{TokioInstant, TokioRuntime as Tokio};

/// Ticks come at multiples of this: openraft's own period is 40 ms (13/64 of a heartbeat). A heartbeat is due every fourth
/// one, and an election begins at most this much after its time-out.
const GRID: Duration = Duration::from_millis(50);

/// openraft's executor.
#[derive(Debug)]
pub struct Executor(Tokio);

/// Waits for less than this are about something else, and end when they were asked to.
const SHORT: Duration = Duration::from_millis(20);

/// Waits for less than this end at once: tokio's own would take until its next millisecond. openraft waits a microsecond
/// for more completions of the log to come together.
const NOTHING: Duration = Duration::from_micros(50);

/// When a wait until `deadline` that begins at `now` ends.
fn end_of_wait(now: TokioInstant, deadline: TokioInstant) -> TokioInstant {
    static ORIGIN: OnceLock<TokioInstant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(TokioInstant::now);
    if deadline <= now + NOTHING {
        // tokio rounds up to the millisecond after it.
        return now - Duration::from_millis(2);
    }
    if deadline <= (now + SHORT).max(origin) {
        return deadline;
    }
    let steps = (deadline - origin).as_micros().div_ceil(GRID.as_micros());
    let steps = u32::try_from(steps).expect("a process lives for less than six years");
    origin + GRID * steps
}

impl AsyncRuntime for Executor {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(end_of_wait(TokioInstant::now(), deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Tokio::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_come_together_and_short_waits_are_short() {
        let now = TokioInstant::now();
        let end = |after: u64| end_of_wait(now, now + Duration::from_micros(after));
        for after in [40_600, 41_000, 80_000, 99_999] {
            let asked = now + Duration::from_micros(after);
            assert!(end(after) >= asked && end(after) < asked + GRID);
            let apart = end(1_000_000) - end(after);
            assert_eq!(apart.as_micros() % GRID.as_micros(), 0);
        }
        assert_eq!(end(5_000), now + Duration::from_millis(5));
        assert!(end(1) < now);
    }
}
