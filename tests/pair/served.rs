//! A real pair as processes: served, stopped, started again, starved and watched idle, over both links.
//! What happens when processes are killed is in `killed.rs`, what an operator gets wrong in `refused.rs`.

use crate::common::{alone, assert_files_equal, folder};
use crate::link::{Link, links};
use crate::load::{Load, Model, options, write_count};
use crate::node::{DESTINATION, Demo, Pair, SOURCE, VOLUME_BYTES, stop, wait_for_state};
use crate::process::{self, children, cpu_ticks, signal};
use ibid_client::Initiator;
use ibid_control::rpc::Client;
use ibid_control::status::PairState;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

#[test]
fn the_demonstration_serves_any_client_until_a_signal_and_its_mirror_is_identical() {
    let _alone = alone();
    for link in links() {
        for (lba, cell, digests, name) in [("4096", 4096, false, "INT"), ("512", 512, true, "TERM")]
        {
            let folder = folder();
            let mut demo = Demo::start(folder.path(), link, &["--lba", lba]);
            let mut initiator =
                Initiator::connect(demo.addr, &demo.nqn, &options(2, 16, digests)).unwrap();
            assert_eq!(initiator.queues(), 2);
            assert_eq!(initiator.namespace().nsid, 1);
            assert_eq!(initiator.namespace().lba_bytes.to_string(), lba);
            assert_eq!(
                initiator.namespace().blocks * u64::from(initiator.namespace().lba_bytes),
                VOLUME_BYTES
            );
            let mut model = Model::new(VOLUME_BYTES, cell);
            write_count(&mut initiator, &mut model, 32, 1000);
            initiator.flush().unwrap();
            model.check_target(&mut initiator);
            // A client that is still connected does not stop the stop.
            let (code, lines) = demo.stop(name);
            assert_eq!(
                (code, lines),
                (Some(0), vec!["mirror identical: yes".to_owned()]),
                "{link:?} {name}"
            );
            model.check_file(&demo.volume("source"));
            model.check_file(&demo.volume("destination"));
        }
    }
}

#[test]
fn the_demonstration_says_no_when_one_byte_of_the_mirror_is_wrong() {
    let _alone = alone();
    let folder = folder();
    let mut demo = Demo::start(folder.path(), Link::Memif, &[]);
    let mut initiator = Initiator::connect(demo.addr, &demo.nqn, &options(1, 16, false)).unwrap();
    let mut model = Model::new(VOLUME_BYTES, 4096);
    write_count(&mut initiator, &mut model, 16, 100);
    Client::connect(&demo.control("source"), crate::common::WAIT).unwrap().cp().unwrap();
    let mirror =
        std::fs::File::options().read(true).write(true).open(demo.volume("destination")).unwrap();
    let mut byte = [0];
    mirror.read_exact_at(&mut byte, 12_345).unwrap();
    mirror.write_all_at(&[byte[0] ^ 1], 12_345).unwrap();
    let (code, lines) = demo.stop("TERM");
    assert_eq!((code, lines), (Some(1), vec!["mirror identical: no".to_owned()]));
}

