//! From a seed to everything that one run depends on. Each run does without a random half of the fault classes: what is rare together
//! with everything is common without the rest.

use crate::clients::ClientConfig;
use crate::config::WorldConfig;
use crate::disk::DiskFaults;
use crate::faults::{Class, Classes, FAULTS};
use crate::net::NetFaults;
use crate::random::Random;
use ibid_runtime::PeerLoss;
use ibid_secure::{Encryption, Limits as KeyLimits};
use ibid_units::{Nanos, VolumeId};

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub world: WorldConfig,
    pub clients: ClientConfig,
    pub classes: Classes,
    /// Chance of a million, per step, that a fault which lasts or a crash begins.
    pub rate: u32,
    /// Steps of the first phase at most.
    pub steps: u64,
    pub chance: Random,
}

impl Plan {
    pub fn from_seed(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x5EED_0F1B_1D00_0001);
        let classes = classes(&mut random);
        let volumes = volumes(&mut random);
        let mut world = WorldConfig::calm(seed);
        world.net = net(&mut random, &classes);
        world.disk = disk(&mut random, &classes);
        world.slower = if random.chance(300) { Some(random.below(2) as usize) } else { None };
        world.segments = 3 + random.below(3) as u32;
        world.segment_blocks = 260 + random.below(100) as u32;
        world.to_disk = true;
        world.full = random.chance(200);
        world.mtu = [1500, 1500, 4200, 9000, 9000][random.below(5) as usize];
        world.cp_interval = Nanos::from_millis(1 + random.below(60));
        world.staging_blocks = 4 + random.below(60) as u32;
        world.compare_blocks = 10 + random.below(60) as u32;
        world.read_blocks = 514 + random.below(200) as u32;
        world.aside_blocks = 514 + random.below(600) as u32;
        world.pieces = if random.chance(400) { 1 << (8 + random.below(10)) } else { 0 };
        world.queues = 1 + random.below(3) as u16;
        world.queue.depth = 1 + random.below(40) as u16;
        world.queue.header_digest = random.chance(300);
        world.queue.data_digest = random.chance(300);
        world.queue.flow_control = random.chance(300);
        world.queue.patient = true;
        if classes.has(Class::HostOwes) {
            world.queue.withhold = random.below(100) as u32;
            world.queue.withheld = 1_000_000 << random.below(10);
        }
        world.late_turns = if classes.has(Class::TurnsLate) { 400 } else { 100 };
        world.idle = Nanos::from_millis(50);
        let largest = volumes.iter().map(|volume| volume.0).max().unwrap_or_default();
        let clients = ClientConfig {
            commands: 100 + random.below(400),
            reads: random.below(400) as u32,
            zeroes: if random.chance(600) { random.below(150) as u32 } else { 0 },
            flushes: 20,
            compares: if random.chance(500) { random.below(60) as u32 } else { 0 },
            verifies: random.below(20) as u32,
            pairs: if random.chance(600) { random.below(250) as u32 } else { 0 },
            large: if random.chance(250) { 200 } else { random.below(20) as u32 },
            small: random.below(500) as u32,
            hot: if random.chance(400) { 600 } else { random.below(100) as u32 },
            sequential: if random.chance(300) { 700 } else { 0 },
            sectors: (64 << random.below(9)).min(largest),
            depth: 1 + random.below(60) as usize,
            burst: 1 + random.below(4),
        };
        world.peer_loss = if random.chance(500) { PeerLoss::Continue } else { PeerLoss::Stall };
        world.peer_timeout = Nanos::from_millis(200 + random.below(2800));
        if random.chance(300) {
            world.stall_timeout = Nanos::from_millis(100 + random.below(3000));
        }
        world.stop_wait = Nanos::from_millis(5_000 + random.below(20_000));
        world.catch_up_blocks = 4 + random.below(61) as u32;
        if random.chance(300) {
            world.allocated = runs(&mut random, &volumes);
        }
        if random.chance(150) {
            world.allocated_there = runs(&mut random, &volumes);
        }
        world.volumes = volumes;
        // Chance of its own: what was drawn before stays what it was.
        let mut random = Random::new(seed ^ 0x5EA1_ED00_F4A3_E500);
        if random.chance(250) {
            world.encryption = Encryption::IntegrityOnly;
        }
        world.key_limits = key_limits(&mut random, world.mtu);
        let rate = [200, 1000, 3000, 10_000][random.below(4) as usize];
        Plan { world, clients, classes, rate, steps: 30_000, chance: random.fork() }
    }
}

