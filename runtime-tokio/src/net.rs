//! Frames over TCP.
//!
//! Owns connections and nothing above them. Payloads are neither copied when sent (vectored writes straight from
//! their pieces) nor when received (cut out of the buffer they were read into). TLS comes later, between the two.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use polyfs_node::frame::{Decoder, Prefix};
use polyfs_node::runtime::{Frame, FrameReceiver, FrameSender, Listener, Net, NetError};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::tcp;

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
pub struct TcpFrames;

/// A listening socket.
#[derive(Debug)]
pub struct TokioListener {
    listener: TcpListener,
    address: SocketAddr,
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct TcpFrameSender {
    // Shared rather than split: dropping one half alone must not close the other.
    stream: Arc<TcpStream>,
    // Set while a send is under way: if its future is dropped, half a frame may be out.
    broken: bool,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct TcpFrameReceiver {
    stream: Arc<TcpStream>,
    decoder: Decoder,
    buffer: BytesMut,
    ended: bool,
}

fn failed(error: &io::Error) -> NetError {
    NetError::Failed(error.to_string())
}

fn halves(stream: TcpStream) -> Result<(TcpFrameSender, TcpFrameReceiver), NetError> {
    tcp::prepare(&stream).map_err(|error| failed(&error))?;
    let stream = Arc::new(stream);
    let sender = TcpFrameSender {
        stream: Arc::clone(&stream),
        broken: false,
    };
    let receiver = TcpFrameReceiver {
        stream,
        decoder: Decoder::default(),
        buffer: BytesMut::new(),
        ended: false,
    };
    Ok((sender, receiver))
}

impl Net for TcpFrames {
    type Listener = TokioListener;
    type Sender = TcpFrameSender;
    type Receiver = TcpFrameReceiver;

    async fn listen(&self, address: &str) -> Result<TokioListener, NetError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| NetError::Failed(format!("can't listen at {address}: {error}")))?;
        let address = listener.local_addr().map_err(|error| failed(&error))?;
        Ok(TokioListener { listener, address })
    }

    async fn dial(&self, address: &str) -> Result<(TcpFrameSender, TcpFrameReceiver), NetError> {
        let refused = |error: &dyn std::fmt::Display| {
            NetError::Failed(format!("can't connect to {address}: {error}"))
        };
        let addresses = lookup_host(address)
            .await
            .map_err(|error| refused(&error))?;
        let mut last = refused(&"the name has no address");
        for candidate in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => return halves(stream),
                Ok(Err(error)) => last = refused(&error),
                Err(_) => last = refused(&format_args!("no answer within {CONNECT_TIMEOUT:?}")),
            }
        }
        Err(last)
    }
}

impl Listener for TokioListener {
    type Sender = TcpFrameSender;
    type Receiver = TcpFrameReceiver;

    async fn accept(&mut self) -> Result<(TcpFrameSender, TcpFrameReceiver, String), NetError> {
        let (stream, from) = self
            .listener
            .accept()
            .await
            .map_err(|error| failed(&error))?;
        let (sender, receiver) = halves(stream)?;
        Ok((sender, receiver, from.to_string()))
    }

    fn address(&self) -> String {
        self.address.to_string()
    }
}

impl FrameSender for TcpFrameSender {
    async fn send(&mut self, frames: Vec<Frame>) -> Result<(), NetError> {
        if self.broken {
            return Err(NetError::Failed(
                "an earlier frame was sent only in part".into(),
            ));
        }
        let mut pieces = Vec::with_capacity(frames.len() * 3);
        for frame in frames {
            let prefix = Prefix::of(&frame)
                .map_err(|error| NetError::Failed(format!("a frame can't be sent: {error}")))?;
            pieces.push(Bytes::copy_from_slice(&prefix.encode()));
            pieces.push(frame.header);
            pieces.extend(frame.payload);
        }
        self.broken = true;
        write_all(&self.stream, &pieces)
            .await
            .map_err(|error| failed(&error))?;
        self.broken = false;
        Ok(())
    }
}

/// Writes all pieces one after the other, many per system call.
async fn write_all(stream: &TcpStream, pieces: &[Bytes]) -> io::Result<()> {
    let (mut first, mut offset) = (0, 0);
    while first < pieces.len() {
        if pieces[first].len() == offset {
            (first, offset) = (first + 1, 0);
            continue;
        }
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let rest = std::iter::once(&pieces[first][offset..])
            .chain(pieces[first + 1..].iter().map(|piece| &piece[..]));
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(rest) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let mut written = match stream.try_write_vectored(&slices[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.writable().await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        while written > 0 {
            let step = written.min(pieces[first].len() - offset);
            written -= step;
            offset += step;
            if offset == pieces[first].len() && written > 0 {
                (first, offset) = (first + 1, 0);
            }
        }
    }
    Ok(())
}

impl TcpFrameReceiver {
    /// Reads some bytes; `false` at the end of the stream.
    async fn read_more(&mut self) -> Result<bool, NetError> {
        let missing = self.decoder.wants().saturating_sub(self.buffer.len());
        let ahead = if self.decoder.expects_small() {
            READ_BYTES_SMALL
        } else {
            READ_BYTES
        };
        self.buffer.reserve(missing.max(ahead));
        loop {
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(bytes) => return Ok(bytes > 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream
                        .readable()
                        .await
                        .map_err(|error| failed(&error))?;
                }
                Err(error) => return Err(failed(&error)),
            }
        }
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

impl FrameReceiver for TcpFrameReceiver {
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
