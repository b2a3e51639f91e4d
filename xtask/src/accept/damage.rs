//! Lines about a disk that lies: a bit is flipped in each kind of file.
//!
//! One flipped bit may hit what nobody reads, so every 4 KiB block of a file gets one. Then a single node must say so
//! and stop, or answer errors; of three nodes the others serve. Wrong bytes are never an answer.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cluster::Cluster;
use super::mount::Mount;
use super::tree::content;
use super::{Context, Figure, Line, Needs, up};

/// One node.
pub(super) const SINGLE: Line = Line {
    id: "damage-single",
    title: "flipped bits in each kind of file: a single node says so, and never serves wrong bytes",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(400),
    run: single,
};

/// Three nodes.
pub(super) const THREE: Line = Line {
    id: "damage-three",
    title: "flipped bits in each kind of file of one node: the others serve everything",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(900),
    run: three,
};

const FILES: u64 = 60;
const BLOCK: u64 = 4096;
/// A data directory has at least so many kinds of files: identity, log, database, data.
const KINDS_MIN: usize = 4;

fn bytes(number: u64) -> Vec<u8> {
    content(number, number * number * 131 % 400_000)
}

fn fill(point: &Path) -> Result<()> {
    for number in 0..FILES {
        let file = std::fs::File::create(point.join(format!("file-{number}")))?;
        file.write_all_at(&bytes(number), 0)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Flips a bit in every block that holds anything; says how many.
fn damage(path: &Path) -> Result<u64> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut flipped = 0;
    let mut block = vec![0; usize::try_from(BLOCK)?];
    for start in (0..length).step_by(usize::try_from(BLOCK)?) {
        let got = file.read_at(&mut block, start)?;
        if block[..got].iter().any(|byte| *byte != 0) {
            let at = got / 3;
            file.write_all_at(&[block[at] ^ 0x10], start + u64::try_from(at)?)?;
            flipped += 1;
        }
    }
    file.sync_all()?;
    Ok(flipped)
}

/// The files of a data directory, one of each kind: numbers in names don't make another kind.
fn kinds(data: &Path) -> Result<Vec<PathBuf>> {
    let script = r#"cd "$1"; find . -type f -size +0 ! -name '*lock*' | sort"#;
    let mut command = crate::process::bash(script, &[data]);
    let text = crate::process::check("the files", &mut command, Duration::from_secs(20))?;
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for line in text.lines() {
        let kind: String = line.chars().filter(|c| !c.is_ascii_hexdigit()).collect();
        if !found.iter().any(|(known, _)| *known == kind) {
            found.push((kind, PathBuf::from(line)));
        }
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Whether an error names the damage.
fn says_why(text: &str) -> bool {
    let words = ["corrupt", "damaged", "checksum", "bad "];
    !text.contains("panicked") && words.iter().any(|word| text.contains(word))
}

/// What a single node makes of it: an error at the start, or errors of calls; wrong bytes are a failure.
fn look(context: &Context) -> Result<&'static str> {
    let mount = match up::up(context) {
        Ok(mount) => mount,
        Err(error) => {
            let text = format!("{error:#}").to_lowercase();
            ensure!(
                says_why(&text),
                "it does not start and does not say why: {error:#}"
            );
            return Ok("stopped");
        }
    };
    let mut refused = false;
    for number in 0..FILES {
        match std::fs::read(mount.point.join(format!("file-{number}"))) {
            Ok(found) => ensure!(found == bytes(number), "file {number} has wrong bytes"),
            Err(error) => {
                let code = error.raw_os_error();
                let gone = [nix::libc::EIO, nix::libc::ENOTCONN, nix::libc::ECONNABORTED];
                ensure!(
                    code.is_some_and(|code| gone.contains(&code)),
                    "file {number}: {error}"
                );
                refused = true;
            }
        }
    }
    // It may have ended by itself.
    let _ended = mount.stop();
    Ok(if refused { "refused" } else { "unharmed" })
}

fn single(context: &Context) -> Result<Figure> {
    let mount = up::up(context)?;
    fill(&mount.point)?;
    mount.kill()?;
    let data = context.scratch.join("data");
    let good = context.scratch.join("good");
    let copy = r#"rm -rf "$2"; cp -a --sparse=always "$1" "$2""#;
    let limit = Duration::from_secs(60);
    context.bash("copy", copy, &[&data, &good], limit)?;
    let mut told = Vec::new();
    for kind in kinds(&good)? {
        context.bash("copy", copy, &[&good, &data], limit)?;
        let flipped = damage(&data.join(&kind))?;
        let what = look(context)
            .with_context(|| format!("{flipped} bits flipped in {}", kind.display()))?;
        if flipped > 0 {
            ensure!(
                what != "unharmed",
                "{flipped} bits flipped in {} and nobody noticed",
                kind.display()
            );
            told.push(format!("{} {what}", kind.display()));
        }
    }
    ensure!(told.len() >= KINDS_MIN, "only {told:?} hold anything");
    Ok(Figure::count(told.len(), "kinds", &told.join(", ")))
}

fn three(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::whole(&context.binary, &context.scratch, 3)?;
    let mount = cluster.mount("m")?;
    fill(&mount.point)?;
    cluster.kill(0)?;
    let data = cluster.data(0).to_owned();
    let good = context.scratch.join("good");
    let copy = r#"rm -rf "$2"; cp -a --sparse=always "$1" "$2""#;
    let limit = Duration::from_secs(60);
    context.bash("copy", copy, &[&data, &good], limit)?;
    let mut told = Vec::new();
    for kind in kinds(&good)? {
        let shown = kind.display();
        context.bash("copy", copy, &[&good, &data], limit)?;
        let flipped = damage(&data.join(&kind))?;
        if flipped == 0 {
            continue;
        }
        cluster.launch(0)?;
        // It says what is wrong and ends, or serves what is whole.
        let what = match cluster.ready(0) {
            Ok(()) => "served the rest",
            Err(error) => {
                let text = format!("{error:#}").to_lowercase();
                ensure!(says_why(&text), "{shown}: it does not say why: {error:#}");
                "stopped"
            }
        };
        let served = serves(&mount).and_then(|()| serves_afresh(&cluster));
        served.with_context(|| format!("{flipped} bits flipped in {shown}"))?;
        // It may have ended by itself.
        let _ended = cluster.kill(0);
        told.push(format!("{shown} {what}"));
    }
    ensure!(told.len() >= KINDS_MIN, "only {told:?} hold anything");
    mount.stop()?;
    context.bash("copy", copy, &[&good, &data], limit)?;
    cluster.launch(0)?;
    cluster.ready(0)?;
    cluster.heal(3)?;
    cluster.fsck()?;
    let more = format!("the others served everything: {}", told.join(", "));
    Ok(Figure::count(told.len(), "kinds", &more))
}

/// By a mount whose kernel has none of it.
fn serves_afresh(cluster: &Cluster) -> Result<()> {
    let fresh = cluster.mount("fresh")?;
    serves(&fresh)?;
    fresh.stop().map(drop)
}

fn serves(mount: &Mount) -> Result<()> {
    for number in 0..FILES {
        let found = std::fs::read(mount.point.join(format!("file-{number}")))?;
        ensure!(found == bytes(number), "file {number} has wrong bytes");
    }
    let written = std::fs::File::create(mount.point.join("written"))?;
    written.write_all_at(b"while one disk lies", 0)?;
    Ok(written.sync_all()?)
}
