//! Production Runtime: clock, TCP, files, spawn.
