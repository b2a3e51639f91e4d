//! What a machine holds of the network: listeners and connections of one life of its program.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use polyfs_node::frame::{self, Decoder};
use polyfs_node::runtime::{Frame, FrameReceiver, FrameSender, Listener, Net, NetError};

use super::CONNECT_TIMEOUT;
use super::connection::{ConnectionId, Received, Room, Side};
use super::fabric::Fabric;
use super::topology::{MachineId, parse};
use crate::context;
use crate::executor::Sleep;

/// A dial that met no answer tries again after this, as a kernel repeats its SYN.
const DIAL_AGAIN: Duration = Duration::from_millis(500);

/// A machine's plug into the network, good for one life of its program.
#[derive(Clone)]
pub(crate) struct Attachment {
    pub(crate) fabric: Fabric,
    pub(crate) machine: MachineId,
    pub(crate) life: u64,
}

/// The network of one machine. Cheap to clone.
#[derive(Clone)]
pub struct SimNet(pub(crate) Attachment);

/// A listening port.
pub struct SimListener {
    at: Attachment,
    port: u16,
}

/// One end of a connection, as one of its halves holds it.
struct Half {
    at: Attachment,
    id: ConnectionId,
    side: Side,
}

/// The sending half of a connection.
pub struct SimSender {
    half: Half,
    // Set while a send is under way, as in production: if its future is dropped, half of it may be out.
    broken: bool,
}

/// The receiving half of a connection.
pub struct SimReceiver {
    half: Half,
    ended: bool,
}

impl Drop for Half {
    fn drop(&mut self) {
        let Attachment { fabric, life, .. } = &self.at;
        fabric.lock().drop_half(self.id, self.side, *life);
    }
}

fn halves(at: &Attachment, id: ConnectionId, side: Side) -> (SimSender, SimReceiver) {
    let half = || Half {
        at: at.clone(),
        id,
        side,
    };
    let sender = SimSender {
        half: half(),
        broken: false,
    };
    let receiver = SimReceiver {
        half: half(),
        ended: false,
    };
    (sender, receiver)
}

impl Attachment {
    /// A program that was killed may run on until its next wait; the network has already forgotten it.
    fn check_alive(&self) -> Result<(), NetError> {
        if self.fabric.lock().is_alive(self.machine, self.life) {
            Ok(())
        } else {
            Err(NetError::Failed("this machine is off the network".into()))
        }
    }
}

impl Net for SimNet {
    type Listener = SimListener;
    type Sender = SimSender;
    type Receiver = SimReceiver;

    async fn listen(&self, address: &str) -> Result<SimListener, NetError> {
        let Self(at) = self;
        at.check_alive()?;
        let (host, port) = parse(address)?;
        let mut state = at.fabric.lock();
        if state.topology.resolve(at.machine, host)? != at.machine {
            return Err(NetError::Failed(format!(
                "{address} is not this machine's address"
            )));
        }
        let port = state.listen(at.machine, at.life, port)?;
        drop(state);
        Ok(SimListener {
            at: at.clone(),
            port,
        })
    }

    async fn dial(&self, address: &str) -> Result<(SimSender, SimReceiver), NetError> {
        let Self(at) = self;
        at.check_alive()?;
        let (host, port) = parse(address)?;
        let to = at.fabric.lock().topology.resolve(at.machine, host)?;
        let give_up =
            context::true_now() + u64::try_from(CONNECT_TIMEOUT.as_nanos()).expect("a few seconds");
        loop {
            let way = at.fabric.lock().handshake(at.machine, to);
            if let Some(delay) = way {
                if !delay.is_zero() {
                    Sleep::truly(delay / 2).await;
                }
                at.check_alive()?;
                let reached = {
                    let mut state = at.fabric.lock();
                    let open = state.topology.is_round_trip(at.machine, to);
                    open.then(|| state.connect((at.machine, at.life), (to, port)))
                };
                if let Some(connected) = reached {
                    if !delay.is_zero() {
                        Sleep::truly(delay / 2).await;
                    }
                    return Ok(halves(at, connected?, Side::Dialler));
                }
            }
            let now = context::true_now();
            if now >= give_up {
                return Err(NetError::Failed(format!(
                    "can't connect to {address}: no answer within {CONNECT_TIMEOUT:?}"
                )));
            }
            Sleep::truly(DIAL_AGAIN.min(Duration::from_nanos(give_up - now))).await;
        }
    }
}

