//! Threads for work that waits for disks.
//!
//! Owns one queue per [`Lane`], served in order by one thread for the log and one for checkpoints, and by a few for
//! reads. Deliberately knows nothing of what the work is.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use polyfs_node::runtime::Lane;

type Job = Box<dyn FnOnce() + Send>;

/// Reads that may wait for the disk at the same time: enough to keep an SSD's queue busy.
const READ_THREADS: usize = 8;

/// All lanes of a process. Dropping it lets the threads finish what is queued and end.
pub(crate) struct Lanes {
    log: Queue,
    checkpoint: Queue,
    read: Queue,
}

impl Lanes {
    /// Starts the threads.
    ///
    /// # Panics
    /// When the host refuses a thread: a node can't work without them.
    pub(crate) fn new() -> Self {
        Self {
            log: Queue::start("polyfs-log", 1),
            checkpoint: Queue::start("polyfs-ckpt", 1),
            read: Queue::start("polyfs-read", READ_THREADS),
        }
    }

    /// Puts a job at the end of a lane's queue.
    pub(crate) fn push(&self, lane: Lane, job: Job) {
        match lane {
            Lane::Log => self.log.push(job),
            Lane::Checkpoint => self.checkpoint.push(job),
            Lane::Read => self.read.push(job),
        }
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Queue(Arc<(Mutex<State>, Condvar)>);

impl Queue {
    fn start(name: &str, threads: usize) -> Self {
        let queue = Self(Arc::default());
        for _ in 0..threads {
            let shared = Arc::clone(&queue.0);
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || work(&shared))
                .expect("the host gives a node the few threads it needs");
        }
        queue
    }

    fn push(&self, job: Job) {
        self.0.0.lock().jobs.push_back(job);
        self.0.1.notify_one();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.0.lock().closed = true;
        self.0.1.notify_all();
    }
}

fn work((state, ready): &(Mutex<State>, Condvar)) {
    loop {
        let job = {
            let mut state = state.lock();
            loop {
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                ready.wait(&mut state);
            }
        };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            // The panic's message is out already. Release builds abort by themselves; a debug build must not go on
            // with a log or a checkpoint that is half done either.
            tracing::error!("work on a disk broke a law: the process ends");
            std::process::abort();
        }
    }
}
