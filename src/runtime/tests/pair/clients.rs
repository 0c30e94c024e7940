//! Connections that come, stay silent, end at a bad moment, or owe data that the log would have to wait for.

use crate::world::host::{Op, Request};
use crate::world::load::{Load, LoadConfig};
use crate::world::{SOURCE, World, WorldConfig};
use crate::{WRITES, do_read, do_write, write};
use ibid_runtime::Shard;
use ibid_units::Nanos;

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
    world
        .source
        .as_mut()
        .expect("it runs")
        .wait(Nanos::from_millis(1));
    world.pass(Nanos::from_millis(4_000));
    assert!(world.sockets.borrow().is_open_at_target(at));
    world.pass(Nanos::from_millis(2_000));
    assert!(
        !world.sockets.borrow().is_open_at_target(at),
        "five seconds without an ICReq"
    );
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
    let op = Op::Write {
        data,
        in_capsule: false,
    };
    world.queues[1].submit(
        77,
        Request {
            nsid: 1,
            slba: 4001,
            blocks: 1999,
            lba_bytes: 512,
            op,
        },
    );
    let began = world.now;
    let mut round = 0;
    while world.now.since(began) < Nanos::from_millis(2_000) {
        round += 1;
        let queue = 1 + round % 2;
        let (number, data) = world
            .model
            .begin_write(0, 32 * (round as u64 % 100), 32, false);
        let op = Op::Write {
            data,
            in_capsule: true,
        };
        let done = world.command(
            queue,
            Request {
                nsid: 1,
                slba: 32 * (round as u64 % 100),
                blocks: 32,
                lba_bytes: 512,
                op,
            },
        );
        assert!(done.status.is_success());
        world.model.end_write(number);
        if round % 8 == 0 {
            world.cp();
        }
    }
    assert!(
        world.snapshot(SOURCE).cp.get() > 20,
        "the log went round: {}",
        world.tell()
    );
    let mut ended = Vec::new();
    while ended.is_empty() {
        ended = world.step();
    }
    assert_eq!((ended.len(), ended[0].1.tag), (1, 77));
    assert!(ended[0].1.status.is_success());
    world.model.end_write(slow);
    assert!(
        world.snapshot(SOURCE).copied[2] > 0,
        "a late entry is moved, and counted"
    );
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
    Load::new(LoadConfig {
        commands: 500,
        reads: 400,
        large: 200,
        deaths: 10,
        ..WRITES
    })
    .run(&mut world);
    world.run_until("every command to be gone", |world| {
        world.snapshot(SOURCE).target[2] == 0
    });
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
