//! Opening what a node keeps on disk.
//!
//! Owns the order of a start: identity, log, state, and what recovery found. Deliberately starts no group: a
//! [`crate::node::Node`] does, once it knows who it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use polyfs_core::ids::{GroupId, Lineage, StoreId};
use polyfs_store::disk::{Dir, DiskError};
use polyfs_store::extents::Pin;
use polyfs_store::state::{StateConfig, StateDb, StoreError, cache_is_true, check_database};
use polyfs_store::wal::{self, Affected, Log, LogConfig, LogError, Verdict};
use thiserror::Error;

use crate::identity::{self, IdentityError, StoreIdentity};
use crate::retired::{self, MarkError, Marked};
use crate::runtime::{Lane, Runtime};

/// What the state database is called.
const STATE_FILE: &str = "state.redb";
/// What one of them is called in errors.
const LOG_FILE: &str = "a file of the log (log-*)";
const DATA_FILE: &str = "a data file (data-*), or the end of one,";
/// The name, among the node's records, of the number of the log's files.
pub(crate) const LOG_SEGMENTS: &str = "log segments";

/// Sizes of what is on disk.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// The log.
    pub log: LogConfig,
    /// State and file data.
    pub state: StateConfig,
}

/// An open store, not yet in use.
pub struct Store<R: Runtime> {
    /// Who it is; this start's boot number is synced.
    pub identity: StoreIdentity,
    pub(crate) dir: Arc<R::Dir>,
    pub(crate) log: Log<R::Dir>,
    pub(crate) db: StateDb<R::Dir>,
    pub(crate) pins: Vec<Pin>,
    /// The last batch was cut: what it held may have been acknowledged (P10).
    pub(crate) torn: bool,
    pub(crate) found: Found,
}

/// What a start finds of the disk's failures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Replicas that never speak again.
    pub(crate) retired: Marked,
    /// Replicas under which a sync failed, before an earlier start.
    pub(crate) suspect: Marked,
    /// Groups whose log is damaged, and how.
    pub(crate) logs: BTreeMap<GroupId, String>,
    /// Lineages whose state or file data is damaged, and how.
    pub(crate) lineages: BTreeMap<Lineage, String>,
    /// A sync failed before this start. What is here was verified all the same, past the page cache.
    pub(crate) poisoned: Option<String>,
}

/// Why a store does not open.
#[derive(Clone, Debug, Error)]
pub enum StoreOpenError {
    /// Its identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its state.
    #[error(transparent)]
    State(#[from] StoreError),
    /// The marks of earlier failures.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log has lost what it promised, and nobody can say whose.
    #[error(
        "the log (log-*) is damaged: records that were acknowledged are lost, from batch {0} on: keep the directory, and start this node with an empty one to be filled by the others, or from a backup if there are none"
    )]
    LogBroken(u64),
    /// A member's file is not there: what it held was promised to others.
    #[error(
        "{file} is missing, and what else is here belongs to a node that was in use: put the file back, or keep the directory and start this node with an empty one to be filled by the others, or from a backup if there are none"
    )]
    Missing {
        /// Which file or files.
        file: &'static str,
    },
    /// After a failed sync the page cache says what the disk does not hold.
    #[error(
        "a sync failed before this start, and {file} reads differently from memory and from the disk: restart the machine, then start this node again"
    )]
    CacheLies {
        /// Which file.
        file: String,
    },
}

impl<R: Runtime> Store<R> {
    /// Opens the store in a directory, or makes one in an empty directory.
    ///
    /// # Errors
    /// When anything is damaged, or the disk fails.
    pub async fn open(
        runtime: &R,
        dir: Arc<R::Dir>,
        config: StoreConfig,
    ) -> Result<Self, StoreOpenError> {
        let draw = u128::from(runtime.random()) << 64 | u128::from(runtime.random());
        let life = runtime.random().max(1);
        runtime
            .blocking(Lane::Checkpoint, move || {
                Self::open_now(dir, &config, StoreId(draw), life)
            })
            .await
    }

