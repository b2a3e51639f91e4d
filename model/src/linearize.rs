//! Whether a history is linearizable: whether its calls can be put into one order that respects real time and that one
//! local filesystem would have answered in the same way (Wing and Gong 1993, with Lowe's memory of states tried, 2017).
//!
//! Owns the search. What a filesystem would answer is the reference's business.
//!
//! A call whose end nobody learnt may come at any time, so most histories have far too many orders to try. Of those that
//! differ only in when such calls came, without anybody seeing the difference, one is tried: the one in which each came as
//! late as possible, right before somebody saw it.

mod commute;

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, Hash};

use polyfs_core::vfs::Call;

use crate::history::{Event, History, Kind};
use crate::reference::Tree;

/// What a search found.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. The events that no order could get past, by number in [`History::in_order`], with those that ended
    /// before left out.
    Violated {
        /// The longest order found has this many events.
        longest: usize,
        /// The calls that were open when it could go no further, each with what a filesystem would have answered there.
        stuck: Vec<(usize, String)>,
    },
    /// The search gave up: too many states. It tells as much as of a violation.
    TooHard {
        /// The longest order found has this many events.
        longest: usize,
        /// The calls that were open where it was the longest.
        stuck: Vec<(usize, String)>,
    },
}

/// States to try before giving up.
const STATES_MAX: usize = 1_000_000;

struct Search<'a> {
    events: &'a [Event],
    tried: HashSet<u64, std::hash::RandomState>,
    longest: usize,
    /// The state at the end of the longest order, and what could not come next there.
    stuck: Option<(Tree, Vec<usize>)>,
}

/// Judges a history that began with `start`.
#[must_use]
pub fn check(start: &Tree, history: &History) -> Verdict {
    let history = history.in_order();
    let events = history.events();
    let mut search = Search {
        events,
        tried: HashSet::default(),
        longest: 0,
        stuck: None,
    };
    let mut stack = vec![Frame::new(start.clone(), events)];
    while let Some(frame) = stack.last_mut() {
        if search.is_complete(frame) {
            return Verdict::Linearizable;
        }
        if search.tried.len() > STATES_MAX {
            return Verdict::TooHard {
                longest: search.longest,
                stuck: search.explain(),
            };
        }
        match search.next(frame) {
            Some(next) => stack.push(next),
            None => drop(stack.pop()),
        }
    }
    Verdict::Violated {
        longest: search.longest,
        stuck: search.explain(),
    }
}

/// One partial order: what is placed already, and which candidate comes next.
struct Frame {
    tree: Tree,
    /// All events before this number are placed.
    placed_below: usize,
    /// Events placed beyond that.
    placed: BTreeSet<usize>,
    candidates: Vec<usize>,
    /// Events placed since the last whose end is known, that have no known end themselves, and that nothing placed after
    /// them depends on: what comes next must.
    unseen: Vec<usize>,
    /// The last event placed, if nobody learnt its end.
    last_unknown: Option<usize>,
}

impl Frame {
    fn new(tree: Tree, events: &[Event]) -> Self {
        let mut frame = Self {
            tree,
            placed_below: 0,
            placed: BTreeSet::new(),
            candidates: Vec::new(),
            unseen: Vec::new(),
            last_unknown: None,
        };
        frame.find_candidates(events);
        frame.place_what_changes_nothing(events);
        frame
    }

    fn is_placed(&self, event: usize) -> bool {
        event < self.placed_below || self.placed.contains(&event)
    }

    /// Events that may come next: made before any unplaced one ended. Those whose outcome is known are tried first.
    fn find_candidates(&mut self, events: &[Event]) {
        let mut first_end = u64::MAX;
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (number, event) in events.iter().enumerate().skip(self.placed_below) {
            if event.invoked > first_end {
                break;
            }
            if self.is_placed(number) {
                continue;
            }
            match &event.ended {
                Some((end, _)) => {
                    first_end = first_end.min(*end);
                    known.push(number);
                }
                None => unknown.push(number),
            }
        }
        known.retain(|number| events[*number].invoked < first_end);
        // Tried from the back: the call that ended first is the likeliest to come first.
        known.sort_by_key(|number| {
            std::cmp::Reverse(events[*number].ended.as_ref().map(|(end, _)| *end))
        });
        unknown.retain(|number| events[*number].invoked < first_end);
        self.candidates = unknown;
        self.candidates.extend(known);
    }

    fn with(&self, number: usize, tree: Tree, events: &[Event]) -> Self {
        let mut next = Self {
            tree,
            placed_below: self.placed_below,
            placed: self.placed.clone(),
            candidates: Vec::new(),
            unseen: self.unseen.clone(),
            last_unknown: None,
        };
        next.place(number, events);
        next.find_candidates(events);
        next.place_what_changes_nothing(events);
        next
    }

