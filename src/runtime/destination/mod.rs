//! The shard of a node that takes data from its source: frames into its own log, its own log onto its disk, CPs into its volumes.
//! It takes data from nobody else (DST-3, `standby`). Everything it has to say is in reports.
//! DST-1  a report's `durable` is what the log device has flushed, contiguous from the last CP on.

mod answers;
mod hellos;
mod point;
mod receive;
mod session;
mod standby;

pub(crate) use session::Batches;

use crate::auth::AuthRoom;
use crate::disks::{Disks, Work};
use crate::frames::{FrameBuffer, Session};
use crate::layout::{Layout, Span64};
use crate::memory::ArenaMemory;
use crate::persist::{JOBS_MAX, Persist};
use crate::recover::{Recovered, RecoveryReport};
use crate::secured::Secured;
use crate::shard::{Command, CommandKind, NodeConfig, Reply, Shard, Stop};
use crate::slots::Slots;
use crate::snapshot::{
    CpCounters, Fault, PeerState, Snapshot, Stage, StageTimes, SyncState, VolumeCounters,
};
use crate::superblock::SuperblockWriter;
use crate::trouble::Trouble;
use answers::AnswerSlot;
use hellos::Told;
use ibid_driver::{Arena, Disk, DiskError, Port, Streams};
use ibid_engine::frontend::TargetConfig;
use ibid_engine::link::Received;
use ibid_engine::log::{LogGeometry, Mirror};
use ibid_engine::point::{Apply, CpList, ListReceiver, Side};
use ibid_secure::{Handshake, Responder};
use ibid_units::{Lsn, Mutant, Nanos};
use ibid_wire::disk::{self, ENTRY_BYTES};
use ibid_wire::peer::{Ask, Hello};
use standby::Standby;
use std::collections::VecDeque;
use std::sync::Arc;

const RECEIVE_FRAMES: usize = 128;
/// Disk operations of one batch, at most: a header, a descriptor and a run per entry.
const BATCH_OPS_MAX: usize = 2 + 4096 / ENTRY_BYTES;
/// Disk operations of a CP (besides its blocks), of the superblock and of the log's flush.
const OTHER_OPS_MAX: usize = 96;
const _: () = assert!(4 * JOBS_MAX > BATCH_OPS_MAX + OTHER_OPS_MAX);
/// The source is away after this long without a frame.
const AWAY_AFTER: Nanos = Nanos::from_millis(2000);

/// The destination's shard.
pub struct Destination<P, D, S> {
    port: P,
    core: Core<D>,
    standby: Option<Standby<S>>,
}

#[derive(Clone, Copy, Debug)]
struct SourceNode {
    session: Session,
    instance: u64,
    /// Number of the hello that opened the session: one instance counts its hellos up.
    hello: u64,
}

/// A hello that is answered once what follows from it is durable.
#[derive(Clone, Copy, Debug)]
struct PendingHello {
    session: Session,
    number: u64,
    hello: Hello,
}

impl PendingHello {
    fn is(&self, session: Session, number: u64) -> bool {
        (self.session, self.number) == (session, number)
    }
}

/// How far the first batch of a dropped tail is destroyed on the log device: later, a higher `agreed` must not bring it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Erase {
    Idle,
    Writing,
    Flushing,
    Done,
}

struct Core<D> {
    arena: Arc<Arena>,
    memory: ArenaMemory,
    geometry: LogGeometry,
    staging: Span64,
    staging_slots: Slots<()>,
    staged: u32,
    disks: Disks<D>,
    completions: Vec<(Work, Result<(), DiskError>)>,
    superblock: SuperblockWriter,
    fault: Option<Fault>,
    fault_since: Nanos,
    /// Errors of volumes, tried again.
    trouble: Trouble,
    to_disk: bool,
    recovery: RecoveryReport,
    /// The newest entry of which there is proof that it was acknowledged.
    proved: Lsn,

    source: Option<SourceNode>,
    hello: Option<PendingHello>,
    /// The session for which the superblock is taking over its source's CP.
    adopting: Option<u64>,
    /// A batch that was dropped is being made unreadable on the device.
    erasing: Erase,
    responder: Responder,
    secured: Secured,
    /// What the answer to `hello` needs.
    handshake: Option<Handshake>,
    /// The newest hello that was acted on: instance and number.
    newest_hello: Option<(u64, u64)>,
    /// The newest hello that is to be told its cookie; others that come meanwhile come again.
    cookie_due: Option<(Session, u64)>,
    /// What the source was told that was taken, to be said again should it get lost; and what one was that was not.
    taken: Told,
    refused: Told,
    received: Received,
    heard: Nanos,
    ever: bool,
    gone: bool,
    report_number: u64,
    frames_unreported: u32,
    unreported_since: Nanos,
    report_due: bool,
    /// The source is asked to begin the session again: a page of its log came wrong.
    restart: bool,
    /// Times that happened since a batch was last taken.
    contradictions: u32,
    log_asks: VecDeque<Ask>,
    answers: Span64,
    answer_slots: Vec<AnswerSlot>,
    volume_sectors: Vec<u64>,

