//! A pair over a bad link: two processes, one of which spoils what it sends and receives (`--link-faults`).
//! Nothing that was acknowledged may differ; writes go on as far as frames pass; after a time without any the pair is itself again.
//!
//! `IBID_LINK_SECONDS` (`make test-link`) asks for what takes minutes and wants a machine of its own: so many seconds for each load.

use crate::common::{alone, folder};
use crate::link::{Link, links};
use crate::load::{Load, Model};
use crate::node::{DESTINATION, Pair, SOURCE, VOLUME_BYTES, stop};
use crate::process::{Process, ibid};
use ibid_control::config::Durability;
use ibid_units::Nanos;
use std::time::{Duration, Instant};

/// Longest time from the end of a blackout to the next acknowledgement.
const RECOVERY_MAX: Duration = Duration::from_secs(1);
/// What may stay of the goodput where one frame in a thousand is lost.
const GOODPUT_MIN: f64 = 0.85;
/// Pairs of loads, one after the other, whose median ratio is taken: other work on the machine falls into some of them.
const TRIES: usize = 5;

fn seconds_asked() -> Option<u64> {
    let text = std::env::var("IBID_LINK_SECONDS").ok();
    if text.is_none() {
        println!("SKIPPED: goodput and a long blackout are measured by `make test-link`");
    }
    text.map(|text| text.parse().unwrap())
}

/// A pair with logs in memory whose source spoils the link, both ways.
fn spoilt(folder: &std::path::Path, link: Link, faults: &str) -> Pair {
    let mut pair = Pair::new(folder, link);
    for config in &mut pair.configs {
        config.log.durability = Durability::Memory;
    }
    pair.faults[SOURCE] = (!faults.is_empty()).then(|| faults.to_owned());
    pair
}

fn stop_both([mut source, mut destination]: [Process; 2]) {
    assert!(stop(&mut source).success(), "{}", source.said());
    assert!(stop(&mut destination).success(), "{}", destination.said());
}

#[test]
fn no_byte_differs_where_frames_come_twice_late_and_changed() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let faults = "drop=1%,duplicate=10%,reorder=10%,corrupt=1%,delay=100us,seed=7";
        let pair = spoilt(folder.path(), link, faults);
        let nodes = pair.start_both();
        let (addr, nqn) = pair.target();
        let load = Load::start(addr, &nqn, Model::new(VOLUME_BYTES, 4096), 32);
        load.wait_for(6_000);
        let (mut model, end) = load.finish();
        end.unwrap();
        // Nobody runs it so without knowing.
        let status = pair.status(SOURCE);
        let said = status.warnings.iter().find(|text| text.contains("--link-faults"));
        let said = said.expect("status warns of the faults");
        println!("{}: {said}", link.word());
        let count = |what: &str| -> u64 {
            let (before, _) =
                said.split_once(&format!(" {what}")).unwrap_or_else(|| panic!("{said}"));
            before.rsplit([' ', ':']).next().unwrap().parse().unwrap()
        };
        assert!(
            ["frames dropped", "duplicated", "reordered", "corrupted"]
                .map(count)
                .iter()
                .all(|n| *n > 0),
            "{said}"
        );
        assert_eq!(count("without room"), 0, "{said}");
        assert!(nodes[SOURCE].said().contains("the link is spoilt on purpose"));
        assert!(status.link.tx_repeated_frames > 0 && status.link.rx_dropped > 0);
        let mut initiator = pair.connect();
        model.check_target(&mut initiator);
        initiator.disconnect().unwrap();
        stop_both(nodes);
        pair.assert_identical(&mut model);
    }
}

#[test]
fn writes_go_on_where_three_frames_of_ten_are_lost() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let pair = spoilt(folder.path(), link, "drop=30%,seed=3");
        let nodes = pair.start_both();
        let (addr, nqn) = pair.target();
        let load = Load::start(addr, &nqn, Model::new(VOLUME_BYTES, 4096), 32);
        let began = Instant::now();
        load.wait_for(500);
        println!("{}: 500 writes in {:.1} s", link.word(), began.elapsed().as_secs_f64());
        let (mut model, end) = load.finish();
        end.unwrap();
        stop_both(nodes);
        pair.assert_identical(&mut model);
    }
}

