//! The database of one node: opening it, and the doors to its transactions.
//!
//! Owns the order of recovery in the store: data files, database, page maps, the log's extents, and only then space
//! that may be written. Deliberately knows no log: its references are handed in.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use polyfs_core::ids::Lineage;
use redb::{Database, Durability, ReadableTable};

use super::backend::Backend;
use super::batch::StateBatch;
use super::caught::Held;
use super::checkpoint::CheckpointPlan;
use super::error::{Poison, StoreError};
use super::record::{GROUPS, NODE, PAGES, STATE, Tag, corrupt, split, unseal};
use super::reserve::{Reserve, ReserveConfig, SpaceLevel};
use super::shelf::{Base, Shelf, Turns};
use super::view::StateView;
use crate::disk::{Dir, DiskError, OpenMode};
use crate::extent_ref::ExtentRef;
use crate::extents::{DataConfig, DataFiles, PageMap, Pin};

pub(super) const FILE: &str = "state.redb";
/// A database that is being made: without a valid header redb could not open it after a crash.
const FILE_NEW: &str = "state.new";

/// How a node's state is kept.
#[derive(Clone, Copy, Debug)]
pub struct StateConfig {
    /// redb's page cache, in bytes.
    pub cache_bytes: usize,
    /// The data files.
    pub data: DataConfig,
    /// The reserve.
    pub reserve: ReserveConfig,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            data: DataConfig::default(),
            reserve: ReserveConfig::default(),
        }
    }
}

/// What [`StateDb::open`] found.
#[derive(Debug)]
pub struct Opened<D: Dir> {
    /// The database.
    pub db: StateDb<D>,
    /// One for each of the log's extents, in their order: drop it when its record is *durably* purged or truncated.
    pub pins: Vec<Pin>,
    /// Lineages with an unreadable page map: their replicas come back under new ids (P1). Until the store is opened
    /// without any, no space that existed is given out.
    pub damaged: Vec<Lineage>,
}

/// Region state and file data of one node. Clones are the same; dropping the last one loses what no checkpoint made
/// durable, as a crash would.
pub struct StateDb<D: Dir> {
    pub(super) inner: Arc<Inner<D>>,
}

impl<D: Dir> Clone for StateDb<D> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<D: Dir> fmt::Debug for StateDb<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateDb").finish_non_exhaustive()
    }
}

pub(super) struct Inner<D: Dir> {
    // Its tables are dropped before the database they belong to.
    shelf: Mutex<Shelf>,
    /// One batch at a time.
    pub(super) writing: Turns,
    /// One checkpoint at a time.
    pub(super) checkpointing: Turns,
    pub(super) database: Held<Database>,
    sealed: Arc<AtomicBool>,
    pub(super) data: Arc<DataFiles<D>>,
    reserve: Arc<Reserve<D>>,
    pub(super) poison: Poison,
}

impl<D: Dir> Drop for Inner<D> {
    fn drop(&mut self) {
        if cfg!(planted = "redb_durable_behind_our_back") {
            self.spill();
        }
        // Rule 5: the database is dropped after this, and must not write anything out then.
        if !cfg!(planted = "redb_durable_behind_our_back") {
            self.sealed.store(true, Ordering::Release);
        }
    }
}

impl<D: Dir> Inner<D> {
    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("nothing panics under this lock")
    }

    /// Makes a call of the database: its error, or its panic, as ours.
    pub(super) fn ask<T, E: Into<redb::Error>>(
        &self,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, StoreError> {
        self.poison.ask(call)
    }

    /// The same for several calls of which each translates its own errors.
    pub(super) fn ask_all<T>(
        &self,
        calls: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.poison.catch(calls)
    }

    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        self.poison.database(error)
    }
}

impl<D: Dir> StateDb<D> {
    /// Opens the state of a node as the last durable checkpoint left it, or makes an empty one. `log` is every extent
    /// that an unpurged record of the log refers to: without them their space would be given out again.
    ///
    /// # Errors
    /// `CorruptDatabase`, `CorruptExtent` for a reference of the log that cannot be; failures of the
    /// disk.
    pub fn open(
        dir: Arc<D>,
        config: StateConfig,
        log: &[ExtentRef],
    ) -> Result<Opened<D>, StoreError> {
        let poison = Poison::default();
        let data = Arc::new(DataFiles::open(
            Arc::clone(&dir),
            config.data,
            poison.clone(),
        )?);
        let (disk, new) = open_file(&*dir)?;
        let reserve = Arc::new(Reserve::open(Arc::clone(&dir), config.reserve)?);
        data.draw_on(&reserve);
        let sealed = Arc::new(AtomicBool::new(false));
        let backend = Backend::new(
            disk,
            Arc::clone(&data),
            Arc::clone(&reserve),
            Arc::clone(&sealed),
        );
        let mut builder = redb::Builder::new();
        builder.set_cache_size(config.cache_bytes);
        let database = poison.ask(|| builder.create_with_backend(backend))?;
        let database = Held::new(database, &poison);
        if new {
            poison.ask(|| make_tables(&database))?;
            dir.rename(FILE_NEW, FILE)?;
            dir.sync()?;
        }
        let inner = Inner {
            shelf: Mutex::new(Shelf::new(Base::open(&database, &poison)?)),
            writing: Turns::default(),
            checkpointing: Turns::default(),
            database,
            sealed,
            data,
            reserve,
            poison,
        };
        let damaged = inner.derive_space()?;
        let pins = inner.data.finish_open(log, !damaged.is_empty())?;
        Ok(Opened {
            db: Self {
                inner: Arc::new(inner),
            },
            pins,
            damaged,
        })
    }