    mirror: Mirror,
    persist: Persist,

    lists: ListReceiver,
    list: CpList,
    apply: Apply,
    cp_began: Nanos,
    frame: FrameBuffer,

    stopping: bool,
    stopped: Option<Stop>,

    cp_sum: CpCounters,
    cp_last: Nanos,
    volumes: Vec<VolumeCounters>,
    times: StageTimes,
    copied: [u64; 4],
    rx_refused: u64,
    rx_repeated: u64,
}

impl<P: Port, D: Disk, S: Streams> Destination<P, D, S> {
    /// A destination over what recovery found and its link; the arena is as long as `layout` says. With a target hosts may connect, to
    /// volumes that are inaccessible here.
    pub fn new(
        node: NodeConfig,
        layout: Layout,
        arena: Arc<Arena>,
        recovered: Recovered<D>,
        port: P,
        target: Option<(TargetConfig, S)>,
    ) -> Self {
        let Recovered { disk, superblock, log: found, report, .. } = recovered;
        let memory = ArenaMemory(arena.clone());
        let volume_sectors = node.volume_sectors();
        let geometry = layout.log;
        let frame = FrameBuffer::new(port.datagram_bytes_max());
        // Batches are begun only while there is room for what others may need: see `take_batches`.
        let disk_ops_max = 4 * JOBS_MAX + layout.staging.blocks as usize;
        let core = Core {
            mirror: Mirror::recovered(geometry, node.pair, &found, &memory, volume_sectors.clone()),
            memory,
            arena,
            geometry,
            staging: layout.staging,
            staging_slots: Slots::new(layout.staging.blocks as usize, ()),
            staged: 0,
            disks: Disks::new(disk, disk_ops_max),
            completions: Vec::with_capacity(ibid_driver::DEPTH_MAX),
            fault: None,
            fault_since: Nanos::ZERO,
            trouble: Trouble::default(),
            to_disk: node.to_disk,
            recovery: report,
            proved: found.committed,
            source: None,
            hello: None,
            adopting: None,
            erasing: Erase::Idle,
            responder: node.security.responder(),
            secured: Secured::new(&node.security, ibid_secure::Side::Destination),
            handshake: None,
            newest_hello: None,
            cookie_due: None,
            taken: Told::new(),
            refused: Told::new(),
            received: Received::default(),
            heard: Nanos::ZERO,
            ever: false,
            gone: false,
            report_number: 0,
            frames_unreported: 0,
            unreported_since: Nanos::ZERO,
            report_due: false,
            restart: false,
            contradictions: 0,
            log_asks: answers::log_asks(),
            answers: layout.answers,
            answer_slots: vec![AnswerSlot::EMPTY; answers::slots_of(layout.answers.blocks)],
            persist: Persist::new(geometry, node.to_disk),
            lists: ListReceiver::new(geometry.segment_blocks, layout.catch_up.blocks),
            list: CpList::new(geometry.segment_blocks, layout.catch_up.blocks),
            apply: Apply::new(
                Side::Destination,
                geometry,
                layout.catch_up.blocks,
                volume_sectors.clone(),
            ),
            volume_sectors,
            cp_began: Nanos::ZERO,
            frame,
            stopping: false,
            stopped: None,
            cp_sum: CpCounters::default(),
            cp_last: Nanos::ZERO,
            volumes: vec![VolumeCounters::default(); node.volumes.len()],
            times: StageTimes::new(),
            copied: [0; 4],
            rx_refused: 0,
            rx_repeated: 0,
            superblock: SuperblockWriter::new(superblock, layout.superblock),
        };
        let standby = target.map(|(config, streams)| Standby::new(config, streams));
        Self { port, core, standby }
    }

    /// Has what hosts' authentications want computed done in this room. Without one they all fail.
    pub fn authenticate_in(&mut self, room: Arc<AuthRoom>) {
        if let Some(standby) = &mut self.standby {
            standby.authenticate_in(room);
        }
    }

    /// The streams, for whoever must know where they listen.
    pub fn streams(&self) -> Option<&S> {
        self.standby.as_ref().map(Standby::streams)
    }

