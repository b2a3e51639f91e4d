//! What the simulated runtime promises: one binary, one module for each part of it.

mod conformance;
mod determinism;
mod disk;
mod machine;
mod network;
