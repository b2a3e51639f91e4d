//! Contents: write-back, truncation, holes, leases between two mounts.

use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

use super::cluster::{ROOT, kind_of};
use super::harness::Net;
use super::names::attr;
use crate::attr::{FileKind, SetAttr};
use crate::client::port::{CallId, Input};
use crate::client::rng::Rng;
use crate::error::FsError;
use crate::limits::{CALL_DEADLINE, SESSION_TERM, TIMES_BEHIND};
use crate::place::Ino;
use crate::time::Timestamp;
use crate::vfs::{AllocateMode, Call, Handle, OpenFlags, Outcome, Reply, SeekWhat, XattrMode};

pub(super) const BOTH: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};

pub(super) fn create(net: &mut Net, client: usize) -> (Ino, Handle) {
    let call = Call::Create {
        dir: ROOT,
        name: b"f".to_vec(),
        new: kind_of(FileKind::Regular),
        flags: BOTH,
    };
    match net.call(client, call) {
        Ok(Reply::Created(attr, handle)) => (attr.ino, handle),
        other => panic!("not created: {other:?}"),
    }
}

pub(super) fn open(net: &mut Net, client: usize, ino: Ino, flags: OpenFlags) -> Handle {
    match net.call(client, Call::Open { ino, flags }) {
        Ok(Reply::Opened(handle)) => handle,
        other => panic!("not opened: {other:?}"),
    }
}

pub(super) fn write(net: &mut Net, client: usize, file: (Ino, Handle), offset: u64, data: &[u8]) {
    write_at(net, client, file, Some(offset), data);
}

fn write_at(net: &mut Net, client: usize, file: (Ino, Handle), offset: Option<u64>, data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let len = data.len() as u32;
    let (ino, handle) = file;
    let outcome = net.call(
        client,
        Call::Write {
            ino,
            handle,
            offset,
            data,
        },
    );
    assert_eq!(outcome, Ok(Reply::Written(len)));
}

pub(super) fn read(
    net: &mut Net,
    client: usize,
    file: (Ino, Handle),
    offset: u64,
    size: u32,
) -> Bytes {
    let (ino, handle) = file;
    match net.call(
        client,
        Call::Read {
            ino,
            handle,
            offset,
            size,
        },
    ) {
        Ok(Reply::Data(data)) => data,
        other => panic!("not read: {other:?}"),
    }
}

pub(super) fn sync(net: &mut Net, client: usize, ino: Ino) {
    let outcome = net.call(
        client,
        Call::Sync {
            ino,
            handle: None,
            data_only: false,
        },
    );
    assert_eq!(outcome, Ok(Reply::Done));
}

fn set_size(net: &mut Net, client: usize, ino: Ino, size: u64) -> u64 {
    let call = Call::SetAttr {
        ino,
        set: SetAttr::default(),
        size: Some(size),
        handle: None,
    };
    attr(net.call(client, call)).size
}

#[test]
fn a_small_file_is_one_entry_and_fsync_awaits_it() {
    let mut net = Net::new(1, 1);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"hello");
    assert_eq!(net.cluster.inodes[&file.0].attr.size, 0, "in memory");
    assert_eq!(attr(net.call(0, Call::GetAttr { ino: file.0 })).size, 5);
    let before = net.cluster.executed;
    sync(&mut net, 0, file.0);
    assert_eq!(net.cluster.executed, before + 1);
    assert_eq!(
        net.cluster.inodes[&file.0].inline.as_deref(),
        Some(&b"hello"[..])
    );
    write(&mut net, 0, file, 5, b"!");
    net.pass(Duration::from_millis(1500));
    assert_eq!(
        net.cluster.inodes[&file.0].attr.size, 6,
        "written back by age"
    );
}

/// What a mount that dies now would leave of a file's time, and what it shows itself.
fn times(net: &mut Net, ino: Ino) -> (Timestamp, Timestamp) {
    let shown = attr(net.call(0, Call::GetAttr { ino })).mtime;
    (net.cluster.inodes[&ino].attr.mtime, shown)
}