    fn place(&mut self, number: usize, events: &[Event]) {
        let event = &events[number];
        self.unseen
            .retain(|unknown| !commute::depends(&events[*unknown], event));
        let is_unknown = event.ended.is_none();
        self.last_unknown = is_unknown.then_some(number);
        self.unseen.extend(self.last_unknown);
        self.placed.insert(number);
        while self.placed.remove(&self.placed_below) {
            self.placed_below += 1;
        }
    }

    /// Whether another order that is tried stands for all in which this event comes next.
    fn is_stood_for(&self, number: usize, events: &[Event]) -> bool {
        let event = &events[number];
        let depends = |unknown: usize| commute::depends(&events[unknown], event);
        match event.ended {
            // What is placed before without need may come later.
            Some(_) => !self.unseen.iter().all(|unknown| depends(*unknown)),
            // Of two that don't concern each other the one with the lower number comes first.
            None => self
                .last_unknown
                .is_some_and(|last| number < last && !depends(last)),
        }
    }

    /// A call that may come next, fits and never changes anything comes next: whatever order has it later may have it here
    /// too. (Not so one that merely changes nothing now, like cutting an empty file.)
    fn place_what_changes_nothing(&mut self, events: &[Event]) {
        let fits = |frame: &Self, number: &usize| {
            let event = &events[*number];
            asks_only(event)
                && frame
                    .tree
                    .after(event)
                    .is_some_and(|after| after == frame.tree)
        };
        while let Some(number) = self
            .candidates
            .iter()
            .rev()
            .find(|number| fits(self, number))
            .copied()
        {
            self.place(number, events);
            self.find_candidates(events);
        }
    }
}

/// Whether a call only asked, or failed.
fn asks_only(event: &Event) -> bool {
    match (&event.ended, &event.call) {
        (Some((_, Err(_))), _) => true,
        (
            Some((_, Ok(_))),
            Call::Lookup { .. }
            | Call::GetAttr { .. }
            | Call::Revalidate { .. }
            | Call::ReadLink { .. }
            | Call::OpenDir { .. }
            | Call::Read { .. }
            | Call::Sync { .. }
            | Call::ReadDir { .. }
            | Call::ReleaseDir { .. }
            | Call::StatFs
            | Call::GetXattr { .. }
            | Call::ListXattr { .. }
            | Call::TestLock { .. }
            | Call::Seek { .. },
        ) => event.kind == Kind::Call,
        _ => false,
    }
}

impl Search<'_> {
    /// Everything whose outcome is known is placed; what nobody learnt of need not have happened.
    fn is_complete(&self, frame: &Frame) -> bool {
        let rest = self.events.iter().enumerate().skip(frame.placed_below);
        rest.filter(|(number, _)| !frame.placed.contains(number))
            .all(|(_, event)| event.ended.is_none())
    }

    fn next(&mut self, frame: &mut Frame) -> Option<Frame> {
        while let Some(number) = frame.candidates.pop() {
            let event = &self.events[number];
            if frame.is_stood_for(number, self.events) {
                continue;
            }
            let Some(tree) = frame.tree.after(event) else {
                continue;
            };
            // Nobody learnt of it and nobody would see it.
            if event.ended.is_none() && tree == frame.tree {
                continue;
            }
            let next = frame.with(number, tree, self.events);
            let placed = (next.placed_below, &next.placed);
            let unknown = (&next.unseen, next.last_unknown);
            let state = self.tried.hasher().hash_one((&next.tree, placed, unknown));
            if self.tried.insert(state) {
                self.remember(&next);
                return Some(next);
            }
        }
        None
    }

    fn remember(&mut self, frame: &Frame) {
        let length = frame.placed_below + frame.placed.len();
        if length > self.longest {
            self.longest = length;
            self.stuck = Some((frame.tree.clone(), frame.candidates.clone()));
        }
    }

    fn explain(&self) -> Vec<(usize, String)> {
        let Some((tree, open)) = &self.stuck else {
            return Vec::new();
        };
        let told = |number: &usize| {
            let event = &self.events[*number];
            let outcome = event.ended.as_ref().map(|(_, outcome)| outcome);
            (*number, tree.expects(event.client, &event.call, outcome))
        };
        open.iter().map(told).collect()
    }
}

