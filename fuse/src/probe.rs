//! Whether a filesystem answers at all.
//!
//! A process that asks a FUSE filesystem which hangs can't even be killed once its request was taken. Owns the asking in
//! a child that holds nothing of ours: it may be left behind. Deliberately knows no mountpoint and no message.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

/// Between two looks at the child.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether asking for the attributes of `path` is answered within `patience`, whatever the answer is.
pub(crate) fn answers(path: &Path, patience: Duration) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let child = ask(&path)?;
    let looks = patience.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..=looks {
        if ended(child)? {
            return Ok(true);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    kill(child);
    Ok(false)
}

#[expect(unsafe_code, reason = "fork(2) has no safe wrapper in std")]
fn ask(path: &CString) -> io::Result<libc::pid_t> {
    let mut found = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: between fork and _exit the child only makes system calls, all of them async-signal-safe; `path` and `found`
    // are the child's own copies and live until it ends.
    let pid = unsafe {
        match libc::fork() {
            0 => {
                // Nothing of ours is kept open by a child that may stay: neither locks nor sockets nor pipes.
                libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
                libc::statx(
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    libc::AT_STATX_FORCE_SYNC,
                    libc::STATX_BASIC_STATS,
                    found.as_mut_ptr(),
                );
                libc::_exit(0)
            }
            pid => pid,
        }
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pid)
}

#[expect(unsafe_code, reason = "waitpid(2) has no safe wrapper in std")]
fn ended(child: libc::pid_t) -> io::Result<bool> {
    let mut status = 0;
    // SAFETY: the pointer is to an int that lives through the call; the child is ours and has not been waited for.
    match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
        0 => Ok(false),
        pid if pid == child => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            // Somebody else has taken it: it has ended.
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(true),
            error => Err(error),
        },
    }
}

#[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
fn kill(child: libc::pid_t) {
    // SAFETY: the child is ours and has not been waited for, so its number is nobody else's.
    unsafe {
        libc::kill(child, libc::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_what_is_not_both_answer() {
        let patience = Duration::from_secs(20);
        assert!(answers(Path::new("/"), patience).expect("it can be asked"));
        assert!(answers(Path::new("/nonexistent/polyfs"), patience).expect("it can be asked"));
    }
}
