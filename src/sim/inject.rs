//! Faults that begin and end, crashes and restarts, the operator. What may happen together is the budget's to say: see `faults`.

use crate::faults::{Class, Classes, FAULTS};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::trace::{Event, Place};
use crate::world::superblocks;
use crate::{Crash, DESTINATION, SOURCE, World};
use ibid_driver::{DiskOp, FileId};
use ibid_runtime::{Fault, PeerLoss, Role, StartRefused};
use ibid_units::{CpId, Epoch, LogBlock, Lsn, PacketNumber};
use ibid_wire::disk::{SUPERBLOCK_AT, SyncState};
use ibid_wire::peer::{
    CLEAR_BYTES, FrameEmitter, FrameHeader, FrameKind, HEADER_BYTES, SectionKind,
};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// How often, in steps, the operator looks at the nodes.
const LOOK_EVERY: u64 = 128;

/// A fault that lasts.
#[derive(Clone, Copy, Debug)]
struct Lasting {
    class: Class,
    side: usize,
    until: u64,
}

/// Does harm within the budget.
pub struct Injector {
    random: Random,
    classes: Classes,
    /// Classes of the run that begin here.
    begins: Vec<Class>,
    rate: u32,
    lasting: Vec<Lasting>,
    /// When a node that is down starts again.
    start_at: [u64; 2],
    /// When a node that has just started ends again.
    again_at: [Option<u64>; 2],
    /// What counts of older epochs, as each node recorded it last.
    agreed: [(Epoch, Lsn); 2],
    /// B1: the only node whose devices fail.
    victim: usize,
    /// A node that was asked to stop, and has not yet.
    stopping: [bool; 2],
    steps: u64,
}

impl Injector {
    pub fn new(classes: Classes, rate: u32, mut random: Random) -> Injector {
        let victim = if random.chance(500) { SOURCE } else { DESTINATION };
        let begins = FAULTS.iter().map(|class| class.0);
        let begins = begins.filter(|class| begins_here(*class) && classes.has(*class)).collect();
        Injector {
            random,
            classes,
            begins,
            rate,
            lasting: Vec::new(),
            start_at: [0; 2],
            again_at: [None; 2],
            agreed: [(Epoch::new(0), Lsn::new(0)); 2],
            victim,
            stopping: [false; 2],
            steps: 0,
        }
    }

    /// One step's harm.
    pub fn turn(&mut self, world: &mut World, oracle: &mut Oracle) {
        self.steps += 1;
        self.end_lasting(world);
        self.start_nodes(world);
        self.crash_in_recovery(world, oracle);
        self.outage(world, oracle);
        if self.random.below(1_000_000) < u64::from(self.rate) && !self.begins.is_empty() {
            let class = self.begins[self.random.below(self.begins.len() as u64) as usize];
            self.begin(world, oracle, class);
        }
        if self.steps.is_multiple_of(LOOK_EVERY) {
            self.look(world);
        }
    }

    /// Power goes where the cable is plugged in, while the destination holds more than the source: what only the peer has is out of reach for
    /// longer than the source may wait.
    fn outage(&mut self, world: &mut World, oracle: &mut Oracle) {
        let (power, cut) = (Class::PowerSource, Class::NetPartition);
        let may = self.classes.has(power)
            && self.classes.has(cut)
            && self.lasting.iter().all(|lasting| lasting.class != cut)
            && world.is_up(SOURCE)
            && oracle.is_destination_ahead();
        if !may || !self.random.chance(4) {
            return;
        }
        self.crash(world, oracle, power, &[SOURCE], Crash::Power);
        self.start_at[SOURCE] = world.now.get() + self.random.below(100_000_000);
        let span = 500_000_000 + self.random.below(6_000_000_000);
        world.trace.fault(Place::Link, cut, span / 1000);
        self.lasting.push(Lasting { class: cut, side: SOURCE, until: world.now.get() + span });
        world.net.borrow_mut().cut = true;
    }