    fn open_now(
        dir: Arc<R::Dir>,
        config: &StoreConfig,
        draw: StoreId,
        life: u64,
    ) -> Result<Self, StoreOpenError> {
        let names = dir.list()?;
        let holds = |name: &String| name == STATE_FILE || name.starts_with("log-");
        if names.iter().any(holds) && !names.iter().any(|name| name == identity::FILE) {
            return Err(StoreOpenError::Missing {
                file: identity::FILE,
            });
        }
        let identity = identity::start(&*dir, || draw)?;
        let (suspect, poisoned) = retired::doubts(&*dir)?;
        let mut found = Found {
            retired: retired::retired(&*dir)?,
            suspect,
            poisoned,
            ..Found::default()
        };
        if found.poisoned.is_some() {
            look_past_the_cache(&*dir)?;
        }
        // Both are there before a node becomes a member: without them it would take itself for empty.
        let member = identity.member.is_some();
        if member && !dir.list()?.iter().any(|name| name == STATE_FILE) {
            return Err(StoreOpenError::Missing { file: STATE_FILE });
        }
        check_database(&*dir, config.state.cache_bytes)?;
        let recovery = match wal::recover(&*dir, &config.log)? {
            Some(recovery) => recovery,
            None if member => {
                return Err(StoreOpenError::Missing {
                    file: "the log (log-*)",
                });
            }
            None => {
                wal::create(&*dir, &config.log, life)?;
                wal::recover(&*dir, &config.log)?.ok_or(LogError::Corrupt)?
            }
        };
        // The first start of all has left its mark in the log, and only then a node becomes a member.
        if member && recovery.report.boot == 0 {
            return Err(StoreOpenError::Missing {
                file: "what the log (log-*) held",
            });
        }
        let torn = match &recovery.report.verdict {
            Verdict::Clean => false,
            Verdict::TornTail => true,
            Verdict::Corrupt { sequence, affected } => {
                let Affected::Groups(groups) = affected else {
                    if misses_a_file(&dir.list()?) {
                        return Err(StoreOpenError::Missing { file: LOG_FILE });
                    }
                    return Err(StoreOpenError::LogBroken(*sequence));
                };
                let what = format!("its records in the log (log-*), batch {sequence}");
                found.logs = groups.iter().map(|group| (*group, what.clone())).collect();
                // Whether the tail is torn as well can't be told: it may be.
                true
            }
        };
        let opened = StateDb::open(Arc::clone(&dir), config.state, &recovery.report.extents);
        let opened = opened.map_err(|error| match error {
            StoreError::DataShort => StoreOpenError::Missing { file: DATA_FILE },
            error => error.into(),
        })?;
        if recovery.report.segments < log_segments(&opened.db)? {
            return Err(StoreOpenError::Missing { file: LOG_FILE });
        }
        let what = |lineage| (lineage, "a page map in state.redb".to_owned());
        found.lineages = opened.damaged.into_iter().map(what).collect();
        if found.poisoned.is_some() {
            found.lineages.extend(opened.db.view()?.verify()?);
        }
        let log = recovery.start(&*dir, identity.boot.0)?;
        Ok(Self {
            identity,
            dir,
            log,
            db: opened.db,
            pins: opened.pins,
            torn,
            found,
        })
    }
}

/// Whether a number is left out below the highest of the log's files.
fn misses_a_file(names: &[String]) -> bool {
    let numbers = names.iter().filter_map(|name| name.strip_prefix("log-"));
    let numbers: Vec<u32> = numbers.filter_map(|number| number.parse().ok()).collect();
    let highest = numbers.iter().max().copied().unwrap_or(0);
    usize::try_from(highest).is_ok_and(|highest| highest > numbers.len())
}

/// How many files the log had, as far as the state remembers: the last one is missed by nothing in the others.
fn log_segments<D: Dir>(db: &StateDb<D>) -> Result<usize, StoreError> {
    let noted = db.view()?.get_node(LOG_SEGMENTS)?;
    let bytes = noted.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    let count = bytes.map_or(0, u64::from_le_bytes);
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// P10: nothing trusts the page cache after a failed sync. The log is read past it anyway, where the filesystem can; and
/// what the cache says of a data file is believed only where it agrees with a checksum of what was to be stored: blocks
/// that were not are nobody's, for nothing durable came to refer to them.
fn look_past_the_cache<D: Dir>(dir: &D) -> Result<(), StoreOpenError> {
    for file in dir.list()? {
        if file.starts_with("state.") && !cache_is_true(dir, &file)? {
            return Err(StoreOpenError::CacheLies { file });
        }
    }
    Ok(())
}
