//! Waypoints on the wire: one question and one answer for each connection.
//!
//! Owns how core's waypoint is served and asked. What a waypoint answers is core's business.

mod ask;
mod service;

pub use ask::{AskError, ask};
pub use service::{WaypointConfig, WaypointError, serve};
