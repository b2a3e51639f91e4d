//! What happened: calls, when they were made, how they ended.
//!
//! Owns the record that checkers judge. Deliberately judges nothing.

use polyfs_core::vfs::{AllocateMode, Call, Outcome};

/// One mount of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// How much of a call an event stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Of a change of content only what lies within the size that the file has then: data is committed before size
    /// (P9), so a mount that dies between the two has done this much.
    WithinSize,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Event {
    /// Who made it.
    pub client: ClientId,
    /// What it was.
    pub call: Call,
    /// How much of it.
    pub extent: Extent,
    /// When it was made, in the history's own steps.
    pub invoked: u64,
    /// When and how it ended; `None` when nobody ever learnt: it may have happened at any time since, or never.
    pub ended: Option<(u64, Outcome)>,
}

/// Calls in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct History {
    events: Vec<Event>,
    steps: u64,
}

impl History {
    /// A call is made; the number names it.
    pub fn invoke(&mut self, client: ClientId, call: Call) -> usize {
        self.steps += 1;
        self.events.push(Event {
            client,
            call,
            extent: Extent::Whole,
            invoked: self.steps,
            ended: None,
        });
        self.events.len() - 1
    }

    /// A call ended.
    ///
    /// # Panics
    /// When it had ended already: each call has one outcome.
    pub fn end(&mut self, event: usize, outcome: Outcome) {
        self.steps += 1;
        let event = &mut self.events[event];
        assert!(
            event.ended.is_none(),
            "a call has one outcome: {event:?} and {outcome:?}"
        );
        event.ended = Some((self.steps, outcome));
    }

    /// All calls.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The same, where each change of content whose end nobody learnt is joined by the part of it that may have happened
    /// without the rest.
    #[must_use]
    pub fn with_parts_of_unknown_ends(&self) -> Self {
        let mut events = Vec::with_capacity(self.events.len());
        for event in &self.events {
            events.push(event.clone());
            if event.ended.is_none() && may_grow(&event.call) {
                events.push(Event {
                    extent: Extent::WithinSize,
                    ..event.clone()
                });
            }
        }
        Self {
            events,
            steps: self.steps,
        }
    }
}

fn may_grow(call: &Call) -> bool {
    match call {
        Call::Write { .. } => true,
        Call::Allocate { mode, .. } => *mode == AllocateMode::Zero,
        _ => false,
    }
}