/// Overwrites and syncs until the time of the last overwrite was left behind; gives that time.
fn leave_behind(net: &mut Net, file: (Ino, Handle)) -> Timestamp {
    write(net, 0, file, 0, &[1; 9000]);
    sync(net, 0, file.0);
    for round in 2..20 {
        let executed = net.cluster.executed;
        write(net, 0, file, 1000, &[round; 100]);
        sync(net, 0, file.0);
        let chunk = net.cluster.chunks.values().next().expect("one chunk");
        assert_eq!(chunk[1000], round, "committed");
        let (told, shown) = times(net, file.0);
        assert!(shown <= told + TIMES_BEHIND, "{told:?} {shown:?}");
        if told < shown {
            assert_eq!(net.cluster.executed, executed, "an entry was saved");
            return shown;
        }
    }
    panic!("two overwrites within 10 ms are no rarity here");
}

#[test]
fn synced_overwrites_are_one_entry_each_and_times_follow() {
    let mut net = Net::new(2, 3);
    let file = create(&mut net, 0);
    let shown = leave_behind(&mut net, file);
    let executed = net.cluster.executed;
    net.pass(Duration::from_millis(1500));
    assert_eq!(net.cluster.executed, executed + 1);
    assert_eq!(times(&mut net, file.0), (shown, shown), "by itself");
    net.pass(Duration::from_secs(3));
    assert_eq!(net.cluster.executed, executed + 1, "once");
}

fn start_sync(net: &mut Net, ino: Ino) -> CallId {
    let call = Call::Sync {
        ino,
        handle: None,
        data_only: false,
    };
    net.start(0, call)
}

fn end(net: &mut Net, id: CallId) -> Outcome {
    let over = |net: &Net| net.outcomes.contains_key(&(0, id));
    assert!(net.run_until(Duration::from_secs(1), over));
    net.outcomes[&(0, id)].clone()
}

#[test]
fn a_time_that_is_due_goes_out_beside_the_bytes() {
    let mut net = Net::new(1, 5);
    let file = create(&mut net, 0);
    leave_behind(&mut net, file);
    net.pass(TIMES_BEHIND * 2);
    write(&mut net, 0, file, 2000, b"late");
    let before = net.arriving();
    let id = start_sync(&mut net, file.0);
    assert_eq!(net.arriving(), before + 2, "bytes and time");
    assert_eq!(end(&mut net, id), Ok(Reply::Done));
    let (told, shown) = times(&mut net, file.0);
    assert_eq!(told, shown);
}

/// Bytes of one who calls fdatasync are foreseen without their time; who calls fsync then waits for that too.
#[test]
fn a_sync_of_bytes_under_way_waits_for_their_time() {
    let mut net = Net::new(1, 7);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    for round in 2..12 {
        net.pass(TIMES_BEHIND * 3);
        write(&mut net, 0, file, 1000, &[round; 100]);
        let call = Call::Sync {
            ino: file.0,
            handle: None,
            data_only: true,
        };
        assert_eq!(net.call(0, call), Ok(Reply::Done));
    }
    net.pass(TIMES_BEHIND * 3);
    let before = net.arriving();
    write(&mut net, 0, file, 1000, &[77; 100]);
    assert_eq!(net.arriving(), before + 1, "bytes alone");
    let id = start_sync(&mut net, file.0);
    assert_eq!(end(&mut net, id), Ok(Reply::Done));
    let (told, shown) = times(&mut net, file.0);
    assert!(shown <= told + TIMES_BEHIND, "{told:?} {shown:?}");
}

