//! A workload that is the same every time: what clients send, when a CP is asked for, when the cable is cut. Goes on through crashes: what
//! nobody answers is not sent again, and may have taken effect or not. At the end the pair must be whole, and every byte accounted for.

use crate::disk::DiskFaults;
use crate::effects::Effect;
use crate::host::{Done, Op, Queue, QueueConfig, Request};
use crate::model::{Reading, Write};
use crate::net::NetFaults;
use crate::random::Random;
use crate::{DESTINATION, SOURCE, World, WorldConfig};
use ibid_runtime::{PeerLoss, PeerState, SyncState};
use ibid_units::Nanos;
use ibid_wire::nvme_tcp::Status;
use std::collections::BTreeMap;

/// Sectors of each volume: one of small blocks, one of large ones.
pub const SECTORS: u64 = 1024;
/// Commands under way at most, where a step does not ask for more.
const DEPTH: usize = 4;
/// How long a step waits for what may not come after a crash.
const PATIENCE: Nanos = Nanos::from_millis(4_000);
/// How long a host waits before it connects again.
const RETRY_AFTER: Nanos = Nanos::from_millis(10);
/// Simulated time in which a pair has to be whole once everything is put right.
const LIVENESS: Nanos = Nanos::from_millis(60_000);

/// What the source does without its peer, and so what there is to be swept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// Writes wait: the log fills up.
    Stall,
    /// Writes complete alone: the map, and catching up.
    Continue,
}

impl Variant {
    pub const fn name(self) -> &'static str {
        match self {
            Variant::Stall => "stall",
            Variant::Continue => "continue",
        }
    }

    pub fn parse(text: &str) -> Option<Variant> {
        VARIANTS.into_iter().find(|variant| variant.name() == text)
    }
}

pub const VARIANTS: [Variant; 2] = [Variant::Stall, Variant::Continue];

#[derive(Clone, Debug)]
pub enum Step {
    Write {
        volume: usize,
        first: u64,
        sectors: u64,
    },
    Zeroes {
        volume: usize,
        first: u64,
        sectors: u64,
        deallocate: bool,
    },
    Read {
        volume: usize,
        first: u64,
        sectors: u64,
    },
    Flush,
    /// A CP is asked for.
    Cp,
    /// All that was sent has ended.
    Drain,
    CutCable,
    HealCable,
    /// Writes have waited for room in the log.
    AwaitFull,
    /// Writes complete without the peer.
    AwaitAlone,
    /// Blocks of the map travel.
    AwaitCatchUp,
    /// The copies differ by nothing but the log.
    AwaitInSync,
    /// No CP is under way, and none is asked for.
    AwaitCp,
    /// So long nothing is sent.
    Rest(Nanos),
}

enum Under {
    Writes(Vec<Write>),
    Read(Reading),
    Nothing,
}

/// A workload as it runs.
pub struct Script {
    steps: Vec<Step>,
    at: usize,
    since: Option<Nanos>,
    waits: u64,
    under: BTreeMap<u64, Under>,
    tag: u64,
    retry_at: Nanos,
    random: Random,
    /// Reads may end with an error too.
    pub reads_fail: bool,
    /// Reads leave out the block that a fault of a volume befell: nobody can tell that it is bad.
    pub blind: bool,
    /// The last write of the block that faults of volumes befall.
    pub harmed: Option<Write>,
    /// Every wait came to what it waited for.
    pub untroubled: bool,
    pub acknowledged: u64,
    pub failed: u64,
    pub unanswered: u64,
}

/// The world that scripts run in: small, quick, with enough under way to be lost.
pub fn config(variant: Variant) -> WorldConfig {
    let calm = WorldConfig::calm(4711);
    WorldConfig {
        segments: 3,
        segment_blocks: 262,
        volumes: vec![(SECTORS, 512), (SECTORS, 4096)],
        read_blocks: 514,
        aside_blocks: 514,
        staging_blocks: 32,
        net: NetFaults { delay: (2_000, 20_000), ..NetFaults::NONE },
        disk: DiskFaults { delay: (5_000, 120_000), ..DiskFaults::FAST },
        cp_interval: Nanos::from_millis(3_600_000),
        peer_loss: match variant {
            Variant::Stall => PeerLoss::Stall,
            Variant::Continue => PeerLoss::Continue,
        },
        peer_timeout: Nanos::from_millis(700),
        catch_up_blocks: 16,
        late_turns: 100,
        idle: Nanos::from_millis(20),
        queue: QueueConfig { patient: true, ..calm.queue },
        ..calm
    }
}

