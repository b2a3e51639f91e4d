//! Lines about `polyfs up`: one command for a working filesystem.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::cluster::free_address;
use super::mount::{Mount, START_LIMIT};
use super::{Context, Figure, Line, Needs, is_mounted};

/// From the command to a mount that takes a write, on an empty directory: what we aim at.
const START_AIM: Duration = Duration::from_secs(2);
/// A start is a failure only well beyond the aim: the machine may be busy.
const START_MAX: Duration = Duration::from_secs(3 * START_AIM.as_secs());
/// From SIGTERM to the end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// What every line about a mount uses.
pub(super) const PACKAGES: &[&str] = &["fuse3"];

/// Empty directory to writable mount.
pub(super) const START: Line = Line {
    id: "up-start",
    title: "polyfs up on an empty directory is mounted and writable at once",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(120),
    run: start,
};

/// SIGTERM, and again.
pub(super) const STOP: Line = Line {
    id: "up-stop",
    title: "SIGTERM unmounts cleanly, and a new start has everything",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(180),
    run: stop,
};

/// What comes after it.
pub(super) const REPLACED: Line = Line {
    id: "up-replaced",
    title: "the end of a mount that was detached leaves alone what is mounted there since",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(120),
    run: replaced,
};

/// Ctrl-C, a closed terminal, service managers.
pub(super) const SIGNALS: Line = Line {
    id: "up-signals",
    title: "signals end every command, whenever they come; a file may bring its flags",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(300),
    run: signals,
};

/// The basic calls.
pub(super) const POSIX: Line = Line {
    id: "up-posix",
    title: "a tour of the basic calls behaves as on a local disk",
    needs: Needs::Mount,
    packages: &["attr", "fuse3"],
    limit: Duration::from_secs(240),
    run: posix,
};

/// allow_other and permissions.
pub(super) const OTHER_USER: Line = Line {
    id: "up-user",
    title: "another user reads and writes a mount that root made, within its permissions",
    needs: Needs::Mount,
    packages: PACKAGES,
    limit: Duration::from_secs(120),
    run: other_user,
};

/// A filesystem of one process in the line's work directory.
pub(super) fn up(context: &Context) -> Result<Mount> {
    let point = context.scratch.join("mnt");
    let data = context.directory("data")?;
    Mount::up(&context.binary, &point, &data, &context.scratch)
}

fn start(context: &Context) -> Result<Figure> {
    let started = Instant::now();
    let mount = up(context)?;
    std::fs::write(mount.point.join("first"), b"written")?;
    let took = started.elapsed();
    ensure!(std::fs::read(mount.point.join("first"))? == b"written");
    let mounted = mount.took.as_secs_f64();
    mount.stop()?;
    let more = format!(
        "mounted after {mounted:.2} s, aim {} s",
        START_AIM.as_secs()
    );
    Figure::within(took, START_MAX, &more)
}

fn stop(context: &Context) -> Result<Figure> {
    let mount = up(context)?;
    ensure!(mount.id().is_some_and(|id| id > 1));
    let file = mount.point.join("directory").join("file");
    std::fs::create_dir(mount.point.join("directory"))?;
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    // Not synced: a clean stop must write back what is still in memory.
    std::fs::write(&file, &content)?;
    let point = mount.point.clone();
    let took = mount.stop()?;
    ensure!(!is_mounted(&point));
    let mount = up(context).context("the second start")?;
    ensure!(
        std::fs::read(&file)? == content,
        "the file is not what was written before the stop"
    );
    mount.stop()?;
    Figure::within(took, STOP_MAX, "12 MB unsynced before")
}

