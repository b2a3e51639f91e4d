//! A mounted filesystem: from an open client to the kernel and back down.
//!
//! Owns the mount options, the kernel's settings and the thread that tells the kernel to drop what it caches. Nothing
//! is told from a handler or under a lock: an invalidation waits for requests in flight (P11).

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use polyfs_core::place::Ino;
use polyfs_node::client::ClientHandle;

use crate::calls::Adapter;
use crate::convert::Numbers;
use crate::known::Known;
use crate::lock_waits::LockWaits;
use crate::mountpoint::{self, MountError};

/// Threads that take requests from the kernel; they never block.
const THREADS: usize = 2;
/// The kernel reads this far ahead of a sequential reader; more than its own offer of 128 KiB.
const READ_AHEAD_KIB: u32 = 4096;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Nothing may be changed through this mount.
    pub read_only: bool,
}

/// A mounted filesystem. Dropping it unmounts, but leaves alone what else may be mounted there by then.
pub struct Mounted {
    /// Never dropped: fuser 0.18 unmounts whatever is at the path then. Its threads end with the mount, its descriptors with
    /// the process.
    session: ManuallyDrop<BackgroundSession>,
    path: PathBuf,
    /// By which the mount table knows it from others at the same path.
    device: Option<String>,
    client: ClientHandle,
}

