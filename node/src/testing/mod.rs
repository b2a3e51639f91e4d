//! Conformance: what every runtime promises, as suites that each implementation runs in its tests.
//!
//! The simulated and the production runtime must be indistinguishable to a node, else a simulation proves nothing. The
//! suites panic with the promise that was broken. Feature `testing`; never part of a product.

mod dir;
mod net;
mod whole;

pub use dir::dir;
pub use net::net;
pub use whole::runtime;
