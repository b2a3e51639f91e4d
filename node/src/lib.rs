//! The async glue of a PolyFS node: consensus groups, connections, the server and the client, generic over [`Runtime`].
//!
//! Deliberately knows neither tokio nor madsim, no clock and no randomness but the runtime's.
#![warn(missing_docs)]

pub mod frame;
pub mod runtime;
#[cfg(feature = "testing")]
pub mod testing;

pub use runtime::Runtime;
