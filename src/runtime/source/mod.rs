//! The shard of a node that takes writes: clients on one side, the peer on the other, log and volumes below.
//! One turn moves everything that can move; nothing in it waits.

mod clients;
mod peer;
mod point;
mod reads;
mod writes;

use crate::blocks::BlockSender;
use crate::disks::{Disks, Work};
use crate::frames::FrameBuffer;
use crate::layout::Layout;
use crate::memory::ArenaMemory;
use crate::persist::{JOBS_MAX, Persist};
use crate::pool::RunPool;
use crate::shard::{Command, CommandKind, CpDone, NodeConfig, Reply, Shard, Stop};
use crate::slots::Slots;
use crate::snapshot::{CpCounters, Fault, Snapshot, Stage, StageTimes, VolumeCounters};
use crate::superblock::SuperblockWriter;
use clients::{CommandTable, Conn};
use crossbeam::channel::Sender;
use ibid_driver::{Arena, Disk, DiskError, Port, PortCounters, StreamId, Streams};
use ibid_engine::frontend::{Frontend, TargetConfig};
use ibid_engine::link::{Item, Sender as LinkSender};
use ibid_engine::log::{LogGeometry, SourceLog, SourceLogConfig};
use ibid_engine::point::{Apply, CpList, Lister};
use ibid_engine::volume::ReadGate;
use ibid_units::{CpId, Epoch, Lsn, Nanos};
use ibid_wire::disk::{ENTRY_PAGES_MAX, Superblock};
use ibid_wire::peer::{ChainDigest, CpOpen};
use peer::Peer;
use point::CpPhase;
use reads::{ReadSlot, Scatter};
use std::collections::VecDeque;
use std::sync::Arc;
use writes::WriteSlot;

/// What a source is made with, besides what both roles have in common.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Common to both roles.
    pub node: NodeConfig,
    /// The target.
    pub target: TargetConfig,
    /// Longest time between consistency points.
    pub cp_interval: Nanos,
    /// True for `cp_mode = "full"`.
    pub cp_full: bool,
    /// Longest time an orderly stop waits for the peer.
    pub stop_wait: Nanos,
}

/// How long a sealed segment waits for data that is on its way into it.
const LATE_AFTER: Nanos = Nanos::from_millis(20);
/// Frames received in one turn, at most.
const RECEIVE_FRAMES: usize = 64;
/// Zeroes and deallocations that may wait for a full log, besides one command of every queue place.
const WAITING_EXTRA: usize = 4096;
/// Streams that one poll of the driver may open, each of which may be refused.
const REFUSED_STREAMS: usize = 256;
/// How long a source sleeps that awaits nothing of its peer: clients and disks wake it, only heartbeats and the control plane wait.
const QUIET_WAIT: Nanos = Nanos::from_millis(10);
/// Commands for CPs that may wait.
const WAITERS_MAX: usize = 16;

/// The source's shard.
pub struct Source<P, D, S> {
    port: P,
    streams: S,
    core: Core<D>,
}

/// Everything but the two drivers that call back.
struct Core<D> {
    arena: Arc<Arena>,
    memory: ArenaMemory,
    geometry: LogGeometry,
    layout: Layout,
    disks: Disks<D>,
    completions: Vec<(Work, Result<(), DiskError>)>,
    superblock: SuperblockWriter,
    epoch: Epoch,
    fault: Option<Fault>,
    /// The time of the last turn.
    now: Nanos,

    // Clients.
    frontend: Frontend,
    conns: Vec<Conn>,
    /// No connection has a place from here on.
    conns_used: usize,
    /// Streams that opened in this poll and can't be taken.
    refused_streams: Vec<StreamId>,
    queue_depth: usize,
    command_table: Vec<CommandTable>,
    writes: Slots<WriteSlot>,
    reads: Slots<ReadSlot>,
    waiting_writes: VecDeque<u32>,
    waiting_reads: VecDeque<u32>,
    late: VecDeque<u32>,
    /// Since when the log has been waiting for a slot that only late data and reads keep.
    held_since: Nanos,
    read_pool: RunPool,
    /// Memory that late data is set aside in, and pages of large writes that may still come to need it.
    aside_pool: RunPool,
    large_pages: u32,
    /// Pages of small writes that were set aside.
    small_pages: u32,
    waiting_large: VecDeque<u32>,
    in_capsule_bytes: u64,
    scatters: Slots<Scatter>,
    commands: u32,

