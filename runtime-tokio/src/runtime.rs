//! The parts put together: [`TokioRuntime`].

use std::sync::Arc;
use std::time::Duration;

use crate::executor::Executor;
use polyfs_core::time::Now;
use polyfs_node::runtime::{Lane, Runtime};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::clock;
use crate::disk::TokioDir;
use crate::lanes::Lanes;
use crate::net::SocketNet;

/// The machine this process runs on. Cheap to clone; used from within a tokio runtime, best a current_thread one
/// (two workers were 10% slower), with time and io enabled.
#[derive(Clone)]
pub struct TokioRuntime {
    lanes: Arc<Lanes>,
    net: SocketNet,
    /// Tasks are started from threads outside the executor too: those that take requests from the kernel.
    executor: Handle,
}

impl TokioRuntime {
    /// Starts the threads that wait for disks.
    ///
    /// # Panics
    /// When the host refuses a thread, or outside a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lanes: Arc::new(Lanes::new()),
            net: SocketNet,
            executor: Handle::current(),
        }
    }
}

impl Default for TokioRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for TokioRuntime {
    type Async = Executor;
    type Net = SocketNet;
    type Dir = TokioDir;

    fn now(&self) -> Now {
        clock::now()
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn net(&self) -> &SocketNet {
        &self.net
    }

    fn blocking<T, F>(&self, lane: Lane, work: F) -> impl Future<Output = T> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        self.lanes.push(
            lane,
            Box::new(move || {
                // Nobody may be waiting any more; the work counts all the same.
                let _ = done.send(work());
            }),
        );
        async {
            result
                .await
                .expect("a lane runs every job, or the process ends")
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.executor.spawn(task));
    }

    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(span)
    }
}
