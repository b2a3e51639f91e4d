//! Machines in memory for tests of whole nodes: paused time, a network that can be cut, disks that lose power.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::print_stdout, reason = "tests tell what they did")]

pub(crate) mod cluster;
pub(crate) mod handmade;
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use parking_lot::Mutex;
use polyfs_core::time::{Instant, Now, Timestamp};
use polyfs_node::Runtime;
use polyfs_node::runtime::{Frame, FrameReceiver, FrameSender, Lane, Listener, Net, NetError};
use polyfs_store::memory::MemoryDir;

/// POLYFS_SEEDS=A..B (B excluded) if it is set, else `default`.
pub(crate) fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(several) = std::env::var("POLYFS_SEEDS") else {
        return default;
    };
    let number = |text: &str| text.trim().parse().expect("a seed is a number");
    let (from, to) = several.split_once("..").expect("seeds are A..B");
    number(from)..number(to)
}

/// Runs a test with each seed, on an executor of its own: with that ends whatever the seed has left running.
pub(crate) fn each(seeds: impl IntoIterator<Item = u64>, test: impl AsyncFn(u64)) {
    for seed in seeds {
        let executor = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("an executor of one thread");
        executor.block_on(test(seed));
    }
}

/// One machine of a test.
#[derive(Clone)]
pub(crate) struct Machine {
    net: MemoryNet,
    random: Arc<AtomicU64>,
    start: tokio::time::Instant,
}

impl Machine {
    /// The machine `name`; everything random about it comes from `seed`.
    pub(crate) fn new(fabric: &Fabric, name: &str, seed: u64) -> Self {
        let net = MemoryNet {
            fabric: fabric.clone(),
            name: name.to_owned(),
        };
        let random = Arc::new(AtomicU64::new(seed));
        Self {
            net,
            random,
            start: tokio::time::Instant::now(),
        }
    }
}

impl Runtime for Machine {
    type Async = openraft_rt_tokio::TokioRuntime;
    type Net = MemoryNet;
    type Dir = MemoryDir;

    fn now(&self) -> Now {
        let elapsed = self.start.elapsed() + Duration::from_secs(1_000);
        let wall = Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        } + elapsed;
        Now {
            mono: Instant::default() + elapsed,
            wall,
        }
    }

    fn random(&self) -> u64 {
        let mut z = self
            .random
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn net(&self) -> &MemoryNet {
        &self.net
    }

    fn blocking<T, F>(&self, lane: Lane, work: F) -> impl Future<Output = T> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let done = work();
        let net = self.net.clone();
        async move {
            // A disk takes its time.
            tokio::time::sleep(Duration::from_micros(200)).await;
            while net.fabric.stands_still(&net.name, lane) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            done
        }
    }

    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(span)
    }
}

type Item = Option<Frame>;
type Half = mpsc::UnboundedSender<Item>;
type Incoming = (MemorySender, MemoryReceiver, String);

/// The wires between all machines.
#[derive(Clone, Default)]
pub(crate) struct Fabric(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    listeners: BTreeMap<String, mpsc::UnboundedSender<Incoming>>,
    connections: Vec<(String, String, Half, Half)>,
    cut: BTreeSet<(String, String)>,
    frozen: BTreeSet<String>,
    disks_standing_still: BTreeSet<String>,
    lanes_standing_still: Vec<(String, Lane)>,
    next_port: u16,
}

fn pair(a: &str, b: &str) -> (String, String) {
    if a < b {
        (a.into(), b.into())
    } else {
        (b.into(), a.into())
    }
}

impl Fabric {
    /// Breaks all connections between two machines; with `stay`, there can be no new ones until healed.
    pub(crate) fn cut(&self, a: &str, b: &str, stay: bool) {
        let mut wires = self.0.lock();
        let between = pair(a, b);
        wires.connections.retain(|(x, y, one, other)| {
            let hit = pair(x, y) == between;
            if hit {
                // An item of nothing is a break.
                let _ = (one.unbounded_send(None), other.unbounded_send(None));
            }
            !hit
        });
        if stay {
            wires.cut.insert(between);
        }
    }

    /// Lets two machines connect again.
    pub(crate) fn heal(&self, a: &str, b: &str) {
        self.0.lock().cut.remove(&pair(a, b));
    }

    /// Stops a machine as SIGSTOP does, as far as others see: its connections stay, nothing passes them.
    pub(crate) fn freeze(&self, name: &str) {
        self.0.lock().frozen.insert(name.to_owned());
    }

    /// Lets it go on: what was held arrives.
    pub(crate) fn thaw(&self, name: &str) {
        self.0.lock().frozen.remove(name);
    }

    /// A machine's disk ends nothing that it was given, until it is let go on.
    pub(crate) fn stop_disk(&self, name: &str) {
        self.0.lock().disks_standing_still.insert(name.to_owned());
    }

    /// Its disk ends what it was given.
    pub(crate) fn let_disk_go_on(&self, name: &str) {
        self.0.lock().disks_standing_still.remove(name);
    }

