//! Every number of the protocol, and the relations between them, checked when compiling.
//!
//! Owns what is fixed for all clusters of this version (P, preamble). Settings that a user may choose belong to cli.

use core::time::Duration;

/// Raft leaders tell their followers that they live this often.
pub const RAFT_HEARTBEAT: Duration = Duration::from_millis(200);
/// A follower that heard nothing for a random time between these two starts an election.
pub const RAFT_ELECTION_MIN: Duration = Duration::from_millis(800);
/// See [`RAFT_ELECTION_MIN`].
pub const RAFT_ELECTION_MAX: Duration = Duration::from_millis(1600);
/// Members register at each waypoint, and the master pings it, this often.
pub const WAYPOINT_PING: Duration = Duration::from_millis(500);
/// A waypoint that just started answers `JustStarted` for this long.
pub const WAYPOINT_WARM_UP: Duration = Duration::from_secs(2);
/// A registration unheard for this long turns into `Lost`.
pub const WAYPOINT_FORGET: Duration = Duration::from_secs(60);
/// A founding claim is valid for this long unless renewed.
pub const CLAIM_LIFE: Duration = Duration::from_secs(10);
/// A founder hears `None` from all waypoints this many times in a row before it claims.
pub const FOUNDING_ROUNDS: u32 = 3;
/// A client that got no answer asks another replica after this.
pub const CLIENT_RETRY: Duration = Duration::from_millis(500);
/// One request between machines is given up after this.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(1);
/// A system call on a mount fails with EIO after this.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// A lease allows caching for this long after the renewal that confirmed it was sent.
pub const LEASE_TERM: Duration = Duration::from_secs(2);
/// Leases are renewed this often, in one frame per mount and node.
pub const LEASE_RENEWAL: Duration = Duration::from_millis(500);
/// A view (what a mount was shown of a name or an inode) is used for at most so long, however often its term is renewed:
/// the leader forgets whom it has shown what.
pub const VIEW_LIFE: Duration = Duration::from_secs(60);
/// Views that one session is granted by a region within [`VIEW_LIFE`].
pub const VIEWS_PER_SESSION: usize = 65_536;
/// Names and inodes that a mount keeps views of, each.
pub const VIEWS_MAX: usize = 16_384;
/// A session lives this long after the renewal that confirmed it was sent.
pub const SESSION_TERM: Duration = Duration::from_secs(10);
/// Sessions are renewed this often.
pub const SESSION_RENEWAL: Duration = Duration::from_secs(2);
/// What a holder subtracts from a term for clocks that run at different rates, in parts per million.
pub const CLOCK_DRIFT_PPM: u32 = 10_000;
/// A node unheard for this long is dead: its replicas are placed elsewhere.
pub const DEAD_AFTER: Duration = Duration::from_secs(30 * 60);
/// A leader whose log has not synced for this long stops its heartbeats (P2).
pub const STALLED_DISK: Duration = Duration::from_secs(1);
/// An undecided transaction older than this may be aborted (P7).
pub const INTENT_LIFE: Duration = Duration::from_secs(1);
/// Dirty data is written back after this at the latest (P9).
pub const WRITE_BACK_AGE: Duration = Duration::from_secs(1);
/// When fsync has been answered, a file's committed times are older than its committed bytes by this at most, as with the
/// coarse clock of a kernel that ticks 100 times a second. Only a mount that dies shows it.
pub const TIMES_BEHIND: Duration = Duration::from_millis(10);

/// Ranges locked on one inode at most.
pub const LOCKS_MAX: usize = 4096;
/// A mount wishes to have an open file's locks delegated with this lock call on it, or a later one.
pub const LOCK_CALLS_ASKED: u32 = 4;
/// A file with more ranges locked is not delegated: the answer that does so lists them, and is remembered.
pub const LOCKS_DELEGATED_MAX: usize = 64;
/// A delegation that had to be recalled is not given anew for so long.
pub const LOCKS_CONTENDED: Duration = Duration::from_secs(10);
/// A request that waits for locks to be given back is put off after this: it comes again, and so does the recall.
pub const LOCKS_AWAITED: Duration = Duration::from_millis(400);

