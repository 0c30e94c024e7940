//! What crosses the link and what the CPU copies, against the numbers that are promised.

use crate::{WRITES, do_write, write};
use ibid_sim::host::{Op, Request};
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::{DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::Nanos;

fn quiet(seed: u64, full: bool) -> World {
    let mut config = WorldConfig::calm(seed);
    config.segments = 4;
    config.segment_blocks = 2048;
    config.volumes = vec![(65_536, 512)];
    config.cp_interval = Nanos::from_millis(1_000_000);
    config.full = full;
    config.queues = 1;
    config.queue.depth = 40;
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    world
}

/// Writes whole blocks, `depth` at once; gives the client's bytes.
fn write_blocks(world: &mut World, places: &[u64], sectors: u64) -> u64 {
    let depth = 32;
    let mut next = 0;
    let mut numbers = std::collections::BTreeMap::new();
    while next < places.len() || !numbers.is_empty() {
        while next < places.len() && numbers.len() < depth {
            let (number, request) = write(world, places[next], sectors);
            next += 1;
            numbers.insert(next as u64, number);
            world.queues[1].submit(next as u64, request);
        }
        for (_, done) in world.step() {
            assert!(done.status.is_success());
            world.model.end_write(numbers.remove(&done.tag).expect("a write under way"));
        }
    }
    places.len() as u64 * sectors * 512
}

/// Every second block of the volume, in no order: none joins its neighbour.
fn scattered(count: u64) -> Vec<u64> {
    (0..count).map(|n| (n * 1237 % 4096) * 16).collect()
}

#[test]
fn a_cp_over_random_blocks_sends_twenty_bytes_for_each() {
    let mut world = quiet(1, false);
    let client = write_blocks(&mut world, &scattered(1500), 8);
    let before = world.snapshot(SOURCE);
    let done = world.cp();
    assert_eq!((done.counters.references, done.counters.referenced_blocks), (1500, 1500));
    assert!(done.link_bytes <= 20 * 1500, "{} bytes", done.link_bytes);
    // Log and CP, and the reports that come back, per client byte.
    let after = world.snapshot(SOURCE);
    let sent: u64 = after.port.tx_bytes.iter().sum::<u64>();
    assert!(sent as f64 <= 1.06 * client as f64, "{sent} bytes for {client}");
    assert_eq!(after.port.tx_bytes[0], before.port.tx_bytes[0], "a CP sends nothing of class log");
    assert_eq!(after.copied, [0; 4], "the source copies nothing");
    let there = world.snapshot(DESTINATION);
    assert_eq!(there.copied, [client, 0, 0, 0], "one copy at the destination, none at a CP");
    world.stop();
    assert_eq!(world.snapshot(DESTINATION).copied, [client, 0, 0, 0]);
}

#[test]
fn a_cp_over_sequential_writes_sends_next_to_nothing() {
    let mut world = quiet(2, false);
    let places: Vec<u64> = (0..56).map(|n| n * 256).collect();
    let client = write_blocks(&mut world, &places, 256);
    let done = world.cp();
    assert!(
        done.link_bytes as f64 <= 0.001 * client as f64,
        "{} bytes for {client}",
        done.link_bytes
    );
    world.stop();
}

#[test]
fn full_mode_sends_every_block_again() {
    let mut world = quiet(3, true);
    let client = write_blocks(&mut world, &scattered(700), 8);
    let done = world.cp();
    assert!(done.link_bytes >= 4096 * 700, "{} bytes", done.link_bytes);
    assert_eq!(done.counters.blocks, 700);
    assert_eq!(done.counters.refused, 0, "nothing was refused, it was not asked");
    let there = world.snapshot(DESTINATION);
    assert_eq!(there.copied, [client, client, 0, 0]);
    world.stop();
}

#[test]
fn a_full_log_makes_writes_wait_and_counts_it() {
    let mut config = WorldConfig::calm(4);
    config.segments = 3;
    config.segment_blocks = 270;
    config.disk.delay = (200_000, 900_000);
    let mut world = World::new(config);
    world.connect();
    let mut load = Load::new(LoadConfig { commands: 120, large: 800, ..WRITES });
    load.run(&mut world);
    let snapshot = world.snapshot(SOURCE);
    assert!(snapshot.full_waits > 10, "{} waits", snapshot.full_waits);
    assert!(snapshot.full_wait > Nanos::ZERO);
    world.stop();
}

/// The largest opcode touches more blocks than a small segment has.
#[test]
fn the_largest_zeroes_fit_the_smallest_segment() {
    let mut config = WorldConfig::calm(5);
    config.volumes = vec![(65_536, 512)];
    let mut world = World::new(config);
    world.connect();
    do_write(&mut world, 0, 64);
    for (first, sectors) in [(3, 16_384), (20_001, 16_384)] {
        let (number, _) = world.model.begin_write(0, first, sectors, true);
        let op = Op::Zeroes { deallocate: false };
        let done = world.command(
            1,
            Request { nsid: 1, slba: first, blocks: sectors as u32, lba_bytes: 512, op },
        );
        assert!(done.status.is_success(), "{}", done.status);
        world.model.end_write(number);
    }
    world.stop();
}
