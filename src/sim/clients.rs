//! Clients that expect the worst: commands end with errors or not at all, connections die, the target goes and comes back.
//! What they send is chance; every answer goes through the model and the oracle.

use crate::faults::{Class, Classes};
use crate::host::{Done, Op, Queue, Request};
use crate::model::{Reading, Write};
use crate::oracle::{Oracle, Sent};
use crate::random::Random;
use crate::trace::{Event, Place};
use crate::{SOURCE, World};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;
use std::collections::BTreeMap;

/// What the clients do; chances of a thousand.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub commands: u64,
    pub reads: u32,
    pub zeroes: u32,
    pub flushes: u32,
    /// Of the writes: 1 MiB.
    pub large: u32,
    /// Of the writes: parts of a block.
    pub small: u32,
    /// Where: in a few hot places, one behind the other, or anywhere.
    pub hot: u32,
    pub sequential: u32,
    /// Sectors of each volume that are used: few make overlaps.
    pub sectors: u64,
    /// Commands under way in all, at most.
    pub depth: usize,
    /// Commands sent in one step, at most.
    pub burst: u64,
}

enum Under {
    /// Writes, each with what was known when it was sent.
    Writes(Vec<(Write, Sent)>),
    Read(Reading),
    Nothing,
}

/// Largest transfer, in sectors.
const TRANSFER: u64 = 2048;
/// How long a host waits before it connects again.
const RETRY_AFTER: Nanos = Nanos::from_millis(20);
const HOT_PLACES: u64 = 6;

/// All clients.
pub struct Clients {
    pub config: ClientConfig,
    random: Random,
    under: BTreeMap<u64, Under>,
    /// Writes that nobody answers any more, with the queue they were sent on: the target may not know yet.
    orphans: Vec<(usize, Write)>,
    next: u64,
    retry_at: Nanos,
    cursor: u64,
    pub acknowledged: u64,
    pub failed: u64,
    pub unanswered: u64,
}

impl Clients {
    pub fn new(config: ClientConfig, random: Random) -> Clients {
        Clients {
            config,
            random,
            under: BTreeMap::new(),
            orphans: Vec::new(),
            next: 0,
            retry_at: Nanos::ZERO,
            cursor: 0,
            acknowledged: 0,
            failed: 0,
            unanswered: 0,
        }
    }

    /// Everything was sent and has ended.
    pub fn is_done(&self) -> bool {
        self.next >= self.config.commands && self.under.is_empty()
    }
    /// Everything that was sent has ended.
    pub fn is_quiet(&self) -> bool {
        self.under.is_empty()
    }
    /// Commands sent so far.
    pub fn sent(&self) -> u64 {
        self.next
    }
    /// Sends no more than was sent, and so many.
    pub fn only(&mut self, more: u64) {
        self.config.commands = self.next + more;
    }

    /// Sends what there is to send, and keeps the connections up.
    pub fn turn(&mut self, world: &mut World, oracle: &Oracle, classes: &Classes) {
        self.connections(world);
        if classes.has(Class::HostReset) && self.random.chance(2) {
            self.reset(world);
        }
        if classes.has(Class::HostDeaf) && self.random.chance(1) {
            self.deafen(world);
        }
        for _ in 0..1 + self.random.below(self.config.burst) {
            if self.next < self.config.commands && self.under.len() < self.config.depth {
                self.submit(world, oracle);
            }
        }
    }

