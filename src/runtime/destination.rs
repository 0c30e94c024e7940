//! The shard of a node that takes data from its source: frames into its own log, its own log onto its disk, CPs into its volumes.
//! It listens to nobody else. Everything it has to say is in reports.
//! DST-1  a report's `durable` is what the log device has flushed, contiguous from the last CP on.
//! DST-2  a packet is acknowledged only when each of its sections was placed, or was there already.

use crate::disks::{Disks, Work};
use crate::frames::{FrameBuffer, Session};
use crate::layout::{Layout, Span64};
use crate::memory::ArenaMemory;
use crate::persist::{JOBS_MAX, Persist};
use crate::shard::{Command, CommandKind, NodeConfig, Reply, Shard, Stop};
use crate::slots::Slots;
use crate::snapshot::{
    COPIED_RECEIVE, COPIED_STAGING, CpCounters, Fault, PeerState, Snapshot, Stage, StageTimes,
    VolumeCounters,
};
use crate::superblock::SuperblockWriter;
use crate::volumes::disk_op;
use ibid_driver::{Arena, Class, Disk, DiskError, DiskOp, Port};
use ibid_engine::link::Received;
use ibid_engine::log::{LogGeometry, Mirror, PlaceRefused, Placed};
use ibid_engine::point::{Apply, CpList, ListReceiver, ListState, Prove};
use ibid_units::{Epoch, Lsn, Nanos, PacketNumber, SECTOR_BYTES, Span};
use ibid_wire::disk::{Batch, ENTRY_BYTES, Superblock};
use ibid_wire::peer::{
    CpOpen, Frame, FrameKind, Hello, HelloAnswer, HelloRefusal, REFUSED_MAX, RecordKind, Report,
    Section, SectionKind,
};
use std::sync::Arc;

