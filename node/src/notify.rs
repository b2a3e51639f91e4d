//! A bell: tasks wait for it, anybody rings it.
//!
//! Owns wake-ups without data, over no particular executor. A ring with nobody waiting is remembered, once.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

/// A bell for one waiting task at a time.
#[derive(Debug, Default)]
pub(crate) struct Bell(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rung: bool,
    waiting: Option<Waker>,
}

impl Bell {
    /// Wakes the waiting task, or the next one that waits.
    pub(crate) fn ring(&self) {
        let waiting = {
            let mut state = self.0.lock();
            state.rung = true;
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Waits until it was rung since the last wait. May be dropped and asked again.
    pub(crate) async fn rung(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock();
            if std::mem::take(&mut state.rung) {
                state.waiting = None;
                return Poll::Ready(());
            }
            state.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
