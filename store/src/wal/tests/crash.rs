//! Power cuts at any write or sync, many seeds, against the model.

use super::*;
use crate::wal::Verdict;

/// Runs until the power goes; then what is found must be what was promised, and perhaps some of what came after, in
/// order.
fn run(seed: u64) -> [u64; 4] {
    let mut dice = Dice::new(seed);
    let config = small();
    let mut dir = MemoryDir::new(seed);
    create(&dir, &config, LIFE).unwrap();
    let mut model = Model::default();
    let mut counts = [0; 4];
    for boot in 1..=6 {
        dir.cut_power_after(1 + dice.below(120));
        let (acked, pending, carried) = life(&dir, &config, boot, model, &mut dice);
        counts[3] += carried;
        dir = dir.restart(dice.roll());
        let recovery = find(&dir, &config);
        match &recovery.report.verdict {
            Verdict::Clean => counts[0] += 1,
            Verdict::TornTail => counts[1] += 1,
            Verdict::Corrupt { .. } => panic!("seed {seed}: {:?}", recovery.report.verdict),
        }
        let found = recovered_model(&recovery);
        model = acked;
        let mut pending = pending.into_iter();
        while model != found {
            let Some((_, record)) = pending.next() else {
                panic!("seed {seed}, boot {boot}: what was found is no prefix, or ends too early");
            };
            model.apply(&record);
            counts[2] += 1;
        }
    }
    counts
}

/// One boot, up to the power cut; what was acknowledged, what was not, and how often segments were carried forward.
fn life(
    dir: &MemoryDir,
    config: &LogConfig,
    boot: u64,
    model: Model,
    dice: &mut Dice,
) -> (Model, VecDeque<(Ticket, Record)>, u64) {
    let Ok(mut rig) = Rig::open(dir.clone(), config.clone(), boot, model.clone()) else {
        return (model, VecDeque::new(), 0);
    };
    for step in 0..4000 {
        if random_step(&mut rig, dice).is_err() {
            break;
        }
        if step % 16 == 0 {
            assert_eq!(
                rig.says(),
                rig.now,
                "queued records are read before they are durable"
            );
        }
    }
    assert!(
        rig.push(vote(1, "")).is_err() || rig.turn().is_err(),
        "nothing goes on"
    );
    (rig.acked, rig.pending, rig.carried)
}

#[test]
fn what_was_acknowledged_survives_any_power_cut() {
    let mut counts = [0; 4];
    for seed in seeds(1500) {
        let one = std::panic::catch_unwind(|| run(seed));
        let one = one.unwrap_or_else(|cause| {
            // Shown so that one seed can be run again alone.
            let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            eprintln!("seed {seed} failed: {text}");
            panic!("POLYFS_SEEDS={seed}..{}: {text}", seed + 1)
        });
        counts
            .iter_mut()
            .zip(one)
            .for_each(|(sum, one)| *sum += one);
    }
    let [clean, torn, extra, carried] = counts;
    if seeds(1500).count() < 1500 {
        return;
    }
    assert!(
        clean > 100 && torn > 100 && extra > 100 && carried > 100,
        "all outcomes occur: {counts:?}"
    );
}

#[test]
fn a_failed_sync_poisons_and_what_was_acknowledged_is_still_there() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let mut rig = Rig::new(LogConfig {
            segments_initial: 5,
            ..small()
        });
        rig.dir.fail_sync_after(1 + dice.below(20));
        let failed = (0..4000).any(|_| random_step(&mut rig, &mut dice).is_err());
        assert!(failed, "a failed sync is no acknowledgement");
        assert_eq!(rig.log.index.push(vote(1, "")), Err(LogError::Poisoned));
        assert!(matches!(
            rig.log.index.take_batch(),
            Err(LogError::Poisoned)
        ));
        assert!(matches!(
            rig.log.index.read(GroupId(1), 1..2, 0),
            Err(LogError::Poisoned)
        ));
        let dir = rig.dir.restart(seed);
        let found = recovered_model(&find(&dir, &rig.config));
        let mut model = rig.acked;
        let mut pending = rig.pending.into_iter();
        while model != found {
            let (_, record) = pending
                .next()
                .unwrap_or_else(|| panic!("seed {seed}: lost"));
            model.apply(&record);
        }
    }
}

#[test]
fn an_interrupted_creation_leaves_no_log_or_an_empty_one() {
    for seed in 0..200 {
        let dir = MemoryDir::new(seed);
        dir.cut_power_after(1 + seed % 20);
        let made = create(&dir, &small(), LIFE).is_ok();
        let dir = dir.restart(seed);
        match recover(&dir, &small()).unwrap() {
            None => {
                assert!(!made, "seed {seed}: a log that was made is there");
                create(&dir, &small(), LIFE + 1).unwrap();
            }
            Some(recovery) => assert!(recovery.report.groups.is_empty()),
        }
        let mut rig = Rig::open(dir, small(), 1, Model::default()).unwrap();
        rig.push(vote(1, "a")).unwrap();
        rig.settle().unwrap();
        let rig = rig.reopen();
        assert_eq!(rig.says().0.len(), 1);
        assert!(
            rig.log.writer.layout().reusable >= 2,
            "the segments are complete again"
        );
    }
}
