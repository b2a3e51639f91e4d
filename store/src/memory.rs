//! A directory in memory with an honest crash model, for tests.
//!
//! Owns what a power cut may leave behind by the rules of [`crate::disk`]: a synced write stays; an unsynced one is
//! kept, lost or torn (at any byte, in any number of places), and unsynced writes take effect in any order; unsynced
//! directory changes are kept or lost one by one; a failed sync settles the fate of what it should have synced, and
//! later syncs do not mend it. Everything is decided by a seed. Deliberately knows no file format.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::aligned::BLOCK_BYTES;
use crate::disk::{Dir, Disk, DiskError, OpenMode, Space};

/// A small deterministic generator (splitmix64): tests of the store need reproducible choices, nothing more.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed throws the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// As [`Self::below`], for lengths and positions.
    pub fn below_len(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
    Punch { offset: usize, bytes: usize },
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Rename(String, String, u64),
    Remove(String),
}

#[derive(Debug, Default)]
struct Machine {
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    names_pending: Vec<NameChange>,
    capacity: Option<u64>,
    operations: u64,
    cut_at: Option<u64>,
    syncs: u64,
    fail_sync_at: Option<(u64, DiskError)>,
    cached_writes: BTreeMap<u64, u64>,
    power_lost: bool,
    seed: u64,
}

/// A directory of files in memory. Clones are the same directory.
#[derive(Clone, Debug, Default)]
pub struct MemoryDir {
    machine: Arc<Mutex<Machine>>,
}

/// An open file of a [`MemoryDir`]. Direct handles check alignment and panic where a real one would fail.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    machine: Arc<Mutex<Machine>>,
    file: u64,
    direct: bool,
}

impl MemoryDir {
    /// An empty directory without limit; `seed` decides what a failed sync leaves behind.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let dir = Self::default();
        dir.lock().seed = seed;
        dir
    }

    /// How many changes and syncs there have been.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Cuts the power at the `after`-th change or sync from now on (1 is the very next): that call and all later ones
    /// answer `PowerLost`; what it was about to do is left half done.
    pub fn cut_power_after(&self, after: u64) {
        let mut machine = self.lock();
        machine.cut_at = Some(machine.operations + after);
    }

    /// Lets the `after`-th sync of a file from now on fail (1 is the very next).
    pub fn fail_sync_after(&self, after: u64) {
        self.fail_sync_with(after, DiskError::Failed("the sync failed".into()));
    }

    /// As [`Self::fail_sync_after`], in the disk's own words.
    pub fn fail_sync_with(&self, after: u64, error: DiskError) {
        let mut machine = self.lock();
        machine.fail_sync_at = Some((machine.syncs + after, error));
    }

    /// How many writes of a file went through handles that are not direct.
    #[must_use]
    pub fn cached_writes(&self, name: &str) -> u64 {
        let machine = self.lock();
        let file = machine.names.get(name);
        let writes = file.and_then(|file| machine.cached_writes.get(file));
        writes.copied().unwrap_or(0)
    }

    /// Limits the sum of all files' lengths, in bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = Some(bytes);
    }

    /// Cuts the power, and returns the directory as the next start finds it. Old handles answer `PowerLost`.
    #[must_use]
    pub fn restart(&self, seed: u64) -> Self {
        let mut machine = self.lock();
        machine.power_lost = true;
        let mut dice = Dice::new(seed);
        let mut names = machine.names_durable.clone();
        for change in &machine.names_pending {
            if dice.below(2) == 0 {
                apply_name(&mut names, change);
            }
        }
        let files = machine
            .files
            .iter()
            .map(|(number, file)| {
                let mut image = file.durable.clone();
                settle(&mut image, &file.pending, &mut dice);
                (
                    *number,
                    File {
                        durable: image.clone(),
                        current: image,
                        pending: Vec::new(),
                    },
                )
            })
            .collect();
        let next = Machine {
            files,
            next_file: machine.next_file,
            names_durable: names.clone(),
            names,
            capacity: machine.capacity,
            seed: dice.roll(),
            ..Machine::default()
        };
        Self {
            machine: Arc::new(Mutex::new(next)),
        }
    }

    /// Flips bits of a stored byte, behind everybody's back: rot.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip(&self, name: &str, offset: usize, bits: u8) {
        let mut machine = self.lock();
        let number = *machine.names.get(name).expect("the file exists");
        let file = machine
            .files
            .get_mut(&number)
            .expect("a name leads to a file");
        file.current[offset] ^= bits;
        if let Some(byte) = file.durable.get_mut(offset) {
            *byte ^= bits;
        }
    }

    /// What a file reads as now.
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn image(&self, name: &str) -> Vec<u8> {
        let machine = self.lock();
        let number = machine.names.get(name).expect("the file exists");
        machine.files[number].current.clone()
    }

    /// Puts a file there, synced.
    pub fn put_image(&self, name: &str, bytes: Vec<u8>) {
        let mut machine = self.lock();
        let number = machine.next_file;
        machine.next_file += 1;
        let file = File {
            durable: bytes.clone(),
            current: bytes,
            pending: Vec::new(),
        };
        machine.files.insert(number, file);
        machine.names.insert(name.into(), number);
        machine.names_durable.insert(name.into(), number);
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine
            .lock()
            .expect("no test goes on after a panic under the lock")
    }
}

