//! What the kernel may keep of a file from one open to the next.

use super::content::{BOTH, create, open, read, sync, write};
use super::harness::Net;
use super::names::attr;
use crate::place::Ino;
use crate::vfs::{Call, Handle, Reply};

fn close(net: &mut Net, client: usize, ino: Ino, handle: Handle) {
    let owner = crate::vfs::LockOwner(1);
    let flush = Call::Flush { ino, handle, owner };
    assert_eq!(net.call(client, flush), Ok(Reply::Done));
    let release = Call::Release {
        ino,
        handle,
        owner: None,
    };
    assert_eq!(net.call(client, release), Ok(Reply::Done));
}

fn keeps(net: &Net, client: usize, handle: Handle) -> bool {
    net.clients[client].keeps_pages(net.both(), handle)
}

#[test]
fn pages_are_kept_once_an_open_file_was_used_and_until_somebody_else_writes() {
    let mut net = Net::new(2, 1);
    let (ino, handle) = create(&mut net, 0);
    write(&mut net, 0, (ino, handle), 0, b"mine");
    sync(&mut net, 0, ino);
    close(&mut net, 0, ino, handle);
    let again = open(&mut net, 0, ino, BOTH);
    assert!(keeps(&net, 0, again), "only this mount wrote");

    let theirs = open(&mut net, 1, ino, BOTH);
    assert!(
        !keeps(&net, 1, theirs),
        "nothing is known of what its kernel has"
    );
    assert_eq!(&read(&mut net, 1, (ino, theirs), 0, 9)[..], b"mine");
    // The first open came without the lease, which somebody else held: it proves nothing.
    let more = open(&mut net, 1, ino, BOTH);
    assert!(!keeps(&net, 1, more), "its kernel has yet to open the file");
    assert_eq!(&read(&mut net, 1, (ino, more), 0, 9)[..], b"mine");
    let more = open(&mut net, 1, ino, BOTH);
    assert!(keeps(&net, 1, more), "its kernel has opened the file");
    write(&mut net, 1, (ino, theirs), 0, b"your");
    sync(&mut net, 1, ino);

    assert!(!keeps(&net, 0, again), "recalled");
    assert_eq!(&read(&mut net, 0, (ino, again), 0, 9)[..], b"your");
    let later = open(&mut net, 0, ino, BOTH);
    assert!(!keeps(&net, 0, later), "somebody else wrote");
    assert_eq!(&read(&mut net, 0, (ino, later), 0, 9)[..], b"your");
    let last = open(&mut net, 0, ino, BOTH);
    assert!(keeps(&net, 0, last));
}

#[test]
fn before_cached_bytes_are_read_nobody_is_asked_while_the_lease_lasts() {
    let mut net = Net::new(2, 2);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"hello");
    let look = |handle| Call::Revalidate {
        ino: file.0,
        handle,
    };
    let before = net.now;
    assert_eq!(attr(net.call(0, look(file.1))).size, 5);
    assert_eq!(net.now, before, "answered at once");
    // Another mount makes it longer: whoever reads on must learn it.
    let theirs = open(&mut net, 1, file.0, BOTH);
    write(&mut net, 1, (file.0, theirs), 5, b" world");
    sync(&mut net, 1, file.0);
    // Whatever the times were set to, the kernel sees another one, and then the true one.
    let first = attr(net.call(0, look(file.1)));
    let then = attr(net.call(0, look(file.1)));
    assert_eq!((first.size, then.size), (11, 11));
    assert_ne!(first.mtime, then.mtime);
    assert_eq!(then.mtime, net.cluster.inodes[&file.0].attr.mtime);
}
