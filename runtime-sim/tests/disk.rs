//! What the faulty disk does, and what it never does.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polyfs_runtime_sim::{Fails, Machine, SimDir, SimDisk, SimRuntime, World};
use polyfs_store::disk::{Dir, Disk, DiskError, OpenMode};

const CREATE: OpenMode = OpenMode {
    create: true,
    direct: false,
};

/// Starts the machine (anew) and hands out the directory of this boot.
async fn boot(world: &World, machine: &Machine) -> SimDir {
    let slot: Arc<Mutex<Option<SimDir>>> = Arc::default();
    let place = Arc::clone(&slot);
    machine.start(move |runtime: SimRuntime| {
        *place.lock() = Some(runtime.dir());
        std::future::pending()
    });
    world.sleep(Duration::from_millis(1)).await;
    slot.lock().take().expect("the program has started")
}

/// Runs a test on the disk of one machine.
fn on_a_disk<T: Send + 'static>(
    seed: u64,
    test: impl AsyncFnOnce(World, Machine, SimDir) -> T + Send + 'static,
) -> T {
    World::run(seed, async move |world| {
        let machine = world.machine("m");
        let dir = boot(&world, &machine).await;
        test(world, machine, dir).await
    })
}

fn read(disk: &SimDisk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.len().unwrap()).unwrap()];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

fn content(dir: &SimDir, name: &str) -> Option<Vec<u8>> {
    let mode = OpenMode {
        create: false,
        direct: false,
    };
    match dir.open(name, mode) {
        Ok(disk) => Some(read(&disk)),
        Err(DiskError::NotFound(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_was_synced_survives_every_power_cut() {
    for seed in 0..100 {
        on_a_disk(seed, async move |world, machine, dir| {
            let disk = dir.open("f", CREATE).unwrap();
            dir.sync().unwrap();
            let mut expected = vec![];
            for round in 1..20_u8 {
                let at = world.random() % 20_000;
                let bytes = vec![round; usize::try_from(1 + world.random() % 9_000).unwrap()];
                disk.write_at(at, &bytes).unwrap();
                let (start, end) = (
                    usize::try_from(at).unwrap(),
                    usize::try_from(at).unwrap() + bytes.len(),
                );
                expected.resize(expected.len().max(end), 0);
                expected[start..end].fill(round);
            }
            disk.sync_data().unwrap();
            machine.crash();
            assert_eq!(
                disk.len(),
                Err(DiskError::PowerLost),
                "handles die with their boot"
            );
            assert_eq!(dir.list(), Err(DiskError::PowerLost));
            let dir = boot(&world, &machine).await;
            assert!(content(&dir, "f").unwrap() == expected);
            drop(disk);
            assert!(
                content(&dir, "f").unwrap() == expected,
                "an old handle does no harm"
            );
        });
    }
}

#[test]
fn what_was_not_synced_meets_every_fate() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let fate = on_a_disk(seed, async move |world, machine, dir| {
            let disk = dir.open("f", CREATE).unwrap();
            dir.sync().unwrap();
            disk.write_at(0, &[1; 3 * 8192]).unwrap();
            disk.sync_data().unwrap();
            disk.write_at(0, &[2; 8192]).unwrap();
            disk.write_at(8192, &[3; 8192]).unwrap();
            machine.crash();
            let dir = boot(&world, &machine).await;
            let bytes = content(&dir, "f").unwrap();
            assert!(bytes[16384..].iter().all(|byte| *byte == 1), "seed {seed}");
            let fate = |range: std::ops::Range<usize>, new: u8| {
                let count = bytes[range.clone()]
                    .iter()
                    .filter(|byte| **byte == new)
                    .count();
                assert!(
                    bytes[range].iter().all(|byte| [1, new].contains(byte)),
                    "seed {seed}"
                );
                match count {
                    0 => "lost",
                    8192 => "kept",
                    count if count % 4096 == 0 => "torn at a page",
                    _ => "torn inside a page",
                }
            };
            (fate(0..8192, 2), fate(8192..16384, 3))
        });
        seen.insert(fate);
    }
    for wanted in [
        ("lost", "lost"),
        ("kept", "kept"),
        ("kept", "lost"),
        ("lost", "kept"),
        ("torn inside a page", "kept"),
        ("lost", "torn inside a page"),
    ] {
        assert!(seen.contains(&wanted), "{wanted:?} in {seen:?}");
    }
}

#[test]
fn names_that_were_not_synced_may_be_lost_and_renames_are_whole() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let found = on_a_disk(seed, async move |world, machine, dir| {
            for (name, bytes) in [("old", b"old"), ("gone", b"xxx")] {
                let disk = dir.open(name, CREATE).unwrap();
                disk.write_at(0, bytes).unwrap();
                disk.sync_data().unwrap();
            }
            dir.sync().unwrap();
            for (name, bytes) in [("new", b"new"), ("temporary", b"NEW")] {
                let disk = dir.open(name, CREATE).unwrap();
                disk.write_at(0, bytes).unwrap();
                disk.sync_data().unwrap();
            }
            dir.rename("temporary", "old").unwrap();
            dir.remove("gone").unwrap();
            machine.crash();
            let dir = boot(&world, &machine).await;
            let old = content(&dir, "old").expect("a name that was synced and replaced is there");
            assert!([b"old", b"NEW"].contains(&old.as_slice().try_into().unwrap()));
            let temporary = content(&dir, "temporary");
            assert!(temporary.is_none() || old == b"old", "one file, one name");
            (
                content(&dir, "new").is_some(),
                old == b"NEW",
                content(&dir, "gone").is_some(),
            )
        });
        seen.insert(found);
    }
    assert_eq!(seen.len(), 8, "each is lost or kept by itself: {seen:?}");
}

