//! How much of their logs a node's groups keep after a checkpoint.
//!
//! Owns the decision. openraft purges, of what is durable in the state; the log itself drops files.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::metrics::RaftMetrics;
use openraft_rt::Instant as _;
use openraft_rt::watch::WatchReceiver;
use polyfs_store::wal::Pressure;

use super::Node;
use crate::raft::config::LOG_ENTRIES_KEPT;
use crate::raft::types::{LogId, TypeConfig};
use crate::runtime::Runtime;

/// A group's log is shortened when it is longer than this.
const LOG_ENTRIES_MAX: u64 = 8192;
/// File data that only the log still refers to may take so many bytes; then the log is purged of what all members have.
const KEPT_BYTES_MAX: u64 = 16 << 20;
/// As [`KEPT_BYTES_MAX`], whatever a member lacks: it is brought up to date by a snapshot when it comes back.
const KEPT_BYTES_AT_ALL: u64 = 4 << 30;
/// A member that its leader has heard of so recently gets what it lacks from the log. One that a snapshot is on its way to
/// needs what was written meanwhile: without it the snapshot would have to be sent again, and again.
const HEARD: Duration = Duration::from_secs(5);

/// The entries of a group's log, by index.
struct Span {
    applied: u64,
    purged: u64,
    /// What the slowest member has, as far as its leader knows; nothing where this replica does not lead.
    slowest: Option<u64>,
    /// ... of those it has heard of lately.
    slowest_heard: Option<u64>,
}

impl Span {
    fn of<R: Runtime>(metrics: &RaftMetrics<TypeConfig<R>>) -> Self {
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index());
        let heard = |member: &u64| {
            let acked = metrics.heartbeat.as_ref()?.get(member)?.as_ref()?;
            Some(acked.elapsed() < HEARD)
        };
        let members = || metrics.replication.iter().flat_map(BTreeMap::iter);
        let alive = members().filter(|(member, _)| heard(member) == Some(true));
        Self {
            applied: index(metrics.last_applied),
            purged: index(metrics.purged),
            slowest: members().map(|(_, matched)| index(*matched)).min(),
            slowest_heard: alive.map(|(_, matched)| index(*matched)).min(),
        }
    }

    /// Whether it is to go, but for its last entries, which nobody who was heard of lacks more of.
    fn is_long(&self) -> bool {
        let lacks_no_more = |matched| matched + LOG_ENTRIES_KEPT >= self.applied;
        self.applied.saturating_sub(self.purged) > LOG_ENTRIES_MAX
            && self.slowest_heard.is_none_or(lacks_no_more)
    }
}

impl<R: Runtime> Node<R> {
    /// Lets openraft purge what a checkpoint has made unnecessary: of long logs, and of all when the log needs room or
    /// holds file data that nothing else refers to any more.
    pub(super) async fn shorten_logs(&self) {
        let kept = self.inner.ground.state.kept_by_log();
        let tight = self.inner.ground.log.pressure() > Pressure::None
            || kept > KEPT_BYTES_AT_ALL
            || kept > 0 && self.inner.ground.state.reserve_only();
        if tight {
            self.drop_lost_logs();
        }
        for group in self.groups() {
            let raft = group.replica().raft();
            let span = Span::of(&raft.metrics().borrow_watched());
            let (applied, purged) = (span.applied, span.purged);
            if applied > purged && (tight || span.is_long()) {
                // A replica that is stopping needs no shorter log.
                let _ = raft.trigger().snapshot().await;
            }
            // What a member lacks stays in its leader's log: a snapshot would cost far more.
            let spare = if tight { None } else { span.slowest };
            let spare = spare.map_or(applied, |slowest| slowest.min(applied));
            if spare > purged && (tight || kept > KEPT_BYTES_MAX) {
                let _ = raft.trigger().snapshot().await;
                let _ = raft.trigger().purge_log(spare).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_long(purged: u64, slowest_heard: Option<u64>) -> bool {
        let span = Span {
            applied: 20_000,
            purged,
            slowest: Some(0),
            slowest_heard,
        };
        span.is_long()
    }

    #[test]
    fn a_long_log_waits_for_whoever_is_there_and_for_nobody_else() {
        assert!(!is_long(20_000 - LOG_ENTRIES_MAX, None), "not long");
        assert!(is_long(1, None), "nobody is there, or others lead");
        assert!(is_long(1, Some(19_900)));
        assert!(!is_long(1, Some(0)), "a snapshot is on its way to it");
        let installed = 15_000;
        assert!(!is_long(1, Some(installed)), "what was written meanwhile");
        assert!(is_long(1, Some(20_000 - LOG_ENTRIES_KEPT)));
    }
}
