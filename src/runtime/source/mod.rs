//! The shard of a node that takes writes: clients on one side, the peer on the other, log and volumes below.
//! One turn moves everything that can move; nothing in it waits.

mod access;
mod between;
mod bring;
mod clients;
mod compare;
mod compare_memory;
mod fetch;
mod fused;
mod heal;
mod orphans;
mod mend;
mod peer;
mod point;
mod reads;
mod send;
mod sync;
mod verify;
mod writes;

use crate::auth::AuthRoom;
use crate::blocks::BlockSender;
use crate::clients::{Clients, Serve};
use crate::disks::{Disks, Work};
use crate::frames::FrameBuffer;
use crate::layout::Layout;
use crate::map::MapWriter;
use crate::memory::ArenaMemory;
use crate::persist::{JOBS_MAX, Persist};
use crate::pool::RunPool;
use crate::recover::{Recovered, RecoveryReport};
use crate::secured::Secured;
use crate::shard::{Command, CommandKind, CpDone, NodeConfig, Reply, Shard, Stop};
use crate::slots::Slots;
use crate::snapshot::{CpCounters, Fault, Snapshot, Stage, StageTimes, VolumeCounters};
use crate::superblock::SuperblockWriter;
use crate::trouble::Trouble;
use between::Between;
use bring::Bring;
use clients::CommandTable;
pub use compare_memory::COMPARE_ASKED_BLOCKS;
use compare_memory::CompareMemory;
use crossbeam::channel::Sender;
use fetch::{Fetch, Piece};
use fused::Fused;
use heal::Heal;
use ibid_driver::{Arena, Disk, DiskError, Port, PortCounters, Streams};
use ibid_engine::frontend::{AnaState, TargetConfig};
use ibid_engine::link::{Asker, Item, Sender as LinkSender};
use ibid_engine::log::{LogGeometry, SourceLog, SourceLogConfig};
use ibid_engine::point::{Apply, CpList, Lister, Side};
use ibid_engine::sync::{CatchUp, OutOfSync, RecentSums};
use ibid_engine::volume::ReadGate;
use ibid_secure::Initiator;
use ibid_units::{CpId, Epoch, Lsn, Mutant, Nanos, VolumeId};
use ibid_wire::disk::{self, ENTRY_PAGES_MAX};
use ibid_wire::peer::{ChainDigest, CpOpen, HelloRefusal};
use mend::Mend;
use orphans::Orphans;
use peer::Peer;
use point::CpPhase;
use reads::{ReadMemory, ReadSlot, Scatter};
use std::collections::VecDeque;
use std::sync::Arc;
use sync::Sync;
use writes::{Large, WriteSlot};

pub use sync::PeerLoss;

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
    /// What it does without its peer.
    pub peer_loss: PeerLoss,
    /// A peer that is silent for so long is away.
    pub peer_timeout: Nanos,
    /// A write that waits longer, for the peer or for room, ends with a status that asks for a retry.
    pub stall_timeout: Nanos,
    /// Bytes of older blocks that a catch-up sends in a second, at most; 0 has no bound.
    pub catch_up_rate: u64,
}

