//! The enumerations: single faults whole, crashes and N-th failures a sample of. `cargo xtask sweep` runs more of them, and one by its name.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is nothing else")]

use ibid_sim::disk::cut::Survive;
use ibid_sim::effects::EFFECTS;
use ibid_sim::sweep::crash::{self, Point, Sweep, Victim};
use ibid_sim::sweep::expect::{Expect, cells, expect};
use ibid_sim::sweep::pool::Failed;
use ibid_sim::sweep::script::{VARIANTS, Variant};
use ibid_sim::sweep::{matrix, nth};

fn told(failures: &[Failed]) -> String {
    failures.iter().map(Failed::text).collect::<Vec<_>>().join("\n\n")
}

/// The workload of the sweep has every effect, a log that was full, a time alone: or it would sweep nothing.
#[test]
fn the_swept_workload_reaches_every_effect() {
    for variant in VARIANTS {
        let ran = crash::undisturbed(variant);
        for ((_, name), count) in EFFECTS.iter().zip(ran.kinds) {
            assert!(count > 0, "{variant:?} has no {name}");
        }
        assert!(ran.effects > 5_000, "{variant:?} has {} effects", ran.effects);
    }
}

/// E1. The same point gives the same run, up to the last effect.
#[test]
fn a_crash_point_is_the_same_each_time() {
    let point = Point {
        variant: Variant::Continue,
        boundary: 3_000,
        victim: Victim::Both,
        survive: Survive::Random(5),
        again: Some(20),
    };
    let (one, two) = (crash::run(&point), crash::run(&point));
    assert_eq!((one.effects, one.kinds, one.last), (two.effects, two.kinds, two.last));
    assert_eq!(one.unflushed, two.unflushed);
    assert!(one.recoveries >= 3, "both, and again: {}", one.recoveries);
}

/// E1, a sample: `cargo xtask sweep crash` takes one boundary in fifty, `--every 1 --whole` all of them.
#[test]
fn a_sample_of_crash_points_holds() {
    for variant in VARIANTS {
        let order = Sweep { every: 300, whole: false, threads: 2, offset: 0 };
        let swept = crash::sweep(variant, order, |_| {});
        println!("{variant:?}: {}", swept.text());
        assert!(swept.failures.is_empty(), "{}", told(&swept.failures));
        assert!(swept.recoveries >= swept.runs && swept.runs > swept.points);
    }
}

/// E2, whole.
#[test]
fn the_single_fault_matrix_is_as_the_table_says() {
    let matrix = matrix::run_all(2, |_| {});
    println!("{}", matrix.text());
    assert!(matrix.failures.is_empty(), "{}", told(&matrix.failures));
    assert_eq!(matrix.cells, 560);
}

/// The table is not empty words: where it says that a fault can't be told, the copies do differ in some cases.
#[test]
fn what_cannot_be_told_does_differ() {
    let undetectable = |cell: &_| matches!(expect(cell), Expect::Undetectable(_));
    let differs = cells()
        .into_iter()
        .filter(undetectable)
        .filter(|cell| !matrix::run(cell).different.is_empty())
        .count();
    assert!(differs >= 20, "the copies differ in {differs} cases");
}

/// E3, a sample of the N: `cargo xtask sweep nth` takes every one.
#[test]
fn nth_failures_lose_nothing() {
    let (all, time) = nth::run_all(23, 2, |_| {});
    println!("{}", nth::text(&all, time));
    let failures: Vec<Failed> = all.into_iter().flat_map(|looped| looped.failures).collect();
    assert!(failures.is_empty(), "{}", told(&failures));
}
