//! A log just good enough to replay from: records with a checksum in one file that only grows.
//!
//! A stand-in for the real log, in the same directory, so that one power cut hits both.

use polyfs_core::codec;
use serde::{Deserialize, Serialize};

use crate::disk::{Dir, Disk, DiskError, OpenMode};
use crate::extent_ref::ExtentRef;
use crate::extents::Crc;
use crate::memory::{MemoryDir, MemoryDisk};

/// One operation on state or content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Op {
    Put {
        lineage: u64,
        key: u8,
        value: Vec<u8>,
    },
    Delete {
        lineage: u64,
        key: u8,
    },
    Small {
        lineage: u64,
        chunk: u8,
        offset: u64,
        bytes: Vec<u8>,
    },
    Extent {
        lineage: u64,
        chunk: u8,
        offset: u64,
        extent: ExtentRef,
        from: u32,
    },
    Zero {
        lineage: u64,
        chunk: u8,
        offset: u64,
        len: usize,
    },
    DeleteChunk {
        lineage: u64,
        chunk: u8,
    },
    DeleteLineage {
        lineage: u64,
    },
}

#[derive(Serialize, Deserialize)]
enum Record {
    Entry(u64, Op),
    Purged(u64),
}

pub(super) struct ToyLog {
    disk: MemoryDisk,
    end: u64,
    /// Entries not purged, in order.
    pub(super) entries: Vec<(u64, Op)>,
    pub(super) last: u64,
    pub(super) synced: u64,
}

impl ToyLog {
    /// Reads what is there; the first bad record ends it, and it is cut there.
    pub(super) fn open(dir: &MemoryDir) -> Result<Self, DiskError> {
        let disk = dir.open(
            "toylog",
            OpenMode {
                create: true,
                direct: false,
            },
        )?;
        dir.sync()?;
        let mut bytes = vec![0; usize::try_from(disk.len()?).unwrap()];
        disk.read_at(0, &mut bytes)?;
        let mut log = Self {
            disk,
            end: 0,
            entries: Vec::new(),
            last: 0,
            synced: 0,
        };
        let mut rest = &bytes[..];
        while let Some((record, length)) = decode(rest) {
            match record {
                Record::Entry(index, op) => {
                    assert_eq!(index, log.last + 1);
                    log.last = index;
                    log.entries.push((index, op));
                }
                Record::Purged(index) => log.entries.retain(|entry| entry.0 > index),
            }
            rest = &rest[length..];
            log.end += length as u64;
        }
        log.disk.set_len(log.end)?;
        log.sync()?;
        Ok(log)
    }

    pub(super) fn append(&mut self, op: Op) -> Result<u64, DiskError> {
        let index = self.last + 1;
        self.write(&Record::Entry(index, op.clone()))?;
        self.last = index;
        self.entries.push((index, op));
        Ok(index)
    }

    /// Returns the extents that it no longer refers to, durably.
    pub(super) fn purge(&mut self, through: u64) -> Result<Vec<ExtentRef>, DiskError> {
        self.write(&Record::Purged(through))?;
        self.sync()?;
        let gone = self.entries.extract_if(.., |entry| entry.0 <= through);
        let extents = gone.filter_map(|entry| match entry.1 {
            Op::Extent { extent, .. } => Some(extent),
            _ => None,
        });
        Ok(extents.collect())
    }

    pub(super) fn sync(&mut self) -> Result<(), DiskError> {
        self.disk.sync_data()?;
        self.synced = self.last;
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), DiskError> {
        let body = codec::encode(record);
        let mut bytes = Crc::of(&body).to_le_bytes().to_vec();
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&body);
        self.disk.write_at(self.end, &bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Option<(Record, usize)> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let body = rest.get(..length).filter(|body| !body.is_empty())?;
    let good = Crc::of(body) == u32::from_le_bytes(*crc);
    good.then(|| (codec::decode("record", body).unwrap(), 8 + length))
}
