//! Reference filesystem, operation generator, linearizability checker, toy network.