impl Machine {
    fn alive(&self) -> Result<(), DiskError> {
        if self.power_lost {
            Err(DiskError::PowerLost)
        } else {
            Ok(())
        }
    }

    /// Counts a change or sync; says whether the power goes out right at it.
    fn step(&mut self) -> Result<bool, DiskError> {
        self.alive()?;
        self.operations += 1;
        self.power_lost = self.cut_at.is_some_and(|at| self.operations >= at);
        Ok(self.power_lost)
    }

    fn change(&mut self, number: u64, change: Change) -> Result<(), DiskError> {
        let cut = self.step()?;
        let used: usize = self.files.values().map(|file| file.current.len()).sum();
        let file = self.files.get_mut(&number).expect("an open file exists");
        let grows = match &change {
            Change::Write { offset, bytes } => offset + bytes.len(),
            Change::Length(len) => *len,
            Change::Punch { .. } => 0,
        }
        .saturating_sub(file.current.len());
        if grows > 0
            && self
                .capacity
                .is_some_and(|capacity| (used + grows) as u64 > capacity)
        {
            return Err(DiskError::Full);
        }
        apply(&mut file.current, &change);
        file.pending.push(change);
        if cut {
            Err(DiskError::PowerLost)
        } else {
            Ok(())
        }
    }

    fn rename_names(&mut self, change: NameChange) -> Result<(), DiskError> {
        let cut = self.step()?;
        apply_name(&mut self.names, &change);
        self.names_pending.push(change);
        if cut {
            Err(DiskError::PowerLost)
        } else {
            Ok(())
        }
    }
}

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => {
            let end = offset + bytes.len();
            if image.len() < end {
                image.resize(end, 0);
            }
            image[*offset..end].copy_from_slice(bytes);
        }
        Change::Length(len) => image.resize(*len, 0),
        Change::Punch { offset, bytes } => {
            let end = (offset + bytes).min(image.len());
            if *offset < end {
                image[*offset..end].fill(0);
            }
        }
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Link(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Rename(from, to, file) => {
            names.remove(from);
            names.insert(to.clone(), *file);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

/// Decides what unsynced changes leave on the medium: each kept, lost or torn, in any order.
fn settle(image: &mut Vec<u8>, pending: &[Change], dice: &mut Dice) {
    let mut order: Vec<&Change> = pending.iter().collect();
    for last in (1..order.len()).rev() {
        order.swap(last, dice.below_len(last + 1));
    }
    for change in order {
        match (dice.below(4), change) {
            (0, _) => {}
            (1, Change::Write { offset, bytes }) if !bytes.is_empty() => {
                tear(image, *offset, bytes, dice);
            }
            _ => apply(image, change),
        }
    }
}

/// Writes some stretches of `bytes` and leaves out others, cut at arbitrary bytes.
fn tear(image: &mut Vec<u8>, offset: usize, bytes: &[u8], dice: &mut Dice) {
    let mut at = 0;
    let mut keep = dice.below(2) == 0;
    while at < bytes.len() {
        let longest = if dice.below(2) == 0 {
            bytes.len()
        } else {
            BLOCK_BYTES
        };
        let end = (at + 1 + dice.below_len(longest)).min(bytes.len());
        if keep {
            let piece = Change::Write {
                offset: offset + at,
                bytes: bytes[at..end].to_vec(),
            };
            apply(image, &piece);
        }
        keep = !keep;
        at = end;
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("files in memory are small")
}

impl Disk for MemoryDisk {
    fn len(&self) -> Result<u64, DiskError> {
        let machine = self.lock();
        machine.alive()?;
        Ok(machine.files[&self.file].current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.check_alignment(offset, buffer);
        let machine = self.lock();
        machine.alive()?;
        let start = position(offset);
        let image = &machine.files[&self.file].current;
        let bytes = image
            .get(start..start + buffer.len())
            .ok_or(DiskError::UnexpectedEnd(offset))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.check_alignment(offset, bytes);
        if !self.direct {
            *self.lock().cached_writes.entry(self.file).or_default() += 1;
        }
        let change = Change::Write {
            offset: position(offset),
            bytes: bytes.to_vec(),
        };
        self.lock().change(self.file, change)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        let mut machine = self.lock();
        if machine.step()? {
            return Err(DiskError::PowerLost);
        }
        machine.syncs += 1;
        let syncs = machine.syncs;
        let fails = machine.fail_sync_at.take_if(|(at, _)| *at == syncs);
        let mut dice = Dice::new(machine.seed ^ machine.syncs);
        let file = machine
            .files
            .get_mut(&self.file)
            .expect("an open file exists");
        let pending = std::mem::take(&mut file.pending);
        if let Some((_, error)) = fails {
            settle(&mut file.durable, &pending, &mut dice);
            return Err(error);
        }
        for change in &pending {
            apply(&mut file.durable, change);
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.lock()
            .change(self.file, Change::Length(position(bytes)))
    }

    fn allocate(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let end = offset + bytes;
        if self.len()? >= end {
            Ok(())
        } else {
            self.set_len(end)
        }
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let change = Change::Punch {
            offset: position(offset),
            bytes: position(bytes),
        };
        self.lock().change(self.file, change)
    }
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine
            .lock()
            .expect("no test goes on after a panic under the lock")
    }

    fn check_alignment(&self, offset: u64, bytes: &[u8]) {
        if self.direct {
            assert!(
                position(offset).is_multiple_of(BLOCK_BYTES)
                    && bytes.len().is_multiple_of(BLOCK_BYTES)
                    && bytes.as_ptr().align_offset(BLOCK_BYTES) == 0,
                "direct I/O is aligned: offset {offset}, {} bytes",
                bytes.len()
            );
        }
    }
}

impl Dir for MemoryDir {
    type Disk = MemoryDisk;

    fn open(&self, name: &str, mode: OpenMode) -> Result<MemoryDisk, DiskError> {
        let mut machine = self.lock();
        machine.alive()?;
        let file = match machine.names.get(name) {
            Some(file) => *file,
            None if mode.create => {
                let file = machine.next_file;
                machine.next_file += 1;
                machine.files.insert(file, File::default());
                machine.rename_names(NameChange::Link(name.into(), file))?;
                file
            }
            None => return Err(DiskError::NotFound(name.into())),
        };
        Ok(MemoryDisk {
            machine: Arc::clone(&self.machine),
            file,
            direct: mode.direct,
        })
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let machine = self.lock();
        machine.alive()?;
        Ok(machine.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.alive()?;
        let file = *machine
            .names
            .get(from)
            .ok_or_else(|| DiskError::NotFound(from.to_string()))?;
        machine.rename_names(NameChange::Rename(from.into(), to.into(), file))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.alive()?;
        if !machine.names.contains_key(name) {
            return Err(DiskError::NotFound(name.into()));
        }
        machine.rename_names(NameChange::Remove(name.into()))
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut machine = self.lock();
        if machine.step()? {
            return Err(DiskError::PowerLost);
        }
        machine.names_durable = machine.names.clone();
        machine.names_pending.clear();
        Ok(())
    }

    fn space(&self) -> Result<Space, DiskError> {
        let machine = self.lock();
        machine.alive()?;
        let used: usize = machine.files.values().map(|file| file.current.len()).sum();
        let total = machine.capacity.unwrap_or(1 << 40);
        Ok(Space {
            free: total.saturating_sub(used as u64),
            total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: OpenMode = OpenMode {
        create: true,
        direct: false,
    };

    fn written(seed: u64) -> (MemoryDir, MemoryDisk) {
        let dir = MemoryDir::new(seed);
        let disk = dir.open("file", CREATE).unwrap();
        disk.write_at(0, &[1; 10_000]).unwrap();
        disk.sync_data().unwrap();
        dir.sync().unwrap();
        disk.write_at(0, &[2; 10_000]).unwrap();
        (dir, disk)
    }

    #[test]
    fn unsynced_writes_are_kept_lost_or_torn_and_synced_ones_stay() {
        let (mut kept, mut lost, mut torn_inside_a_page) = (0, 0, 0);
        for seed in 0..400 {
            let (dir, old) = written(seed);
            let after = dir.restart(seed);
            assert_eq!(old.len(), Err(DiskError::PowerLost));
            let image = after.image("file");
            assert!(image.len() == 10_000 && image.iter().all(|byte| [1, 2].contains(byte)));
            kept += u32::from(image.iter().all(|byte| *byte == 2));
            lost += u32::from(image.iter().all(|byte| *byte == 1));
            let page = &image[..4096];
            torn_inside_a_page += u32::from(page.contains(&1) && page.contains(&2));
        }
        assert!(kept > 20 && lost > 20 && torn_inside_a_page > 20);
    }

    #[test]
    fn what_a_failed_sync_lost_a_later_sync_does_not_bring_back() {
        let lost = (0..100).any(|seed| {
            let (dir, disk) = written(seed);
            dir.fail_sync_after(1);
            assert!(disk.sync_data().is_err());
            disk.sync_data().unwrap();
            assert_eq!(
                dir.image("file"),
                [2; 10_000],
                "the page cache still shows it"
            );
            dir.restart(seed).image("file").contains(&1)
        });
        assert!(lost);
    }

    #[test]
    fn a_full_disk_says_so_and_keeps_what_it_had() {
        let (dir, disk) = written(1);
        dir.set_capacity(10_000);
        assert_eq!(disk.write_at(9_999, &[3; 2]), Err(DiskError::Full));
        disk.write_at(9_998, &[3; 2]).unwrap();
        assert_eq!(dir.space().unwrap().free, 0);
    }

    #[test]
    fn the_power_goes_at_the_operation_asked_for() {
        let (dir, disk) = written(1);
        dir.cut_power_after(2);
        disk.write_at(0, &[3]).unwrap();
        assert_eq!(disk.sync_data(), Err(DiskError::PowerLost));
        assert_eq!(dir.list(), Err(DiskError::PowerLost));
    }
}
