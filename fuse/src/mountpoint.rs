//! Mountpoints: what must hold before mounting, dead mounts left behind, unmounting.
//!
//! Owns the messages a user sees when a mountpoint can't be used. Deliberately asks nothing of what is mounted there before
//! a child process has found that it answers, and nothing at all to unmount it: the kernel's mount table says enough.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::probe::{self, Answer};

/// What is mounted somewhere must answer within this.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a mount of ours names as its source in the mount table.
const SOURCE: &str = "polyfs";

/// Why a mount or unmount could not be done.
#[derive(Debug, Error)]
pub enum MountError {
    /// Nothing there.
    #[error("{0} does not exist; create it first: mkdir -p {0}")]
    Missing(PathBuf),
    /// Not a directory.
    #[error("{0} is not a directory; name an empty directory to mount at")]
    NotDirectory(PathBuf),
    /// Something is in it.
    #[error("{0} is not empty; a mount would hide what is in it, name an empty directory")]
    NotEmpty(PathBuf),
    /// Something is mounted there and lives.
    #[error("{0} has a filesystem mounted already; unmount it first: polyfs umount {0}")]
    InUse(PathBuf),
    /// No FUSE here.
    #[error("/dev/fuse can't be opened ({0}); {advice}", advice = advice_on_device(.0))]
    NoFuse(io::Error),
    /// What is mounted there does not answer.
    #[error(
        "{path} does not answer within {} s: what is mounted there hangs; end or continue its process, or detach it: {advice} {path}",
        PATIENCE.as_secs()
    )]
    Hangs {
        /// Where.
        path: PathBuf,
        /// The command that detaches it.
        advice: &'static str,
    },
    /// Something is, or was, mounted there or above it, and its process is gone.
    #[error(
        "{0} can't be reached: the process of what is mounted there, or above it, is gone, and it is no polyfs mount of exactly that path; detach it first: umount --lazy"
    )]
    DeadOther(PathBuf),
    /// Nothing of ours is mounted there.
    #[error("{0} is no polyfs mount; mount | grep polyfs shows those there are")]
    NotMounted(PathBuf),
    /// Somebody uses it.
    #[error(
        "{path} is in use by {users}; end these, or unmount lazily: polyfs umount --lazy {path}"
    )]
    Busy {
        /// Where.
        path: PathBuf,
        /// By whom: process ids and names.
        users: String,
    },
    /// Who is not root needs the setuid helper.
    #[error(
        "{0} can't be mounted by this user without fusermount3; install the package fuse3, or run polyfs as root"
    )]
    NoHelper(PathBuf),
    /// The host says no.
    #[error("{path} can't be mounted or unmounted: {source}")]
    Failed {
        /// Where.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

fn advice_on_device(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "let this user open it (chmod 666 /dev/fuse, as most systems have it), or run polyfs as root"
    } else {
        "load the module (modprobe fuse), or give the container the device (--device /dev/fuse --cap-add SYS_ADMIN)"
    }
}

