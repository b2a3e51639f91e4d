//! madsim's seeded generator in the dress of rand 0.10 (madsim itself speaks 0.8).

use std::convert::Infallible;

use madsim::rand::RngCore;
use rand::TryRng;

/// The generator of the running simulation.
pub struct SimRng(madsim::rand::GlobalRng);

impl SimRng {
    pub(crate) fn current() -> Self {
        Self(madsim::rand::thread_rng())
    }
}

impl TryRng for SimRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}
