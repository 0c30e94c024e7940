//! A pair in one thread: source, destination, cable, disks, hosts and time, all from one seed. A seed is a bug report.
//! Takes a [`WorldConfig`]; gives turns in any order and at any speed, and the [`Model`] that judges what hosts see.

use crate::config::WorldConfig;
use crate::disk::{Files, MemDisk};
use crate::effects::Effects;
use crate::faults::Class;
use crate::host::{Done, Queue, QueueConfig, Request};
use crate::model::Model;
use crate::net::{MemPort, Net};
use crate::random::Random;
use crate::stream::{MemStreams, Sockets};
use crate::trace::{Event, Place, State, Tracer};
use crate::{arenas, guard, images};
use ibid_driver::Arena;
use ibid_engine::sync::OutOfSync;
use ibid_runtime::{
    Command, CommandKind, CpDone, Destination, Fault, NodeConfig, PeerState, Reply, Role, Shard,
    Snapshot, Source, SourceConfig, StartRefused, Stop, SyncState, Turn, Unrecovered,
};
use ibid_units::{CpId, Nanos};
use ibid_wire::disk::{SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub type TheSource = Source<MemPort, MemDisk, MemStreams>;
pub type TheDestination = Destination<MemPort, MemDisk, MemStreams>;

/// A node that reads what its disk holds.
pub struct Recovering {
    unrecovered: Unrecovered<MemDisk>,
    map: OutOfSync,
    node: NodeConfig,
}

/// Both superblock copies of a log device's bytes, as far as they check.
pub fn superblocks(log: &[u8]) -> [Option<Superblock>; 2] {
    SUPERBLOCK_AT.map(|at| Superblock::parse(&log[at as usize..][..SUPERBLOCK_BYTES]).ok())
}

/// The newest superblock of a log device's bytes.
pub fn superblock(log: &[u8]) -> Superblock {
    let both = superblocks(log).into_iter().flatten();
    both.max_by_key(|found| found.sequence).expect("a superblock")
}

/// Of a thousand turns so many may be left out on any machine; more is a fault.
const LATE: u32 = 300;

pub const SOURCE: usize = 0;
pub const DESTINATION: usize = 1;

/// How a node ends without being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Its machine loses power.
    Power,
    /// Its process is killed, the machine goes on.
    Kill,
}

/// A node's clock: monotonic, as the kernel's is, and otherwise as bad as can be.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeClock {
    /// So far ahead of the world.
    pub ahead: u64,
    /// Stands still until then, in the world's time.
    pub frozen_until: u64,
    /// Parts of a million that it is too fast.
    pub fast: u64,
    last: u64,
}

impl NodeClock {
    fn read(&mut self, now: Nanos) -> Nanos {
        if now.get() >= self.frozen_until {
            let time = now.get() + self.ahead + now.get() / 1_000_000 * self.fast;
            self.last = self.last.max(time);
        }
        Nanos::new(self.last)
    }
}

/// What a look at a node shows.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    pub peer: PeerState,
    pub fault: Option<Fault>,
    pub cp: CpId,
    pub commands: u32,
    pub segments: [u32; 3],
    pub full_waits: u64,
    pub sync: SyncState,
    /// Its log and the peer's are one.
    pub log_open: bool,
    pub out_of_sync: u64,
}

/// The pair and everything around it.
pub struct World {
    pub config: WorldConfig,
    pub random: Random,
    pub now: Nanos,
    pub net: Rc<RefCell<Net>>,
    pub files: [Rc<RefCell<Files>>; 2],
    pub arenas: [Arc<Arena>; 2],
    pub sockets: Rc<RefCell<Sockets>>,
    /// The destination's, where hosts may connect to it.
    pub standby: Rc<RefCell<Sockets>>,
    pub source: Option<TheSource>,
    pub destination: Option<TheDestination>,
    /// Nodes that have been started and read their disks.
    pub recovering: [Option<Recovering>; 2],
    /// Why a node did not start.
    pub refused: [Option<StartRefused>; 2],
    pub queues: Vec<Queue>,
    pub model: Model,
    pub steps: u64,
    pub trace: Tracer,
    pub clocks: [NodeClock; 2],
    /// A node has no turn until then: paused by its machine.
    pub paused_until: [u64; 2],
    /// What crosses the nodes' rims, counted.
    pub effects: Effects,
    idle: u64,
    shot: Option<Box<Snapshot>>,
    /// Counters of a node as they were seen last.
    seen: [[u64; 6]; 2],
    pub stopping: [bool; 2],
}

