//! Who may write here, and what is said back: hellos judged, sources taken, reports.

use super::{Core, SourceNode};
use crate::frames::Session;
use ibid_driver::{Class, Disk, Port};
use ibid_engine::link::Received;
use ibid_engine::point::ListState;
use ibid_units::{Epoch, Nanos, PacketNumber};
use ibid_wire::peer::{
    Frame, FrameKind, Hello, HelloAnswer, HelloRefusal, REFUSED_MAX, Report, SectionKind,
};

/// Frames that may come before a report is sent whatever else.
const REPORT_EVERY_FRAMES: u32 = 16;
/// The longest a frame waits for its report when nothing new became durable.
const REPORT_AFTER: Nanos = Nanos::from_millis(1);

impl<D: Disk> Core<D> {
    pub(super) fn frame_came(&mut self, now: Nanos, datagram: &[u8]) {
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

    pub(super) fn hello_came(&mut self, now: Nanos, frame: &Frame<'_>) -> bool {
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
    pub(super) fn judge(&self, hello: &Hello, epoch: Epoch) -> Option<HelloRefusal> {
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
    pub(super) fn take_source(&mut self) {
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

    /// Answers hellos and reports what has changed.
    pub(super) fn speak<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
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

    pub(super) fn report(&self, now: Nanos) -> Report {
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
}