    /// P2: in recovery, or soon after it, when nodes meet.
    fn crash_in_recovery(&mut self, world: &mut World, oracle: &mut Oracle) {
        for side in [SOURCE, DESTINATION] {
            if self.again_at[side].is_some_and(|at| at <= world.now.get()) {
                self.again_at[side] = None;
                let sides: &[usize] = match self.random.below(4) {
                    0 => &[DESTINATION],
                    1 => &[SOURCE, DESTINATION],
                    _ => &[SOURCE],
                };
                self.crash(world, oracle, Class::CrashInRecovery, sides, Crash::Power);
            }
            // Just when it is recorded what counts of the log, little of what follows from that has been done.
            let agreed = oracle.superblock(side).map(|found| (found.opened, found.agreed));
            let agreed = agreed.unwrap_or(self.agreed[side]);
            if agreed != self.agreed[side] {
                self.agreed[side] = agreed;
                if self.classes.has(Class::CrashInRecovery) && self.random.chance(150) {
                    self.crash(world, oracle, Class::CrashInRecovery, &[side], Crash::Power);
                }
            }
            let recovers = world.recovering[side].is_some();
            if recovers && self.classes.has(Class::CrashInRecovery) && self.random.chance(4) {
                let crash = if self.random.chance(500) { Crash::Power } else { Crash::Kill };
                self.crash(world, oracle, Class::CrashInRecovery, &[side], crash);
            }
        }
    }

    /// Puts everything right that the budget says can be: cables, devices, nodes that are down.
    pub fn heal(&mut self, world: &mut World) {
        self.begins.clear();
        self.again_at = [None; 2];
        self.classes = Classes::NONE;
        for lasting in std::mem::take(&mut self.lasting) {
            end(world, lasting);
        }
        world.net.borrow_mut().heal();
        for files in &world.files {
            let mut files = files.borrow_mut();
            files.fail = None;
            files.faults.busy = 0;
            files.faults.slow = 0;
        }
        world.queue_calm();
        // Clocks go on now, not while the pair is being judged: a jump is a silence to whoever makes it.
        for clock in &mut world.clocks {
            clock.frozen_until = 0;
        }
        self.start_at = [0; 2];
        self.start_nodes(world);
        self.look(world);
        self.start_at = [0; 2];
        self.start_nodes(world);
    }

    /// What the operator does in the second phase too: a node that has failed is started again.
    pub fn look(&mut self, world: &mut World) {
        for side in [SOURCE, DESTINATION] {
            if world.stopped(side).is_some() {
                world.leave(side);
                self.stopping[side] = false;
                self.start_at[side] = world.now.get() + self.span();
            }
            if let Some(refused) = &world.refused[side] {
                // B4: a device that can't be read now can be read later.
                let passes = matches!(refused, StartRefused::Io(_));
                assert!(passes, "side {side} does not start: {refused}");
            }
            if !world.is_up(side) {
                continue;
            }
            let glance = world.glance(side);
            match glance.fault {
                None => {}
                Some(fault @ (Fault::Peer | Fault::Chain)) => {
                    panic!("I13: side {side} finds that its peer contradicts itself: {fault:?}")
                }
                Some(Fault::Memory) => panic!("B6: side {side} has lost a page of its log"),
                // B4. Not while the device still fails.
                Some(Fault::Log(_)) => {
                    let failing = self.lasting.iter().any(|lasting| is_of_disk(lasting.class));
                    if !failing {
                        world.trace.note(Place::Operator, "restarts side", side as u64);
                        world.crash(side, Crash::Kill);
                        self.start_at[side] = world.now.get();
                    }
                }
            }
        }
        self.start_nodes(world);
    }

    fn start_nodes(&mut self, world: &mut World) {
        for side in [DESTINATION, SOURCE] {
            if !world.runs(side) && self.start_at[side] <= world.now.get() {
                world.start(side);
                if self.classes.has(Class::CrashInRecovery) && self.random.chance(200) {
                    let span = 100_000 << self.random.below(10);
                    self.again_at[side] = Some(world.now.get() + self.random.below(span));
                }
            }
        }
    }

    /// Short, longer than a round trip, longer than a peer's patience.
    fn span(&mut self) -> u64 {
        let micros = match self.random.below(10) {
            0..4 => 100 + self.random.below(5_000),
            4..8 => 5_000 + self.random.below(500_000),
            _ => 500_000 + self.random.below(6_000_000),
        };
        micros * 1000
    }