impl World {
    /// Both nodes started on blank disks.
    pub fn new(config: WorldConfig) -> World {
        let mut world = World::unborn(config);
        world.start_source();
        world.start_destination();
        world.await_start();
        world
    }

    /// Steps until every node that was started runs.
    pub fn await_start(&mut self) {
        self.run_until("the nodes to start", |world| world.recovering.iter().all(Option::is_none));
    }

    /// Everything is there, and no node runs yet.
    pub fn unborn(config: WorldConfig) -> World {
        let mut random = Random::new(config.seed);
        let trace = Tracer::new();
        let arena = |role| arenas::take(config.layout(role).bytes());
        let sectors: Vec<u64> = config.volumes.iter().map(|volume| volume.0).collect();
        let world = World {
            effects: Effects::default(),
            net: Net::new(random.fork(), config.net, trace.clone()),
            files: [Role::Source, Role::Destination].map(|role| {
                let side = usize::from(role == Role::Destination);
                let random = random.fork();
                let mut disk = config.disk;
                disk.delay.1 *= if config.slower == Some(side) { 16 } else { 1 };
                Files::new(random, disk, (trace.clone(), side), config.blank(role))
            }),
            arenas: [arena(Role::Source), arena(Role::Destination)],
            sockets: Sockets::new(random.fork(), config.pieces),
            standby: Sockets::new(Random::new(!config.seed), config.pieces),
            source: None,
            destination: None,
            recovering: [None, None],
            refused: [None, None],
            queues: Vec::new(),
            model: Model::new(&sectors),
            random,
            now: Nanos::from_millis(1),
            steps: 0,
            config,
            trace,
            clocks: [NodeClock::default(); 2],
            paused_until: [0; 2],
            idle: 1_000,
            shot: None,
            seen: [[0; 6]; 2],
            stopping: [false; 2],
        };
        world.net.borrow_mut().effects = world.effects.clone();
        world.sockets.borrow_mut().effects = world.effects.clone();
        for (files, role) in world.files.iter().zip([Role::Source, Role::Destination]) {
            let mut files = files.borrow_mut();
            files.effects = world.effects.clone();
            files.map_at = world.config.layout(role).log.map_at();
        }
        world
    }

    fn port(&self, side: usize) -> MemPort {
        MemPort {
            net: self.net.clone(),
            side,
            arena: self.arenas[side].clone(),
            mtu: self.config.mtu,
        }
    }
    fn disk(&self, side: usize) -> MemDisk {
        MemDisk { files: self.files[side].clone(), arena: self.arenas[side].clone() }
    }

    /// Starts a source over what its disk holds.
    pub fn start_source(&mut self) {
        let mut node = self.config.node(self.random.word());
        node.allocated.clone_from(&self.config.allocated);
        self.start_as(SOURCE, node);
    }

    /// Starts a destination over what its disk holds.
    pub fn start_destination(&mut self) {
        let mut node = self.config.node(self.random.word());
        node.allocated.clone_from(&self.config.allocated_there);
        self.start_as(DESTINATION, node);
    }

    /// Starts a node: it reads its disk first.
    pub fn start_as(&mut self, side: usize, node: NodeConfig) {
        let role = if side == SOURCE { Role::Source } else { Role::Destination };
        let map = node.map(role);
        let unrecovered = Unrecovered::new(
            self.disk(side),
            self.config.layout(role),
            self.arenas[side].clone(),
            node.superblock(role),
            map.pages(),
        );
        self.trace.event(side, Event::Start, 0);
        self.trace.state(side, State::Recovering);
        self.refused[side] = None;
        self.recovering[side] = Some(Recovering { unrecovered, map, node });
    }

    /// A node that reads its disk does a turn of that; true while it is busy.
    fn recover(&mut self, side: usize) -> bool {
        let Some(recovering) = &mut self.recovering[side] else { return false };
        let Recovering { unrecovered, map, node } = recovering;
        let pair = node.pair;
        let turn = unrecovered.turn(&mut |page, bytes| {
            map.load(page, pair, bytes);
        });
        match turn {
            Ok(Turn::Idle) => false,
            Ok(Turn::Busy) => true,
            Ok(Turn::Done) => {
                let done = self.recovering[side].take().expect("it was recovering");
                self.start_recovered(side, done);
                true
            }
            Err(refused) => {
                self.trace.event(side, Event::NotStarted, 0);
                self.refused[side] = Some(refused);
                // What was being read is read for nobody.
                self.files[side].borrow_mut().kill(&self.arenas[side]);
                self.end_node(side);
                true
            }
        }
    }

