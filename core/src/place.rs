//! Where a key lives: places, inode numbers, hashes of names (P4).
//!
//! Owns the arithmetic that turns a name or an inode number into the place that decides its region. Deliberately knows
//! no region: which one holds a place is the region map's to say.

use core::fmt;
use core::hash::Hasher as _;
use core::ops::Range;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// How many bits of a place name the cell inside its bucket.
const CELL_BITS: u32 = 8;
/// How many bits of a place name its bucket.
const BUCKET_BITS: u32 = 23;
/// One past the highest place.
pub const PLACES: u32 = 1 << (BUCKET_BITS + CELL_BITS);
/// Neighbouring chunks of a file that share a place.
const CHUNKS_PER_PLACE: u64 = 16;

/// Where a key lives: `bucket (23 bits) | cell (8 bits)`, below [`PLACES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place(pub u32);

/// A directory's home: all its entries live in the 256 cells of one bucket. Below 2^23.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Bucket(pub u32);

impl Place {
    /// The cell `cell` of `bucket`.
    #[must_use]
    pub const fn new(bucket: Bucket, cell: u8) -> Self {
        Self((bucket.0 << CELL_BITS) | cell as u32)
    }

    /// The bucket it is in.
    #[must_use]
    pub const fn bucket(self) -> Bucket {
        Bucket(self.0 >> CELL_BITS)
    }
}

impl Bucket {
    /// All places of the bucket.
    #[must_use]
    pub const fn places(self) -> Places {
        Places {
            start: self.0 << CELL_BITS,
            end: (self.0 + 1) << CELL_BITS,
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:02x}", self.0 >> CELL_BITS, self.0 & 0xff)
    }
}

/// A half-open range of places; `end` is at most [`PLACES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Places {
    /// The first place.
    pub start: u32,
    /// One past the last place.
    pub end: u32,
}

impl Places {
    /// Every place there is.
    pub const ALL: Self = Self {
        start: 0,
        end: PLACES,
    };

    /// Whether `place` is in the range.
    #[must_use]
    pub const fn contains(self, place: Place) -> bool {
        self.start <= place.0 && place.0 < self.end
    }

    /// Whether all of `other` is in the range.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What both have in common, if anything.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<Self> {
        let both = Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        (both.start < both.end).then_some(both)
    }

    /// The buckets that lie whole in the range: where new directories may go.
    #[must_use]
    pub const fn whole_buckets(self) -> Range<u32> {
        self.start.div_ceil(1 << CELL_BITS)..self.end >> CELL_BITS
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", Place(self.start), Place(self.end))
    }
}

/// An inode number: `0 | bucket | cell | number (32 bits)`; positive as an i64 everywhere, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The inode `number` that lives at `place`; numbers start at 1.
    #[must_use]
    pub const fn new(place: Place, number: u32) -> Self {
        Self(((place.0 as u64) << 32) | number as u64)
    }

    /// Where it lives.
    #[must_use]
    pub const fn place(self) -> Place {
        Place((self.0 >> 32) as u32)
    }

    /// The bucket it lives in; for a directory, the bucket of all its entries.
    #[must_use]
    pub const fn bucket(self) -> Bucket {
        self.place().bucket()
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.place(), self.0 & 0xffff_ffff)
    }
}

/// What keys a directory's name hashes, drawn at random when it is made and never changed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Salt(pub u64);

/// The 56-bit keyed hash of a name in its directory, never 0 (so that cookies 0, 1 and 2 are free).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NameHash(u64);

impl NameHash {
    /// Hashes `name` under a directory's salt.
    #[must_use]
    pub fn of(salt: Salt, name: &[u8]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(salt.0, 0x706f_6c79_6673_2e31);
        hasher.write(name);
        Self((hasher.finish() >> 8).max(1))
    }

    /// Where the entry lives: the directory's bucket, and the top 8 bits of the hash as its cell.
    #[must_use]
    pub fn place(self, dir: Ino) -> Place {
        let cell = u8::try_from(self.0 >> 48).expect("a name's hash has 56 bits");
        Place::new(dir.bucket(), cell)
    }

    /// The cookie of the entry that was the `tie`-th of its hash; `tie` is below 128.
    #[must_use]
    pub const fn cookie(self, tie: u8) -> Cookie {
        assert!(tie < 128, "a tie number has 7 bits");
        Cookie((self.0 << 7) | tie as u64)
    }
}

/// An entry's key inside its directory and its readdir cookie: hash and tie, below 2^63, stable while the entry
/// lives. 0 is the start, 1 is ".", 2 is "..".
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Cookie(pub u64);

impl Cookie {
    /// Before everything.
    pub const START: Self = Self(0);
    /// The entry ".".
    pub const DOT: Self = Self(1);
    /// The entry "..".
    pub const DOT_DOT: Self = Self(2);

    /// Where the entry of this cookie lives.
    #[must_use]
    pub fn place(self, dir: Ino) -> Place {
        let cell = u8::try_from((self.0 >> 55) & 0xff).expect("masked to 8 bits");
        Place::new(dir.bucket(), cell)
    }
}

/// Where a chunk of a file lives among the data regions: neighbouring chunks share a place.
#[must_use]
pub fn data_place(ino: Ino, chunk: u64) -> Place {
    let mut hasher = SipHasher13::new_with_keys(ino.0, 0x706f_6c79_6673_2e32);
    hasher.write_u64(chunk / CHUNKS_PER_PLACE);
    Place(u32::try_from(hasher.finish() >> 33).expect("31 bits are left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_number_is_positive_and_names_its_place() {
        let place = Place::new(Bucket((1 << BUCKET_BITS) - 1), 255);
        let ino = Ino::new(place, u32::MAX);
        assert!(i64::try_from(ino.0).is_ok());
        assert_eq!(ino.place(), place);
        assert_eq!(place.0, PLACES - 1);
    }

    #[test]
    fn a_cookie_lives_where_its_name_does_and_spares_the_dots() {
        let dir = Ino::new(Place::new(Bucket(77), 0), 9);
        for number in 0..2000_u32 {
            let hash = NameHash::of(Salt(5), &number.to_le_bytes());
            assert_eq!(hash.cookie(127).place(dir), hash.place(dir));
            assert!(hash.cookie(0) > Cookie::DOT_DOT);
            assert!(i64::try_from(hash.cookie(127).0).is_ok());
        }
    }

    #[test]
    fn whole_buckets_exclude_cut_ones() {
        assert_eq!(
            Places {
                start: 1,
                end: 1024
            }
            .whole_buckets(),
            1..4
        );
        assert_eq!(
            Places {
                start: 0,
                end: 1023
            }
            .whole_buckets(),
            0..3
        );
        assert_eq!(Places::ALL.whole_buckets(), 0..1 << 23);
    }
}
