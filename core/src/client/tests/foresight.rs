//! Lookups that bring the lease of a file that is about to be read.

use alloc::vec::Vec;
use alloc::{format, vec};
use core::time::Duration;

use super::cluster::{ROOT, kind_of, same_region};
use super::content::{BOTH, open, write};
use super::harness::Net;
use super::names::attr;
use crate::attr::{FileKind, Name};
use crate::client::port::Input;
use crate::place::Ino;
use crate::vfs::{Call, OpenFlags, Reply};

const READ: OpenFlags = OpenFlags {
    write: false,
    ..BOTH
};

/// Makes so many files, and forgets that it did.
fn files_of_another_mount(net: &mut Net, count: usize) -> Vec<(Name, Ino)> {
    let mut files = Vec::new();
    for number in 0..count {
        let name = format!("r{number}").into_bytes();
        let call = Call::Create {
            dir: ROOT,
            name: name.clone(),
            new: kind_of(FileKind::Regular),
            flags: BOTH,
        };
        let Ok(Reply::Created(attr, handle)) = net.call(0, call) else {
            panic!("not created");
        };
        let ino = attr.ino;
        write(net, 0, (ino, handle), 0, &name);
        assert_eq!(
            net.call(
                0,
                Call::Release {
                    ino,
                    handle,
                    owner: None
                }
            ),
            Ok(Reply::Done)
        );
        files.push((name, ino));
    }
    net.input(0, Input::Unmount);
    assert!(net.run_until(Duration::from_secs(60), |net| net.gone.contains(&0)));
    files
}

#[test]
fn a_file_that_is_looked_up_and_read_like_those_before_is_asked_for_once() {
    let mut net = Net::new(2, 11);
    let files = files_of_another_mount(&mut net, 12);
    let mut questions = Vec::new();
    assert!(net.call(1, Call::GetAttr { ino: ROOT }).is_ok());
    for (name, ino) in files {
        let before = net.cluster.queries;
        let found = attr(net.call(
            1,
            Call::Lookup {
                dir: ROOT,
                name: name.clone(),
            },
        ));
        assert_eq!((found.ino, found.size), (ino, name.len() as u64));
        let handle = open(&mut net, 1, ino, READ);
        let read = Call::Read {
            ino,
            handle,
            offset: 0,
            size: 100,
        };
        assert_eq!(net.call(1, read), Ok(Reply::Data(name.into())));
        if same_region(ROOT, ino) {
            questions.push(net.cluster.queries - before);
        }
    }
    assert_eq!(questions.first(), Some(&2), "nothing is foreseen yet");
    assert_eq!(questions.last(), Some(&1), "{questions:?}");
}

/// A mount that has opened each file it looked up, and the lookup of one more.
fn foreseeing(seed: u64) -> (Net, Call, Ino) {
    let mut net = Net::new(2, seed);
    let files = files_of_another_mount(&mut net, 12);
    let lookup = |name: &Name| Call::Lookup {
        dir: ROOT,
        name: name.clone(),
    };
    let (unused, read) = files.split_last().unwrap();
    for (name, ino) in read {
        assert_eq!(attr(net.call(1, lookup(name))).ino, *ino);
        open(&mut net, 1, *ino, READ);
    }
    // Longer than a file may be idle: a clock that begins at zero would hide a file that seems to have been so for ever.
    net.pass(Duration::from_secs(20));
    (net, lookup(&unused.0), unused.1)
}

#[test]
fn a_lease_that_a_lookup_brought_is_given_back_when_nobody_uses_it() {
    let (mut net, lookup, ino) = foreseeing(12);
    assert!(net.call(1, lookup).is_ok());
    assert_eq!(net.cluster.holders(ino), 1, "it came along");
    net.pass(Duration::from_secs(5));
    assert_eq!(net.cluster.holders(ino), 1, "it may still be used");
    net.pass(Duration::from_secs(10));
    assert_eq!(net.cluster.holders(ino), 0);
}

/// P9: the leader is being told that the file is not open here, and may forget it: a lease on its way opens nothing.
#[test]
fn a_lease_that_comes_while_the_file_is_disowned_is_not_used() {
    let (mut net, lookup, ino) = foreseeing(13);
    let before = net.cluster.queries;
    net.start(1, lookup);
    assert!(net.run_until(Duration::from_secs(1), |net| net.cluster.queries > before));
    net.silent = true;
    net.input(1, Input::AskOpen { inos: vec![ino] });
    net.pass(Duration::from_millis(10));
    net.silent = false;
    net.pass(Duration::from_secs(2));
    let before = net.cluster.queries;
    open(&mut net, 1, ino, READ);
    assert_eq!(net.cluster.queries, before + 1, "the region was asked");
}