    fn start_recovered(&mut self, side: usize, done: Recovering) {
        let Recovering { unrecovered, map, node } = done;
        let recovered = unrecovered.finish();
        images::nothing_void(&recovered.superblock, &recovered.log);
        let report = recovered.report;
        let found = [
            (report.blank, Event::Blank),
            (report.torn, Event::TailTorn),
            (report.damaged, Event::LogDamaged),
            (report.superblock_copies_bad > 0, Event::SuperblockBad),
            (report.blocks_unreadable > 0, Event::Unreadable),
            (report.map_pages_unreadable > 0, Event::Unreadable),
        ];
        self.trace.event(side, Event::Recovered, report.entries);
        for (_, event) in found.into_iter().filter(|found| found.0) {
            self.trace.event(side, event, 0);
        }
        self.net.borrow_mut().seals.started[side] = self.now;
        let arena = self.arenas[side].clone();
        let port = self.port(side);
        if side == DESTINATION {
            let layout = self.config.layout(Role::Destination);
            let target = self.config.standby.then(|| {
                let sockets = self.standby.clone();
                (self.config.target(side), MemStreams { sockets, arena: arena.clone() })
            });
            self.destination = Some(Destination::new(node, layout, arena, recovered, port, target));
            return;
        }
        let config = SourceConfig {
            node,
            target: self.config.target(side),
            cp_interval: self.config.cp_interval,
            cp_full: self.config.full,
            stop_wait: self.config.stop_wait,
            peer_loss: self.config.peer_loss,
            peer_timeout: self.config.peer_timeout,
            stall_timeout: self.config.stall_timeout,
            catch_up_rate: 0,
        };
        let streams =
            MemStreams { sockets: self.sockets.clone(), arena: self.arenas[SOURCE].clone() };
        let layout = self.config.layout(Role::Source);
        self.source = Some(Source::new(config, layout, arena, recovered, map, (port, streams)));
    }

    /// The destination loses its power: what was not durable is gone, or not.
    pub fn power_cut_destination(&mut self) {
        self.crash(DESTINATION, Crash::Power);
    }

    /// A node ends without being asked. What its disk holds then is what it starts from.
    pub fn crash(&mut self, side: usize, crash: Crash) {
        self.trace.event(
            side,
            match crash {
                Crash::Power => Event::PowerCut,
                Crash::Kill => Event::Killed,
            },
            0,
        );
        match crash {
            Crash::Power => self.files[side].borrow_mut().power_cut(&self.arenas[side]),
            Crash::Kill => self.files[side].borrow_mut().kill(&self.arenas[side]),
        }
        if side == SOURCE {
            self.model.crash();
        }
        self.end_node(side);
    }

    /// A node that was asked to stop has done so and goes away.
    pub fn leave(&mut self, side: usize) {
        self.trace.event(side, Event::Stopped, 0);
        self.files[side].borrow_mut().kill(&self.arenas[side]);
        if side == SOURCE {
            self.model.crash();
        }
        self.end_node(side);
    }

    /// A node that is down gets a blank log device, and volumes of zeroes.
    pub fn replace_disk(&mut self, side: usize) {
        assert!(!self.runs(side), "a disk is replaced while its node is down");
        self.trace.event(side, Event::DiskReplaced, 0);
        let role = if side == SOURCE { Role::Source } else { Role::Destination };
        let mut files = self.files[side].borrow_mut();
        for (file, bytes) in self.config.blank(role).iter().enumerate() {
            files.fill(file, 0, bytes);
        }
        if side == DESTINATION {
            self.config.allocated_there.clear();
        }
    }

    /// Gives the volumes what they hold before anything runs: the source's, which the model knows of, and the destination's.
    pub fn preload(&mut self, random: &mut Random) {
        const RUN: u64 = 256;
        for (volume, first, blocks) in self.config.allocated.clone() {
            let volume = usize::from(volume.get());
            for from in (first..first + blocks).step_by(RUN as usize) {
                let count = RUN.min(first + blocks - from);
                let (write, bytes) = self.model.begin_write(volume, from * 8, count * 8, false);
                self.model.end_write(write);
                self.files[SOURCE].borrow_mut().fill(volume + 1, from as usize * 4096, &bytes);
            }
        }
        for (volume, first, blocks) in self.config.allocated_there.clone() {
            let bytes: Vec<u8> =
                (0..blocks * 512).flat_map(|_| random.word().to_le_bytes()).collect();
            let file = usize::from(volume.get()) + 1;
            self.files[DESTINATION].borrow_mut().fill(file, first as usize * 4096, &bytes);
        }
    }

