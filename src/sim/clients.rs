//! Clients that expect the worst: commands end with errors or not at all, connections die, the target goes and comes back.
//! What they send is chance; every answer goes through the model and the oracle.

use crate::faults::{Class, Classes};
use crate::host::{Done, Op, Queue, Request};
use crate::model::{Reading, Versions, Write};
use crate::oracle::{Oracle, Sent};
use crate::pair::{Outcome, PAIR_BYTES, Pair};
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
    pub compares: u32,
    pub verifies: u32,
    /// Compare and Write: of a lock word, mostly, for which clients race.
    pub pairs: u32,
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
    Verify,
    Compare(Reading, Versions),
    /// The second command of a pair; the first one's tag is one less.
    Pair(Box<Pair>, Sent),
    /// The first one.
    First,
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
            Under::Read(reading) | Under::Compare(reading, _) => world.model.drop_read(&reading),
            Under::Writes(writes) => {
                self.orphans.extend(writes.iter().map(|(write, _)| (at, *write)));
            }
            Under::Pair(pair, _) => {
                world.model.drop_read(&pair.reading);
                self.orphans.push((at, pair.write));
                // Its first command, if that has not ended.
                self.under.remove(&(tag - 1));
            }
            Under::First => {
                let other = match self.under.get(&(tag + 1)) {
                    Some(Under::Pair(pair, _)) if pair.write_has_ended() => {
                        self.under.remove(&(tag + 1))
                    }
                    _ => None,
                };
                if let Some(Under::Pair(pair, _)) = other {
                    world.model.drop_read(&pair.reading);
                    self.orphans.push((at, pair.write));
                }
            }
            Under::Verify | Under::Nothing => {}
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
        let request = |first, length, op| Request::of((volume, lba_bytes), first, length, op);
        let sent_at = oracle.stamp(world);
        let kind = self.random.below(1000) as u32;
        let ClientConfig { reads, zeroes, flushes, compares, verifies, pairs, .. } = self.config;
        let reads_end = reads + zeroes + flushes;
        if (reads_end..reads_end + pairs).contains(&kind) {
            self.submit_pair(world, oracle, at, volume);
            return;
        }
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
        } else if kind < reads_end + pairs + verifies {
            let length = 1 + self.random.below(TRANSFER);
            let (first, length) = self.place(world, volume, length);
            (request(first, length, Op::Verify), Under::Verify)
        } else if kind < reads_end + pairs + verifies + compares {
            let longest = if self.random.chance(200) { TRANSFER } else { 64 };
            let length = 1 + self.random.below(longest);
            let (first, length) = self.place(world, volume, length);
            let (data, versions) = self.guess(world, volume, first, length);
            let in_capsule = data.len() <= 16 << 10 && self.random.chance(600);
            let reading = world.model.begin_read(volume, first, length);
            let op = Op::Compare { data, in_capsule };
            (request(first, length, op), Under::Compare(reading, versions))
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

    /// What a client believes that a run holds.
    fn guess(
        &mut self,
        world: &World,
        volume: usize,
        first: u64,
        length: u64,
    ) -> (Vec<u8>, Versions) {
        let versions = world.model.guess(volume, first, length, &mut self.random);
        (world.model.bytes_of(volume, first, &versions), versions)
    }

    /// Sends a compare and a write that are one, mostly for a hot place.
    fn submit_pair(&mut self, world: &mut World, oracle: &Oracle, at: usize, volume: usize) {
        if !world.queues[at].has_room_for(2) {
            return;
        }
        let (sectors, lba_bytes) = world.config.volumes[volume];
        let unit = u64::from(lba_bytes) / 512;
        let longest = if self.random.chance(700) { 1 } else { PAIR_BYTES / u64::from(lba_bytes) };
        let length = (1 + self.random.below(longest)) * unit;
        let (first, length) = if self.random.chance(700) {
            let area = self.config.sectors.min(sectors);
            let first = self.random.below(HOT_PLACES) * 37 % area / unit * unit;
            (first.min(sectors - length), length)
        } else {
            self.place(world, volume, length)
        };
        let sent_at = oracle.stamp(world);
        let versions = world.model.guess(volume, first, length, &mut self.random);
        let (pair, [compare, write]) =
            Pair::begin(&mut world.model, (volume, lba_bytes), (first, versions), &mut self.random);
        let tags = [self.next + 1, self.next + 2];
        self.next += 2;
        world.trace.mix(9 << 56 | self.next);
        self.under.insert(tags[0], Under::First);
        self.under.insert(tags[1], Under::Pair(Box::new(pair), sent_at));
        world.queues[at].submit_pair([(tags[0], compare), (tags[1], write)]);
    }

    /// One command of a pair has ended; the pair is judged when both have.
    fn half_ended(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        (tag, half): (u64, usize),
        status: Status,
    ) {
        if status.is_success() {
            self.acknowledged += 1;
        } else {
            self.failed += 1;
            world.trace.event(SOURCE, Event::CommandFailed, u64::from(status.raw()));
        }
        let Some(Under::Pair(pair, _)) = self.under.get_mut(&tag) else {
            panic!("a pair under way")
        };
        if !pair.ended(half, status) {
            return;
        }
        let Some(Under::Pair(pair, sent_at)) = self.under.remove(&tag) else {
            panic!("a pair under way")
        };
        let write = pair.write;
        match pair.judge(&mut world.model) {
            Outcome::Effective(seen) => {
                oracle.seen(world, &seen);
                world.trace.event(SOURCE, Event::Acknowledged, u64::from(write));
                oracle.acknowledged(world, write, sent_at);
                world.model.end_write(write);
            }
            Outcome::Unsure(seen) => oracle.seen(world, &seen),
            Outcome::Never => oracle.never(world, write),
        }
    }

    /// A command has ended.
    pub fn ended(&mut self, world: &mut World, oracle: &mut Oracle, done: Done) {
        let Done { tag, status, .. } = done;
        if let Some(Under::Pair(..)) = self.under.get(&tag) {
            self.half_ended(world, oracle, (tag, 1), status);
            return;
        }
        let under = self.under.remove(&tag).expect("a command under way");
        if matches!(under, Under::First) {
            self.half_ended(world, oracle, (tag + 1, 0), status);
            return;
        }
        if let (Status::COMPARE_FAILURE, Under::Compare(reading, versions)) = (status, &under) {
            self.acknowledged += 1;
            world.model.differed(reading, versions, None);
            return;
        }
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
            Under::Compare(reading, versions) => {
                let Reading { volume, first, .. } = reading;
                let bytes = world.model.bytes_of(volume, first, &versions);
                let seen = world.model.see(&reading, &bytes);
                oracle.seen(world, &seen);
            }
            Under::Pair(..) | Under::First => unreachable!("pairs end apart"),
            Under::Verify | Under::Nothing => {}
        }
    }

    /// An error is an answer too, if it is one that a host can act on.
    fn refused(&mut self, world: &mut World, status: Status, under: Under) {
        self.failed += 1;
        world.trace.event(SOURCE, Event::CommandFailed, u64::from(status.raw()));
        match under {
            Under::Writes(writes) => {
                assert!(
                    status == Status::COMMAND_INTERRUPTED || status == Status::ANA_INACCESSIBLE,
                    "a write ends with {status}"
                );
                for (write, _) in writes {
                    world.model.end_unsure(write);
                }
            }
            Under::Read(reading) | Under::Compare(reading, _) => {
                world.model.drop_read(&reading);
                assert!(
                    status == Status::COMMAND_INTERRUPTED
                        || status == Status::ANA_INACCESSIBLE
                        || status == Status::UNRECOVERED_READ_ERROR,
                    "a read ends with {status}"
                );
            }
            Under::Verify => {
                assert!(
                    status == Status::COMMAND_INTERRUPTED
                        || status == Status::ANA_INACCESSIBLE
                        || status == Status::UNRECOVERED_READ_ERROR,
                    "a verify ends with {status}"
                );
            }
            Under::Pair(..) | Under::First => unreachable!("pairs end apart"),
            Under::Nothing => {
                assert!(
                    status == Status::COMMAND_INTERRUPTED || status == Status::ANA_INACCESSIBLE,
                    "a flush ends with {status}"
                );
            }
        }
    }
}
