//! Running other programs: with a time limit, in a process group of their own, never outliving us.
//!
//! Owns [`run`] for commands that end and [`Daemon`] for those that serve. Every process is signalled by the id it was
//! started with, never by name. Deliberately has no shell beyond [`bash`] and reads no exit code's meaning.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How often a waiting loop looks again.
const LOOK: Duration = Duration::from_millis(20);
/// The same for the end of a process: what follows it should find everything as it was left.
const LOOK_FOR_END: Duration = Duration::from_millis(1);
/// How long output is still read after its program has ended: a process it left behind may hold the pipe.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a process has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// What became of a command.
pub(crate) struct Finished {
    /// Standard output and error, as they came.
    pub(crate) text: String,
    /// None when the time limit ended it.
    pub(crate) status: Option<ExitStatus>,
}

impl Finished {
    /// Whether it ended by itself, with exit code 0.
    pub(crate) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The last lines of its output.
    pub(crate) fn tail(&self) -> String {
        tail(&self.text, 25)
    }
}

/// Whether output is also shown while it comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Yes.
    Show,
    /// Kept only.
    Hide,
}

/// The last `count` lines.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A command that ends with us, even if we are killed (where `setpriv` exists).
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    static SETPRIV: OnceLock<bool> = OnceLock::new();
    let available = *SETPRIV.get_or_init(|| {
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    if !available {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A bash script that stops at its first error; arguments become `$1`...
pub(crate) fn bash<S: AsRef<std::ffi::OsStr>>(script: &str, arguments: &[S]) -> Command {
    let mut command = command("bash");
    command.args(["-euo", "pipefail", "-c", script, "bash"]);
    command.args(arguments);
    command
}

/// Runs a command to its end, or kills its whole process group at `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration, echo: Echo) -> Result<Finished> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{} can't be started", describe(command)))?;
    let (sender, lines) = channel();
    let out: Option<Box<dyn Read + Send>> = child.stdout.take().map(|pipe| Box::new(pipe) as _);
    let err: Option<Box<dyn Read + Send>> = child.stderr.take().map(|pipe| Box::new(pipe) as _);
    for pipe in [out, err].into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || read_lines(pipe, &mut |line| sender.send(line).is_ok()));
    }
    drop(sender);
    let mut text = String::new();
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                if echo == Echo::Show {
                    println!("{line}");
                }
                text.push_str(&line);
                text.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) if ended.is_some() => break,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
            Err(RecvTimeoutError::Timeout) => {}
        }
        match ended {
            Some((_, at)) if at.elapsed() > DRAIN => break,
            Some(_) => {}
            None => ended = child.try_wait()?.map(|status| (status, Instant::now())),
        }
        if ended.is_none() && started.elapsed() > limit {
            let _gone = killpg(group(&child), Signal::SIGKILL);
            child.wait()?;
            text.push_str(&format!("killed: no end within {} s\n", limit.as_secs()));
            return Ok(Finished { text, status: None });
        }
    }
    Ok(Finished {
        text,
        status: ended.map(|(status, _)| status),
    })
}

/// Runs a command that must succeed; what it printed.
pub(crate) fn check(name: &str, command: &mut Command, limit: Duration) -> Result<String> {
    let finished = run(command, limit, Echo::Hide)?;
    ensure!(
        finished.success(),
        "{name} failed ({}):\n{}",
        finished
            .status
            .map_or_else(|| "time limit".to_owned(), |status| status.to_string()),
        finished.tail()
    );
    Ok(finished.text)
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .take(6)
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

fn read_lines(pipe: impl Read, sink: &mut dyn FnMut(String) -> bool) {
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        if !sink(line) {
            return;
        }
    }
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("Linux process ids fit 31 bits"))
}

