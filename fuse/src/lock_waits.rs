//! Callers that wait for a lock: a wait occupies no thread here and ends when its caller is signalled or dies.
//!
//! fuser does not deliver the kernel's INTERRUPT, and the kernel lets a killed caller go only when its request is
//! answered. So a thread of its own looks, while anybody waits, whether a waiting caller has a signal to handle.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use polyfs_core::client::port::CallId;
use polyfs_node::client::ClientHandle;

/// How often waiting callers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The calls that wait, with the thread that made each.
#[derive(Default)]
pub(crate) struct LockWaits {
    waiting: Mutex<BTreeMap<CallId, u32>>,
    changed: Condvar,
}

impl LockWaits {
    /// Starts the watch; it ends when the waits are dropped.
    pub(crate) fn start(client: ClientHandle) -> std::io::Result<Arc<Self>> {
        let waits = Arc::new(Self::default());
        let watched = Arc::downgrade(&waits);
        std::thread::Builder::new()
            .name("polyfs-lockwait".into())
            .spawn(move || watch(&watched, &client))?;
        Ok(waits)
    }

    /// A call waits for a lock on behalf of thread `tid`; 0 when it has no number here, being in another pid namespace:
    /// whether it is signalled can't be told then.
    pub(crate) fn add(&self, call: CallId, tid: u32) {
        if tid == 0 {
            return;
        }
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(call, tid);
        self.changed.notify_one();
    }

    /// A call waits no more.
    pub(crate) fn remove(&self, call: CallId) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&call);
    }

    fn interrupted(&self) -> Vec<CallId> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            let woken = self.changed.wait_timeout(waiting, Duration::from_secs(1));
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting
            .iter()
            .filter(|(_, tid)| is_signalled(**tid))
            .map(|(call, _)| *call)
            .collect()
    }
}

fn watch(waits: &Weak<LockWaits>, client: &ClientHandle) {
    loop {
        let Some(waits) = waits.upgrade() else { return };
        for call in waits.interrupted() {
            waits.remove(call);
            client.cancel(call);
        }
        drop(waits);
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a thread is gone or has a signal pending that it does not block (proc(5): SigPnd, ShdPnd, SigBlk).
fn is_signalled(tid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{tid}/status")) else {
        return true;
    };
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_callers_that_can_be_looked_at_are() {
        let waits = LockWaits::default();
        waits.add(CallId(1), 0);
        waits.add(CallId(2), std::process::id());
        assert_eq!(waits.interrupted(), []);
        // No thread has a number beyond pid_max (proc(5)).
        waits.add(CallId(3), u32::MAX);
        assert_eq!(waits.interrupted(), [CallId(3)]);
    }
}
