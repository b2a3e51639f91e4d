//! The async glue of a PolyFS node: consensus groups, connections, the server and the client, generic over [`Runtime`].
//!
//! Deliberately knows neither tokio nor madsim, no clock and no randomness but the runtime's.
#![warn(missing_docs)]

pub mod access;
pub mod client;
pub mod conn;
mod controller;
pub mod find;
pub mod founding;
pub mod frame;
pub mod fsck;
pub mod full;
pub mod group;
pub mod health;
pub mod heartbeat;
pub mod identity;
pub mod join;
pub mod links;
pub mod machines;
pub mod master;
pub mod node;
mod notify;
pub mod raft;
pub mod retired;
pub mod router;
pub mod runtime;
mod sealed_file;
pub mod server;
pub mod sessions;
mod standing;
pub mod status;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub mod waypoint;
pub mod wire;

pub use runtime::Runtime;