    /// Connects what is not connected, and forgets what nobody answers any more.
    fn connections(&mut self, world: &mut World) {
        let mut lost = Vec::new();
        let admin_is_dead = world.queues.first().is_some_and(Queue::is_dead);
        for (at, queue) in world.queues.iter_mut().enumerate() {
            if admin_is_dead && !queue.is_dead() {
                lost.extend(queue.die().into_iter().map(|tag| (at, tag)));
            }
            if queue.is_dead() {
                lost.extend(queue.take_unanswered().into_iter().map(|tag| (at, tag)));
            }
        }
        for (at, tag) in lost {
            self.forget(world, at, tag);
        }
        self.orphans.retain(|(at, write)| {
            let gone = world.queues[*at].is_gone();
            if gone {
                world.model.end_unsure(*write);
            }
            !gone
        });
        if world.now < self.retry_at || world.source.is_none() {
            return;
        }
        if world.queues.is_empty() || admin_is_dead {
            if world.queues.iter().all(Queue::is_gone) {
                self.retry_at = world.now.after(RETRY_AFTER);
                let config = world.config.queue;
                let admin = Queue::open(&world.sockets, config, self.random.fork());
                world.queues = vec![admin];
            }
            return;
        }
        if !world.queues[0].is_ready() {
            return;
        }
        for qid in 1..=world.config.queues {
            if world.queues.get(usize::from(qid)).is_none_or(Queue::is_gone) {
                self.retry_at = world.now.after(RETRY_AFTER);
                world.open_queue(qid);
            }
        }
    }

    /// Nobody answers a command any more. A write may have taken effect, and may still.
    fn forget(&mut self, world: &mut World, at: usize, tag: u64) {
        let Some(under) = self.under.remove(&tag) else { return };
        self.unanswered += 1;
        match under {
            Under::Read(reading) => world.model.drop_read(&reading),
            Under::Writes(writes) => {
                self.orphans.extend(writes.iter().map(|(write, _)| (at, *write)));
            }
            Under::Nothing => {}
        }
    }

    /// A connection ends at any byte.
    fn reset(&mut self, world: &mut World) {
        if world.queues.is_empty() {
            return;
        }
        let at = self.random.below(world.queues.len() as u64) as usize;
        if world.queues[at].is_dead() {
            return;
        }
        world.trace.fault(Place::Client, Class::HostReset, at as u64);
        for tag in world.queues[at].die() {
            self.forget(world, at, tag);
        }
    }

    /// A host does not look at what has come, for a while.
    fn deafen(&mut self, world: &mut World) {
        let Some(queue) = world.queues.last_mut() else { return };
        let span = 1_000_000 << self.random.below(11);
        queue.deaf_until = world.now.get() + span;
        world.trace.fault(Place::Client, Class::HostDeaf, span / 1_000_000);
    }

    /// All hosts look again.
    pub fn heal(&mut self, world: &mut World) {
        for queue in &mut world.queues {
            queue.deaf_until = 0;
        }
    }

    /// A place and length in whole logical blocks, as sectors.
    fn place(&mut self, world: &World, volume: usize, length: u64) -> (u64, u64) {
        let (sectors, lba_bytes) = world.config.volumes[volume];
        let unit = u64::from(lba_bytes) / 512;
        let length = length.max(unit).min(sectors) / unit * unit;
        let area = self.config.sectors.min(sectors);
        let random = &mut self.random;
        let kind = random.below(1000) as u32;
        let first = if kind < self.config.hot {
            random.below(HOT_PLACES) * 37 % area
        } else if kind < self.config.hot + self.config.sequential {
            self.cursor += length;
            self.cursor % area
        } else if random.chance(400) {
            random.below(area) / 8 * 8
        } else {
            random.below(area)
        };
        ((first / unit * unit).min(sectors - length), length)
    }

    fn length(&mut self) -> u64 {
        match self.random.below(1000) as u32 {
            kind if kind < self.config.large => {
                TRANSFER - self.random.below(2) * self.random.below(64)
            }
            kind if kind < self.config.large + self.config.small => 1 + self.random.below(7),
            _ => match self.random.below(10) {
                0..6 => 8,
                6..9 => 1 + self.random.below(64),
                _ => 1 + self.random.below(256),
            },
        }
    }

