//! Lines about what should not be there: each is a clear error within seconds, and nothing is lost.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::cluster::{Cluster, free_address};
use super::mount::{Mount, fresh_log};
use super::tree::content;
use super::{Context, Figure, Line, Needs, up};
use crate::process::{self, Daemon, Echo};

/// An error is said within this; a failure only well beyond it.
const SAID_AIM: Duration = Duration::from_secs(5);
pub(super) const SAID_MAX: Duration = Duration::from_secs(3 * SAID_AIM.as_secs());
const LIMIT: Duration = Duration::from_secs(400);

/// Garbage on every port.
pub(super) const NETWORK: Line = Line {
    id: "bad-network",
    title: "random bytes and cut-off frames to every port end that connection and nothing else",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LIMIT,
    run: network,
};

/// A node of somebody else.
pub(super) const STRANGER: Line = Line {
    id: "bad-cluster",
    title: "a node of another cluster is told so and changes nothing",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LIMIT,
    run: stranger,
};

/// Places where nothing can be mounted, clusters that are not there.
pub(super) const MOUNTPOINT: Line = Line {
    id: "bad-mountpoint",
    title: "a bad mount point, no /dev/fuse, an unreachable waypoint: a clear error at once",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LIMIT,
    run: mountpoint,
};

/// Directories that are not ours to use.
pub(super) const DATA: Line = Line {
    id: "bad-data",
    title: "a data directory in use, or of a newer version, or of something else: a clear error",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LIMIT,
    run: data,
};

/// No room.
pub(super) const FULL: Line = Line {
    id: "bad-full",
    title: "a full disk says ENOSPC, removing works, and nothing is lost",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: LIMIT,
    run: full,
};

/// The command must fail, with exit code `code`, soon, and say all of `words`.
pub(super) fn must_fail(
    what: &str,
    command: &mut Command,
    code: i32,
    words: &[&str],
) -> Result<Duration> {
    let started = Instant::now();
    let finished = process::run(command, SAID_MAX, Echo::Hide)?;
    let took = started.elapsed();
    let status = finished.status.with_context(|| {
        format!(
            "{what}: no end within {} s\n{}",
            SAID_MAX.as_secs(),
            finished.tail()
        )
    })?;
    ensure!(
        status.code() == Some(code),
        "{what}: {status} instead of exit code {code}\n{}",
        finished.tail()
    );
    let text = finished.text.to_lowercase();
    for word in words {
        ensure!(
            text.contains(&word.to_lowercase()),
            "{what}: the error does not say {word:?}:\n{}",
            finished.tail()
        );
    }
    ensure!(
        !text.contains("panicked"),
        "{what}: it panicked\n{}",
        finished.tail()
    );
    Ok(took)
}

fn polyfs(context: &Context, arguments: &[&str], path: &Path) -> Command {
    let mut command = process::command(&context.binary);
    command.args(arguments).arg(path);
    command
}

/// A connection that sends `bytes` must be closed by the other side, whatever it answers before.
fn send_garbage(address: &str, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SAID_MAX))?;
    // It may be closed while we still send.
    let _sent = stream.write_all(bytes);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context(format!(
            "{address} keeps the connection of {} bytes",
            bytes.len()
        )),
    }
}

fn network(context: &Context) -> Result<Figure> {
    let cluster = Cluster::whole(&context.binary, &context.scratch, 3)?;
    let mount = cluster.mount("m")?;
    std::fs::write(mount.point.join("file"), content(7, 500_000))?;
    let mut addresses = vec![cluster.waypoint.clone()];
    addresses.extend((0..3).map(|node| cluster.address(node).to_owned()));
    let mut sent = 0;
    for address in &addresses {
        for (number, length) in [0, 1, 3, 4, 11, 16, 17, 64, 1000, 100_000]
            .into_iter()
            .enumerate()
        {
            let number = u64::try_from(number)?;
            send_garbage(address, &content(number, length))?;
            // Lengths that promise more than ever comes, then silence.
            let mut promising = vec![0xff; 12];
            promising.extend(content(number, length));
            send_garbage(address, &promising)?;
            let mut small = u32::to_le_bytes(100).to_vec();
            small.extend(content(number, length.min(40)));
            send_garbage(address, &small)?;
            sent += 3;
        }
    }
    cluster.heal(3)?;
    ensure!(std::fs::read(mount.point.join("file"))? == content(7, 500_000));
    cluster.fsck()?;
    mount.stop()?;
    Ok(Figure::count(
        sent,
        "connections",
        "closed, all the rest as before",
    ))
}