    /// A node that has stopped goes away.
    pub fn end_node(&mut self, side: usize) {
        self.recovering[side] = None;
        let role = if side == SOURCE { Role::Source } else { Role::Destination };
        if side == SOURCE {
            self.source = None;
            self.sockets.borrow_mut().target_is_gone();
        } else {
            self.destination = None;
            self.standby.borrow_mut().target_is_gone();
        }
        let fresh = arenas::take(self.config.layout(role).bytes());
        arenas::give(std::mem::replace(&mut self.arenas[side], fresh));
        self.seen[side] = [0; 6];
        self.stopping[side] = false;
        self.clocks[side] = NodeClock::default();
        self.paused_until[side] = 0;
        self.trace.state(side, State::Down);
    }

    pub fn runs(&self, side: usize) -> bool {
        self.recovering[side].is_some() || self.is_up(side)
    }

    /// It has read its disk, and takes part.
    pub fn is_up(&self, side: usize) -> bool {
        if side == SOURCE { self.source.is_some() } else { self.destination.is_some() }
    }

    /// Starts a node over what its disk holds.
    pub fn start(&mut self, side: usize) {
        if side == SOURCE {
            self.start_source();
        } else {
            self.start_destination();
        }
    }

    fn set_time(&mut self) {
        self.trace.set_time(self.now);
        self.net.borrow_mut().now = self.now;
        for files in &self.files {
            files.borrow_mut().now = self.now;
        }
    }

    /// One step: who has a turn, in which order and how much later, is chance. Gives what ended at hosts, by queue.
    pub fn step(&mut self) -> Vec<(usize, Done)> {
        self.steps += 1;
        self.set_time();
        let mut busy = self.sockets.borrow_mut().deliver() | self.standby.borrow_mut().deliver();
        let now = self.now;
        let source_first = self.random.chance(500);
        let mut skipped = false;
        for turn in [source_first, !source_first] {
            let side = if turn { SOURCE } else { DESTINATION };
            if !self.runs(side) {
                self.net.borrow_mut().drop_arrived(side);
                continue;
            }
            if now.get() < self.paused_until[side] {
                continue;
            }
            // A node that is scheduled rarely sees more at once.
            if self.random.chance(self.config.late_turns) {
                skipped = true;
                if self.config.late_turns > LATE {
                    self.trace.fault(Place::node(side), Class::TurnsLate, 0);
                }
                continue;
            }
            let time = self.clocks[side].read(now);
            self.trace.mix(7 << 56 | side as u64);
            if self.recovering[side].is_some() {
                busy |= self.recover(side);
            } else if let (SOURCE, Some(source)) = (side, &mut self.source) {
                busy |= guard::node(|| source.turn(time));
            } else if let (DESTINATION, Some(destination)) = (side, &mut self.destination) {
                busy |= guard::node(|| destination.turn(time));
            }
        }
        let mut ended = Vec::new();
        let mut done = Vec::new();
        for (at, queue) in self.queues.iter_mut().enumerate() {
            busy |= queue.poll(now, &mut done);
            for _ in 0..queue.take_held_back() {
                self.trace.fault(Place::Client, Class::HostOwes, at as u64);
            }
            ended.extend(done.drain(..).map(|done| (at, done)));
        }
        let mut pass = 500 + self.random.below(20_000);
        if busy {
            self.idle = 1_000;
        } else if !skipped {
            // Nobody has anything to do: time goes on to the next event, in longer and longer steps, for nodes have timers.
            let next = [SOURCE, DESTINATION].map(|side| {
                // What comes for a node that is paused waits with it.
                let paused = Some(self.paused_until[side]).filter(|until| *until > now.get());
                paused.or_else(|| {
                    let arrival = self.net.borrow().next_arrival(side);
                    let completion = self.files[side].borrow().next_completion();
                    arrival.into_iter().chain(completion).min()
                })
            });
            // A queue that nobody looks at any more has let its time pass.
            let release = self.queues.iter().filter_map(Queue::next_release);
            let release = release.filter(|release| *release > now.get()).min();
            let next = next.into_iter().chain([release]).flatten().min().unwrap_or(u64::MAX);
            self.idle = (self.idle * 3 / 2).min(self.config.idle.get());
            let most = if self.config.idle.get() > 500_000 { self.idle } else { 500_000 };
            pass = next.saturating_sub(now.get()).clamp(1_000, most);
        }
        self.now = now.after(Nanos::new(pass));
        ended
    }

