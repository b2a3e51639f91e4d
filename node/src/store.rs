//! Opening what a node keeps on disk.
//!
//! Owns the order of a start: identity, log, state, and what recovery found. Deliberately starts no group: a
//! [`crate::node::Node`] does, once it knows who it is.

use std::sync::Arc;

use polyfs_core::ids::StoreId;
use polyfs_store::extents::Pin;
use polyfs_store::state::{StateConfig, StateDb, StoreError};
use polyfs_store::wal::{self, Log, LogConfig, LogError, Verdict};
use thiserror::Error;

use crate::identity::{self, IdentityError, StoreIdentity};
use crate::runtime::{Lane, Runtime};

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
    /// The log has lost what it promised.
    #[error(
        "the log lost records that were acknowledged, from batch {0} on: this node must come back empty"
    )]
    LogBroken(u64),
    /// Some replica's file data can't be found any more.
    #[error("page maps of {0} replicas are damaged: this node must come back empty")]
    StateBroken(usize),
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
        let identity = identity::start(&*dir, || draw)?;
        let recovery = match wal::recover(&*dir, &config.log)? {
            Some(recovery) => recovery,
            None => {
                wal::create(&*dir, &config.log, life)?;
                wal::recover(&*dir, &config.log)?.ok_or(LogError::Corrupt)?
            }
        };
        let torn = match &recovery.report.verdict {
            Verdict::Clean => false,
            Verdict::TornTail => true,
            Verdict::Corrupt { sequence, .. } => return Err(StoreOpenError::LogBroken(*sequence)),
        };
        let opened = StateDb::open(Arc::clone(&dir), config.state, &recovery.report.extents)?;
        if !opened.damaged.is_empty() {
            return Err(StoreOpenError::StateBroken(opened.damaged.len()));
        }
        let log = recovery.start(&*dir, identity.boot.0)?;
        Ok(Self {
            identity,
            dir,
            log,
            db: opened.db,
            pins: opened.pins,
            torn,
        })
    }
}
