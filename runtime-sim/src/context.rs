//! What static functions need to know: which machine is asking, its clock, and the trace.
//!
//! openraft's `AsyncRuntime` has no `self`, so this hangs on the thread. A simulation runs on one thread and has it for
//! itself ([`crate::World::run`]).

use std::cell::RefCell;
use std::collections::BTreeMap;

use madsim::task::NodeId;
use madsim::time::TimeHandle;

use crate::clock::MachineClock;
use crate::trace::{Recorder, Trace};

#[derive(Default)]
struct Context {
    clocks: BTreeMap<NodeId, MachineClock>,
    recorder: Recorder,
}

thread_local! {
    static CONTEXT: RefCell<Context> = RefCell::default();
}

/// Forgets the last simulation of this thread.
pub(crate) fn reset() {
    CONTEXT.with_borrow_mut(|context| *context = Context::default());
}

/// Nanoseconds of true time since the simulation began; 0 outside one.
pub(crate) fn true_now() -> u64 {
    TimeHandle::try_current().map_or(0, |time| {
        u64::try_from(time.elapsed().as_nanos()).expect("a simulation ends within 584 years")
    })
}

/// Tells which clock the tasks of a machine read.
pub(crate) fn set_clock(node: NodeId, clock: MachineClock) {
    CONTEXT.with_borrow_mut(|context| context.clocks.insert(node, clock));
}

/// The clock of the machine whose task is running; the true one for tasks of the test itself.
pub(crate) fn clock() -> Option<MachineClock> {
    CONTEXT.with_borrow(|context| {
        if context.clocks.is_empty() {
            return None;
        }
        context.clocks.get(&madsim::plugin::node()).cloned()
    })
}

/// Adds an event to the trace.
pub(crate) fn record(what: &'static str, numbers: &[u64]) {
    let now = true_now();
    CONTEXT.with_borrow_mut(|context| context.recorder.record(now, what, numbers));
}

/// Begins to keep the trace as text, too.
pub(crate) fn keep_text() {
    CONTEXT.with_borrow_mut(|context| {
        context.recorder.text.get_or_insert_default();
    });
}

/// The trace so far.
pub(crate) fn trace() -> Trace {
    CONTEXT.with_borrow(|context| context.recorder.trace)
}

/// The trace's text so far, one event a line; empty unless it is kept.
pub(crate) fn text() -> Vec<String> {
    CONTEXT.with_borrow(|context| context.recorder.text.clone().unwrap_or_default())
}
