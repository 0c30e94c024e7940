//! After start a node allocates nothing: turns of both are counted, the world's own code within them is not.

use crate::WRITES;
use ibid_sim::guard;
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::{World, WorldConfig};

fn run(config: WorldConfig, load: LoadConfig) {
    let mut world = World::new(config);
    world.connect();
    Load::new(LoadConfig { commands: 300, ..load }).run(&mut world);
    guard::count_turns(true);
    let before = guard::total();
    Load::new(load).run(&mut world);
    guard::count_turns(false);
    assert_eq!(guard::total() - before, 0, "turns allocate");
    world.stop();
}

const MIXED: LoadConfig = LoadConfig {
    commands: 2500,
    reads: 300,
    zeroes: 60,
    flushes: 20,
    looks: 150,
    large: 10,
    cps: 10,
    depth: 40,
    ..WRITES
};

#[test]
fn turns_allocate_nothing() {
    run(WorldConfig::calm(1), MIXED);
}

#[test]
fn turns_allocate_nothing_when_everything_goes_wrong() {
    let mut config = WorldConfig::calm(2);
    config.net.loss = 20;
    config.net.double = 20;
    config.net.reorder = 100;
    config.net.busy = 50;
    config.disk.busy = 50;
    config.mtu = 1500;
    config.full = true;
    config.queue.data_digest = true;
    config.queue.withhold = 30;
    config.queue.withheld = 30_000_000;
    config.pieces = 4096;
    run(config, LoadConfig { commands: 1200, deaths: 1, ..MIXED });
}

/// The count is one that can be other than zero.
#[test]
fn an_allocation_within_a_turn_is_seen() {
    guard::count_turns(true);
    let before = guard::total();
    guard::node(|| {
        drop(std::hint::black_box(vec![1u8; 100]));
        guard::world(|| drop(std::hint::black_box(vec![1u8; 100])));
    });
    guard::count_turns(false);
    assert_eq!(guard::total() - before, 1);
}
