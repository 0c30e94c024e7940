//! Random clients over a world: which commands, where and how large is chance; every answer goes through the model.

use crate::host::{Done, Op, Request};
use crate::model::{Reading, Versions, Write};
use crate::pair::{Outcome, PAIR_BYTES, Pair};
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
    /// Compares, verifies, and pairs of a compare and a write.
    pub looks: u32,
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
    Compare(Reading, Versions),
    /// The second command of a pair; the first one's tag is one less.
    Pair(Box<Pair>),
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
            match self.under.remove(&tag) {
                Some(Under::Read(reading) | Under::Compare(reading, _)) => {
                    world.model.drop_read(&reading);
                }
                Some(Under::Pair(pair)) => world.model.drop_read(&pair.reading),
                Some(Under::Writes(_) | Under::Nothing) | None => {}
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
        let request = |first, length, op| Request::of((volume, lba_bytes), first, length, op);
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
        } else if kind < config.reads + config.zeroes + config.flushes + config.looks {
            let (first, length) = self.place(world, volume, TRANSFER);
            match world.random.below(3) {
                0 => (request(first, length, Op::Verify), Under::Nothing),
                1 => {
                    let versions = world.model.guess(volume, first, length, &mut world.random);
                    let data = world.model.bytes_of(volume, first, &versions);
                    let in_capsule = data.len() <= 16 << 10 && world.random.chance(600);
                    let reading = world.model.begin_read(volume, first, length);
                    let op = Op::Compare { data, in_capsule };
                    (request(first, length, op), Under::Compare(reading, versions))
                }
                _ => {
                    let run = (first, length.min(PAIR_BYTES / 512));
                    self.submit_pair(world, at, (volume, lba_bytes), run);
                    return;
                }
            }
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

    fn submit_pair(&mut self, world: &mut World, at: usize, volume: (usize, u32), run: (u64, u64)) {
        if !world.queues[at].has_room_for(2) {
            return;
        }
        let World { model, random, .. } = world;
        let (first, length) = run;
        let versions = model.guess(volume.0, first, length, random);
        let (pair, [compare, write]) = Pair::begin(model, volume, (first, versions), random);
        self.under.insert(self.next + 1, Under::Nothing);
        self.under.insert(self.next + 2, Under::Pair(Box::new(pair)));
        world.queues[at].submit_pair([(self.next + 1, compare), (self.next + 2, write)]);
        self.next += 2;
    }

    fn ended(&mut self, world: &mut World, done: Done) {
        self.answered += 1;
        for half in 0..2 {
            let tag = done.tag + 1 - half as u64;
            let Some(Under::Pair(pair)) = self.under.get_mut(&tag) else { continue };
            let both = pair.ended(half, done.status);
            if half == 0 {
                self.under.remove(&done.tag);
            }
            if both {
                self.end_pair(world, tag);
            }
            return;
        }
        let under = self.under.remove(&done.tag).expect("a command under way");
        if let (Status::COMPARE_FAILURE, Under::Compare(reading, versions)) = (done.status, &under)
        {
            world.model.differed(reading, versions, None);
            return;
        }
        assert!(
            done.status == Status::SUCCESS,
            "seed {}: a command fails with {}",
            world.config.seed,
            done.status
        );
        match under {
            Under::Writes(writes) => {
                writes.into_iter().for_each(|write| self.end_write(world, write))
            }
            Under::Compare(reading, versions) => {
                let Reading { volume, first, .. } = reading;
                let bytes = world.model.bytes_of(volume, first, &versions);
                world.model.end_read(&reading, &bytes);
            }
            Under::Pair(_) => unreachable!("pairs end apart"),
            Under::Read(reading) => world.model.end_read(&reading, &done.data),
            Under::Nothing => {}
        }
    }

    fn end_pair(&mut self, world: &mut World, tag: u64) {
        let Some(Under::Pair(pair)) = self.under.remove(&tag) else { panic!("a pair under way") };
        let write = pair.write;
        match pair.judge(&mut world.model) {
            Outcome::Effective(_) => self.end_write(world, write),
            Outcome::Unsure(_) => panic!("seed {}: a pair fails", world.config.seed),
            Outcome::Never => {}
        }
    }

    fn end_write(&mut self, world: &mut World, write: Write) {
        world.model.end_write(write);
        if let Some(completed) = &mut self.completed {
            completed(world, write);
        }
    }
}
