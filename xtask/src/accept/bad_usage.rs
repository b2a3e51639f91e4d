//! Lines about wrong use: each is said at once, names what is wrong and what to do, and ends with the code that scripts
//! look for.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bad_input::{SAID_MAX, must_fail};
use super::{Context, Figure, Line, Needs, is_mounted, up};
use crate::process::{self, Echo};

const LIMIT: Duration = Duration::from_secs(400);

/// Flags and configuration files.
pub(super) const FLAGS: Line = Line {
    id: "bad-usage",
    title: "wrong flags and configuration files: exit code 2, and the flag is named",
    needs: Needs::Nothing,
    packages: &[],
    limit: LIMIT,
    run: flags,
};

/// Mountpoints again.
pub(super) const MOUNTS: Line = Line {
    id: "bad-mounts",
    title: "hung mounts, data inside a mount, other spellings, other users: clear errors, or it works",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LIMIT,
    run: mounts,
};

/// Files that are cut, gone, or from the future.
pub(super) const LOSSES: Line = Line {
    id: "bad-losses",
    title: "a cut database, a missing log file, a newer waypoint's state: said, and never overwritten",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LIMIT,
    run: losses,
};

fn polyfs(context: &Context, words: &[&str]) -> Command {
    let mut command = process::command(&context.binary);
    command.args(words).env_remove("POLYFS_WAYPOINT");
    command
}

fn flags(context: &Context) -> Result<Figure> {
    let node = ["node", "--data", "n", "--listen"];
    let mut cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["up", "m", "--listen", "0.0.0.0:7790"], "--listen"),
        (vec!["up", "m", "--listen", "127.0.0.1:0"], "--listen"),
        (vec!["waypoint"], "--listen"),
        (vec!["waypoint", "--listen", "7790"], "--listen"),
        (
            vec!["waypoint", "forget", "xyz", "--waypoint", "a:1"],
            "cluster id",
        ),
        (vec!["waypoint", "forget", "12"], "--waypoint"),
        (vec!["status"], "--waypoint"),
        (vec!["status", "--waypoint", "w1"], "--waypoint"),
        (vec!["status", "--waypoint", "w1:0"], "--waypoint"),
        (
            vec!["node", "--data", "n", "--listen", "0.0.0.0:7791"],
            "--advertise",
        ),
        (
            vec!["node", "--data", "n", "--listen", "127.0.0.1:0"],
            "--listen",
        ),
    ];
    for (flag, value) in [
        ("--advertise", "foo"),
        ("--advertise", "foo:0"),
        ("--waypoint", "a:1,"),
        ("--zone", "a\u{7}b"),
        ("--capacity", "0"),
        ("--capacity", "10MB"),
        ("--capacity", "99999999EB"),
        ("--expect", "0"),
    ] {
        cases.push(([&node[..], &["127.0.0.1:7791", flag, value]].concat(), flag));
    }
    let mut slowest = Duration::ZERO;
    let count = cases.len();
    for (words, named) in cases {
        let mut command = polyfs(context, &words);
        command.current_dir(&context.scratch);
        slowest = slowest.max(must_fail(&words.join(" "), &mut command, 2, &[named])?);
    }
    let mut empty = polyfs(context, &["status"]);
    empty.env("POLYFS_WAYPOINT", "");
    must_fail(
        "an empty POLYFS_WAYPOINT",
        &mut empty,
        2,
        &["--waypoint", "unset"],
    )?;
    let file = context.scratch.join("polyfs.toml");
    let configured = |path: &Path| {
        let mut command = polyfs(context, &["up", "m", "--config"]);
        command.arg(path);
        command
    };
    for (text, named) in [
        ("data = false", "data"),
        ("nodes = \"three\"", "--nodes"),
        ("join-only = 7", "join-only"),
        ("dta = 1", "dta"),
        ("data", "TOML"),
    ] {
        std::fs::write(&file, text)?;
        must_fail(text, &mut configured(&file), 2, &[named])?;
    }
    must_fail(
        "an endless file",
        &mut configured(Path::new("/dev/zero")),
        2,
        &["1 MiB"],
    )?;
    let missing = context.scratch.join("missing.toml");
    must_fail(
        "a missing file",
        &mut configured(&missing),
        2,
        &["missing.toml"],
    )?;
    Figure::within(
        slowest,
        SAID_MAX,
        &format!("at most, aim 5 s; {} cases", count + 8),
    )
}

