//! What a mount does all day, and what is noted of it.
//!
//! Owns the driving of one client and what its history may claim. A write is only promised to survive a power cut once
//! it was synced (fsync(2)), and the reference filesystem loses nothing; so here a change of data and the sync after it
//! are one call that ends when the sync has succeeded, and nothing else is under way meanwhile that could see it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::join_all;
use parking_lot::Mutex;
use polyfs_core::attr::{Attr, FileKind};
use polyfs_core::error::FsError;
use polyfs_core::place::{Cookie, Ino};
use polyfs_core::time::Instant;
use polyfs_core::vfs::{Call, Handle, OpenFlags, Outcome, Reply};
use polyfs_model::generate::Workload;
use polyfs_model::history::{ClientId, Event, History, Kind};
use polyfs_node::Runtime;
use polyfs_node::client::ClientHandle;
use rand::{Rng, RngExt as _};

/// Calls under way at a time, at most.
const TOGETHER_MAX: u32 = 4;
/// Names looked up in each directory at the end: those of the generator, and some nobody used.
const NAMES: u32 = 8;
/// Bytes read back at a time.
const READ_BYTES: u32 = 64 << 10;

/// What all mounts of a run did. Clones are the same notes.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    history: History,
    mounts: u32,
    /// The newest mount of each seat, and what it has open.
    seats: BTreeMap<Seat, (ClientId, BTreeMap<Handle, Ino>)>,
    ended: usize,
    failures: Vec<Failure>,
}

/// A place in the world where one mount after the other works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat(pub u32);

/// A call that failed with EIO: it may have happened, or may still.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Whose.
    pub client: ClientId,
    /// Where that mount is.
    pub seat: Seat,
    /// Which, in short.
    pub call: String,
    /// When it was made, by the machine's own clock.
    pub made: Instant,
    /// How long it took.
    pub took: Duration,
    /// The mount has said before that changes of this inode are lost (P8).
    pub was_lost: bool,
}

impl Notes {
    /// A new mount in a seat, after the one before there has died: its descriptors are gone, as if they had been closed.
    #[must_use]
    pub fn mount(&self, seat: Seat) -> ClientId {
        let mut noted = self.0.lock();
        if let Some((dead, open)) = noted.seats.remove(&seat) {
            for (handle, ino) in open {
                let owner = None;
                let event = noted
                    .history
                    .invoke(dead, Call::Release { ino, handle, owner });
                noted.history.end(event, Ok(Reply::Done));
            }
        }
        noted.mounts += 1;
        let id = ClientId(noted.mounts);
        noted.seats.insert(seat, (id, BTreeMap::new()));
        id
    }

    /// Calls whose outcome is known.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.0.lock().ended
    }

    /// All that was noted.
    #[must_use]
    pub fn history(&self) -> History {
        self.0.lock().history.clone()
    }

    /// Calls that failed with EIO.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        self.0.lock().failures.clone()
    }

    fn invoke(&self, client: ClientId, call: Call) -> usize {
        self.0.lock().history.invoke(client, call)
    }

    fn lost(&self, client: ClientId, ino: Ino) {
        self.0.lock().history.lost(client, ino);
    }

    /// What it asked for may still happen: the history has no end of it.
    fn fail(&self, seat: Seat, event: usize, made: Instant, took: Duration) {
        let mut noted = self.0.lock();
        let events = noted.history.events();
        let Event { client, call, .. } = &events[event];
        let lost = |before: &Event| {
            before.kind == Kind::Lost
                && before.client == *client
                && matches!((&before.call, is_on_content(call)),
                    (Call::Sync { ino, .. }, Some(of)) if *ino == of)
        };
        let failure = Failure {
            client: *client,
            seat,
            call: format!("{call:?}").chars().take(120).collect(),
            made,
            took,
            was_lost: events.iter().any(lost),
        };
        noted.failures.push(failure);
    }

    fn end(&self, seat: Seat, event: usize, outcome: Outcome) {
        let mut noted = self.0.lock();
        let change = match (&noted.history.events()[event].call, &outcome) {
            (Call::Open { ino, .. }, Ok(Reply::Opened(handle))) => Some((*handle, Some(*ino))),
            (_, Ok(Reply::Created(attr, handle))) => Some((*handle, Some(attr.ino))),
            (Call::Release { handle, .. }, _) => Some((*handle, None)),
            _ => None,
        };
        if let (Some((handle, ino)), Some((_, open))) = (change, noted.seats.get_mut(&seat)) {
            match ino {
                Some(ino) => drop(open.insert(handle, ino)),
                None => drop(open.remove(&handle)),
            }
        }
        noted.history.end(event, outcome);
        noted.ended += 1;
    }
}

