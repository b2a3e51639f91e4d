//! Sleeping on a machine's clock, with one timer per sleep.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::context;

/// What the timer and the sleeper share: madsim's sleep is polled once, with this as its stable waker.
#[derive(Default)]
struct Alarm(Mutex<State>);

#[derive(Default)]
struct State {
    rang: bool,
    sleeper: Option<Waker>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        let sleeper = {
            let mut state = self.0.lock();
            state.rang = true;
            state.sleeper.take()
        };
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

/// Completes when its time has come.
pub struct Sleep {
    timer: Option<madsim::time::Sleep>,
    alarm: Arc<Alarm>,
}

impl Sleep {
    /// A sleep by the clock of the machine whose task is running.
    pub(crate) fn local(span: Duration) -> Self {
        Self::truly(context::clock().map_or(span, |clock| clock.true_span(span)))
    }

    /// A sleep by true time. Like tokio's, it lasts a millisecond at least.
    pub(crate) fn truly(span: Duration) -> Self {
        // A century instead of forever keeps madsim's sums from overflowing.
        const LONGEST: Duration = Duration::from_secs(100 * 365 * 86400);
        Self {
            timer: Some(madsim::time::sleep(span.min(LONGEST))),
            alarm: Arc::default(),
        }
    }

    /// A sleep until a point of true time, in nanoseconds.
    pub(crate) fn until(at: u64) -> Self {
        Self::truly(Duration::from_nanos(at.saturating_sub(context::true_now())))
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        if let Some(mut timer) = self.timer.take() {
            let waker = Waker::from(Arc::clone(&self.alarm));
            if Pin::new(&mut timer)
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                self.alarm.0.lock().rang = true;
            }
        }
        let mut state = self.alarm.0.lock();
        if state.rang {
            context::record("timer", &[]);
            return Poll::Ready(());
        }
        state.sleeper = Some(task.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.alarm.0.lock().sleeper = None;
    }
}

/// The time was up before the future completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

/// A future with a deadline.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    deadline: Sleep,
}

impl<F> Timeout<F> {
    pub(crate) fn new(future: F, deadline: Sleep) -> Self {
        Self {
            future: Box::pin(future),
            deadline,
        }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;
    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(task) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.deadline)
            .poll(task)
            .map(|()| Err(Elapsed))
    }
}