const _: fn() = || {
    fn hashes<T: Hash>() {}
    hashes::<Tree>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use polyfs_core::attr::{Attr, FileKind, NewInode, SetAttr};
    use polyfs_core::error::FsError;
    use polyfs_core::ids::{Fence, VolumeId};
    use polyfs_core::place::{Ino, Salt};
    use polyfs_core::time::Timestamp;
    use polyfs_core::vfs::{Handle, OpenFlags, Outcome, Reply};

    use crate::history::ClientId;

    const ROOT: Ino = Ino(1);
    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);

    fn attr(ino: u64, size: u64) -> Attr {
        let time = Timestamp::default();
        Attr {
            ino: Ino(ino),
            kind: FileKind::Regular,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            allocated: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            change: 0,
            fence: Fence(0),
            volume: VolumeId(1),
            salt: Salt(0),
            parent: ROOT,
        }
    }

    fn create(name: &[u8], exclusive: bool) -> Call {
        let new = NewInode {
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Bytes::new(),
        };
        let flags = OpenFlags {
            read: true,
            write: true,
            exclusive,
            ..OpenFlags::default()
        };
        Call::Create {
            dir: ROOT,
            name: name.to_vec(),
            new,
            flags,
        }
    }

    fn write(ino: u64, data: &'static [u8]) -> Call {
        Call::Write {
            ino: Ino(ino),
            handle: Handle(1),
            offset: Some(0),
            data: Bytes::from_static(data),
        }
    }

    fn read(ino: u64) -> Call {
        Call::Read {
            ino: Ino(ino),
            handle: Handle(1),
            offset: 0,
            size: 10,
        }
    }

    fn data(bytes: &'static [u8]) -> Outcome {
        Ok(Reply::Data(Bytes::from_static(bytes)))
    }

    fn judge(build: impl FnOnce(&mut History)) -> Verdict {
        let mut history = History::default();
        let made = history.invoke(A, create(b"f", true));
        history.end(made, Ok(Reply::Created(attr(7, 0), Handle(1))));
        build(&mut history);
        check(&Tree::new(ROOT, 0o755, 0, 0), &history)
    }

    #[test]
    fn one_after_the_other_is_linearizable() {
        let verdict = judge(|history| {
            let wrote = history.invoke(A, write(7, b"new"));
            history.end(wrote, Ok(Reply::Written(3)));
            let seen = history.invoke(B, read(7));
            history.end(seen, data(b"new"));
        });
        assert_eq!(verdict, Verdict::Linearizable);
    }

    /// Cutting an empty file changes nothing at first: it must not count as done before a write that came between.
    #[test]
    fn what_changes_nothing_now_may_change_something_later() {
        let verdict = judge(|history| {
            let cut = history.invoke(
                A,
                Call::SetAttr {
                    ino: Ino(7),
                    set: SetAttr::default(),
                    size: Some(0),
                    handle: None,
                },
            );
            let wrote = history.invoke(B, write(7, b"new"));
            history.end(wrote, Ok(Reply::Written(3)));
            history.end(cut, Ok(Reply::Attr(attr(7, 0))));
            let seen = history.invoke(B, read(7));
            history.end(seen, data(b""));
        });
        assert_eq!(verdict, Verdict::Linearizable);
    }

    #[test]
    fn a_stale_read_is_found() {
        let verdict = judge(|history| {
            let wrote = history.invoke(A, write(7, b"new"));
            history.end(wrote, Ok(Reply::Written(3)));
            let seen = history.invoke(B, read(7));
            history.end(seen, data(b""));
        });
        assert!(matches!(verdict, Verdict::Violated { .. }));
    }

    #[test]
    fn a_write_under_way_may_be_seen_or_not_but_not_unseen_again() {
        let seen_then = |first: &'static [u8], second: &'static [u8]| {
            judge(|history| {
                history.invoke(A, write(7, b"new"));
                for bytes in [first, second] {
                    let seen = history.invoke(B, read(7));
                    history.end(seen, data(bytes));
                }
            })
        };
        assert_eq!(seen_then(b"", b""), Verdict::Linearizable);
        assert_eq!(seen_then(b"", b"new"), Verdict::Linearizable);
        assert!(matches!(seen_then(b"new", b""), Verdict::Violated { .. }));
    }

    #[test]
    fn bytes_that_nobody_wrote_are_found() {
        let verdict = judge(|history| {
            let seen = history.invoke(B, read(7));
            history.end(seen, data(b"phantom"));
        });
        assert!(matches!(verdict, Verdict::Violated { .. }));
    }

    #[test]
    fn an_exclusive_create_succeeds_once() {
        let both = |second: Outcome| {
            judge(|history| {
                let one = history.invoke(A, create(b"x", true));
                let two = history.invoke(B, create(b"x", true));
                history.end(one, Ok(Reply::Created(attr(8, 0), Handle(2))));
                history.end(two, second);
            })
        };
        assert_eq!(both(Err(FsError::Exists)), Verdict::Linearizable);
        let twice = both(Ok(Reply::Created(attr(9, 0), Handle(2))));
        assert!(matches!(twice, Verdict::Violated { .. }));
    }

    #[test]
    fn what_an_unknown_create_made_is_recognised_when_seen() {
        let verdict = judge(|history| {
            history.invoke(A, create(b"x", true));
            let seen = history.invoke(
                B,
                Call::Lookup {
                    dir: ROOT,
                    name: b"x".to_vec(),
                },
            );
            history.end(seen, Ok(Reply::Attr(attr(31, 0))));
            let again = history.invoke(
                B,
                Call::Lookup {
                    dir: ROOT,
                    name: b"x".to_vec(),
                },
            );
            history.end(again, Ok(Reply::Attr(attr(31, 0))));
        });
        assert_eq!(verdict, Verdict::Linearizable);
    }
}
