//! What happened: calls, when they were made, how they ended.
//!
//! Owns the record that checkers judge. Deliberately judges nothing.

mod steps;

use std::collections::BTreeSet;

use polyfs_core::place::Ino;
use polyfs_core::vfs::{AllocateMode, Call, LockOwner, Outcome, Reply};

/// One mount of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call,
    /// Of a change of content whose end nobody learnt only what lies within the size that the file has then: data is
    /// committed before size (P9), so a mount that dies between the two has done this much.
    WithinSize,
    /// The mount lost the term of its lease with changes of the call's inode uncommitted, and they can't be saved any
    /// more: all, some or none of them are there (P8). At some time between the first of them and now.
    Lost,
    /// The cutting of what a call opened with O_TRUNC, at some time during the call: open(2) finds the name and cuts the
    /// file, and does not promise that nobody comes in between.
    Cut,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whether it was one.
    pub kind: Kind,
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
            kind: Kind::Call,
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

    /// A mount has lost uncommitted changes of an inode; who has it open will hear EIO.
    pub fn lost(&mut self, client: ClientId, ino: Ino) {
        let since = self.unsynced_since(client, ino);
        // It takes some time even if nothing was unsynced: what began when it ended would never have its turn.
        self.steps += 2;
        self.events.push(Event {
            kind: Kind::Lost,
            client,
            call: Call::Sync {
                ino,
                handle: None,
                data_only: true,
            },
            invoked: since.unwrap_or(self.steps - 1),
            ended: Some((self.steps, Ok(Reply::Done))),
        });
    }

    /// When the first change of an inode's content began that no sync of its mount has covered.
    fn unsynced_since(&self, client: ClientId, ino: Ino) -> Option<u64> {
        let mut since = None;
        for event in self.events.iter().filter(|event| event.client == client) {
            let (synced, changes) = match &event.call {
                Call::Sync { ino: of, .. } if *of == ino => {
                    (matches!(event.ended, Some((_, Ok(_)))), false)
                }
                Call::Write { ino: of, .. } | Call::Allocate { ino: of, .. } => (false, *of == ino),
                Call::SetAttr { ino: of, size, .. } => (false, *of == ino && size.is_some()),
                Call::Open { ino: of, flags } => (false, *of == ino && flags.truncate),
                Call::Create { flags, .. } => {
                    let made = match &event.ended {
                        Some((_, Ok(Reply::Created(attr, _)))) => attr.ino == ino,
                        Some(_) => false,
                        None => true,
                    };
                    (false, flags.truncate && made)
                }
                _ => (false, false),
            };
            // Threads overlap: what was written while a sync was under way counts from the sync's beginning.
            if synced {
                since = since.map(|_| event.invoked);
            } else if changes {
                since.get_or_insert(event.invoked);
            }
        }
        since
    }

    /// A mount has died: of what it wrote and did not sync all, some or none is there.
    pub fn died(&mut self, client: ClientId) {
        let mut written = BTreeSet::new();
        for event in self.events.iter().filter(|event| event.client == client) {
            match (&event.call, &event.ended) {
                (
                    Call::Write { ino, .. }
                    | Call::Allocate { ino, .. }
                    | Call::SetAttr { ino, .. }
                    | Call::Open { ino, .. },
                    _,
                ) => drop(written.insert(*ino)),
                (Call::Create { .. }, Some((_, Ok(Reply::Created(attr, _))))) => {
                    written.insert(attr.ino);
                }
                _ => {}
            }
        }
        for ino in written {
            if self.unsynced_since(client, ino).is_some() {
                self.lost(client, ino);
            }
        }
        // What its last writes may have done is said by that: the fence of whoever comes next shuts them out.
        let last = self.events.iter_mut();
        for event in last.filter(|event| event.client == client && event.ended.is_none()) {
            if event.kind == Kind::Call && may_grow(&event.call) {
                event.call = Call::StatFs;
            }
        }
    }

    /// A session of a mount is over: its locks are free at any time from now on.
    pub fn locks_gone(&mut self, client: ClientId) {
        let own = || self.events.iter().filter(|event| event.client == client);
        let closed_after = |file: (Ino, LockOwner), at: u64| {
            own().any(|event| match &event.call {
                Call::Release {
                    ino,
                    owner: Some(owner),
                    ..
                } => {
                    let done = matches!(event.ended, Some((_, Ok(_))));
                    done && (*ino, *owner) == file && event.invoked > at
                }
                _ => false,
            })
        };
        let mut locked = BTreeSet::new();
        for event in own() {
            let Call::SetLock { ino, owner, .. } = &event.call else {
                continue;
            };
            // One that ended while the file was being closed may have come after that.
            let held = match event.ended {
                Some((_, Err(_))) => false,
                Some((at, Ok(_))) => !closed_after((*ino, *owner), at),
                None => true,
            };
            if held {
                locked.insert((*ino, *owner));
            }
        }
        for (ino, owner) in locked {
            let (start, end) = (0, u64::MAX);
            self.invoke(
                client,
                Call::Unlock {
                    ino,
                    owner,
                    start,
                    end,
                },
            );
        }
    }

    /// The same, where each change of content whose end nobody learnt is joined by the part of it that may have happened
    /// without the rest.
    #[must_use]
    pub fn with_parts_of_unknown_ends(&self) -> Self {
        let mut events = Vec::with_capacity(self.events.len());
        for event in &self.events {
            events.push(event.clone());
            if event.kind == Kind::Call && event.ended.is_none() && may_grow(&event.call) {
                events.push(Event {
                    kind: Kind::WithinSize,
                    ..event.clone()
                });
            }
        }
        Self { events, ..*self }
    }

    /// What is to be judged: the same in the order in which things began. Calls that a local filesystem carries out in
    /// several steps are cut into these, each of which happened at some time within the call.
    #[must_use]
    pub fn in_order(&self) -> Self {
        let cut = |event: &Event| {
            let steps = match &event.ended {
                Some((at, outcome)) if event.kind == Kind::Call => {
                    let step = |step: steps::Step| Event {
                        kind: step.kind,
                        call: step.call,
                        ended: Some((*at, step.outcome)),
                        ..event.clone()
                    };
                    steps::of(&event.call, outcome)
                        .into_iter()
                        .map(step)
                        .collect()
                }
                _ => Vec::new(),
            };
            if steps.is_empty() {
                vec![event.clone()]
            } else {
                steps
            }
        };
        let mut events: Vec<Event> = self.events.iter().flat_map(cut).collect();
        events.sort_by_key(|event| event.invoked);
        Self { events, ..*self }
    }

    /// All calls.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

fn may_grow(call: &Call) -> bool {
    match call {
        Call::Write { .. } => true,
        Call::Allocate { mode, .. } => *mode == AllocateMode::Zero,
        _ => false,
    }
}