/// A file's content is cut into chunks of this many bytes.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// A whole file of up to this many bytes is kept with its inode.
pub const INLINE_BYTES_MAX: usize = 4096;
/// A chunk's content is kept in pieces of this many bytes.
pub const PAGE_BYTES: usize = 4096;
/// A payload of at least this many bytes is written once, to an extent (P10).
pub const EXTENT_PAYLOAD_BYTES_MIN: usize = 64 << 10;
/// One log entry is at most this large, payload included.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
/// The header of one frame is at most this large.
pub const FRAME_HEADER_BYTES_MAX: usize = 2 << 20;
/// The payload of one frame is at most this large.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// The first frame of a connection, by which a stranger says who it is, is at most this large.
pub const GREETING_BYTES_MAX: usize = 16 << 10;
/// Connections whose greeting is awaited, at one node or waypoint; more are closed at once.
pub const GREETINGS_MAX: usize = 1024;
/// Requests that one session may have outstanding (P6).
pub const SLOTS_PER_SESSION: u8 = 64;
/// The kernel may keep attributes for this long, if their view lasts and until it is told to drop them (P11): about what
/// the walk of a path takes.
pub const ATTR_KEPT: Duration = Duration::from_millis(20);
/// Inodes that the kernel is told that of at most, at a time.
pub const KEPT_MAX: usize = 4096;
/// A mount's dirty data in memory is at most this much.
pub const WRITE_BACK_BYTES_MAX: usize = 64 << 20;
/// The longest name of a directory entry, in bytes (NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;
/// The longest target of a symbolic link, in bytes (PATH_MAX less the terminating zero).
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// The longest value of an extended attribute, in bytes (XATTR_SIZE_MAX).
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// The longest name of an extended attribute, in bytes (XATTR_NAME_MAX).
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// All extended attributes of one inode together, names and values, in bytes.
pub const XATTR_INODE_BYTES_MAX: usize = 128 << 10;
/// The largest size of a file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 62;
/// The largest number of links to one inode.
pub const LINKS_MAX: u32 = 1 << 20;
/// Replicas a group grows to while nodes are there to hold them.
pub const REGION_REPLICAS_GOAL: usize = 3;
/// Voters the Master Raft Group grows to.
pub const MRG_REPLICAS_GOAL: usize = 5;
/// Meta and data regions of a new cluster.
pub const FIRST_REGIONS_PER_KIND: u32 = 2;
/// What of a disk is never counted as free: one part in this many ...
pub const RESERVE_PART: u64 = 20;
/// ... and at least this much.
pub const RESERVE_BYTES_MIN: u64 = 256 << 20;
/// The most of it: what emptying a full disk needs does not grow with the disk (docs/decisions).
pub const RESERVE_BYTES_MAX: u64 = 1 << 30;

const _: () = {
    assert!(
        RAFT_HEARTBEAT.as_millis() * 4 <= RAFT_ELECTION_MIN.as_millis(),
        "three lost heartbeats must not unseat a leader"
    );
    assert!(
        RAFT_ELECTION_MIN.as_millis() * 2 <= RAFT_ELECTION_MAX.as_millis(),
        "elections must spread"
    );
    assert!(
        LEASE_RENEWAL.as_millis() * 3 <= LEASE_TERM.as_millis(),
        "a lease survives two lost renewals"
    );
    assert!(
        LEASE_TERM.as_millis() < VIEW_LIFE.as_millis(),
        "a view lasts longer than one confirmation"
    );
    assert!(
        SESSION_RENEWAL.as_millis() * 3 <= SESSION_TERM.as_millis(),
        "a session survives two lost renewals"
    );
    assert!(
        LEASE_TERM.as_millis() < SESSION_TERM.as_millis(),
        "a session outlives its leases"
    );
    assert!(
        REQUEST_DEADLINE.as_millis() < CALL_DEADLINE.as_millis(),
        "a call outlives its requests"
    );
    assert!(
        CHUNK_BYTES <= ENTRY_BYTES_MAX as u64 / 2,
        "a chunk and its header fit one entry"
    );
    assert!(
        ENTRY_BYTES_MAX <= FRAME_PAYLOAD_BYTES_MAX,
        "an entry fits one frame"
    );
    assert!(INLINE_BYTES_MAX <= XATTR_VALUE_BYTES_MAX);
    assert!(
        GREETING_BYTES_MAX <= FRAME_HEADER_BYTES_MAX,
        "a greeting is a frame"
    );
};
