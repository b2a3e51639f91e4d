//! Tests of the client over a small scripted cluster.
#![expect(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    reason = "a failed test panics, and the cluster is a toy"
)]

mod cluster;
mod content;
mod foresight;
mod handles;
mod harness;
mod locks;
mod lost;
mod names;
mod pages;