    /// What a machine does in one lane takes for ever.
    pub(crate) fn stop_lane(&self, name: &str, lane: Lane) {
        let mut wires = self.0.lock();
        wires.lanes_standing_still.push((name.to_owned(), lane));
    }

    fn stands_still(&self, name: &str, lane: Lane) -> bool {
        let wires = self.0.lock();
        let mut lanes = wires.lanes_standing_still.iter();
        wires.disks_standing_still.contains(name)
            || lanes.any(|(of, still)| of == name && *still == lane)
    }

    fn is_held(&self, ends: &(String, String)) -> bool {
        let wires = self.0.lock();
        wires.frozen.contains(&ends.0) || wires.frozen.contains(&ends.1)
    }

    /// Frees a machine's addresses, as its death does.
    pub(crate) fn forget(&self, name: &str) {
        let prefix = format!("{name}:");
        self.0
            .lock()
            .listeners
            .retain(|address, _| !address.starts_with(&prefix));
    }
}

/// The network card of one machine.
#[derive(Clone)]
pub(crate) struct MemoryNet {
    fabric: Fabric,
    name: String,
}

/// A listener.
pub(crate) struct MemoryListener {
    address: String,
    incoming: mpsc::UnboundedReceiver<Incoming>,
}

/// A sending half.
pub(crate) struct MemorySender {
    half: Half,
    fabric: Fabric,
    ends: (String, String),
}

/// A receiving half.
pub(crate) struct MemoryReceiver(mpsc::UnboundedReceiver<Item>, bool);

impl Net for MemoryNet {
    type Listener = MemoryListener;
    type Sender = MemorySender;
    type Receiver = MemoryReceiver;

    async fn listen(&self, address: &str) -> Result<MemoryListener, NetError> {
        let mut wires = self.fabric.0.lock();
        wires.next_port += 1;
        let port = address.rsplit(':').next().unwrap_or("0");
        let port = if port == "0" {
            wires.next_port.to_string()
        } else {
            port.to_owned()
        };
        let address = format!("{}:{port}", self.name);
        let (sender, incoming) = mpsc::unbounded();
        wires.listeners.insert(address.clone(), sender);
        Ok(MemoryListener { address, incoming })
    }

    async fn dial(&self, address: &str) -> Result<(MemorySender, MemoryReceiver), NetError> {
        tokio::time::sleep(Duration::from_micros(300)).await;
        let mut wires = self.fabric.0.lock();
        let to = address.split(':').next().unwrap_or_default().to_owned();
        if wires.cut.contains(&pair(&self.name, &to)) {
            return Err(NetError::Failed("unreachable".into()));
        }
        let listener = wires.listeners.get(address).cloned();
        let listener = listener.ok_or_else(|| NetError::Failed("refused".into()))?;
        let (one, at_them) = mpsc::unbounded();
        let (other, at_us) = mpsc::unbounded();
        let ends = (self.name.clone(), to.clone());
        let sender = |half: &Half| MemorySender {
            half: half.clone(),
            fabric: self.fabric.clone(),
            ends: ends.clone(),
        };
        let theirs = (
            sender(&other),
            MemoryReceiver(at_them, false),
            self.name.clone(),
        );
        listener
            .unbounded_send(theirs)
            .map_err(|_| NetError::Failed("refused".into()))?;
        let ours = sender(&one);
        wires.connections.push((self.name.clone(), to, one, other));
        Ok((ours, MemoryReceiver(at_us, false)))
    }
}

impl Listener for MemoryListener {
    type Sender = MemorySender;
    type Receiver = MemoryReceiver;

    async fn accept(&mut self) -> Result<Incoming, NetError> {
        match self.incoming.next().await {
            Some(incoming) => Ok(incoming),
            None => std::future::pending().await,
        }
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

impl FrameSender for MemorySender {
    async fn send(&mut self, frames: Vec<Frame>) -> Result<(), NetError> {
        while self.fabric.is_held(&self.ends) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for frame in frames {
            let whole = frame.payload.concat();
            let payload = if whole.is_empty() {
                vec![]
            } else {
                vec![whole.into()]
            };
            let frame = Frame {
                header: frame.header,
                payload,
            };
            self.half
                .unbounded_send(Some(frame))
                .map_err(|_| NetError::Closed)?;
        }
        tokio::time::sleep(Duration::from_micros(50)).await;
        Ok(())
    }
}

impl FrameReceiver for MemoryReceiver {
    async fn receive(&mut self) -> Result<Frame, NetError> {
        if self.1 {
            return Err(NetError::Closed);
        }
        match self.0.next().await {
            Some(Some(frame)) => Ok(frame),
            Some(None) | None => {
                self.1 = true;
                Err(NetError::Closed)
            }
        }
    }
}

impl Drop for MemorySender {
    fn drop(&mut self) {
        let _ = self.half.unbounded_send(None);
    }
}
