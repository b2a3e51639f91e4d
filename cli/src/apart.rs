//! Where data is kept and where the filesystem is mounted: never one inside the other.
//!
//! A data directory inside a mount of its own would need the mount to serve the mount; a mount inside a data directory
//! would lie among a node's files. Owns the comparison of the real paths.

use std::path::{Component, Path, PathBuf};

use crate::output::usage;

/// Refuses a data directory inside the mountpoint, and the reverse.
pub(crate) fn check(data: &Path, mountpoint: &Path) -> anyhow::Result<()> {
    let (real_data, real_point) = (real(data), real(mountpoint));
    if real_data.starts_with(&real_point) {
        return Err(usage(format!(
            "the data directory {} lies inside the mountpoint {}: keep data elsewhere, with --data DIR",
            data.display(),
            mountpoint.display()
        )));
    }
    if real_point.starts_with(&real_data) {
        return Err(usage(format!(
            "the mountpoint {} lies inside the data directory {}: mount elsewhere, or keep data elsewhere with --data DIR",
            mountpoint.display(),
            data.display()
        )));
    }
    Ok(())
}

/// The real path of what may not be there yet: that of what is there, and the rest as it is written.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for known in path.ancestors() {
        let (Ok(found), Ok(rest)) = (known.canonicalize(), path.strip_prefix(known)) else {
            continue;
        };
        let mut whole = found;
        for part in rest.components() {
            match part {
                Component::ParentDir => drop(whole.pop()),
                part => whole.push(part),
            }
        }
        return whole;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_lies_inside_the_other() {
        let dir = std::env::temp_dir().join(format!("polyfs-apart-{}", std::process::id()));
        let (data, point) = (dir.join("data"), dir.join("m"));
        std::fs::create_dir_all(&data).expect("a directory for the test");
        std::fs::create_dir_all(&point).expect("a directory for the test");
        let link = dir.join("link");
        std::os::unix::fs::symlink(&point, &link).expect("a link for the test");
        assert!(check(&data, &point).is_ok());
        assert!(
            check(&dir.join("m2"), &point).is_ok(),
            "a name that begins alike"
        );
        assert!(check(&point, &point).is_err());
        assert!(check(&point.join("not/yet/there"), &point).is_err());
        assert!(check(&link.join("data"), &point).is_err());
        assert!(check(&dir, &point).is_err());
        assert!(check(&data.join("../m/x"), &point).is_err());
        std::fs::remove_dir_all(dir).expect("the test's own directory");
    }
}