/// ... and hears of them when they are lost, not of their time.
#[test]
fn a_sync_of_bytes_that_are_lost_fails() {
    let mut net = Net::new(1, 8);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    net.pass(TIMES_BEHIND * 3);
    write(&mut net, 0, file, 1000, &[9; 100]);
    let call = Call::Sync {
        ino: file.0,
        handle: None,
        data_only: true,
    };
    let first = net.start(0, call);
    let second = start_sync(&mut net, file.0);
    write(&mut net, 0, file, 3000, b"kept");
    let third = start_sync(&mut net, file.0);
    net.cluster.data_lost = true;
    assert_eq!(end(&mut net, first), Err(FsError::Io));
    assert_eq!(end(&mut net, second), Err(FsError::Io));
    net.cluster.data_lost = false;
    assert_eq!(
        end(&mut net, third),
        Err(FsError::Io),
        "it is of all before"
    );
    net.pass(Duration::from_millis(1500));
    let chunk = net.cluster.chunks.values().next().expect("one chunk");
    assert_eq!(&chunk[3000..3004], b"kept");
}

#[test]
fn a_time_left_behind_outlives_bytes_that_are_lost_after_it() {
    let mut net = Net::new(1, 8);
    let file = create(&mut net, 0);
    let shown = leave_behind(&mut net, file);
    let size = attr(net.call(0, Call::GetAttr { ino: file.0 })).size;
    net.cluster.data_lost = true;
    write(&mut net, 0, file, 20_000, b"lost");
    let id = start_sync(&mut net, file.0);
    assert_eq!(end(&mut net, id), Err(FsError::Io));
    net.cluster.data_lost = false;
    let after = attr(net.call(0, Call::GetAttr { ino: file.0 })).size;
    assert_eq!(after, size, "of bytes that are lost nothing is shown");
    assert_eq!(read(&mut net, 0, file, 0, 30_000).len() as u64, size);
    net.pass(Duration::from_secs(3));
    assert!(net.cluster.inodes[&file.0].attr.mtime >= shown, "told");
}

#[test]
fn bytes_of_one_who_syncs_each_write_go_out_before_the_sync() {
    let mut net = Net::new(1, 6);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    for round in 2..12 {
        write(&mut net, 0, file, 1000, &[round; 100]);
        sync(&mut net, 0, file.0);
    }
    let before = net.arriving();
    write(&mut net, 0, file, 1000, &[77; 100]);
    let under_way = net.arriving();
    assert!(under_way > before, "nobody has asked for it yet");
    let id = start_sync(&mut net, file.0);
    assert_eq!(net.arriving(), under_way, "and the sync asks for no more");
    assert_eq!(end(&mut net, id), Ok(Reply::Done));
    let chunk = net.cluster.chunks.values().next().expect("one chunk");
    assert_eq!(chunk[1000], 77);
}

#[test]
fn whoever_is_let_in_finds_times_that_were_left_behind() {
    let mut net = Net::new(2, 4);
    let file = create(&mut net, 0);
    let shown = leave_behind(&mut net, file);
    let other = open(&mut net, 1, file.0, BOTH);
    assert_eq!(read(&mut net, 1, (file.0, other), 0, 10000).len(), 9000);
    let seen = attr(net.call(1, Call::GetAttr { ino: file.0 })).mtime;
    assert_eq!(seen, shown, "before the lease was given back");
}

/// utimensat(2) may set a time ahead of everything: what is written later is not later than that.
#[test]
fn a_time_that_was_set_ahead_ends_with_the_next_change() {
    let ahead = Timestamp {
        seconds: 1 << 40,
        nanos: 0,
    };
    for places in [[0, 9000], [9000, 0]] {
        let mut net = Net::new(2, 9);
        let (ino, _) = create(&mut net, 0);
        let inode = net.cluster.inodes.get_mut(&ino).expect("it was made");
        (inode.attr.mtime, inode.attr.change) = (ahead, inode.attr.change + 1);
        let handle = open(&mut net, 1, ino, BOTH);
        let shown = |net: &mut Net| attr(net.call(1, Call::GetAttr { ino })).mtime;
        assert_eq!(shown(&mut net), ahead);
        for at in places {
            write(&mut net, 1, (ino, handle), at, b"now");
            let before = shown(&mut net);
            assert!(before < ahead, "before it is committed");
            let sync = Call::Sync {
                ino,
                handle: None,
                data_only: false,
            };
            let id = net.start(1, sync);
            while !net.outcomes.contains_key(&(1, id)) {
                net.run_until(Duration::from_micros(100), |_| false);
                let now = shown(&mut net);
                assert!(before <= now && now < ahead, "meanwhile: {now:?}");
            }
            assert!(net.cluster.inodes[&ino].attr.mtime < ahead);
        }
    }
}

