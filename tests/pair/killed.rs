//! What is left, and who goes on, when processes are killed under load.

use crate::common::{alone, folder, huge_pages, until};
use crate::link::{Link, demo_links, links};
use crate::load::{Load, Model};
use crate::node::{DESTINATION, Demo, Pair, SOURCE, VOLUME_BYTES, stop, wait_for_state};
use crate::process::{children, is_alive};
use ibid_control::status::{LogEnd, PairState};

/// Checks after each round that every huge page in use is some process's, and that the pool grows no further than the first
/// round needed. What other programs of the machine do to the pool meanwhile can't be told apart, so it is only compared without them.
struct Pages {
    pool: Option<u64>,
    alone: bool,
}

impl Pages {
    fn new() -> Pages {
        Pages { pool: None, alone: mapped().1 == 0 }
    }

    fn check(&mut self) {
        if huge_pages().is_none() {
            println!("SKIPPED: this kernel has no huge pages of 2 MiB to be left behind");
            return;
        }
        // The kernel takes a killed process apart in its own time.
        until("no huge page is stuck", || {
            (mapped().0 == huge_pages().map_or(0, |(_, used)| used)).then_some(())
        });
        self.alone &= mapped().1 == 0;
        // Read only now: pages on their way back counted until here.
        let pool = huge_pages().map_or(0, |(pool, _)| pool);
        match self.pool.replace(pool) {
            Some(before) if self.alone => {
                assert!(pool <= before, "the pool grew from {before} to {pool} pages")
            }
            Some(_) => println!("SKIPPED: comparing the pool of huge pages: other programs use it"),
            None => {}
        }
    }
}

/// Huge pages that processes have mapped: of all, and of those that this test has not started.
fn mapped() -> (u64, u64) {
    let (mut all, mut others) = (0, 0);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that has ended since has none.
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line =
            text.lines().find_map(|line| line.strip_prefix("HugetlbPages:")).unwrap_or("0 kB");
        let pages = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 2048;
        all += pages;
        if pages > 0 && !is_below(pid, std::process::id()) {
            others += pages;
        }
    }
    (all, others)
}

fn is_below(pid: u32, ancestor: u32) -> bool {
    children(ancestor).iter().any(|child| *child == pid || is_below(pid, *child))
}

#[test]
fn a_demonstration_that_was_killed_leaves_nothing_that_stops_the_next() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let mut pages = Pages::new();
        for _ in 0..3 {
            let mut demo = Demo::start(folder.path(), link, &["--durability", "memory"]);
            let load = Load::start(demo.addr, &demo.nqn, Model::new(VOLUME_BYTES, 4096), 16);
            load.wait_for(300);
            let nodes = children(demo.process.pid());
            assert_eq!(nodes.len(), 2);
            demo.process.kill();
            // Nobody tells them: they notice.
            until("the orphaned nodes end by themselves", || {
                (!nodes.iter().any(|pid| is_alive(*pid))).then_some(())
            });
            drop(load.finish());
            pages.check();
        }
        // The next one takes away what the last left in the network, and its own.
        let mut demo = Demo::start(folder.path(), link, &[]);
        if link == Link::AfPacket {
            let links = demo_links();
            assert!(links.contains(&demo.process.pid()));
            assert!(links.iter().all(|pid| is_alive(*pid)), "{links:?}");
        }
        assert_eq!(demo.stop("TERM"), (Some(0), vec!["mirror identical: yes".to_owned()]));
    }
}

#[test]
fn a_demonstration_whose_node_was_killed_says_which_and_ends() {
    let _alone = alone();
    for link in links() {
        for victim in 0..2 {
            let folder = folder();
            let mut demo = Demo::start(folder.path(), link, &["--durability", "memory"]);
            let load = Load::start(demo.addr, &demo.nqn, Model::new(VOLUME_BYTES, 4096), 16);
            load.wait_for(100);
            let mut nodes = children(demo.process.pid());
            nodes.sort_unstable();
            crate::process::signal(nodes[victim], "KILL");
            assert_eq!(demo.process.ended().code(), Some(1));
            let name = ["destination", "source"][victim];
            let said = demo.process.said();
            assert!(
                said.contains(&format!("ibid: the {name} ended (signal: 9 (SIGKILL))")),
                "{said}"
            );
            assert!(!nodes.iter().any(|pid| is_alive(*pid)));
            drop(load.finish());
        }
    }
}

#[test]
fn a_destination_that_was_killed_is_caught_up_from_the_log_when_it_is_back() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let pair = Pair::new(folder.path(), link);
        let [mut source, mut destination] = pair.start_both();
        let (addr, nqn) = pair.target();
        let load = Load::start(addr, &nqn, Model::new(VOLUME_BYTES, 4096), 32);
        for round in 0..3 {
            load.wait_for(700);
            destination.kill();
            if round == 1 {
                // Back only after it was missed; otherwise before.
                wait_for_state(pair.control(SOURCE), PairState::Away);
            }
            assert!(source.is_running(), "the survivor did not survive");
            destination = pair.start(DESTINATION);
        }
        load.wait_for(700);
        pair.wait_in_sync();
        let (mut model, result) = load.finish();
        result.unwrap();
        assert!(stop(&mut source).success());
        assert!(stop(&mut destination).success());
        pair.assert_identical(&mut model);
    }
}

#[test]
fn a_source_that_was_killed_serves_everything_acknowledged_after_a_restart() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let pair = Pair::new(folder.path(), link);
        let [mut source, mut destination] = pair.start_both();
        let mut model = Model::new(VOLUME_BYTES, 4096);
        for round in 1..=3 {
            let (addr, nqn) = pair.target();
            let load = Load::start(addr, &nqn, model, 32);
            load.wait_for(500);
            source.kill();
            model = load.finish().0;
            source = pair.start(SOURCE);
            // The destination has survived, also on memif, and takes it back.
            pair.wait_in_sync();
            assert!(destination.is_running(), "the survivor did not survive");
            let status = pair.status(SOURCE);
            let recovery = status.recovery.expect("it had a log to read");
            assert!(!recovery.clean && recovery.end != LogEnd::Damaged, "{recovery}");
            println!(
                "{link:?}, round {round}: {recovery}; {} batches came back",
                status.log.fetched
            );
            let mut initiator = pair.connect();
            model.check_target(&mut initiator);
            initiator.disconnect().unwrap();
        }
        let said = source.said();
        assert_eq!(said.matches("serving").count(), 4, "{said}");
        assert!(stop(&mut source).success());
        assert!(stop(&mut destination).success());
        pair.assert_identical(&mut model);
    }
}

#[test]
fn a_pair_that_was_killed_as_a_whole_starts_again_with_everything_acknowledged() {
    let _alone = alone();
    for link in links() {
        let folder = folder();
        let pair = Pair::new(folder.path(), link);
        let mut pages = Pages::new();
        let mut model = Model::new(VOLUME_BYTES, 4096);
        for _ in 0..3 {
            let [mut source, mut destination] = pair.start_both();
            let (addr, nqn) = pair.target();
            let mut initiator = pair.connect();
            model.check_target(&mut initiator);
            initiator.disconnect().unwrap();
            let load = Load::start(addr, &nqn, model, 32);
            load.wait_for(300);
            source.kill();
            destination.kill();
            model = load.finish().0;
            pages.check();
        }
        let [mut source, mut destination] = pair.start_both();
        let mut initiator = pair.connect();
        model.check_target(&mut initiator);
        initiator.disconnect().unwrap();
        assert!(stop(&mut source).success());
        assert!(stop(&mut destination).success());
        pair.assert_identical(&mut model);
    }
}
