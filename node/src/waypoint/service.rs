//! Serving a waypoint.
//!
//! Owns its connections, its clock and its state file. A connection that says anything but one question ends, and
//! nothing else does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use openraft_rt::AsyncRuntime;
use parking_lot::Mutex;
use polyfs_core::codec::{self, DecodeError};
use polyfs_core::ids::ClusterId;
use polyfs_core::limits::{GREETING_BYTES_MAX, GREETINGS_MAX};
use polyfs_core::waypoint::{Config, Input, Output, Reply, Request, Token, Waypoint, WaypointId};
use polyfs_store::disk::{Dir, Disk as _, DiskError, OpenMode};
use thiserror::Error;

use crate::runtime::{FrameReceiver, FrameSender, Lane, Listener, Net, NetError, Runtime};
use crate::wire::{HelloRefusal, Message, WIRE_VERSION};

/// A question must be there within this.
const PATIENCE: Duration = Duration::from_secs(2);
/// The machine is ticked this often: it only forgets.
const TICK: Duration = Duration::from_secs(1);
const VERSION: u8 = 1;

/// How a waypoint is served.
pub struct WaypointConfig<R: Runtime> {
    /// The directory and the name of the state file, if there is one.
    pub state: Option<(Arc<R::Dir>, String)>,
    /// Nobody can have been here before: no time of silence at the start.
    pub skip_warm_up: bool,
}

/// Why a waypoint does not start.
#[derive(Debug, Error)]
pub enum WaypointError {
    /// The address can't be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The state file can't be read.
    #[error("the state file: {0}")]
    Disk(#[from] DiskError),
    /// The state file is damaged.
    #[error(
        "the state file is damaged ({0}): remove it; until a member registers this waypoint then knows no cluster"
    )]
    Damaged(DecodeError),
    /// The state file is sound, and not for this version.
    #[error(
        "the state file was made by a newer polyfs ({0}): use that version here, and keep the file"
    )]
    Newer(DecodeError),
}

impl From<DecodeError> for WaypointError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Newer { .. } => Self::Newer(error),
            DecodeError::Invalid(_) | DecodeError::Trailing(..) => Self::Damaged(error),
        }
    }
}

struct Service<R: Runtime> {
    runtime: R,
    state: Option<(Arc<R::Dir>, String)>,
    inner: Mutex<Inner>,
}

struct Inner {
    machine: Waypoint,
    waiting: BTreeMap<Token, oneshot::Sender<Reply>>,
    next: Token,
}

/// Serves a waypoint at `listen` for as long as the process runs; returns where it really listens.
///
/// # Errors
/// When the address can't be had or the state file can't be read.
pub async fn serve<R: Runtime>(
    runtime: &R,
    listen: &str,
    config: WaypointConfig<R>,
) -> Result<String, WaypointError> {
    let remembered = match &config.state {
        Some((dir, name)) => read(&**dir, name)?,
        None => None,
    };
    let drawn = u128::from(runtime.random()) << 64 | u128::from(runtime.random());
    let machine = Config {
        id: WaypointId(drawn),
        state_file: config.state.is_some(),
        remembered,
        skip_warm_up: config.skip_warm_up,
    };
    let service = Arc::new(Service {
        runtime: runtime.clone(),
        state: config.state,
        inner: Mutex::new(Inner {
            machine: Waypoint::new(machine, runtime.now()),
            waiting: BTreeMap::new(),
            next: 0,
        }),
    });
    let listener = runtime.net().listen(listen).await?;
    let address = listener.address();
    runtime.spawn(Arc::clone(&service).accept(listener));
    runtime.spawn(service.tick());
    Ok(address)
}