#[test]
fn fdatasync_leaves_times_to_a_later_fsync() {
    let mut net = Net::new(1, 5);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    net.pass(Duration::from_millis(100));
    let executed = net.cluster.executed;
    write(&mut net, 0, file, 1000, b"data");
    let data_only = Call::Sync {
        ino: file.0,
        handle: None,
        data_only: true,
    };
    assert_eq!(net.call(0, data_only), Ok(Reply::Done));
    assert_eq!(net.cluster.executed, executed, "bytes alone");
    sync(&mut net, 0, file.0);
    assert_eq!(net.cluster.executed, executed + 1, "and now the time");
    let (told, shown) = times(&mut net, file.0);
    assert_eq!(told, shown);
}

#[test]
fn a_time_that_can_not_be_told_any_more_is_no_lost_write() {
    let mut net = Net::new(1, 6);
    let file = create(&mut net, 0);
    leave_behind(&mut net, file);
    net.lose_leases(|cluster| cluster.change_content(file.0));
    sync(&mut net, 0, file.0);
    assert_eq!(read(&mut net, 0, file, 0, 10000).len(), 9000);
}

/// P8, local reads: a leader that answered need not ask the others again, until something is written or the lease is new.
#[test]
fn what_is_written_ends_what_leaders_have_told_before() {
    let mut net = Net::new(2, 7);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    let led = |net: &mut Net, client, handle| {
        net.cluster.reads_led.borrow_mut().clear();
        assert_eq!(read(net, client, (file.0, handle), 0, 9000).len(), 9000);
        net.cluster.reads_led.borrow().clone()
    };
    assert_eq!(led(&mut net, 0, file.1), [false]);
    assert_eq!(led(&mut net, 0, file.1), [true]);
    write(&mut net, 0, file, 0, b"new");
    sync(&mut net, 0, file.0);
    assert_eq!(led(&mut net, 0, file.1), [false], "written since");
    assert_eq!(led(&mut net, 0, file.1), [true]);
    let other = open(&mut net, 1, file.0, BOTH);
    assert_eq!(led(&mut net, 1, other), [false], "another mount");
    write(&mut net, 1, (file.0, other), 0, b"theirs");
    sync(&mut net, 1, file.0);
    assert_eq!(led(&mut net, 0, file.1), [false], "another lease");
}

#[test]
fn a_large_file_leaves_the_inode() {
    let mut net = Net::new(1, 2);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"start");
    sync(&mut net, 0, file.0);
    let big = vec![7_u8; 3 << 20];
    write(&mut net, 0, file, 1000, &big);
    sync(&mut net, 0, file.0);
    assert_eq!(net.cluster.inodes[&file.0].inline, None);
    let all = read(&mut net, 0, file, 0, 4 << 20);
    assert_eq!(all.len(), 1000 + (3 << 20));
    assert_eq!(&all[..5], b"start");
    assert!(all[5..1000].iter().all(|byte| *byte == 0));
    assert!(all[1000..].iter().all(|byte| *byte == 7));
}