/// Runs a load through a blackout; how long after its end the first write was acknowledged.
fn through_a_blackout(link: Link, from: u64, length: u64) -> Duration {
    let folder = folder();
    let mut pair = spoilt(folder.path(), link, &format!("blackout={length}ms@{from}ms"));
    // A write waits for as long as it takes.
    pair.configs[SOURCE].peer.stall_timeout = Nanos::from_millis(2 * length + 20_000);
    let nodes = pair.start_both();
    let (addr, nqn) = pair.target();
    let patience = Duration::from_millis(2 * length + 20_000);
    let load = Load::start_patient(addr, &nqn, Model::new(VOLUME_BYTES, 4096), (16, patience));
    load.wait_for(100);
    let told = |what: &str, wait: Duration| {
        let deadline = Instant::now() + wait;
        while !nodes[SOURCE].said().contains(what) {
            assert!(Instant::now() < deadline, "{what}: not within {wait:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        Instant::now()
    };
    assert!(!nodes[SOURCE].said().contains("the blackout begins"), "the load comes too late");
    told("the blackout begins", Duration::from_millis(from + 10_000));
    // What was acknowledged on the way, and is not counted yet.
    std::thread::sleep(Duration::from_millis(100));
    let before = load.acknowledged();
    let ended = told("the blackout ends", Duration::from_millis(length + 10_000));
    assert_eq!(load.acknowledged(), before, "a write was acknowledged that only one node has");
    let deadline = ended + 10 * RECOVERY_MAX;
    while load.acknowledged() == before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = ended.elapsed();
    println!(
        "{}: {length} ms dark, {:.0} ms to the next acknowledgement",
        link.word(),
        took.as_secs_f64() * 1e3
    );
    load.wait_for(500);
    let (mut model, end) = load.finish();
    end.unwrap();
    stop_both(nodes);
    pair.assert_identical(&mut model);
    took
}

#[test]
fn after_a_short_blackout_a_write_is_acknowledged_within_a_second() {
    let _alone = alone();
    for link in links() {
        // The session lives through the first, and is another after the second.
        for length in [1_000, 3_000] {
            let took = through_a_blackout(link, 5_000, length);
            assert!(took < RECOVERY_MAX, "{took:?}");
        }
    }
}

#[test]
fn after_a_minute_without_a_link_a_write_is_acknowledged_within_a_second() {
    let _alone = alone();
    if seconds_asked().is_none() {
        return;
    }
    for link in links() {
        let took = through_a_blackout(link, 5_000, 60_000);
        assert!(took < RECOVERY_MAX, "{took:?}");
    }
}

/// Bytes that clients write in a second.
fn goodput(link: Link, faults: &str, seconds: u64, load: (&str, &str)) -> f64 {
    let folder = folder();
    let mut pair = spoilt(folder.path(), link, faults);
    for config in &mut pair.configs {
        config.log.segment_size = 32 << 20;
    }
    let nodes = pair.start_both();
    let (addr, nqn) = pair.target();
    let mut command = ibid();
    command.args(["bench", "--json", "--connect", &addr.to_string(), "--nqn", &nqn]);
    command.args(["--seconds", &seconds.to_string(), "--size", load.0, "--depth", load.1]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rate = result["bytes_per_second"].as_f64().unwrap_or_else(|| panic!("{result}")) / 1e6;
    let link_status = pair.status(SOURCE).link;
    println!(
        "{} {} at depth {}, {}: {rate:.1} MB/s; {} frames, {} sent again",
        link.word(),
        load.0,
        load.1,
        if faults.is_empty() { "no faults" } else { faults },
        link_status.tx_frames,
        link_status.tx_repeated_frames
    );
    stop_both(nodes);
    crate::common::assert_files_equal(pair.volume(SOURCE), pair.volume(DESTINATION));
    rate
}

#[test]
fn one_lost_frame_in_a_thousand_costs_little_and_three_in_ten_not_everything() {
    let _alone = alone();
    let Some(seconds) = seconds_asked() else { return };
    let mut missed = Vec::new();
    for link in links() {
        for load in [("4KiB", "32"), ("128KiB", "16")] {
            // What a delay costs is no matter of loss: both of a pair have it.
            for delay in ["", "delay=1ms"] {
                let mut ratios: Vec<f64> = (0..TRIES)
                    .map(|seed| {
                        let clean = goodput(link, delay, seconds, load);
                        let comma = if delay.is_empty() { "" } else { "," };
                        let faults = format!("drop=0.1%,seed={seed}{comma}{delay}");
                        goodput(link, &faults, seconds, load) / clean
                    })
                    .collect();
                ratios.sort_unstable_by(f64::total_cmp);
                let median = ratios[TRIES / 2];
                let line = format!(
                    "{} {} at depth {} {delay}: {:.1} % of the goodput without loss ({:.1} to {:.1})",
                    link.word(),
                    load.0,
                    load.1,
                    median * 100.0,
                    ratios[0] * 100.0,
                    ratios[TRIES - 1] * 100.0
                );
                println!("{line}");
                if median < GOODPUT_MIN {
                    missed.push(line);
                }
            }
        }
        assert!(goodput(link, "drop=30%,seed=5", seconds, ("4KiB", "32")) > 0.0);
    }
    assert!(missed.is_empty(), "below {GOODPUT_MIN}:\n{}", missed.join("\n"));
}

/// A node that is told what it does not understand does not start.
#[test]
fn a_mistaken_fault_is_refused_before_anything_is_touched() {
    let output = ibid()
        .args(["run", "--config", "/nonexistent.toml", "--link-faults", "drop=many"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("must be a percentage such as 0.1%"), "{said}");
}
