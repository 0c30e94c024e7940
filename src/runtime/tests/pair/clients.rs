//! Connections that come, stay silent, end at a bad moment, or owe data that the log would have to wait for.

use crate::{WRITES, do_read, do_write, write};
use ibid_runtime::Shard;
use ibid_sim::host::{Done, Op, QueueConfig, Request};
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::{SOURCE, World, WorldConfig};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;

/// The end of a stream may come with its last bytes, under one event.
#[test]
fn an_end_right_behind_the_last_bytes_is_seen() {
    let mut world = World::new(WorldConfig::calm(1));
    world.pass(Nanos::from_millis(1));
    let at = {
        let mut sockets = world.sockets.borrow_mut();
        let at = sockets.connect();
        sockets.write(at, &[0; 10]);
        sockets.close(at);
        at
    };
    world.pass(Nanos::from_millis(1));
    assert!(!world.sockets.borrow().is_open_at_target(at));
}

#[test]
fn connections_beyond_the_bound_are_all_closed() {
    let mut world = World::new(WorldConfig::calm(2));
    for _ in 0..30 {
        world.sockets.borrow_mut().connect();
    }
    world.pass(Nanos::from_millis(1));
    assert_eq!(world.sockets.borrow().open_to_target, 8);
}

/// A connection that opens while the shard waits has its whole time to say something.
#[test]
fn a_connection_that_comes_while_the_shard_sleeps_is_not_late() {
    let mut world = World::new(WorldConfig::calm(3));
    world.pass(Nanos::from_millis(7_000));
    let at = world.sockets.borrow_mut().connect();
    world.source.as_mut().expect("it runs").wait(Nanos::from_millis(1));
    world.pass(Nanos::from_millis(4_000));
    assert!(world.sockets.borrow().is_open_at_target(at));
    world.pass(Nanos::from_millis(2_000));
    assert!(!world.sockets.borrow().is_open_at_target(at), "five seconds without an ICReq");
}

/// A host owes data for one write, the log goes round several times meanwhile, and behind the write's data in the same stream stand
/// commands that need room in the log.
#[test]
fn the_log_goes_round_past_a_host_that_owes_data() {
    let mut config = WorldConfig::calm(4);
    config.segments = 3;
    config.queue.withhold = 1000;
    config.queue.withheld = 3_000_000_000;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    let (slow, data) = world.model.begin_write(0, 4001, 1999, false);
    let op = Op::Write { data, in_capsule: false };
    world.queues[1].submit(77, Request { nsid: 1, slba: 4001, blocks: 1999, lba_bytes: 512, op });
    let began = world.now;
    let mut round = 0;
    while world.now.since(began) < Nanos::from_millis(2_000) {
        round += 1;
        let queue = 1 + round % 2;
        let (number, data) = world.model.begin_write(0, 32 * (round as u64 % 100), 32, false);
        let op = Op::Write { data, in_capsule: true };
        let done = world.command(
            queue,
            Request { nsid: 1, slba: 32 * (round as u64 % 100), blocks: 32, lba_bytes: 512, op },
        );
        assert!(done.status.is_success());
        world.model.end_write(number);
        if round % 8 == 0 {
            world.cp();
        }
    }
    assert!(world.snapshot(SOURCE).cp.get() > 20, "the log went round: {}", world.tell());
    let mut ended = Vec::new();
    while ended.is_empty() {
        ended = world.step();
    }
    assert_eq!((ended.len(), ended[0].1.tag), (1, 77));
    assert!(ended[0].1.status.is_success());
    world.model.end_write(slow);
    assert!(world.snapshot(SOURCE).copied[2] > 0, "a late entry is moved, and counted");
    do_read(&mut world, 4000, 2001);
    world.stop();
}

#[test]
fn hosts_that_die_in_the_middle_leave_nothing_behind() {
    let mut config = WorldConfig::calm(5);
    config.pieces = 3000;
    config.queue.withhold = 300;
    config.queue.withheld = 10_000_000;
    let mut world = World::new(config);
    world.connect();
    Load::new(LoadConfig { commands: 500, reads: 400, large: 200, deaths: 10, ..WRITES })
        .run(&mut world);
    world.run_until("every command to be gone", |world| world.snapshot(SOURCE).target[2] == 0);
    world.stop();
}

/// A stop does not wait for data that a host owes: what it asks for was never acknowledged.
#[test]
fn a_stop_is_clean_although_a_host_owes_data() {
    let mut config = WorldConfig::calm(6);
    config.queue.withhold = 1000;
    config.queue.withheld = 1_000_000_000_000;
    let mut world = World::new(config);
    world.connect();
    do_write(&mut world, 0, 16);
    let (_, request) = write(&mut world, 0, 512);
    world.queues[1].submit(5, request);
    world.pass(Nanos::from_millis(10));
    world.stop();
}