/// Steps with chance of their own: writes of all sizes, zeroes, reads.
struct Maker {
    random: Random,
    steps: Vec<Step>,
    /// Sectors that are used.
    area: u64,
}

impl Maker {
    fn place(&mut self, volume: usize, sectors: u64) -> (u64, u64) {
        let unit = if volume == 0 { 1 } else { 8 };
        let sectors = sectors.max(unit) / unit * unit;
        let hot = self.random.chance(400);
        let first = if hot { self.random.below(6) * 40 } else { self.random.below(self.area) };
        ((first / unit * unit).min(self.area - sectors), sectors)
    }

    fn mixed(&mut self, count: usize) {
        for _ in 0..count {
            let volume = self.random.below(2) as usize;
            let length = match self.random.below(10) {
                0..4 => 1 + self.random.below(7),
                4..7 => 8,
                7..9 => 1 + self.random.below(64),
                _ => 1 + self.random.below(160),
            };
            let (first, sectors) = self.place(volume, length);
            let step = match self.random.below(20) {
                0 => Step::Zeroes { volume, first, sectors, deallocate: false },
                1 => Step::Zeroes { volume, first, sectors, deallocate: true },
                2 => Step::Flush,
                3..5 => Step::Read { volume, first, sectors },
                _ => Step::Write { volume, first, sectors },
            };
            self.steps.push(step);
        }
    }

    fn large(&mut self, count: u64) {
        for n in 0..count {
            let volume = (n % 2) as usize;
            self.steps.push(Step::Write {
                volume,
                first: n * 96 % (self.area - 256),
                sectors: 256,
            });
        }
    }

    fn reads(&mut self) {
        for volume in 0..2 {
            for first in (0..SECTORS).step_by(128) {
                self.steps.push(Step::Read { volume, first, sectors: 128 });
            }
        }
    }

    fn push(&mut self, steps: &[Step]) {
        self.steps.extend_from_slice(steps);
    }
}

/// The whole workload of a variant.
pub fn whole(variant: Variant) -> Vec<Step> {
    let mut maker = Maker { random: Random::new(20_260), steps: Vec::new(), area: SECTORS };
    maker.mixed(60);
    maker.push(&[Step::Cp]);
    maker.mixed(50);
    maker.push(&[Step::Cp, Step::Drain, Step::CutCable]);
    match variant {
        Variant::Stall => {
            maker.large(30);
            maker.push(&[Step::AwaitFull, Step::HealCable]);
            maker.mixed(30);
            maker.push(&[Step::Drain]);
        }
        Variant::Continue => {
            maker.push(&[Step::AwaitAlone]);
            maker.mixed(40);
            maker.large(30);
            maker.push(&[Step::HealCable, Step::AwaitCatchUp]);
            maker.mixed(40);
            maker.push(&[Step::AwaitInSync]);
        }
    }
    maker.mixed(40);
    maker.push(&[Step::Cp]);
    maker.mixed(40);
    maker.push(&[Step::Cp, Step::Drain]);
    maker.reads();
    maker.push(&[Step::Drain]);
    maker.steps
}

/// A workload in which everything happens once, for the enumerations that run it most often.
pub fn short(variant: Variant) -> Vec<Step> {
    let mut maker = Maker { random: Random::new(9_001), steps: Vec::new(), area: SECTORS };
    maker.mixed(10);
    maker.push(&[Step::Cp]);
    maker.mixed(8);
    maker.push(&[Step::Drain]);
    if variant == Variant::Continue {
        maker.push(&[Step::CutCable, Step::AwaitAlone]);
        maker.mixed(8);
        maker.push(&[Step::Drain, Step::Cp]);
        maker.large(22);
        maker.push(&[Step::Drain, Step::HealCable, Step::AwaitCatchUp]);
        maker.mixed(8);
        maker.push(&[Step::AwaitInSync]);
    }
    maker.mixed(6);
    maker.push(&[Step::Cp, Step::Drain]);
    maker.reads();
    maker.push(&[Step::Drain]);
    maker.steps
}