/// How long a sealed segment waits for data that is on its way into it.
const LATE_AFTER: Nanos = Nanos::from_millis(20);
/// Frames received in one turn, at most.
const RECEIVE_FRAMES: usize = 64;
/// Zeroes and deallocations that may wait for a full log, besides one command of every queue place.
const WAITING_EXTRA: usize = 4096;
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
    fault_since: Nanos,
    /// The time of the last turn.
    now: Nanos,

    // Clients.
    clients: Clients,
    /// Hosts were told that this node is a path to its volumes.
    serves: bool,
    queue_depth: usize,
    command_table: Vec<CommandTable>,
    writes: Slots<WriteSlot>,
    reads: Slots<ReadSlot>,
    waiting_writes: VecDeque<u32>,
    waiting_reads: VecDeque<u32>,
    late: VecDeque<u32>,
    orphans: Orphans,
    /// Since when the log has been waiting for a slot that only late data and reads keep.
    held_since: Nanos,
    read_memory: ReadMemory,
    /// Memory that late data is set aside in, and large writes that may still come to need it.
    aside_pool: RunPool,
    large: Large,
    /// Pages of small writes that were set aside.
    small_pages: u32,
    in_capsule_bytes: u64,
    scatters: Slots<Scatter>,
    compares: CompareMemory,
    fused: Fused,
    commands: u32,

    // The log.
    log: SourceLog,
    persist: Persist,

    // The peer.
    peer: Peer,
    initiator: Initiator,
    secured: Secured,
    link: LinkSender,
    frame: FrameBuffer,
    outgoing: VecDeque<Item>,
    batch_times: VecDeque<(Lsn, Nanos)>,

    // What the peer's copy lacks, and what this node asks of it.
    sync: Sync,
    map: OutOfSync,
    /// Blocks of all volumes.
    map_blocks: u64,
    map_writer: MapWriter,
    recovery: RecoveryReport,
    asker: Asker<u64>,
    fetch: Option<Fetch>,
    fetch_pieces: VecDeque<Piece>,
    volume_sectors: Vec<u64>,

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
    catch_up: CatchUp,
    bring: Bring,
    /// What the running CP brings leaves the map when the peer has it.
    settles: bool,
    heal: Heal,
    mend: Mend,
    /// What volumes hold, as recent CPs wrote it.
    recent: RecentSums,
    /// The volume of the records that the list ends with.
    list_volume: VolumeId,
    between: Between,
    /// Errors of volumes, tried again.
    trouble: Trouble,
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
    fetched: u64,
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
    /// A source over what recovery found and its other drivers; the arena is as long as `layout` says.
    /// The new epoch is made durable by the first thing the shard does; until then no session is opened.
    pub fn new(
        config: SourceConfig,
        layout: Layout,
        arena: Arc<Arena>,
        recovered: Recovered<D>,
        map: OutOfSync,
        (port, streams): (P, S),
    ) -> Self {
        let Recovered { disk, superblock, log: found, report } = recovered;
        let mut map = map;
        if report.blank {
            for (volume, first, blocks) in &config.node.allocated {
                map.set_run(*volume, *first, *blocks);
            }
        }
        let node = config.node.clone();
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
        let hosts_max = usize::from(limits.controllers_max);
        let frame = FrameBuffer::new(port.datagram_bytes_max());
        // Higher than any that left a trace.
        let epoch = superblock.epoch.max(found.epoch);
        let epoch = if Mutant::EpochKept.is_on() && !report.blank { epoch } else { epoch.next() };
        let batch_bytes_max = frame.body_bytes_max().min(4096);
        let writes_max = commands_max + WAITING_EXTRA;
        let memory = ArenaMemory(arena.clone());
        let log_config = SourceLogConfig {
            geometry,
            pair: node.pair,
            epoch,
            cp: superblock.cp,
            last_lsn: superblock.last_lsn,
            entries_max: writes_max,
            batch_bytes_max,
            late_after: LATE_AFTER,
            // Nothing carries this epoch before it is durable; and SYNC-2.
            opened: Mutant::OpenedUnmet.is_on(),
            durable_there: superblock.last_lsn,
        };
        // What was completed alone before is readable again when the peer has it, or when this node is alone again: nothing is shown that one
        // loss could take away (I3).
        let log = SourceLog::recovered(log_config, &found, &memory);
        let volume_sectors = node.volume_sectors();
        let map_blocks = volume_sectors.iter().map(|sectors| sectors.div_ceil(8)).sum();
        let catch_up_blocks = layout.catch_up.blocks;
        // Every write job: a header, a descriptor and at most one run per entry; every read: one operation per block.
        // A CP: its own, the blocks it brings, pages of the map; between CPs one.
        let out_of_sync = superblock.state == disk::SyncState::OutOfSync;
        let sync = Sync::new(&config, &found, out_of_sync, superblock.clean);
        let cp_ops_max = 97 + catch_up_blocks as usize + layout.map.blocks as usize;
        let disk_ops_max =
            2 * JOBS_MAX + writes_max + commands_max * reads::READ_OPS_MAX + cp_ops_max;
        let core = Core {
            memory,
            arena,
            geometry,
            disks: Disks::new(disk, disk_ops_max),
            completions: Vec::with_capacity(ibid_driver::DEPTH_MAX),
            superblock: SuperblockWriter::new(superblock, layout.superblock),
            epoch,
            fault: None,
            fault_since: Nanos::ZERO,
            now: Nanos::ZERO,
            clients: Clients::new(TargetConfig { access: AnaState::Optimized, ..config.target }),
            serves: true,
            queue_depth: usize::from(limits.queue_depth_max),
            command_table: vec![CommandTable::default(); commands_max],
            writes: Slots::new(writes_max, WriteSlot::EMPTY),
            reads: Slots::new(commands_max, ReadSlot::EMPTY),
            waiting_writes: VecDeque::with_capacity(writes_max),
            waiting_reads: VecDeque::with_capacity(commands_max),
            late: VecDeque::with_capacity(writes_max),
            orphans: Orphans::new(writes_max),
            held_since: Nanos::ZERO,
            read_memory: ReadMemory::new(layout.reads, hosts_max),
            aside_pool: RunPool::new(layout.staging),
            large: Large::new(layout.staging.blocks, hosts_max, writes_max),
            small_pages: 0,
            in_capsule_bytes: u64::from(limits.in_capsule_bytes),
            scatters: Slots::new(reads::SCATTERS_MAX, Scatter::EMPTY),
            compares: CompareMemory::new(
                layout.compares,
                commands_max,
                hosts_max,
                limits.in_capsule_bytes,
            ),
            fused: Fused::new(writes_max),
            commands: 0,
            log,
            persist: Persist::new(geometry, node.to_disk),
            sync,
            map,
            map_blocks,
            map_writer: MapWriter::new(node.pair, geometry.map_at(), layout.map),
            recovery: report,
            asker: Asker::default(),
            fetch: None,
            fetch_pieces: VecDeque::with_capacity(fetch::PIECES_MAX),
            peer: Peer::new(node.seed),
            initiator: node.security.initiator(),
            secured: Secured::new(&node.security, ibid_secure::Side::Source),
            link: LinkSender::new(),
            frame,
            outgoing: VecDeque::with_capacity(send::OUTGOING_MAX),
            batch_times: VecDeque::with_capacity(JOBS_MAX),
            cp_phase: CpPhase::Idle,
            cp_full: config.cp_full,
            cp_interval: config.cp_interval,
            cp_due: Nanos::NEVER,
            cp_began: Nanos::ZERO,
            lister: Lister::new(geometry.segment_blocks),
            list: CpList::new(geometry.segment_blocks, catch_up_blocks),
            hashed: 0,
            list_crc: ibid_wire::Crc32c::new(),
            list_chain: ChainDigest::new(&[0; 32], CpId::new(0)),
            apply: Apply::new(Side::Source, geometry, catch_up_blocks, volume_sectors.clone()),
            volume_sectors,
            gate: ReadGate::default(),
            open: None,
            list_sent: None,
            blocks: BlockSender::new(geometry.segment_blocks, catch_up_blocks),
            catch_up: CatchUp::new(catch_up_blocks),
            bring: Bring::default(),
            settles: true,
            heal: Heal::new(),
            mend: Mend::default(),
            recent: RecentSums::default(),
            list_volume: VolumeId::new(0),
            between: Between::new(layout.answers, commands_max),
            trouble: Trouble::default(),
            peer_has_cp: false,
            waiters: VecDeque::with_capacity(WAITERS_MAX),
            stop_wait: config.stop_wait,
            stopping: None,
            stopped: None,
            cp_sum: CpCounters::default(),
            cp_last: Nanos::ZERO,
            volumes: vec![VolumeCounters::default(); node.volumes.len()],
            times: StageTimes::new(),
            fetched: 0,
            full_waits: 0,
            full_wait: Nanos::ZERO,
            copied: [0; 4],
            rx_refused: 0,
            port_counters: PortCounters::default(),
            layout,
        };
        Self { port, streams, core }
    }

    /// Has what hosts' authentications want computed done in this room. Without one they all fail.
    pub fn authenticate_in(&mut self, room: Arc<AuthRoom>) {
        self.core.clients.auth = Some(room);
    }

    /// The streams, for whoever must know where they listen.
    pub fn streams(&self) -> &S {
        &self.streams
    }

    /// Writes complete on this node alone.
    pub fn is_alone(&self) -> bool {
        self.core.is_alone()
    }
}