/// Every byte read after a cut is one that was durable, or that was written there since.
#[test]
fn no_power_cut_invents_bytes() {
    for seed in 0..150 {
        on_a_disk(seed, async move |world, machine, dir| {
            let disk = dir.open("f", CREATE).unwrap();
            dir.sync().unwrap();
            let size: u64 = 40_000;
            disk.set_len(size).unwrap();
            disk.sync_data().unwrap();
            let mut now = vec![0_u8; 40_000];
            // Per byte, a bit for each value it may have.
            let mut allowed = vec![1_u64; 40_000];
            let (mut disk, mut dir) = (disk, dir);
            for round in 0..60 {
                let at = world.random() % size;
                let bytes = 1 + world.random() % (size - at).min(9_000);
                let range = usize::try_from(at).unwrap()..usize::try_from(at + bytes).unwrap();
                let fill = u8::try_from(round + 1).unwrap();
                match world.random() % 8 {
                    0 => {
                        disk.sync_data().unwrap();
                        allowed = now.iter().map(|byte| 1 << byte).collect();
                        continue;
                    }
                    1 => {
                        machine.crash();
                        dir = boot(&world, &machine).await;
                        disk = dir.open("f", CREATE).unwrap();
                        now = read(&disk);
                        assert_eq!(now.len(), 40_000, "seed {seed}");
                        for (at, byte) in now.iter().enumerate() {
                            assert!(allowed[at] >> byte & 1 == 1, "seed {seed}: {byte} at {at}");
                        }
                        allowed = now.iter().map(|byte| 1 << byte).collect();
                        continue;
                    }
                    2 => {
                        disk.punch(at, bytes).unwrap();
                        now[range.clone()].fill(0);
                    }
                    3 => disk.allocate(at, bytes).unwrap(),
                    _ => {
                        disk.write_at(at, &vec![fill; range.len()]).unwrap();
                        now[range.clone()].fill(fill);
                    }
                }
                for at in range {
                    allowed[at] |= 1 << now[at];
                }
                assert!(
                    read(&disk) == now,
                    "seed {seed}: while there is power all is as written"
                );
            }
            drop(dir);
        });
    }
}

