//! Over which way a mount is reached that has not asked anything just now.
//!
//! Owns the last way on which each session was heard at this node. Deliberately knows nothing of a session's life: a
//! way that is gone is forgotten, and whoever recalls waits for the lease's end.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use polyfs_core::ids::{NodeId, SessionId};

use crate::conn::Conn;
use crate::wire::Message;

/// A way to a mount.
#[derive(Clone)]
pub enum Way {
    /// Over a connection.
    Conn(Arc<Conn>),
    /// In this process: takes what a node says.
    Local(Arc<dyn Fn(NodeId, Message) + Send + Sync>),
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

    /// A mount in this process is over.
    pub fn forget(&self, session: SessionId) {
        self.0.lock().remove(&session);
    }

    /// Another node tells a mount in this process something.
    pub fn deliver(&self, session: SessionId, from: NodeId, message: Message) {
        let way = self.0.lock().get(&session).cloned();
        match way {
            Some(Way::Local(deliver)) => deliver(from, message),
            // What is not for this process is not passed on: it could go round for ever.
            Some(Way::Conn(_)) | None => {
                tracing::debug!(%session, "a message for a mount that is not here");
            }
        }
    }

    /// The node `from`, this one, tells a mount something, if there is a way to it.
    pub fn tell(&self, session: SessionId, from: NodeId, message: Message) {
        // Delivered without the lock: a mount in this process may ask something at once.
        let way = self.0.lock().get(&session).cloned();
        match way {
            // A way that broke meanwhile: the lease's end covers it.
            Some(Way::Conn(conn)) => drop(conn.send(&message, vec![]).ok()),
            Some(Way::Local(deliver)) => deliver(from, message),
            None => tracing::debug!(%session, "no way to a mount"),
        }
    }
}