const RECEIVE_FRAMES: usize = 128;
/// Frames that may come before a report is sent whatever else.
const REPORT_EVERY_FRAMES: u32 = 16;
/// The longest a frame waits for its report when nothing new became durable.
const REPORT_AFTER: Nanos = Nanos::from_millis(1);
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
    fn frame_came(&mut self, now: Nanos, datagram: &[u8]) {
        let Ok(frame) = Frame::parse(datagram) else {
            self.rx_refused += 1;
            return;
        };
        let accepted = match frame.header.kind {
            FrameKind::Hello => self.hello_came(now, &frame),
            FrameKind::Sourced => self.sourced_came(now, &frame),
            FrameKind::Reported | FrameKind::HelloAnswer => false,
        };
        self.rx_refused += u64::from(!accepted);
    }

    fn hello_came(&mut self, now: Nanos, frame: &Frame<'_>) -> bool {
        let Some((section, body)) = frame.sections().next() else { return false };
        if section.kind != SectionKind::Hello || ibid_wire::crc32c(body) != section.crc {
            return false;
        }
        let Ok(hello) = Hello::parse(body) else { return false };
        let session = Session { id: frame.header.session, epoch: frame.header.epoch };
        self.heard = now;
        self.ever = true;
        let known = self.source.is_some_and(|source| source.session.id == session.id);
        if self.answering.is_some() {
            return true;
        }
        let number = frame.header.number.get();
        let same = self.source.filter(|source| source.instance == hello.instance);
        if !known && same.is_some_and(|source| number <= source.hello) {
            // Of a session that is over, late.
            return false;
        }
        if known {
            // Our answer was lost: say it again.
            let durable = self.superblock.durable;
            let answer = HelloAnswer {
                refusal: None,
                cp: durable.cp,
                chain: durable.chain,
                durable: self.mirror.durable(),
                segment_limit: self.mirror.segment_limit(),
            };
            self.answer = Some((session, answer));
            return true;
        }
        let refusal = self.judge(&hello, session.epoch);
        let durable = self.superblock.durable;
        let mut answer = HelloAnswer {
            refusal,
            cp: durable.cp,
            chain: durable.chain,
            durable: durable.last_lsn,
            segment_limit: self.mirror.segment_limit(),
        };
        if refusal.is_some() {
            self.answer = Some((session, answer));
            return true;
        }
        if same.is_some() {
            answer.durable = self.mirror.durable();
        }
        self.answering =
            Some((SourceNode { session, instance: hello.instance, hello: number }, answer));
        true
    }

    /// Whether a source is taken: the one decision about who may write here.
    fn judge(&self, hello: &Hello, epoch: Epoch) -> Option<HelloRefusal> {
        let mine = &self.superblock.durable;
        let count = usize::from(mine.volume_count);
        if hello.pair != mine.pair {
            return Some(HelloRefusal::Pair);
        }
        if epoch < mine.epoch {
            return Some(HelloRefusal::Epoch);
        }
        if (hello.segments, hello.segment_blocks) != (mine.segments, mine.segment_blocks) {
            return Some(HelloRefusal::Geometry);
        }
        if hello.volume_count != mine.volume_count
            || hello.volumes[..count] != mine.volumes[..count]
        {
            return Some(HelloRefusal::Volumes);
        }
        if self.fault.is_some() {
            return Some(HelloRefusal::Failed);
        }
        let same = self.source.is_some_and(|source| source.instance == hello.instance);
        let level = hello.cp == mine.cp && hello.chain == mine.chain;
        // A source that lives on may not have recorded yet the CP that is durable here: it still has that CP's segment.
        let one_ahead =
            hello.cp.next() == mine.cp && (same || self.source.is_none()) && epoch == mine.epoch;
        (!level && !one_ahead).then_some(HelloRefusal::History)
    }

    /// Takes the source that was judged, once its epoch is durable here.
    fn take_source(&mut self) {
        let Some((source, answer)) = self.answering else { return };
        if self.fault.is_some() {
            // Nothing becomes durable here any more; the next hello is told so.
            self.answering = None;
            return;
        }
        if !self.superblock.is_idle() {
            return;
        }
        let same = self.source.is_some_and(|old| old.instance == source.instance);
        if !same && answer.cp != self.superblock.durable.cp {
            // A CP of the source before became durable since the new one was judged: its next hello is judged afresh.
            self.answering = None;
            return;
        }
        // A new source's log begins after the last CP; what another one had sent is not its. It is dropped only when
        // nothing of it is on its way to the disk any more.
        if !same && (!self.persist.is_idle() || self.apply.is_busy()) {
            return;
        }
        if self.superblock.durable.epoch < source.session.epoch {
            let epoch = source.session.epoch;
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.epoch = epoch;
                next.clean = false;
            });
            return;
        }
        if !same {
            let last = self.superblock.durable.last_lsn;
            self.mirror.reset(last);
            if self.lists.state() != ListState::Idle {
                self.lists.reset();
                self.apply.stop();
            }
        }
        self.source = Some(source);
        self.received = Received::default();
        self.report_number = 0;
        self.frames_unreported = 0;
        self.gone = false;
        self.answering = None;
        self.answer = Some((source.session, answer));
    }

    fn sourced_came(&mut self, now: Nanos, frame: &Frame<'_>) -> bool {
        let header = frame.header;
        let Some(source) = self.source else { return false };
        if header.session != source.session.id
            || header.epoch != source.session.epoch
            || self.answering.is_some()
        {
            return false;
        }
        self.heard = now;
        let mut placed = true;
        for (section, body) in frame.sections() {
            if ibid_driver::checksum::crc32c(body) != section.crc {
                return false;
            }
            placed &= match section.kind {
                SectionKind::Log => self.log_came(&section, body),
                SectionKind::CpOpen => self.open_came(now, body),
                SectionKind::CpList => self.list_came(&section, body),
                SectionKind::CpBlock => self.block_came(&section, body),
                SectionKind::Ping => {
                    self.report_due = true;
                    true
                }
                SectionKind::Goodbye => {
                    self.gone = true;
                    true
                }
                SectionKind::Report | SectionKind::Hello | SectionKind::HelloAnswer => false,
            };
        }
        if placed {
            // DST-2.
            self.rx_repeated += u64::from(!self.received.insert(header.number.get()));
            if self.frames_unreported == 0 {
                self.unreported_since = now;
            }
            self.frames_unreported += 1;
        }
        placed
    }

    fn log_came(&mut self, section: &Section, body: &[u8]) -> bool {
        let segment = self.mirror.widen(section.segment);
        let structure = section.extra == 1;
        let length = body.len() as u32;
        match self.mirror.place(segment, section.place, length, structure) {
            Ok(Placed::New(span)) => {
                self.arena.copy_in(span.at, body);
                if structure {
                    // A structure's block is zero behind what it uses, as at the source.
                    let rest = Span::new(span.end(), 4096 - length);
                    self.arena.zero(rest);
                } else {
                    self.copied[COPIED_RECEIVE] += u64::from(length);
                }
                self.mirror.arrived(segment, section.place, length, structure, section.crc);
                true
            }
            // What is drained was here before: its packet is only late.
            Ok(Placed::Duplicate) | Err(PlaceRefused::Drained) => true,
            Err(PlaceRefused::NoSlot | PlaceRefused::Range) => false,
        }
    }

    fn open_came(&mut self, now: Nanos, body: &[u8]) -> bool {
        let Ok(open) = CpOpen::parse(body) else { return false };
        let durable = self.superblock.durable;
        if open.cp > durable.cp && self.lists.open().is_none() {
            self.cp_began = now;
        }
        let accepted = self.lists.announced(&open, durable.cp, &durable.chain, &mut self.list);
        if !accepted {
            // Not the CP that follows, or of another history: saying nothing would have it sent for ever.
            self.fault.get_or_insert(Fault::Peer);
            self.report_due = true;
        }
        accepted
    }

    fn list_came(&mut self, section: &Section, body: &[u8]) -> bool {
        let cp = self.mirror.widen(section.segment);
        if cp <= self.superblock.durable.cp {
            return true;
        }
        self.lists.stretch(cp, section.place, body, &mut self.list)
    }

    fn block_came(&mut self, section: &Section, body: &[u8]) -> bool {
        let cp = self.mirror.widen(section.segment);
        if cp <= self.superblock.durable.cp {
            return true;
        }
        let sector = SECTOR_BYTES as u32;
        let length = body.len() as u32;
        if self.apply.cp() != cp
            || !length.is_multiple_of(sector)
            || length > 8 * sector
            || section.extra >= 8
        {
            return false;
        }
        let (first, count) = (section.extra as u8, (length / sector) as u8);
        if self.apply.block_is_here(section.place, first, count) {
            return true;
        }
        if self.staging_slots.is_full() {
            return false;
        }
        let Some(want) = self.apply.block_came(&self.list, section.place, first, count) else {
            return false;
        };
        let page = self.staging_slots.take(()).expect("there was a free one");
        self.staged += 1;
        let span = Span::new(self.staging.at + u64::from(page) * 4096, length);
        self.arena.copy_in(span.at, body);
        self.copied[COPIED_STAGING] += u64::from(length);
        let file = crate::disks::volume_file(want.volume);
        self.disks
            .submit(DiskOp::Write { file, at: want.first.bytes(), span }, Work::Block { page });
        self.cp_sum.blocks += 1;
        true
    }

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

    /// Persists batches that have become whole.
    fn take_batches(&mut self, now: Nanos) -> bool {
        let mut any = false;
        let disk_ops = BATCH_OPS_MAX + OTHER_OPS_MAX + self.staging.blocks as usize;
        while self.persist.has_room() && self.disks.room() > disk_ops && self.fault.is_none() {
            match self.mirror.next_ready(&self.memory) {
                Ok(Some(batch)) => {
                    any = true;
                    self.count_entries(self.geometry.span(batch.segment, batch.block, 1));
                    self.persist.begin(now, &self.arena, &mut self.disks, batch);
                }
                Ok(None) => break,
                Err(_) => {
                    // The source's log contradicts itself: nothing of it is believed from here on.
                    self.fault = Some(Fault::Peer);
                    self.report_due = true;
                }
            }
        }
        let Self { persist, disks, mirror, times, report_due, .. } = self;
        persist.turn(now, disks, |last, took| {
            mirror.set_durable(last);
            times.record(Stage::Persist, took);
            *report_due = true;
        });
        any
    }

    fn count_entries(&mut self, span: Span) {
        let bytes = self.arena.bytes(span);
        let Ok(batch) = Batch::parse(&bytes) else { return };
        for (entry, _) in batch.entries() {
            let volume = &mut self.volumes[usize::from(entry.volume.get())];
            volume.writes += 1;
            volume.write_bytes += entry.sectors.bytes();
        }
    }

    fn point_turn(&mut self, now: Nanos) -> bool {
        if self.lists.state() == ListState::Wrong {
            self.fault.get_or_insert(Fault::Peer);
            return false;
        }
        let Some(&open) = self.lists.open() else { return false };
        if self.lists.state() != ListState::Whole || self.fault.is_some() {
            return false;
        }
        if self.apply.cp() != open.cp {
            return self.begin_apply(&open);
        }
        let scanned = self.apply.is_scanned(&self.list);
        let mut busy = false;
        while let Some(op) = self.apply.next_op(&self.list, &self.mirror.pages) {
            self.disks.submit(disk_op(&self.geometry, open.cp, op), Work::Apply);
            busy = true;
        }
        if !scanned {
            self.report_due |= self.apply.is_scanned(&self.list);
            busy = true;
        }
        let recorded = self.superblock.durable.cp == open.cp;
        if self.apply.is_done() && !recorded && self.superblock.is_idle() {
            self.superblock.begin(&self.arena, &mut self.disks, |next| {
                next.cp = open.cp;
                next.last_lsn = open.last_lsn;
                next.chain = open.chain_after;
                next.clean = false;
            });
            return true;
        }
        if recorded {
            self.mirror.drained(open.cp);
            self.cp_sum.count += 1;
            self.cp_sum.refused += if open.full { 0 } else { self.apply.refused_count() };
            self.cp_last = now.since(self.cp_began);
            self.apply.stop();
            self.lists.reset();
            self.report_due = true;
            return true;
        }
        busy
    }

    /// Starts to apply a list that is whole, once the log here holds what it refers to (MIR-3).
    fn begin_apply(&mut self, open: &CpOpen) -> bool {
        if !self.mirror.holds(open.cp, open.batches, open.last_lsn) || self.apply.is_busy() {
            return false;
        }
        let prove = if open.full { Prove::Nothing } else { Prove::References };
        if !self.apply.start(open.cp, &self.list, prove) {
            self.fault = Some(Fault::Peer);
            return true;
        }
        self.staged = 0;
        for index in 0..self.list.len() {
            match self.list.get(index).map(|record| (record.kind, record.pages())) {
                Some((RecordKind::Reference(_), pages)) => {
                    self.cp_sum.references += 1;
                    self.cp_sum.referenced_blocks += u64::from(pages);
                }
                Some((RecordKind::Zeroes | RecordKind::Deallocate, _)) => self.cp_sum.opcodes += 1,
                Some((RecordKind::Block | RecordKind::Volume(_), _)) | None => {}
            }
        }
        true
    }

    /// Answers hellos and reports what has changed.
    fn speak<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
        self.take_source();
        if let Some((session, answer)) = self.answer {
            self.frame.clear();
            self.frame.set_body(SectionKind::HelloAnswer, 0, 0, |out| answer.emit(out));
            let number = PacketNumber::new(0);
            let (head, spans) = self.frame.seal(FrameKind::HelloAnswer, session, number);
            if port.send(Class::Control, head, spans).is_ok() {
                self.answer = None;
            }
            return true;
        }
        let waited = self.frames_unreported > 0 && now.since(self.unreported_since) >= REPORT_AFTER;
        if !(self.report_due || waited || self.frames_unreported >= REPORT_EVERY_FRAMES) {
            return false;
        }
        let Some(source) = self.source.filter(|_| self.answering.is_none()) else {
            self.report_due = false;
            return false;
        };
        let report = self.report(now);
        self.frame.clear();
        self.frame.set_body(SectionKind::Report, 0, 0, |out| report.emit(out));
        let number = PacketNumber::new(self.report_number);
        let (head, spans) = self.frame.seal(FrameKind::Reported, source.session, number);
        if port.send(Class::Control, head, spans).is_err() {
            return false;
        }
        self.report_number += 1;
        self.report_due = false;
        self.frames_unreported = 0;
        true
    }

    fn report(&self, now: Nanos) -> Report {
        let durable = self.superblock.durable;
        let mut report = Report::new(
            self.mirror.durable(),
            self.mirror.segment_limit(),
            durable.cp,
            durable.chain,
        );
        report.failed = self.fault.is_some();
        let delay =
            if self.frames_unreported > 0 { now.since(self.unreported_since) } else { Nanos::ZERO };
        report.delay_micros = (delay.get() / 1000).min(u64::from(u32::MAX)) as u32;
        self.received.report(&mut report);
        if let Some(open) = self.lists.open()
            && self.apply.cp() == open.cp
            && self.apply.is_scanned(&self.list)
        {
            report.cp_listed = open.cp;
            let free = self.staging.blocks - self.staging_slots.used() as u32;
            report.block_credit = self.staged + free;
            self.apply.refused(&self.list, REFUSED_MAX, |record| {
                report.push_refused(record);
            });
        }
        report
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
