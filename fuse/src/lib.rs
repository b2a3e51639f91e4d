//! The FUSE adapter: the kernel's requests become calls of a client, outcomes become replies.
//!
//! Owns everything about FUSE: mounting and unmounting, the table of error numbers, conversions, invalidations of the
//! kernel's caches. The only crate that knows fuser and errno (P11). Deliberately knows no region, lease or network.

mod adapter;
mod calls;
mod convert;
mod errno;
mod known;
mod listings;
mod lock_waits;
mod mountpoint;
mod probe;
mod session;

pub use mountpoint::{MountError, check, unmount};
pub use session::{Mounted, Options};
