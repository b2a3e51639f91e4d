//! Lines about the first promise: what was acknowledged survives kill -9.
//!
//! A writer notes, outside the mount, what each call acknowledged; the process is killed while it writes; after a new
//! start everything noted must be there. What was in flight may be there or not, but nothing invented.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::cluster::free_address;
use super::mount::Mount;
use super::tree::content;
use super::{Context, Figure, Line, Needs, up};
use crate::process;

const ROUNDS: u64 = 10;
/// A round is killed after at least this many acknowledged steps, and a few more each round.
const STEPS_MIN: usize = 30;
/// A round that did not come so far by then is a failure.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// Ten times kill -9 while writing.
pub(super) const KILL: Line = Line {
    id: "up-kill9",
    title: "ten times kill -9 while writing: everything acknowledged is there after each restart",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(900),
    run: |context| {
        let waypoint = free_address()?;
        rounds(&mut Single { context, waypoint })
    },
};

/// What a call has acknowledged.
enum Promise {
    /// fsync of a whole new file returned: its content is that of this seed and length.
    Content(PathBuf, u64, u64),
    /// fsync after an append returned: the file has at least this many records of the round's seed.
    Records(PathBuf, u64, u64),
    /// mkdir returned.
    Directory(PathBuf),
    /// rename returned: this name is gone.
    Gone(PathBuf),
}

const RECORD_BYTES: u64 = 100;

fn record(seed: u64, number: u64) -> Vec<u8> {
    content(seed ^ number.rotate_left(32), RECORD_BYTES)
}

/// Writes until a call fails, which it does when the filesystem behind it dies, or nobody listens.
fn write_until_dead(home: &Path, round: u64, promises: &Sender<Promise>) -> std::io::Result<()> {
    let say = |promise| {
        promises
            .send(promise)
            .map_err(|_| std::io::Error::other("nobody listens"))
    };
    let journal_path = home.join(format!("journal-{round}"));
    let mut journal = File::create(&journal_path)?;
    // Bounded, should nothing ever fail.
    for step in 0..20_000 {
        let seed = round << 32 | step;
        let length = [10, 4_000, 5_000, 70_000, 300_000][usize::try_from(step % 5).unwrap_or(0)];
        let path = home.join(format!("file-{round}-{step}"));
        let mut file = File::create(&path)?;
        file.write_all(&content(seed, length))?;
        file.sync_all()?;
        if step % 3 == 0 {
            let renamed = home.join(format!("renamed-{round}-{step}"));
            std::fs::rename(&path, &renamed)?;
            say(Promise::Gone(path))?;
            say(Promise::Content(renamed, seed, length))?;
        } else {
            say(Promise::Content(path, seed, length))?;
        }
        journal.write_all(&record(round, step))?;
        journal.sync_data()?;
        say(Promise::Records(journal_path.clone(), round, step + 1))?;
        if step % 4 == 0 {
            let directory = home.join(format!("directory-{round}-{step}"));
            std::fs::create_dir(&directory)?;
            say(Promise::Directory(directory))?;
        }
    }
    Ok(())
}

fn holds(promise: &Promise) -> Result<()> {
    match promise {
        Promise::Content(path, seed, length) => {
            let found = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
            ensure!(
                found == content(*seed, *length),
                "{} ({} bytes of {length}) is not what fsync acknowledged",
                path.display(),
                found.len()
            );
        }
        Promise::Records(path, seed, count) => {
            let file = File::open(path).with_context(|| format!("{}", path.display()))?;
            let length = file.metadata()?.len();
            ensure!(
                length >= count * RECORD_BYTES,
                "{} has {length} bytes, fsync acknowledged {count} records",
                path.display()
            );
            // The last one here; each earlier one was the last of an earlier promise.
            let mut bytes = record(*seed, count - 1);
            let expected = bytes.clone();
            file.read_exact_at(&mut bytes, (count - 1) * RECORD_BYTES)?;
            ensure!(
                bytes == expected,
                "record {} of {} is not what fsync acknowledged",
                count - 1,
                path.display()
            );
        }
        Promise::Directory(path) => {
            ensure!(
                path.is_dir(),
                "{} is gone, mkdir acknowledged it",
                path.display()
            );
        }
        Promise::Gone(path) => {
            ensure!(
                !path.try_exists()?,
                "{} is back, rename acknowledged its end",
                path.display()
            );
        }
    }
    Ok(())
}