    fn submit(&mut self, world: &mut World, oracle: &Oracle) {
        if world.queues.len() < 2 {
            return;
        }
        let at = 1 + self.random.below(world.queues.len() as u64 - 1) as usize;
        if !world.queues[at].has_room() {
            return;
        }
        let volume = self.random.below(world.config.volumes.len() as u64) as usize;
        let lba_bytes = world.config.volumes[volume].1;
        let unit = u64::from(lba_bytes) / 512;
        let request = |first: u64, length: u64, op| Request {
            nsid: volume as u32 + 1,
            slba: first / unit,
            blocks: (length / unit) as u32,
            lba_bytes,
            op,
        };
        let sent_at = oracle.stamp(world);
        let kind = self.random.below(1000) as u32;
        let ClientConfig { reads, zeroes, flushes, .. } = self.config;
        let (request, under) = if kind < reads {
            let longest = if self.random.chance(200) { TRANSFER } else { 128 };
            let length = 1 + self.random.below(longest);
            let (first, length) = self.place(world, volume, length);
            let reading = world.model.begin_read(volume, first, length);
            (request(first, length, Op::Read), Under::Read(reading))
        } else if kind < reads + zeroes {
            if self.random.chance(400) {
                let mut writes = Vec::new();
                let mut ranges = Vec::new();
                for _ in 0..1 + self.random.below(5) {
                    let length = 1 + self.random.below(256);
                    let (first, length) = self.place(world, volume, length);
                    writes.push((world.model.begin_write(volume, first, length, true).0, sent_at));
                    ranges.push((first / unit, (length / unit) as u32));
                }
                (request(0, unit, Op::Deallocate(ranges)), Under::Writes(writes))
            } else {
                let length = 1 + self.random.below(TRANSFER);
                let (first, length) = self.place(world, volume, length);
                let (write, _) = world.model.begin_write(volume, first, length, true);
                let deallocate = self.random.chance(500);
                let op = Op::Zeroes { deallocate };
                (request(first, length, op), Under::Writes(vec![(write, sent_at)]))
            }
        } else if kind < reads + zeroes + flushes {
            (request(0, unit, Op::Flush), Under::Nothing)
        } else {
            let length = self.length();
            let (first, length) = self.place(world, volume, length);
            let (write, data) = world.model.begin_write(volume, first, length, false);
            let in_capsule = data.len() <= 16 << 10 && self.random.chance(600);
            let op = Op::Write { data, in_capsule };
            (request(first, length, op), Under::Writes(vec![(write, sent_at)]))
        };
        self.next += 1;
        world.trace.mix(8 << 56 | self.next);
        self.under.insert(self.next, under);
        world.queues[at].submit(self.next, request);
    }

    /// A command has ended.
    pub fn ended(&mut self, world: &mut World, oracle: &mut Oracle, done: Done) {
        let under = self.under.remove(&done.tag).expect("a command under way");
        if done.status != Status::SUCCESS {
            self.refused(world, done.status, under);
            return;
        }
        self.acknowledged += 1;
        match under {
            Under::Writes(writes) => {
                for (write, sent_at) in writes {
                    world.trace.event(SOURCE, Event::Acknowledged, u64::from(write));
                    oracle.acknowledged(world, write, sent_at);
                    world.model.end_write(write);
                }
            }
            Under::Read(reading) => {
                let seen = world.model.see(&reading, &done.data);
                oracle.seen(world, &seen);
            }
            Under::Nothing => {}
        }
    }

    /// An error is an answer too, if it is one that a host can act on.
    fn refused(&mut self, world: &mut World, status: Status, under: Under) {
        self.failed += 1;
        world.trace.event(SOURCE, Event::CommandFailed, u64::from(status.raw()));
        match under {
            Under::Writes(writes) => {
                assert!(
                    status == Status::COMMAND_INTERRUPTED || status == Status::WRITE_FAULT,
                    "a write ends with {status}"
                );
                for (write, _) in writes {
                    world.model.end_unsure(write);
                }
            }
            Under::Read(reading) => {
                world.model.drop_read(&reading);
                assert!(
                    status == Status::COMMAND_INTERRUPTED
                        || status == Status::UNRECOVERED_READ_ERROR,
                    "a read ends with {status}"
                );
            }
            Under::Nothing => {
                assert!(status == Status::COMMAND_INTERRUPTED, "a flush ends with {status}");
            }
        }
    }
}
