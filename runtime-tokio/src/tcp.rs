//! Settings of a TCP connection that decide how soon a dead peer is noticed.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::sockets::set;

/// Bytes that stay unacknowledged for this long break the connection (TCP_USER_TIMEOUT). Requests have deadlines of
/// their own; this frees what a dead machine leaves behind. Linux counts a peer that acknowledges but reads nothing as silent, too.
pub(crate) const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);
/// An idle connection is probed after this long, this often, and given up after this many probes.
const PROBE_AFTER: Duration = Duration::from_secs(3);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBES: libc::c_int = 3;

/// Makes a fresh connection answer at once and notice a dead peer within seconds.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (socket, tcp) = (stream.as_raw_fd(), libc::IPPROTO_TCP);
    let user_timeout =
        libc::c_int::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(libc::c_int::MAX);
    set(socket, tcp, libc::TCP_USER_TIMEOUT, user_timeout)?;
    set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(socket, tcp, libc::TCP_KEEPIDLE, seconds(PROBE_AFTER))?;
    set(socket, tcp, libc::TCP_KEEPINTVL, seconds(PROBE_EVERY))?;
    set(socket, tcp, libc::TCP_KEEPCNT, PROBES)
}

fn seconds(span: Duration) -> libc::c_int {
    libc::c_int::try_from(span.as_secs()).unwrap_or(libc::c_int::MAX)
}
