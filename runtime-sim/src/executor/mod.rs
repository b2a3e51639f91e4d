//! openraft's `AsyncRuntime` on madsim, with the clock of the machine whose task is running.
//!
//! Owns what makes it deterministic: a watch channel that wakes in order of waiting (tokio's draws the order from a
//! generator seeded by a process-wide counter) and a sleep that registers one timer (madsim's adds one at each poll
//! and cancels none). tokio's other channels are deterministic and used as they are.

mod instant;
mod rng;
mod sleep;
pub mod watch;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};

pub use instant::SimInstant;
pub use rng::SimRng;
pub use sleep::{Elapsed, Sleep, Timeout};

/// The simulated executor, as openraft wants it.
pub struct SimAsync(madsim::runtime::Runtime);

impl fmt::Debug for SimAsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimAsync")
    }
}

/// Why a task did not end by itself.
#[derive(Debug)]
pub struct JoinError(madsim::task::JoinError);

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Waits for a task. Dropping it leaves the task alone.
pub struct JoinHandle<T>(madsim::task::JoinHandle<T>);

impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(JoinError)
    }
}

impl AsyncRuntime for SimAsync {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = SimInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = SimRng;
    type Mpsc = TokioMpsc;
    type Watch = watch::SimWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        JoinHandle(madsim::task::spawn(future))
    }

    fn sleep(duration: Duration) -> Sleep {
        Sleep::local(duration)
    }

    fn sleep_until(deadline: SimInstant) -> Sleep {
        Sleep::local(deadline.time_left())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Timeout<F> {
        Timeout::new(future, Sleep::local(duration))
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: SimInstant,
        future: F,
    ) -> Timeout<F> {
        Timeout::new(future, Sleep::local(deadline.time_left()))
    }

    fn is_panic(error: &JoinError) -> bool {
        error.0.is_panic()
    }

    fn thread_rng() -> SimRng {
        SimRng::current()
    }

    fn new(_threads: usize) -> Self {
        crate::context::reset();
        Self(madsim::runtime::Runtime::with_seed_and_config(
            1,
            madsim::Config::default(),
        ))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    /// Inline: a thread would not be simulated.
    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(work()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_finds_the_runtime_to_its_liking() {
        openraft_rt::testing::Suite::<SimAsync>::test_all();
    }
}