    // The log.
    log: SourceLog,
    persist: Persist,

    // The peer.
    peer: Peer,
    link: LinkSender,
    frame: FrameBuffer,
    outgoing: VecDeque<Item>,
    batch_times: VecDeque<(Lsn, Nanos)>,

    // Consistency points.
    cp_phase: CpPhase,
    cp_full: bool,
    cp_interval: Nanos,
    cp_due: Nanos,
    cp_began: Nanos,
    lister: Lister,
    list: CpList,
    hashed: usize,
    list_crc: ibid_wire::Crc32c,
    list_chain: ChainDigest,
    apply: Apply,
    gate: ReadGate,
    open: Option<CpOpen>,
    list_sent: Option<usize>,
    blocks: BlockSender,
    peer_has_cp: bool,
    waiters: VecDeque<Waiter>,

    // Stopping.
    stop_wait: Nanos,
    stopping: Option<Nanos>,
    stopped: Option<Stop>,

    // Counters.
    cp_sum: CpCounters,
    cp_last: Nanos,
    volumes: Vec<VolumeCounters>,
    times: StageTimes,
    full_waits: u64,
    full_wait: Nanos,
    copied: [u64; 4],
    rx_refused: u64,
    port_counters: PortCounters,
}

/// A control command that waits for a CP.
struct Waiter {
    target: CpId,
    began: Nanos,
    before: CpCounters,
    link_bytes: u64,
    reply: Sender<Reply>,
}