/// Writes small pieces on a queue, one after the other, at 5000 and above in volume 0, until `until` holds; they must all succeed.
/// Gives what else has ended.
fn go_round(
    world: &mut World,
    queue: usize,
    mut until: impl FnMut(&mut World, &[Done]) -> bool,
) -> Vec<Done> {
    const OURS: u64 = 1_000_000;
    let mut under_way = None;
    let mut ended = Vec::new();
    for round in 0..400_000 {
        if under_way.is_none() {
            if until(world, &ended) {
                return ended;
            }
            let (number, request) = write(world, 5000 + 32 * (round % 90), 32);
            world.queues[queue].submit(OURS, request);
            under_way = Some(number);
        }
        for (_, done) in world.step() {
            if done.tag == OURS {
                assert!(done.status.is_success(), "{}", done.status);
                world.model.end_write(under_way.take().expect("it was sent"));
            } else {
                ended.push(done);
            }
        }
    }
    panic!("the log does not go round: {}", world.tell());
}

/// SRC-2. What a read is answered from is not used again before the client has it.
#[test]
fn pages_of_a_read_that_its_client_does_not_take_stay_as_they_are() {
    let mut config = WorldConfig::calm(7);
    config.segments = 3;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    do_write(&mut world, 0, 2000);
    let reading = world.model.begin_read(0, 0, 2000);
    let request = Request { nsid: 1, slba: 0, blocks: 2000, lba_bytes: 512, op: Op::Read };
    world.queues[2].submit(9, request);
    // Nobody looks at the host's end of that connection now, and the log goes round, over what the read shows and over its pages.
    let slow = world.queues.pop().expect("the queue of the read");
    let began = world.now;
    let ended = go_round(&mut world, 1, |world, _| world.snapshot(SOURCE).cp.get() > 20);
    assert!(ended.is_empty());
    assert!(world.now.since(began) < Nanos::from_millis(20_000), "it was waited for the host");
    do_write(&mut world, 0, 2000);
    assert!(world.snapshot(SOURCE).copied[3] >= 48 << 10, "the read was copied aside, and counted");
    world.queues.push(slow);
    let mut read = None;
    for _ in 0..400_000 {
        for (queue, done) in world.step() {
            assert!(done.status.is_success(), "{}", done.status);
            assert_eq!(queue, 2);
            world.model.end_read(&reading, &done.data);
            read = Some(done);
        }
        if read.is_some() {
            break;
        }
    }
    assert!(read.is_some(), "{}", world.tell());
    world.stop();
}

/// R5: a host that takes nothing has its share of the memory for reads, and loses its connection in the end. Others read on.
#[test]
fn a_host_that_does_not_read_leaves_others_memory_to_read_with() {
    let mut config = WorldConfig::calm(11);
    config.read_blocks = 1024;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    do_write(&mut world, 0, 2000);
    world.cp();
    let other = world.connect_other();
    world.queues[1].deaf_until = u64::MAX;
    for n in 0..30 {
        let request = Request { nsid: 1, slba: 0, blocks: 1600, lba_bytes: 512, op: Op::Read };
        world.queues[1].submit(n, request);
    }
    world.pass(Nanos::from_millis(100));
    let began = world.now;
    let mut reads = 0;
    while world.queues[1].is_ready() && world.now.since(began) < Nanos::from_millis(60_000) {
        let reading = world.model.begin_read(0, 0, 1600);
        let at = world.now;
        let request = Request { nsid: 1, slba: 0, blocks: 1600, lba_bytes: 512, op: Op::Read };
        let done = world.command(other, request);
        assert!(done.status.is_success(), "{}", done.status);
        assert!(world.now.since(at) < Nanos::from_millis(100), "it waited for the other host");
        world.model.end_read(&reading, &done.data);
        reads += 1;
        world.pass(Nanos::from_millis(100));
        if world.snapshot(SOURCE).target[1] < 5 {
            break;
        }
    }
    let took = world.now.since(began);
    assert!(reads > 100, "{reads}");
    assert!(took < Nanos::from_millis(35_000), "its connection stays");
}

/// R4: a host that asks for data to be asked for and never sends it does not keep others from writing.
#[test]
fn a_host_that_owes_data_leaves_others_memory_to_write_with() {
    let mut config = WorldConfig::calm(12);
    config.segments = 4;
    config.aside_blocks = 2048;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    let other = world.connect_other();
    let owing =
        QueueConfig { qid: 4, withhold: 1000, withheld: u64::MAX / 2, ..world.config.queue };
    let cntlid = world.queues[0].cntlid();
    let at = world.open_other_queue(QueueConfig { cntlid, ..owing });
    for n in 0..20 {
        let (_, request) = write(&mut world, 0, 1200);
        world.queues[at].submit(n, request);
    }
    world.pass(Nanos::from_millis(100));
    for n in 0..50 {
        let began = world.now;
        let (number, request) = write(&mut world, 2000, 1000);
        let done = world.command(other, request);
        assert!(done.status.is_success(), "{}", done.status);
        assert!(world.now.since(began) < Nanos::from_millis(500), "write {n} waited");
        world.model.end_write(number);
        world.pass(Nanos::from_millis(100));
    }
    do_read(&mut world, 2000, 1000);
}