    fn begin(&mut self, world: &mut World, oracle: &mut Oracle, class: Class) {
        let span = self.span();
        let until = world.now.get() + span;
        let side = self.random.below(2) as usize;
        if self.lasting.iter().any(|lasting| lasting.class == class) {
            return;
        }
        let trace = world.trace.clone();
        let micros = span / 1000;
        let mut lasting = |side: usize, place: Place| {
            trace.fault(place, class, micros);
            self.lasting.push(Lasting { class, side, until });
        };
        match class {
            Class::NetPartition => {
                lasting(side, Place::Link);
                world.net.borrow_mut().cut = true;
            }
            Class::NetOneWay => {
                lasting(side, Place::node(side));
                world.net.borrow_mut().cut_from[side] = true;
            }
            Class::NetClog => {
                lasting(side, Place::node(side));
                world.net.borrow_mut().clogged[side] = until;
            }
            Class::NetLarge => {
                lasting(side, Place::Link);
                world.net.borrow_mut().passes_max = 1000;
            }
            Class::NetSlow => {
                lasting(side, Place::Link);
                world.net.borrow_mut().slowness = 1000;
            }
            Class::DiskWriteError
            | Class::DiskReadError
            | Class::DiskFlushError
            | Class::DiskFull => {
                let side = self.victim;
                if self.lasting.iter().any(|lasting| is_of_disk(lasting.class)) {
                    return;
                }
                trace.fault(Place::node(side), class, micros);
                self.lasting.push(Lasting { class, side, until });
                let volumes = world.config.volumes.len() as u64;
                let mut file = FileId(self.random.below(volumes + 1) as u16);
                if class == Class::DiskReadError && file.0 == 0 {
                    let [one, two] = superblocks(world.files[side].borrow().durable(0));
                    // B2: a node that has read the older copy would not see the newer one.
                    let hides_newest = world.recovering[side].is_some() && one != two;
                    // A source that can't read its log has lost it for that start (B3).
                    if side == SOURCE || hides_newest {
                        file = FileId(1);
                    }
                }
                world.files[side].borrow_mut().fail =
                    Some(Box::new(move |op| fails(class, file, op)));
            }
            Class::Pause => {
                trace.fault(Place::node(side), class, micros);
                trace.event(side, Event::Paused, micros);
                world.paused_until[side] = until;
            }
            Class::ClockJump => {
                let ahead = 1_000_000 << self.random.below(22);
                trace.fault(Place::node(side), class, ahead / 1_000_000);
                world.clocks[side].ahead += ahead;
            }
            Class::ClockFrozen => {
                trace.fault(Place::node(side), class, micros);
                world.clocks[side].frozen_until = until;
            }
            Class::ClockDrift => {
                trace.fault(Place::node(side), class, 0);
                world.clocks[side].fast = 500;
            }
            Class::NetStranger => {
                trace.fault(Place::Link, class, 0);
                let (to, bytes) = stranger(&mut self.random);
                world.net.borrow_mut().intrude(to, bytes);
            }
            Class::MemoryFlip => {
                let side = self.victim;
                if !world.is_up(side) {
                    return;
                }
                // Behind the last look at a page that is on its way to a client nobody can tell.
                if side == SOURCE && world.model.is_read_from() {
                    return;
                }
                let Some(span) = oracle.safe_page(world, side, &mut self.random) else { return };
                if world.files[side].borrow().uses(span) {
                    return;
                }
                trace.fault(Place::node(side), class, span.at);
                let at = self.random.below(u64::from(span.len)) as usize;
                let bit = self.random.below(8);
                world.arenas[side].with_mut(span, |bytes| bytes[at] ^= 1 << bit);
            }
            Class::DiskReplaced => {
                let both = world.is_up(SOURCE) && world.is_up(DESTINATION);
                if self.victim != DESTINATION || !both || self.random.chance(500) {
                    return;
                }
                trace.fault(Place::node(DESTINATION), class, 0);
                world.crash(DESTINATION, Crash::Power);
                world.replace_disk(DESTINATION);
                oracle.replaced(world, DESTINATION);
                self.start_at[DESTINATION] = until;
            }
            Class::OperatorStop => {
                if !world.is_up(side) || self.stopping[side] {
                    return;
                }
                trace.fault(Place::Operator, class, side as u64);
                self.stopping[side] = true;
                world.begin_stop(side);
            }
            Class::PowerSource => self.crash(world, oracle, class, &[SOURCE], Crash::Power),
            Class::PowerDestination => {
                self.crash(world, oracle, class, &[DESTINATION], Crash::Power)
            }
            Class::PowerBoth => {
                self.crash(world, oracle, class, &[SOURCE, DESTINATION], Crash::Power)
            }
            Class::KillSource => self.crash(world, oracle, class, &[SOURCE], Crash::Kill),
            Class::KillDestination => self.crash(world, oracle, class, &[DESTINATION], Crash::Kill),
            Class::KillBoth => {
                self.crash(world, oracle, class, &[SOURCE, DESTINATION], Crash::Kill)
            }
            Class::OperatorCp => {
                if world.is_up(SOURCE) {
                    trace.fault(Place::Operator, class, 0);
                    trace.event(SOURCE, Event::CpAsked, 0);
                    drop(world.begin_cp());
                }
            }
            Class::OperatorStatus => {
                for side in [SOURCE, DESTINATION] {
                    if world.runs(side) {
                        trace.fault(Place::Operator, class, 0);
                        world.glance(side);
                    }
                }
            }
            class => panic!("{class:?} does not begin here"),
        }
    }