impl<P: Port, D: Disk, S: Streams> Source<P, D, S> {
    /// A source over its drivers. `superblock` is what [`crate::start`] gave; the arena is as long as `layout` says.
    /// The new epoch is made durable by the first thing the shard does; until then no session is opened.
    pub fn new(
        config: SourceConfig,
        layout: Layout,
        arena: Arc<Arena>,
        superblock: Superblock,
        (port, disk, streams): (P, D, S),
    ) -> Self {
        let node = config.node;
        let limits = config.target.limits;
        let geometry = layout.log;
        assert!(
            limits.transfer_bytes_max <= 1 << 20,
            "a write is at most one MiB: an entry's pages fit one batch"
        );
        assert!(
            layout.reads.blocks >= 2 * u32::from(ENTRY_PAGES_MAX),
            "the longest read has memory for the log's bytes and the volume's"
        );
        assert!(
            layout.staging.blocks >= 2 * u32::from(ENTRY_PAGES_MAX),
            "the largest write has memory to be set aside in"
        );
        let commands_max =
            usize::from(limits.connections_max) * usize::from(limits.queue_depth_max);
        let frame = FrameBuffer::new(port.datagram_bytes_max());
        let epoch = superblock.epoch.next();
        let batch_bytes_max = frame.body_bytes_max().min(4096);
        let writes_max = commands_max + WAITING_EXTRA;
        let log = SourceLog::new(SourceLogConfig {
            geometry,
            pair: node.pair,
            epoch,
            cp: superblock.cp,
            last_lsn: superblock.last_lsn,
            entries_max: writes_max,
            batch_bytes_max,
            late_after: LATE_AFTER,
        });
        // Every write job: a header, a descriptor and at most one run per entry; every read: one operation per block.
        let disk_ops_max = 2 * JOBS_MAX + writes_max + commands_max * reads::READ_OPS_MAX + 96;
        let core = Core {
            memory: ArenaMemory(arena.clone()),
            arena,
            geometry,
            disks: Disks::new(disk, disk_ops_max),
            completions: Vec::with_capacity(ibid_driver::DEPTH_MAX),
            superblock: SuperblockWriter::new(superblock, layout.superblock),
            epoch,
            fault: None,
            now: Nanos::ZERO,
            frontend: Frontend::new(config.target),
            conns: vec![Conn::default(); usize::from(limits.connections_max)],
            refused_streams: Vec::with_capacity(REFUSED_STREAMS),
            conns_used: 0,
            queue_depth: usize::from(limits.queue_depth_max),
            command_table: vec![CommandTable::default(); commands_max],
            writes: Slots::new(writes_max, WriteSlot::EMPTY),
            reads: Slots::new(commands_max, ReadSlot::EMPTY),
            waiting_writes: VecDeque::with_capacity(writes_max),
            waiting_reads: VecDeque::with_capacity(commands_max),
            late: VecDeque::with_capacity(writes_max),
            held_since: Nanos::ZERO,
            read_pool: RunPool::new(layout.reads),
            aside_pool: RunPool::new(layout.staging),
            large_pages: 0,
            small_pages: 0,
            waiting_large: VecDeque::with_capacity(writes_max),
            in_capsule_bytes: u64::from(limits.in_capsule_bytes),
            scatters: Slots::new(reads::SCATTERS_MAX, Scatter::EMPTY),
            commands: 0,
            log,
            persist: Persist::new(geometry, node.to_disk),
            peer: Peer::new(node.seed),
            link: LinkSender::new(),
            frame,
            outgoing: VecDeque::with_capacity(peer::OUTGOING_MAX),
            batch_times: VecDeque::with_capacity(JOBS_MAX),
            cp_phase: CpPhase::Idle,
            cp_full: config.cp_full,
            cp_interval: config.cp_interval,
            cp_due: Nanos::NEVER,
            cp_began: Nanos::ZERO,
            lister: Lister::new(geometry.segment_blocks),
            list: CpList::new(geometry.segment_blocks),
            hashed: 0,
            list_crc: ibid_wire::Crc32c::new(),
            list_chain: ChainDigest::new(&[0; 32], CpId::new(0)),
            apply: Apply::new(geometry.segment_blocks, node.volume_sectors()),
            gate: ReadGate::default(),
            open: None,
            list_sent: None,
            blocks: BlockSender::new(geometry.segment_blocks),
            peer_has_cp: false,
            waiters: VecDeque::with_capacity(WAITERS_MAX),
            stop_wait: config.stop_wait,
            stopping: None,
            stopped: None,
            cp_sum: CpCounters::default(),
            cp_last: Nanos::ZERO,
            volumes: vec![VolumeCounters::default(); node.volumes.len()],
            times: StageTimes::new(),
            full_waits: 0,
            full_wait: Nanos::ZERO,
            copied: [0; 4],
            rx_refused: 0,
            port_counters: PortCounters::default(),
            layout,
        };
        Self { port, streams, core }
    }

    /// The streams, for whoever must know where they listen.
    pub fn streams(&self) -> &S {
        &self.streams
    }

    fn poll(&mut self, now: Nanos, wait: Nanos) -> bool {
        let Self { streams, core, .. } = self;
        let mut any = false;
        let mut refused = std::mem::take(&mut core.refused_streams);
        streams.poll(wait, &mut |event| {
            any = true;
            refused.extend(core.stream_event(now, event));
        });
        for stream in refused.drain(..) {
            streams.close(stream);
        }
        core.refused_streams = refused;
        any
    }
}

impl<P: Port, D: Disk, S: Streams> Shard for Source<P, D, S> {
    fn turn(&mut self, now: Nanos) -> bool {
        self.core.now = now;
        let mut busy = self.poll(now, Nanos::ZERO);
        let Self { port, streams, core } = self;
        core.begin(now);
        busy |= core.receive_clients(now, streams);
        busy |= port.receive(RECEIVE_FRAMES, &mut |datagram| core.frame_came(now, datagram)) > 0;
        busy |= core.poll_disks(now);
        core.frontend.tick(now);
        core.drain_events(now);
        busy |= core.retry_waiting(now);
        core.log.expire_late(now);
        busy |= core.close_batches(now);
        busy |= core.point_turn(now);
        busy |= core.pump_link(now, port);
        // A batch that became durable may complete writes, whose answers leave in this same turn.
        busy |= core.commit(now);
        busy |= core.send_clients(now, streams);
        core.stop_turn(now, port, streams);
        port.flush();
        core.port_counters = port.counters();
        busy
    }