fn stranger(context: &Context) -> Result<Figure> {
    let ours = Cluster::whole(&context.binary, &context.directory("ours")?, 3)?;
    let mut theirs = Cluster::start(&context.binary, &context.directory("theirs")?, 1)?;
    let before = ours.status()?;
    let mount = ours.mount("m")?;
    std::fs::write(mount.point.join("before"), content(1, 100_000))?;
    theirs.kill_all()?;
    let mut command = process::command(&context.binary);
    command.arg("node").arg("--data").arg(theirs.data(0));
    command.args(["--listen", &free_address()?, "--waypoint", &ours.waypoint]);
    let log = fresh_log(&context.scratch, "stranger");
    let stranger = Daemon::start("the stranger", &mut command, &log)?;
    let started = Instant::now();
    let said = loop {
        let text = std::fs::read_to_string(&log)
            .unwrap_or_default()
            .to_lowercase();
        if text.contains("another cluster") || text.contains("other cluster") {
            break started.elapsed();
        }
        ensure!(
            started.elapsed() < SAID_MAX,
            "it says nothing of another cluster:\n{}",
            stranger.output()
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    // Who has a mount goes on; who only knows the waypoint is told of both clusters until one has gone.
    ensure!(std::fs::read(mount.point.join("before"))? == content(1, 100_000));
    std::fs::write(mount.point.join("meanwhile"), content(2, 100_000))?;
    drop(stranger);
    ours.heal(before.nodes.len())?;
    ensure!(std::fs::read(mount.point.join("meanwhile"))? == content(2, 100_000));
    mount.stop()?;
    Figure::within(said, SAID_MAX, "until it said so, aim 5 s")
}

fn mountpoint(context: &Context) -> Result<Figure> {
    let data = context.directory("data")?;
    let with_data = |point: &Path| {
        let mut command = polyfs(context, &["up"], point);
        command.arg("--data").arg(&data);
        command
    };
    let file = context.scratch.join("file");
    std::fs::write(&file, b"")?;
    let full = context.directory("full")?;
    std::fs::write(full.join("something"), b"")?;
    let mut slowest = Duration::ZERO;
    let mut told = |what: &str, command: &mut Command, words: &[&str]| -> Result<()> {
        slowest = slowest.max(must_fail(what, command, 1, words)?);
        Ok(())
    };
    let missing = context.scratch.join("missing");
    told(
        "a missing mount point",
        &mut with_data(&missing),
        &["missing"],
    )?;
    told(
        "a file as mount point",
        &mut with_data(&file),
        &["file", "directory"],
    )?;
    told(
        "a mount point in use",
        &mut with_data(&full),
        &["full", "empty"],
    )?;
    let point = context.directory("m")?;
    let hidden = r#"mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9; exec "$@""#;
    let mut command = process::command("unshare");
    command.args(["-m", "bash", "-euc", hidden, "bash"]);
    command
        .arg(&context.binary)
        .arg("up")
        .arg(&point)
        .arg("--data")
        .arg(&data);
    told("no /dev/fuse", &mut command, &["/dev/fuse"])?;
    let nobody = free_address()?;
    let mut command = polyfs(context, &["mount", "--waypoint", &nobody], &point);
    told("nobody at the waypoint (mount)", &mut command, &[&nobody])?;
    let mut command = process::command(&context.binary);
    command.args(["status", "--waypoint", &nobody]);
    told("nobody at the waypoint (status)", &mut command, &[&nobody])?;
    // A node waits for its waypoint, and says so.
    let mut command = process::command(&context.binary);
    command
        .arg("node")
        .arg("--data")
        .arg(context.directory("n")?);
    command.args(["--listen", &free_address()?, "--waypoint", &nobody]);
    let log = fresh_log(&context.scratch, "waiting");
    let node = Daemon::start("the node", &mut command, &log)?;
    let started = Instant::now();
    while !std::fs::read_to_string(&log)
        .unwrap_or_default()
        .contains(&nobody)
    {
        ensure!(
            started.elapsed() < SAID_MAX,
            "a node does not say which waypoint it waits for:\n{}",
            node.output()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    must_fail(
        "an option that is not there",
        &mut polyfs(context, &["up", "--wrong"], &point),
        2,
        &["--wrong"],
    )?;
    Figure::within(slowest, SAID_MAX, "at most, aim 5 s; 8 cases")
}

fn data(context: &Context) -> Result<Figure> {
    let mount = up::up(context)?;
    std::fs::write(mount.point.join("file"), content(3, 70_000))?;
    let data = context.scratch.join("data");
    let other = context.directory("other")?;
    let mut again = polyfs(context, &["up"], &other);
    again.arg("--data").arg(&data);
    let mut slowest = must_fail("a data directory in use", &mut again, 1, &["in use"])?;
    mount.stop()?;
    // Log segments and the identity name their format: a sound version from the future in each.
    let mut versions = 0;
    for entry in std::fs::read_dir(&data)? {
        let path = entry?.path();
        let Some(seal) = Seal::of(&path)? else {
            continue;
        };
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)?;
        let mut old = vec![0; seal.bytes + 4];
        file.read_exact_at(&mut old, 0)?;
        let mut newer = old[..seal.bytes].to_vec();
        newer[seal.version] = 0x7f;
        newer.extend(crc32c(&newer).to_le_bytes());
        file.write_all_at(&newer, 0)?;
        let mut command = polyfs(context, &["up"], &other);
        command.arg("--data").arg(&data);
        let what = format!("a newer version in {}", path.display());
        slowest = slowest.max(must_fail(&what, &mut command, 1, &["version", "upgrade"])?);
        file.write_all_at(&old, 0)?;
        versions += 1;
    }
    ensure!(
        versions > 0,
        "no file of {} names its version",
        data.display()
    );
    let mount = up::up(context)?;
    ensure!(std::fs::read(mount.point.join("file"))? == content(3, 70_000));
    mount.stop()?;
    let more = format!("at most, aim 5 s; in use, {versions} newer formats");
    Figure::within(slowest, SAID_MAX, &more)
}

/// Where docs/format.md puts a version, and how many bytes the CRC32C covers that comes right after them.
struct Seal {
    version: usize,
    bytes: usize,
}

impl Seal {
    /// Other files have no version of their own.
    fn of(path: &Path) -> Result<Option<Self>> {
        let file = std::fs::File::open(path)?;
        if path.file_name().is_some_and(|name| name == "identity") {
            let bytes = usize::try_from(file.metadata()?.len())? - 4;
            return Ok(Some(Self { version: 0, bytes }));
        }
        let mut head = [0; 8];
        let is_segment = path.is_file() && file.read_at(&mut head, 0)? == 8 && head == *b"PolyFSws";
        let (version, bytes) = (8, 32);
        Ok(is_segment.then_some(Self { version, bytes }))
    }
}

/// The checksum of all formats, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let fold = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| fold(crc))
    })
}

