//! What entries of group 0 do, case by case.

use super::*;
use crate::place::Place;
use std::string::ToString;
use std::vec;

fn founded() -> MasterState {
    let founder = Founder {
        store: StoreId(1),
        boot: BootNumber(1),
        process: 1,
        address: "a:1".to_string(),
        zone: String::new(),
        capacity: 1,
    };
    MasterState::found(ClusterId(9), founder, Ino(77))
}

fn join(store: u128, boot: u64, process: u128) -> Entry {
    Entry::Join {
        store: StoreId(store),
        boot: BootNumber(boot),
        process,
        address: "b:1".to_string(),
        zone: String::new(),
        capacity: 1,
    }
}

fn session(read_only: bool, nonce: u64) -> Entry {
    Entry::CreateSession {
        volume: "default".to_string(),
        read_only,
        nonce,
    }
}

#[test]
fn a_store_stays_the_same_node_and_a_copy_of_it_comes_back_empty() {
    let mut state = founded();
    assert_eq!(state.apply(join(2, 1, 5)), Reply::Joined(NodeId(2)));
    assert_eq!(
        state.apply(join(2, 1, 5)),
        Reply::Joined(NodeId(2)),
        "a repeat"
    );
    assert_eq!(
        state.apply(join(2, 1, 6)),
        Reply::ComeBackEmpty,
        "a second process"
    );
    assert_eq!(state.apply(join(2, 3, 7)), Reply::Joined(NodeId(2)));
    assert_eq!(
        state.apply(join(2, 2, 8)),
        Reply::ComeBackEmpty,
        "a rollback"
    );
    assert_eq!(state.apply(join(3, 1, 9)), Reply::Joined(NodeId(3)));
}

#[test]
fn replicas_are_placed_once_per_node_under_ids_that_never_return() {
    let mut state = founded();
    state.apply(join(2, 1, 5));
    let place = Entry::Place {
        group: GroupId(1),
        node: NodeId(2),
    };
    let Reply::Placed(first) = state.apply(place.clone()) else {
        panic!("placed")
    };
    assert_eq!(state.apply(place.clone()), Reply::Placed(first));
    let unplace = |version| Entry::Unplace {
        group: GroupId(1),
        replica: first,
        version,
    };
    let version = state.groups[&GroupId(1)].version;
    assert_eq!(state.apply(unplace(version - 1)), Reply::NotFound);
    assert_eq!(state.apply(unplace(version)), Reply::Done);
    let Reply::Placed(second) = state.apply(place) else {
        panic!("placed")
    };
    assert!(second > first);
}

#[test]
fn a_split_tiles_the_places_and_map_readers_fetch_only_changes() {
    let mut state = founded();
    let (version, all) = state.map_since(0);
    assert_eq!(all.len(), 4);
    let draw = Entry::DrawSplit {
        group: GroupId(1),
        epoch: Epoch(1),
    };
    let drawn = state.apply(draw.clone());
    assert_eq!(state.apply(draw), drawn, "asked again, the same ids");
    let split = Entry::Split {
        group: GroupId(1),
        at: Place(1000),
        epoch: Epoch(2),
    };
    assert_eq!(state.apply(split.clone()), Reply::Done);
    assert_eq!(state.apply(split), Reply::Done, "a repeated report");
    let (_, changed) = state.map_since(version);
    let groups: Vec<GroupId> = changed.iter().map(|line| line.group).collect();
    assert_eq!(groups, vec![GroupId(1), GroupId(5)]);
}

#[test]
fn writing_or_dissolving_the_first_in_the_log_wins() {
    let other = Entry::Dissolve {
        in_favour_of: ClusterId(4),
    };
    let mut state = founded();
    assert!(matches!(state.apply(session(true, 1)), Reply::Session(..)));
    assert_eq!(state.apply(other.clone()), Reply::Dissolved(ClusterId(4)));
    assert_eq!(
        state.apply(session(false, 2)),
        Reply::Dissolved(ClusterId(4))
    );
    let mut state = founded();
    let reply = state.apply(session(false, 1));
    assert_eq!(
        state.apply(session(false, 1)),
        reply,
        "the nonce makes it one session"
    );
    assert_eq!(state.apply(other), Reply::InUse);
}

#[test]
fn the_pieces_make_the_whole_again() {
    let mut state = founded();
    state.apply(join(2, 1, 5));
    state.apply(session(false, 1));
    state.apply(Entry::Set {
        name: "a".to_string(),
        value: "b".to_string(),
    });
    let stored: Vec<Vec<u8>> = state.pieces().map(|p| crate::codec::encode(&p)).collect();
    let pieces = stored
        .iter()
        .map(|p| crate::codec::decode("piece", p).expect("valid"));
    assert_eq!(MasterState::from_pieces(pieces), Some(state));
}