    fn crash(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        class: Class,
        sides: &[usize],
        crash: Crash,
    ) {
        for side in sides {
            if !world.runs(*side) {
                return;
            }
        }
        world.trace.fault(Place::node(sides[0]), class, 0);
        for side in sides {
            if world.is_up(*side) && self.random.chance(100) {
                oracle.turn(world);
                oracle.image(world, *side);
            }
            world.crash(*side, crash);
            self.stopping[*side] = false;
            self.start_at[*side] = world.now.get() + self.span();
            self.rot(world, oracle, *side);
        }
    }

    /// Bytes of a node that is down rot (B1 to B3).
    fn rot(&mut self, world: &mut World, oracle: &mut Oracle, side: usize) {
        if side != self.victim || !self.random.chance(300) {
            return;
        }
        oracle.turn(world);
        let layout = world.config.layout(Role::Source);
        let all = [Class::RotLog, Class::RotSuperblock, Class::RotMap];
        let class = all[self.random.below(3) as usize];
        if !self.classes.has(class) {
            return;
        }
        let at = match class {
            Class::RotSuperblock => {
                let [one, two] = superblocks(world.files[side].borrow().durable(0));
                // B2
                if one.is_none() || one != two {
                    return;
                }
                SUPERBLOCK_AT[self.random.below(2) as usize]
            }
            Class::RotMap => {
                let pages = world.config.node(0).map(Role::Source).pages();
                if side != SOURCE {
                    return;
                }
                layout.log.map_at() + self.random.below(u64::from(pages)) * 4096
            }
            _ => {
                // B3
                let (Some(own), Some(there)) =
                    (oracle.superblock(side), oracle.superblock(DESTINATION))
                else {
                    return;
                };
                let from = if side == SOURCE { there.cp.get() + 2 } else { own.cp.get() + 1 };
                let may = side == DESTINATION
                    || (world.config.peer_loss == PeerLoss::Stall
                        && oracle.is_level()
                        && own.state == SyncState::InSync
                        && there.state == SyncState::InSync);
                if !may || from > own.cp.get() + u64::from(layout.log.segments) {
                    return;
                }
                let past = own.cp.get() + 1 + u64::from(layout.log.segments);
                let segment = CpId::new(from + self.random.below(past - from));
                let block = match self.random.below(3) {
                    0 => 0,
                    1 => layout.log.segment_blocks - 1 - self.random.below(6) as u32,
                    _ => self.random.below(u64::from(layout.log.segment_blocks)) as u32,
                };
                oracle.rotten(side);
                layout.log.device_at(segment, LogBlock::new(block))
            }
        };
        world.trace.fault(Place::node(side), class, at);
        let (kind, sector, bit) =
            (self.random.below(3), self.random.below(8) as usize, self.random.below(32_768));
        world.files[side].borrow_mut().rot(0, at as usize, 4096, |bytes| match kind {
            0 => bytes[(bit / 8) as usize] ^= 1 << (bit % 8),
            1 => bytes[sector * 512..][..512].fill(0),
            _ => bytes[sector * 512..][..512].fill(0xFF),
        });
        oracle.turn(world);
    }