/// Where even shares leave nothing, those who have owed their data for long are asked to send it again.
#[test]
fn a_host_that_owes_data_for_long_gives_its_memory_back_to_those_who_wait() {
    let mut config = WorldConfig::calm(13);
    config.segments = 4;
    // Room for one of the longest writes.
    config.aside_blocks = 514;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    let other = world.connect_other();
    let owing =
        QueueConfig { qid: 4, withhold: 1000, withheld: u64::MAX / 2, ..world.config.queue };
    let cntlid = world.queues[0].cntlid();
    let at = world.open_other_queue(QueueConfig { cntlid, ..owing });
    let (_, request) = write(&mut world, 0, 2000);
    world.queues[at].submit(0, request);
    world.pass(Nanos::from_millis(100));
    let began = world.now;
    let (number, request) = write(&mut world, 2000, 1000);
    let done = world.command(other, request);
    assert!(done.status.is_success(), "{}", done.status);
    let took = world.now.since(began);
    assert!(took < Nanos::from_millis(2_500), "it waited for {took:?}");
    assert!(took > Nanos::from_millis(1_500), "the other had its time: {took:?}");
    world.model.end_write(number);
    do_read(&mut world, 2000, 1000);
}

/// More large writes than there is memory to set aside: each is taken on when there is, and none fails.
#[test]
fn large_writes_whose_data_is_owed_wait_for_memory_and_none_fails() {
    let mut config = WorldConfig::calm(8);
    config.segments = 3;
    config.aside_blocks = 514;
    config.queue.withhold = 1000;
    config.queue.withheld = 500_000_000;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    let mut numbers = Vec::new();
    for n in 0..4 {
        let (number, request) = write(&mut world, 1 + 1200 * n, 1180);
        numbers.push(number);
        world.queues[1].submit(n, request);
    }
    let ended = go_round(&mut world, 2, |_, ended| ended.len() == 4);
    for done in ended {
        assert!(done.status.is_success(), "{}", done.status);
        world.model.end_write(numbers[done.tag as usize]);
    }
    assert!(world.snapshot(SOURCE).copied[2] > 0, "they were late");
    assert!(world.snapshot(SOURCE).cp.get() > 20, "the log went round");
    do_read_all(&mut world, 4800);
    world.stop();
}

/// Small writes are asked for their data without a place beside the log being kept. Where more are late than it can take, the log
/// does not wait for them: their hosts are asked to try again. What does fit is written.
#[test]
fn small_writes_whose_data_is_owed_end_with_a_retry_only_when_memory_is_used_up() {
    for (seed, aside_blocks) in [(9, 514), (10, 2048)] {
        let mut config = WorldConfig::calm(seed);
        config.segments = 3;
        config.aside_blocks = aside_blocks;
        config.queues = 3;
        config.queue.depth = 60;
        config.queue.withhold = 1000;
        config.queue.withheld = 1_000_000_000;
        let mut world = World::new(config);
        world.connect();
        world.wait_connected();
        // 120 times five pages are owed.
        let mut numbers = Vec::new();
        for n in 0..120 {
            let (number, data) = world.model.begin_write(0, 1 + 40 * n, 32, false);
            numbers.push(number);
            let op = Op::Write { data, in_capsule: false };
            let request = Request { nsid: 1, slba: 1 + 40 * n, blocks: 32, lba_bytes: 512, op };
            world.queues[1 + n as usize % 2].submit(n, request);
        }
        let ended = go_round(&mut world, 3, |_, ended| ended.len() == 120);
        assert!(world.snapshot(SOURCE).cp.get() > 20, "the log went round");
        let (written, refused): (Vec<Done>, Vec<Done>) =
            ended.into_iter().partition(|done| done.status.is_success());
        for done in written {
            world.model.end_write(numbers[done.tag as usize]);
        }
        if aside_blocks == 514 {
            assert_eq!(
                refused.len(),
                120 - 514 / 2 / 5,
                "half of the memory is theirs, five pages each"
            );
        } else {
            assert_eq!(refused.len(), 0, "there was memory for all");
        }
        for done in refused {
            assert_eq!(done.status, Status::COMMAND_INTERRUPTED);
        }
        do_read_all(&mut world, 4800);
        world.stop();
    }
}

/// Reads the front of volume 0 in pieces.
fn do_read_all(world: &mut World, sectors: u64) {
    for first in (0..sectors).step_by(480) {
        do_read(world, first, 480);
    }
}