    /// Steps until `until` holds; what ends meanwhile must be nothing.
    pub fn run_until(&mut self, what: &str, mut until: impl FnMut(&mut World) -> bool) {
        for _ in 0..4_000_000 {
            if until(self) {
                return;
            }
            let ended = self.step();
            assert!(
                ended.is_empty(),
                "seed {}: commands end while waiting for {what}",
                self.config.seed
            );
        }
        panic!("waited in vain for {what}: {}", self.tell());
    }

    /// Steps for so long; nothing may end.
    pub fn pass(&mut self, span: Nanos) {
        let end = self.now.after(span);
        self.run_until("time to pass", |world| world.now >= end);
    }

    /// Opens an admin queue and I/O queues.
    pub fn connect(&mut self) {
        let sockets = self.sockets.clone();
        let admin = Queue::open(&sockets, self.config.queue, self.random.fork());
        self.queues = vec![admin];
        self.run_until("the admin queue", |world| world.queues[0].is_ready());
        for qid in 1..=self.config.queues {
            self.open_queue(qid);
        }
        self.run_until("the I/O queues", |world| world.queues.iter().all(Queue::is_ready));
    }

    /// Connects another host: an admin queue and one I/O queue, whose place among the queues is given.
    pub fn connect_other(&mut self) -> usize {
        let config = QueueConfig { host: 1, ..self.config.queue };
        let place = self.queues.len();
        self.queues.push(Queue::open(&self.sockets, config, self.random.fork()));
        self.run_until("the other host's admin queue", |world| world.queues[place].is_ready());
        let config = QueueConfig { qid: 1, cntlid: self.queues[place].cntlid(), ..config };
        self.queues.push(Queue::open(&self.sockets, config, self.random.fork()));
        self.run_until("the other host's I/O queue", |world| world.queues[place + 1].is_ready());
        place + 1
    }

    /// Opens a queue that is like no other; its place among them.
    pub fn open_other_queue(&mut self, config: QueueConfig) -> usize {
        let place = self.queues.len();
        self.queues.push(Queue::open(&self.sockets, config, self.random.fork()));
        self.run_until("another queue", |world| world.queues[place].is_ready());
        place
    }

    /// Opens one more I/O queue.
    pub fn open_queue(&mut self, qid: u16) {
        let config = QueueConfig { qid, cntlid: self.queues[0].cntlid(), ..self.config.queue };
        let queue = Queue::open(&self.sockets, config, self.random.fork());
        match self.queues.get_mut(usize::from(qid)) {
            Some(place) => *place = queue,
            None => self.queues.push(queue),
        }
    }

    /// Does one command on queue `at` and waits for its end.
    pub fn command(&mut self, at: usize, request: Request) -> Done {
        self.queues[at].submit(u64::MAX, request);
        for _ in 0..4_000_000 {
            let mut ended = self.step();
            if let Some((_, done)) = ended.pop() {
                assert!(done.tag == u64::MAX && ended.is_empty(), "another command ends");
                return done;
            }
        }
        panic!("a command does not end: {}", self.tell());
    }

    pub(crate) fn ask(
        &mut self,
        side: usize,
        kind: CommandKind,
    ) -> crossbeam::channel::Receiver<Reply> {
        let (sender, receiver) = crossbeam::channel::bounded(1);
        let command = Command { kind, reply: sender };
        let now = self.clocks[side].read(self.now);
        match side {
            SOURCE => self.source.as_mut().expect("a source runs").command(now, command),
            _ => self.destination.as_mut().expect("a destination runs").command(now, command),
        }
        receiver
    }

    pub fn snapshot(&mut self, side: usize) -> Snapshot {
        match self.ask(side, CommandKind::Snapshot(Box::new(Snapshot::with_room()))).try_recv() {
            Ok(Reply::Snapshot(snapshot)) => *snapshot,
            other => panic!("asked for a snapshot, got {other:?}"),
        }
    }

