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

/// What somebody said who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Whatever there is to say, errors too.
    Given,
    /// The process that would answer is gone: nothing but what the kernel remembers is there.
    Gone,
}

/// What answers when it is asked for the attributes of `path`, past what the kernel remembers of them; None when nothing
/// did within `patience`.
pub(crate) fn answer(path: &Path, patience: Duration) -> io::Result<Option<Answer>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let child = ask(&path)?;
    let looks = patience.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..=looks {
        if let Some(errno) = ended(child)? {
            let gone = is_of_the_dead(errno);
            return Ok(Some(if gone { Answer::Gone } else { Answer::Given }));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    kill(child);
    Ok(None)
}

/// Whether a call fails with this where the process that would answer is gone: before it was asked, or meanwhile.
pub(crate) fn is_of_the_dead(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED)
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
                let failed = libc::statx(
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    libc::AT_STATX_FORCE_SYNC,
                    libc::STATX_BASIC_STATS,
                    found.as_mut_ptr(),
                ) != 0;
                // An exit code has eight bits, and errno(3) needs no more.
                libc::_exit(if failed { *libc::__errno_location() } else { 0 })
            }
            pid => pid,
        }
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pid)
}

/// What the child's call failed with once it has ended, 0 if it did not.
#[expect(unsafe_code, reason = "waitpid(2) has no safe wrapper in std")]
fn ended(child: libc::pid_t) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: the pointer is to an int that lives through the call; the child is ours and has not been waited for.
    match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        pid if pid == child => Ok(Some(libc::WEXITSTATUS(status))),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            // Somebody else has taken it: it has ended.
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(Some(0)),
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
        for path in ["/", "/nonexistent/polyfs"] {
            let answer = answer(Path::new(path), patience).expect("it can be asked");
            assert_eq!(answer, Some(Answer::Given), "{path}");
        }
    }
}
