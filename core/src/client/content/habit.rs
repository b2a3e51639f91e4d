//! Whether a write will be synced before the next one: then it need not wait for that to go out.
//!
//! Owns the guess, from how a file's writes and syncs have followed each other. A log that is appended and synced record by
//! record, or a page that is, has its bytes on their way while its program still asks for the sync. A wrong guess costs an
//! entry that could have been shared with the next write. Deliberately knows nothing of what is written.

/// So many times in a row one write was followed by a sync before the next is foreseen.
const CERTAIN: u8 = 8;

/// How writes and syncs of one file have followed each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habit {
    /// Syncs in a row that followed exactly one write.
    lone: u8,
    /// Whether something was written since the last sync.
    written: bool,
    /// Whether the last sync was of data only.
    data_only: bool,
}

/// The sync that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreseen {
    pub(super) data_only: bool,
}

impl Habit {
    /// Something is written; says what sync will follow, if that is foreseen.
    pub(super) fn wrote(&mut self) -> Option<Foreseen> {
        if self.written {
            self.lone = 0;
        }
        self.written = true;
        (self.lone >= CERTAIN).then_some(Foreseen {
            data_only: self.data_only,
        })
    }

    /// Somebody waits for what was written.
    pub(super) fn synced(&mut self, data_only: bool) {
        if core::mem::take(&mut self.written) {
            self.lone = self.lone.saturating_add(1);
        }
        self.data_only = data_only;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(data_only: bool) -> Habit {
        let mut habit = Habit::default();
        for _ in 0..CERTAIN {
            assert_eq!(habit.wrote(), None);
            habit.synced(data_only);
        }
        habit
    }

    #[test]
    fn a_habit_is_foreseen_until_it_is_broken() {
        for data_only in [false, true] {
            let mut habit = settled(data_only);
            for _ in 0..1000 {
                assert_eq!(habit.wrote(), Some(Foreseen { data_only }));
                habit.synced(data_only);
                habit.synced(data_only);
            }
            assert!(habit.wrote().is_some());
            assert_eq!(habit.wrote(), None, "a second write");
            habit.synced(data_only);
            assert_eq!(habit.wrote(), None);
        }
    }

    #[test]
    fn syncs_of_nothing_are_no_habit() {
        let mut habit = Habit::default();
        for _ in 0..100 {
            habit.synced(false);
        }
        assert_eq!(habit.wrote(), None);
    }
}