/// A process works in the mount while it is detached, so its process goes on; then something else is mounted there.
fn replaced(context: &Context) -> Result<Figure> {
    let script = r#"binary=$1 point=$2 served=$3; shift 3
        (cd "$point" && exec sleep 100) & user=$!
        until [ "$(readlink /proc/$user/cwd)" = "$point" ]; do :; done
        "$binary" umount --lazy "$point"
        "$@" "$point"; echo kept >"$point/kept"
        kill $user; wait $user || true
        while state=$(cut -d' ' -f3 /proc/$served/stat 2>/dev/null) && [ "$state" != Z ]; do sleep 0.1; done
        [ "$(cat "$point/kept")" = kept ]"#;
    let mount = up(context)?;
    let (point, served) = (mount.point.clone(), mount.id().context("it runs")?);
    let binary = context.binary.display().to_string();
    let words = [&*binary, &point.display().to_string(), &served.to_string()].map(str::to_owned);
    let with_tmpfs = ["mount", "-t", "tmpfs", "other"].map(str::to_owned);
    let arguments = [&words[..], &with_tmpfs].concat();
    context.bash("something else there", script, &arguments, STOP_MAX)?;
    let unmount = "umount \"$1\"";
    context.bash("umount", unmount, &[&point], STOP_MAX)?;
    drop(mount);
    // The next mount of ours is told from the last, too.
    let mount = up(context)?;
    let other = context.directory("other")?;
    let served = mount.id().context("it runs")?.to_string();
    let log = context.scratch.join("other.log").display().to_string();
    let next = format!(
        r#"start() {{ "{binary}" up "$1" --data "{}" >"{log}" 2>&1 & server=$!; until grep -q ^mounted "{log}"; do sleep 0.1; done; }}; "#,
        other.display()
    );
    let arguments = [binary, point.display().to_string(), served, "start".into()];
    let script = format!("{next}{script}; kill $server; wait $server || true");
    context.bash("another polyfs there", &script, &arguments, START_LIMIT)?;
    drop(mount);
    ensure!(!is_mounted(&point));
    // One that the kernel has cut off, and is still there, goes.
    let mount = up(context)?;
    let served = mount.id().context("it runs")?.to_string();
    let cut = r#"minor=$(mountpoint -d "$1"); mkdir control; mount -t fusectl none control
        echo 1 >"control/${minor#*:}/abort"; umount control
        while state=$(cut -d' ' -f3 /proc/$2/stat 2>/dev/null) && [ "$state" != Z ]; do sleep 0.1; done
        ! mountpoint -q "$1" && [ -z "$(grep -F " $1 " /proc/self/mountinfo)" ]"#;
    let arguments = [point.display().to_string(), served];
    context.bash("one that was cut off", cut, &arguments, STOP_MAX)?;
    drop(mount);
    Ok(Figure::count(
        2,
        "mounts stayed",
        "and one that was cut off went",
    ))
}

fn posix(context: &Context) -> Result<Figure> {
    let mount = up(context)?;
    let script = include_str!("scripts/posix-tour.sh");
    let limit = Duration::from_secs(150);
    let output = context.bash("the tour", script, &[&mount.point], limit)?;
    let steps = output
        .lines()
        .filter(|line| line.starts_with("ok "))
        .count();
    ensure!(
        output.lines().last() == Some("tour done"),
        "it ended early:\n{output}"
    );
    mount.stop()?;
    Ok(Figure::count(steps, "steps", ""))
}

fn signals(context: &Context) -> Result<Figure> {
    let script = include_str!("scripts/signals.sh");
    let home = context.directory("home")?.display().to_string();
    let mut words = vec![context.binary.display().to_string(), home];
    for _ in 0..3 {
        words.push(free_address()?);
    }
    let output = context.bash("the signals", script, &words, Duration::from_secs(280))?;
    ensure!(
        output.lines().last() == Some("all done"),
        "it ended early:\n{output}"
    );
    let steps = output.lines().filter(|line| line.starts_with("ok "));
    Ok(Figure::count(steps.count(), "steps", ""))
}

fn other_user(context: &Context) -> Result<Figure> {
    let mount = up(context)?;
    let script = r#"cd "$1"; mkdir -m 1777 common; mkdir -m 700 private; echo root >private/secret
        echo for-all >common/readable; chmod 644 common/readable
        as() { setpriv --reuid=65534 --regid=65534 --clear-groups -- bash -euo pipefail -c "$1"; }
        as 'echo mine >common/own; [ "$(cat common/own)" = mine ]; mkdir common/d; mv common/own common/d/own'
        [ "$(stat -c %u:%g common/d/own)" = 65534:65534 ]
        [ "$(as 'cat common/readable')" = for-all ]
        # bash -e takes no notice of what is negated.
        refused() { if as "$1" 2>/dev/null; then echo "it may $1"; exit 1; fi; }
        refused 'cat private/secret'
        refused 'echo x >>common/readable'
        refused 'rm -f common/readable'
        refused 'chown 0 common/d/own'
        as 'rm -r common/d'"#;
    let limit = Duration::from_secs(60);
    context.bash("the other user", script, &[&mount.point], limit)?;
    mount.stop()?;
    Ok(Figure::count(11, "steps", "as user 65534"))
}
