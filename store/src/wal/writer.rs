//! Putting batches on the disk, one at a time.
//!
//! Owns the order of segments, sequence numbers, the chain of checksums and the encoding of a batch into one aligned
//! buffer: one write, one sync. Lives in the log lane alone. Deliberately does not know what records mean: what is
//! still needed comes with the batch.

use std::collections::VecDeque;
use std::sync::Arc;

use crc_fast::crc32_iscsi;

use super::LogConfig;
use super::batch::{BATCH_HEADER_BYTES, BatchHeader};
use super::error::{LogError, Poison};
use super::index::{Batch, Layout, Written};
use super::record;
use super::segment::{self, FIRST_BATCH, Files, Position, SegmentId, Shape};
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::disk::{Dir, Disk, DiskError};

/// One stay of a segment in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) segment: SegmentId,
    pub(crate) first_sequence: u64,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tail {
    pub(crate) sequence: u64,
    /// Header CRC of the last batch.
    pub(crate) crc: u32,
    /// Where the next batch may begin, in the segment used last.
    pub(crate) offset: u64,
}

/// Writes batches. Every method may block on the disk.
pub struct LogWriter<D: Dir> {
    files: Arc<Files<D::Disk>>,
    poison: Poison,
    config: LogConfig,
    boot: u64,
    tail: Tail,
    in_use: VecDeque<Use>,
    free: VecDeque<SegmentId>,
    buffer: AlignedBuffer,
}

impl<D: Dir> LogWriter<D> {
    pub(crate) fn new(
        files: Arc<Files<D::Disk>>,
        poison: Poison,
        config: LogConfig,
        boot: u64,
        tail: Tail,
        in_use: VecDeque<Use>,
    ) -> Self {
        let used = |id: &SegmentId| in_use.iter().any(|usage| usage.segment == *id);
        let free = files.ids().into_iter().filter(|id| !used(id)).collect();
        let buffer = AlignedBuffer::new(64 << 10);
        Self {
            files,
            poison,
            config,
            boot,
            tail,
            in_use,
            free,
            buffer,
        }
    }

    /// Writes and syncs one batch. Afterwards everything in it is durable.
    ///
    /// # Errors
    /// `Full` when it fits nowhere: nothing was written, the batch is to be put back. Any failure of the disk poisons
    /// the log for good: `Disk` this time, `Poisoned` from then on.
    pub fn write(&mut self, batch: &Batch) -> Result<Written, LogError> {
        self.poison.check()?;
        let spans = self.encode_body(batch);
        if cfg!(planted = "segment_reused_early") {
            let dead = self.take_dead(&batch.live);
            dead.into_iter().for_each(|id| self.free.push_front(id));
        }
        self.find_room()?;
        // The floor leaves these behind; they are written again only when this very batch is durable.
        let dead = self.take_dead(&batch.live);
        let crc = self.finish(batch);
        if let Err(error) = self.put() {
            self.poison.set();
            return Err(error.into());
        }
        self.free.extend(dead);
        let positions = self.advance(crc, &spans);
        Ok(Written {
            positions,
            layout: self.layout(),
        })
    }

    /// Encodes the records behind room for the header; returns where each begins and how long it is.
    fn encode_body(&mut self, batch: &Batch) -> Vec<(usize, usize)> {
        self.buffer.clear();
        self.buffer.resize(BATCH_HEADER_BYTES);
        let mut starts = Vec::with_capacity(batch.items.len());
        for item in &batch.items {
            let start = self.buffer.len();
            record::encode(&item.record, &mut self.buffer);
            starts.push((start, self.buffer.len() - start));
        }
        starts
    }

    /// Moves on to a free segment when the batch does not fit behind the last one.
    fn find_room(&mut self) -> Result<(), LogError> {
        let bytes = self.buffer.len().next_multiple_of(BLOCK_BYTES) as u64;
        let segment_bytes = self.files.shape.segment_bytes;
        assert!(
            FIRST_BATCH + bytes <= segment_bytes,
            "a batch fits a segment"
        );
        if !self.in_use.is_empty() && self.tail.offset + bytes <= segment_bytes {
            return Ok(());
        }
        let segment = self.free.pop_front().ok_or(LogError::Full)?;
        self.in_use.push_back(Use {
            segment,
            first_sequence: self.tail.sequence + 1,
        });
        self.tail.offset = FIRST_BATCH;
        Ok(())
    }