#[test]
fn a_pair_that_was_stopped_in_good_order_goes_on_where_it_was() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let pair = Pair::new(folder.path(), link);
        let [mut source, mut destination] = pair.start_both();
        let mut model = Model::new(VOLUME_BYTES, 4096);
        let mut initiator = pair.connect();
        write_count(&mut initiator, &mut model, 32, 2000);

        // By the command line, as text and as JSON.
        let config = pair.config_file(SOURCE);
        let config = config.to_str().unwrap();
        let taken = process::run(&["cp", "--config", config, "--json"]);
        assert!(taken.status.success(), "{taken:?}");
        let taken: serde_json::Value = serde_json::from_slice(&taken.stdout).unwrap();
        assert_eq!(taken["taken"], true);
        let shown = process::run(&["status", "--config", config]);
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(
            text.starts_with("promise   every acknowledged write is on both nodes\n"),
            "{text}"
        );
        assert!(!text.contains("WARNING"), "{text}");
        let shown = process::run(&[
            "status",
            "--control",
            pair.control(SOURCE).to_str().unwrap(),
            "--json",
        ]);
        let json: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(json["promise"]["state"], "in-sync");
        assert_eq!(json["cp"]["cp"], taken["cp"]);
        assert_eq!(json["cp"]["chain_digest"], taken["chain_digest"]);

        write_count(&mut initiator, &mut model, 32, 500);
        initiator.disconnect().unwrap();
        let before = pair.status(SOURCE);
        assert!(stop(&mut source).success());
        assert!(
            source.said().contains("everything acknowledged is in the volumes"),
            "{}",
            source.said()
        );
        // The destination notices a source that has said goodbye, and ends in good order too.
        wait_for_state(pair.control(DESTINATION), PairState::Away);
        let after = pair.status(DESTINATION);
        assert!(stop(&mut destination).success());
        pair.assert_identical(&mut model);

        let [mut source, mut destination] = pair.start_both();
        let again = pair.status(SOURCE);
        assert_eq!(again.node.epoch, before.node.epoch + 1);
        assert_eq!((again.cp.cp, &again.cp.chain_digest), (after.cp.cp, &after.cp.chain_digest));
        assert_eq!(again.cp.cp, before.cp.cp + 1, "the stop took one consistency point");
        let mut initiator = pair.connect();
        model.check_target(&mut initiator);
        write_count(&mut initiator, &mut model, 32, 500);
        model.check_target(&mut initiator);
        initiator.disconnect().unwrap();
        assert!(stop(&mut source).success());
        assert!(stop(&mut destination).success());
        pair.assert_identical(&mut model);
    }
}

#[test]
fn writes_wait_while_the_destination_is_stopped_and_complete_when_it_is_back() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let pair = Pair::new(folder.path(), link);
        let [mut source, mut destination] = pair.start_both();
        let (addr, nqn) = pair.target();
        let load = Load::start(addr, &nqn, Model::new(VOLUME_BYTES, 4096), 16);
        load.wait_for(500);
        assert!(stop(&mut destination).success());
        let away = wait_for_state(pair.control(SOURCE), PairState::Away);
        assert!(
            away.promise.line.starts_with("writes wait: the peer is silent for"),
            "{}",
            away.promise.line
        );
        let stalled = load.acknowledged();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(
            load.acknowledged(),
            stalled,
            "writes were acknowledged without the destination"
        );
        let mut destination = pair.start(DESTINATION);
        load.wait_for(500);
        pair.wait_in_sync();
        let (mut model, result) = load.finish();
        result.unwrap();
        assert!(stop(&mut source).success());
        assert!(stop(&mut destination).success());
        pair.assert_identical(&mut model);
    }
}

#[test]
fn a_slow_destination_fills_the_log_and_clients_only_wait() {
    let _alone = alone();
    // More on its way than the log holds: 200 × 96 KiB in 4 × 4 MiB.
    const CELL_BYTES: usize = 96 << 10;
    const DEPTH: u16 = 200;
    for link in links() {
        let folder = folder();
        let pair = Pair::new(folder.path(), link);
        let [mut source, mut destination] = pair.start_both();
        let (addr, nqn) = pair.target();
        let load = Load::start(addr, &nqn, Model::new(VOLUME_BYTES, CELL_BYTES), DEPTH);
        load.wait_for(300);
        // Shorter than the time after which a peer is away …
        for _ in 0..2 {
            signal(destination.pid(), "STOP");
            std::thread::sleep(Duration::from_secs(1));
            assert_eq!(pair.status(SOURCE).promise.state, PairState::InSync);
            signal(destination.pid(), "CONT");
            load.wait_for(300);
        }
        // … and longer.
        signal(destination.pid(), "STOP");
        wait_for_state(pair.control(SOURCE), PairState::Away);
        signal(destination.pid(), "CONT");
        load.wait_for(300);
        pair.wait_in_sync();
        let (mut model, result) = load.finish();
        result.unwrap();
        let log = pair.status(SOURCE).log;
        println!(
            "{link:?}: {} writes waited for a full log, {} ms in all",
            log.full_waits,
            log.full_wait_ns / 1_000_000
        );
        assert!(log.full_waits > 0);
        assert!(log.full_wait_ns > 0);
        assert!(stop(&mut source).success());
        assert!(stop(&mut destination).success());
        pair.assert_identical(&mut model);
    }
}

