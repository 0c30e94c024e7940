//! The shard of a node that takes data from its source: frames into its own log, its own log onto its disk, CPs into its volumes.
//! It listens to nobody else. Everything it has to say is in reports.
//! DST-1  a report's `durable` is what the log device has flushed, contiguous from the last CP on.

mod point;
mod receive;
mod session;

use crate::disks::{Disks, Work};
use crate::frames::{FrameBuffer, Session};
use crate::layout::{Layout, Span64};
use crate::memory::ArenaMemory;
use crate::persist::{JOBS_MAX, Persist};
use crate::shard::{Command, CommandKind, NodeConfig, Reply, Shard, Stop};
use crate::slots::Slots;
use crate::snapshot::{CpCounters, Fault, PeerState, Snapshot, Stage, StageTimes, VolumeCounters};
use crate::superblock::SuperblockWriter;
use ibid_driver::{Arena, Disk, DiskError, Port};
use ibid_engine::link::Received;
use ibid_engine::log::{LogGeometry, Mirror};
use ibid_engine::point::{Apply, CpList, ListReceiver};
use ibid_units::{Lsn, Nanos};
use ibid_wire::disk::{ENTRY_BYTES, Superblock};
use ibid_wire::peer::HelloAnswer;
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
pub struct Destination<P, D> {
    port: P,
    core: Core<D>,
}

#[derive(Clone, Copy, Debug)]
struct SourceNode {
    session: Session,
    instance: u64,
    /// Number of the hello that opened the session: one instance counts its hellos up.
    hello: u64,
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

    source: Option<SourceNode>,
    /// A hello that is answered when the epoch is durable.
    answering: Option<(SourceNode, HelloAnswer)>,
    answer: Option<(Session, HelloAnswer)>,
    received: Received,
    heard: Nanos,
    ever: bool,
    gone: bool,
    report_number: u64,
    frames_unreported: u32,
    unreported_since: Nanos,
    report_due: bool,

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

impl<P: Port, D: Disk> Destination<P, D> {
    /// A destination over its drivers. `superblock` is what [`crate::start`] gave; the arena is as long as `layout` says.
    pub fn new(
        node: NodeConfig,
        layout: Layout,
        arena: Arc<Arena>,
        superblock: Superblock,
        (port, disk): (P, D),
    ) -> Self {
        let geometry = layout.log;
        let frame = FrameBuffer::new(port.datagram_bytes_max());
        // Batches are begun only while there is room for what others may need: see `take_batches`.
        let disk_ops_max = 4 * JOBS_MAX + layout.staging.blocks as usize;
        let core = Core {
            memory: ArenaMemory(arena.clone()),
            arena,
            geometry,
            staging: layout.staging,
            staging_slots: Slots::new(layout.staging.blocks as usize, ()),
            staged: 0,
            disks: Disks::new(disk, disk_ops_max),
            completions: Vec::with_capacity(ibid_driver::DEPTH_MAX),
            fault: None,
            source: None,
            answering: None,
            answer: None,
            received: Received::default(),
            heard: Nanos::ZERO,
            ever: false,
            gone: false,
            report_number: 0,
            frames_unreported: 0,
            unreported_since: Nanos::ZERO,
            report_due: false,
            mirror: Mirror::new(
                geometry,
                node.pair,
                superblock.cp,
                superblock.last_lsn,
                node.volume_sectors(),
            ),
            persist: Persist::new(geometry, node.to_disk),
            lists: ListReceiver::new(geometry.segment_blocks),
            list: CpList::new(geometry.segment_blocks),
            apply: Apply::new(geometry.segment_blocks, node.volume_sectors()),
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
        Self { port, core }
    }
}

impl<P: Port, D: Disk> Shard for Destination<P, D> {
    fn turn(&mut self, now: Nanos) -> bool {
        let Self { port, core } = self;
        let mut busy =
            port.receive(RECEIVE_FRAMES, &mut |datagram| core.frame_came(now, datagram)) > 0;
        busy |= core.poll_disks(now);
        busy |= core.take_batches(now);
        busy |= core.point_turn(now);
        busy |= core.speak(now, port);
        core.stop_turn();
        port.flush();
        busy
    }

    fn command(&mut self, now: Nanos, command: Command) {
        let reply = match command.kind {
            CommandKind::Snapshot(mut snapshot) => {
                self.core.fill(now, &mut snapshot, &self.port);
                Reply::Snapshot(snapshot)
            }
            CommandKind::Cp => Reply::NotSource,
            CommandKind::Stop => Reply::Stopping,
        };
        // Whoever asked may have given up; nothing depends on the answer.
        drop(command.reply.try_send(reply));
    }

    fn begin_stop(&mut self, _now: Nanos) {
        self.core.stopping = true;
    }

    fn stopped(&self) -> Option<Stop> {
        self.core.stopped
    }

    fn wait(&mut self, span: Nanos) {
        // A DPDK port has nothing to wait on: the link is looked at again after the span.
        std::thread::sleep(std::time::Duration::from_nanos(span.get()));
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
                | Work::SuperblockFlush => {
                    self.persist.fail();
                    self.fault.get_or_insert(Fault::Log(code));
                }
                Work::Apply | Work::Block { .. } | Work::Read { .. } => {
                    self.fault.get_or_insert(Fault::Volume(code));
                }
            }
        }
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
            // After an error the CP never becomes done: the source keeps what it covers.
            Work::Apply if result.is_ok() => self.apply.completed(),
            Work::Block { page } => {
                self.staging_slots.give(page);
                if result.is_ok() {
                    self.apply.completed();
                }
            }
            Work::Superblock if result.is_ok() => self.superblock.written(&mut self.disks),
            Work::SuperblockFlush if result.is_ok() => self.superblock.flushed(),
            Work::Apply | Work::Superblock | Work::SuperblockFlush => {}
            Work::Read { slot } => panic!("a destination reads nothing, slot {slot}"),
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
        snapshot.rx_repeated = self.rx_repeated;
        snapshot.rx_refused = self.rx_refused;
        snapshot.copied = self.copied;
        snapshot.target = [0; 3];
        snapshot.take_tables(&self.volumes, &self.times);
    }
}
