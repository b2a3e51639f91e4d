//! Settings of a TCP connection that decide how soon a dead peer is noticed.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::net::TcpStream;

/// Bytes that stay unacknowledged for this long break the connection (TCP_USER_TIMEOUT). Requests have deadlines of
/// their own; this frees what a dead machine leaves behind. Linux counts a peer that acknowledges but reads nothing as silent, too.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);
/// An idle connection is probed after this long, this often, and given up after this many probes.
const PROBE_AFTER: Duration = Duration::from_secs(3);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBES: libc::c_int = 3;

/// Makes a fresh connection answer at once and notice a dead peer within seconds.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let tcp = libc::IPPROTO_TCP;
    let user_timeout =
        libc::c_int::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(libc::c_int::MAX);
    set(stream, tcp, libc::TCP_USER_TIMEOUT, user_timeout)?;
    set(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(stream, tcp, libc::TCP_KEEPIDLE, seconds(PROBE_AFTER))?;
    set(stream, tcp, libc::TCP_KEEPINTVL, seconds(PROBE_EVERY))?;
    set(stream, tcp, libc::TCP_KEEPCNT, PROBES)
}

fn seconds(span: Duration) -> libc::c_int {
    libc::c_int::try_from(span.as_secs()).unwrap_or(libc::c_int::MAX)
}

#[expect(unsafe_code, reason = "neither std nor tokio sets these options")]
fn set(
    stream: &TcpStream,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("an int is small");
    // SAFETY: the descriptor is open for as long as `stream` is borrowed; `value` is an int of the stated length that
    // outlives the call, which keeps no pointer.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