/// The workload around a single fault, in parts. Only `harmed` writes the block that faults of volumes befall.
pub mod matrix_steps {
    use super::super::matrix::HARMED_FIRST;
    use super::{Maker, Random, Step};

    const AREA: u64 = 800;

    fn maker(seed: u64) -> Maker {
        Maker { random: Random::new(seed), steps: Vec::new(), area: AREA }
    }
    fn harmed() -> Step {
        Step::Write { volume: 0, first: HARMED_FIRST, sectors: 8 }
    }
    /// Something in the log's first segment, and in the volumes.
    pub fn first() -> Vec<Step> {
        let mut maker = maker(1);
        maker.push(&[harmed()]);
        maker.mixed(12);
        maker.push(&[Step::Cp, Step::Drain]);
        maker.steps
    }
    /// One CP more, and something in the log after it.
    pub fn lap() -> Vec<Step> {
        let mut maker = maker(2);
        maker.mixed(8);
        maker.push(&[Step::Cp, Step::Drain]);
        maker.mixed(8);
        maker.push(&[Step::Drain]);
        maker.steps
    }
    /// Once around the log, the block again, and something in the log.
    pub fn second() -> Vec<Step> {
        let mut maker = maker(3);
        maker.push(&[harmed()]);
        for _ in 0..2 {
            maker.mixed(4);
            maker.push(&[Step::Cp, Step::Drain, Step::AwaitInSync, Step::AwaitCp]);
        }
        maker.push(&[Step::Write { volume: 0, first: 16, sectors: 8 }, Step::Drain]);
        maker.mixed(8);
        maker.push(&[Step::Drain]);
        maker.steps
    }
    /// The peer goes, and the log goes round without it: the map is in use.
    pub fn alone() -> Vec<Step> {
        let mut maker = maker(4);
        maker.push(&[Step::CutCable, Step::AwaitAlone, harmed()]);
        maker.large(26);
        maker.push(&[Step::Drain]);
        maker.steps
    }
    pub fn writes() -> Vec<Step> {
        let mut maker = maker(5);
        // A segment of its own, so that it has a header to be written.
        maker.push(&[Step::Cp, Step::AwaitCp]);
        maker.mixed(10);
        maker.push(&[Step::Drain]);
        maker.steps
    }
    pub fn cp() -> Vec<Step> {
        let mut maker = maker(6);
        maker.push(&[harmed()]);
        maker.mixed(6);
        maker.push(&[Step::Drain, Step::Cp, Step::AwaitCp]);
        maker.mixed(4);
        maker.push(&[Step::Drain, Step::Cp, Step::AwaitCp]);
        maker.steps
    }
    /// CPs without the peer, which comes back after that.
    pub fn alone_cp() -> Vec<Step> {
        let mut maker = maker(7);
        maker.push(&[harmed()]);
        maker.large(26);
        maker.push(&[Step::Drain]);
        maker.steps
    }
    pub fn catch_up() -> Vec<Step> {
        let mut maker = maker(8);
        maker.push(&[Step::HealCable, Step::AwaitCatchUp, harmed()]);
        maker.mixed(14);
        maker.push(&[Step::Drain, Step::Cp, Step::AwaitCp]);
        maker.mixed(4);
        maker.push(&[Step::Drain]);
        maker.steps
    }
    /// With everything healed: work goes on.
    pub fn last() -> Vec<Step> {
        let mut maker = maker(9);
        maker.push(&[Step::HealCable]);
        maker.mixed(8);
        maker.push(&[Step::AwaitInSync, Step::Cp, Step::AwaitCp, Step::Drain]);
        maker.reads();
        maker.push(&[Step::Drain]);
        maker.steps
    }
    /// Everything into the volumes.
    pub fn end() -> Vec<Step> {
        vec![Step::Cp, Step::AwaitCp, Step::Drain]
    }
}