    /// A look at a node that runs, cheaper than a snapshot of its own.
    pub fn glance(&mut self, side: usize) -> Glance {
        if !self.is_up(side) {
            return Glance {
                peer: PeerState::Connecting,
                fault: None,
                cp: CpId::new(0),
                commands: 0,
                segments: [0; 3],
                full_waits: 0,
                sync: SyncState::Never,
                log_open: false,
                out_of_sync: 0,
            };
        }
        let room = self.shot.take().unwrap_or_else(|| Box::new(Snapshot::with_room()));
        let answer = self.ask(side, CommandKind::Snapshot(room)).try_recv();
        let Ok(Reply::Snapshot(shot)) = answer else {
            panic!("asked for a snapshot, got {answer:?}");
        };
        let glance = Glance {
            peer: shot.peer,
            fault: shot.fault,
            cp: shot.cp,
            commands: shot.target[2],
            segments: shot.segments,
            full_waits: shot.full_waits,
            sync: shot.sync,
            log_open: shot.log_open,
            out_of_sync: shot.out_of_sync_blocks,
        };
        let retries = shot.volume_retry.map_or(0, |retry| retry.2);
        let seen = [
            (shot.expired, Event::Expired),
            (shot.fetched, Event::Fetched),
            (retries, Event::VolumeRetry),
            (shot.healed, Event::Healed),
            (shot.reads_from_peer, Event::ReadFromPeer),
            (shot.rewritten, Event::Rewritten),
        ];
        for (old, (new, event)) in self.seen[side].iter_mut().zip(seen) {
            if new > *old {
                self.trace.event(side, event, new - *old);
            }
            *old = new;
        }
        let peer_failed = shot.peer_failed;
        self.shot = Some(shot);
        let alone = glance.sync == SyncState::Alone;
        let state = match (glance.fault, glance.peer) {
            (Some(_), _) => State::Failed,
            (None, PeerState::Refused(_)) if !peer_failed => State::Refused,
            (None, _) if alone => State::Alone,
            (None, PeerState::Connecting) => State::Connecting,
            (None, PeerState::Connected) if glance.sync == SyncState::CatchingUp => {
                State::CatchingUp
            }
            (None, PeerState::Connected) => State::Connected,
            (None, PeerState::Away | PeerState::Refused(_)) => State::Away,
        };
        if self.stopping[side] {
            return glance;
        }
        self.trace.state(side, state);
        glance
    }

    /// Changes what a node's superblocks say while it is down, both copies.
    pub fn change_superblock(&mut self, side: usize, change: impl FnOnce(&mut Superblock)) {
        assert!(!self.runs(side), "a superblock is changed behind the back of a node that is down");
        let mut files = self.files[side].borrow_mut();
        let mut found = superblock(files.durable(0));
        change(&mut found);
        let mut bytes = [0; SUPERBLOCK_BYTES];
        found.emit(&mut bytes);
        for at in SUPERBLOCK_AT {
            files.fill(0, at as usize, &bytes);
        }
    }

    /// Asks for a consistency point, does not wait.
    pub fn begin_cp(&mut self) -> crossbeam::channel::Receiver<Reply> {
        self.ask(SOURCE, CommandKind::Cp)
    }

    /// Takes a consistency point.
    pub fn cp(&mut self) -> CpDone {
        let mut receiver = self.begin_cp();
        let mut answer = None;
        self.run_until("a consistency point", |world| {
            answer = receiver.try_recv().ok();
            if matches!(answer, Some(Reply::Busy)) {
                receiver = world.begin_cp();
                answer = None;
            }
            answer.is_some()
        });
        match answer {
            Some(Reply::Cp(done)) => done,
            other => panic!("asked for a CP, got {other:?}"),
        }
    }

    pub fn wait_connected(&mut self) {
        self.run_until("the peer", |world| {
            world.is_up(SOURCE) && world.snapshot(SOURCE).sync == SyncState::InSync
        });
    }

    /// Asks a node to stop.
    pub fn begin_stop(&mut self, side: usize) {
        self.trace.event(side, Event::StopAsked, 0);
        self.trace.state(side, State::Stopping);
        self.stopping[side] = true;
        let now = self.clocks[side].read(self.now);
        match side {
            SOURCE => self.source.as_mut().expect("a source runs").begin_stop(now),
            _ => self.destination.as_mut().expect("a destination runs").begin_stop(now),
        }
    }