#[test]
fn a_stop_under_load_turns_further_writes_away_and_keeps_what_was_acknowledged() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let mut demo = Demo::start(folder.path(), link, &[]);
        let load = Load::start(demo.addr, &demo.nqn, Model::new(VOLUME_BYTES, 4096), 64);
        load.wait_for(1000);
        let began = Instant::now();
        assert_eq!(demo.stop("TERM"), (Some(0), vec!["mirror identical: yes".to_owned()]));
        println!("{link:?}: stopped under load within {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(10));
        let (mut model, result) = load.finish();
        let error = result.unwrap_err();
        println!("{link:?}: its client was told: {error}");
        model.check_file(&demo.volume("source"));
        model.check_file(&demo.volume("destination"));
    }
}

#[test]
fn an_idle_pair_leaves_the_cores_to_others_and_a_single_write_is_still_quick() {
    let _alone = alone();
    // Machines that run tests are noisy: the best of a few counts, and the bound for writes is far above the appliance's own 2 ms.
    const TRIES: usize = 3;
    // What is promised; a build without optimisation takes longer for each look around.
    const SHARE_MAX: f64 = if cfg!(debug_assertions) { 0.10 } else { 0.05 };
    const P99_MAX: Duration = Duration::from_millis(20);
    for link in links() {
        let folder = folder();
        let mut demo = Demo::start(folder.path(), link, &["--durability", "memory"]);
        let nodes = children(demo.process.pid());
        assert_eq!(nodes.len(), 2);
        let ticks = || nodes.iter().map(|pid| cpu_ticks(*pid)).sum::<u64>();
        std::thread::sleep(Duration::from_millis(500));
        let idle = best(TRIES, SHARE_MAX, || {
            let (before, began) = (ticks(), Instant::now());
            std::thread::sleep(Duration::from_secs(3));
            (ticks() - before) as f64 / (began.elapsed().as_secs_f64() * 100.0)
        });
        println!(
            "{link:?}: idle source and destination together take {:.1} % of a core",
            idle * 100.0
        );
        assert!(idle < SHARE_MAX, "{idle}");

        let connect = demo.addr.to_string();
        let arguments = [
            "bench",
            "--connect",
            &connect,
            "--nqn",
            &demo.nqn,
            "--depth",
            "1",
            "--seconds",
            "2",
            "--json",
        ];
        let p99 = best(TRIES, P99_MAX, || {
            let measured = process::run(&arguments);
            assert!(measured.status.success(), "{measured:?}");
            let json: serde_json::Value = serde_json::from_slice(&measured.stdout).unwrap();
            let at = |name: &str| Duration::from_nanos(json["write"][name].as_u64().unwrap());
            println!(
                "{link:?}: a write at queue depth 1: p50 {:?}, p99 {:?}, p99.9 {:?}",
                at("p50_ns"),
                at("p99_ns"),
                at("p999_ns")
            );
            at("p99_ns")
        });
        assert!(p99 < P99_MAX, "{p99:?}");
        let (code, lines) = demo.stop("TERM");
        assert_eq!((code, lines), (Some(0), vec!["mirror identical: yes".to_owned()]));
        assert_files_equal(&demo.volume("source"), &demo.volume("destination"));
    }
}

/// Measures until a value is below `enough`, at most `tries` times; the last value.
fn best<T: PartialOrd>(tries: usize, enough: T, mut measure: impl FnMut() -> T) -> T {
    let mut last = measure();
    for _ in 1..tries {
        if last < enough {
            break;
        }
        last = measure();
    }
    last
}

#[test]
fn a_demonstration_that_is_stopped_frees_everything() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let mut demo = Demo::start(folder.path(), link, &[]);
        assert!(demo.control("source").exists());
        assert_eq!(demo.stop("INT").0, Some(0));
        assert!(!folder.path().join("memif.sock").exists());
        assert!(!demo.control("source").exists());
        assert!(!demo.control("destination").exists());
        assert!(!crate::link::demo_links().contains(&demo.process.pid()));
    }
}