#[test]
fn eight_tebibytes_of_hole() {
    let mut net = Net::new(1, 3);
    let file = create(&mut net, 0);
    let far = 8_u64 << 40;
    assert_eq!(set_size(&mut net, 0, file.0, far), far);
    write(&mut net, 0, file, far, b"end");
    sync(&mut net, 0, file.0);
    assert_eq!(&read(&mut net, 0, file, far - 2, 100)[..], b"\0\0end");
    let seek = |what| Call::Seek {
        ino: file.0,
        handle: file.1,
        offset: 0,
        what,
    };
    assert_eq!(net.call(0, seek(SeekWhat::Data)), Ok(Reply::Offset(far)));
    assert_eq!(net.call(0, seek(SeekWhat::Hole)), Ok(Reply::Offset(0)));
    assert!(net.cluster.chunks.len() == 1);
}

#[test]
fn old_bytes_never_come_back() {
    let mut net = Net::new(1, 4);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &vec![9; 100_000]);
    assert_eq!(set_size(&mut net, 0, file.0, 10_000), 10_000);
    write(&mut net, 0, file, 50_000, b"x");
    let unsynced = read(&mut net, 0, file, 0, 200_000);
    sync(&mut net, 0, file.0);
    let synced = read(&mut net, 0, file, 0, 200_000);
    assert_eq!(unsynced, synced);
    assert!(synced[10_000..50_000].iter().all(|byte| *byte == 0));
    assert_eq!(synced.len(), 50_001);
}

#[test]
fn append_goes_to_the_end_known_under_the_lease() {
    let mut net = Net::new(2, 5);
    let file = create(&mut net, 0);
    let append = OpenFlags {
        append: true,
        ..BOTH
    };
    let handles = [
        open(&mut net, 0, file.0, append),
        open(&mut net, 1, file.0, append),
    ];
    for round in 0..10_usize {
        let client = round % 2;
        let at_the_end = None;
        let file = (file.0, handles[client]);
        write_at(&mut net, client, file, at_the_end, &[round as u8]);
    }
    let all = read(&mut net, 0, file, 0, 100);
    assert_eq!(&all[..], (0..10).collect::<Vec<u8>>());
}

#[test]
fn unmount_writes_back_and_closes() {
    let mut net = Net::new(1, 9);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"kept");
    net.input(0, Input::Unmount);
    assert!(net.run_until(Duration::from_secs(5), |net| net.gone == [0]));
    assert_eq!(net.cluster.inodes[&file.0].attr.size, 4);
    assert_eq!(net.cluster.closed.len(), 1);
}

#[test]
fn unmount_ends_without_a_cluster() {
    let mut net = Net::new(1, 9);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, b"too late");
    (net.cut_off, net.master_silent) = (true, true);
    net.input(0, Input::Unmount);
    let limit = CALL_DEADLINE + SESSION_TERM;
    assert!(net.run_until(limit, |net| net.gone == [0]));
}

fn step(net: &mut Net, rng: &mut Rng, model: &mut Vec<u8>, ino: Ino, handles: &[Handle]) {
    let client = rng.below(handles.len() as u64) as usize;
    let handle = handles[client];
    let span = if rng.below(2) == 0 { 6000 } else { 2_500_000 };
    let offset = rng.below(span);
    let most = if rng.below(4) == 0 { 1 << 20 } else { 3000 };
    let len = 1 + rng.below(most);
    let end = (offset + len) as usize;
    let at = offset as usize;
    match rng.below(10) {
        0..=3 => {
            let data = vec![rng.next() as u8; len as usize];
            write(net, client, (ino, handle), offset, &data);
            model.resize(model.len().max(end), 0);
            model[at..end].copy_from_slice(&data);
        }
        4 => {
            assert_eq!(set_size(net, client, ino, offset), offset);
            model.resize(at, 0);
        }
        5 => sync(net, client, ino),
        6 => {
            let modes = [
                AllocateMode::Extend,
                AllocateMode::KeepSize,
                AllocateMode::Punch,
                AllocateMode::Zero,
                AllocateMode::ZeroKeepSize,
            ];
            let mode = modes[rng.below(5) as usize];
            let call = Call::Allocate {
                ino,
                handle,
                offset,
                len,
                mode,
            };
            assert_eq!(net.call(client, call), Ok(Reply::Done));
            if matches!(mode, AllocateMode::Extend | AllocateMode::Zero) {
                model.resize(model.len().max(end), 0);
            }
            if !matches!(mode, AllocateMode::Extend | AllocateMode::KeepSize) {
                let (from, to) = (at.min(model.len()), end.min(model.len()));
                model[from..to].fill(0);
            }
        }
        7 => net.pass(Duration::from_millis(rng.below(3000))),
        _ => {
            let got = read(net, client, (ino, handle), offset, len as u32);
            let (from, to) = (at.min(model.len()), end.min(model.len()));
            assert!(
                got == model[from..to],
                "read {offset}+{len} of {}",
                model.len()
            );
        }
    }
}

