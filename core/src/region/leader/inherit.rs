//! What a new leader finds: leases that the leaders before it granted (P8, leader change).
//!
//! Owns whom it waits for, how long, and what it takes up. It waits for the sessions that may hold leases (replicated):
//! each either asserts *all* it has to this very leadership, or runs out. What may be in use by nobody but on its way is
//! fenced before anybody else gets it. Deliberately knows nothing of grants of its own.
//!
//! ```text
//!  begins ─▶ waits for `before` ──each asserts──▶ nobody is left: serves at once
//!                 └────────── a lease term ─────▶ serves; fences first what was nobody's assertion
//! ```

use alloc::vec::Vec;

use super::Leader;
use super::leases::Leases;
use crate::ids::SessionId;
use crate::limits::LEASE_TERM;
use crate::place::Ino;
use crate::region::inode;
use crate::region::kv::{KvError, KvRead};
use crate::request::{Assertion, Hold, Leadership, LeaseSerial, Renewed};
use crate::time::Now;

impl Leases {
    /// Whether a session may hold leases that this leader has yet to hear of.
    pub(super) fn awaits(&self, session: SessionId) -> bool {
        self.inherited_until.is_some() && self.before.contains(&session)
    }

    /// Whether anybody may still show what an earlier leader let it see. Whoever asserts has forgotten all of that.
    pub(super) fn views_inherited(&self) -> bool {
        self.inherited_until.is_some() && !self.before.is_empty()
    }

    /// Whether somebody other than `session` may still hold a lease that an earlier leader gave.
    pub(super) fn inherited(&self, session: SessionId) -> bool {
        self.inherited_until.is_some() && self.others_before(session)
    }

    fn others_before(&self, session: SessionId) -> bool {
        self.before.iter().any(|before| *before != session)
    }

    /// Whether somebody else may have held a lease of the inode that this leader does not know of: what was done under it
    /// may still be on its way, so a fence comes first.
    pub(super) fn unsettled(&self, ino: Ino, session: SessionId) -> bool {
        let last = SessionId(u64::MAX);
        let mut doubts = self.doubts.range((ino, SessionId(0))..=(ino, last));
        !self.settled.contains(&ino)
            && (self.others_before(session) || doubts.any(|(_, of)| *of != session))
    }

    /// An inode was made under this leadership.
    pub(super) fn nobody_held(&mut self, ino: Ino) {
        if !self.before.is_empty() {
            self.settled.insert(ino);
        }
    }
}

impl Leader {
    /// A lease frame, once it is confirmed that this leader still leads: what it asserts is taken up, what the session
    /// holds here lives on. None when the session is over.
    pub(super) fn renew(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        session: SessionId,
        assertion: Option<Assertion>,
    ) -> Result<Option<Renewed>, KvError> {
        if crate::region::session::is_over(state, session)? {
            return Ok(None);
        }
        let by = Leadership {
            group: self.config.group,
            term: self.config.term,
        };
        let holds = match assertion {
            Some(assertion) if assertion.to == by => {
                self.take_up(now, state, session, &assertion.holds)?;
                assertion.holds
            }
            // Meant for another leadership: by now it may be untrue.
            Some(_) | None => Vec::new(),
        };
        self.leases.table.alive(session, now.mono + LEASE_TERM);
        self.views.alive(session, now.mono + LEASE_TERM);
        let serial = LeaseSerial::taken_up(by.term);
        let table = &self.leases.table;
        let taken = holds
            .iter()
            .map(|hold| hold.ino)
            .filter(|ino| table.is_current(*ino, session, serial))
            .collect();
        let waits = self.leases.awaits(session);
        Ok(Some(Renewed {
            by,
            waits,
            taken,
            epoch: self.descriptor.epoch,
            recalled: self.views.recalled_from(session),
        }))
    }

    /// The first assertion of a session counts, while it is waited for: later copies may be untrue, and after the wait
    /// others may have been let in.
    fn take_up(
        &mut self,
        now: Now,
        state: &dyn KvRead,
        session: SessionId,
        holds: &[Hold],
    ) -> Result<(), KvError> {
        let in_time = self
            .leases
            .inherited_until
            .is_some_and(|until| now.mono < until);
        if !in_time || !self.leases.before.contains(&session) {
            return Ok(());
        }
        for hold in holds {
            let fence = inode::get(state, hold.ino)?.map(|inode| inode.fence);
            // Who never gave it back and finds the same fence is the last holder: nobody else was let in since.
            let last = hold.claim.lasts || fence == Some(hold.claim.fence);
            if last && self.leases.table.take_up(hold.ino, session, hold.kind) {
                self.leases.settled.insert(hold.ino);
            } else {
                self.leases.doubts.insert((hold.ino, session));
            }
        }
        self.leases.before.remove(&session);
        // The last one that is waited for has nobody to wait for.
        if self.leases.before.len() <= 1 {
            self.all_wait_again(now);
        }
        Ok(())
    }

    /// Those who waited for what earlier leaders gave look again.
    pub(super) fn all_wait_again(&mut self, now: Now) {
        for ticket in core::mem::take(&mut self.leases.inheriting) {
            self.run_again(ticket);
        }
        self.go_ahead(now);
    }
}
