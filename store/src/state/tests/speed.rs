//! What applying costs: a synced 4 KiB overwrite as a region's entry brings it, on real files. Run by hand:
//! `cargo test -p polyfs-store --lib speed -- --ignored --nocapture`, with POLYFS_DIR to choose the disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use polyfs_core::ids::{GroupId, Lineage};

use crate::disk::{Dir, Disk, DiskError, OpenMode, Space};
use crate::memory::Dice;
use crate::state::{RegionKv, StateConfig, StateDb};

const O_DIRECT: i32 = 0o40_000;
const CHUNKS: u64 = 64;
const ROUNDS: u32 = 4;
const PER_ROUND: u32 = 2000;

struct HostDir(PathBuf);
struct HostFile(File);

fn host(error: std::io::Error) -> DiskError {
    DiskError::Failed(error.to_string())
}

impl Disk for HostFile {
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.0.metadata().map_err(host)?.len())
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.0.read_exact_at(buffer, offset).map_err(host)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.write_all_at(bytes, offset).map_err(host)
    }
    fn sync_data(&self) -> Result<(), DiskError> {
        self.0.sync_data().map_err(host)
    }
    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.0.set_len(bytes).map_err(host)
    }
    fn allocate(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let zeros = crate::aligned::AlignedBuffer::new(1 << 20);
        let mut zeros = zeros;
        zeros.resize(1 << 20);
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let step = usize::try_from((end - at).min(1 << 20)).unwrap();
            self.write_at(at, &zeros.as_slice()[..step])?;
            at += step as u64;
        }
        self.sync_data()
    }
    fn punch(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Ok(())
    }
}

impl Dir for HostDir {
    type Disk = HostFile;
    fn open(&self, name: &str, mode: OpenMode) -> Result<HostFile, DiskError> {
        let path = self.0.join(name);
        if !mode.create && !path.exists() {
            return Err(DiskError::NotFound(name.into()));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(mode.create);
        if mode.direct {
            options.custom_flags(O_DIRECT);
        }
        Ok(HostFile(options.open(path).map_err(host)?))
    }
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let names = std::fs::read_dir(&self.0).map_err(host)?;
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        Ok(names)
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        std::fs::rename(self.0.join(from), self.0.join(to)).map_err(host)
    }
    fn remove(&self, name: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.0.join(name)).map_err(host)
    }
    fn sync(&self) -> Result<(), DiskError> {
        File::open(&self.0).map_err(host)?.sync_all().map_err(host)
    }
    fn space(&self) -> Result<Space, DiskError> {
        Ok(Space {
            free: 1 << 40,
            total: 1 << 40,
        })
    }
}

/// What this thread has computed so far, in nanoseconds.
fn computed() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = told.split(' ').next().and_then(|first| first.parse().ok());
    first.unwrap_or(0)
}

/// What one entry does: a slot's record, a chunk's record, 4 KiB of content, the group's record.
fn apply(db: &StateDb<HostDir>, dice: &mut Dice, number: u64) {
    let mut batch = db.begin().unwrap();
    let mut state = batch.lineage(Lineage(7)).unwrap();
    let slot = [&b"slot of a session "[..], &(number % 4).to_be_bytes()].concat();
    let chunk = [&b"chunk of a file "[..], &dice.below(CHUNKS).to_be_bytes()].concat();
    state.get(&slot).unwrap();
    state.get(&chunk).unwrap();
    let offset = dice.below(256) * 4096;
    let bytes = [u8::try_from(number % 251).unwrap(); 4096];
    state.write_small(&chunk, offset, &bytes).unwrap();
    state.put(&chunk, &[1; 40]).unwrap();
    state.put(&slot, &[2; 100]).unwrap();
    batch.set_group(GroupId(3), number, &[3; 150]).unwrap();
    batch.commit().unwrap();
}

#[test]
#[ignore = "a measurement, for a human's eye"]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn speed_of_small_overwrites() {
    let place = std::env::var_os("POLYFS_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let place = place.join(format!("polyfs-speed-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let mut config = StateConfig::default();
    config.reserve.bytes_min = 0;
    config.reserve.bytes_max = 0;
    config.data.step_bytes = 192 << 20;
    let dir = Arc::new(HostDir(place.clone()));
    let db = StateDb::open(dir, config, &[]).unwrap().db;
    let mut batch = db.begin().unwrap();
    for chunk in 0..CHUNKS {
        let mut state = batch.lineage(Lineage(7)).unwrap();
        let key = [&b"chunk of a file "[..], &chunk.to_be_bytes()].concat();
        for part in 0..16 {
            state.write_small(&key, part << 16, &[9; 64 << 10]).unwrap();
        }
    }
    batch.commit().unwrap();
    db.prepare_checkpoint()
        .unwrap()
        .commit(|_| u64::MAX)
        .unwrap();
    let (mut dice, mut number) = (Dice::new(1), 0);
    for round in 0..ROUNDS {
        let (start, begun) = (std::time::Instant::now(), computed());
        for _ in 0..PER_ROUND {
            number += 1;
            apply(&db, &mut dice, number);
        }
        let (applied, busy) = (start.elapsed(), (computed() - begun) / u64::from(PER_ROUND));
        let begun = computed();
        let plan = db.prepare_checkpoint().unwrap();
        let planned = start.elapsed() - applied;
        plan.commit(|_| u64::MAX).unwrap();
        let committed = start.elapsed() - applied - planned;
        let made = (computed() - begun) / 1000;
        println!(
            "round {round}: {:?} per apply, CPU {busy} ns; checkpoint of {PER_ROUND}: {planned:?} to prepare, \
             {committed:?} to commit, CPU {made} us",
            applied / PER_ROUND
        );
    }
    drop(db);
    std::fs::remove_dir_all(place).unwrap();
}
