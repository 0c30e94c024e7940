//! A pair in one thread: source, destination, cable, disks, hosts and time, all from one seed. A seed is a bug report.
//! Takes a [`WorldConfig`]; gives turns in any order and at any speed, and the [`Model`] that judges what hosts see.

pub mod disk;
pub mod guard;
pub mod host;
pub mod load;
pub mod model;
pub mod net;
pub mod random;
pub mod stream;

use disk::{DiskFaults, Files, MemDisk};
use host::{Done, NQN, Queue, QueueConfig, Request};
use ibid_driver::Arena;
use ibid_engine::frontend::{Limits, NamespaceConfig, TargetConfig};
use ibid_runtime::{
    Command, CommandKind, CpDone, Destination, Layout, LayoutConfig, NodeConfig, PeerState, Reply,
    Role, Shard, Snapshot, Source, SourceConfig, Stop, VolumeConfig,
};
use ibid_units::{Nanos, VolumeId};
use ibid_wire::disk::{SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use model::Model;
use net::{MemPort, Net, NetFaults};
use random::Random;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use stream::{MemStreams, Sockets};

pub type TheSource = Source<MemPort, MemDisk, MemStreams>;
pub type TheDestination = Destination<MemPort, MemDisk>;

/// Everything that one run depends on.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub seed: u64,
    pub segments: u32,
    pub segment_blocks: u32,
    /// (sectors, bytes of a logical block) of each.
    pub volumes: Vec<(u64, u32)>,
    pub to_disk: bool,
    pub full: bool,
    pub mtu: usize,
    pub cp_interval: Nanos,
    pub read_blocks: u32,
    pub staging_blocks: u32,
    /// The source's memory for late data.
    pub aside_blocks: u32,
    pub net: NetFaults,
    pub disk: DiskFaults,
    /// Bytes of a client's stream that arrive at once, at most; 0: no bound.
    pub pieces: u64,
    pub queue: QueueConfig,
    pub queues: u16,
}

impl WorldConfig {
    /// A pair without faults.
    pub fn calm(seed: u64) -> WorldConfig {
        WorldConfig {
            seed,
            segments: 4,
            segment_blocks: 320,
            volumes: vec![(8192, 512), (4096, 4096)],
            to_disk: true,
            full: false,
            mtu: 9000,
            cp_interval: Nanos::from_millis(50),
            read_blocks: 1100,
            staging_blocks: 64,
            aside_blocks: 2048,
            net: NetFaults::NONE,
            disk: DiskFaults::FAST,
            pieces: 0,
            queue: QueueConfig {
                qid: 0,
                cntlid: 0,
                depth: 31,
                header_digest: false,
                data_digest: false,
                flow_control: false,
                withhold: 0,
                withheld: 0,
            },
            queues: 2,
        }
    }

    fn layout(&self, role: Role) -> Layout {
        Layout::new(LayoutConfig {
            segments: self.segments,
            segment_blocks: self.segment_blocks,
            read_blocks: self.read_blocks,
            staging_blocks: match role {
                Role::Source => self.aside_blocks,
                Role::Destination => self.staging_blocks,
            },
        })
    }

    pub fn node(&self, seed: u64) -> NodeConfig {
        let volume = |(n, (sectors, _)): (usize, &(u64, u32))| VolumeConfig {
            sectors: *sectors,
            uuid: [n as u8 + 1; 16],
        };
        NodeConfig {
            pair: [9; 16],
            segments: self.segments,
            segment_blocks: self.segment_blocks,
            to_disk: self.to_disk,
            volumes: self.volumes.iter().enumerate().map(volume).collect(),
            seed,
        }
    }

    fn target(&self) -> TargetConfig {
        let namespace = |(n, (sectors, lba_bytes)): (usize, &(u64, u32))| NamespaceConfig {
            volume: VolumeId::new(n as u16),
            capacity: *sectors,
            lba_bytes: *lba_bytes,
            uuid: [n as u8 + 1; 16],
            nguid: [n as u8 + 1; 16],
        };
        TargetConfig {
            nqn: NQN.to_string(),
            serial: "1".to_string(),
            model: "ibid".to_string(),
            firmware: "1".to_string(),
            namespaces: self.volumes.iter().enumerate().map(namespace).collect(),
            limits: Limits {
                connections_max: 8,
                controllers_max: 4,
                io_queues_max: 4,
                queue_depth_max: 64,
                transfer_bytes_max: 1 << 20,
                in_capsule_bytes: 16 << 10,
            },
            hosts: None,
            traddr: "192.0.2.1".to_string(),
            trsvcid: 4420,
            controller_ids: (1, 99),
        }
    }