impl<P: Port, D: Disk, S: Streams> Shard for Source<P, D, S> {
    fn turn(&mut self, now: Nanos) -> bool {
        let Self { port, streams, core } = self;
        core.now = now;
        let mut busy = core.poll_clients(now, Nanos::ZERO, streams);
        core.begin(now);
        core.access_turn(now);
        busy |= core.receive_clients(now, streams);
        busy |= port.receive(RECEIVE_FRAMES, &mut |datagram| core.frame_came(now, datagram)) > 0;
        busy |= core.poll_disks(now);
        core.tick_clients(now);
        busy |= core.retry_waiting(now);
        busy |= core.fused_turn(now);
        core.expire_writes(now);
        core.log.expire_late(now);
        busy |= core.close_batches(now);
        busy |= core.sync_turn(now);
        busy |= core.fetch_turn(now);
        busy |= core.between_turn(now);
        busy |= core.point_turn(now);
        busy |= core.mend_turn(now);
        busy |= core.pump_link(now, port);
        // A batch that became durable may complete writes, whose answers leave in this same turn.
        busy |= core.commit(now);
        busy |= core.fused_turn(now);
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
            CommandKind::Verify { volume, repair, progress } => {
                self.core.want_verify(now, volume, repair, progress)
            }
            CommandKind::VerifyProgress(progress) => self.core.tell_verify(now, progress),
            CommandKind::VerifyStop(progress) => {
                self.core.stop_verify(now);
                self.core.tell_verify(now, progress)
            }
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
        let Self { streams, core, .. } = self;
        core.poll_clients(core.now, span, streams);
    }
}

