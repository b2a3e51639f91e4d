//! Local sockets: processes of one machine talk past the network stack (P11).
//!
//! Owns the names. Whoever listens at a TCP address has an abstract socket named after it (unix(7)), and whoever dials
//! an address of this machine tries that first. Such names are of one network namespace, as the addresses are: a
//! process in another one is reached over TCP. They carry no permissions, so anybody could listen under the name of
//! somebody else's address: only a listener of the superuser or of the dialler's own user is believed. Deliberately
//! knows no frame; whatever goes wrong here, TCP is left.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use tokio::net::{UnixListener, UnixStream};

use crate::sockets;

/// Bytes under way in one direction: a few of the largest frames' pieces. The system may give fewer.
const SEND_BUFFER_BYTES: libc::c_int = 2 << 20;

fn name_of(address: SocketAddr) -> String {
    format!("\0polyfs/{address}")
}

/// Listens under the name of an address. None when that can't be: somebody has the name.
pub(crate) fn listen(address: SocketAddr) -> Option<UnixListener> {
    let bound = UnixListener::bind(name_of(address));
    bound
        .inspect_err(|error| {
            tracing::warn!(%address, %error, "no local socket: processes of this machine come over TCP");
        })
        .ok()
}

/// Connects to the process of this machine that listens at an address; None when there is none to be trusted.
pub(crate) async fn dial(address: SocketAddr) -> Option<UnixStream> {
    if !is_of_this_machine(address) {
        return None;
    }
    for name in names_of_listeners(address) {
        if let Ok(stream) = UnixStream::connect(name_of(name)).await
            && is_trusted(&stream)
            && prepare(&stream).is_ok()
        {
            return Some(stream);
        }
    }
    None
}

/// What a process that can be reached at this address may have bound: the address itself, or all of this machine's.
fn names_of_listeners(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let everywhere = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let wild = everywhere.map(|ip| SocketAddr::new(ip, address.port()));
    std::iter::once(address).chain(wild)
}

/// Packets to an address of this machine leave from that very address; nothing is sent to learn it. (Binding to it
/// proves less: ip_nonlocal_bind, ip(7).)
fn is_of_this_machine(address: SocketAddr) -> bool {
    let from = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let source = || {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    address.ip().is_loopback() || source().is_ok_and(|source| source.ip() == address.ip())
}

#[expect(unsafe_code, reason = "the standard library has no geteuid")]
fn is_trusted(stream: &UnixStream) -> bool {
    // SAFETY: takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    let peer = stream.peer_cred();
    peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

/// Makes room for more bytes under way.
pub(crate) fn prepare(stream: &UnixStream) -> io::Result<()> {
    let level = libc::SOL_SOCKET;
    sockets::set(
        stream.as_raw_fd(),
        level,
        libc::SO_SNDBUF,
        SEND_BUFFER_BYTES,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_known() {
        for (address, here) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:65535", true),
            ("192.0.2.1:80", false),
            ("[2001:db8::1]:80", false),
        ] {
            assert_eq!(is_of_this_machine(address.parse().unwrap()), here);
        }
    }

    /// A listener under the name of an address, made by a thread of another user.
    #[expect(unsafe_code, reason = "the standard library changes no thread's user")]
    fn squat(address: SocketAddr, user: libc::c_long) -> Option<std::os::unix::net::UnixListener> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net;
        std::thread::spawn(move || {
            // SAFETY: the system call itself concerns this thread alone, which ends soon.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
            let name = net::SocketAddr::from_abstract_name(&name_of(address)[1..]).unwrap();
            (changed == 0).then(|| net::UnixListener::bind_addr(&name).unwrap())
        })
        .join()
        .unwrap()
    }

    #[tokio::test]
    async fn another_users_listener_is_not_believed() {
        let address = "127.77.0.1:7".parse().unwrap();
        let Some(squatter) = squat(address, 65_534) else {
            eprintln!("skipped: only root can be somebody else");
            return;
        };
        assert!(dial(address).await.is_none());
        drop(squatter);
        let _root = squat(address, 0).unwrap();
        assert!(dial(address).await.is_some());
    }
}