    /// Files of a node that has never run.
    fn blank(&self, role: Role) -> Vec<Vec<u8>> {
        let mut log = vec![0; self.layout(role).log.device_bytes() as usize];
        let first = self.node(0).superblock(role);
        first.emit(&mut log[first.device_at() as usize..][..SUPERBLOCK_BYTES]);
        let volumes = self.volumes.iter().map(|(sectors, _)| vec![0; *sectors as usize * 512]);
        std::iter::once(log).chain(volumes).collect()
    }
}

/// The newest superblock of a log device's bytes.
pub fn superblock(log: &[u8]) -> Superblock {
    let read = |at: u64| Superblock::parse(&log[at as usize..][..SUPERBLOCK_BYTES]).ok();
    SUPERBLOCK_AT
        .into_iter()
        .filter_map(read)
        .max_by_key(|found| found.sequence)
        .expect("a superblock")
}

pub const SOURCE: usize = 0;
pub const DESTINATION: usize = 1;

/// The pair and everything around it.
pub struct World {
    pub config: WorldConfig,
    pub random: Random,
    pub now: Nanos,
    pub net: Rc<RefCell<Net>>,
    pub files: [Rc<RefCell<Files>>; 2],
    pub arenas: [Arc<Arena>; 2],
    pub sockets: Rc<RefCell<Sockets>>,
    pub source: Option<TheSource>,
    pub destination: Option<TheDestination>,
    pub queues: Vec<Queue>,
    pub model: Model,
    pub steps: u64,
}

impl World {
    /// Both nodes started on blank disks.
    pub fn new(config: WorldConfig) -> World {
        let mut random = Random::new(config.seed);
        let arena = |role| {
            let bytes = config.layout(role).bytes() as usize;
            Arc::new(Arena::new(bytes, false).expect("memory").0)
        };
        let sectors: Vec<u64> = config.volumes.iter().map(|volume| volume.0).collect();
        let mut world = World {
            net: Net::new(random.fork(), config.net),
            files: [Role::Source, Role::Destination]
                .map(|role| Files::new(random.fork(), config.disk, config.blank(role))),
            arenas: [arena(Role::Source), arena(Role::Destination)],
            sockets: Sockets::new(random.fork(), config.pieces),
            source: None,
            destination: None,
            queues: Vec::new(),
            model: Model::new(&sectors),
            random,
            now: Nanos::from_millis(1),
            steps: 0,
            config,
        };
        world.start_source();
        world.start_destination();
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
        let config = SourceConfig {
            node: self.config.node(self.random.next()),
            target: self.config.target(),
            cp_interval: self.config.cp_interval,
            cp_full: self.config.full,
            stop_wait: Nanos::from_millis(60_000),
        };
        let found = superblock(self.files[SOURCE].borrow().durable(0));
        let streams =
            MemStreams { sockets: self.sockets.clone(), arena: self.arenas[SOURCE].clone() };
        let drivers = (self.port(SOURCE), self.disk(SOURCE), streams);
        self.source = Some(Source::new(
            config,
            self.config.layout(Role::Source),
            self.arenas[SOURCE].clone(),
            found,
            drivers,
        ));
    }

    /// Starts a destination over what its disk holds.
    pub fn start_destination(&mut self) {
        let found = superblock(self.files[DESTINATION].borrow().durable(0));
        let node = self.config.node(self.random.next());
        self.start_destination_as(node, found);
    }

    pub fn start_destination_as(&mut self, node: NodeConfig, found: Superblock) {
        let drivers = (self.port(DESTINATION), self.disk(DESTINATION));
        let arena = self.arenas[DESTINATION].clone();
        self.destination = Some(Destination::new(
            node,
            self.config.layout(Role::Destination),
            arena,
            found,
            drivers,
        ));
    }

    /// The destination loses its power: what was not durable is gone, or not.
    pub fn power_cut_destination(&mut self) {
        self.destination = None;
        let contents = self.files[DESTINATION].borrow_mut().after_power_cut();
        self.files[DESTINATION] = Files::new(self.random.fork(), self.config.disk, contents);
        let bytes = self.config.layout(Role::Destination).bytes() as usize;
        self.arenas[DESTINATION] = Arc::new(Arena::new(bytes, false).expect("memory").0);
    }

