//! Compare, Verify, and Compare and Write over the whole pair. Random ones are in every random load; here are the bounds and the corners.

use crate::verify::bad_blocks;
use crate::{do_read, do_write, write};
use ibid_sim::host::{Done, Op, Request};
use ibid_sim::model::Write;
use ibid_sim::pair::{Outcome, Pair};
use ibid_sim::{DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;

fn started(config: WorldConfig) -> World {
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    world
}

fn compare(world: &mut World, first: u64, data: &[u8]) -> Status {
    let request = Request {
        nsid: 1,
        slba: first,
        blocks: (data.len() / 512) as u32,
        lba_bytes: 512,
        op: Op::Compare { data: data.to_vec(), in_capsule: data.len() <= 16 << 10 },
    };
    world.command(1, request).status
}

fn verify(world: &mut World, first: u64, blocks: u32) -> Status {
    let op = Op::Verify;
    world.command(1, Request { nsid: 1, slba: first, blocks, lba_bytes: 512, op }).status
}

fn zeroes(world: &mut World, first: u64, sectors: u64) {
    let (number, _) = world.model.begin_write(0, first, sectors, true);
    let op = Op::Zeroes { deallocate: first.is_multiple_of(16) };
    let request = Request { nsid: 1, slba: first, blocks: sectors as u32, lba_bytes: 512, op };
    assert!(world.command(1, request).status.is_success());
    world.model.end_write(number);
}

/// A pair that expects what is there now, or something else for sure.
fn pair(world: &mut World, first: u64, length: u64, right: bool) -> (Pair, [Request; 2]) {
    let reading = world.model.begin_read(0, first, length);
    let request =
        Request { nsid: 1, slba: first, blocks: length as u32, lba_bytes: 512, op: Op::Read };
    let data = read(world, request);
    let mut versions = world.model.see(&reading, &data);
    if !right {
        let at = world.random.below(length) as usize;
        versions[at] = Some(Write::MAX);
    }
    let World { model, random, .. } = world;
    Pair::begin(model, (0, 512), (first, versions), random)
}

/// Reads on the second queue while other commands may be under way, none of which may end.
fn read(world: &mut World, request: Request) -> Vec<u8> {
    world.queues[2].submit(u64::MAX, request);
    loop {
        if let Some((_, done)) = world.step().pop() {
            assert_eq!((done.tag, done.status), (u64::MAX, Status::SUCCESS));
            return done.data;
        }
    }
}

fn run_pair(world: &mut World, queue: usize, (mut pair, requests): (Pair, [Request; 2])) -> bool {
    let [one, other] = requests;
    world.queues[queue].submit_pair([(900, one), (901, other)]);
    let mut done: Vec<Done> = Vec::new();
    while done.len() < 2 {
        done.extend(world.step().into_iter().map(|(_, done)| done));
    }
    for done in done {
        pair.ended(usize::from(done.tag == 901), done.status);
    }
    end(world, pair)
}

fn end(world: &mut World, pair: Pair) -> bool {
    let write = pair.write;
    match pair.judge(&mut world.model) {
        Outcome::Effective(_) => {
            world.model.end_write(write);
            true
        }
        Outcome::Never => false,
        Outcome::Unsure(_) => panic!("it is known how it ended"),
    }
}

/// Bytes from the log, zeroes from the log and bytes from the volume in one compare, aligned or not, in the capsule or not: equal is equal,
/// and one byte makes it different, wherever it is.
#[test]
fn a_compare_sees_what_a_read_would_and_every_byte_of_it() {
    for data_digest in [false, true] {
        let mut config = WorldConfig::calm(60);
        config.queue.data_digest = data_digest;
        let mut world = started(config);
        do_write(&mut world, 0, 700);
        do_write(&mut world, 700, 2048);
        world.cp();
        do_write(&mut world, 40, 13);
        zeroes(&mut world, 64, 30);
        zeroes(&mut world, 501, 9);
        for n in 0..30 {
            do_write(&mut world, 1003 + 24 * n, 5);
        }
        for (first, sectors) in [(0, 8), (0, 1), (41, 1), (37, 32), (60, 40), (500, 12), (1, 2048)]
        {
            let reading =
                Request { nsid: 1, slba: first, blocks: sectors, lba_bytes: 512, op: Op::Read };
            let right = world.command(1, reading).data;
            assert_eq!(compare(&mut world, first, &right), Status::SUCCESS);
            for n in 0..12 {
                let mut wrong = right.clone();
                let at = match n {
                    0 => 0,
                    1 => wrong.len() - 1,
                    _ => world.random.below(wrong.len() as u64) as usize,
                };
                wrong[at] ^= 1 << world.random.below(8);
                let status = compare(&mut world, first, &wrong);
                assert_eq!(status, Status::COMPARE_FAILURE, "byte {at} of {first}+{sectors}");
            }
        }
        world.stop();
    }
}

/// More compares than there is memory for wait for each other, in capsules and out of them, and all end.
#[test]
fn compares_wait_for_memory_and_all_end() {
    let mut config = WorldConfig::calm(61);
    config.compare_blocks = 10;
    config.queue.depth = 40;
    let mut world = started(config);
    do_write(&mut world, 0, 2048);
    let (_, _, bytes) = world.model.content(world.model.newest());
    let mut ended = 0;
    for n in 0..38u64 {
        let (first, sectors) = if n % 4 == 3 { (1, 2040) } else { (n * 3, 32) };
        let data = bytes[first as usize * 512..][..sectors * 512].to_vec();
        let in_capsule = data.len() <= 16 << 10 && n % 2 == 0;
        let op = Op::Compare { data, in_capsule };
        let request = Request { nsid: 1, slba: first, blocks: sectors as u32, lba_bytes: 512, op };
        world.queues[1].submit(n + 1, request);
    }
    while ended < 38 {
        for (_, done) in world.step() {
            assert_eq!(done.status, Status::SUCCESS);
            ended += 1;
        }
    }
    world.stop();
}

/// A host that owes the data of the largest compare keeps the memory of those that are asked for, and only that: compares in capsules go on, and
/// what waited goes on when the data comes.
#[test]
fn a_host_that_owes_data_of_a_compare_holds_up_none_in_capsules() {
    let mut config = WorldConfig::calm(62);
    config.queue.withhold = 1000;
    config.queue.withheld = 5_000_000_000;
    let mut world = started(config);
    let large = |in_capsule, blocks: u32| Request {
        nsid: 1,
        slba: 0,
        blocks,
        lba_bytes: 512,
        op: Op::Compare { data: vec![0; blocks as usize * 512], in_capsule },
    };
    world.queues[1].submit(1, large(false, 2048));
    world.queues[2].submit(2, large(false, 2048));
    let began = world.now;
    let small = world.command(2, large(true, 32));
    assert_eq!(small.status, Status::SUCCESS, "a capsule has memory of its own");
    assert!(world.now.since(began) < Nanos::from_millis(1_000));
    let mut ended = 0;
    while ended < 2 {
        ended += world.step().iter().filter(|(_, done)| done.status.is_success()).count();
    }
    world.stop();
}

#[test]
fn a_pair_takes_effect_whole_or_not_at_all() {
    let mut world = started(WorldConfig::calm(63));
    do_write(&mut world, 0, 64);
    for round in 0..12 {
        for (first, length) in [(0, 1), (3, 8), (40, 32)] {
            let right = pair(&mut world, first, length, true);
            assert!(run_pair(&mut world, 1, right));
            do_read(&mut world, 0, 72);
            let wrong = pair(&mut world, first, length, false);
            assert!(!run_pair(&mut world, 1, wrong));
            do_read(&mut world, 0, 72);
        }
        if round % 3 == 0 {
            world.cp();
        }
    }
    world.stop();
}

/// Two hosts that believe the same of a lock word: one of them gets it.
#[test]
fn of_two_pairs_that_expect_the_same_one_wins() {
    for seed in 0..20 {
        let mut config = WorldConfig::calm(100 + seed);
        config.net.delay = (1_000, 400_000);
        let mut world = started(config);
        do_write(&mut world, 0, 8);
        for _ in 0..10 {
            let one = pair(&mut world, 2, 1, true);
            let other = pair(&mut world, 2, 1, true);
            let mut racing = [one, other].map(|(pair, requests)| (Some(pair), requests, 0));
            for (n, (_, requests, _)) in racing.iter().enumerate() {
                let [compare, write] = requests.clone();
                let tag = 10 * n as u64;
                world.queues[1 + n].submit_pair([(tag, compare), (tag + 1, write)]);
            }
            let mut won = 0;
            while racing.iter().any(|(pair, ..)| pair.is_some()) {
                for (_, done) in world.step() {
                    let (pair, _, _) = &mut racing[(done.tag / 10) as usize];
                    let both = pair
                        .as_mut()
                        .expect("it runs")
                        .ended((done.tag % 10) as usize, done.status);
                    if both {
                        let pair = pair.take().expect("it runs");
                        won += u32::from(end(&mut world, pair));
                    }
                }
            }
            assert_eq!(won, 1);
        }
        do_read(&mut world, 0, 8);
        world.stop();
    }
}

/// A pair whose range has a write in the log that is not committed waits for that, and keeps later writes of its range out; others go on.
/// After the time that any write waits both its commands end, and it has had no effect.
#[test]
fn a_pair_waits_behind_what_is_logged_and_before_what_comes_later() {
    let config = WorldConfig { stall_timeout: Nanos::from_millis(4_000), ..WorldConfig::calm(64) };
    let mut world = started(config);
    do_write(&mut world, 0, 8);
    world.net.borrow_mut().cut = true;
    let (earlier, request) = write(&mut world, 0, 4);
    world.queues[1].submit(1, request);
    world.pass(Nanos::from_millis(5));
    let logged = world.snapshot(SOURCE).lsn;
    let (pair, [compare, second]) = pair(&mut world, 2, 1, true);
    world.queues[1].submit_pair([(2, compare), (3, second)]);
    world.pass(Nanos::from_millis(5));
    let (later, request) = write(&mut world, 1, 4);
    world.queues[2].submit(4, request);
    let (elsewhere, request) = write(&mut world, 8, 8);
    world.queues[2].submit(5, request);
    world.pass(Nanos::from_millis(50));
    assert_eq!(world.snapshot(SOURCE).lsn, logged.next(), "only the one elsewhere is logged");
    let mut statuses = [None; 6];
    while statuses[1..].iter().any(Option::is_none) {
        for (_, done) in world.step() {
            statuses[done.tag as usize] = Some(done.status);
        }
    }
    // The compare, too: it has become one by itself, of a range with a write that may yet be committed (ORPHAN-1).
    for tag in [1, 2, 3, 4, 5] {
        assert_eq!(statuses[tag], Some(Status::COMMAND_INTERRUPTED), "{tag}");
    }
    for write in [earlier, elsewhere] {
        world.model.end_unsure(write);
    }
    world.model.drop_read(&pair.reading);
    world.model.never(pair.write);
    world.model.never(later);
    assert_eq!(world.snapshot(SOURCE).lsn, logged.next());
    world.net.borrow_mut().cut = false;
    world.wait_connected();
    do_write(&mut world, 2, 1);
    do_read(&mut world, 0, 16);
    world.stop();
}

/// What a pair kept out is logged when that is over, in its turn, though its segment was closed meanwhile.
#[test]
fn what_a_pair_kept_out_goes_on_behind_it() {
    let mut world = started(WorldConfig::calm(65));
    do_write(&mut world, 0, 16);
    world.net.borrow_mut().cut = true;
    let (earlier, request) = write(&mut world, 0, 8);
    world.queues[1].submit(1, request);
    world.pass(Nanos::from_millis(2));
    let (mut fused, [compare, second]) = pair(&mut world, 0, 8, true);
    world.queues[1].submit_pair([(2, compare), (3, second)]);
    world.pass(Nanos::from_millis(2));
    let mut later: Vec<(u64, Write)> = Vec::new();
    for n in 0..6 {
        let (number, request) = write(&mut world, n, 8);
        world.queues[2].submit(10 + n, request);
        later.push((10 + n, number));
    }
    world.pass(Nanos::from_millis(2));
    drop(world.begin_cp());
    world.pass(Nanos::from_millis(100));
    world.net.borrow_mut().cut = false;
    let mut order = Vec::new();
    while order.len() < 9 {
        for (_, done) in world.step() {
            order.push(done.tag);
            match done.tag {
                1 => world.model.end_write(earlier),
                2 | 3 => drop(fused.ended((done.tag - 2) as usize, done.status)),
                tag => {
                    assert!(done.status.is_success(), "{tag}: {}", done.status);
                    let at =
                        later.iter().position(|(other, _)| *other == tag).expect("one of ours");
                    world.model.end_write(later[at].1);
                }
            }
        }
    }
    assert_eq!(order[..3], [1, 2, 3], "each in its turn");
    // It expected what was there before the earlier write.
    assert!(!end(&mut world, fused));
    do_read(&mut world, 0, 24);
    world.stop();
}

/// A host dies with pairs under way: they are over, or in the log; nobody waits for them.
#[test]
fn pairs_of_a_dead_host_keep_nobody_out() {
    for seed in 0..10 {
        let mut config = WorldConfig::calm(200 + seed);
        config.queue.withhold = 300;
        config.queue.withheld = 20_000_000;
        let mut world = started(config);
        do_write(&mut world, 0, 16);
        for n in 0..8 {
            let (fused, [compare, second]) = pair(&mut world, n % 3, 4, n % 2 == 0);
            world.queues[1].submit_pair([(2 * n, compare), (2 * n + 1, second)]);
            world.model.drop_read(&fused.reading);
        }
        let steps = world.random.below(60);
        for _ in 0..steps {
            world.step();
        }
        world.queues[1].die();
        world.run_until("every command to be gone", |world| {
            world.queues[1].is_gone() && world.snapshot(SOURCE).target[2] == 0
        });
        let (number, request) = write(&mut world, 0, 16);
        assert!(world.command(2, request).status.is_success());
        world.model.end_write(number);
        world.open_queue(1);
        world.run_until("the queue to be back", |world| world.queues[1].is_ready());
        world.stop();
    }
}

/// A host asked for the data of a pair's write sends it behind capsules that were on their way already. Where one of those is a compare for
/// whose data there is only the memory that the pair keeps, neither could go on: the write is sent back, all the rest is answered.
#[test]
fn data_of_a_pair_behind_a_compare_that_waits_for_its_memory_holds_nobody_up() {
    let mut config = WorldConfig::calm(67);
    config.compare_blocks = 10;
    let mut world = started(config);
    let zeroes = |in_capsule| Op::Compare { data: vec![0; 32 * 512], in_capsule };
    let request = |slba, op| Request { nsid: 1, slba, blocks: 32, lba_bytes: 512, op };
    let (number, data) = world.model.begin_write(0, 0, 32, false);
    let second = request(0, Op::Write { data, in_capsule: false });
    world.queues[1].submit_pair([(1, request(0, zeroes(true))), (2, second)]);
    world.queues[1].submit(3, request(64, zeroes(true)));
    world.queues[2].submit(4, request(128, zeroes(true)));
    let statuses = ends(&mut world, 4);
    for tag in [1, 3, 4] {
        assert_eq!(statuses[tag], Status::SUCCESS, "{tag}");
    }
    assert_eq!(statuses[2], Status::COMMAND_INTERRUPTED);
    world.model.never(number);
    do_read(&mut world, 0, 32);
    world.stop();
}

/// A host that owes the data of a pair's write keeps the memory of its compare from other hosts for so long as any write's data may be owed
/// while others wait for memory.
#[test]
fn a_host_that_owes_data_of_a_pair_keeps_memory_from_others_for_a_while_only() {
    let mut config = WorldConfig::calm(68);
    config.compare_blocks = 10;
    config.queue.withhold = 1000;
    config.queue.withheld = 2_400_000_000;
    let mut world = started(config);
    let other = world.connect_other();
    let zeroes = |in_capsule| Op::Compare { data: vec![0; 32 * 512], in_capsule };
    let request = |slba, op| Request { nsid: 1, slba, blocks: 32, lba_bytes: 512, op };
    let (number, data) = world.model.begin_write(0, 0, 32, false);
    let second = request(0, Op::Write { data, in_capsule: false });
    world.queues[1].submit_pair([(1, request(0, zeroes(true))), (2, second)]);
    world.pass(Nanos::from_millis(5));
    world.queues[other].submit(3, request(64, zeroes(true)));
    world.pass(Nanos::from_millis(1_500));
    let statuses = ends(&mut world, 3);
    assert_eq!(statuses[1..], [Status::SUCCESS, Status::COMMAND_INTERRUPTED, Status::SUCCESS]);
    world.model.never(number);
    do_read(&mut world, 0, 32);
    world.stop();
}

/// Commands with tags from 1 on end within a second; how, by tag.
fn ends(world: &mut World, count: usize) -> Vec<Status> {
    let until = world.now.after(Nanos::from_millis(1_000));
    let mut statuses = vec![None; count + 1];
    while statuses[1..].iter().any(Option::is_none) {
        for (_, done) in world.step() {
            statuses[done.tag as usize] = Some(done.status);
        }
        assert!(world.now < until, "held up: {statuses:?}");
    }
    statuses.into_iter().map(|status| status.unwrap_or(Status::SUCCESS)).collect()
}

/// What can't be read is told, unless the peer can help: then the block is written again.
#[test]
fn a_verify_reads_and_what_it_finds_is_mended_from_the_peer() {
    let mut world = started(WorldConfig::calm(66));
    do_write(&mut world, 0, 2048);
    world.cp();
    assert_eq!(verify(&mut world, 0, 2048), Status::SUCCESS);
    bad_blocks(&world, SOURCE, &[(0, 3), (0, 200)]);
    do_write(&mut world, 1600, 8);
    assert_eq!(verify(&mut world, 1600, 8), Status::SUCCESS, "the log has it");
    assert_eq!(world.snapshot(SOURCE).reads_from_peer, 0);
    assert_eq!(verify(&mut world, 0, 2048), Status::SUCCESS);
    let shot = world.snapshot(SOURCE);
    assert_eq!((shot.reads_from_peer, shot.rewritten), (1, 1));
    bad_blocks(&world, SOURCE, &[(0, 5), (0, 6)]);
    bad_blocks(&world, DESTINATION, &[(0, 5)]);
    assert_eq!(verify(&mut world, 38, 4), Status::UNRECOVERED_READ_ERROR);
    let (_, _, bytes) = world.model.content(1);
    assert_eq!(compare(&mut world, 40, &bytes[40 * 512..][..4096]), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(compare(&mut world, 48, &bytes[48 * 512..][..4096]), Status::SUCCESS);
    assert_eq!(compare(&mut world, 24, &bytes[25 * 512..][..512]), Status::COMPARE_FAILURE);
    world.stop();
}
