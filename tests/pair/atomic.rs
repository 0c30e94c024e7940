//! What the target says of atomicity, on a real pair: overlapping writes of many blocks and reads, several hosts at once, consistency points
//! all the while, nodes killed; lock words that hosts race for with Compare and Write; holes; and as many commands as a host may have.

use crate::common::{alone, assert_files_equal, folder, until};
use crate::link::Link;
use crate::load::options;
use crate::node::{DESTINATION, Pair, SOURCE, VOLUME_BYTES, stop};
use crate::process::Process;
use crate::stamps::Random;
use ibid_client::{ClientError, Completion, ConnectOptions, Initiator};
use ibid_control::rpc::Client;
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SECTOR: usize = 512;
/// Sectors that everybody writes to.
const AREA: u64 = 4096;
/// The longest write: what the target says it writes whole or not at all.
const LONGEST: u64 = 2048;

/// A write, as each of its sectors tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
struct Stamp {
    number: u64,
    first: u64,
    sectors: u64,
}

impl Stamp {
    fn covers(&self, sector: u64) -> bool {
        (self.first..self.first + self.sectors).contains(&sector)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.sectors as usize * SECTOR];
        for (at, sector) in out.chunks_mut(SECTOR).enumerate() {
            for word in sector.chunks_mut(32) {
                let fields = [self.number, self.first, self.sectors, self.first + at as u64];
                for (place, field) in word.chunks_mut(8).zip(fields) {
                    place.copy_from_slice(&field.to_le_bytes());
                }
            }
        }
        out
    }

    /// What a sector says of itself; `None` for zeroes.
    fn of(sector: u64, bytes: &[u8]) -> Option<Stamp> {
        let (head, _) = bytes.split_at(32);
        let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let stamp = Stamp { number: field(0), first: field(8), sectors: field(16) };
        assert!(bytes.chunks(32).all(|word| word == head), "sector {sector} is torn within itself");
        if head.iter().all(|byte| *byte == 0) {
            return None;
        }
        assert!(stamp.covers(sector) && field(24) == sector, "sector {sector} holds {stamp:?}");
        Some(stamp)
    }
}

/// Of each two writes that a read shows one is the newer: where they overlap, only that one may be seen.
fn assert_whole(first: u64, bytes: &[u8], place: &str) -> usize {
    let mut runs: Vec<(Option<Stamp>, u64, u64)> = Vec::new();
    for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR)) {
        let stamp = Stamp::of(sector, bytes);
        match runs.last_mut() {
            Some((last, _, end)) if *last == stamp => *end = sector + 1,
            _ => runs.push((stamp, sector, sector + 1)),
        }
    }
    for (one, from, to) in &runs {
        for (other, start, end) in &runs {
            let (Some(one), Some(other)) = (one, other) else { continue };
            // `one` is seen where `other` wrote, and the other way about.
            let is_newer = (*from.max(&other.first)) < *to.min(&(other.first + other.sectors));
            let is_older = (*start.max(&one.first)) < *end.min(&(one.first + one.sectors));
            assert!(
                one == other || !(is_newer && is_older),
                "{place}: {one:?} at {from} and {other:?} at {start} are both newer: one is torn"
            );
        }
    }
    runs.len()
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    number: AtomicU64,
    written: AtomicU64,
    read: AtomicU64,
    /// Changes from one write to another that reads have shown: how much overlap there was to be torn.
    borders: AtomicU64,
}