#[test]
fn the_power_can_fail_at_any_operation() {
    let mut completed = 0;
    for after in 0..12 {
        for seed in 0..10 {
            let done = on_a_disk(seed, async move |world, machine, dir| {
                machine.disk().power_fails_after(after);
                let work = || -> Result<(), DiskError> {
                    let disk = dir.open("f", CREATE)?;
                    dir.sync()?;
                    for round in 1..=4 {
                        disk.write_at(0, &[round; 10_000])?;
                        disk.sync_data()?;
                    }
                    Ok(())
                };
                let result = work();
                world.sleep(Duration::from_millis(1)).await;
                if let Err(error) = &result {
                    assert_eq!(*error, DiskError::PowerLost);
                    assert!(!machine.is_running(), "the machine goes with its power");
                } else {
                    assert!(machine.is_running());
                    machine.crash();
                }
                let dir = boot(&world, &machine).await;
                let bytes = content(&dir, "f").unwrap_or_default();
                // Operation 0 is the directory's sync; 1, 3, 5, 7 write; 2, 4, 6, 8 sync.
                let synced = u8::try_from(after.saturating_sub(1) / 2).unwrap().min(4);
                assert!(bytes.is_empty() || bytes.len() <= 10_000);
                if synced > 0 {
                    assert!(
                        bytes.iter().all(|byte| [synced, synced + 1].contains(byte)),
                        "seed {seed}, after {after}: what was synced is there, or torn by what came next"
                    );
                }
                u64::from(result.is_ok())
            });
            completed += done;
        }
    }
    assert_eq!(completed, 3 * 10, "nine operations need nine");
}

#[test]
fn a_failed_sync_proves_nothing_and_the_next_one_even_less() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let survived = on_a_disk(seed, async move |world, machine, dir| {
            let disk = dir.open("f", CREATE).unwrap();
            dir.sync().unwrap();
            disk.set_len(4096).unwrap();
            disk.sync_data().unwrap();
            disk.write_at(0, &[7; 4096]).unwrap();
            machine.disk().fail_syncs(Fails::Next(1));
            assert!(matches!(disk.sync_data(), Err(DiskError::Failed(_))));
            assert_eq!(disk.sync_data(), Ok(()), "as Linux does");
            assert!(read(&disk) == [7; 4096], "the cache still has it");
            machine.crash();
            let dir = boot(&world, &machine).await;
            let bytes = content(&dir, "f").unwrap();
            assert!(bytes == [7; 4096] || bytes == [0; 4096]);
            bytes[0] == 7
        });
        seen.insert(survived);
    }
    assert_eq!(seen.len(), 2, "it may have been lost for good, and may not");
    on_a_disk(1, async move |_, machine, dir| {
        let disk = dir.open("f", CREATE).unwrap();
        machine.disk().fail_syncs(Fails::Always);
        for _ in 0..3 {
            assert!(disk.sync_data().is_err());
            assert!(dir.sync().is_err());
        }
        machine.disk().fail_syncs(Fails::Never);
        assert_eq!(disk.sync_data(), Ok(()));
    });
}

#[test]
fn reads_and_writes_fail_when_asked_to() {
    on_a_disk(1, async move |_, machine, dir| {
        let disk = dir.open("f", CREATE).unwrap();
        disk.write_at(0, &[1; 100]).unwrap();
        machine.disk().fail_reads(Fails::Next(1));
        machine.disk().fail_writes(Fails::Next(2));
        assert!(disk.read_at(0, &mut [0; 4]).is_err());
        assert_eq!(disk.read_at(0, &mut [0; 4]), Ok(()));
        assert!(disk.write_at(0, &[2; 50]).is_err());
        assert!(disk.write_at(0, &[2; 50]).is_err());
        assert_eq!(disk.write_at(0, &[3; 50]), Ok(()));
        assert_eq!(read(&disk)[..51], [[3; 50].as_slice(), &[1]].concat());
    });
}

