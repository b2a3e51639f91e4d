//! The lives of sessions, as the leader of group 0 keeps them (P8).
//!
//! Owns who must be heard from until when. Nothing here is replicated: a new master gives every session a whole new
//! life from its own election. Deliberately answers nothing by itself: a renewal is answered only with a read index of
//! group 0, which its driver gets *after* the renewal arrived here.
//!
//! A life is counted from a renewal's arrival here, and by its mount from when it was sent: the mount's ends first,
//! also with clocks that run at different rates.

use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

use crate::ids::{Renewal, SessionId};
use crate::limits::{CLOCK_DRIFT_PPM, SESSION_TERM};
use crate::time::{Instant, Now};

/// What happens to the lives of sessions.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The master was away (its machine slept, its process was stopped): what mounts sent meanwhile it could not hear.
    WasAway,
    /// The session's creation was applied.
    Created(SessionId),
    /// The session's end was applied.
    Ended(SessionId),
    /// A mount asks to live on.
    Renew {
        /// Which session.
        session: SessionId,
        /// To answer by.
        token: u64,
    },
}

/// What follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Once a read index of group 0 is confirmed: the session lives [`SESSION_TERM`] from when the mount asked.
    Renewed {
        /// To answer by.
        token: u64,
        /// Its number: rises with each renewal, also from master to master.
        renewal: Renewal,
    },
    /// The session is over, or about to be.
    Over {
        /// To answer by.
        token: u64,
    },
    /// Propose the session's end; said again while it is not applied.
    ProposeEnd(SessionId),
}

struct Life {
    until: Instant,
    ending: bool,
}

/// The machine of one term of one master.
pub struct Sessions {
    term: u64,
    count: u64,
    lives: BTreeMap<SessionId, Life>,
    outputs: VecDeque<Output>,
}

/// How often an end that is not applied yet is proposed again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(1);

impl Sessions {
    /// A new master gives everybody who lives in the state a whole new life. `term` is group 0's, below 2^31.
    pub fn new(term: u64, living: impl IntoIterator<Item = SessionId>, now: Now) -> Self {
        let until = now.mono + life();
        let lives = living
            .into_iter()
            .map(|id| {
                (
                    id,
                    Life {
                        until,
                        ending: false,
                    },
                )
            })
            .collect();
        Self {
            term,
            count: 0,
            lives,
            outputs: VecDeque::new(),
        }
    }

    /// One input; then drain [`Self::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input) {
        match input {
            Input::Tick => {}
            Input::WasAway => {
                // As from a new master: a life here may only be longer than its mount believes.
                for life in self.lives.values_mut().filter(|life| !life.ending) {
                    life.until = life.until.max(now.mono + self::life());
                }
            }
            Input::Created(session) => {
                let life = Life {
                    until: now.mono + life(),
                    ending: false,
                };
                self.lives.entry(session).or_insert(life);
            }
            Input::Ended(session) => drop(self.lives.remove(&session)),
            Input::Renew { session, token } => self.renew(now.mono, session, token),
        }
        for (id, life) in &mut self.lives {
            if life.until <= now.mono {
                life.ending = true;
                life.until = now.mono + PROPOSE_AGAIN;
                self.outputs.push_back(Output::ProposeEnd(*id));
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to tick at the latest, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Some((
            self.lives.values().map(|life| life.until).min()?,
            "a session's life ends",
        ))
    }

    fn renew(&mut self, now: Instant, session: SessionId, token: u64) {
        let Some(known) = self.lives.get_mut(&session).filter(|known| {
            (!known.ending && known.until > now) || cfg!(planted = "session_revived_while_ending")
        }) else {
            // Once its end may be in the log nothing revives it: somebody may have taken over already.
            return self.outputs.push_back(Output::Over { token });
        };
        known.until = now + life();
        self.count += 1;
        let renewal = Renewal((self.term << 32) | self.count);
        self.outputs.push_back(Output::Renewed { token, renewal });
    }
}

/// A life here outlasts the same life on a clock that runs slower by the drift bound.
fn life() -> Duration {
    SESSION_TERM + SESSION_TERM * CLOCK_DRIFT_PPM / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn step(sessions: &mut Sessions, ms: u64, input: Input) -> Vec<Output> {
        let now = Now {
            mono: Instant(0) + Duration::from_millis(ms),
            ..Now::default()
        };
        sessions.handle_input(now, input);
        core::iter::from_fn(|| sessions.poll_output()).collect()
    }

    #[test]
    fn a_session_unheard_is_ended_and_never_revived() {
        let session = SessionId(4);
        let mut lives = Sessions::new(3, [session], Now::default());
        let renew = Input::Renew { session, token: 1 };
        let first = step(&mut lives, 9000, renew);
        assert!(matches!(first[..], [Output::Renewed { renewal: Renewal(r), .. }] if r >> 32 == 3));
        assert_eq!(step(&mut lives, 19_050, Input::Tick), []);
        assert_eq!(
            step(&mut lives, 19_100, Input::Tick),
            [Output::ProposeEnd(session)]
        );
        assert_eq!(step(&mut lives, 19_200, renew), [Output::Over { token: 1 }]);
        assert_eq!(
            step(&mut lives, 20_100, Input::Tick),
            [Output::ProposeEnd(session)]
        );
        assert_eq!(step(&mut lives, 20_200, Input::Ended(session)), []);
        assert_eq!(step(&mut lives, 30_000, renew), [Output::Over { token: 1 }]);
    }

    #[test]
    fn a_master_that_was_away_holds_nobodys_silence_against_them() {
        let (session, dying) = (SessionId(4), SessionId(5));
        let mut lives = Sessions::new(3, [session, dying], Now::default());
        step(&mut lives, 9000, Input::Renew { session, token: 1 });
        assert_eq!(
            step(&mut lives, 10_100, Input::Tick),
            [Output::ProposeEnd(dying)]
        );
        // An hour of sleep. What may be in the log already is not taken back.
        let end_again = [Output::ProposeEnd(dying)];
        assert_eq!(step(&mut lives, 3_600_000, Input::WasAway), end_again);
        let renew = Input::Renew { session, token: 2 };
        let told = step(&mut lives, 3_600_001, renew);
        assert!(matches!(told[..], [Output::Renewed { .. }]), "{told:?}");
        let renew = Input::Renew {
            session: dying,
            token: 3,
        };
        assert_eq!(
            step(&mut lives, 3_600_002, renew),
            [Output::Over { token: 3 }]
        );
    }

    #[test]
    fn a_new_master_gives_a_whole_life_and_higher_numbers() {
        let session = SessionId(4);
        let renew = Input::Renew { session, token: 1 };
        let mut old = Sessions::new(3, [session], Now::default());
        let [
            Output::Renewed {
                renewal: before, ..
            },
        ] = step(&mut old, 9000, renew)[..]
        else {
            panic!("renewed")
        };
        let later = Now {
            mono: Instant(0) + Duration::from_secs(15),
            ..Now::default()
        };
        let mut new = Sessions::new(4, [session], later);
        let [Output::Renewed { renewal: after, .. }] = step(&mut new, 24_000, renew)[..] else {
            panic!("renewed")
        };
        assert!(after > before);
    }
}