/// Collects promises until there are `steps`.
fn collect(promises: &Receiver<Promise>, steps: usize) -> Result<Vec<Promise>> {
    let started = Instant::now();
    let mut kept = Vec::new();
    while kept.len() < steps {
        let left = ROUND_MAX.saturating_sub(started.elapsed());
        match promises.recv_timeout(left) {
            Ok(promise) => kept.push(promise),
            Err(error) => bail!(
                "only {} of {steps} steps were acknowledged: {error}",
                kept.len()
            ),
        }
    }
    Ok(kept)
}

/// What is killed and started again.
pub(super) trait Victim {
    /// Starts it on the data it had, and mounts it.
    fn start(&mut self) -> Result<Mount>;
    /// kill -9 of all of it.
    fn kill(&mut self, mount: Mount) -> Result<()>;
    /// What else must hold when it is up again.
    fn check(&mut self) -> Result<()>;
}

struct Single<'a> {
    context: &'a Context,
    /// Where it listens, to be asked.
    waypoint: String,
}

impl Victim for Single<'_> {
    fn start(&mut self) -> Result<Mount> {
        let context = self.context;
        let point = context.scratch.join("mnt");
        let mut command = process::command(&context.binary);
        command.arg("up").arg(&point);
        command.arg("--data").arg(context.directory("data")?);
        command.args(["--listen", &self.waypoint]);
        Mount::start("polyfs up", &mut command, &point, &context.scratch)
    }

    fn kill(&mut self, mount: Mount) -> Result<()> {
        mount.kill()
    }

    fn check(&mut self) -> Result<()> {
        let mut command = process::command(&self.context.binary);
        command.args(["fsck", "--waypoint", &self.waypoint]);
        process::check("fsck", &mut command, Duration::from_secs(60)).map(drop)
    }
}

/// Kills it [`ROUNDS`] times while a writer notes what was acknowledged, and looks for all of it after each start.
pub(super) fn rounds(victim: &mut dyn Victim) -> Result<Figure> {
    let mut kept: Vec<Promise> = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let started = Instant::now();
        let mount = victim.start().with_context(|| format!("start {round}"))?;
        slowest = slowest.max(started.elapsed());
        for promise in &kept {
            holds(promise).with_context(|| format!("after {round} kills"))?;
        }
        if round > 0 {
            let checked = victim.check();
            checked.with_context(|| format!("after {round} kills"))?;
        }
        // A directory in it: should the dead mount be taken away, nothing of this path is left to write to.
        let home = mount.point.join("work");
        std::fs::create_dir_all(&home)?;
        let (sender, promises) = channel();
        let writer = std::thread::spawn(move || write_until_dead(&home, round, &sender));
        let steps = STEPS_MIN + usize::try_from(round * 7 % 11)?;
        let collected = collect(&promises, steps);
        victim.kill(mount)?;
        // Acknowledged between the count and the kill; then the writer finds nobody who listens.
        let late: Vec<Promise> = promises.try_iter().collect();
        drop(promises);
        if let (Err(error), Ok(Err(cause))) = (&collected, writer.join()) {
            bail!("{error}: {cause}");
        }
        kept.extend(collected?);
        kept.extend(late);
    }
    let mount = victim.start()?;
    for promise in &kept {
        holds(promise).with_context(|| format!("after {ROUNDS} kills"))?;
    }
    victim.check()?;
    mount.stop()?;
    let more = format!(
        "{ROUNDS} kills, slowest restart {:.2} s",
        slowest.as_secs_f64()
    );
    Ok(Figure::count(kept.len(), "promises kept", &more))
}
