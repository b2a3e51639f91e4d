//! Frames over TCP, and over local sockets to processes of this machine.
//!
//! Owns connections and nothing above them. Payloads are neither copied when sent (vectored writes straight from
//! their pieces) nor when received (cut out of the buffer they were read into). TLS comes later, between the two.

use std::fmt::Display;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use polyfs_node::frame::{Decoder, Prefix};
use polyfs_node::runtime::{
    Frame, FrameReceiver, FrameSender, Listener, Net, NetError, Shortcut, Tried,
};
use tokio::net::{TcpListener, TcpStream, UnixStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::local::LocalListener;
use crate::sockets::{ReadHalf, WriteHalf, split_local, split_tcp};
use crate::{local, tcp};

/// One address of a peer is given up after this; a name may have several.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pieces handed to one writev at most (IOV_MAX is 1024; beyond some dozens there is nothing to gain).
const PIECES_MAX: usize = 64;
/// Room to read into while the length of the next frame is not known.
const READ_BYTES: usize = 64 << 10;
/// The same while a stranger's greeting is awaited.
const READ_BYTES_SMALL: usize = 1 << 10;

/// The network of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketNet;

/// A listening socket, and the local one beside it.
#[derive(Debug)]
pub struct SocketListener {
    listener: TcpListener,
    local: Option<LocalListener>,
    address: SocketAddr,
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct SocketSender {
    way: Arc<Way>,
    // Set while a send is under way: if its future is dropped, half a frame may be out.
    broken: bool,
}

/// What the sender and its shortcut share.
#[derive(Debug)]
struct Way {
    /// There until it is dropped.
    half: Option<WriteHalf>,
    /// What the network did not take of a frame that was begun on the shortcut.
    rest: Mutex<Vec<Bytes>>,
}

/// Sends from threads that are not tokio's.
struct Direct(Arc<Way>);

/// The receiving half of a connection.
#[derive(Debug)]
pub struct SocketReceiver {
    half: ReadHalf,
    decoder: Decoder,
    buffer: BytesMut,
    ended: bool,
}

fn failed(error: &io::Error) -> NetError {
    NetError::Failed(error.to_string())
}

type Connection = (SocketSender, SocketReceiver);

fn over_tcp(stream: TcpStream) -> Result<Connection, NetError> {
    tcp::prepare(&stream).map_err(|error| failed(&error))?;
    Ok(connection(split_tcp(stream)))
}

fn over_local(stream: UnixStream) -> Result<Connection, NetError> {
    let halves = split_local(stream).map_err(|error| failed(&error))?;
    Ok(connection(halves))
}

fn connection((read, write): (ReadHalf, WriteHalf)) -> Connection {
    let way = Way {
        half: Some(write),
        rest: Mutex::new(Vec::new()),
    };
    let sender = SocketSender {
        way: Arc::new(way),
        broken: false,
    };
    let receiver = SocketReceiver {
        half: read,
        decoder: Decoder::default(),
        buffer: BytesMut::new(),
        ended: false,
    };
    (sender, receiver)
}

impl Net for SocketNet {
    type Listener = SocketListener;
    type Sender = SocketSender;
    type Receiver = SocketReceiver;

    async fn listen(&self, address: &str) -> Result<SocketListener, NetError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| unheard(address, &error))?;
        let address = listener.local_addr().map_err(|error| failed(&error))?;
        let local = local::listen(address)
            .await
            .map_err(|error| unheard(address, &error))?;
        Ok(SocketListener {
            listener,
            local,
            address,
        })
    }

    async fn dial(&self, address: &str) -> Result<Connection, NetError> {
        let refused =
            |error: &dyn Display| NetError::Failed(format!("can't connect to {address}: {error}"));
        let addresses = lookup_host(address)
            .await
            .map_err(|error| refused(&error))?;
        let mut last = refused(&"the name has no address");
        for candidate in addresses {
            if let Some(stream) = local::dial(candidate).await {
                return over_local(stream);
            }
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => return over_tcp(stream),
                Ok(Err(error)) => last = refused(&error),
                Err(_) => last = refused(&format_args!("no answer within {CONNECT_TIMEOUT:?}")),
            }
        }
        Err(last)
    }
}

impl Listener for SocketListener {
    type Sender = SocketSender;
    type Receiver = SocketReceiver;

    async fn accept(&mut self) -> Result<(SocketSender, SocketReceiver, String), NetError> {
        let ((sender, receiver), from) = tokio::select! {
            accepted = self.listener.accept() => {
                let (stream, from) = accepted.map_err(|error| failed(&error))?;
                (over_tcp(stream)?, from.to_string())
            }
            accepted = accept_local(self.local.as_ref()) => {
                let stream = accepted.map_err(|error| failed(&error))?;
                let from = from_here(&stream);
                (over_local(stream)?, from)
            }
        };
        Ok((sender, receiver, from))
    }

    fn address(&self) -> String {
        self.address.to_string()
    }
}