    /// The newest entry that it holds durably with all before it.
    pub fn durable(&self) -> Lsn {
        self.core.mirror.durable()
    }
}

impl<P: Port, D: Disk, S: Streams> Shard for Destination<P, D, S> {
    fn turn(&mut self, now: Nanos) -> bool {
        let Self { port, core, standby } = self;
        let mut busy =
            port.receive(RECEIVE_FRAMES, &mut |datagram| core.frame_came(now, datagram)) > 0;
        busy |= core.poll_disks(now);
        busy |= core.take_batches(now);
        busy |= core.point_turn(now);
        busy |= core.speak(now, port);
        if let Some(standby) = standby {
            busy |= standby.turn(now);
        }
        core.stop_turn();
        if let (Some(_), Some(standby)) = (core.stopped, standby) {
            standby.close();
        }
        port.flush();
        busy
    }

    fn command(&mut self, now: Nanos, command: Command) {
        let reply = match command.kind {
            CommandKind::Snapshot(mut snapshot) => {
                self.core.fill(now, &mut snapshot, &self.port);
                let clients = self.standby.as_ref().map(Standby::clients);
                snapshot.target = clients.map_or([0; 3], |clients| {
                    [clients.frontend.controllers_open(), clients.connections(), 0]
                });
                let frontend = clients.map(|clients| &clients.frontend);
                snapshot.take_access(frontend, self.core.volumes.len());
                Reply::Snapshot(snapshot)
            }
            CommandKind::Cp
            | CommandKind::Verify { .. }
            | CommandKind::VerifyProgress(_)
            | CommandKind::VerifyStop(_) => Reply::NotSource,
            CommandKind::Stop => Reply::Stopping,
        };
        // Whoever asked may have given up; nothing depends on the answer.
        drop(command.reply.try_send(reply));
    }

    fn begin_stop(&mut self, _now: Nanos) {
        self.core.stopping = true;
        if let Some(standby) = &mut self.standby {
            standby.begin_stop();
        }
    }

    fn stopped(&self) -> Option<Stop> {
        self.core.stopped
    }

    fn wait(&mut self, span: Nanos) {
        // A DPDK port has nothing to wait on: the link is looked at again after the span.
        match &mut self.standby {
            Some(standby) => standby.wait(span),
            None => std::thread::sleep(std::time::Duration::from_nanos(span.get())),
        }
    }
}

