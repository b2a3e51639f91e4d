//! Local sockets: processes of one machine talk past the network stack (P11).
//!
//! Owns the names. Whoever listens at a TCP address has an abstract socket named after it (unix(7)), and whoever dials
//! an address of this machine tries that first. Such names are of one network namespace, as the addresses are: a
//! process in another one is reached over TCP. They carry no permissions, so anybody could listen under the name of
//! somebody else's address: only a listener of the superuser or of the dialler's own user is believed. Deliberately
//! knows no frame; whatever goes wrong here, TCP is left.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::sockets;

/// Bytes under way in one direction: a few of the largest frames' pieces. The system may give fewer.
const SEND_BUFFER_BYTES: libc::c_int = 2 << 20;
/// A predecessor that was killed may still be closing its sockets: so often a taken name is asked for again, ...
const TRIES: u32 = 10;
/// ... and so long apart.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// What users that a namespace does not know look like (`kernel.overflowuid`).
const OVERFLOW_UID: libc::uid_t = 65_534;
/// Whether descriptors may be passed along (`SO_PASSRIGHTS`, Linux 6.16).
const SO_PASSRIGHTS: libc::c_int = 83;

fn name_of(address: SocketAddr) -> String {
    format!("polyfs/{address}")
}

/// A socket that listens under a name.
#[derive(Debug)]
pub(crate) struct LocalListener(AsyncFd<net::UnixListener>);

/// Listens under the name of an address, which this process listens at. None when somebody has the name whom nobody
/// believes.
///
/// # Errors
/// When somebody has it who would be believed: diallers would end there.
pub(crate) async fn listen(address: SocketAddr) -> io::Result<Option<LocalListener>> {
    let mut tries = 0;
    let error = loop {
        match bind(address) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if tries == TRIES || error.kind() != io::ErrorKind::AddrInUse => {
                break error;
            }
            Err(_) => tries += 1,
        }
        sleep(BETWEEN_TRIES).await;
    };
    if let Ok(Some(other)) = connect(address).await {
        let process = other.peer_cred().ok().and_then(|peer| peer.pid());
        let process = process.map_or_else(String::new, |process| format!(" by process {process}"));
        let taken = format!("its local socket @{} is taken{process}", name_of(address));
        return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
    }
    // It may have gone just now.
    let late = bind(address).inspect_err(|_| {
        tracing::warn!(%address, %error, "no local socket: processes of this machine come over TCP");
    });
    Ok(late.ok())
}

fn bind(address: SocketAddr) -> io::Result<LocalListener> {
    let name = net::SocketAddr::from_abstract_name(name_of(address))?;
    let listener = net::UnixListener::bind_addr(&name)?;
    listener.set_nonblocking(true)?;
    refuse_descriptors(&listener);
    sockets::watch(listener, Interest::READABLE).map(LocalListener)
}

impl LocalListener {
    /// The next connection. May be dropped and asked again.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let mut ready = self.0.readable().await?;
            // Else it was a false alarm, and the alarm is off.
            if let Ok(accepted) = ready.try_io(accept) {
                let stream = UnixStream::from_std(accepted?)?;
                prepare(&stream)?;
                return Ok(stream);
            }
        }
    }
}

/// Asks for no name of the caller: one of 108 bytes without an end, which anybody may have, is longer than the room that
/// libraries give it.
#[expect(
    unsafe_code,
    reason = "the standard library and tokio ask for the name"
)]
fn accept(listener: &AsyncFd<net::UnixListener>) -> io::Result<net::UnixStream> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (no_name, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: null pointers ask for no name; an invalid descriptor would only give an error.
    let accepted = unsafe { libc::accept4(listener.as_raw_fd(), no_name, no_length, flags) };
    if accepted < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, for its caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(accepted) }.into())
}

/// Connects to the process of this machine that listens at an address; None when there is none to be trusted.
pub(crate) async fn dial(address: SocketAddr) -> Option<UnixStream> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    if !is_of_this_machine(address) {
        return None;
    }
    for name in names_of_listeners(address) {
        match connect(name).await {
            Ok(found) => return found,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            // Somebody has the name, and can't be asked now.
            Err(_) => return None,
        }
    }
    None
}

/// Connects to whoever has the name of an address; None when it is not believed.
async fn connect(address: SocketAddr) -> io::Result<Option<UnixStream>> {
    let stream = UnixStream::connect(format!("\0{}", name_of(address))).await?;
    prepare(&stream)?;
    Ok(is_believed(&stream).then_some(stream))
}