/// A disk of this size, in memory.
const SMALL_DISK: &str = "size=900m";

/// Making the file, writing and syncing it may each find the disk full.
fn store(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn full(context: &Context) -> Result<Figure> {
    let disk = context.directory("data")?;
    let script = r#"mount -t tmpfs -o "$1" none "$2""#;
    context.bash(
        "a small disk",
        script,
        &[SMALL_DISK.as_ref(), disk.as_os_str()],
        SAID_MAX,
    )?;
    let mount = up::up(context)?;
    let kept = content(5, 3_000_000);
    std::fs::write(mount.point.join("kept"), &kept)?;
    let block = content(6, 4 << 20);
    let mut written = 0_u64;
    let mut tried;
    let error = loop {
        tried = Instant::now();
        match store(&mount.point.join(format!("fill-{written}")), &block) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        ensure!(
            written < 1000,
            "a small disk takes {written} blocks of 4 MiB"
        );
    };
    ensure!(
        error.raw_os_error() == Some(nix::libc::ENOSPC),
        "a full disk says {error}"
    );
    ensure!(tried.elapsed() < SAID_MAX, "it says so too late");
    for number in 0..written {
        let found = std::fs::read(mount.point.join(format!("fill-{number}")))?;
        ensure!(
            found == block,
            "block {number} was acknowledged and is another"
        );
    }
    ensure!(std::fs::read(mount.point.join("kept"))? == kept);
    for entry in std::fs::read_dir(&mount.point)? {
        let entry = entry?;
        if entry.file_name() != "kept" {
            std::fs::remove_file(entry.path()).context("removing on a full disk")?;
        }
    }
    let started = Instant::now();
    while store(&mount.point.join("after"), &block).is_err() {
        ensure!(
            started.elapsed() < Duration::from_secs(60),
            "no room a minute after removing all"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    mount.stop()?;
    let mount: Mount = up::up(context)?;
    ensure!(std::fs::read(mount.point.join("kept"))? == kept);
    ensure!(std::fs::read(mount.point.join("after"))? == block);
    mount.stop()?;
    context.bash("end", r#"umount "$1""#, &[&disk], SAID_MAX)?;
    Ok(Figure::new(
        f64::from(u32::try_from(written * 4)?),
        "MiB",
        "until ENOSPC; removed, and written again",
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
