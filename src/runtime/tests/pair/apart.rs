//! A source without its peer: writes that wait, writes completed alone, what is noted meanwhile, and how the peer is caught up.

use crate::{WRITES, do_read, do_write, write};
use ibid_runtime::{PeerLoss, PeerState, SyncState};
use ibid_sim::host::{Op, Request};
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::{Crash, DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::{Nanos, VolumeId};
use ibid_wire::disk;
use ibid_wire::nvme_tcp::Status;

fn goes_on(seed: u64) -> WorldConfig {
    WorldConfig {
        peer_loss: PeerLoss::Continue,
        peer_timeout: Nanos::from_millis(300),
        cp_interval: Nanos::from_millis(40),
        ..WorldConfig::calm(seed)
    }
}

fn started(config: WorldConfig) -> World {
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    world
}

fn wait_alone(world: &mut World) {
    world.run_until("the source to go on alone", |world| {
        world.snapshot(SOURCE).sync == SyncState::Alone
    });
}

/// Reads through another queue than the first.
fn do_read_by(world: &mut World, queue: usize, first: u64, sectors: u64) {
    let reading = world.model.begin_read(0, first, sectors);
    let op = Op::Read;
    let request = Request { nsid: 1, slba: first, blocks: sectors as u32, lba_bytes: 512, op };
    let done = world.command(queue, request);
    assert!(done.status.is_success(), "{}", done.status);
    world.model.end_read(&reading, &done.data);
}

/// After the configured time a write that waits for the peer ends with a status that asks for a retry. It is in the log all the same, and
/// comes before what is sent again.
#[test]
fn a_write_that_waits_too_long_is_sent_back_and_comes_before_its_retry() {
    let config = WorldConfig { stall_timeout: Nanos::from_millis(4_000), ..WorldConfig::calm(31) };
    let mut world = started(config);
    world.net.borrow_mut().cut = true;
    let (_, request) = write(&mut world, 64, 8);
    let began = world.now;
    let done = world.command(1, request);
    assert_eq!(done.status, Status::COMMAND_INTERRUPTED);
    assert!(world.now.since(began) >= Nanos::from_millis(4_000));
    assert_eq!(world.snapshot(SOURCE).expired, 1);
    assert_eq!(world.snapshot(SOURCE).sync, SyncState::Waiting);
    do_read(&mut world, 8, 8);
    world.net.borrow_mut().cut = false;
    // Its retry, with other bytes.
    do_write(&mut world, 64, 8);
    do_read(&mut world, 64, 8);
    world.stop();
}

/// ORPHAN-1. What a host reads after it was told that its write failed is not followed by that write: the read waits until it is known.
#[test]
fn a_read_of_what_was_sent_back_waits_until_it_is_committed() {
    let config = WorldConfig { stall_timeout: Nanos::from_millis(2_000), ..WorldConfig::calm(33) };
    let mut world = started(config);
    do_write(&mut world, 64, 16);
    world.net.borrow_mut().cut = true;
    let (number, request) = write(&mut world, 64, 8);
    let done = world.command(1, request);
    assert_eq!(done.status, Status::COMMAND_INTERRUPTED);
    world.model.end_unsure(number);
    // What it does not touch is read; what it touches has to wait, and is sent back in the end.
    do_read(&mut world, 72, 8);
    let read = || Request { nsid: 1, slba: 60, blocks: 8, lba_bytes: 512, op: Op::Read };
    let began = world.now;
    let done = world.command(1, read());
    assert_eq!(done.status, Status::COMMAND_INTERRUPTED);
    assert!(world.now.since(began) >= Nanos::from_millis(1_900));
    // The connection's end changes nothing about it; with the peer comes the answer.
    world.queues[1].die();
    world.run_until("the target to know", |world| world.queues[1].is_gone());
    world.net.borrow_mut().cut = false;
    do_read_by(&mut world, 2, 60, 20);
    world.stop();
}

/// I16. A list of ranges is as many writes in the shard; none of them takes effect after the host that sent it has come back.
#[test]
fn a_list_of_ranges_whose_host_has_died_while_it_waited_has_no_effect() {
    let mut config = WorldConfig::calm(34);
    config.segments = 3;
    config.queue.depth = 60;
    let mut world = started(config);
    do_write(&mut world, 0, 400);
    world.net.borrow_mut().cut = true;
    let mut filler = 0;
    while world.snapshot(SOURCE).segments[1] > 0 {
        let (_, request) = write(&mut world, 1000 + 480 * (filler % 6), 480);
        world.queues[2].submit(filler, request);
        filler += 1;
        world.pass(Nanos::from_millis(1));
        assert!(filler < 60, "the log is full: {}", world.tell());
    }
    let ranges: Vec<(u64, u32)> = (0..10).map(|n| (n * 40, 8)).collect();
    let numbers: Vec<_> = ranges
        .iter()
        .map(|(first, sectors)| world.model.begin_write(0, *first, u64::from(*sectors), true).0)
        .collect();
    let op = Op::Deallocate(ranges);
    world.queues[1].submit(7, Request { nsid: 1, slba: 0, blocks: 1, lba_bytes: 512, op });
    world.pass(Nanos::from_millis(20));
    world.queues[1].die();
    world.run_until("the target to know", |world| world.queues[1].is_gone());
    numbers.into_iter().for_each(|number| world.model.end_unsure(number));
    world.open_queue(1);
    world.run_until("the host to be back", |world| world.queues[1].is_ready());
    do_read(&mut world, 0, 400);
    world.net.borrow_mut().cut = false;
    while world.snapshot(SOURCE).target[2] > 0 {
        world.step();
    }
    do_read(&mut world, 0, 400);
    world.stop();
}

/// A short absence: what the peer lacks is all in the log, and comes from there.
#[test]
fn a_peer_that_is_soon_back_is_sent_nothing_that_the_log_holds_as_blocks() {
    for crash in [None, Some(Crash::Power), Some(Crash::Kill)] {
        let mut world = started(goes_on(32));
        do_write(&mut world, 0, 8);
        match crash {
            None => world.net.borrow_mut().cut = true,
            Some(crash) => world.crash(DESTINATION, crash),
        }
        wait_alone(&mut world);
        for n in 0..40 {
            do_write(&mut world, n * 16, 8);
        }
        assert_eq!(world.snapshot(SOURCE).out_of_sync_blocks, 0, "the log holds it all");
        world.net.borrow_mut().cut = false;
        if crash.is_some() {
            world.start_destination();
        }
        world.wait_connected();
        assert_eq!(world.snapshot(SOURCE).cp_sum.blocks, 0, "no block travelled");
        do_write(&mut world, 8, 8);
        world.stop();
    }
}

/// A long absence: the log goes round, the map says what the peer lacks, and the peer is caught up while clients write. Either node may die
/// half-way.
#[test]
fn a_peer_that_was_long_away_is_caught_up_from_the_map() {
    let mut died = 0;
    for seed in 40..52 {
        let mut config = goes_on(seed);
        config.catch_up_blocks = 8;
        let mut world = started(config);
        let writes = LoadConfig { commands: 100_000, reads: 200, zeroes: 60, ..WRITES };
        let mut load = Load::new(writes);
        let crash = if seed % 2 == 0 { Crash::Power } else { Crash::Kill };
        world.crash(DESTINATION, crash);
        let mut steps = 0;
        while world.snapshot(SOURCE).out_of_sync_blocks < 60 {
            load.submit(&mut world);
            load.step(&mut world);
            steps += 1;
            assert!(steps < 400_000, "{}", world.tell());
        }
        if seed % 3 == 0 {
            // It restarts alone, and is alone again after a while.
            world.crash(SOURCE, crash);
            world.queues.clear();
            world.start_source();
            world.await_start();
            world.connect();
            load = Load::new(writes);
        }
        world.start_destination();
        let mut halves = 0;
        let mut steps = 0;
        loop {
            load.submit(&mut world);
            load.step(&mut world);
            steps += 1;
            assert!(steps < 400_000, "{}", world.tell());
            let here = world.snapshot(SOURCE);
            // (A source that died before it had recorded a CP alone has all of it in its log.)
            let left = here.out_of_sync_blocks;
            if here.sync == SyncState::CatchingUp && (1..40).contains(&left) && halves == 0 {
                halves = 1;
                let there = ibid_sim::superblock(world.files[DESTINATION].borrow().durable(0));
                assert_eq!(there.state, disk::SyncState::OutOfSync, "the mirror is marked");
                if seed % 4 < 2 {
                    world.crash(DESTINATION, crash);
                    world.start_destination();
                } else {
                    world.crash(SOURCE, crash);
                    world.queues.clear();
                    world.start_source();
                    world.await_start();
                    world.connect();
                    load = Load::new(writes);
                }
            }
            if here.sync == SyncState::InSync {
                break;
            }
        }
        died += halves;
        assert_eq!(world.snapshot(SOURCE).out_of_sync_blocks, 0);
        load.stop_after(0);
        load.run(&mut world);
        world.stop();
    }
    assert!(died >= 8, "{died} of 12 died half-way");
}

/// Volumes that held data before: the first copy is a catch-up like any other; zeroes travel as opcodes.
#[test]
fn a_new_pair_copies_what_its_source_holds() {
    for (seed, dirty) in [(61, false), (62, true)] {
        let mut config = WorldConfig::calm(seed);
        config.catch_up_blocks = 16;
        // Blocks 10 to 199 of volume 0, half of them zeroes.
        config.allocated = vec![(VolumeId::new(0), 10, 190)];
        if dirty {
            config.allocated_there = vec![(VolumeId::new(1), 0, 512)];
        }
        let mut world = World::unborn(config);
        for block in (10..200).step_by(2) {
            let (number, bytes) = world.model.begin_write(0, block * 8, 8, false);
            world.files[SOURCE].borrow_mut().fill(1, block as usize * 4096, &bytes);
            world.model.end_write(number);
        }
        if dirty {
            world.files[DESTINATION].borrow_mut().fill(2, 4096, &[7; 4096]);
        }
        world.start_source();
        world.start_destination();
        world.await_start();
        world.connect();
        do_write(&mut world, 96, 16);
        world.wait_connected();
        let sum = world.snapshot(SOURCE).cp_sum;
        assert!((90..=95).contains(&sum.blocks), "{} blocks travelled", sum.blocks);
        do_read(&mut world, 160, 8);
        world.stop();
    }
}

/// The destination's device was replaced by a blank one: everything is copied, whatever was in sync before.
#[test]
fn a_blank_destination_gets_a_whole_copy() {
    let mut world = started(WorldConfig::calm(63));
    Load::new(LoadConfig { commands: 200, zeroes: 40, ..WRITES }).run(&mut world);
    world.cp();
    world.crash(DESTINATION, Crash::Power);
    world.replace_disk(DESTINATION);
    world.start_destination();
    world.run_until("the copy to begin", |world| {
        world.snapshot(SOURCE).sync == SyncState::CatchingUp
    });
    do_write(&mut world, 24, 8);
    world.wait_connected();
    world.stop();
}

/// A source that is to go on alone does so only when its superblock says so durably.
#[test]
fn nothing_is_completed_alone_before_that_is_durable() {
    let mut world = started(goes_on(64));
    world.files[SOURCE].borrow_mut().fail = Some(Box::new(|op| {
        matches!(op, ibid_driver::DiskOp::Write { at: 0 | 65536, .. }).then_some(5)
    }));
    world.net.borrow_mut().cut = true;
    let (_, request) = write(&mut world, 0, 8);
    world.queues[1].submit(7, request);
    // A node that can't record it has failed, and sends the write to another path.
    let ended = loop {
        let ended = world.step();
        if !ended.is_empty() {
            break ended;
        }
    };
    assert_eq!(ended[0].1.status, Status::ANA_INACCESSIBLE);
    world.pass(Nanos::from_millis(2_000));
    let state = ibid_sim::superblock(world.files[SOURCE].borrow().durable(0)).state;
    assert_eq!(state, disk::SyncState::InSync);
    assert_ne!(world.snapshot(SOURCE).sync, SyncState::Alone);
    assert_eq!(world.snapshot(SOURCE).peer, PeerState::Away);
}