impl Listener for SimListener {
    type Sender = SimSender;
    type Receiver = SimReceiver;

    async fn accept(&mut self) -> Result<(SimSender, SimReceiver, String), NetError> {
        let at = &self.at;
        let (id, from) = poll_fn(|task| {
            let mut state = at.fabric.lock();
            state.accept(at.machine, self.port, at.life, task.waker())
        })
        .await?;
        let (sender, receiver) = halves(at, id, Side::Acceptor);
        Ok((sender, receiver, from))
    }

    fn address(&self) -> String {
        let state = self.at.fabric.lock();
        format!("{}:{}", state.topology.host(self.at.machine).ip, self.port)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let Attachment {
            fabric,
            machine,
            life,
        } = &self.at;
        fabric.lock().stop_listening(*machine, self.port, *life);
    }
}

/// A timer that is set anew only when the time changes.
#[derive(Default)]
struct Until(Option<(u64, Sleep)>);

impl Until {
    /// Ready when that time has come; never for `None`.
    fn poll(&mut self, at: Option<u64>, task: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.0 = None;
            return Poll::Pending;
        };
        if self.0.as_ref().is_none_or(|(set, _)| *set != at) {
            self.0 = Some((at, Sleep::until(at)));
        }
        let (_, sleep) = self.0.as_mut().expect("set above");
        ready!(Pin::new(sleep).poll(task));
        self.0 = None;
        Poll::Ready(())
    }
}

impl SimSender {
    async fn send_one(&self, frame: bytes::Bytes) -> Result<(), NetError> {
        let Half { at, id, side } = &self.half;
        let mut until = Until::default();
        let mut frame = Some(frame);
        poll_fn(|task| {
            loop {
                let at_what = {
                    let mut state = at.fabric.lock();
                    match state.room(*id, *side, task.waker()) {
                        Room::Ended(why) => return Poll::Ready(Err(why)),
                        Room::Wait(at_what) => at_what,
                        Room::Free => {
                            let frame = frame.take().expect("polled until it is ready only");
                            state.send(*id, *side, frame);
                            return Poll::Ready(Ok(()));
                        }
                    }
                };
                ready!(until.poll(at_what, task));
            }
        })
        .await
    }
}

impl FrameSender for SimSender {
    async fn send(&mut self, frames: Vec<Frame>) -> Result<(), NetError> {
        if self.broken {
            return Err(NetError::Failed(
                "an earlier frame was sent only in part".into(),
            ));
        }
        self.half.at.check_alive()?;
        let frames = frames
            .iter()
            .map(frame::encode)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| NetError::Failed(format!("a frame can't be sent: {error}")))?;
        self.broken = true;
        for frame in frames {
            self.send_one(frame).await?;
        }
        self.broken = false;
        Ok(())
    }
}

fn decode(bytes: bytes::Bytes) -> Result<Frame, NetError> {
    let mut bytes = BytesMut::from(bytes);
    let frame = Decoder::default().next(&mut bytes)?;
    // A damaged length makes a receiver wait for bytes that belong to the next frame; there is none in this piece.
    frame.ok_or(NetError::Garbage("its header is damaged"))
}

impl FrameReceiver for SimReceiver {
    async fn receive(&mut self) -> Result<Frame, NetError> {
        if self.ended {
            return Err(NetError::Closed);
        }
        let Half { at, id, side } = &self.half;
        let mut until = Until::default();
        let received = poll_fn(|task| {
            loop {
                let received = at.fabric.lock().receive(*id, *side, task.waker());
                match received {
                    Received::Bytes(bytes) => return Poll::Ready(decode(bytes)),
                    Received::Ended(why) => return Poll::Ready(Err(why)),
                    Received::Wait(at_what) => ready!(until.poll(at_what, task)),
                }
            }
        })
        .await;
        self.ended = received.is_err();
        received
    }
}
