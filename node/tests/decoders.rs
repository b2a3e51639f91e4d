//! Bytes from disk and network are no values until they are decoded: each decoder survives what is cut and changed.
//!
//! Owns the table of what this crate defines and others send or store. Deliberately writes no sample by hand: whatever
//! decodes after enough random bytes is one.

use polyfs_core::codec::{self, DecodeError};
use polyfs_node::heartbeat::{Heard, Heartbeat};
use polyfs_node::identity::StoreIdentity;
use polyfs_node::node::Peers;
use polyfs_node::raft::state::ReplicaRecord;
use polyfs_node::retired::Marked;
use polyfs_node::wire::{Call, Message, RaftCall, RaftReply, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;

const MUTATIONS: usize = 10_000;
const SAMPLES: usize = 40;
const TRIES: usize = 4_000;

type Decode = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

/// Decodes, and encodes again.
fn of<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    codec::decode::<T>("value", bytes).map(|value| codec::encode(&value))
}

const DECODERS: &[(&str, Decode)] = &[
    ("message", of::<Message>),
    ("call", of::<Call>),
    ("reply", of::<Reply>),
    ("raft call", of::<RaftCall>),
    ("raft reply", of::<RaftReply>),
    ("heartbeat", of::<Heartbeat>),
    ("its answer", of::<Heard>),
    ("identity", of::<StoreIdentity>),
    ("marked replicas", of::<Marked>),
    ("peers", of::<Peers>),
    ("replica record", of::<ReplicaRecord>),
];

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }

    fn byte(&mut self) -> u8 {
        let end = [3, 16, 256][self.below(3)];
        // What says that a long number follows, and makes lengths that nothing keeps.
        match self.below(40) {
            0 => [251, 252, 253, 254, 255][self.below(5)],
            _ => u8::try_from(self.below(end)).expect("below 256"),
        }
    }

    /// Random bytes that are a value.
    fn sample(&mut self, decode: Decode) -> Option<Vec<u8>> {
        let mut bytes: Vec<u8> = (0..512).map(|_| self.byte()).collect();
        match decode(&bytes) {
            Ok(_) => Some(bytes),
            Err(DecodeError::Trailing(_, more)) => {
                bytes.truncate(bytes.len() - more);
                Some(bytes)
            }
            Err(_) => None,
        }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.insert(at, self.byte()),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                // A length of 2^64 - 1 and the like.
                2 if at < bytes.len() => drop(bytes.splice(at..=at, [253; 9])),
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => bytes.push(self.byte()),
            }
        }
    }
}

#[test]
fn every_decoder_survives_what_is_cut_and_changed() {
    for (name, decode) in DECODERS {
        let mut dice = Dice(7);
        let mut samples: Vec<Vec<u8>> = Vec::new();
        for _ in 0..TRIES {
            samples.extend(dice.sample(*decode));
            if samples.len() == SAMPLES {
                break;
            }
        }
        assert!(!samples.is_empty(), "{name}: no random bytes decode");
        for sample in &samples {
            let value = decode(sample).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(decode(&value), Ok(value.clone()), "{name} comes back");
            for end in 0..sample.len() {
                let cut: Result<_, String> = match decode(&sample[..end]) {
                    Err(_) => Ok(()),
                    Ok(_) => Err(format!("{name} cut at {end} of {sample:?} is one")),
                };
                assert_eq!(cut, Ok(()));
            }
        }
        let mut refused = 0;
        for round in 0..MUTATIONS {
            let mut bytes = samples[round % samples.len()].clone();
            dice.mutate(&mut bytes);
            refused += usize::from(decode(&bytes).is_err());
        }
        assert!(refused > 0, "{name}: damage is noticed now and then");
    }
}