    fn command(&mut self, now: Nanos, command: Command) {
        let reply = match command.kind {
            CommandKind::Snapshot(mut snapshot) => {
                self.core.fill(now, &mut snapshot, &self.port);
                Reply::Snapshot(snapshot)
            }
            CommandKind::Cp => match self.core.want_cp(now, &command.reply) {
                Some(reply) => reply,
                None => return,
            },
            CommandKind::Stop => Reply::Stopping,
        };
        // Whoever asked may have given up; nothing depends on the answer.
        drop(command.reply.try_send(reply));
    }

    fn begin_stop(&mut self, now: Nanos) {
        if self.core.stopping.is_none() {
            self.core.stopping = Some(now);
        }
    }

    fn stopped(&self) -> Option<Stop> {
        self.core.stopped
    }

    fn wait(&mut self, span: Nanos) {
        // An event noted now is handled in the turn that follows. The last turn's time will do for deadlines that begin here.
        let span = if self.core.awaits_nothing() { span.max(QUIET_WAIT) } else { span };
        self.poll(self.core.now, span);
    }
}

impl<D: Disk> Core<D> {
    /// What must happen once, before anything else: the new epoch becomes durable.
    fn begin(&mut self, now: Nanos) {
        if self.superblock.durable.epoch < self.epoch
            && self.superblock.is_idle()
            && self.fault.is_none()
        {
            let epoch = self.epoch;
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.epoch = epoch;
                next.clean = false;
            });
        }
        if self.cp_due == Nanos::NEVER {
            self.cp_due = now.after(self.cp_interval);
        }
    }

    fn poll_disks(&mut self, now: Nanos) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        let count = self.disks.poll(|work, result| completions.push((work, result)));
        for (work, result) in completions.drain(..) {
            self.disk_done(now, work, result);
        }
        self.completions = completions;
        let Self { persist, disks, log, times, .. } = self;
        persist.turn(now, disks, |last, took| {
            log.durable_here(last);
            times.record(Stage::Persist, took);
        });
        count > 0
    }

    fn disk_done(&mut self, now: Nanos, work: Work, result: Result<(), DiskError>) {
        if let Err(DiskError(code)) = result {
            match work {
                Work::Read { .. } => {}
                Work::LogWrite { .. }
                | Work::LogFlush
                | Work::Superblock
                | Work::SuperblockFlush => {
                    self.persist.fail();
                    self.fault.get_or_insert(Fault::Log(code));
                }
                Work::Apply | Work::Block { .. } => {
                    self.fault.get_or_insert(Fault::Volume(code));
                }
            }
        }
        match work {
            Work::LogWrite { job } => self.persist.written(job),
            Work::LogFlush => {
                let Self { persist, log, times, .. } = self;
                persist.flushed(now, |last, took| {
                    log.durable_here(last);
                    times.record(Stage::Persist, took);
                });
            }
            Work::Read { slot } => self.read_done(now, slot, result.is_ok()),
            Work::Apply => {
                // After an error the CP never becomes done: what it covers stays in the log.
                if result.is_ok() {
                    self.apply.completed();
                }
            }
            Work::Superblock if result.is_ok() => self.superblock.written(&mut self.disks),
            Work::SuperblockFlush if result.is_ok() => self.superblock.flushed(),
            Work::Superblock | Work::SuperblockFlush => {}
            Work::Block { page } => panic!("a source stages no blocks, page {page}"),
        }
    }

    fn fill(&self, now: Nanos, snapshot: &mut Snapshot, port: &impl Port) {
        let (oldest, next) = self.log.segments();
        let used = (next.get() - oldest.get()) as u32;
        let open = u32::from(!self.log.is_full());
        snapshot.epoch = self.epoch;
        (snapshot.peer, snapshot.silent) = self.peer.state(now);
        snapshot.fault = self.fault;
        snapshot.peer_failed = self.peer.failed;
        snapshot.segments = [self.geometry.segments - used, open, used - open];
        snapshot.lsn = self.log.last_lsn();
        snapshot.lsn_durable = self.log.durable_here_lsn();
        snapshot.lsn_peer = self.log.durable_there_lsn();
        snapshot.full_waits = self.full_waits;
        snapshot.full_wait = self.full_wait;
        snapshot.cp = self.superblock.durable.cp;
        snapshot.chain = self.superblock.durable.chain;
        snapshot.cp_running =
            (self.cp_phase != CpPhase::Idle).then(|| self.superblock.durable.cp.next());
        snapshot.cp_last = self.cp_last;
        snapshot.cp_sum = self.cp_sum;
        snapshot.port = port.counters();
        snapshot.datagram_bytes_max = port.datagram_bytes_max() as u32;
        snapshot.rtt = self.link.rtt();
        snapshot.tx_repeated = self.link.counters().lost;
        snapshot.rx_repeated = 0;
        snapshot.rx_refused = self.rx_refused;
        snapshot.copied = self.copied;
        let connections = self.conns.iter().filter(|conn| conn.stream.is_some()).count() as u32;
        snapshot.target = [self.frontend.controllers_open(), connections, self.commands];
        snapshot.take_tables(&self.volumes, &self.times);
    }

    /// Nothing is under way that a frame of the peer could end.
    fn awaits_nothing(&self) -> bool {
        let settled =
            self.log.durable_there_lsn() >= self.log.last_lsn() && self.cp_phase == CpPhase::Idle;
        settled
            && self.peer.is_connected()
            && self.link.is_quiet()
            && self.writes.used() == 0
            && self.stopping.is_none()
    }

    /// Everything that must be over before a clean stop is over.
    fn is_quiet(&self) -> bool {
        let (oldest, next) = self.log.segments();
        let drained =
            !self.log.has_unsealed() && next.get() - oldest.get() <= u64::from(!self.log.is_full());
        drained
            && self.writes.used() == 0
            && self.cp_phase == CpPhase::Idle
            && self.persist.is_idle()
    }

    fn stop_turn<P: Port, S: Streams>(&mut self, now: Nanos, port: &mut P, streams: &mut S) {
        let Some(since) = self.stopping else { return };
        if self.stopped.is_some() {
            return;
        }
        let durable = self.superblock.durable;
        if self.is_quiet() && self.superblock.is_idle() {
            if durable.epoch == self.epoch && !durable.clean && self.fault.is_none() {
                self.superblock.begin(&self.arena, &mut self.disks, |next| next.clean = true);
                return;
            }
            self.say_goodbye(now, port);
            self.close_all(now, streams);
            self.stopped = Some(if durable.clean { Stop::Clean } else { Stop::Unclean });
        } else if now.since(since) >= self.stop_wait || self.fault.is_some() {
            self.say_goodbye(now, port);
            self.close_all(now, streams);
            self.stopped = Some(Stop::Unclean);
        } else {
            if now.since(since).get() >= self.stop_wait.get() / 2 {
                // Whoever still owes data for a write is not waited for: it was not acknowledged.
                self.close_all(now, streams);
            }
            if self.frontend_is_quiet() {
                self.log.seal(now);
            }
        }
    }

    /// Takes a control command for a CP; the answer if there is one at once.
    fn want_cp(&mut self, now: Nanos, reply: &Sender<Reply>) -> Option<Reply> {
        if self.waiters.len() == WAITERS_MAX {
            return Some(Reply::Busy);
        }
        self.log.seal(now);
        let (oldest, next) = self.log.segments();
        let last_sealed = if self.log.is_full() { next.get() - 1 } else { next.get() - 2 };
        let done = self.superblock.durable;
        if last_sealed < oldest.get() {
            return Some(Reply::Cp(CpDone { cp: done.cp, chain: done.chain, ..CpDone::default() }));
        }
        self.waiters.push_back(Waiter {
            target: CpId::new(last_sealed),
            began: now,
            before: self.cp_sum,
            link_bytes: self.port_counters.tx_bytes[1],
            reply: reply.clone(),
        });
        None
    }
}