/// Writes and reads, a few at a time, until it is over or the connection is.
fn churn(addr: SocketAddr, nqn: &str, seed: u64, shared: &Shared) -> Result<(), ClientError> {
    let mut host = Initiator::connect(addr, nqn, &options(2, 8, seed.is_multiple_of(2)))?;
    let mut random = Random(seed);
    // Of each read where it begins.
    let mut reads: HashMap<u64, u64> = HashMap::new();
    let mut token = 0;
    let mut under_way = 0;
    while under_way > 0 || !shared.over.load(Ordering::Relaxed) {
        for queue in 0..2 {
            while host.room(queue) > 0 && !shared.over.load(Ordering::Relaxed) {
                token += 1;
                under_way += 1;
                let sectors = match random.below(20) {
                    0 => LONGEST,
                    1..6 => 1 + random.below(256),
                    _ => 1 + random.below(40),
                };
                let first = random.below(AREA - sectors + 1);
                if random.below(5) < 2 {
                    reads.insert(token, first);
                    let buffer = vec![0; sectors as usize * SECTOR];
                    host.submit_read(queue, token, first, sectors as u32, buffer).unwrap();
                } else {
                    let number = shared.number.fetch_add(1, Ordering::Relaxed) + 1;
                    let bytes = Stamp { number, first, sectors }.bytes();
                    host.submit_write(queue, token, first, sectors as u32, false, bytes).unwrap();
                }
            }
        }
        let mut ended: Vec<Completion> = Vec::new();
        host.wait(Duration::from_secs(1), &mut |completion| ended.push(completion))?;
        for Completion { token, status, buffer, .. } in ended {
            under_way -= 1;
            assert_eq!(status, Status::SUCCESS);
            match reads.remove(&token) {
                Some(first) => {
                    let borders = assert_whole(first, &buffer, "a read") as u64 - 1;
                    shared.borders.fetch_add(borders, Ordering::Relaxed);
                    shared.read.fetch_add(1, Ordering::Relaxed);
                }
                None => drop(shared.written.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
    Ok(())
}

/// Runs hosts for so long, or until the connections end; how each ended.
fn run_hosts(
    pair: &Pair,
    seed: u64,
    shared: &Shared,
    end: impl FnOnce(),
) -> Vec<Result<(), ClientError>> {
    let (addr, nqn) = pair.target();
    std::thread::scope(|scope| {
        let nqn = &nqn;
        let hosts: Vec<_> =
            (0..3).map(|n| scope.spawn(move || churn(addr, nqn, seed + n, shared))).collect();
        end();
        hosts.into_iter().map(|host| host.join().unwrap()).collect()
    })
}

fn pair_of_sectors(folder: &std::path::Path) -> Pair {
    let mut pair = Pair::new(folder, Link::Memif);
    for config in &mut pair.configs {
        config.volumes[0].lba = SECTOR as u32;
        config.log.cp_interval = Nanos::from_millis(200);
    }
    pair
}

fn assert_file_whole(pair: &Pair, which: usize) {
    let bytes = std::fs::read(pair.volume(which)).unwrap();
    assert_whole(0, &bytes[..AREA as usize * SECTOR], &format!("the volume of node {which}"));
}

fn stop_both([source, destination]: &mut [Process; 2], pair: &Pair) {
    assert!(stop(source).success());
    assert!(stop(destination).success());
    assert_files_equal(pair.volume(SOURCE), pair.volume(DESTINATION));
}

#[test]
fn overlapping_writes_are_seen_whole_or_not_at_all_whoever_is_killed() {
    let _alone = alone();
    let folder = folder();
    let pair = pair_of_sectors(folder.path());
    let mut nodes = pair.start_both();
    let mut shared = Shared::default();
    let ended = run_hosts(&pair, 1, &shared, || {
        std::thread::sleep(Duration::from_secs(3));
        shared.over.store(true, Ordering::Relaxed);
    });
    for end in ended {
        end.unwrap();
    }
    let cps = pair.status(SOURCE).cp.cp;
    for round in 0..3 {
        *shared.over.get_mut() = false;
        let ended = run_hosts(&pair, 10 * (round + 1), &shared, || {
            std::thread::sleep(Duration::from_millis(700 + 130 * round));
            nodes[SOURCE].kill();
        });
        assert!(ended.iter().all(Result::is_err), "a host did not notice: {ended:?}");
        nodes[SOURCE] = pair.start(SOURCE);
        pair.wait_in_sync();
        let mut host =
            Initiator::connect(pair.target().0, &pair.target().1, &options(1, 4, false)).unwrap();
        let mut bytes = vec![0; AREA as usize * SECTOR];
        host.read(0, &mut bytes).unwrap();
        // What is read in pieces here stands still: nobody writes.
        assert_whole(0, &bytes, "after a kill");
        host.disconnect().unwrap();
    }
    stop_both(&mut nodes, &pair);
    assert_file_whole(&pair, SOURCE);
    assert_file_whole(&pair, DESTINATION);
    let [written, read, borders] =
        [&shared.written, &shared.read, &shared.borders].map(|count| count.load(Ordering::Relaxed));
    println!("{written} writes, {read} reads, {borders} borders, {cps} consistency points");
    assert!(written > 500 && read > 300 && borders > read && cps > 5);
}

/// The check is one that fails.
#[test]
#[should_panic(expected = "one is torn")]
fn a_torn_mixture_is_seen() {
    let [one, other] = [1, 2].map(|number| Stamp { number, first: 0, sectors: 4 }.bytes());
    let mixed = [&one[..2 * SECTOR], &other[2 * SECTOR..]].concat();
    assert_whole(0, &mixed, "this");
}

/// A lock word: a counter, and who set it.
fn word(count: u64, host: u64) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    bytes[..8].copy_from_slice(&count.to_le_bytes());
    bytes[8..16].copy_from_slice(&host.to_le_bytes());
    bytes
}

fn count_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// Counts up as fast as others let it, by Compare and Write; gives how often it did, and how often it does not know.
fn count_up(addr: SocketAddr, nqn: &str, host: u64, over: &AtomicBool) -> (u64, u64, u64) {
    let mut initiator = Initiator::connect(addr, nqn, &options(1, 4, host == 2)).unwrap();
    let (mut won, mut lost) = (0, 0);
    let mut seen = vec![0; SECTOR];
    while !over.load(Ordering::Relaxed) {
        if initiator.read(7, &mut seen).is_err() {
            return (won, lost, 0);
        }
        match initiator.compare_and_write(7, &seen, &word(count_of(&seen) + 1, host)) {
            Ok(true) => won += 1,
            Ok(false) => lost += 1,
            // The connection went with the answer.
            Err(_) => return (won, lost, 1),
        }
    }
    initiator.disconnect().unwrap();
    (won, lost, 0)
}

#[test]
fn a_lock_word_has_one_winner_at_a_time_and_every_winner_is_counted() {
    let _alone = alone();
    let folder = folder();
    let pair = pair_of_sectors(folder.path());
    let mut nodes = pair.start_both();
    let mut expected = (0, 0);
    for killed in [None, Some(DESTINATION), Some(SOURCE)] {
        let (addr, nqn) = pair.target();
        let over = AtomicBool::new(false);
        let counts: Vec<(u64, u64, u64)> = std::thread::scope(|scope| {
            let (nqn, over) = (&nqn, &over);
            let hosts: Vec<_> =
                (1..4).map(|n| scope.spawn(move || count_up(addr, nqn, n, over))).collect();
            std::thread::sleep(Duration::from_millis(1200));
            if let Some(which) = killed {
                nodes[which].kill();
                std::thread::sleep(Duration::from_millis(200));
                nodes[which] = pair.start(which);
                pair.wait_in_sync();
                std::thread::sleep(Duration::from_millis(500));
            }
            over.store(true, Ordering::Relaxed);
            hosts.into_iter().map(|host| host.join().unwrap()).collect()
        });
        let sum = |part: fn(&(u64, u64, u64)) -> u64| counts.iter().map(part).sum::<u64>();
        let (won, lost, unsure) = (sum(|c| c.0), sum(|c| c.1), sum(|c| c.2));
        println!("{killed:?}: {won} won, {lost} lost, {unsure} unsure");
        assert!(won > 50 && lost > 0, "nobody raced: {won}, {lost}");
        assert!(unsure == 0 || killed == Some(SOURCE));
        let (addr, nqn) = pair.target();
        let mut initiator = Initiator::connect(addr, &nqn, &options(1, 4, false)).unwrap();
        let mut seen = vec![0; SECTOR];
        initiator.read(7, &mut seen).unwrap();
        expected = (expected.0 + won, expected.1 + won + unsure);
        let count = count_of(&seen);
        assert!((expected.0..=expected.1).contains(&count), "{count}, not {expected:?}");
        expected = (count, count);
        initiator.disconnect().unwrap();
    }
    stop_both(&mut nodes, &pair);
    let mirror = std::fs::read(pair.volume(DESTINATION)).unwrap();
    assert_eq!(count_of(&mirror[7 * SECTOR..]), expected.0);
}

/// Bytes that a file takes of its file system.
fn allocated(pair: &Pair, which: usize) -> u64 {
    let file = std::fs::File::open(pair.volume(which)).unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn what_is_deallocated_is_a_hole_on_both_nodes_after_a_consistency_point() {
    let _alone = alone();
    let folder = folder();
    let pair = Pair::new(folder.path(), Link::Memif);
    let mut nodes = pair.start_both();
    let mut host = pair.connect();
    let blocks = VOLUME_BYTES / 4096;
    let cp = || Client::connect(pair.control(SOURCE), crate::common::WAIT).unwrap().cp().unwrap();
    host.write(0, &vec![7; VOLUME_BYTES as usize]).unwrap();
    cp();
    let full = [SOURCE, DESTINATION].map(|which| allocated(&pair, which));
    assert!(full.iter().all(|bytes| *bytes >= VOLUME_BYTES), "{full:?}");
    // A third by Dataset Management, a third by Write Zeroes that may deallocate, and one block by Write Zeroes that may not.
    let third = blocks / 3;
    host.deallocate(0, third).unwrap();
    host.zeroes(third, third, true).unwrap();
    host.zeroes(2 * third + 5, 1, false).unwrap();
    let mut bytes = vec![1; VOLUME_BYTES as usize];
    host.read(0, &mut bytes).unwrap();
    let holes = 2 * third as usize * 4096;
    assert!(bytes[..holes].iter().all(|byte| *byte == 0), "they read as zeroes at once");
    cp();
    for which in [SOURCE, DESTINATION] {
        let now = allocated(&pair, which);
        let freed = full[which] - now;
        println!("node {which}: {} KiB, {freed} bytes fewer", now >> 10);
        let holes = holes as u64;
        assert!((holes - (64 << 10)..=holes + (64 << 10)).contains(&freed), "{freed} of {holes}");
    }
    host.read(0, &mut bytes).unwrap();
    assert!(bytes[..holes].iter().all(|byte| *byte == 0), "and in the volume");
    assert!(host.compare(0, &bytes).unwrap());
    host.verify(0, blocks).unwrap();
    host.disconnect().unwrap();
    stop_both(&mut nodes, &pair);
}

/// Memory of a process, in MiB: what it has touched, and what it has taken.
fn memory(process: &Process) -> [u64; 2] {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    ["VmRSS:", "VmData:"].map(|name| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    })
}

/// 64 I/O queues with 1023 commands in each of some, all of them under way at once.
#[test]
fn a_host_has_all_the_queues_and_commands_that_it_may() {
    let _alone = alone();
    let folder = folder();
    let mut used = Vec::new();
    for (queue_depth, io_queues) in [(128, 8), (1024, 64)] {
        let mut pair = Pair::new(folder.path(), Link::Memif);
        let target = pair.configs[SOURCE].target.as_mut().unwrap();
        (target.queue_depth, target.io_queues) = (queue_depth, io_queues);
        target.connections_per_host = 100;
        let mut nodes = pair.start_both();
        let before = memory(&nodes[SOURCE]);
        let (addr, nqn) = pair.target();
        let options =
            ConnectOptions { io_queues: 64, queue_depth: 1024, ..options(64, 1024, false) };
        let mut host = Initiator::connect(addr, &nqn, &options).unwrap();
        assert_eq!(host.queues(), usize::from(io_queues));
        // One entry of a ring stays empty.
        assert_eq!(host.room(0), usize::from(queue_depth) - 1);
        let busy = 6.min(host.queues());
        let began = Instant::now();
        let mut under_way = 0_u64;
        for queue in 0..host.queues() {
            let count = if queue < busy { host.room(queue) } else { 3 };
            for n in 0..count as u64 {
                let block = (queue as u64 * 1024 + n) % (VOLUME_BYTES / 4096);
                let token = (queue as u64) << 32 | n;
                host.submit_write(queue, token, block, 1, false, vec![queue as u8; 4096]).unwrap();
                under_way += 1;
            }
        }
        let sent = under_way;
        until("all commands have ended", || {
            host.wait(Duration::from_millis(100), &mut |completion: Completion| {
                assert_eq!(completion.status, Status::SUCCESS);
                under_way -= 1;
            })
            .unwrap();
            (under_way == 0).then_some(())
        });
        println!("{sent} writes under way at once, in {:?}", began.elapsed());
        // R2Ts of as many commands are out at once as the memory for large writes allows; the others wait.
        for n in 0..40 {
            host.submit_write(0, n, n * 16, 256, false, vec![n as u8; 1 << 20]).unwrap();
        }
        let mut ended = 0;
        until("the large writes have ended", || {
            host.wait(Duration::from_millis(100), &mut |completion: Completion| {
                assert_eq!(completion.status, Status::SUCCESS);
                ended += 1;
            })
            .unwrap();
            (ended == 40).then_some(())
        });
        let after = memory(&nodes[SOURCE]);
        println!(
            "{io_queues} queues of {queue_depth}: MiB touched and taken at the start {before:?}, at the end {after:?}"
        );
        used.push(before[1]);
        // All that it takes it takes at its start. (The rest are stacks of threads that answered the control socket.)
        assert!(after[1] <= before[1] + 16, "{before:?}, {after:?}");
        host.disconnect().unwrap();
        stop_both(&mut nodes, &pair);
    }
    // What the deepest queues of as many connections as there may be take: docs/config.md says how much.
    assert!(used[1] - used[0] < 300, "{used:?}");
}