/// Keys that are changed often, sessions that end because of what was sent or what failed, or the link's own limits.
fn key_limits(random: &mut Random, mtu: usize) -> KeyLimits {
    let mut limits = KeyLimits::LINK;
    if random.chance(600) {
        // More than can be under way, so that no loss, however long, leads past the next generation.
        limits.frames_per_key = if mtu < 9000 { 2_100 } else { 500 };
    }
    if random.chance(200) {
        // More than the largest batch takes in the smallest pieces: a session that ends within it has brought nothing.
        limits.frames_max = 20_000 + random.below(20_000);
    }
    if random.chance(200) {
        limits.failures_max = 10 + random.below(50);
    }
    limits
}

/// A random half.
fn classes(random: &mut Random) -> Classes {
    let mut classes = Classes::NONE;
    for (class, _) in FAULTS {
        classes.set(*class, random.chance(500));
    }
    // One run in twenty has nothing but load, and crashes if those were drawn: what fails there is easy to read.
    if random.chance(50) {
        for (class, _) in FAULTS.iter().filter(|(class, _)| class.is_small()) {
            classes.set(*class, false);
        }
    }
    classes
}

/// Runs of blocks that volumes hold already.
fn runs(random: &mut Random, volumes: &[(u64, u32)]) -> Vec<(VolumeId, u64, u64)> {
    (0u16..)
        .zip(volumes)
        .filter_map(|(volume, (sectors, _))| {
            let blocks = sectors / 8;
            let first = random.below(blocks);
            let count = 1 + random.below((blocks - first).min(300));
            random.chance(700).then_some((VolumeId::new(volume), first, count))
        })
        .collect()
}

/// One to three volumes of 256 to 1024 blocks.
fn volumes(random: &mut Random) -> Vec<(u64, u32)> {
    (0..1 + random.below(3))
        .map(|_| {
            let sectors = 2048 + 8 * random.below(768);
            (sectors, if random.chance(500) { 512 } else { 4096 })
        })
        .collect()
}

fn net(random: &mut Random, classes: &Classes) -> NetFaults {
    let much = [4, 40, 120][random.below(3) as usize];
    let mut rate =
        |class, much: u64| if classes.has(class) { random.below(much) as u32 } else { 0 };
    let mut faults = NetFaults {
        loss: rate(Class::NetLoss, 2 * much),
        double: rate(Class::NetDouble, 2 * much),
        replay: rate(Class::NetReplay, much),
        reorder: rate(Class::NetReorder, 4 * much),
        corrupt: rate(Class::NetBit, much),
        burst: rate(Class::NetBurst, much / 2),
        truncate: rate(Class::NetTruncated, much / 2),
        extend: rate(Class::NetExtended, much / 2),
        header: rate(Class::NetHeader, much / 2),
        reflect: rate(Class::NetReflected, much),
        busy: rate(Class::NetBusy, 2 * much),
        ..NetFaults::NONE
    };
    faults.delay = (1_000, 5_000 + random.below(200_000));
    faults
}

fn disk(random: &mut Random, classes: &Classes) -> DiskFaults {
    DiskFaults {
        delay: (1_000, 10_000 + random.below(300_000)),
        busy: if classes.has(Class::DiskBusy) { random.below(100) as u32 } else { 0 },
        depth: 4 + random.below(60) as usize,
        slow: if classes.has(Class::DiskSlow) { random.below(6) as u32 } else { 0 },
    }
}
