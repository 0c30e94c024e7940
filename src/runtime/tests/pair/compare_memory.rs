//! Memory for compares where hosts want more of it than there is, or keep it and owe their data.

use crate::{do_read, do_write, write};
use ibid_sim::host::{Op, QueueConfig, Request};
use ibid_sim::model::Write;
use ibid_sim::{SOURCE, World, WorldConfig};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;

/// Longer than any test looks on.
const EVER: u64 = 1_000_000_000_000;

/// A host that withholds all data it is asked for, for so long, on queues 1 and 2; and another that does not, on the queue that is given.
fn greedy(mut config: WorldConfig, withheld: u64) -> (World, usize) {
    config.queue = QueueConfig { withhold: 1000, withheld, patient: true, ..config.queue };
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    world.config.queue.withhold = 0;
    let other = world.connect_other();
    (world, other)
}

fn compare(slba: u64, blocks: u32, in_capsule: bool) -> Request {
    let data = vec![0; blocks as usize * 512];
    Request { nsid: 1, slba, blocks, lba_bytes: 512, op: Op::Compare { data, in_capsule } }
}

/// A pair with its compare in the capsule and data of its write that is asked for. It takes ten pages: its run begins inside of one.
fn pair(world: &mut World, slba: u64) -> (Write, [Request; 2]) {
    let (number, data) = world.model.begin_write(0, slba, 32, false);
    let op = Op::Write { data, in_capsule: false };
    (number, [compare(slba, 32, true), Request { nsid: 1, slba, blocks: 32, lba_bytes: 512, op }])
}

/// How so many commands, with tags from 1 on, end, and when.
fn ends(world: &mut World, count: usize, within: Nanos) -> Vec<(Status, Nanos)> {
    let began = world.now;
    let mut found = vec![None; count + 1];
    while found[1..].iter().any(Option::is_none) {
        for (_, done) in world.step() {
            found[done.tag as usize] = Some((done.status, world.now.since(began)));
        }
        assert!(world.now.since(began) < within, "held up: {found:?}");
    }
    found.into_iter().skip(1).flatten().collect()
}

/// A host fills what it may have of both kinds of memory, with compares whose data does not come and with pairs whose writes' data does not,
/// and has more of them waiting. Another host's longest compares do not wait for any of it.
#[test]
fn a_host_with_its_share_of_compares_leaves_other_hosts_theirs() {
    let mut config = WorldConfig::calm(160);
    config.compare_blocks = 40;
    let (mut world, other) = greedy(config, EVER);
    for n in 0..4 {
        world.queues[1].submit(100 + n, compare(0, 2048, false));
        world.queues[1].submit(200 + n, compare(0, 8 * (1 + n as u32), false));
    }
    let mut never = Vec::new();
    for n in 0..8 {
        let (number, requests) = pair(&mut world, 101 + 40 * n);
        never.push(number);
        let [one, two] = requests;
        world.queues[2].submit_pair([(300 + n, one), (400 + n, two)]);
    }
    world.pass(Nanos::from_millis(20));
    for (slba, blocks, in_capsule) in [(0, 2048, false), (1, 2048, false), (1, 32, true)] {
        for _ in 0..5 {
            let began = world.now;
            let done = world.command(other, compare(slba, blocks, in_capsule));
            assert_eq!(done.status, Status::SUCCESS);
            let took = world.now.since(began);
            assert!(took < Nanos::from_millis(20), "{blocks} blocks, {in_capsule}: {took:?}");
        }
    }
    for number in never {
        world.model.never(number);
    }
    world.queues[1].die();
    world.queues[2].die();
    world.run_until("every command to be gone", |world| world.snapshot(SOURCE).target[2] == 0);
    world.stop();
}

/// Pairs of one host have all that it may have of the memory for capsules, and the data of their writes stands behind a capsule that waits
/// for more of it. There is memory, which is other hosts'. It must not stand still: the writes are sent back.
#[test]
fn data_of_pairs_behind_a_compare_that_waits_for_its_hosts_share_holds_nobody_up() {
    let mut config = WorldConfig::calm(161);
    config.compare_blocks = 40;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    let mut numbers = Vec::new();
    for n in 0..3 {
        let (number, [one, two]) = pair(&mut world, 101 + 40 * n);
        numbers.push(number);
        world.queues[1].submit_pair([(1 + n, one), (4 + n, two)]);
    }
    world.queues[1].submit(7, compare(1, 32, true));
    let ends = ends(&mut world, 7, Nanos::from_millis(1_000));
    assert!([0, 1, 2, 6].iter().all(|at| ends[*at].0 == Status::SUCCESS), "{ends:?}");
    assert!(ends[3..6].iter().any(|end| end.0 == Status::COMMAND_INTERRUPTED), "{ends:?}");
    for (number, end) in numbers.into_iter().zip(&ends[3..6]) {
        match end.0 {
            Status::SUCCESS => world.model.end_write(number),
            Status::COMMAND_INTERRUPTED => world.model.never(number),
            other => panic!("a write of a pair ends with {other}"),
        }
    }
    do_read(&mut world, 100, 120);
    world.stop();
}