    /// Begins the one batch there can be; waits for an earlier one to end.
    ///
    /// # Errors
    /// `Poisoned`, failures of the disk.
    pub fn begin(&self) -> Result<StateBatch<'_, D>, StoreError> {
        StateBatch::begin(&self.inner)
    }

    /// The last commit, durable or not, held as it is until dropped. Space that anybody frees meanwhile is not
    /// reused before.
    ///
    /// # Errors
    /// `Poisoned`, failures of the disk.
    pub fn view(&self) -> Result<StateView<D>, StoreError> {
        StateView::new(Arc::clone(&self.inner))
    }

    /// Begins a durable commit of what is committed now; waits for an earlier one to end, and for a batch. Commits go on
    /// meanwhile.
    ///
    /// # Errors
    /// `Poisoned`, `CorruptRecord`, failures of the disk.
    pub fn prepare_checkpoint(&self) -> Result<CheckpointPlan<D>, StoreError> {
        CheckpointPlan::prepare(Arc::clone(&self.inner))
    }

    /// About how many bytes of state are in memory alone, since the last checkpoint began.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.inner.shelf().pending_bytes()
    }

    /// Whether half the room is taken that small overwrites have in memory until a checkpoint writes them.
    #[must_use]
    pub fn pages_crowd(&self) -> bool {
        self.inner.data.fresh_bytes() > self.inner.data.fresh_bytes_max() / 2
    }

    /// Why nothing more is to be believed of this store, once a failed write or sync has made that so (P10).
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        match self.inner.poison.check() {
            Err(StoreError::Poisoned(why)) => Some(why),
            _ => None,
        }
    }

    /// The data files, for the log's payloads.
    #[must_use]
    pub fn data(&self) -> &Arc<DataFiles<D>> {
        &self.inner.data
    }

    /// The reserve.
    #[must_use]
    pub fn reserve(&self) -> &Reserve<D> {
        &self.inner.reserve
    }

    /// How full the disk is.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn space_level(&self) -> Result<SpaceLevel, StoreError> {
        let usage = self.inner.data.usage();
        Ok(self.inner.reserve.space_level(usage.free - usage.holes)?)
    }

    /// Fills the reserve up, with what data files have free if the disk itself has nothing; true when it is whole.
    ///
    /// # Errors
    /// Failures of the disk.
    pub fn refill_reserve(&self) -> Result<bool, StoreError> {
        let Inner { reserve, data, .. } = &*self.inner;
        loop {
            while reserve.refill_step()? {}
            if reserve.is_whole()? {
                return Ok(true);
            }
            let usage = data.usage();
            // A step stays for what comes next.
            let spare = usage.free - usage.holes >= 2 * reserve.step();
            if !spare || data.punch_free(reserve.step())? == 0 {
                return Ok(false);
            }
        }
    }
}

fn open_file<D: Dir>(dir: &D) -> Result<(D::Disk, bool), DiskError> {
    match dir.open(
        FILE,
        OpenMode {
            create: false,
            direct: false,
        },
    ) {
        Ok(disk) => Ok((disk, false)),
        Err(DiskError::NotFound(_)) => {
            if dir.list()?.iter().any(|name| name == FILE_NEW) {
                dir.remove(FILE_NEW)?;
            }
            Ok((
                dir.open(
                    FILE_NEW,
                    OpenMode {
                        create: true,
                        direct: false,
                    },
                )?,
                true,
            ))
        }
        Err(error) => Err(error),
    }
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    for table in [STATE, PAGES, GROUPS, NODE] {
        txn.open_table(table)?;
    }
    Ok(txn.commit()?)
}

impl<D: Dir> Inner<D> {
    /// Marks what the durable page maps refer to; returns the lineages of those that make no sense.
    fn derive_space(&self) -> Result<Vec<Lineage>, StoreError> {
        let sight = self.shelf().newest();
        let table = &sight.base.pages;
        let (mut damaged, mut short) = (Vec::new(), false);
        self.ask_all(|| {
            for row in table.iter().map_err(|error| self.failed(error))? {
                let (key, value) = row.map_err(|error| self.failed(error))?;
                let Some((lineage, _)) = split(key.value()) else {
                    return Err(corrupt(Tag::Pages, key.value()));
                };
                let map = unseal(Tag::Pages, key.value(), value.value())
                    .and_then(|bytes| Ok(PageMap::decode(bytes)?));
                let good = map.is_ok_and(|map| {
                    short |= map.runs().any(|run| !self.data.has(run));
                    let mut runs = map.runs();
                    runs.all(|run| self.data.found_in_page_map(run))
                });
                if !good && damaged.last() != Some(&lineage) {
                    tracing::warn!(%lineage, "a page map is corrupt");
                    damaged.push(lineage);
                }
            }
            Ok(())
        })?;
        if short {
            return Err(StoreError::DataShort);
        }
        Ok(damaged)
    }
}
