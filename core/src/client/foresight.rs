//! Whether files that are looked up are about to be opened for reading.
//!
//! Owns a guess from what happened to those looked up before. When it says so, a lookup brings the file's shared lease along
//! and saves the question that open would ask (P8, "lookup-for-open"). A wrong guess costs a lease that nobody uses and
//! that is given back when it is recalled or has been idle.

use alloc::collections::VecDeque;

use crate::place::Ino;

/// So many of those looked up last are remembered.
const REMEMBERED: usize = 16;
/// The guess is between 0 and this ...
const SURE: u8 = 4;
/// ... and from here on files are expected to be opened.
const LIKELY: u8 = 2;

/// What was looked up, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    looked_up: VecDeque<Ino>,
    opened: u8,
}

impl Foresight {
    /// A region was asked for this regular file.
    pub(super) fn looked_up(&mut self, ino: Ino) {
        self.looked_up.retain(|other| *other != ino);
        self.looked_up.push_back(ino);
        if self.looked_up.len() > REMEMBERED {
            self.looked_up.pop_front();
            self.opened = self.opened.saturating_sub(1);
        }
    }

    /// A file is opened.
    pub(super) fn opened(&mut self, ino: Ino, writes: bool) {
        let before = self.looked_up.len();
        self.looked_up.retain(|other| *other != ino);
        if self.looked_up.len() < before {
            self.opened = if writes {
                self.opened.saturating_sub(1)
            } else {
                (self.opened + 1).min(SURE)
            };
        }
    }

    /// Whether the next to be looked up is likely to be opened for reading.
    pub(super) const fn expects_open(&self) -> bool {
        self.opened >= LIKELY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_opened_let_expect_more_and_those_that_were_not_less() {
        let mut foresight = Foresight::default();
        for ino in 1..=2 {
            assert!(!foresight.expects_open());
            foresight.looked_up(Ino(ino));
            foresight.opened(Ino(ino), false);
        }
        assert!(foresight.expects_open());
        for ino in 10..10 + u64::try_from(REMEMBERED).unwrap() {
            foresight.looked_up(Ino(ino));
            assert!(foresight.expects_open());
        }
        foresight.looked_up(Ino(99));
        assert!(!foresight.expects_open(), "one was forgotten unopened");
    }

    #[test]
    fn files_opened_for_writing_let_expect_no_readers() {
        let mut foresight = Foresight::default();
        for ino in 1..=9 {
            foresight.looked_up(Ino(ino));
            foresight.opened(Ino(ino), true);
            foresight.opened(Ino(ino), false);
        }
        assert!(!foresight.expects_open(), "each counts once");
    }
}