/// One mount at work. When its machine dies, what it had under way has an outcome that nobody learns.
pub struct User<R> {
    runtime: R,
    client: ClientHandle,
    seat: Seat,
    id: ClientId,
    notes: Notes,
}

impl<R: Runtime> User<R> {
    /// The user of a mount that was just made.
    #[must_use]
    pub fn new(runtime: R, client: ClientHandle, seat: Seat, notes: &Notes) -> Self {
        let id = notes.mount(seat);
        let of_lost = notes.clone();
        client.on_lost(Box::new(move |ino| of_lost.lost(id, ino)));
        Self {
            runtime,
            client,
            seat,
            id,
            notes: notes.clone(),
        }
    }

    /// Makes random calls for as long as the machine lives. Files get up to `size_max` bytes.
    pub async fn work(&self, root: Ino, size_max: u64, random: &mut impl Rng) {
        let mut workload = Workload::new(root, size_max);
        let mut links = BTreeSet::new();
        loop {
            let mut together = Vec::new();
            let mut alone = None;
            for _ in 0..random.random_range(1..=TOGETHER_MAX) {
                let call = workload.next(random);
                if is_of_locks(&call)
                    || is_on_content(&call).is_some_and(|ino| links.contains(&ino))
                {
                    continue;
                }
                if must_be_alone(&call) {
                    alone = Some(call);
                    break;
                }
                together.push(call);
            }
            let calls = together.into_iter().map(|call| async {
                let outcome = self.call(call.clone()).await;
                (call, outcome)
            });
            for (call, outcome) in join_all(calls).await {
                workload.learn(&call, &outcome);
                links.extend(symlink(&outcome));
            }
            if let Some(call) = alone {
                let outcome = self.change(call.clone()).await;
                workload.learn(&call, &outcome);
                links.extend(symlink(&outcome));
            }
            let pause = random.random_range(0..120);
            self.runtime.sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Reads back everything that has a name, and what has none: lost entries show as names not found.
    pub async fn read_back(&self, root: Ino) {
        let (mut seen, mut dirs) = (BTreeSet::from([root]), vec![root]);
        while let Some(dir) = dirs.pop() {
            self.list(dir).await;
            for name in 0..NAMES {
                let name = format!("n{name}").into_bytes();
                let found = self.call(Call::Lookup { dir, name }).await;
                let Ok(Reply::Attr(attr)) = found else {
                    continue;
                };
                if seen.insert(attr.ino) {
                    match attr.kind {
                        FileKind::Directory => dirs.push(attr.ino),
                        _ => self.read_inode(&attr).await,
                    }
                }
            }
        }
    }

    async fn list(&self, ino: Ino) {
        let opened = self.call(Call::OpenDir { ino }).await;
        let Ok(Reply::Opened(handle)) = opened else {
            return;
        };
        let (cookie, limit) = (Cookie::START, 1000);
        self.call(Call::ReadDir {
            ino,
            handle,
            cookie,
            limit,
            plus: true,
        })
        .await
        .ok();
        self.call(Call::ReleaseDir { handle }).await.ok();
    }

    async fn read_inode(&self, attr: &Attr) {
        let ino = attr.ino;
        self.call(Call::GetAttr { ino }).await.ok();
        self.call(Call::ListXattr { ino }).await.ok();
        let name = b"user.x".to_vec();
        self.call(Call::GetXattr { ino, name }).await.ok();
        if attr.kind == FileKind::Symlink {
            self.call(Call::ReadLink { ino }).await.ok();
            return;
        }
        let flags = OpenFlags {
            read: true,
            ..OpenFlags::default()
        };
        let opened = self.call(Call::Open { ino, flags }).await;
        let Ok(Reply::Opened(handle)) = opened else {
            return;
        };
        let mut offset = 0;
        // Once past the end, to see that it is the end.
        while offset <= attr.size {
            let size = READ_BYTES;
            self.call(Call::Read {
                ino,
                handle,
                offset,
                size,
            })
            .await
            .ok();
            offset += u64::from(READ_BYTES);
        }
        let owner = None;
        self.call(Call::Release { ino, handle, owner }).await.ok();
    }

    /// A call, noted.
    async fn call(&self, call: Call) -> Outcome {
        let event = self.notes.invoke(self.id, call.clone());
        let outcome = self.asked(event, call).await;
        if !is_unknown(&outcome) {
            self.notes.end(self.seat, event, outcome.clone());
        }
        outcome
    }

    /// A change of data: it has ended when it is synced.
    async fn change(&self, call: Call) -> Outcome {
        let event = self.notes.invoke(self.id, call.clone());
        let outcome = self.asked(event, call.clone()).await;
        if is_unknown(&outcome) {
            return outcome;
        }
        if let (Ok(reply), Some(ino)) = (&outcome, changed(&call, &outcome)) {
            let data_only = matches!(reply, Reply::Written(_));
            let sync = Call::Sync {
                ino,
                handle: None,
                data_only,
            };
            if self.call(sync).await.is_err() {
                return outcome;
            }
        }
        self.notes.end(self.seat, event, outcome.clone());
        outcome
    }

    async fn asked(&self, event: usize, call: Call) -> Outcome {
        let made = self.runtime.now().mono;
        let outcome = self.ask(call).await;
        if is_unknown(&outcome) {
            let took = self.runtime.now().mono.since(made);
            self.notes.fail(self.seat, event, made, took);
        }
        outcome
    }

    async fn ask(&self, call: Call) -> Outcome {
        let (done, wait) = oneshot::channel();
        let answer = move |outcome| drop(done.send(outcome));
        self.client.call(call, Box::new(answer));
        match wait.await {
            Ok(outcome) => outcome,
            // The process is ending; so is this task.
            Err(oneshot::Canceled) => std::future::pending().await,
        }
    }
}

/// Whether nobody knows what became of a call.
fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Err(FsError::Io))
}