impl MountError {
    pub(crate) fn failed(path: &Path, source: io::Error) -> Self {
        Self::Failed {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// What is at a mountpoint that can be used.
enum Found {
    /// An empty directory; by the path the kernel will know it by.
    Free(PathBuf),
    /// A mount of ours whose process is gone.
    Dead(PathBuf),
}

/// Makes sure that a filesystem can be mounted at `path`, now: a dead mount that was left there is detached. Answers the
/// path the kernel will know it by.
pub(crate) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let dead = match look(path)? {
        Found::Free(path) => return Ok(path),
        Found::Dead(path) => path,
    };
    tracing::warn!(path = %dead.display(), "detaching a mount whose process is gone");
    detach(&dead)?;
    match look(&dead) {
        Ok(Found::Free(path)) => Ok(path),
        Ok(Found::Dead(path)) => prepare(&path),
        // It was empty when the dead one was mounted: this was written just now, by a program that found no mount.
        Err(MountError::NotEmpty(path)) => {
            tracing::warn!(path = %path.display(), "what a program wrote below the mount is hidden by it");
            Ok(path)
        }
        Err(error) => Err(error),
    }
}

/// Whether a filesystem can be mounted at `path`, before anything else is done for it. A dead mount stays until it is
/// replaced: as long as it is there nobody writes below it.
///
/// # Errors
/// Why it can't.
pub fn check(path: &Path) -> Result<(), MountError> {
    look(path).map(drop)
}

fn look(path: &Path) -> Result<Found, MountError> {
    if let Err(error) = fs::File::open("/dev/fuse") {
        return Err(MountError::NoFuse(error));
    }
    // The kernel may remember the attributes of a mount whose process is gone: that it has them says nothing.
    if must_answer(path)? == Answer::Gone {
        return dead_mount(path).map(Found::Dead);
    }
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing(path.to_path_buf()));
        }
        Err(error) if error.raw_os_error().is_some_and(probe::is_of_the_dead) => {
            return dead_mount(path).map(Found::Dead);
        }
        Err(error) => return Err(MountError::failed(path, error)),
    };
    if !meta.is_dir() {
        return Err(MountError::NotDirectory(path.to_path_buf()));
    }
    let path = fs::canonicalize(path).map_err(|error| MountError::failed(path, error))?;
    if mount_line(&path).is_some_and(|line| line.kind.starts_with("fuse")) {
        return Err(MountError::InUse(path));
    }
    let mut entries = fs::read_dir(&path).map_err(|error| MountError::failed(&path, error))?;
    if entries.next().is_some() {
        return Err(MountError::NotEmpty(path));
    }
    Ok(Found::Free(path))
}

/// The dead mount of ours at exactly `path`, as the mount table knows it.
fn dead_mount(path: &Path) -> Result<PathBuf, MountError> {
    let mut found = locate(path)?;
    if let Ok(target) = fs::read_link(&found) {
        // A link to a mount: the kernel follows it, the table and the setuid helper do not.
        let parent = found.parent().unwrap_or(Path::new("/"));
        found = locate(&parent.join(target))?;
    }
    if is_ours(&found) {
        Ok(found)
    } else {
        Err(MountError::DeadOther(path.to_path_buf()))
    }
}

fn detach(path: &Path) -> Result<(), MountError> {
    match umount(path, libc::MNT_DETACH) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => fusermount(path, true),
        done => done.map_err(|error| MountError::failed(path, error)),
    }
}

fn hangs(path: &Path) -> MountError {
    let path = plain(path);
    let advice = if is_ours(&path) {
        "polyfs umount --lazy"
    } else {
        "umount --lazy"
    };
    MountError::Hangs { path, advice }
}

/// Refuses what does not answer in time.
fn must_answer(path: &Path) -> Result<Answer, MountError> {
    let asked = probe::answer(path, PATIENCE);
    let answer = asked.map_err(|error| MountError::failed(path, error))?;
    answer.ok_or_else(|| hangs(path))
}

/// A path from the root on, without a slash at its end and without single dots; nothing is asked of what is there.
fn plain(path: &Path) -> PathBuf {
    let short: PathBuf = path.components().collect();
    std::path::absolute(&short).unwrap_or(short)
}

/// The path by which the mount table knows what is mounted at `path`: the real path of its directory, and its own name.
/// Only that directory is asked.
fn locate(path: &Path) -> Result<PathBuf, MountError> {
    let path = plain(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(path);
    };
    must_answer(parent)?;
    let real = fs::canonicalize(parent);
    Ok(real.map_or(path.clone(), |parent| parent.join(name)))
}

/// One line of the mount table.
struct MountLine {
    /// `major:minor`.
    device: String,
    /// The filesystem's type.
    kind: String,
    source: String,
}

/// Whether a filesystem of ours is mounted at exactly `path`, as the mount table says.
pub(crate) fn is_ours(path: &Path) -> bool {
    mount_line(path).is_some_and(|line| line.kind.starts_with("fuse") && line.source == SOURCE)
}

/// Whether the process of what is mounted at `path` is gone, or its connection was aborted.
pub(crate) fn is_dead(path: &Path) -> bool {
    matches!(probe::answer(path, PATIENCE), Ok(Some(Answer::Gone)))
}

/// The device (`major:minor`) of the filesystem mounted at exactly `path`.
pub(crate) fn mounted_device(path: &Path) -> Option<String> {
    mount_line(path).map(|line| line.device)
}

