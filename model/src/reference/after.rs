//! What one event of a history makes of a tree.
//!
//! Owns the parts of calls that may have happened without the rest. Whole calls are [`super`]'s business.

use polyfs_core::vfs::Call;

use super::Tree;
use super::calls::subject;
use super::node::Node;
use crate::history::{ClientId, Event, Kind};

impl Tree {
    /// The tree after one event of a history, if it may have happened in this state.
    #[must_use]
    pub fn after(&self, event: &Event) -> Option<Self> {
        match event.kind {
            Kind::Call => {
                let outcome = event.ended.as_ref().map(|(_, outcome)| outcome);
                self.step(event.client, &event.call, outcome)
            }
            Kind::WithinSize => self.step_within_size(event.client, &event.call),
            Kind::Cut => {
                let mut after = self.clone();
                let node = subject(&event.call).and_then(|ino| after.nodes.get_mut(&ino));
                node.map(|node| node.resize(0))?;
                Some(after)
            }
            Kind::Lost => {
                let mut after = self.clone();
                let node = subject(&event.call).and_then(|ino| after.nodes.get_mut(&ino));
                node.into_iter().for_each(Node::lose);
                Some(after)
            }
        }
    }

    /// The same for a change of content that nobody learnt the end of, as far as it lies within the size: what a mount
    /// leaves that dies between the data and the size (P9). `None` when there is no such part.
    fn step_within_size(&self, client: ClientId, call: &Call) -> Option<Self> {
        let size = self.nodes.get(&subject(call)?)?.content.len();
        let mut after = self.clone();
        after.carry_out(client, call, None).ok()?;
        let node = after.nodes.get_mut(&subject(call)?)?;
        if node.content.len() == size {
            // All of it: that is the whole call.
            return None;
        }
        node.content.resize(size);
        Some(after)
    }
}
