//! Handles: what their holders are told, and what open and O_APPEND mean for each.

use core::time::Duration;

use super::cluster::ROOT;
use super::content::{BOTH, create, open, read, sync, write};
use super::harness::Net;
use crate::error::FsError;
use crate::vfs::{Call, LockOwner, OpenFlags, Reply};

/// fsync(2) of one descriptor says nothing to the others, and a child that closes what it inherited says it to nobody.
#[test]
fn each_descriptor_hears_of_a_lost_write() {
    let mut net = Net::new(1, 16);
    let file = create(&mut net, 0);
    let handles = [file.1, open(&mut net, 0, file.0, BOTH)];
    write(&mut net, 0, file, 0, b"mine");
    net.lose_leases(|cluster| cluster.change_content(file.0));
    net.pass(Duration::from_secs(4));
    let child_closes = Call::Flush {
        ino: file.0,
        handle: handles[1],
        owner: LockOwner(2),
    };
    assert_eq!(net.call(0, child_closes), Err(FsError::Io));
    let mut sync = |handle| {
        let call = Call::Sync {
            ino: file.0,
            handle: Some(handle),
            data_only: true,
        };
        net.call(0, call)
    };
    for handle in handles {
        assert_eq!(sync(handle), Err(FsError::Io));
        assert_eq!(sync(handle), Ok(Reply::Done), "once");
    }
}

/// A mapping of a file that was opened to append, or one whose O_APPEND was cleared since.
#[test]
fn what_is_written_at_a_place_is_not_appended() {
    let mut net = Net::new(1, 17);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"12345678");
    let append = OpenFlags {
        append: true,
        ..BOTH
    };
    let handle = open(&mut net, 0, file.0, append);
    write(&mut net, 0, (file.0, handle), 0, b"x");
    assert_eq!(&read(&mut net, 0, file, 0, 20)[..], b"x2345678");
}

/// The kernel closes only what it was told is open.
#[test]
fn an_open_that_could_not_truncate_leaves_nothing_open() {
    let mut net = Net::new(1, 18);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    let release = Call::Release {
        ino: file.0,
        handle: file.1,
        owner: None,
    };
    assert_eq!(net.call(0, release), Ok(Reply::Done));
    net.cut_off = true;
    let truncate = Call::Open {
        ino: file.0,
        flags: OpenFlags {
            truncate: true,
            ..BOTH
        },
    };
    assert!(net.call(0, truncate).is_err());
    assert!(!net.clients[0].has_open(file.0));
}

#[test]
fn a_directory_is_open_while_it_is_listed() {
    let mut net = Net::new(1, 19);
    let Ok(Reply::Opened(handle)) = net.call(0, Call::OpenDir { ino: ROOT }) else {
        panic!("not opened");
    };
    assert!(net.clients[0].is_open(ROOT));
    let close = Call::ReleaseDir { handle };
    assert_eq!(net.call(0, close), Ok(Reply::Done));
    assert!(!net.clients[0].is_open(ROOT));
}
