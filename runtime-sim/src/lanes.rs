//! Blocking work, inline: the simulated machine's log, checkpoint and reading threads.
//!
//! A lane is a task that takes one piece of work after the other. The work itself runs in no time at all, but somewhere
//! inside the delay that the disk asks for, so that a crash may find it done and not yet answered, or not yet done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polyfs_node::runtime::Lane;

use crate::disk::Drive;
use crate::executor::Sleep;
use crate::{chance, context};

/// Does the work and returns what tells its result.
pub(crate) type Job = Box<dyn FnOnce() -> Answer + Send>;
pub(crate) type Answer = Box<dyn FnOnce() + Send>;

/// The lanes of one boot of a machine.
pub(crate) struct Lanes {
    drive: Drive,
    log: Arc<Mutex<Queue>>,
    checkpoint: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    working: bool,
}

impl Lanes {
    pub(crate) fn new(drive: Drive) -> Self {
        Self {
            drive,
            log: Arc::default(),
            checkpoint: Arc::default(),
        }
    }

    /// Queues a job; called from a task of the machine.
    pub(crate) fn push(&self, lane: Lane, job: Job) {
        let drive = self.drive.clone();
        let queue = match lane {
            Lane::Log => &self.log,
            Lane::Checkpoint => &self.checkpoint,
            Lane::Read => {
                madsim::task::spawn(async move { run(&drive, lane, job).await });
                return;
            }
        };
        let mut state = queue.lock();
        state.jobs.push_back(job);
        if !state.working {
            state.working = true;
            let queue = Arc::clone(queue);
            madsim::task::spawn(async move {
                loop {
                    let job = {
                        let mut queue = queue.lock();
                        let job = queue.jobs.pop_front();
                        queue.working = job.is_some();
                        job
                    };
                    let Some(job) = job else { return };
                    run(&drive, lane, job).await;
                }
            });
        }
    }
}

async fn run(drive: &Drive, lane: Lane, job: Job) {
    let delay = drive.delay(lane);
    let before = Duration::from_nanos(chance::below(
        u64::try_from(delay.as_nanos()).expect("delays are short"),
    ));
    wait(before).await;
    wait_while_stalled(drive).await;
    let answer = job();
    wait(delay - before).await;
    wait_while_stalled(drive).await;
    answer();
}

async fn wait(span: Duration) {
    if !span.is_zero() {
        Sleep::truly(span).await;
    }
}

async fn wait_while_stalled(drive: &Drive) {
    while context::true_now() < drive.stalled_until() {
        Sleep::until(drive.stalled_until()).await;
    }
}