    fn set_time(&mut self) {
        self.net.borrow_mut().now = self.now;
        for files in &self.files {
            files.borrow_mut().now = self.now;
        }
    }

    /// One step: who has a turn, in which order and how much later, is chance. Gives what ended at hosts, by queue.
    pub fn step(&mut self) -> Vec<(usize, Done)> {
        self.steps += 1;
        self.set_time();
        let mut busy = self.sockets.borrow_mut().deliver();
        let now = self.now;
        let source_first = self.random.chance(500);
        for turn in [source_first, !source_first] {
            // A node that is scheduled rarely sees more at once.
            if self.random.chance(250) {
                busy = true;
                continue;
            }
            if turn {
                if let Some(source) = &mut self.source {
                    busy |= guard::node(|| source.turn(now));
                }
            } else if let Some(destination) = &mut self.destination {
                busy |= guard::node(|| destination.turn(now));
            }
        }
        let mut ended = Vec::new();
        let mut done = Vec::new();
        for (at, queue) in self.queues.iter_mut().enumerate() {
            busy |= queue.poll(now, &mut done);
            ended.extend(done.drain(..).map(|done| (at, done)));
        }
        let mut pass = 500 + self.random.below(20_000);
        if !busy {
            // Nobody has anything to do: time goes on to the next event, but not past a timer.
            let next = [
                self.net.borrow().next_arrival(),
                self.files[0].borrow().next_completion(),
                self.files[1].borrow().next_completion(),
                self.queues.iter().filter_map(Queue::next_release).min(),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(u64::MAX);
            pass = next.saturating_sub(now.get()).clamp(1_000, 500_000);
        }
        self.now = now.after(Nanos::new(pass));
        ended
    }

    /// Steps until `until` holds; what ends meanwhile must be nothing.
    pub fn run_until(&mut self, what: &str, mut until: impl FnMut(&mut World) -> bool) {
        for _ in 0..400_000 {
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
        for _ in 0..400_000 {
            let mut ended = self.step();
            if let Some((_, done)) = ended.pop() {
                assert!(done.tag == u64::MAX && ended.is_empty(), "another command ends");
                return done;
            }
        }
        panic!("a command does not end: {}", self.tell());
    }

    fn ask(&mut self, side: usize, kind: CommandKind) -> crossbeam::channel::Receiver<Reply> {
        let (sender, receiver) = crossbeam::channel::bounded(1);
        let command = Command { kind, reply: sender };
        match side {
            SOURCE => self.source.as_mut().expect("a source runs").command(self.now, command),
            _ => self.destination.as_mut().expect("a destination runs").command(self.now, command),
        }
        receiver
    }

    pub fn snapshot(&mut self, side: usize) -> Snapshot {
        match self.ask(side, CommandKind::Snapshot(Box::new(Snapshot::with_room()))).try_recv() {
            Ok(Reply::Snapshot(snapshot)) => *snapshot,
            other => panic!("asked for a snapshot, got {other:?}"),
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
        self.run_until("the peer", |world| world.snapshot(SOURCE).peer == PeerState::Connected);
    }

    /// Stops both in good order, the source first, and compares what they leave.
    pub fn stop(&mut self) {
        let now = self.now;
        self.source.as_mut().expect("a source runs").begin_stop(now);
        self.run_until("the source to stop", |world| {
            world.source.as_ref().is_some_and(|source| source.stopped().is_some())
        });
        assert_eq!(self.source.as_ref().and_then(Shard::stopped), Some(Stop::Clean));
        let chain = self.snapshot(SOURCE).chain;
        let now = self.now;
        self.destination.as_mut().expect("a destination runs").begin_stop(now);
        self.run_until("the destination to stop", |world| {
            world.destination.as_ref().is_some_and(|destination| destination.stopped().is_some())
        });
        assert_eq!(self.destination.as_ref().and_then(Shard::stopped), Some(Stop::Clean));
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
            if [self.source.is_some(), self.destination.is_some()][side] {
                let s = self.snapshot(side);
                told += &format!(
                    "side {side}: {:?} {:?} fault {:?} segments {:?} lsn {} here {} peer {} cp {} running {:?} sum {:?} target {:?}\n",
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
                    s.target
                );
            }
        }
        told
    }
}