/// What a process that can be reached at this address may have bound: the address itself, or all of its family.
fn names_of_listeners(address: SocketAddr) -> [SocketAddr; 2] {
    let everywhere = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    [address, SocketAddr::new(everywhere, address.port())]
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

fn is_believed(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred();
    peer.is_ok_and(|peer| believes(nix::unistd::geteuid().as_raw(), peer.uid()))
}

fn believes(own: libc::uid_t, peer: libc::uid_t) -> bool {
    peer == 0 || (peer == own && own != OVERFLOW_UID)
}

/// Makes room for more bytes under way.
fn prepare(stream: &UnixStream) -> io::Result<()> {
    refuse_descriptors(stream);
    let level = libc::SOL_SOCKET;
    sockets::set(
        stream.as_raw_fd(),
        level,
        libc::SO_SNDBUF,
        SEND_BUFFER_BYTES,
    )
}

/// Whoever closes a stranger's descriptor may wait long. A connection has it from its listener.
fn refuse_descriptors(socket: &impl AsRawFd) {
    // Older systems do not know it.
    let _ = sockets::set(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_known() {
        for (address, here) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:65535", true),
            ("[::1]:80", true),
            ("192.0.2.1:80", false),
            ("[2001:db8::1]:80", false),
        ] {
            assert_eq!(is_of_this_machine(address.parse().unwrap()), here);
        }
    }

    #[test]
    fn root_and_oneself_are_believed_and_nobody_that_is_not_known() {
        assert!(believes(1000, 0) && believes(1000, 1000) && believes(0, 0));
        assert!(!believes(1000, 1001) && !believes(0, 1000));
        assert!(!believes(OVERFLOW_UID, OVERFLOW_UID));
    }

    /// No other test's, in this process or another.
    fn own_address(number: u8) -> SocketAddr {
        let [.., high, low] = std::process::id().to_be_bytes();
        SocketAddr::from(([127, 64 + number, high, low], 7))
    }

    /// A listener under the name of an address, made by a thread of another user.
    #[expect(unsafe_code, reason = "the standard library changes no thread's user")]
    fn squat(address: SocketAddr, user: libc::c_long) -> Option<net::UnixListener> {
        std::thread::spawn(move || {
            // SAFETY: the system call itself concerns this thread alone, which ends soon.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
            let name = net::SocketAddr::from_abstract_name(name_of(address)).unwrap();
            (changed == 0).then(|| net::UnixListener::bind_addr(&name).unwrap())
        })
        .join()
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn another_users_listener_is_not_believed_and_keeps_nobody_from_listening() {
        let address = own_address(1);
        let Some(squatter) = squat(address, 1234) else {
            eprintln!("skipped: only root can be somebody else");
            return;
        };
        assert!(dial(address).await.is_none());
        assert!(listen(address).await.unwrap().is_none());
        drop(squatter);
        let _root = squat(address, 0).unwrap();
        assert!(dial(address).await.is_some());
        let error = listen(address).await.unwrap_err().to_string();
        let says = format!("@{} is taken by process", name_of(address));
        assert!(error.contains(&says), "{error}");
    }

    /// The kernel says that such a name has one byte more than there is room for (unix(7), BUGS).
    #[tokio::test]
    #[expect(unsafe_code, reason = "no library makes such a name")]
    #[allow(
        clippy::cast_possible_wrap,
        reason = "a c_char has a sign or not, by machine"
    )]
    async fn a_caller_whose_name_has_no_end_is_taken_like_any() {
        let address = own_address(2);
        let listener = listen(address).await.unwrap().unwrap();
        // SAFETY: plain system calls on a descriptor and a name of this test's own, which outlive them.
        let caller = unsafe {
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
            let mut name: libc::sockaddr_un = std::mem::zeroed();
            name.sun_family = 1;
            let path = format!("{:x<108}", std::env::temp_dir().join("polyfs-").display());
            for (to, from) in name.sun_path.iter_mut().zip(path.bytes()) {
                *to = from as libc::c_char;
            }
            let _ = std::fs::remove_file(&path);
            let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap();
            assert_eq!(libc::bind(socket, (&raw const name).cast(), length), 0);
            let mut to: libc::sockaddr_un = std::mem::zeroed();
            to.sun_family = 1;
            let target = name_of(address);
            for (to, from) in to.sun_path[1..].iter_mut().zip(target.bytes()) {
                *to = from as libc::c_char;
            }
            let length = libc::socklen_t::try_from(2 + 1 + target.len()).unwrap();
            assert_eq!(libc::connect(socket, (&raw const to).cast(), length), 0);
            std::fs::remove_file(&path).unwrap();
            OwnedFd::from_raw_fd(socket)
        };
        listener.accept().await.unwrap();
        drop(caller);
    }
}
