//! Panics of the database, caught where they happen.
//!
//! Over a damaged file redb panics where it can't go on. Owns the line between such a panic, which is a fault of stored
//! bytes and therefore a typed error, and a broken law of our own, which ends the process: only calls of redb are inside.
//! After one nothing of the database is used or even dropped any more. Deliberately knows no table.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{Poison, StoreError};

thread_local! {
    /// How many calls of the database this thread is inside of.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Whether a panic of this thread, now, is caught and becomes an error: a panic hook has nothing to say of it then.
#[must_use]
pub fn panic_is_caught() -> bool {
    INSIDE.get() > 0
}

/// Leaves also when unwinding.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(INSIDE.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}

/// Runs calls of the database; a panic's words if there was one.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let inside = Inside::enter();
    // What `work` borrows is given up after a panic: see `Poison::panicked`.
    let done = catch_unwind(AssertUnwindSafe(work));
    drop(inside);
    done.map_err(|payload| words(&*payload))
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no reason given").trim();
    // Only the first line: the rest is values.
    text.lines().next().unwrap_or_default().to_owned()
}

impl Poison {
    /// Runs calls of the database. One that panics poisons the store.
    pub(super) fn catch<T>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match catch(work) {
            Ok(done) => done,
            Err(what) => Err(self.panicked(&what)),
        }
    }
}

/// What must be dropped like any call of the database is made; after a panic it is left alone.
pub(super) struct Held<T> {
    value: Option<T>,
    poison: Poison,
}

impl<T> Held<T> {
    pub(super) fn new(value: T, poison: &Poison) -> Self {
        Self {
            value: Some(value),
            poison: poison.clone(),
        }
    }

    /// Takes it out: whoever does sees to its end.
    pub(super) fn into_inner(mut self) -> T {
        self.value.take().expect("it is taken once")
    }
}

impl<T> std::ops::Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it is there until it is taken")
    }
}

impl<T> std::ops::DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("it is there until it is taken")
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else {
            return;
        };
        if self.poison.has_panicked() {
            std::mem::forget(value);
        } else if let Err(what) = catch(|| drop(value)) {
            self.poison.panicked(&what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_an_error_and_poisons() {
        let poison = Poison::default();
        assert!(!panic_is_caught());
        let done = poison.catch(|| {
            assert!(panic_is_caught());
            Ok(7)
        });
        assert_eq!(done, Ok(7));
        let failed: Result<(), _> = poison.catch(|| panic!("a page is {}\nleft", "odd"));
        let Err(StoreError::CorruptDatabase(what)) = failed else {
            panic!("{failed:?}")
        };
        assert!(
            what.contains("a page is odd") && !what.contains("left"),
            "{what}"
        );
        assert!(!panic_is_caught());
        assert!(matches!(poison.check(), Err(StoreError::Poisoned(_))));
    }

    #[test]
    fn what_panics_when_dropped_does_so_inside_and_not_after_a_panic() {
        struct Loud;
        impl Drop for Loud {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let poison = Poison::default();
        drop(Held::new(Loud, &poison));
        assert!(poison.has_panicked());
        drop(Held::new(Loud, &poison));
        std::mem::forget(Held::new(Loud, &poison).into_inner());
    }
}