/// Why an address can't be listened at, and what to do.
fn unheard(address: impl Display, error: &io::Error) -> NetError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program does: stop it, or choose another port (ss -tlnp names it)"
        }
        io::ErrorKind::AddrNotAvailable => "; choose an address of this machine (ip addr)",
        _ => "",
    };
    NetError::Failed(format!("can't listen at {address}: {error}{advice}"))
}

async fn accept_local(listener: Option<&LocalListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn from_here(stream: &UnixStream) -> String {
    let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
    process.map_or_else(
        || "this machine".into(),
        |process| format!("process {process} of this machine"),
    )
}

impl FrameSender for SocketSender {
    async fn send(&mut self, frames: Vec<Frame>) -> Result<(), NetError> {
        if self.broken {
            return Err(NetError::Failed(
                "an earlier frame was sent only in part".into(),
            ));
        }
        let mut laid_out = Vec::with_capacity(frames.len() * 3);
        for frame in frames {
            lay_out(frame, &mut laid_out)?;
        }
        let mut pieces = std::mem::take(&mut *self.way.rest());
        pieces.append(&mut laid_out);
        self.broken = true;
        let half = self.way.half();
        loop {
            match write_some(half, &mut pieces).map_err(|error| failed(&error))? {
                Written::All => break,
                Written::Part => half.writable().await.map_err(|error| failed(&error))?,
            }
        }
        self.broken = false;
        Ok(())
    }

    fn shortcut(&self) -> Option<Box<dyn Shortcut>> {
        Some(Box::new(Direct(Arc::clone(&self.way))))
    }
}

impl Way {
    fn half(&self) -> &WriteHalf {
        self.half.as_ref().expect("it is there until it is dropped")
    }

    fn rest(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.rest.lock().expect("nothing panics under this lock")
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // Dropping one half alone must not close the other.
        if let Some(half) = self.half.take() {
            half.forget();
        }
    }
}

impl Shortcut for Direct {
    fn try_send(&self, frame: &Frame) -> Tried {
        // On tokio's own thread the frames of one turn go out together.
        if Handle::try_current().is_ok() {
            return Tried::Refused;
        }
        let mut pieces = Vec::with_capacity(3);
        if lay_out(frame.clone(), &mut pieces).is_err() {
            return Tried::Refused;
        }
        let bytes = |pieces: &[Bytes]| pieces.iter().map(Bytes::len).sum::<usize>();
        let all = bytes(&pieces);
        let written = write_some(self.0.half(), &mut pieces);
        if matches!(written, Ok(Written::All)) {
            return Tried::Sent;
        }
        // An error meets the task, too, which ends the connection.
        if bytes(&pieces) == all {
            return Tried::Refused;
        }
        *self.0.rest() = pieces;
        Tried::Begun
    }
}

/// Appends a frame as it is sent.
fn lay_out(frame: Frame, pieces: &mut Vec<Bytes>) -> Result<(), NetError> {
    let prefix = Prefix::of(&frame)
        .map_err(|error| NetError::Failed(format!("a frame can't be sent: {error}")))?;
    pieces.push(Bytes::copy_from_slice(&prefix.encode()));
    pieces.push(frame.header);
    pieces.extend(frame.payload);
    Ok(())
}

enum Written {
    All,
    /// The network takes no more now.
    Part,
}

/// Writes pieces one after the other, many per system call, until the network takes no more; what is left stays.
fn write_some(half: &WriteHalf, pieces: &mut Vec<Bytes>) -> io::Result<Written> {
    let mut first = 0;
    let result = loop {
        while pieces.get(first).is_some_and(Bytes::is_empty) {
            first += 1;
        }
        if first == pieces.len() {
            break Ok(Written::All);
        }
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&pieces[first..]) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let mut written = match half.try_write_vectored(&slices[..count]) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(Written::Part),
            Err(error) => break Err(error),
        };
        for piece in &mut pieces[first..] {
            let step = written.min(piece.len());
            piece.advance(step);
            written -= step;
        }
    };
    pieces.drain(..first);
    result
}

impl SocketReceiver {
    /// Reads some bytes; `false` at the end of the stream.
    async fn read_more(&mut self) -> Result<bool, NetError> {
        let missing = self.decoder.wants().saturating_sub(self.buffer.len());
        let ahead = if self.decoder.expects_small() {
            READ_BYTES_SMALL
        } else {
            READ_BYTES
        };
        self.buffer.reserve(missing.max(ahead));
        let read = self.half.read_buf(&mut self.buffer).await;
        Ok(read.map_err(|error| failed(&error))? > 0)
    }

    async fn next_frame(&mut self) -> Result<Frame, NetError> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer)? {
                return Ok(frame);
            }
            if !self.read_more().await? {
                return Err(
                    if self.decoder.is_between_frames() && self.buffer.is_empty() {
                        NetError::Closed
                    } else {
                        NetError::Failed("the connection ended inside a frame".into())
                    },
                );
            }
        }
    }
}

impl FrameReceiver for SocketReceiver {
    async fn receive(&mut self) -> Result<Frame, NetError> {
        if self.ended {
            return Err(NetError::Closed);
        }
        let result = self.next_frame().await;
        self.ended = result.is_err();
        result
    }

    fn expect_small(&mut self, bytes: usize) {
        self.decoder.expect_small(bytes);
    }
}
