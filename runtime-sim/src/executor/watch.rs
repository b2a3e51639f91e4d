//! A watch channel whose waiters wake in the order in which they began to wait.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::task::{Poll, Waker};

use openraft_rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft_rt::{OptionalSend, OptionalSync};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

struct Shared<T> {
    value: RwLock<T>,
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl<T> Shared<T> {
    fn notify(&self) {
        let wakers = std::mem::take(&mut self.waiters.lock().wakers);
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    fn changed(&self) {
        self.version.fetch_add(1, SeqCst);
        self.notify();
    }
}

/// Names the channel to openraft.
pub struct SimWatch;

/// The sending half.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving half, and the version it has seen.
pub struct Receiver<T>(Arc<Shared<T>>, u64);

/// A value that can't change while this is held.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, SeqCst) == 1 {
            self.0.notify();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.receivers.fetch_add(1, SeqCst);
        Self(Arc::clone(&self.0), self.1)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.receivers.fetch_sub(1, SeqCst);
    }
}

impl Watch for SimWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
            waiters: Mutex::default(),
        });
        (Sender(Arc::clone(&shared)), Receiver(shared, 0))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<SimWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(SeqCst) == 0 {
            return Err(SendError(value));
        }
        *self.0.value.write() = value;
        self.0.changed();
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = modify(&mut self.0.value.write());
        if modified {
            self.0.changed();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.0.value.read())
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, SeqCst);
        Receiver(Arc::clone(&self.0), self.0.version.load(SeqCst))
    }
}

/// A place in the queue of waiters, given up when the wait ends or is dropped.
struct Place<'a> {
    waiters: &'a Mutex<Waiters>,
    number: Option<u64>,
}

impl Place<'_> {
    fn wait(&mut self, waker: &Waker) {
        let mut waiters = self.waiters.lock();
        let number = *self.number.get_or_insert_with(|| {
            waiters.next += 1;
            waiters.next
        });
        waiters.wakers.insert(number, waker.clone());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.waiters.lock().wakers.remove(&number);
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<SimWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let Self(shared, seen) = self;
        let mut place = Place {
            waiters: &shared.waiters,
            number: None,
        };
        poll_fn(|task| {
            let version = shared.version.load(SeqCst);
            if version != *seen {
                *seen = version;
                return Poll::Ready(Ok(()));
            }
            if shared.senders.load(SeqCst) == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            place.wait(task.waker());
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.0.value.read())
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.0.value.read();
        self.1 = self.0.version.load(SeqCst);
        Ref(value)
    }
}
