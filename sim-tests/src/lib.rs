//! Worlds, workloads, scenarios, checkers, the seed swarm.
