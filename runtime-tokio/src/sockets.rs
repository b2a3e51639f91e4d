//! Both kinds of connections as one: TCP, and the local sockets of one machine.
//!
//! Owns which is which, and how an option of a socket is set. Deliberately knows no frame.
//!
//! A local socket tells its writer each time that its reader has taken something (unix(7) has no low-water mark): a
//! wake-up for every message. So only its reading is watched; its writing is, while it takes nothing.

use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpStream, UnixStream, tcp};
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use crate::tcp::UNACKNOWLEDGED_MAX;

/// Where bytes are written.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    /// A descriptor of its own: one is watched once.
    Local(Arc<net::UnixStream>),
}

/// Where bytes are read.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Local(AsyncFd<net::UnixStream>),
}

pub(crate) fn split_tcp(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
}

pub(crate) fn split_local(stream: UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    // It stays non-blocking.
    let stream = stream.into_std()?;
    let write = Arc::new(stream.try_clone()?);
    let read = watch(stream, Interest::READABLE)?;
    Ok((ReadHalf::Local(read), WriteHalf::Local(write)))
}

/// Has the executor watch a socket.
#[expect(
    unsafe_code,
    reason = "AsyncFd can't know that a descriptor stays open"
)]
pub(crate) fn watch<S: AsRawFd + AsFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    // SAFETY: all callers give what owns its descriptor, for itself or with others: it stays open and the same until the
    // AsyncFd, which owns `socket`, is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl WriteHalf {
    /// One writev that does not wait; `WouldBlock` when nothing is taken now.
    pub(crate) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(pieces),
            Self::Local(socket) => (&**socket).write_vectored(pieces),
        }
    }

    /// Waits until something may be taken. A peer that takes nothing for too long is given up, as over TCP.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Local(socket) => {
                let watched = watch(Arc::clone(socket), Interest::WRITABLE)?;
                let before = unread(socket.as_raw_fd())?;
                match timeout(UNACKNOWLEDGED_MAX, watched.writable()).await {
                    Ok(ready) => ready.map(drop),
                    // It is told when a quarter is left, and the peer is merely slow.
                    Err(_) if unread(socket.as_raw_fd())? < before => Ok(()),
                    Err(elapsed) => Err(elapsed.into()),
                }
            }
        }
    }

    /// Drops it without closing the other half's way.
    pub(crate) fn forget(self) {
        match self {
            Self::Tcp(half) => half.forget(),
            Self::Local(socket) => drop(socket),
        }
    }
}

impl ReadHalf {
    /// Appends what has come to the room that `buffer` has; 0 at the end of the stream. A buffer that was not filled
    /// means an empty socket, which is not asked again before it says so.
    pub(crate) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.read_buf(buffer).await,
            Self::Local(socket) => read_local(socket, buffer).await,
        }
    }
}

async fn read_local(socket: &AsyncFd<net::UnixStream>, buffer: &mut BytesMut) -> io::Result<usize> {
    // As tokio's own sockets do: who always finds something to read lets others have their turn.
    consume_budget().await;
    let room = buffer.chunk_mut().len();
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| receive(socket.as_raw_fd(), buffer)) {
            Ok(Ok(bytes)) => {
                if 0 < bytes && bytes < room {
                    ready.clear_ready();
                }
                return Ok(bytes);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            // It was a false alarm, and the alarm is off.
            Err(_) => {}
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library reads into initialised memory only"
)]
fn receive(socket: RawFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let room = buffer.chunk_mut();
    // SAFETY: the room is memory of that length, which only this call writes to.
    let received = unsafe { libc::recv(socket, room.as_mut_ptr().cast(), room.len(), 0) };
    let Ok(received) = usize::try_from(received) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: so many bytes of the room have been written.
    unsafe { buffer.advance_mut(received) };
    Ok(received)
}

/// What the peer has yet to take, in bytes as the kernel counts them.
#[expect(unsafe_code, reason = "the standard library has no ioctl")]
fn unread(socket: RawFd) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, which outlives the call; an invalid descriptor would only give an error.
    match unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option that is an int.
#[expect(unsafe_code, reason = "neither std nor tokio sets these options")]
pub(crate) fn set(
    socket: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("an int is small");
    // SAFETY: `value` is an int of the stated length that outlives the call, which keeps no pointer; an invalid
    // descriptor would only give an error.
    let result =
        unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
