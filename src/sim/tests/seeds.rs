//! Whole runs of the simulator, a few: `cargo xtask sim --seeds 1000` is what CI runs besides.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is nothing else")]

use ibid_sim::disk::{DiskFaults, Files};
use ibid_sim::faults::{Classes, FAULTS};
use ibid_sim::random::Random;
use ibid_sim::run::{run, run_plan};
use ibid_sim::runner::{Order, attempt, run_all};
use ibid_sim::swarm::Plan;
use ibid_sim::trace::Tracer;
use std::time::Duration;

#[test]
fn seeds_hold() {
    let order = Order { from: 1, count: Some(64), time: None, threads: 2, keep_going: true };
    let summary = run_all(order, |_| {});
    let failures: Vec<String> = summary.failures.iter().map(|failure| failure.text()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert_eq!(summary.seeds, 64);
    assert!(summary.time < Duration::from_secs(600), "{:?}", summary.time);
}

/// Seeds that found something in the product, with what it was. A change of the swarm makes other runs of them; what they found is told by
/// tests of its own where it can be, and costs nothing to be run here.
const FOUND: [(u64, &str); 11] = [
    (47, "a CP made again after a restart brought other blocks than its peer had taken"),
    (134, "the same, and the map was cleared of blocks that had never been sent"),
    (192, "an expired write cleared the table's place of another command"),
    (234, "what had come of an earlier epoch's batch was persisted as the new one's"),
    (271, "a number that the peer had used for an empty CP was given to entries"),
    (514, "as 192"),
    (762, "as 192"),
    (10_505, "a refusal to an old hello took the place of the answer that the source was owed"),
    (10_582, "a source that had never opened its log stopped clean"),
    (10_978, "a part of a page was sent as a block with a sum of what memory had become"),
    (31_843, "a page of the map was written twice at once, and the older write came last"),
];

#[test]
fn seeds_that_found_something_hold() {
    for (seed, found) in FOUND {
        if let Err(failure) = attempt(seed) {
            panic!("{found}, or something else: {}", failure.text());
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    for seed in [3, 30, 300] {
        let (one, two) = (run(seed), run(seed));
        assert_eq!(one.hash, two.hash, "seed {seed}");
        assert_eq!((one.steps, one.events, one.faults), (two.steps, two.events, two.faults));
        assert_ne!(one.hash, run(seed + 1).hash);
    }
}

/// A run without faults has none, acknowledges everything and ends nothing with an error.
#[test]
fn a_run_without_faults_acknowledges_every_command() {
    for seed in 1..=12 {
        let mut plan = Plan::from_seed(seed);
        plan.classes = Classes::NONE;
        plan.world.net = ibid_sim::net::NetFaults::NONE;
        plan.world.disk = DiskFaults::FAST;
        plan.world.queue.withhold = 0;
        plan.world.late_turns = 100;
        // One that finds a difference ends both its commands with that, rightly.
        plan.clients.pairs = 0;
        plan.steps = u64::MAX;
        let commands = plan.clients.commands;
        let report = run_plan(plan);
        assert_eq!(report.faults, [0; FAULTS.len()], "seed {seed}");
        let ended = (report.acknowledged, report.failed, report.unanswered);
        assert_eq!(ended, (commands + 10, 0, 0), "seed {seed}");
    }
}

/// Every class that can be injected is, in not too many seeds.
#[test]
fn every_class_of_fault_is_injected() {
    let mut sums = [0; FAULTS.len()];
    for seed in 1000..1060 {
        for (sum, count) in sums.iter_mut().zip(run(seed).faults) {
            *sum += count;
        }
    }
    for ((class, name), sum) in FAULTS.iter().zip(sums) {
        assert_eq!(sum > 0, Classes::ALL.has(*class), "{name} was injected {sum} times");
    }
}

/// What a power cut leaves: all that was flushed, of the rest any sectors, none torn.
#[test]
fn a_power_cut_keeps_what_was_flushed_and_any_sectors_of_the_rest() {
    use ibid_driver::{Arena, Disk, DiskOp, FileId};
    use ibid_units::{Nanos, Span};
    let arena = std::sync::Arc::new(Arena::new(1 << 20, false).expect("memory").0);
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let files = Files::new(
            Random::new(seed),
            DiskFaults { delay: (1, 1), ..DiskFaults::FAST },
            (Tracer::new(), 0),
            vec![vec![0; 8192]],
        );
        let mut disk = ibid_sim::disk::MemDisk { files: files.clone(), arena: arena.clone() };
        let mut step = |op, time: u64| {
            disk.submit(op, 0).expect("room");
            files.borrow_mut().now = Nanos::new(time);
            assert_eq!(disk.poll(&mut |_, result| assert!(result.is_ok())), 1);
        };
        let write = |at| DiskOp::Write { file: FileId(0), at, span: Span::new(0, 4096) };
        arena.with_mut(Span::new(0, 4096), |bytes| bytes.fill(1));
        step(write(0), 10);
        step(DiskOp::Flush { file: FileId(0) }, 20);
        arena.with_mut(Span::new(0, 4096), |bytes| bytes.fill(2));
        step(write(4096), 30);
        let mut files = files.borrow_mut();
        assert!(files.durable(0)[4096..].iter().all(|byte| *byte == 0));
        files.power_cut(&arena);
        assert!(files.durable(0)[..4096].iter().all(|byte| *byte == 1));
        assert_eq!(files.durable(0), files.live(0));
        let mask: Vec<u8> = files.durable(0)[4096..]
            .chunks(512)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is not torn");
                sector[0]
            })
            .collect();
        outcomes.insert(mask);
    }
    assert!(outcomes.contains(&vec![0; 8]) && outcomes.contains(&vec![2; 8]));
    assert!(outcomes.len() > 20, "{} different outcomes", outcomes.len());
}
