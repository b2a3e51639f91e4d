//! Over which way a mount is reached that has not asked anything just now.
//!
//! Owns the last way on which each session was heard at this node. Deliberately knows nothing of a session's life: a
//! way that is gone is forgotten, and whoever recalls waits for the lease's end.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use polyfs_core::ids::SessionId;

use crate::conn::Conn;
use crate::wire::Message;

/// A way to a mount.
#[derive(Clone)]
pub enum Way {
    /// Over a connection.
    Conn(Arc<Conn>),
    /// In this process.
    Local(Arc<dyn Fn(Message) + Send + Sync>),
}

/// All ways to mounts.
#[derive(Default)]
pub struct Sessions(Mutex<BTreeMap<SessionId, Way>>);

impl Sessions {
    /// A session was heard.
    pub fn heard(&self, session: SessionId, way: &Way) {
        if session != SessionId::CLUSTER {
            self.0.lock().insert(session, way.clone());
        }
    }

    /// A connection is over.
    pub fn closed(&self, conn: &Conn) {
        let here = |way: &Way| matches!(way, Way::Conn(of) if of.number() == conn.number());
        self.0.lock().retain(|_, way| !here(way));
    }

    /// Tells a mount something, if there is a way to it.
    pub fn tell(&self, session: SessionId, message: Message) {
        // Delivered without the lock: a mount in this process may ask something at once.
        let way = self.0.lock().get(&session).cloned();
        match way {
            // A way that broke meanwhile: the lease's end covers it.
            Some(Way::Conn(conn)) => drop(conn.send(&message, vec![]).ok()),
            Some(Way::Local(deliver)) => deliver(message),
            None => tracing::debug!(%session, "no way to a mount"),
        }
    }
}