fn read(dir: &impl Dir, name: &str) -> Result<Option<ClusterId>, WaypointError> {
    let mode = OpenMode {
        create: false,
        direct: false,
    };
    let file = match dir.open(name, mode) {
        Ok(file) => file,
        Err(DiskError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(4096)];
    file.read_at(0, &mut bytes)?;
    Ok(codec::decode_versioned("waypoint state", VERSION, &bytes)?)
}

fn write(dir: &impl Dir, name: &str, cluster: Option<ClusterId>) -> Result<(), DiskError> {
    let new = format!("{name}.new");
    let mode = OpenMode {
        create: true,
        direct: false,
    };
    let file = dir.open(&new, mode)?;
    file.set_len(0)?;
    file.write_at(0, &codec::encode_versioned(VERSION, &cluster))?;
    file.sync_data()?;
    dir.rename(&new, name)?;
    dir.sync()
}

impl<R: Runtime> Service<R> {
    async fn accept(self: Arc<Self>, mut listener: <R::Net as Net>::Listener) {
        let open = Arc::new(());
        loop {
            match listener.accept().await {
                Ok(_) if Arc::strong_count(&open) > GREETINGS_MAX => {
                    tracing::warn!("too many connections at once: one is closed");
                }
                Ok((sender, receiver, from)) => {
                    let (service, open) = (Arc::clone(&self), Arc::clone(&open));
                    self.runtime.spawn(async move {
                        let served = R::Async::timeout(PATIENCE, service.serve(sender, receiver));
                        match served.await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(from, %error, "a connection ended"),
                            Err(_) => tracing::debug!(from, "no question in time"),
                        }
                        drop(open);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections");
                    self.runtime.sleep(TICK).await;
                }
            }
        }
    }

    async fn serve(
        self: &Arc<Self>,
        mut sender: impl FrameSender,
        mut receiver: impl FrameReceiver,
    ) -> Result<(), NetError> {
        receiver.expect_small(GREETING_BYTES_MAX);
        let answer = match Message::of(receiver.receive().await?) {
            Ok((Message::Ask { version, .. }, _)) if version != WIRE_VERSION => {
                Message::Told(Err(HelloRefusal::Version(WIRE_VERSION)))
            }
            Ok((Message::Ask { request, .. }, _)) => match self.answer(request).await {
                Some(reply) => Message::Told(Ok(reply)),
                None => return Err(NetError::Closed),
            },
            Ok((Message::Hello(_), _)) => Message::Welcome(Err(HelloRefusal::IsWaypoint)),
            Ok(_) | Err(_) => return Err(NetError::Garbage("no question")),
        };
        sender.send(vec![answer.frame(vec![])]).await
    }

    /// `None` when the state file can't be written: an answer that might be forgotten is none.
    async fn answer(self: &Arc<Self>, body: Request) -> Option<Reply> {
        let (told, wait) = oneshot::channel();
        let from = {
            let mut inner = self.inner.lock();
            inner.next += 1;
            let token = inner.next;
            inner.waiting.insert(token, told);
            token
        };
        self.feed(Input::Request { from, body });
        let reply = wait.await.ok();
        self.inner.lock().waiting.remove(&from);
        reply
    }

    fn feed(self: &Arc<Self>, input: Input) {
        let now = self.runtime.now();
        let mut inner = self.inner.lock();
        inner.waiting.retain(|_, told| !told.is_canceled());
        inner.machine.handle_input(now, input);
        while let Some(output) = inner.machine.poll_output() {
            match output {
                Output::Reply { to, reply } => {
                    if let Some(told) = inner.waiting.remove(&to) {
                        // Who asked may have gone.
                        let _ = told.send(reply);
                    }
                }
                Output::Remember(cluster) => self.remember(cluster),
            }
        }
    }

    fn remember(self: &Arc<Self>, cluster: Option<ClusterId>) {
        let Some((dir, name)) = self.state.clone() else {
            return;
        };
        let service = Arc::clone(self);
        self.runtime.spawn(async move {
            loop {
                let (dir, name) = (Arc::clone(&dir), name.clone());
                let written = service
                    .runtime
                    .blocking(Lane::Checkpoint, move || write(&*dir, &name, cluster));
                match written.await {
                    Ok(()) => return service.feed(Input::Remembered),
                    // Those that wait get no answer and ask again, or another waypoint; until the disk works again.
                    Err(error) => tracing::error!(%error, "the state file can't be written"),
                }
                service.runtime.sleep(TICK).await;
            }
        });
    }

    async fn tick(self: Arc<Self>) {
        loop {
            self.runtime.sleep(TICK).await;
            self.feed(Input::Tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use polyfs_store::memory::MemoryDir;

    use super::*;

    #[test]
    fn a_state_file_of_a_newer_version_is_not_to_be_removed() {
        let dir = MemoryDir::new(1);
        write(&dir, "state", Some(ClusterId(7))).expect("the disk works");
        assert_eq!(
            read(&dir, "state").expect("it is sound"),
            Some(ClusterId(7))
        );
        let mut image = dir.image("state");
        image[0] = VERSION + 1;
        dir.put_image("state", image.clone());
        let error = read(&dir, "state").expect_err("it is newer").to_string();
        assert!(error.contains("newer polyfs"), "{error}");
        assert!(!error.contains("remove"), "{error}");
        image.truncate(1);
        image[0] = VERSION;
        dir.put_image("state", image);
        let error = read(&dir, "state").expect_err("it is damaged").to_string();
        assert!(
            error.contains("damaged") && error.contains("remove"),
            "{error}"
        );
    }
}