impl Mounted {
    /// Mounts the tree of an open client at `path`; `root` is the volume's root.
    ///
    /// # Errors
    /// When the mountpoint can't be used, or FUSE can't.
    pub fn new(
        client: ClientHandle,
        root: Ino,
        path: &Path,
        options: &Options,
    ) -> Result<Self, MountError> {
        let path = mountpoint::prepare(path)?;
        let failed = |error: io::Error| MountError::failed(&path, error);
        let numbers = Numbers { root };
        let waits = LockWaits::start(client.clone()).map_err(failed)?;
        let known = Arc::new(Known::default());
        let adapter = || {
            Adapter::new(
                client.clone(),
                numbers,
                Arc::clone(&known),
                Arc::clone(&waits),
            )
        };
        let session = mount(adapter, &path, options)?;
        let session = ManuallyDrop::new(session.spawn().map_err(failed)?);
        let mounted = Self {
            session,
            device: mountpoint::mounted_device(&path),
            path: path.clone(),
            client: client.clone(),
        };
        let session = &mounted.session;
        let drop_pages =
            invalidator(session.notifier(), numbers, client.clone()).map_err(failed)?;
        client.on_invalidate(Box::new(drop_pages));
        client.on_drop_attr(Box::new(drop_attr(session.notifier(), numbers)));
        raise_read_ahead(&path);
        Ok(mounted)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel has let go of it: somebody unmounted it from outside.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Writes everything back, gives everything back and unmounts. A mount that is in use is detached: its users get
    /// errors from then on.
    ///
    /// # Errors
    /// When the kernel does not let go.
    pub fn unmount(self) -> Result<(), MountError> {
        let detached = !self.is_there()
            || matches!(
                mountpoint::unmount(&self.path, false),
                Ok(()) | Err(MountError::NotMounted(_))
            );
        let (done, wait) = mpsc::channel();
        self.client.unmount(Box::new(move || {
            let _ = done.send(());
        }));
        // A client always ends: calls that can't be carried out fail at their deadline.
        let _ = wait.recv();
        if !detached && self.is_there() {
            mountpoint::unmount(&self.path, true)?;
        }
        Ok(())
    }

    /// Whether what is mounted at its path is this one. What lies there once the kernel has let go, or somebody has detached
    /// it, is somebody else's, perhaps the next mount.
    fn is_there(&self) -> bool {
        mountpoint::is_ours(&self.path)
            && mountpoint::mounted_device(&self.path) == self.device
            // The next mount may get the same number, but it answers; one that was aborted stays there and does not.
            && (!self.is_gone() || mountpoint::is_dead(&self.path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_there()
            && let Err(error) = mountpoint::unmount(&self.path, true)
        {
            tracing::warn!(%error, "the mount stays");
        }
    }
}

/// Mounts for all users of this machine, or for this one alone where only root may do the first.
fn mount(
    adapter: impl Fn() -> Adapter,
    path: &Path,
    options: &Options,
) -> Result<Session<Adapter>, MountError> {
    match Session::new(adapter(), path, &config(options, SessionACL::All)) {
        Err(error) if is_about_others(&error) => {
            tracing::warn!(
                path = %path.display(),
                "only this user can use the mount: for all users, add the line user_allow_other to /etc/fuse.conf, or run polyfs as root"
            );
            let config = config(options, SessionACL::Owner);
            Session::new(adapter(), path, &config).map_err(|error| failed(path, error))
        }
        mounted => mounted.map_err(|error| failed(path, error)),
    }
}

fn failed(path: &Path, error: io::Error) -> MountError {
    // The only program that is started to mount.
    if error.kind() == io::ErrorKind::NotFound && !is_root() {
        return MountError::NoHelper(path.to_path_buf());
    }
    MountError::failed(path, error)
}

/// Whether fusermount3 refused to let others in.
fn is_about_others(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        && error.to_string().contains("user_allow_other")
}

#[expect(unsafe_code, reason = "geteuid(2) has no safe wrapper in std")]
fn is_root() -> bool {
    // SAFETY: it takes nothing and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

fn config(options: &Options, acl: SessionACL) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("polyfs".into()),
        MountOption::Subtype("polyfs".into()),
        MountOption::DefaultPermissions,
    ];
    // Only root can mount what devices and set-user-ID programs work on.
    config.mount_options.extend(if is_root() {
        [MountOption::Dev, MountOption::Suid]
    } else {
        [MountOption::NoDev, MountOption::NoSuid]
    });
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.acl = acl;
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

/// A thread that makes the kernel drop pages and attributes, one inode after the other, and tells the client when it
/// has; and the door to it.
fn invalidator(
    notifier: Notifier,
    numbers: Numbers,
    client: ClientHandle,
) -> io::Result<impl Fn(Ino) + Send + Sync> {
    let (door, inodes) = mpsc::channel::<Ino>();
    std::thread::Builder::new()
        .name("polyfs-notify".into())
        .spawn(move || {
            for ino in inodes {
                let number: INodeNo = numbers.number(ino);
                // ENOENT: the kernel does not know the inode, so it caches nothing of it.
                if let Err(error) = notifier.inval_inode(number, 0, 0)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::debug!(?ino, %error, "the kernel could not be told to drop an inode");
                }
                client.invalidated(ino);
            }
        })?;
    // The thread ends with the mount; what it is told afterwards concerns nobody.
    Ok(move |ino| {
        let _ = door.send(ino);
    })
}

/// Makes the kernel drop the attributes of an inode. With a negative offset no page is looked at, so it takes no lock but the
/// inode's own (fuse_reverse_inval_inode) and can be done under a lock.
fn drop_attr(notifier: Notifier, numbers: Numbers) -> impl Fn(Ino) + Send + Sync {
    move |ino| {
        // ENOENT: the kernel does not know the inode, so it keeps nothing of it.
        if let Err(error) = notifier.inval_inode(numbers.number(ino), -1, 0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(?ino, %error, "the kernel could not be told to drop attributes");
        }
    }
}

/// Raises the read-ahead of the mount's backing device; a mount without it works, only slower.
fn raise_read_ahead(path: &Path) {
    let Some(device) = mountpoint::mounted_device(path) else {
        return;
    };
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(setting, %error, "the kernel's read-ahead stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_others_is_told_from_other_refusals() {
        let said = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        let refused = io::Error::new(io::ErrorKind::PermissionDenied, said);
        assert!(is_about_others(&refused));
        let other = io::Error::new(io::ErrorKind::PermissionDenied, "no");
        assert!(!is_about_others(&other));
    }
}
