//! What happened: calls, when they were made, how they ended.
//!
//! Owns the record that checkers judge. Deliberately judges nothing.

mod steps;

use polyfs_core::vfs::{Call, Outcome};

/// One mount of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// One call.
#[derive(Clone, Debug)]
pub struct Event {
    /// Who made it.
    pub client: ClientId,
    /// What it was.
    pub call: Call,
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

    /// What is to be judged: all calls in the order in which they were made; those that a local filesystem carries out
    /// in several steps are cut into these, each of which happened at some time within the call.
    #[must_use]
    pub fn judged(&self) -> Vec<Event> {
        let cut = |event: &Event| {
            let steps = match &event.ended {
                Some((at, outcome)) => steps::of(&event.call, outcome)
                    .into_iter()
                    .map(|(call, outcome)| (call, (*at, outcome)))
                    .collect(),
                None => Vec::new(),
            };
            if steps.is_empty() {
                return vec![event.clone()];
            }
            let step = |(call, ended)| Event {
                call,
                ended: Some(ended),
                ..event.clone()
            };
            steps.into_iter().map(step).collect()
        };
        self.events.iter().flat_map(cut).collect()
    }

    /// All calls.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}