impl Script {
    pub fn new(steps: Vec<Step>) -> Script {
        Script {
            steps,
            at: 0,
            since: None,
            waits: 0,
            under: BTreeMap::new(),
            tag: 0,
            retry_at: Nanos::ZERO,
            random: Random::new(77),
            reads_fail: false,
            blind: false,
            harmed: None,
            untroubled: true,
            acknowledged: 0,
            failed: 0,
            unanswered: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.at == self.steps.len() && self.under.is_empty()
    }

    /// More to do.
    pub fn extend(&mut self, steps: Vec<Step>) {
        self.steps.extend(steps);
    }

    /// A step of the world.
    pub fn turn(&mut self, world: &mut World) {
        self.connections(world);
        self.advance(world);
        for (_, done) in world.step() {
            self.ended(world, done);
        }
    }

    fn connections(&mut self, world: &mut World) {
        let mut lost = Vec::new();
        let admin_is_dead = world.queues.first().is_some_and(Queue::is_dead);
        for queue in &mut world.queues {
            if admin_is_dead && !queue.is_dead() {
                lost.extend(queue.die());
            }
            if queue.is_dead() {
                lost.extend(queue.take_unanswered());
            }
        }
        for tag in lost {
            if let Some(under) = self.under.remove(&tag) {
                self.unanswered += 1;
                if let Under::Read(reading) = under {
                    world.model.drop_read(&reading);
                }
            }
        }
        if world.now < self.retry_at || world.source.is_none() {
            return;
        }
        if world.queues.is_empty() || admin_is_dead {
            if world.queues.iter().all(Queue::is_gone) {
                self.retry_at = world.now.after(RETRY_AFTER);
                let admin = Queue::open(&world.sockets, world.config.queue, self.random.fork());
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

    /// A wait that lasts too long is given up; in a run that nothing troubles none is.
    fn wait(&mut self, world: &mut World, met: impl FnOnce(&mut World) -> bool) -> bool {
        let since = *self.since.get_or_insert(world.now);
        self.waits += 1;
        if self.waits.is_multiple_of(8) && world.source.is_some() && met(world) {
            return true;
        }
        let over = world.now.since(since) >= PATIENCE;
        if over {
            // The operator puts the cable back: nothing goes on without.
            self.untroubled = false;
            world.net.borrow_mut().cut = false;
        }
        over
    }

    fn advance(&mut self, world: &mut World) {
        let Some(step) = self.steps.get(self.at).cloned() else { return };
        let passed = match step {
            Step::Cp => {
                if world.source.is_some() {
                    drop(world.begin_cp());
                }
                true
            }
            Step::Drain => self.under.is_empty() || self.wait(world, |_| false),
            Step::CutCable => {
                world.net.borrow_mut().cut = true;
                true
            }
            Step::HealCable => {
                world.net.borrow_mut().cut = false;
                true
            }
            Step::AwaitFull => self.wait(world, |world| world.snapshot(SOURCE).full_waits > 0),
            Step::AwaitAlone => {
                self.wait(world, |world| world.snapshot(SOURCE).sync == SyncState::Alone)
            }
            Step::AwaitCatchUp => {
                self.wait(world, |world| world.snapshot(SOURCE).sync == SyncState::CatchingUp)
            }
            Step::AwaitInSync => {
                self.wait(world, |world| world.snapshot(SOURCE).sync == SyncState::InSync)
            }
            Step::AwaitCp => self.wait(world, |world| {
                let shot = world.snapshot(SOURCE);
                shot.cp_running.is_none() && shot.segments[1] + shot.segments[2] <= 1
            }),
            Step::Rest(span) => {
                let since = *self.since.get_or_insert(world.now);
                world.now.since(since) >= span
            }
            Step::Write { .. } | Step::Zeroes { .. } | Step::Read { .. } | Step::Flush => {
                self.submit(world, &step)
            }
        };
        if passed {
            self.since = None;
            self.at += 1;
        }
    }

    fn submit(&mut self, world: &mut World, step: &Step) -> bool {
        let harmed = super::matrix::HARMED_FIRST;
        if let Step::Read { volume: 0, first, sectors } = *step
            && self.blind
            && first < harmed + 16
            && harmed < first + sectors
        {
            return true;
        }
        // Large writes come all at once: they are to fill the log.
        let depth = match step {
            Step::Write { sectors: 256, .. } => usize::MAX,
            _ => DEPTH,
        };
        if self.under.len() >= depth || world.queues.len() < 2 {
            self.wait(world, |_| false);
            return false;
        }
        let at = 1 + self.tag as usize % (world.queues.len() - 1);
        let Some(at) = [at, 1].into_iter().find(|at| world.queues[*at].has_room()) else {
            // Where the log is full and nothing ends, the rest goes unsaid.
            return matches!(step, Step::Write { sectors: 256, .. })
                && self.wait(world, |world| world.snapshot(SOURCE).full_waits > 0);
        };
        let lba_bytes = |volume: usize| world.config.volumes[volume].1;
        let request = |volume: usize, first: u64, sectors: u64, op| {
            Request::of((volume, lba_bytes(volume)), first, sectors, op)
        };
        let (request, under) = match *step {
            Step::Write { volume, first, sectors } => {
                let (write, data) = world.model.begin_write(volume, first, sectors, false);
                if volume == 0 && first == harmed {
                    self.harmed = Some(write);
                }
                let in_capsule = data.len() <= 16 << 10 && write.is_multiple_of(2);
                let op = Op::Write { data, in_capsule };
                (request(volume, first, sectors, op), Under::Writes(vec![write]))
            }
            Step::Zeroes { volume, first, sectors, deallocate } => {
                let (write, _) = world.model.begin_write(volume, first, sectors, true);
                let op = if deallocate {
                    let unit = u64::from(lba_bytes(volume)) / 512;
                    Op::Deallocate(vec![(first / unit, (sectors / unit) as u32)])
                } else {
                    Op::Zeroes { deallocate: false }
                };
                (request(volume, first, sectors, op), Under::Writes(vec![write]))
            }
            Step::Read { volume, first, sectors } => {
                let reading = world.model.begin_read(volume, first, sectors);
                (request(volume, first, sectors, Op::Read), Under::Read(reading))
            }
            Step::Flush => (request(0, 0, 8, Op::Flush), Under::Nothing),
            _ => panic!("{step:?} is no command"),
        };
        self.tag += 1;
        self.under.insert(self.tag, under);
        world.queues[at].submit(self.tag, request);
        true
    }

    fn ended(&mut self, world: &mut World, done: Done) {
        let under = self.under.remove(&done.tag).expect("a command under way");
        if done.status == Status::SUCCESS {
            self.acknowledged += 1;
            match under {
                Under::Writes(writes) => {
                    for write in writes {
                        world.model.end_write(write);
                    }
                }
                Under::Read(reading) => world.model.end_read(&reading, &done.data),
                Under::Nothing => {}
            }
            world.effects.mark(SOURCE, Effect::Acknowledged);
            return;
        }
        self.failed += 1;
        let allowed = match &under {
            Under::Read(reading) => {
                world.model.drop_read(reading);
                self.reads_fail && done.status == Status::UNRECOVERED_READ_ERROR
            }
            Under::Writes(_) | Under::Nothing => false,
        };
        // A node that has failed, or has met nobody for long, is no path.
        let turned_away = done.status == Status::ANA_INACCESSIBLE;
        assert!(
            allowed || turned_away || done.status == Status::COMMAND_INTERRUPTED,
            "a command ends with {}",
            done.status
        );
    }
}

/// Both nodes run, all that was sent has ended, and the copies differ by nothing but the log: true where that is so now.
pub fn is_whole(world: &mut World, script: &Script) -> bool {
    if !script.is_done() || !world.is_up(SOURCE) || !world.is_up(DESTINATION) {
        return false;
    }
    // A source takes a while to notice that its destination was started again; asked to stop before that it may do so alone.
    let heard = world.snapshot(DESTINATION).peer == PeerState::Connected;
    let shot = world.snapshot(SOURCE);
    let connected = shot.peer == PeerState::Connected && shot.sync == SyncState::InSync;
    heard && connected && shot.target[2] == 0
}

/// Goes on until the pair is whole, for a bounded time; `each` does what the operator does.
pub fn settle(world: &mut World, script: &mut Script, mut each: impl FnMut(&mut World)) {
    let began = world.now;
    let mut turns = 0u64;
    loop {
        script.turn(world);
        each(world);
        turns += 1;
        if turns.is_multiple_of(16) && is_whole(world, script) {
            return;
        }
        if world.now.since(began) >= LIVENESS {
            let sync = if world.is_up(SOURCE) { Some(world.snapshot(SOURCE).sync) } else { None };
            let told = world.tell();
            panic!(
                "V2: after {LIVENESS:?} the pair is not whole: {sync:?}, step {} of {}, refused {:?}: {}",
                script.at,
                script.steps.len(),
                world.refused,
                told
            );
        }
    }
}
