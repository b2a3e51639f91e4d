//! What the groups' entries do, bound to core: regions, and the master's group.
//!
//! Owns the choice of the machine for a group and the master's state as stored: one key for each piece. Deliberately
//! holds no rule: core does.

use std::collections::BTreeMap;
use std::sync::Arc;

use polyfs_core::codec;
use polyfs_core::ids::GroupId;
use polyfs_core::master::entry::{Entry, Reply};
use polyfs_core::master::state::{MasterState, Piece};
use polyfs_core::region::command::Command;
use polyfs_core::region::kv::{Kv, KvError, KvRead};
use polyfs_core::region::leader::port::{Input, Output};
use polyfs_core::region::leader::{Config, Leader};
use polyfs_core::request::Leadership;
use polyfs_core::time::{Instant, Now};

use crate::group::Leading;
use crate::raft::state::Machine;
use crate::raft::types::{GroupApplied, GroupCommand};

/// Requests a region's leader takes on at a time.
const REQUESTS_MAX: usize = 4096;
/// The version of a stored piece of the master's state.
const PIECE_VERSION: u8 = 1;

/// The machine of a group.
#[must_use]
pub fn of_group(group: GroupId) -> Arc<dyn Machine> {
    if group == GroupId::MASTER {
        Arc::new(Master)
    } else {
        Arc::new(Region)
    }
}

/// A region.
struct Region;

impl Machine for Region {
    fn apply(&self, kv: &mut dyn Kv, command: &GroupCommand) -> Result<GroupApplied, KvError> {
        let decoded: Command = command.decode("command")?;
        let applied = polyfs_core::region::apply(kv, &decoded, &command.payload)?;
        Ok(GroupApplied::Region(applied))
    }

    fn lead(
        &self,
        leadership: Leadership,
        seed: u64,
        now: Now,
        state: &dyn KvRead,
    ) -> Result<Option<Box<dyn Leading>>, KvError> {
        let config = Config {
            group: leadership.group,
            term: leadership.term,
            requests_max: REQUESTS_MAX,
        };
        Ok(Some(Box::new(Leader::new(config, seed, now, state)?)))
    }
}

impl Leading for Leader {
    fn handle_input(&mut self, now: Now, state: &dyn KvRead, input: Input) -> Result<(), KvError> {
        Self::handle_input(self, now, state, input)
    }

    fn poll_output(&mut self) -> Option<Output> {
        Self::poll_output(self)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Self::poll_timeout(self)
    }
}

/// Group 0. Its entries are rare: the state is read for each and only what changed is written.
struct Master;

impl Machine for Master {
    fn apply(&self, kv: &mut dyn Kv, command: &GroupCommand) -> Result<GroupApplied, KvError> {
        let entry: Entry = command.decode("master entry")?;
        let mut state = master_state(kv)?;
        let before = stored(&state);
        let reply: Reply = state.apply(entry);
        let after = stored(&state);
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            kv.delete(key)?;
        }
        for (key, value) in &after {
            if before.get(key) != Some(value) {
                kv.put(key, value)?;
            }
        }
        Ok(GroupApplied::Master(codec::encode(&reply).into()))
    }
}

/// The master's state, as stored.
///
/// # Errors
/// When it can't be read, or is not there.
pub fn master_state(kv: &dyn KvRead) -> Result<MasterState, KvError> {
    let mut pieces = Vec::new();
    for (_, value) in kv.scan(&[0], &[u8::MAX], usize::MAX)? {
        let piece: Piece = codec::decode_versioned("master piece", PIECE_VERSION, &value)?;
        pieces.push(piece);
    }
    MasterState::from_pieces(pieces)
        .ok_or_else(|| KvError::Corrupt("the master's state has no header".into()))
}

/// Writes the master's first state.
///
/// # Errors
/// As [`KvError`].
pub fn found_master(kv: &mut dyn Kv, state: &MasterState) -> Result<(), KvError> {
    for (key, value) in stored(state) {
        kv.put(&key, &value)?;
    }
    Ok(())
}

fn stored(state: &MasterState) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pieces = state.pieces();
    pieces
        .map(|piece| (key(&piece), codec::encode_versioned(PIECE_VERSION, &piece)))
        .collect()
}

fn key(piece: &Piece) -> Vec<u8> {
    let (kind, id): (u8, Vec<u8>) = match piece {
        Piece::Header(_) => (0x01, Vec::new()),
        Piece::Node(id, _) => (0x02, id.0.to_be_bytes().to_vec()),
        Piece::Group(id, _) => (0x03, id.0.to_be_bytes().to_vec()),
        Piece::Volume(name, _) => (0x04, name.as_bytes().to_vec()),
        Piece::Session(id, _) => (0x05, id.0.to_be_bytes().to_vec()),
        Piece::Setting(name, _) => (0x06, name.as_bytes().to_vec()),
    };
    [vec![kind], id].concat()
}