/// What a host has of the memory may lie so that another's longest compare does not fit beside it. After two seconds that waits for no
/// data of another host.
#[test]
fn a_host_that_owes_data_of_a_compare_is_asked_to_send_it_again_where_another_waits() {
    let (mut world, other) = greedy(WorldConfig::calm(162), 2_400_000_000);
    let brief = QueueConfig {
        host: 1,
        qid: 2,
        cntlid: world.queues[other - 1].cntlid(),
        withhold: 1000,
        withheld: 50_000_000,
        ..world.config.queue
    };
    let brief = world.open_other_queue(brief);
    world.queues[brief].submit(1, compare(0, 600, false));
    world.pass(Nanos::from_millis(10));
    world.queues[1].submit(2, compare(0, 2048, false));
    assert_eq!(ends(&mut world, 1, Nanos::from_millis(100))[0].0, Status::SUCCESS);
    world.queues[other].submit(1, compare(1, 2048, false));
    let ends = ends(&mut world, 2, Nanos::from_millis(3_000));
    assert_eq!([ends[0].0, ends[1].0], [Status::SUCCESS, Status::COMMAND_INTERRUPTED]);
    let waited = Nanos::from_millis(1_800)..Nanos::from_millis(2_100);
    assert!(waited.contains(&ends[0].1), "it may owe its data for a while: {ends:?}");
    assert!(world.queues[1].is_ready(), "its connection stays");
    assert_eq!(world.snapshot(SOURCE).target[2], 0);
    world.stop();
}

/// A compare that is the first of two keeps its memory until the second comes. Where another host waits it comes to its end without.
#[test]
fn a_host_that_owes_half_of_a_pair_keeps_memory_from_others_for_a_while_only() {
    let mut config = WorldConfig::calm(164);
    config.compare_blocks = 10;
    let (mut world, other) = greedy(config, EVER);
    world.queues[1].submit_first(2, compare(1, 32, true));
    world.pass(Nanos::from_millis(20));
    world.queues[other].submit(1, compare(33, 32, true));
    let ends = ends(&mut world, 2, Nanos::from_millis(3_000));
    assert_eq!([ends[0].0, ends[1].0], [Status::SUCCESS, Status::COMMAND_INTERRUPTED]);
    let waited = Nanos::from_millis(1_800)..Nanos::from_millis(2_100);
    assert!(waited.contains(&ends[0].1), "{ends:?}");
    world.stop();
}

/// A host that never sends the data of a large compare that it was asked for loses its connection after the time that data has, and what it
/// kept is there again, to the last page of its share. Meanwhile another host compares, writes and reads as if it were not there.
#[test]
fn a_host_that_never_sends_the_data_of_a_compare_is_ended_and_keeps_nothing() {
    let (mut world, other) = greedy(WorldConfig::calm(163), EVER);
    world.queues[1].submit(5, compare(0, 2048, false));
    let began = world.now;
    let mut round = 0;
    while world.now.since(began) < Nanos::from_millis(29_600) {
        round += 1;
        let asked = world.now;
        let (number, request) = write(&mut world, 32 * (round % 64), 32);
        assert!(world.command(other, request).status.is_success());
        world.model.end_write(number);
        let done = world.command(other, compare(4096, 2048, false));
        assert_eq!(done.status, Status::SUCCESS);
        let took = world.now.since(asked);
        assert!(took < Nanos::from_millis(20), "round {round}: {took:?}");
        assert!(world.queues[1].is_ready(), "its time is not over");
        world.pass(Nanos::from_millis(300));
    }
    assert_eq!(world.snapshot(SOURCE).target[2], 1);
    world.pass(Nanos::from_millis(600));
    assert!(world.queues[1].is_dead(), "thirty seconds without data");
    assert_eq!(world.queues[1].take_unanswered(), [5]);
    assert_eq!(world.snapshot(SOURCE).target[2], 0, "nothing of it is left");
    // Its share is the longest compare: it has that again, while the other host has its own.
    let whole = QueueConfig { qid: 3, cntlid: world.queues[0].cntlid(), ..world.config.queue };
    let whole = world.open_other_queue(whole);
    world.queues[whole].submit(1, compare(4096, 2048, false));
    world.queues[other].submit(2, compare(4097, 2048, false));
    for (status, took) in ends(&mut world, 2, Nanos::from_millis(100)) {
        assert!(status.is_success() && took < Nanos::from_millis(20), "{status} after {took:?}");
    }
    world.open_queue(1);
    world.run_until("the queue to be back", |world| world.queues[1].is_ready());
    do_write(&mut world, 0, 16);
    do_read(&mut world, 0, 2048);
    world.stop();
}

/// A compare waits for memory behind another's, and its connection ends. Memory comes free: the other gets its part, and the one whose host is
/// gone nothing, which nobody would give back.
#[test]
fn a_compare_whose_host_is_gone_gets_no_memory_when_its_turn_comes() {
    let (mut world, _) = greedy(WorldConfig::calm(169), EVER);
    for (tag, queue, blocks) in [(1, 2, 2048), (2, 1, 2048), (3, 2, 8)] {
        world.queues[queue].submit(tag, compare(0, blocks, false));
        world.pass(Nanos::from_millis(2));
    }
    world.queues[2].die();
    world.pass(Nanos::from_millis(20));
    world.queues[1].die();
    world.run_until("every command to be gone", |world| world.snapshot(SOURCE).target[2] == 0);
    world.stop();
}
