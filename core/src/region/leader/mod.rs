//! What the leader of a region does besides ordering entries: admits requests, answers queries, gives and recalls
//! leases, coordinates transactions, reclaims.
//!
//! Owns everything about a region that is *not* replicated and dies with a leadership. It is made when this replica
//! becomes leader and dropped when it ceases to be. Deliberately knows no network and no consensus: it asks for
//! proposals and read indexes and is told how they ended.

pub mod port;
