//! The production runtime: clocks, randomness, TCP, files and the threads that wait for disks.
//!
//! Owns everything that only an operating system can give, and the only host error numbers outside the FUSE adapter.
//! Deliberately knows nothing of what a node does with it. It is the one crate beside fuse where `unsafe` is allowed,
//! each use with its reason: `libc` calls that the standard library lacks.
#![warn(missing_docs)]

mod clock;
mod disk;
mod errno;
mod executor;
mod lanes;
mod local;
mod lock;
mod net;
mod runtime;
mod sockets;
mod tcp;

pub use disk::{FileDisk, TokioDir};
pub use executor::Executor;
pub use lock::{DataDirLock, LockError, lock_data_dir};
pub use net::{SocketListener, SocketNet, SocketReceiver, SocketSender};
pub use runtime::TokioRuntime;