    /// Hosts send what they are asked for at once, and turns come in time.
    pub fn queue_calm(&mut self) {
        self.config.queue.withhold = 0;
        self.config.late_turns = 100;
    }

    pub fn stopped(&self, side: usize) -> Option<Stop> {
        match side {
            SOURCE => self.source.as_ref().and_then(Shard::stopped),
            _ => self.destination.as_ref().and_then(Shard::stopped),
        }
    }

    /// Stops both in good order, the source first, and compares what they leave.
    pub fn stop(&mut self) {
        self.begin_stop(SOURCE);
        self.run_until("the source to stop", |world| {
            world.source.as_ref().is_some_and(|source| source.stopped().is_some())
        });
        let stopped = self.source.as_ref().and_then(Shard::stopped);
        assert!(stopped == Some(Stop::Clean), "the source stops {stopped:?}: {}", self.tell());
        let chain = self.snapshot(SOURCE).chain;
        self.begin_stop(DESTINATION);
        self.run_until("the destination to stop", |world| {
            world.destination.as_ref().is_some_and(|destination| destination.stopped().is_some())
        });
        let stopped = self.destination.as_ref().and_then(Shard::stopped);
        assert!(stopped == Some(Stop::Clean), "the destination stops {stopped:?}: {}", self.tell());
        assert_eq!(self.snapshot(DESTINATION).chain, chain);
        let (one, two) = (
            superblock(self.files[0].borrow().durable(0)),
            superblock(self.files[1].borrow().durable(0)),
        );
        assert!(one.clean && two.clean);
        assert_eq!(
            (one.cp, one.last_lsn, one.chain, one.epoch),
            (two.cp, two.last_lsn, two.chain, two.epoch)
        );
        self.compare();
        for volume in 0..self.config.volumes.len() {
            let bytes = self.files[SOURCE].borrow().durable(volume + 1).to_vec();
            self.model.check_volume(volume, &bytes);
        }
        for files in &self.files {
            assert_eq!(files.borrow().next_completion(), None, "nothing is under way after a stop");
        }
    }

    /// The durable volumes are the same, byte for byte.
    pub fn compare(&self) {
        for volume in 1..=self.config.volumes.len() {
            let (one, two) = (self.files[0].borrow(), self.files[1].borrow());
            assert!(
                one.durable(volume) == two.durable(volume),
                "seed {}: volume {volume} differs",
                self.config.seed
            );
        }
    }

    /// Where everything stands, for the report of a run that does not end.
    pub fn tell(&mut self) -> String {
        let seed = self.config.seed;
        let outstanding: Vec<usize> = self.queues.iter().map(Queue::outstanding).collect();
        let mut told = format!("seed {seed} at {:?}, outstanding {outstanding:?}\n", self.now);
        for side in [SOURCE, DESTINATION] {
            for found in superblocks(self.files[side].borrow().durable(0)).iter().flatten() {
                let (peer, next) = (&found.peer_chain[..4], &found.peer_next_chain[..4]);
                told += &format!(
                    "superblock {side}: {} {:?} cp {} lsn {} chain {:?} {:?} agreed {} opened {:?} peer {:?} {peer:?} {next:?} fresh {} whole {} clean {}\n",
                    found.sequence,
                    found.epoch,
                    found.cp,
                    found.last_lsn,
                    &found.chain[..4],
                    found.state,
                    found.agreed,
                    found.opened,
                    found.peer_cp,
                    found.fresh,
                    found.whole,
                    found.clean,
                );
            }
            if [self.source.is_some(), self.destination.is_some()][side] {
                let s = self.snapshot(side);
                told += &format!(
                    "side {side}: {:?} {:?} fault {:?} segments {:?} lsn {} here {} peer {} cp {} running {:?} sum {:?} target {:?} {:?} out {} volume {:?}\n",
                    s.epoch,
                    s.peer,
                    s.fault,
                    s.segments,
                    s.lsn,
                    s.lsn_durable,
                    s.lsn_peer,
                    s.cp,
                    s.cp_running,
                    s.cp_sum,
                    s.target,
                    s.sync,
                    s.out_of_sync_blocks,
                    s.volume_retry
                );
            }
        }
        told
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a failed run was doing with its memory is not known.
        if std::thread::panicking() {
            return;
        }
        self.source = None;
        self.destination = None;
        self.recovering = [None, None];
        self.net.borrow_mut().forget();
        for arena in &self.arenas {
            arenas::give(arena.clone());
        }
    }
}