impl<D: Disk> Core<D> {
    fn poll_disks(&mut self, now: Nanos) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        let count = self.disks.poll(|work, result| completions.push((work, result)));
        for (work, result) in completions.drain(..) {
            self.disk_done(now, work, result);
        }
        self.completions = completions;
        let Self { persist, disks, mirror, times, report_due, .. } = self;
        persist.turn(now, disks, |last, took| {
            mirror.set_durable(last);
            times.record(Stage::Persist, took);
            *report_due = true;
        });
        count > 0
    }

    fn disk_done(&mut self, now: Nanos, work: Work, result: Result<(), DiskError>) {
        if let Err(DiskError(code)) = result {
            self.report_due = true;
            match work {
                Work::LogWrite { .. }
                | Work::LogFlush
                | Work::Superblock
                | Work::SuperblockFlush
                | Work::Erase
                | Work::EraseFlush
                | Work::MapWrite { .. }
                | Work::MapFlush => {
                    self.persist.fail();
                    self.set_fault(now, Fault::Log(code));
                }
                Work::Apply | Work::Block { .. } => self.trouble.note(now, code),
                Work::Answer { .. }
                | Work::Read { .. }
                | Work::Bring { .. }
                | Work::Heal
                | Work::Mend
                | Work::Between => {}
            }
        }
        // After a failed flush a later one that succeeds proves nothing about what was written before it.
        let trusted = result.is_ok() && !matches!(self.fault, Some(Fault::Log(_)));
        match work {
            Work::LogWrite { job } => self.persist.written(job),
            Work::LogFlush => {
                let Self { persist, mirror, times, report_due, .. } = self;
                persist.flushed(now, |last, took| {
                    mirror.set_durable(last);
                    times.record(Stage::Persist, took);
                    *report_due = true;
                });
            }
            Work::Apply if result.is_ok() => self.apply.completed(),
            // The CP is applied again from its first record; the source keeps what it covers until that succeeded (I19).
            Work::Apply => self.apply.failed(),
            Work::Block { page } => {
                self.staging_slots.give(page);
                if result.is_ok() || Mutant::FailedBlockDone.is_on() {
                    self.apply.completed();
                } else {
                    self.apply.failed();
                }
            }
            Work::Superblock if trusted => self.superblock.written(&mut self.disks),
            Work::SuperblockFlush if trusted => self.superblock.flushed(&mut self.disks),
            Work::Erase if trusted => self.erased(),
            Work::EraseFlush if trusted => self.erasing = Erase::Done,
            Work::Superblock | Work::SuperblockFlush | Work::Erase | Work::EraseFlush => {}
            Work::Answer { slot } => self.answer_read(slot, result.is_ok()),
            Work::Read { .. }
            | Work::MapWrite { .. }
            | Work::MapFlush
            | Work::Bring { .. }
            | Work::Heal
            | Work::Mend
            | Work::Between => panic!("a destination does nothing of the kind: {work:?}"),
        }
    }

    pub(super) fn set_fault(&mut self, now: Nanos, fault: Fault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.fault_since = now;
            self.report_due = true;
        }
    }

    fn stop_turn(&mut self) {
        if !self.stopping || self.stopped.is_some() {
            return;
        }
        // What the log holds past the last CP is its source's to send again; nothing here must be finished but what is under way.
        if self.fault.is_some() {
            self.stopped = Some(Stop::Unclean);
        } else if self.disks.is_idle() && self.superblock.is_idle() && self.persist.is_idle() {
            let durable = self.superblock.durable;
            let whole = self.mirror.durable() == durable.last_lsn;
            if whole && !durable.clean {
                self.superblock.begin(&self.arena, &mut self.disks, |next| next.clean = true);
                return;
            }
            self.stopped = Some(if whole { Stop::Clean } else { Stop::Unclean });
        }
    }

    fn fill(&self, now: Nanos, snapshot: &mut Snapshot, port: &impl Port) {
        let durable = self.superblock.durable;
        let ahead = self.mirror.segments_in_use();
        snapshot.epoch = durable.epoch;
        let silent = now.since(self.heard);
        let away = silent >= AWAY_AFTER || self.gone;
        (snapshot.peer, snapshot.silent) = match (self.source.is_some(), away) {
            (false, _) => (PeerState::Connecting, Nanos::ZERO),
            (true, true) => (PeerState::Away, silent),
            (true, false) => (PeerState::Connected, Nanos::ZERO),
        };
        snapshot.fault = self.fault;
        snapshot.fault_age = self.fault.map_or(Nanos::ZERO, |_| now.since(self.fault_since));
        snapshot.volume_retry = self.trouble.state(now);
        snapshot.sync = match (durable.state, snapshot.peer) {
            (disk::SyncState::New, _) => SyncState::Never,
            (disk::SyncState::InSync, PeerState::Connected) => SyncState::InSync,
            (disk::SyncState::OutOfSync, PeerState::Connected) => SyncState::CatchingUp,
            (disk::SyncState::InSync | disk::SyncState::OutOfSync, _) => SyncState::Waiting,
        };
        snapshot.out_of_sync = durable.state != disk::SyncState::InSync;
        snapshot.mirror_usable = durable.state == disk::SyncState::InSync;
        snapshot.log_open = false;
        snapshot.out_of_sync_blocks = 0;
        snapshot.alone = None;
        snapshot.expired = 0;
        snapshot.fetched = 0;
        (snapshot.reads_from_peer, snapshot.rewritten) = (0, 0);
        snapshot.recovery = Some(self.recovery);
        snapshot.peer_memory = None;
        snapshot.peer_failed = false;
        let open = u32::from(ahead > 0);
        snapshot.segments = [self.geometry.segments - ahead, open, ahead - open];
        snapshot.lsn = self.mirror.ready();
        snapshot.lsn_durable = self.mirror.durable();
        snapshot.lsn_peer = Lsn::new(0);
        snapshot.full_waits = 0;
        snapshot.full_wait = Nanos::ZERO;
        snapshot.cp = durable.cp;
        snapshot.chain = durable.chain;
        snapshot.cp_running = self.lists.open().map(|open| open.cp);
        snapshot.cp_last = self.cp_last;
        snapshot.cp_sum = self.cp_sum;
        snapshot.port = port.counters();
        snapshot.datagram_bytes_max = port.datagram_bytes_max() as u32;
        snapshot.rtt = Nanos::ZERO;
        snapshot.tx_repeated = 0;
        // What came twice on the way was not opened again; what was sent again though it had come was.
        snapshot.rx_repeated = self.rx_repeated + self.secured.counters.replayed;
        snapshot.rx_refused = self.rx_refused;
        snapshot.security = self.secured.counted();
        snapshot.copied = self.copied;
        snapshot.take_tables(&self.volumes, &self.times);
    }
}
