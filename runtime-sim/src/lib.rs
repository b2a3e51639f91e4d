//! Simulated Runtime on madsim: network, clocks, faulty disk.