/// Does its work whoever reads how much of the output.
fn head(context: &Context, words: &str) -> Result<()> {
    let script =
        format!(r#""$1" {words} 2>err | head -1 >first; cat err; [ ! -s err ] && [ -s first ]"#);
    context.bash(words, &script, &[&context.binary], SAID_MAX)?;
    Ok(())
}

fn mounts(context: &Context) -> Result<Figure> {
    let mount = up::up(context)?;
    let point = mount.point.clone();
    head(context, "completions bash")?;
    head(context, "--help")?;
    let free = "mount=$1; truncate -s 0 \"$mount/big\"; ! fallocate -l 900T \"$mount/big\" 2>said; grep -qi 'no space' said";
    context.bash("fallocate beyond the disk", free, &[&point], SAID_MAX)?;
    let small = r#"fallocate -l 4M "$1/small" && [ "$(stat -c %s "$1/small")" = 4194304 ]"#;
    context.bash("fallocate of what fits", small, &[&point], SAID_MAX)?;
    let inodes = r#"for n in $(seq 1 50); do : >"$1/f$n"; done
        for n in $(seq 1 100); do [ "$(df --output=iused "$1" | tail -1)" -ge 50 ] && exit 0; sleep 0.1; done; exit 1"#;
    context.bash("inodes in use", inodes, &[&point], SAID_MAX)?;
    // Stopped: it can't answer, and nobody waits for it.
    let served = Pid::from_raw(i32::try_from(mount.id().context("it runs")?)?);
    kill(served, Signal::SIGSTOP)?;
    let other = context.directory("other")?;
    let mut again = polyfs(context, &["up"]);
    again.arg(&point).arg("--data").arg(&other);
    let slowest = must_fail(
        "a stopped mount",
        &mut again,
        1,
        &["answer", "umount --lazy"],
    );
    kill(served, Signal::SIGCONT)?;
    let slowest = slowest?;
    for (data, at) in [
        (other.join("data"), other.clone()),
        (context.scratch.clone(), other.clone()),
        (other.clone(), other.clone()),
    ] {
        let mut command = polyfs(context, &["up"]);
        command.arg(&at).arg("--data").arg(&data);
        let what = format!("data in {}, mounted at {}", data.display(), at.display());
        must_fail(&what, &mut command, 2, &["inside", "--data"])?;
    }
    let mut unmount = polyfs(context, &["umount", "./mnt/"]);
    unmount.current_dir(&context.scratch);
    let finished = process::run(&mut unmount, SAID_MAX, Echo::Hide)?;
    ensure!(finished.success(), "umount ./mnt/: {}", finished.tail());
    ensure!(!is_mounted(&point), "umount ./mnt/ left it mounted");
    Figure::within(
        slowest,
        SAID_MAX,
        "until a stopped mount was given up; 10 cases",
    )
}

fn losses(context: &Context) -> Result<Figure> {
    let mount = up::up(context)?;
    std::fs::write(mount.point.join("file"), b"kept")?;
    mount.stop()?;
    let data = context.scratch.join("data");
    let point = context.directory("mnt")?;
    let refused = |what: &str, words: &[&str]| {
        let mut command = polyfs(context, &["up"]);
        command.arg(&point).arg("--data").arg(&data);
        must_fail(what, &mut command, 1, words)
    };
    let mut slowest = Duration::ZERO;
    let state = data.join("state.redb");
    let good = std::fs::read(&state)?;
    let mut cases = 0;
    for cut in [0, 1, 4096, good.len() / 2, good.len() - 1] {
        std::fs::write(&state, &good[..cut])?;
        let what = format!("state.redb cut to {cut} bytes");
        slowest = slowest.max(refused(&what, &["database is damaged", "empty one"])?);
        cases += 1;
    }
    std::fs::write(&state, &good)?;
    let file = std::fs::File::options().write(true).open(&state)?;
    file.write_all_at(&[0xa5; 9000], 64)?;
    refused(
        "state.redb overwritten",
        &["database is damaged", "empty one"],
    )?;
    std::fs::write(&state, &good)?;
    for entry in std::fs::read_dir(&data)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.starts_with("log-") {
            continue;
        }
        let aside = context.scratch.join(&name);
        std::fs::rename(&path, &aside)?;
        slowest = slowest.max(refused(&format!("without {name}"), &["log-", "empty one"])?);
        ensure!(!path.exists(), "{name} was made anew");
        std::fs::rename(&aside, &path)?;
        cases += 1;
    }
    let mount = up::up(context).context("everything is back")?;
    ensure!(std::fs::read(mount.point.join("file"))? == b"kept");
    mount.stop()?;
    let newer = context.scratch.join("waypoint.state");
    std::fs::write(&newer, [0x7f, 0, 0])?;
    let mut command = polyfs(
        context,
        &["waypoint", "--listen", "127.0.0.1:17790", "--state"],
    );
    command.arg(&newer);
    must_fail(
        "a newer waypoint's state",
        &mut command,
        1,
        &["newer polyfs"],
    )?;
    let more = format!("at most, aim 5 s; {} cases", cases + 2);
    Figure::within(slowest, SAID_MAX, &more)
}
