//! Whole nodes against each other, in memory and on paused time: one binary, one module for each matter.
//!
//! What several share is in [`support`]: machines, worlds of hand-made groups, and clusters that found and grow.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests' own runtime waits on paused time"
)]
#![allow(clippy::print_stdout, reason = "tests tell what they did")]

mod support;

mod ailing;
mod decoders;
mod failures;
mod fsck;
mod groups;
mod growth;
mod log;
mod outside;
mod poisoned;
mod refusals;
mod room;
mod space;
mod torn;
mod votes;
