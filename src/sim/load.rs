//! Random clients over a world: which commands, where and how large is chance; every answer goes through the model.

use crate::host::{Done, Op, Request};
use crate::model::{Reading, Write};
use crate::world::World;
use ibid_wire::nvme_tcp::Status;
use std::collections::BTreeMap;

/// What a load is made of; chances of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct LoadConfig {
    pub commands: u64,
    pub reads: u32,
    pub zeroes: u32,
    pub flushes: u32,
    /// Of the writes: as large as the transfer allows.
    pub large: u32,
    /// Sectors of each volume that are used: few make overlaps.
    pub sectors: u64,
    /// A connection dies.
    pub deaths: u32,
    /// A CP is asked for.
    pub cps: u32,
    /// Commands under way in all, at most.
    pub depth: usize,
}

enum Under {
    Writes(Vec<Write>),
    Read(Reading),
    Nothing,
}

/// Is shown each write that was completed.
pub type Completed = Box<dyn FnMut(&World, Write)>;

/// A load as it runs.
pub struct Load {
    config: LoadConfig,
    under: BTreeMap<u64, Under>,
    next: u64,
    /// Called for each completed write, at that instant.
    pub completed: Option<Completed>,
    pub bytes_written: u64,
    pub answered: u64,
}

/// Largest transfer, in sectors.
const TRANSFER: u64 = 2048;

impl Load {
    pub fn new(config: LoadConfig) -> Load {
        Load {
            config,
            under: BTreeMap::new(),
            next: 0,
            completed: None,
            bytes_written: 0,
            answered: 0,
        }
    }

    /// Submits no more than `commands` from now on.
    pub fn stop_after(&mut self, commands: u64) {
        self.config.commands = self.next + commands;
    }

    /// Runs to the end of the load and of all its commands.
    pub fn run(&mut self, world: &mut World) {
        let mut quiet = 0;
        while self.next < self.config.commands || !self.under.is_empty() {
            let depth = self.config.depth;
            for _ in 0..3 {
                if self.next < self.config.commands && self.under.len() < depth {
                    self.submit(world);
                }
            }
            self.step(world);
            quiet += 1;
            if quiet > 600_000 {
                panic!("the load does not end: {}", world.tell());
            }
        }
    }

    /// One step of the world.
    pub fn step(&mut self, world: &mut World) {
        if world.random.chance(self.config.deaths) {
            self.kill(world);
        }
        // A queue's number is free again only when the target has seen the end of its connection.
        for at in 1..world.queues.len() {
            if world.queues[at].is_gone() {
                world.open_queue(at as u16);
            }
        }
        if world.random.chance(self.config.cps) {
            world.begin_cp();
        }
        for (_, done) in world.step() {
            self.ended(world, done);
        }
    }

    fn kill(&mut self, world: &mut World) {
        let at = 1 + world.random.below(world.queues.len() as u64 - 1) as usize;
        if !world.queues[at].is_ready() {
            return;
        }
        for tag in world.queues[at].die() {
            if let Some(Under::Read(reading)) = self.under.remove(&tag) {
                world.model.drop_read(&reading);
            }
        }
    }

    /// A place and length in whole logical blocks, as sectors.
    fn place(&self, world: &mut World, volume: usize, longest: u64) -> (u64, u64) {
        let (sectors, lba_bytes) = world.config.volumes[volume];
        let unit = u64::from(lba_bytes) / 512;
        let random = &mut world.random;
        let length = match random.below(10) {
            0..4 => 8,
            4..7 => 1 + random.below(8),
            7..9 => 1 + random.below(64),
            _ => 1 + random.below(longest),
        };
        let length = length.max(unit).min(longest) / unit * unit;
        let area = self.config.sectors.min(sectors);
        let first = random.below(area) / unit * unit;
        let first = if random.chance(400) { first / 8 * 8 } else { first };
        (first.min(sectors - length), length)
    }

    /// Sends one command, if a queue has room.
    pub fn submit(&mut self, world: &mut World) {
        let at = 1 + world.random.below(world.queues.len() as u64 - 1) as usize;
        if !world.queues[at].has_room() {
            return;
        }
        let config = self.config;
        let volume = world.random.below(world.config.volumes.len() as u64) as usize;
        let lba_bytes = world.config.volumes[volume].1;
        let unit = u64::from(lba_bytes) / 512;
        let request = |first: u64, length: u64, op| Request {
            nsid: volume as u32 + 1,
            slba: first / unit,
            blocks: (length / unit) as u32,
            lba_bytes,
            op,
        };
        let kind = world.random.below(1000) as u32;
        let (request, under) = if kind < config.reads {
            let longest = if world.random.chance(300) { TRANSFER } else { 128 };
            let (first, length) = self.place(world, volume, longest);
            (
                request(first, length, Op::Read),
                Under::Read(world.model.begin_read(volume, first, length)),
            )
        } else if kind < config.reads + config.zeroes {
            if world.random.chance(300) {
                let mut writes = Vec::new();
                let mut ranges = Vec::new();
                for _ in 0..1 + world.random.below(5) {
                    let (first, length) = self.place(world, volume, 256);
                    writes.push(world.model.begin_write(volume, first, length, true).0);
                    ranges.push((first / unit, (length / unit) as u32));
                }
                (request(0, unit, Op::Deallocate(ranges)), Under::Writes(writes))
            } else {
                let (first, length) = self.place(world, volume, TRANSFER);
                let (write, _) = world.model.begin_write(volume, first, length, true);
                let deallocate = world.random.chance(500);
                (request(first, length, Op::Zeroes { deallocate }), Under::Writes(vec![write]))
            }
        } else if kind < config.reads + config.zeroes + config.flushes {
            (request(0, unit, Op::Flush), Under::Nothing)
        } else {
            let longest = if world.random.chance(config.large) { TRANSFER } else { 256 };
            let (mut first, mut length) = self.place(world, volume, longest);
            if world.random.chance(config.large / 4) {
                length = TRANSFER;
                first = first.min(world.config.volumes[volume].0 - length);
            }
            let (write, data) = world.model.begin_write(volume, first, length, false);
            self.bytes_written += data.len() as u64;
            let in_capsule = data.len() <= 16 << 10 && world.random.chance(600);
            (request(first, length, Op::Write { data, in_capsule }), Under::Writes(vec![write]))
        };
        self.next += 1;
        self.under.insert(self.next, under);
        world.queues[at].submit(self.next, request);
    }

    fn ended(&mut self, world: &mut World, done: Done) {
        assert!(
            done.status == Status::SUCCESS,
            "seed {}: a command fails with {}",
            world.config.seed,
            done.status
        );
        self.answered += 1;
        match self.under.remove(&done.tag).expect("a command under way") {
            Under::Writes(writes) => {
                for write in writes {
                    world.model.end_write(write);
                    if let Some(completed) = &mut self.completed {
                        completed(world, write);
                    }
                }
            }
            Under::Read(reading) => world.model.end_read(&reading, &done.data),
            Under::Nothing => {}
        }
    }
}
