//! Leases that ran out or were lost: what becomes of what was not yet committed.

use bytes::Bytes;
use core::time::Duration;

use super::content::{BOTH, create, open, read, sync, write};
use super::harness::Net;
use crate::attr::SetAttr;
use crate::error::FsError;
use crate::ids::SessionId;
use crate::limits::{LEASE_RENEWAL, LEASE_TERM};
use crate::request::LeaseKind;
use crate::vfs::{AllocateMode, Call, LockOwner, Reply};

#[test]
fn a_lost_lease_with_changed_content_is_told_once() {
    let mut net = Net::new(1, 8);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"mine");
    net.lose_leases(|cluster| cluster.change_content(file.0));
    let fsync = Call::Sync {
        ino: file.0,
        handle: Some(file.1),
        data_only: false,
    };
    assert_eq!(net.call(0, fsync.clone()), Err(FsError::Io));
    let flush = Call::Flush {
        ino: file.0,
        handle: file.1,
        owner: LockOwner(1),
    };
    assert_eq!(net.call(0, flush.clone()), Err(FsError::Io));
    assert_eq!(net.call(0, flush), Ok(Reply::Done));
    assert_eq!(net.call(0, fsync), Ok(Reply::Done));
    assert_eq!(read(&mut net, 0, file, 0, 10).len(), 0);
}

/// Calm seed 45: the mount's own chmod raised the inode's change number, and what it had written was given up.
#[test]
fn a_lost_lease_with_changed_attributes_loses_nothing() {
    let mut net = Net::new(2, 8);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"mine");
    let chmod = Call::SetAttr {
        ino: file.0,
        set: SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        },
        size: None,
        handle: None,
    };
    net.call(0, chmod.clone()).expect("chmod");
    write(&mut net, 0, file, 4, b" and mine");
    net.lose_leases(|cluster| cluster.inodes.get_mut(&file.0).unwrap().attr.change += 1);
    sync(&mut net, 0, file.0);
    assert_eq!(&read(&mut net, 0, file, 0, 20)[..], b"mine and mine");
}

/// P8: who has unsaved bytes asks for all that it held, whatever it is about to do: with less, others come in beside them.
#[test]
fn who_has_unsaved_bytes_takes_back_all_it_held() {
    let mut net = Net::new(2, 15);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"old");
    sync(&mut net, 0, file.0);
    net.cut_off = true;
    net.pass(LEASE_TERM - LEASE_RENEWAL - Duration::from_millis(100));
    write(&mut net, 0, file, 0, b"new");
    net.pass(Duration::from_millis(800));
    net.cluster.drop_leases();
    net.cut_off = false;
    assert_eq!(&read(&mut net, 0, file, 0, 9)[..], b"new");
    let ours = net.cluster.held_by(SessionId(1), file.0);
    assert_eq!(ours, Some(LeaseKind::Exclusive));
    let theirs = open(&mut net, 1, file.0, BOTH);
    assert_eq!(&read(&mut net, 1, (file.0, theirs), 0, 9)[..], b"new");
}

/// P8: what was carried out in part before a lease was lost is not begun again over what others have done since.
#[test]
fn half_of_a_call_is_not_done_again_over_others_bytes() {
    let mut net = Net::new(1, 20);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    let zero = Call::Allocate {
        ino: file.0,
        handle: file.1,
        offset: 0,
        len: 4096,
        mode: AllocateMode::Zero,
    };
    let id = net.start(0, zero);
    let begun = |net: &Net| net.cluster.chunks.values().any(|chunk| chunk[0] == 0);
    assert!(net.run_until(Duration::from_secs(1), begun));
    net.lose_leases(|cluster| {
        let chunk = cluster.chunks.values_mut().next().expect("one chunk");
        chunk[..6].copy_from_slice(b"theirs");
        cluster.change_content(file.0);
    });
    net.pass(Duration::from_secs(10));
    assert_eq!(net.outcomes[&(0, id)], Err(FsError::Io));
    assert_eq!(&read(&mut net, 0, file, 0, 6)[..], b"theirs");
}

#[test]
fn a_lease_that_ran_out_is_not_used() {
    let mut net = Net::new(1, 11);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"old");
    sync(&mut net, 0, file.0);
    net.lose_leases(|cluster| {
        cluster.change_content(file.0);
        let inode = cluster.inodes.get_mut(&file.0).unwrap();
        inode.inline = Some(Bytes::from_static(b"new"));
    });
    net.pass(Duration::from_secs(1));
    assert_eq!(&read(&mut net, 0, file, 0, 10)[..], b"new");
}