impl<D: Disk> Core<D> {
    /// What must happen once, before anything else: the new epoch becomes durable.
    fn begin(&mut self, now: Nanos) {
        if !self.has_epoch() && self.superblock.is_idle() && self.fault.is_none() {
            let (epoch, end, was_clean) = (self.epoch, self.log.batched(), self.sync.was_clean);
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.epoch = epoch;
                if was_clean {
                    // Stopped in good order: there is nothing to agree on first.
                    next.opened = epoch;
                    next.agreed = end;
                }
                next.clean &= Mutant::CleanForGood.is_on();
            });
        }
        if self.cp_due == Nanos::NEVER {
            self.cp_due = now.after(self.cp_interval);
            // From now on the peer has its time to be heard of.
            self.sync.sought_since = now;
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
                Work::Read { .. }
                | Work::Heal
                | Work::Mend
                | Work::Bring { .. }
                | Work::Between
                | Work::Erase
                | Work::EraseFlush => {}
                Work::LogWrite { .. }
                | Work::LogFlush
                | Work::Superblock
                | Work::SuperblockFlush
                | Work::MapWrite { .. }
                | Work::MapFlush => {
                    self.persist.fail();
                    self.set_fault(now, Fault::Log(code));
                }
                Work::Apply | Work::Block { .. } | Work::Answer { .. } => {
                    self.trouble.note(now, code);
                }
            }
        }
        // After a failed flush a later one that succeeds proves nothing about what was written before it.
        let trusted = result.is_ok() && !matches!(self.fault, Some(Fault::Log(_)));
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
            Work::Apply if result.is_ok() => self.apply.completed(),
            // The CP is applied again from its first record; what it covers stays in the log until that succeeded (I19).
            Work::Apply => self.apply.failed(),
            Work::Superblock if trusted => self.superblock.written(&mut self.disks),
            Work::SuperblockFlush if trusted => self.superblock.flushed(&mut self.disks),
            Work::MapWrite { slot } if trusted => self.map_writer.written(slot),
            Work::MapFlush if trusted => self.map_writer.flushed(),
            Work::Superblock | Work::SuperblockFlush | Work::MapWrite { .. } | Work::MapFlush => {}
            Work::Bring { page } => self.brought(now, page, result),
            Work::Heal => self.reread(now, result.is_ok()),
            Work::Mend => self.mended(now, result.is_ok()),
            Work::Between => self.between.disk_done(result.is_ok()),
            Work::Erase | Work::EraseFlush => panic!("a source drops nothing: {work:?}"),
            Work::Block { page } => panic!("a source stages no blocks, page {page}"),
            Work::Answer { slot } => panic!("a source answers no questions, slot {slot}"),
        }
    }

    fn fill(&self, now: Nanos, snapshot: &mut Snapshot, port: &impl Port) {
        let (oldest, next) = self.log.segments();
        let used = (next.get() - oldest.get()) as u32;
        let open = u32::from(!self.log.is_full());
        snapshot.epoch = self.epoch;
        (snapshot.peer, snapshot.silent) = self.peer.state(now);
        snapshot.fault = self.fault;
        snapshot.fault_age = self.fault.map_or(Nanos::ZERO, |_| now.since(self.fault_since));
        snapshot.volume_retry = self.trouble.state(now);
        snapshot.sync = self.sync_state();
        snapshot.out_of_sync = self.is_out_of_sync();
        snapshot.mirror_usable = !self.sync.mirror_mixed;
        snapshot.log_open = self.log.is_open();
        snapshot.out_of_sync_blocks = self.map.blocks();
        snapshot.alone = self.sync.alone_since.map(|since| now.since(since));
        snapshot.expired = self.sync.expired;
        snapshot.fetched = self.fetched;
        snapshot.healed = self.heal.healed + self.mend.mended;
        snapshot.reads_from_peer = self.between.reads_from_peer;
        snapshot.rewritten = self.between.rewritten;
        snapshot.recovery = Some(self.recovery);
        snapshot.peer_memory = self.peer.in_memory;
        snapshot.peer_failed =
            self.peer.failed || self.peer.refusal() == Some(HelloRefusal::Failed);
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
        snapshot.probes = self.link.counters().probes;
        snapshot.rx_repeated = self.secured.counters.replayed;
        snapshot.rx_refused = self.rx_refused;
        snapshot.security = self.secured.counted();
        snapshot.copied = self.copied;
        let clients = &self.clients;
        snapshot.target =
            [clients.frontend.controllers_open(), clients.connections(), self.commands];
        snapshot.auth = clients.auth_counters();
        snapshot.take_tables(&self.volumes, &self.times);
        snapshot.take_access(Some(&clients.frontend), self.volumes.len());
    }

    pub(super) fn set_fault(&mut self, now: Nanos, fault: Fault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.fault_since = now;
        }
    }

    /// Nothing is under way that a frame of the peer could end.
    fn awaits_nothing(&self) -> bool {
        let settled =
            self.log.durable_there_lsn() >= self.log.last_lsn() && self.cp_phase == CpPhase::Idle;
        settled
            && self.peer.is_connected()
            && self.log.is_open()
            && self.map.is_empty()
            && self.link.is_quiet()
            && self.writes.used() == 0
            && self.between.is_quiet()
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
            && !self.between.is_busy()
            && self.persist.is_idle()
    }

    fn stop_turn<P: Port, S: Streams>(&mut self, now: Nanos, port: &mut P, streams: &mut S) {
        let Some(since) = self.stopping else { return };
        if self.stopped.is_some() {
            return;
        }
        let durable = self.superblock.durable;
        if self.is_quiet() && self.superblock.is_idle() {
            // SYNC-2: a log that was never opened has not met the peer's, which may hold more.
            let is_clean = self.has_epoch() && self.log.is_open() && self.fault.is_none();
            if is_clean && !durable.clean {
                self.superblock.begin(&self.arena, &mut self.disks, |next| next.clean = true);
                return;
            }
            self.say_goodbye(now, port);
            self.close_clients(now, streams);
            self.stopped = Some(if durable.clean { Stop::Clean } else { Stop::Unclean });
        } else if now.since(since) >= self.stop_wait || self.fault.is_some() {
            self.say_goodbye(now, port);
            self.close_clients(now, streams);
            self.stopped = Some(Stop::Unclean);
        } else {
            if now.since(since).get() >= self.stop_wait.get() / 2 {
                // Whoever still owes data for a write is not waited for: it was not acknowledged.
                self.close_clients(now, streams);
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
            link_bytes: self.cp_link_bytes(),
            reply: reply.clone(),
        });
        None
    }
}
