//! A world of one test: its machines, its network, its trace.
//!
//! Owns the run itself: one seed, one fresh thread, one madsim runtime. The test's own code runs beside the machines,
//! on true time and without faults.

mod machine;
mod network;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use madsim::runtime::{Handle, Runtime};
use parking_lot::Mutex;

pub use machine::Machine;
pub use network::Network;

use crate::executor::Sleep;
use crate::net::{Fabric, MachineId};
use crate::trace::Trace;
use crate::{chance, context};

/// The world of one run. Clones are the same world.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle,
    fabric: Fabric,
    machines: Mutex<u32>,
}

impl World {
    /// Runs a test in a world of its own, on a thread of its own; everything random in it follows from the seed.
    ///
    /// # Panics
    /// When the test does; the seed is printed then.
    #[expect(
        clippy::print_stderr,
        reason = "the seed of a failure is what one needs most"
    )]
    pub fn run<F, T>(seed: u64, test: impl FnOnce(Self) -> F + Send + 'static) -> T
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let run = move || {
            context::reset();
            let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
            let handle = runtime.handle().clone();
            let result = runtime.block_on(async move { test(Self::new(handle)).await });
            context::reset();
            result
        };
        let thread = thread::Builder::new()
            .name(format!("seed {seed}"))
            .spawn(run)
            .expect("a test gets its thread");
        thread.join().unwrap_or_else(|panic| {
            eprintln!("the simulation failed with seed {seed}");
            std::panic::resume_unwind(panic)
        })
    }

    fn new(handle: Handle) -> Self {
        Self {
            inner: Arc::new(Inner {
                handle,
                fabric: Fabric::default(),
                machines: Mutex::new(0),
            }),
        }
    }

    /// Adds a machine, without power, at the next address of 10.0.0.0/16.
    ///
    /// # Panics
    /// When the name is taken.
    #[must_use]
    pub fn machine(&self, name: &str) -> Machine {
        let number = *self.inner.machines.lock() + 1;
        let [.., high, low] = number.to_be_bytes();
        self.machine_at(name, Ipv4Addr::new(10, 0, high, low).into())
    }

    /// Adds a machine, without power, at an address.
    ///
    /// # Panics
    /// When the name or the address is taken.
    #[must_use]
    pub fn machine_at(&self, name: &str, ip: IpAddr) -> Machine {
        let id = {
            let mut machines = self.inner.machines.lock();
            *machines += 1;
            MachineId(*machines)
        };
        self.inner.fabric.add(id, name, ip);
        Machine::new(&self.inner.handle, self.inner.fabric.clone(), id, name)
    }

    /// What lies between the machines.
    #[must_use]
    pub fn network(&self) -> Network {
        Network::new(self.inner.fabric.clone())
    }

    /// True time since the run began.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(context::true_now())
    }

    /// Lets true time pass.
    pub async fn sleep(&self, span: Duration) {
        Sleep::truly(span).await;
    }

    /// 64 random bits of the seed, for what a test itself draws.
    #[must_use]
    pub fn random(&self) -> u64 {
        chance::bits()
    }

    /// The fingerprint of all that has happened.
    #[must_use]
    pub fn trace(&self) -> Trace {
        context::trace()
    }

    /// Begins to keep what happens as text; costs memory.
    pub fn keep_trace_text(&self) {
        context::keep_text();
    }

    /// What has happened since, an event a line: true nanoseconds, what, numbers.
    #[must_use]
    pub fn trace_text(&self) -> Vec<String> {
        context::text()
    }
}