/// The last mount at `path` (proc_pid_mountinfo(5)).
fn mount_line(path: &Path) -> Option<MountLine> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let wanted = escape(path);
    let mut found = None;
    for line in table.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        if fields.get(4) == Some(&wanted.as_slice())
            && let Some(dash) = fields.iter().position(|field| *field == b"-")
            && let (Some(device), Some(kind), Some(source)) =
                (fields.get(2), fields.get(dash + 1), fields.get(dash + 2))
        {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found = Some(MountLine {
                device: text(device),
                kind: text(kind),
                source: text(source),
            });
        }
    }
    found
}

/// A path as the mount table writes it: blanks, tabs, newlines and backslashes in octal.
fn escape(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{byte:03o}").into_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

/// Unmounts a mount of ours; `lazy` detaches it at once and lets those who use it finish.
///
/// # Errors
/// When nothing of ours is mounted there, or when it is in use: then those who use it are named.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let mut found = plain(path);
    if !is_ours(&found) {
        found = locate(path)?;
    }
    if !is_ours(&found) {
        // A link to a mount, or a path that ends in "..".
        must_answer(path)?;
        found = fs::canonicalize(path).unwrap_or(found);
    }
    let path = found;
    if !is_ours(&path) {
        return Err(MountError::NotMounted(path));
    }
    match umount(&path, if lazy { libc::MNT_DETACH } else { 0 }) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let users = users_of(&path);
            Err(MountError::Busy { path, users })
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => fusermount(&path, lazy),
        Err(error) => Err(MountError::failed(&path, error)),
    }
}

#[expect(unsafe_code, reason = "umount2(2) has no safe wrapper in std")]
fn umount(path: &Path, flags: i32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the pointer is to a zero-terminated string that lives through the call.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What who is not root unmounts with.
fn fusermount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = std::process::Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(path)
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoHelper(path.to_path_buf()),
            _ => MountError::failed(path, error),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MountError::failed(path, io::Error::other(said)))
}

/// The processes that have their root, working directory, an open file or a mapping below `path`.
fn users_of(path: &Path) -> String {
    let mut users = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return "unknown processes".into();
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        if uses(&process.path(), path) {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(format!("{pid} ({})", comm.trim()));
        }
    }
    if users.is_empty() {
        "unknown processes".into()
    } else {
        users.join(", ")
    }
}

fn uses(process: &Path, path: &Path) -> bool {
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(path));
    if below(process.join("cwd")) || below(process.join("root")) {
        return true;
    }
    let open = fs::read_dir(process.join("fd"));
    open.is_ok_and(|files| files.flatten().any(|file| below(file.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_as_the_mount_table_does() {
        assert_eq!(escape(Path::new("/mnt/a b\\c")), b"/mnt/a\\040b\\134c");
    }

    #[test]
    fn a_path_is_found_however_it_is_written() {
        let here = fs::canonicalize(".").expect("there is a directory");
        let there = here.join("m");
        for written in ["m", "m/", "./m/", "m/.", "m//", "src/../m/"] {
            let found = locate(Path::new(written)).expect("it answers");
            assert_eq!(found, there, "{written}");
        }
        assert_eq!(locate(Path::new("/")).expect("it answers"), Path::new("/"));
        assert_eq!(
            locate(Path::new("/tmp/")).expect("it answers"),
            Path::new("/tmp")
        );
    }

    #[test]
    fn the_root_is_in_the_mount_table_and_is_not_ours() {
        assert!(mount_line(Path::new("/")).is_some());
        assert!(matches!(
            unmount(Path::new("/"), false),
            Err(MountError::NotMounted(_))
        ));
    }

    #[test]
    fn what_is_no_mountpoint_says_why() {
        let missing = prepare(Path::new("/nonexistent/polyfs"));
        assert!(matches!(
            missing,
            Err(MountError::Missing(_) | MountError::NoFuse(_))
        ));
        let file = prepare(Path::new("/proc/self/stat"));
        assert!(matches!(
            file,
            Err(MountError::NotDirectory(_) | MountError::NoFuse(_))
        ));
        let full = prepare(Path::new("/etc"));
        assert!(matches!(
            full,
            Err(MountError::NotEmpty(_) | MountError::NoFuse(_))
        ));
    }
}
