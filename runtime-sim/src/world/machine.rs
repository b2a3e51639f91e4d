//! One simulated machine: its program, its power, its clocks and its disk.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use madsim::runtime::Handle;
use madsim::task::NodeId;
use parking_lot::Mutex;

use crate::clock::MachineClock;
use crate::disk::Drive;
use crate::lanes::Lanes;
use crate::net::{Attachment, Fabric, MachineId, SimNet};
use crate::runtime::SimRuntime;
use crate::{chance, context};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Program = Arc<dyn Fn(SimRuntime) -> Task + Send + Sync>;

/// What runs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No power.
    Off,
    /// Power, and no program: it was killed or has ended.
    Idle,
    /// Power, and its program.
    Running,
}

/// A machine, as the test holds it. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    id: MachineId,
    name: String,
    node: NodeId,
    handle: Handle,
    fabric: Fabric,
    clock: MachineClock,
    drive: Drive,
    program: Mutex<Option<Program>>,
    /// What madsim's start of the node is to run.
    next: Arc<Mutex<Option<Task>>>,
    state: Mutex<State>,
    starts: Mutex<u64>,
}

impl Machine {
    pub(super) fn new(handle: &Handle, fabric: Fabric, id: MachineId, name: &str) -> Self {
        let next: Arc<Mutex<Option<Task>>> = Arc::default();
        let first = Arc::clone(&next);
        let node = handle
            .create_node()
            .name(name)
            .init(move || {
                let task = first.lock().take();
                async move {
                    match task {
                        Some(task) => task.await,
                        None => std::future::pending().await,
                    }
                }
            })
            .build()
            .id();
        let clock = MachineClock::new(boot_offset());
        context::set_clock(node, clock.clone());
        let drive = Drive::new(id.into());
        let machine = Self {
            inner: Arc::new(Inner {
                id,
                name: name.to_owned(),
                node,
                handle: handle.clone(),
                fabric,
                clock,
                drive,
                program: Mutex::new(None),
                next,
                state: Mutex::new(State::Off),
                starts: Mutex::new(0),
            }),
        };
        let weak = Arc::downgrade(&machine.inner);
        machine.inner.drive.on_power_loss(Arc::new(move || {
            if let Some(inner) = Weak::upgrade(&weak) {
                Self { inner }.crash();
            }
        }));
        machine
    }

    pub(super) fn id(&self) -> MachineId {
        self.inner.id
    }

    /// Its host name, under which others can dial it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its clocks, to be set wrong.
    #[must_use]
    pub fn clock(&self) -> &MachineClock {
        &self.inner.clock
    }

    /// Its disk, to be broken.
    #[must_use]
    pub fn disk(&self) -> &Drive {
        &self.inner.drive
    }

    /// Whether its program runs (or is paused).
    #[must_use]
    pub fn is_running(&self) -> bool {
        *self.inner.state.lock() == State::Running
    }

    /// How often its program was started.
    #[must_use]
    pub fn starts(&self) -> u64 {
        *self.inner.starts.lock()
    }

    /// Installs a program and starts it; each restart calls it anew. When it returns, the process has ended, with all
    /// its tasks.
    ///
    /// # Panics
    /// When a program runs already.
    pub fn start<F, T>(&self, program: F)
    where
        F: Fn(SimRuntime) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        *self.inner.program.lock() = Some(Arc::new(move |runtime| Box::pin(program(runtime))));
        self.boot();
    }

    /// Starts the installed program again, after a crash, a kill or its end; kills it first if it runs.
    ///
    /// # Panics
    /// When no program was ever started.
    pub fn restart(&self) {
        if self.is_running() {
            self.kill();
        }
        self.boot();
    }

    fn boot(&self) {
        let inner = &self.inner;
        let before = std::mem::replace(&mut *inner.state.lock(), State::Running);
        assert_ne!(
            before,
            State::Running,
            "{} runs one program at a time",
            inner.name
        );
        if before == State::Off {
            inner.clock.restart(boot_offset());
        }
        *inner.starts.lock() += 1;
        context::record("start", &[inner.id.into()]);
        let runtime = SimRuntime {
            clock: inner.clock.clone(),
            net: SimNet(Attachment {
                fabric: inner.fabric.clone(),
                machine: inner.id,
                life: inner.fabric.start(inner.id),
            }),
            dir: inner.drive.boot(),
            lanes: Arc::new(Lanes::new(inner.drive.clone())),
        };
        let program = inner.program.lock().clone();
        let program = program.expect("a machine is restarted after it was started");
        let machine = self.clone();
        *inner.next.lock() = Some(Box::pin(async move {
            program(runtime).await;
            machine.kill();
        }));
        inner.handle.restart(inner.node);
    }

    /// Cuts its power, without a word to anyone: what was not synced is lost, kept or torn as the seed has it.
    pub fn crash(&self) {
        let inner = &self.inner;
        if std::mem::replace(&mut *inner.state.lock(), State::Off) == State::Off {
            return;
        }
        context::record("crash", &[inner.id.into()]);
        // The disk first, the program last: destructors of what the program held still write (redb's does) and must
        // find neither disk nor network.
        inner.drive.cut_power();
        inner.fabric.power_off(inner.id);
        inner.handle.kill(inner.node);
    }

    /// Kills its program (SIGKILL): the machine's cache keeps what was written, and its kernel closes the connections.
    pub fn kill(&self) {
        let inner = &self.inner;
        {
            let mut state = inner.state.lock();
            if *state != State::Running {
                return;
            }
            *state = State::Idle;
        }
        context::record("kill", &[inner.id.into()]);
        inner.drive.end_boot();
        inner.fabric.end_process(inner.id);
        inner.handle.kill(inner.node);
    }

    /// Stops its program where it is (SIGSTOP): time goes on, its kernel still takes connections and bytes.
    pub fn pause(&self) {
        context::record("pause", &[self.inner.id.into()]);
        self.inner.handle.pause(self.inner.node);
    }

    /// Lets a paused program go on.
    pub fn resume(&self) {
        context::record("resume", &[self.inner.id.into()]);
        self.inner.handle.resume(self.inner.node);
    }
}

/// How long a machine has been up when its program starts: machines don't agree on that.
fn boot_offset() -> Duration {
    Duration::from_millis(5_000 + chance::below(100_000))
}