#[test]
fn a_full_disk_refuses_what_needs_room_and_nothing_else() {
    on_a_disk(1, async move |_, machine, dir| {
        machine.disk().set_capacity(10 * 4096);
        let disk = dir.open("f", CREATE).unwrap();
        disk.write_at(0, &[1; 8 * 4096]).unwrap();
        assert_eq!(dir.space().unwrap().free, 2 * 4096);
        assert_eq!(disk.allocate(8 * 4096, 3 * 4096), Err(DiskError::Full));
        assert_eq!(
            disk.write_at(8 * 4096, &[2; 3 * 4096]),
            Err(DiskError::Full)
        );
        assert_eq!(
            disk.len(),
            Ok(10 * 4096),
            "what had room is written, as POSIX has it"
        );
        assert_eq!(dir.space().unwrap().free, 0);
        assert_eq!(
            disk.write_at(4096, &[3; 4096]),
            Ok(()),
            "in place there is room"
        );
        assert_eq!(disk.sync_data(), Ok(()));
        assert_eq!(disk.punch(0, 4096), Ok(()));
        assert_eq!(dir.space().unwrap().free, 4096);
        let other = dir.open("g", CREATE).unwrap();
        assert_eq!(other.write_at(0, &[1]), Ok(()));
        assert_eq!(other.write_at(4096, &[1]), Err(DiskError::Full));
        drop((disk, other));
        dir.remove("f").unwrap();
        dir.sync().unwrap();
        assert_eq!(dir.space().unwrap().free, 9 * 4096, "removing frees");
    });
}

#[test]
fn bits_rot_and_writes_go_astray_without_a_word() {
    for seed in 0..20 {
        on_a_disk(seed, async move |world, machine, dir| {
            let disk = dir.open("log-1", CREATE).unwrap();
            dir.sync().unwrap();
            disk.write_at(0, &[0x55; 5 * 4096]).unwrap();
            disk.sync_data().unwrap();
            assert_eq!(machine.disk().rot_somewhere("data-"), None);
            let (name, at) = machine.disk().rot_somewhere("log-").unwrap();
            let wrong = |bytes: &[u8]| -> Vec<usize> {
                (0..bytes.len()).filter(|at| bytes[*at] != 0x55).collect()
            };
            assert_eq!(
                (name.as_str(), wrong(&read(&disk))),
                ("log-1", vec![usize::try_from(at).unwrap()])
            );
            machine.crash();
            let dir = boot(&world, &machine).await;
            let disk = dir.open("log-1", CREATE).unwrap();
            assert_eq!(wrong(&read(&disk)).len(), 1, "it stays");

            disk.write_at(0, &[0x55; 5 * 4096]).unwrap();
            machine.disk().misdirect_next_write();
            disk.write_at(4096, &[9; 4096]).unwrap();
            let bytes = read(&disk);
            assert_eq!(bytes.len(), 5 * 4096);
            assert!(
                bytes[4096..8192].iter().all(|byte| *byte == 0x55),
                "not where it should be"
            );
            assert_eq!(wrong(&bytes).len(), 4096, "but elsewhere");
            assert_eq!(machine.disk().stats().misdirected, 1);
        });
    }
}

#[test]
fn a_killed_process_leaves_everything_in_the_cache() {
    for seed in 0..20 {
        on_a_disk(seed, async move |world, machine, dir| {
            let disk = dir.open("f", CREATE).unwrap();
            disk.write_at(0, &[7; 10_000]).unwrap();
            machine.kill();
            assert_eq!(
                disk.write_at(0, &[8]),
                Err(DiskError::PowerLost),
                "a ghost writes nothing"
            );
            let dir = boot(&world, &machine).await;
            assert!(content(&dir, "f").unwrap() == [7; 10_000]);
            machine.kill();
            machine.crash();
            let dir = boot(&world, &machine).await;
            let bytes = content(&dir, "f").unwrap_or_default();
            assert!(bytes.len() <= 10_000, "but it is not on the disk by that");
        });
    }
}

#[test]
#[should_panic(expected = "direct access is aligned")]
fn unaligned_direct_access_is_a_broken_law() {
    on_a_disk(1, async move |_, _, dir| {
        let mode = OpenMode {
            create: true,
            direct: true,
        };
        let _ = dir.open("f", mode).unwrap().write_at(100, &[0; 512]);
    });
}