fn random_files(clients: usize, loss: u64, seeds: core::ops::Range<u64>) {
    for seed in seeds {
        std::eprintln!("seed {seed}");
        let mut net = Net::new(clients, seed);
        let mut rng = Rng::new(seed);
        let (ino, first) = create(&mut net, 0);
        let mut handles = vec![first];
        for client in 1..clients {
            handles.push(open(&mut net, client, ino, BOTH));
        }
        net.loss_percent = loss;
        let mut model = Vec::new();
        for _ in 0..60 {
            step(&mut net, &mut rng, &mut model, ino, &handles);
        }
        let all = read(
            &mut net,
            clients - 1,
            (ino, handles[clients - 1]),
            0,
            8 << 20,
        );
        assert!(all == model, "seed {seed}: whole content");
    }
}

#[test]
fn random_operations_of_one_mount() {
    random_files(1, 0, 0..15);
}

#[test]
fn random_operations_of_one_mount_with_losses() {
    random_files(1, 10, 100..110);
}

#[test]
fn random_operations_of_two_mounts() {
    random_files(2, 0, 200..210);
}

#[test]
fn random_operations_of_two_mounts_with_losses() {
    random_files(2, 5, 300..308);
}

#[test]
fn two_mounts_write_and_read_at_once() {
    for seed in 400..410 {
        let mut net = Net::new(2, seed);
        let mut rng = Rng::new(seed);
        let (ino, first) = create(&mut net, 0);
        let handles = [first, open(&mut net, 1, ino, BOTH)];
        net.loss_percent = seed % 2 * 5;
        let mut model = vec![0_u8; 64 * 50_000];
        let mut calls = Vec::new();
        for number in 0..64_u64 {
            let client = rng.below(2) as usize;
            let handle = handles[client];
            let offset = number * 50_000;
            let data = Bytes::from(vec![number as u8 + 1; 50_000]);
            model[offset as usize..][..50_000].copy_from_slice(&data);
            let write = Call::Write {
                ino,
                handle,
                offset: Some(offset),
                data,
            };
            calls.push((client, net.start(client, write)));
            let size = 50_000;
            let read = Call::Read {
                ino,
                handle,
                offset,
                size,
            };
            calls.push((1 - client, net.start(1 - client, Call::GetAttr { ino })));
            calls.push((client, net.start(client, read)));
            if number % 9 == 0 {
                let fsync = Call::Sync {
                    ino,
                    handle: None,
                    data_only: false,
                };
                calls.push((client, net.start(client, fsync)));
            }
            net.pass(Duration::from_millis(rng.below(30)));
        }
        let over = net.run_until(Duration::from_secs(60), |net| {
            calls.iter().all(|call| net.outcomes.contains_key(call))
        });
        assert!(over, "seed {seed}: a call hangs");
        assert!(net.outcomes.values().all(Result::is_ok), "seed {seed}");
        let all = read(&mut net, 0, (ino, handles[0]), 0, 8 << 20);
        assert!(all == model, "seed {seed}: whole content");
    }
}