/// A process that serves until it is told to stop. Dropping it stops it: SIGTERM, ten seconds, SIGKILL.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; output goes to `log`, and the process is noted in the ledger beside it.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("{}", log.display()))?;
        let mut copy = file.try_clone()?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} can't be started", describe(command)))?;
        ledger::note(log, child.id())?;
        let pipe = child.stdout.take().context("its output was asked for")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            read_lines(pipe, &mut |line| {
                // A log that can't be written is no reason to stop reading: the process would block.
                let _unwritten = writeln!(copy, "{line}");
                let _nobody = sender.send(line);
                true
            });
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it prints a line that begins with `prefix`.
    pub(crate) fn wait_line(&mut self, prefix: &str, limit: Duration) -> Result<String> {
        let started = Instant::now();
        while started.elapsed() < limit {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) if line.starts_with(prefix) => return Ok(line),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!(
                        "{} ended ({status}) before it printed `{prefix}`:\n{}",
                        self.name,
                        self.output()
                    );
                }
            }
        }
        Err(anyhow!(
            "{} did not print `{prefix}` within {:.1} s:\n{}",
            self.name,
            limit.as_secs_f64(),
            self.output()
        ))
    }

    /// What it has printed so far is not waited for any more.
    pub(crate) fn forget_lines(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(group(&self.child), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                started.elapsed() < limit,
                "{} did not end within {:.1} s:\n{}",
                self.name,
                limit.as_secs_f64(),
                self.output()
            );
            std::thread::sleep(LOOK_FOR_END);
        }
    }

    /// The last lines of its log.
    pub(crate) fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes), 15)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _gone = self.signal(Signal::SIGTERM);
        if self.wait(GRACE).is_err() {
            let _gone = killpg(group(&self.child), Signal::SIGKILL);
            let _reaped = self.child.wait();
        }
    }
}

/// Which processes were started below a directory, so that a caller can end them when the starter was killed.
pub(crate) mod ledger {
    use super::{Context, Path, Pid, Result, Signal, Write, kill};

    const NAME: &str = "processes";

    /// A process's start time in clock ticks since boot: with its id, who it is.
    fn born(id: u32) -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields = text.rsplit(')').next()?;
        fields.split_whitespace().nth(19).map(str::to_owned)
    }

    /// Notes a process in the directory that holds its log.
    pub(super) fn note(log: &Path, id: u32) -> Result<()> {
        let path = log.with_file_name(NAME);
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("{}", path.display()))?;
        writeln!(file, "{id} {}", born(id).unwrap_or_default())?;
        Ok(())
    }

    /// Kills every noted process that is still the one that was noted.
    pub(crate) fn kill_all(directory: &Path) {
        let text = std::fs::read_to_string(directory.join(NAME)).unwrap_or_default();
        for line in text.lines() {
            let Some((id, since)) = line.split_once(' ') else {
                continue;
            };
            if let Ok(id) = id.parse::<u32>()
                && born(id).as_deref() == Some(since)
                && let Ok(raw) = i32::try_from(id)
            {
                let _gone = kill(Pid::from_raw(raw), Signal::SIGKILL);
            }
        }
    }
}

/// Processes that a command left behind: a server that put itself in the background, say.
pub(crate) mod orphans {
    use super::{Instant, LOOK, Path, Pid, Signal, kill};

    /// What a command is given in its environment so that whatever it starts can be recognised.
    pub(crate) const MARK: &str = "POLYFS_ACCEPT_LINE";

    /// Kills, by id, every process that carries this mark, and waits until none does.
    pub(crate) fn end(value: &Path) {
        let mark = format!("{MARK}={}", value.display());
        let started = Instant::now();
        loop {
            let found = marked(mark.as_bytes());
            if found.is_empty() || started.elapsed() > super::GRACE {
                return;
            }
            for id in found {
                let _gone = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn marked(mark: &[u8]) -> Vec<i32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment
                .split(|byte| *byte == 0)
                .any(|word| word == mark)
            {
                found.push(id);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_past_its_limit_is_killed_with_its_children() {
        let mut command = bash("sleep 600 & echo $!; wait", &[""; 0]);
        let finished = run(&mut command, Duration::from_millis(400), Echo::Hide).unwrap();
        assert!(finished.status.is_none());
        let id: i32 = finished.text.lines().next().unwrap().parse().unwrap();
        let started = Instant::now();
        let gone = || {
            std::fs::read_to_string(format!("/proc/{id}/stat"))
                .map_or(true, |text| text.contains(") Z "))
        };
        while !gone() && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(LOOK);
        }
        assert!(gone(), "the child outlived its group");
    }

    #[test]
    fn output_and_failure_are_kept() {
        let mut command = bash("echo out; echo err >&2; exit 3", &[""; 0]);
        let finished = run(&mut command, Duration::from_secs(20), Echo::Hide).unwrap();
        assert!(!finished.success());
        assert!(finished.text.contains("out") && finished.text.contains("err"));
    }

    #[test]
    fn a_left_behind_process_does_not_hold_the_caller() {
        let mut command = bash("sleep 30 & echo $!", &[""; 0]);
        let started = Instant::now();
        let finished = run(&mut command, Duration::from_secs(20), Echo::Hide).unwrap();
        assert!(finished.success() && started.elapsed() < Duration::from_secs(10));
        let id = finished.text.trim().parse().unwrap();
        let _gone = kill(Pid::from_raw(id), Signal::SIGKILL);
    }
}
