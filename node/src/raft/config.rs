//! openraft's settings: those of P2, and the rest.
//!
//! Owns the one configuration that every group runs with. Deliberately not for users to choose.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use polyfs_core::limits;

/// When a log is shortened, so many of its last entries stay for members that lack a little.
pub const LOG_ENTRIES_KEPT: u64 = 1000;

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("the spans of limits are small")
}

/// The configuration of every group.
///
/// # Panics
/// When a setting that P2 demands is not as it demands.
#[must_use]
pub fn config() -> Arc<Config> {
    let config = Config {
        cluster_name: "polyfs".into(),
        heartbeat_interval: millis(limits::RAFT_HEARTBEAT),
        // A follower stands by its leader for openraft's *maximum* after it last heard of it, and only then waits for a
        // timeout drawn between the two: an election begins between 1.5 and 2 minima of ours, at most our maximum.
        election_timeout_min: millis(limits::RAFT_ELECTION_MIN) / 2,
        election_timeout_max: millis(limits::RAFT_ELECTION_MIN),
        enable_leader_restore: Some(cfg!(planted = "leader_restored")),
        enable_pre_vote: Some(true),
        // Snapshots are views of the state, not built ahead; what may be purged the node decides after a checkpoint.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: LOG_ENTRIES_KEPT,
        // A snapshot is bounded by its own progress, not by a clock.
        install_snapshot_timeout: millis(Duration::from_secs(3600)),
        max_payload_entries: 256,
        ..Config::default()
    };
    let config = config
        .validate()
        .expect("these settings agree with each other");
    assert_protocol(&config);
    Arc::new(config)
}

/// P2: what the protocol rests on.
fn assert_protocol(config: &Config) {
    assert!(
        config.enable_leader_restore == Some(false) || cfg!(planted = "leader_restored"),
        "a restarted leader must not serve from state that lost unflushed applies (P2)"
    );
    assert!(
        config.enable_pre_vote == Some(true),
        "a replica asks before it campaigns (P2)"
    );
    assert!(
        config.allow_log_reversion != Some(true),
        "a log that went back is a broken promise (P2)"
    );
    assert!(
        config.enable_tick && config.enable_heartbeat && config.enable_elect,
        "groups elect and hold leaders by themselves"
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_settings_are_those_of_the_protocol() {
        let config = super::config();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert!(config.heartbeat_interval * 4 <= config.election_timeout_max);
        let latest = super::millis(polyfs_core::limits::RAFT_ELECTION_MAX);
        assert!(config.election_timeout_max * 2 <= latest);
    }
}
