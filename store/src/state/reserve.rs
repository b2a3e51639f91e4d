//! The part of the disk that is never counted as free, so that a full disk can still be emptied (P10).
//!
//! Owns the ballast file, which really occupies the reserve, and the word on how full the disk is. What is refused
//! below the reserve is decided by others. The database takes from the ballast by itself when it has to grow on a
//! full disk: a redb that met ENOSPC cannot even commit deletes.

use std::sync::{Arc, Mutex};

use polyfs_core::limits::{RESERVE_BYTES_MAX, RESERVE_BYTES_MIN, RESERVE_PART};

use crate::disk::{Dir, Disk, DiskError, OpenMode};

const NAME: &str = "ballast";

/// How large the reserve is.
#[derive(Clone, Copy, Debug)]
pub struct ReserveConfig {
    /// One part in this many of the disk ...
    pub part: u64,
    /// ... at least this many bytes ...
    pub bytes_min: u64,
    /// ... at most this many ...
    pub bytes_max: u64,
    /// ... and at most one part in this many, which scales the reserve down on a small disk.
    pub part_max: u64,
    /// It is released and refilled in this many steps.
    pub steps: u64,
}

impl Default for ReserveConfig {
    fn default() -> Self {
        Self {
            part: RESERVE_PART,
            bytes_min: RESERVE_BYTES_MIN,
            bytes_max: RESERVE_BYTES_MAX,
            part_max: 4,
            steps: 16,
        }
    }
}

impl ReserveConfig {
    fn bytes(&self, total: u64) -> u64 {
        (total / self.part)
            .min(self.bytes_max)
            .max(self.bytes_min)
            .min(total / self.part_max)
            / 4096
            * 4096
    }
}

/// Whether the disk has room for more than emptying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceLevel {
    /// Everything may be written.
    Normal,
    /// Only deletes, truncates, aborts, membership changes and purges.
    Reserve,
}

/// Who draws on the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// The database may take all of it: whatever is freed, it is a commit that frees it.
    Database,
    /// File data that was ordered before the disk was seen to be full takes a quarter at most, so that the rest is
    /// there for the deletes.
    Data,
}

/// The reserve of one directory's disk.
#[derive(Debug)]
pub struct Reserve<D: Dir> {
    dir: Arc<D>,
    ballast: Mutex<D::Disk>,
    bytes: u64,
    step: u64,
}

impl<D: Dir> Reserve<D> {
    /// Opens or makes the ballast, as much of it as there is room for.
    ///
    /// # Errors
    /// Failures of the disk other than being full.
    pub fn open(dir: Arc<D>, config: ReserveConfig) -> Result<Self, DiskError> {
        let bytes = config.bytes(dir.space()?.total);
        let step = (bytes / config.steps.max(1))
            .next_multiple_of(4096)
            .max(4096);
        let disk = dir.open(
            NAME,
            OpenMode {
                create: true,
                direct: false,
            },
        )?;
        if disk.len()? > bytes {
            disk.set_len(bytes)?;
        }
        let reserve = Self {
            dir,
            ballast: Mutex::new(disk),
            bytes,
            step,
        };
        while reserve.refill_step()? {}
        Ok(reserve)
    }

    /// Bytes free on the disk beyond the reserve.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn free_beyond(&self) -> Result<u64, DiskError> {
        Ok(self.dir.space()?.free)
    }

    /// How large the reserve is meant to be, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much is released and taken back at a time, in bytes.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether nothing of it was released.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn is_whole(&self) -> Result<bool, DiskError> {
        let ballast = self.ballast.lock().expect("nothing panics under this lock");
        Ok(ballast.len()? >= self.bytes)
    }

    /// Gives a step of the ballast back to the disk; false when there is none left.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn release_step(&self) -> Result<bool, DiskError> {
        self.release_above(0)
    }

    /// The same if at least so many bytes stay.
    fn release_above(&self, kept: u64) -> Result<bool, DiskError> {
        let ballast = self.ballast.lock().expect("nothing panics under this lock");
        let held = ballast.len()?;
        let left = held.saturating_sub(self.step);
        if held == 0 || left < kept {
            return Ok(false);
        }
        ballast.set_len(left)?;
        Ok(true)
    }

    /// Takes a step back into the ballast; false when it is whole or the disk has too little room.
    ///
    /// # Errors
    /// Failures of the disk other than being full.
    pub fn refill_step(&self) -> Result<bool, DiskError> {
        let ballast = self.ballast.lock().expect("nothing panics under this lock");
        let held = ballast.len()?;
        let step = self.step.min(self.bytes.saturating_sub(held));
        if step == 0 || self.dir.space()?.free < step {
            return Ok(false);
        }
        match ballast.allocate(held, step) {
            Ok(()) => Ok(true),
            Err(DiskError::Full) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How full the disk is; `free_in_data` is what data files have free inside. It is in the reserve when the ballast
    /// is not whole or less than a step is free outside it.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn space_level(&self, free_in_data: u64) -> Result<SpaceLevel, DiskError> {
        let held = self
            .ballast
            .lock()
            .expect("nothing panics under this lock")
            .len()?;
        let spare = self.dir.space()?.free.saturating_add(free_in_data);
        let normal = held >= self.bytes && spare >= self.step;
        Ok(if normal {
            SpaceLevel::Normal
        } else {
            SpaceLevel::Reserve
        })
    }

    /// Runs `grow` and, each time it finds the disk full, again with a step less of ballast, as far as the share goes.
    pub(crate) fn growing(
        &self,
        share: Share,
        mut grow: impl FnMut() -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let kept = match share {
            Share::Database => 0,
            Share::Data => self.bytes / 4 * 3,
        };
        loop {
            match grow() {
                Err(DiskError::Full) if self.release_above(kept)? => {}
                other => return other,
            }
        }
    }
}
