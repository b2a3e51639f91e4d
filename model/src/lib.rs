//! What every kind of test shares: a reference filesystem, a generator of calls, a checker of histories, and a toy
//! network with a toy consensus to run core's machines on.
//!
//! Owns the second opinion: what PolyFS should do, written down once more in the simplest way. Deliberately knows no
//! async runtime, no disk and no real consensus.

mod content;
pub mod generate;
pub mod history;
pub mod linearize;
pub mod reference;
pub mod toy;