#[test]
fn writers_wait_for_memory() {
    let mut net = Net::new(1, 7);
    let (ino, handle) = create(&mut net, 0);
    let calls: Vec<_> = (0..12_u64)
        .map(|number| {
            let data = Bytes::from(vec![number as u8; 1 << 20]);
            let offset = number << 20;
            (
                0,
                net.start(
                    0,
                    Call::Write {
                        ino,
                        handle,
                        offset: Some(offset),
                        data,
                    },
                ),
            )
        })
        .collect();
    assert!(net.outcomes.len() < 6, "three MiB of memory");
    let over = net.run_until(Duration::from_secs(60), |net| {
        calls.iter().all(|call| net.outcomes.contains_key(call))
    });
    assert!(over, "writers go on when write-back has freed memory");
    sync(&mut net, 0, ino);
    assert_eq!(net.cluster.inodes[&ino].attr.size, 12 << 20);
}

/// What one file's writer lost is memory for another's.
#[test]
fn writers_that_wait_for_memory_go_on_when_what_filled_it_is_lost() {
    let mut net = Net::new(1, 7);
    let full = create(&mut net, 0);
    let other = Call::Create {
        dir: ROOT,
        name: b"other".to_vec(),
        new: kind_of(FileKind::Regular),
        flags: BOTH,
    };
    let Ok(Reply::Created(attr, handle)) = net.call(0, other) else {
        panic!("not created");
    };
    for number in 0..3 {
        write(&mut net, 0, full, number << 20, &vec![1; 1 << 20]);
    }
    net.cut_off = true;
    let waiting = Call::Write {
        ino: attr.ino,
        handle,
        offset: Some(0),
        data: Bytes::from(vec![2; 1 << 20]),
    };
    let waiting = net.start(0, waiting);
    assert!(!net.outcomes.contains_key(&(0, waiting)), "memory is full");
    net.clients[0].lose_dirty(full.0, FsError::Io);
    net.input(0, Input::Tick);
    assert!(net.outcomes.contains_key(&(0, waiting)), "it is free");
}

#[test]
fn a_capability_set_after_a_write_outlives_that_write() {
    let mut net = Net::new(1, 13);
    let file = create(&mut net, 0);
    let name = b"security.capability".to_vec();
    for step in 0..2 {
        write(&mut net, 0, file, step * 5000, &[7; 5000]);
        let set = Call::SetXattr {
            ino: file.0,
            name: name.clone(),
            value: Bytes::from_static(b"cap"),
            mode: XattrMode::Set,
        };
        assert_eq!(net.call(0, set), Ok(Reply::Done));
        net.pass(Duration::from_secs(3));
        let get = Call::GetXattr {
            ino: file.0,
            name: name.clone(),
        };
        assert_eq!(
            net.call(0, get),
            Ok(Reply::Data(Bytes::from_static(b"cap")))
        );
    }
}

/// A read merges what it is told with what is unsaved when it ends: what was saved meanwhile it might have from neither.
#[test]
fn write_back_waits_for_reads_under_way() {
    let mut net = Net::new(1, 14);
    let file = create(&mut net, 0);
    write(&mut net, 0, file, 0, &[1; 9000]);
    sync(&mut net, 0, file.0);
    let reading = net.start(
        0,
        Call::Read {
            ino: file.0,
            handle: file.1,
            offset: 0,
            size: 9000,
        },
    );
    let asked = net.arriving();
    write(&mut net, 0, file, 1000, &[2; 100]);
    let syncing = start_sync(&mut net, file.0);
    assert_eq!(net.arriving(), asked, "the read's question alone");
    assert_eq!(end(&mut net, syncing), Ok(Reply::Done));
    let Ok(Reply::Data(data)) = end(&mut net, reading) else {
        panic!("not read");
    };
    assert_eq!((data[999], data.len()), (1, 9000));
    let chunk = net.cluster.chunks.values().next().expect("one chunk");
    assert_eq!(chunk[1000], 2, "committed");
}
