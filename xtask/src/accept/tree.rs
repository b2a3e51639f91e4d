//! Lines about whole trees: many small files, copied, compared by checksum, removed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Context, Figure, Line, Needs, up};

const FILES: u64 = 5_000;

/// cp -a of a tree, compared, removed.
pub(super) const COPY: Line = Line {
    id: "tree-copy",
    title: "cp -a of 5,000 files arrives unchanged, after a restart too, and rm -rf removes it",
    needs: Needs::Mount,
    packages: up::PACKAGES,
    limit: Duration::from_secs(600),
    run: copy,
};

/// The next number of a sequence that is the same on every machine (SplitMix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Bytes that depend on `seed` alone.
pub(super) fn content(seed: u64, length: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| next(&mut state).to_le_bytes());
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    words.flatten().take(length).collect()
}

/// Makes a tree of `FILES` files below `root`: mostly small, some of several chunks, modes, links, names of all kinds.
pub(super) fn generate(root: &Path) -> Result<()> {
    let mut state = 42;
    for number in 0..FILES {
        let directory = root.join(format!("d{}/e{}", number % 40, number % 7));
        std::fs::create_dir_all(&directory)?;
        let length = match next(&mut state) % 100 {
            0 => 1 + next(&mut state) % (3 << 20),
            1..=10 => next(&mut state) % 100_000,
            11..=15 => 0,
            _ => next(&mut state) % 6_000,
        };
        let path = directory.join(format!("file-{number}.ü {}", number % 3));
        std::fs::write(&path, content(number, length))?;
        let mode = [0o644, 0o600, 0o755, 0o444][usize::try_from(number % 4)?];
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        if number % 50 == 0 {
            symlink(
                format!("../{number}"),
                directory.join(format!("link-{number}")),
            )?;
            std::fs::hard_link(&path, directory.join(format!("hard-{number}")))?;
        }
    }
    Ok(())
}

fn copy(context: &Context) -> Result<Figure> {
    let limit = Duration::from_secs(300);
    let source = context.directory("source")?;
    generate(&source)?;
    let mount = up::up(context)?;
    let target = mount.point.join("target");
    let started = Instant::now();
    context.bash("cp -a", r#"cp -a "$1" "$2""#, &[&source, &target], limit)?;
    let took = started.elapsed();
    let lines = context.compare(&source, &target, limit)?;
    ensure!(lines > 2 * 5_000, "the listing is too short: {lines}");
    mount.stop()?;
    let mount = up::up(context)?;
    context.compare(&source, &target, limit)?;
    let started = Instant::now();
    context.bash("rm -rf", r#"rm -rf "$1"; [ ! -e "$1" ]"#, &[&target], limit)?;
    let removed = started.elapsed();
    ensure!(
        std::fs::read_dir(&mount.point)?.next().is_none(),
        "something is left after rm -rf"
    );
    mount.stop()?;
    let more = format!("rm -rf {:.2} s", removed.as_secs_f64());
    Ok(Figure::new(took.as_secs_f64(), "s", &more))
}