    fn end_lasting(&mut self, world: &mut World) {
        let now = world.now.get();
        let mut at = 0;
        while at < self.lasting.len() {
            if self.lasting[at].until <= now {
                let lasting = self.lasting.swap_remove(at);
                end(world, lasting);
            } else {
                at += 1;
            }
        }
    }
}

/// Classes that the injector begins; the others have rates of their own, in net, disk and hosts.
fn begins_here(class: Class) -> bool {
    matches!(
        class,
        Class::NetPartition
            | Class::NetOneWay
            | Class::NetClog
            | Class::NetLarge
            | Class::NetSlow
            | Class::DiskWriteError
            | Class::DiskReadError
            | Class::DiskFlushError
            | Class::DiskFull
            | Class::Pause
            | Class::ClockJump
            | Class::ClockFrozen
            | Class::ClockDrift
            | Class::PowerSource
            | Class::PowerDestination
            | Class::PowerBoth
            | Class::KillSource
            | Class::KillDestination
            | Class::KillBoth
            | Class::OperatorCp
            | Class::OperatorStop
            | Class::OperatorStatus
            | Class::NetStranger
            | Class::MemoryFlip
            | Class::DiskReplaced
    )
}

fn is_of_disk(class: Class) -> bool {
    matches!(
        class,
        Class::DiskWriteError | Class::DiskReadError | Class::DiskFlushError | Class::DiskFull
    )
}

fn fails(class: Class, file: FileId, op: &DiskOp) -> Option<i32> {
    match (class, op) {
        (Class::DiskWriteError, DiskOp::Write { file: of, .. } | DiskOp::Zero { file: of, .. })
        | (Class::DiskReadError, DiskOp::Read { file: of, .. })
        | (Class::DiskFlushError, DiskOp::Flush { file: of })
            if *of == file =>
        {
            Some(EIO)
        }
        // Space is missing where volumes are, the log has all of its own.
        (Class::DiskFull, DiskOp::Write { file: of, .. } | DiskOp::Zero { file: of, .. })
            if of.0 > 0 =>
        {
            Some(ENOSPC)
        }
        _ => None,
    }
}

fn end(world: &mut World, lasting: Lasting) {
    let mut net = world.net.borrow_mut();
    match lasting.class {
        Class::NetPartition => net.cut = false,
        Class::NetOneWay => net.cut_from[lasting.side] = false,
        Class::NetClog => net.clogged[lasting.side] = 0,
        Class::NetLarge => net.passes_max = usize::MAX,
        Class::NetSlow => net.slowness = 1,
        class if is_of_disk(class) => world.files[lasting.side].borrow_mut().fail = None,
        class => panic!("{class:?} does not last"),
    }
}

/// A frame of somebody who is neither of the two, and to whom it comes: well made, of an epoch above all others, in a session nobody opened.
fn stranger(random: &mut Random) -> (usize, Vec<u8>) {
    let kinds = [
        (DESTINATION, FrameKind::Hello, SectionKind::Hello),
        (DESTINATION, FrameKind::Sourced, SectionKind::Ping),
        (DESTINATION, FrameKind::Sourced, SectionKind::Goodbye),
        (DESTINATION, FrameKind::Ask, SectionKind::Ask),
        (SOURCE, FrameKind::HelloAnswer, SectionKind::HelloAnswer),
        (SOURCE, FrameKind::Reported, SectionKind::Report),
        (SOURCE, FrameKind::Answer, SectionKind::Answer),
    ];
    let (to, kind, section) = kinds[random.below(kinds.len() as u64) as usize];
    let number = PacketNumber::new(random.below(1000));
    let header =
        FrameHeader { kind, shard: 0, session: random.word(), epoch: Epoch::new(1 << 40), number };
    let length = if matches!(section, SectionKind::Ping | SectionKind::Goodbye) { 0 } else { 300 };
    let body: Vec<u8> = (0..length).map(|_| random.word() as u8).collect();
    let mut out = vec![0; 1024];
    let length = FrameEmitter::with_body(&mut out, &header, section, |into| {
        into[..body.len()].copy_from_slice(&body);
        body.len()
    });
    out.truncate(length);
    // Whoever has no key guesses the tag.
    out[CLEAR_BYTES..HEADER_BYTES].fill_with(|| random.word() as u8);
    (to, out)
}