    /// Takes the oldest segments out of use, up to the first that holds something needed or is being written.
    fn take_dead(&mut self, live: &[SegmentId]) -> Vec<SegmentId> {
        let mut dead = Vec::new();
        while self.in_use.len() > 1 && !live.contains(&self.in_use[0].segment) {
            dead.extend(self.in_use.pop_front().map(|usage| usage.segment));
        }
        dead
    }

    /// Fills in the header and pads; returns the header's CRC.
    fn finish(&mut self, batch: &Batch) -> u32 {
        let sequence = self.tail.sequence + 1;
        let body = &self.buffer.as_slice()[BATCH_HEADER_BYTES..];
        let header = BatchHeader {
            segment: self.in_use.back().expect("room was found").segment,
            offset: self.tail.offset,
            life: self.files.shape.life,
            boot: self.boot,
            sequence,
            // One batch in flight: every earlier one was synced before this one is written.
            mark: if cfg!(planted = "mark_ahead_of_sync") {
                sequence
            } else {
                sequence - 1
            },
            floor: self.in_use[0].first_sequence,
            previous: self.tail.crc,
            body_bytes: u32::try_from(body.len()).expect("a batch fits a segment"),
            records: u32::try_from(batch.items.len()).expect("a record has bytes"),
            body_crc: crc32_iscsi(body),
        };
        let crc = header.encode(self.buffer.as_mut_slice());
        self.buffer.pad();
        crc
    }

    /// The one write and the one sync.
    fn put(&self) -> Result<(), DiskError> {
        let disk = self
            .files
            .disk(self.in_use.back().expect("room was found").segment);
        disk.write_at(self.tail.offset, self.buffer.as_slice())?;
        if cfg!(planted = "ack_before_sync") {
            Ok(())
        } else {
            disk.sync_data()
        }
    }

    fn advance(&mut self, crc: u32, spans: &[(usize, usize)]) -> Vec<Position> {
        let segment = self.in_use.back().expect("room was found").segment;
        let small = |number: u64| u32::try_from(number).expect("segments are below 4 GiB");
        let place = |(start, bytes): &(usize, usize)| Position {
            segment,
            offset: small(self.tail.offset + *start as u64),
            bytes: small(*bytes as u64),
        };
        let positions = spans.iter().map(place).collect();
        let offset = self.tail.offset + self.buffer.len() as u64;
        self.tail = Tail {
            sequence: self.tail.sequence + 1,
            crc,
            offset,
        };
        positions
    }

    pub(crate) fn layout(&self) -> Layout {
        let in_use = self.in_use.iter().map(|usage| usage.segment).collect();
        Layout {
            in_use,
            reusable: self.free.len(),
        }
    }

    /// The sequence of the last batch.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.tail.sequence
    }

    /// What to make when there are too few spare segments and there may be more; None otherwise. Making takes a while
    /// and may be done elsewhere; while it is under way, don't ask again.
    #[must_use]
    pub fn wants_segment(&self) -> Option<NewSegment> {
        let ids = self.files.ids();
        let few = self.free.len() < self.config.segments_spare;
        let next = ids.last().map_or(1, |last| last.0 + 1);
        (few && ids.len() < self.config.segments_max).then_some(NewSegment {
            id: SegmentId(next),
            shape: self.files.shape,
        })
    }

    /// Takes a segment that was made into use. The index learns of it with the next batch.
    pub fn adopt(&mut self, made: MadeSegment<D>) {
        self.files.add(made.id, made.disk);
        self.free.push_back(made.id);
    }
}

/// A segment to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewSegment {
    id: SegmentId,
    shape: Shape,
}

impl NewSegment {
    /// Makes it: writes zeros, syncs, gives it its name.
    ///
    /// # Errors
    /// `Disk(Full)` when the disk has no room ([`super::LogIndex::stop_growing`] then); other failures of the disk.
    pub fn make<D: Dir>(self, dir: &D) -> Result<MadeSegment<D>, LogError> {
        let made = segment::make(dir, self.shape, &[self.id]);
        let mut disks = made.inspect_err(|_| {
            // What could be reserved must not keep the space from others; failing that, the next start does it.
            let _ = segment::remove_unfinished(dir);
        })?;
        let disk = disks.pop().expect("one was asked for");
        Ok(MadeSegment { id: self.id, disk })
    }
}

/// A segment that was made.
pub struct MadeSegment<D: Dir> {
    id: SegmentId,
    disk: D::Disk,
}
