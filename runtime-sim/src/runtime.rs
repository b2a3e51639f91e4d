//! One boot of one machine, as a node sees it.

use std::sync::Arc;
use std::time::Duration;

use polyfs_core::time::Now;
use polyfs_node::runtime::{Lane, Runtime};
use tokio::sync::oneshot;

use crate::chance;
use crate::clock::MachineClock;
use crate::disk::SimDir;
use crate::executor::{SimAsync, Sleep};
use crate::lanes::Lanes;
use crate::net::SimNet;

/// What a machine's program is given at each start. Cheap to clone; for tasks of that machine and boot only.
#[derive(Clone)]
pub struct SimRuntime {
    pub(crate) clock: MachineClock,
    pub(crate) net: SimNet,
    pub(crate) dir: SimDir,
    pub(crate) lanes: Arc<Lanes>,
}

impl SimRuntime {
    /// The data directory of this boot.
    #[must_use]
    pub fn dir(&self) -> SimDir {
        self.dir.clone()
    }
}

impl Runtime for SimRuntime {
    type Async = SimAsync;
    type Net = SimNet;
    type Dir = SimDir;

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn random(&self) -> u64 {
        chance::bits()
    }

    fn net(&self) -> &SimNet {
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
                let answer = work();
                Box::new(move || {
                    // Nobody may be waiting any more; the work counts all the same.
                    let _ = done.send(answer);
                })
            }),
        );
        async { result.await.expect("a lane lives as long as its machine") }
    }

    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send {
        Sleep::truly(self.clock.true_span(span))
    }
}
