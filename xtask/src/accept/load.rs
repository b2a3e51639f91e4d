//! Work that goes on while a line does harm: a write+fsync loop, `cp -a`, `git clone`.
//!
//! Owns the loops and what they saw: not one call may fail, and the longest time between two acknowledged fsyncs is
//! measured. Deliberately knows nothing of what is done to the cluster meanwhile.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::Context;
use super::tree::content;
use crate::process::{self, Daemon};

const RECORD_BYTES: u64 = 128;
/// How long a loop may take to come to its end when told.
const END_LIMIT: Duration = Duration::from_secs(180);
/// How long the writer may take for what it is waited for.
const ACKS_LIMIT: Duration = Duration::from_secs(120);

/// Copies and clones until the file $1 is there: $2 what is copied, $3 the repository, $4 where to, $5 the same place by
/// the other mount, which looks at it.
const COPIES: &str = r#"mkdir "$4"; cd "$4"; n=0; while [ ! -e "$1" ]; do
    cp -a "$2" copy; diff -r "$2" "$5/copy"; rm -r copy; n=$((n+1)); echo "copy $n"; done; echo "copies done""#;
const CLONES: &str = r#"mkdir "$4"; cd "$4"; n=0; while [ ! -e "$1" ]; do
    git clone -q --no-local "$3" clone; git -C "$5/clone" fsck --no-progress; rm -rf clone; n=$((n+1)); echo "clone $n"; done; echo "clones done""#;

#[derive(Default)]
struct Seen {
    acks: AtomicU64,
    stop: AtomicBool,
    longest: Mutex<Duration>,
}

/// Loops at work.
pub(super) struct Load {
    seen: Arc<Seen>,
    writer: JoinHandle<std::io::Result<()>>,
    journal: PathBuf,
    stop: PathBuf,
    loops: Vec<(Daemon, &'static str)>,
}

/// What came of them.
pub(super) struct Report {
    /// Acknowledged fsyncs.
    pub(super) acks: u64,
    /// The longest time between two of them.
    pub(super) longest: Duration,
}

fn record(number: u64) -> Vec<u8> {
    content(number, RECORD_BYTES)
}

/// Appends and syncs until told to stop; ends with the first failed call.
fn write_loop(path: &Path, seen: &Seen) -> std::io::Result<()> {
    let mut journal = File::create(path)?;
    let mut last = Instant::now();
    for number in 0.. {
        if seen.stop.load(Ordering::Acquire) {
            break;
        }
        journal.write_all(&record(number))?;
        journal.sync_data()?;
        let now = Instant::now();
        let mut longest = seen.longest.lock().expect("no holder panics");
        *longest = longest.max(now - last);
        last = now;
        seen.acks.fetch_add(1, Ordering::AcqRel);
    }
    Ok(())
}

impl Load {
    /// The write+fsync loop alone.
    pub(super) fn writer(context: &Context, one: &Path) -> Self {
        let seen = Arc::new(Seen::default());
        let journal = one.join("journal");
        let (path, shared) = (journal.clone(), Arc::clone(&seen));
        Self {
            seen,
            writer: std::thread::spawn(move || write_loop(&path, &shared)),
            journal,
            stop: context.scratch.join("stop"),
            loops: Vec::new(),
        }
    }

    /// All three loops: the writer and the clones on mount `one`, the copies on mount `two`.
    pub(super) fn all(context: &Context, one: &Path, two: &Path) -> Result<Self> {
        let mut load = Self::writer(context, one);
        let source = context.root.join("xtask");
        let started = [
            ("copies", COPIES, two, one, "copies done"),
            ("clones", CLONES, one, two, "clones done"),
        ];
        for (name, script, here, there, last) in started {
            let (target, seen) = (here.join(name), there.join(name));
            let arguments = [&load.stop, &source, &context.root, &target, &seen];
            let log = context.scratch.join(format!("{name}.log"));
            let daemon = Daemon::start(name, &mut process::bash(script, &arguments), &log)?;
            load.loops.push((daemon, last));
        }
        Ok(load)
    }

    /// Waits until `more` further fsyncs were acknowledged, and `least` has passed.
    pub(super) fn await_outage(&self, more: u64, least: Duration) -> Result<()> {
        let started = Instant::now();
        self.await_acks(more)?;
        while started.elapsed() < least {
            self.await_acks(1)?;
        }
        Ok(())
    }

    /// Waits until `more` further fsyncs were acknowledged.
    pub(super) fn await_acks(&self, more: u64) -> Result<()> {
        let started = Instant::now();
        let goal = self.seen.acks.load(Ordering::Acquire) + more;
        while self.seen.acks.load(Ordering::Acquire) < goal {
            ensure!(!self.writer.is_finished(), "the write+fsync loop has ended");
            ensure!(
                started.elapsed() < ACKS_LIMIT,
                "no {more} fsyncs within {} s",
                ACKS_LIMIT.as_secs()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What the journal holds after so many fsyncs.
    pub(super) fn journal_of(acks: u64) -> Vec<u8> {
        (0..acks).flat_map(record).collect()
    }

    /// Ends the loops; fails when any call of theirs failed. The journal is read by mount `other`.
    pub(super) fn end(mut self, other: &Path) -> Result<Report> {
        std::fs::write(&self.stop, b"")?;
        for (daemon, last) in &mut self.loops {
            daemon.wait_line(last, END_LIMIT)?;
            let status = daemon.wait(END_LIMIT)?;
            ensure!(
                status.success(),
                "a loop ended with {status}:\n{}",
                daemon.output()
            );
        }
        self.seen.stop.store(true, Ordering::Release);
        match self.writer.join() {
            Ok(ended) => ended.context("a call of the write+fsync loop failed")?,
            Err(_) => bail!("the write+fsync loop panicked"),
        }
        let acks = self.seen.acks.load(Ordering::Acquire);
        let name = self.journal.file_name().context("a journal has a name")?;
        let found = std::fs::read(other.join(name))?;
        ensure!(
            found == Self::journal_of(acks),
            "the journal is not what fsync acknowledged"
        );
        let longest = *self.seen.longest.lock().expect("no holder panics");
        Ok(Report { acks, longest })
    }
}