/// The locks of a mount that died end some time after; the reference knows no such end yet.
fn is_of_locks(call: &Call) -> bool {
    matches!(call, Call::SetLock { .. } | Call::Unlock { .. })
}

/// The inode whose content a call is about: never a symbolic link, since a kernel follows those itself.
fn is_on_content(call: &Call) -> Option<Ino> {
    match call {
        Call::Write { ino, .. }
        | Call::Read { ino, .. }
        | Call::Allocate { ino, .. }
        | Call::Open { ino, .. }
        | Call::Sync { ino, .. } => Some(*ino),
        Call::SetAttr { ino, size, .. } => size.map(|_| *ino),
        _ => None,
    }
}

/// The symbolic link that an outcome shows.
fn symlink(outcome: &Outcome) -> Option<Ino> {
    match outcome {
        Ok(Reply::Attr(attr) | Reply::Created(attr, _)) => {
            (attr.kind == FileKind::Symlink).then_some(attr.ino)
        }
        _ => None,
    }
}

/// Whether nothing else may be under way: it changes data, or ends a descriptor that others use.
fn must_be_alone(call: &Call) -> bool {
    match call {
        Call::Write { .. } | Call::Allocate { .. } | Call::Release { .. } => true,
        Call::SetAttr { size, .. } => size.is_some(),
        Call::Open { flags, .. } | Call::Create { flags, .. } => flags.truncate,
        _ => false,
    }
}

/// The inode whose data a successful call may have changed.
fn changed(call: &Call, outcome: &Outcome) -> Option<Ino> {
    match (call, outcome) {
        (_, Ok(Reply::Created(attr, _))) => Some(attr.ino),
        (
            Call::Write { ino, .. }
            | Call::Allocate { ino, .. }
            | Call::SetAttr { ino, .. }
            | Call::Open { ino, .. },
            _,
        ) => Some(*ino),
        _ => None,
    }
}
