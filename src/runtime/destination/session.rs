//! Who may write here, and what is said back: hellos judged, sources taken, reports.

use super::{Core, Erase, PendingHello, SourceNode};
use crate::disks::{LOG_FILE, Work};
use crate::frames::Session;
use ibid_driver::{Class, Disk, DiskOp, Port};
use ibid_engine::Memory;
use ibid_engine::link::Received;
use ibid_engine::log::LogGeometry;
use ibid_engine::point::ListState;
use ibid_engine::role::{self, BatchEnd, LogPlan, Meeting, OwnLog, meet};
use ibid_units::{CpId, LogBlock, Lsn, Mutant, Nanos, PacketNumber};
use ibid_wire::disk::{Batch, SyncState};
use ibid_wire::peer::{
    DestinationStanding, FrameKind, Held, HeldList, Hello, HelloAnswer, HelloRefusal, Identity,
    Outcome, REFUSED_MAX, Report, SectionKind, volumes_digest,
};

/// Frames that may come before a report is sent whatever else.
const REPORT_EVERY_FRAMES: u32 = 16;
/// The longest a frame waits for its report when nothing new became durable.
const REPORT_AFTER: Nanos = Nanos::from_millis(1);

/// Batches of a node's own log, where a standing's numbers do not suffice.
pub(crate) struct Batches<'a, M> {
    pub(crate) geometry: LogGeometry,
    pub(crate) memory: &'a M,
}

impl<M: Memory> OwnLog for Batches<'_, M> {
    fn batch(&self, segment: CpId, count: u32) -> BatchEnd {
        assert!(count > 0, "batches are counted from 1");
        let block: LogBlock = self.geometry.batch_block(count - 1);
        self.memory.read(self.geometry.span(segment, block, 1), |bytes| {
            let batch = Batch::parse(bytes).expect("a batch that is held checks");
            let last = batch.header.first_lsn.get() + u64::from(batch.entry_count) - 1;
            BatchEnd { last: Lsn::new(last), crc: batch.crc }
        })
    }
}

impl<D: Disk> Core<D> {
    /// Where this node stands.
    fn standing(&self) -> DestinationStanding {
        let durable = &self.superblock.durable;
        let (limit, mut held) = (self.mirror.segment_limit(), HeldList::EMPTY);
        let newest = (durable.cp.next().get()..=limit.get())
            .rev()
            .find(|segment| self.mirror.held(CpId::new(*segment)).is_some())
            .unwrap_or(durable.cp.get());
        for segment in (durable.cp.next().get()..=newest).map(CpId::new) {
            held.push(self.mirror.held(segment).map_or(Held::default(), |one| Held {
                epoch: one.epoch,
                batches: one.batches,
                crc: one.crc,
            }));
        }
        DestinationStanding {
            epoch: durable.epoch,
            state: durable.state,
            fresh: durable.fresh,
            cp: durable.cp,
            last_lsn: durable.last_lsn,
            chain: durable.chain,
            end: self.mirror.durable(),
            committed: self.proved,
            base_cp: durable.peer_cp,
            base_chain: durable.peer_chain,
            held,
        }
    }

    /// Whether a source is taken: the one decision about who may write here.
    fn judge(&self, hello: &Hello) -> Meeting {
        let durable = &self.superblock.durable;
        let identity = Identity {
            pair: durable.pair,
            volumes: volumes_digest(&durable.volumes[..usize::from(durable.volume_count)]),
            segments: durable.segments,
            segment_blocks: durable.segment_blocks,
        };
        let standing = self.standing();
        let own = role::Destination {
            identity: &identity,
            failed: self.fault.is_some(),
            standing: &standing,
        };
        let log = Batches { geometry: self.geometry, memory: &self.memory };
        match meet(&hello.standing, own, &log) {
            Meeting::Refuse(HelloRefusal::Pair) => Meeting::Refuse(HelloRefusal::Pair),
            _ if hello.encrypted != self.secured.encrypts() => {
                Meeting::Refuse(HelloRefusal::Encryption)
            }
            meeting => meeting,
        }
    }

    fn answer(&mut self, verdict: Result<Outcome, HelloRefusal>) {
        let standing = self.standing();
        let (limit, in_memory) = (self.mirror.segment_limit(), !self.to_disk);
        let Some(PendingHello { session, number, .. }) = self.hello.take() else { return };
        let handshake = self.handshake.take();
        // The source that was taken is still owed its own answer when another is refused.
        match verdict {
            Ok(_) => {
                let answer = HelloAnswer { verdict, standing, segment_limit: limit, in_memory };
                self.taken.tell(session, number, answer, handshake);
            }
            Err(refusal) => {
                let answer = HelloAnswer::refused(refusal, &standing, limit, in_memory);
                self.refused.tell(session, number, answer, handshake);
            }
        }
    }

    /// Judges a hello, and takes the source once what follows from it is durable here.
    pub(super) fn take_source(&mut self) {
        let Some(PendingHello { session, number, hello }) = self.hello else { return };
        if self.fault.is_some() {
            self.adopting = None;
            self.answer(Err(HelloRefusal::Failed));
            return;
        }
        // What is under way of the session before comes to its end first: then this node's standing is what its disks hold.
        if !self.superblock.is_idle()
            || !self.persist.is_idle()
            || self.apply.is_busy()
            || self.is_recorded()
        {
            return;
        }
        let said = &hello.standing;
        if self.adopting == Some(session.id) {
            // The superblock says so already: now the log.
            self.mirror.adopt(said.cp, said.last_lsn);
            self.adopting = None;
            self.take(session, number, &hello, Outcome::CatchUp);
            return;
        }
        let log = match self.judge(&hello) {
            Meeting::Refuse(refusal) => {
                self.answer(Err(refusal));
                return;
            }
            Meeting::CatchUp { base_cp, base_chain } => {
                self.adopting = Some(session.id);
                self.agree(&hello, Some((base_cp, base_chain)));
                return;
            }
            Meeting::Salvage { .. } => {
                // The source takes what it lacks and says hello again: nothing follows from this but who may write.
                if self.superblock.durable.epoch < said.epoch {
                    self.superblock.begin(&self.arena, &mut self.disks, |next| {
                        next.epoch = said.epoch;
                        next.clean = false;
                    });
                    return;
                }
                self.take(session, number, &hello, Outcome::Salvage);
                return;
            }
            Meeting::Level { log, .. } => log,
        };
        if let LogPlan::Rollback { to } = log
            && !self.erase_after(to)
        {
            return;
        }
        if !self.has_agreed(&hello) {
            self.agree(&hello, None);
            return;
        }
        let outcome = match log {
            LogPlan::Continue { .. } => Outcome::Continue,
            LogPlan::Fetch { .. } => Outcome::Fetch,
            LogPlan::Rollback { to } => {
                if !Mutant::RollbackForgotten.is_on() {
                    self.mirror.truncate(&self.memory, to);
                }
                self.erasing = Erase::Idle;
                Outcome::Rollback
            }
        };
        self.take(session, number, &hello, outcome);
    }

    /// Destroys the first batch after `lsn` on the log device; true once that is durable. Those behind it follow nothing then.
    fn erase_after(&mut self, lsn: Lsn) -> bool {
        match self.erasing {
            Erase::Writing | Erase::Flushing => return false,
            Erase::Done => return true,
            Erase::Idle if Mutant::RollbackUnerased.is_on() => return true,
            Erase::Idle => {}
        }
        let Some((segment, block)) = self.mirror.first_batch_after(&self.memory, lsn) else {
            return true;
        };
        self.erasing = Erase::Writing;
        let at = self.geometry.device_at(segment, block);
        let len = ibid_units::BLOCK_BYTES;
        self.disks.submit(DiskOp::Zero { file: LOG_FILE, at, len }, Work::Erase);
        false
    }

    pub(super) fn erased(&mut self) {
        self.erasing = Erase::Flushing;
        self.disks.submit(DiskOp::Flush { file: LOG_FILE }, Work::EraseFlush);
    }

    fn take(&mut self, session: Session, number: u64, hello: &Hello, outcome: Outcome) {
        let same = self.source.is_some_and(|old| old.instance == hello.instance);
        if !same {
            // Pieces of batches that never became whole are another source's: at their places this one may have other bytes.
            self.mirror.truncate(&self.memory, self.mirror.ready());
        }
        // A list of the same instance and CP is the same list; any other is announced anew.
        let anew = !same || outcome == Outcome::CatchUp;
        if anew && self.lists.state() != ListState::Idle {
            self.lists.reset();
            self.apply.stop();
        }
        self.source = Some(SourceNode { session, instance: hello.instance, hello: number });
        // Its keys are made with the answer.
        self.secured.end();
        self.received = Received::default();
        self.report_number = 0;
        self.frames_unreported = 0;
        self.gone = false;
        self.restart = false;
        self.forget_asks();
        self.answer(Ok(outcome));
    }

    /// What of a source must be durable here before it is taken, is.
    fn has_agreed(&self, hello: &Hello) -> bool {
        let (durable, said) = (&self.superblock.durable, &hello.standing);
        (durable.epoch, durable.opened, durable.agreed) == (said.epoch, said.opened, said.agreed)
    }

    /// Writes what follows from a meeting: who may write, which entries of earlier ones count, and, where the volumes are to be caught up,
    /// that they are no state of any time from now on.
    fn agree(&mut self, hello: &Hello, adopt: Option<(CpId, [u8; 32])>) {
        let said = hello.standing;
        self.superblock.begin(&self.arena, &mut self.disks, |next| {
            if !Mutant::DestinationEpochForgotten.is_on() {
                next.epoch = said.epoch;
            }
            next.opened = said.opened;
            next.agreed = said.agreed;
            next.clean = false;
            if let Some((base_cp, base_chain)) = adopt {
                (next.cp, next.last_lsn, next.chain) = (said.cp, said.last_lsn, said.chain);
                if !Mutant::AdoptInSync.is_on() {
                    next.state = SyncState::OutOfSync;
                }
                (next.peer_cp, next.peer_chain) = (base_cp, base_chain);
            }
        });
    }

    /// Answers hellos and reports what has changed.
    pub(super) fn speak<P: Port>(&mut self, now: Nanos, port: &mut P) -> bool {
        self.take_source();
        if self.secured.is_used_up() && !self.restart {
            // The source has the next session with other keys.
            self.restart = true;
            self.report_due = true;
        }
        // Whoever says a hello over and over keeps nobody else from being answered.
        let told = self.speak_to_hellos(now, port);
        if self.speak_answers(port) {
            return true;
        }
        let waited = self.frames_unreported > 0 && now.since(self.unreported_since) >= REPORT_AFTER;
        if !(self.report_due || waited || self.frames_unreported >= REPORT_EVERY_FRAMES) {
            return told;
        }
        let Some(source) = self.source.filter(|_| self.hello.is_none()) else {
            self.report_due = false;
            return told;
        };
        let report = self.report(now);
        self.frame.clear();
        self.frame.set_body(SectionKind::Report, 0, 0, |out| report.emit(out));
        let number = PacketNumber::new(self.report_number);
        let Self { frame, secured, .. } = self;
        let (head, spans) = frame.compose(FrameKind::Reported, source.session, number);
        let sent = secured.sealer().is_some_and(|channel| {
            let mut seal = |datagram: &mut [u8]| channel.seal(datagram);
            port.send(Class::Control, head, spans, Some(&mut seal)).is_ok()
        });
        if !sent {
            return told;
        }
        self.report_number += 1;
        self.report_due = false;
        self.frames_unreported = 0;
        true
    }

    pub(super) fn report(&self, now: Nanos) -> Report {
        let durable = self.superblock.durable;
        let durable_lsn = if Mutant::ReportBeforeFlush.is_on() {
            self.mirror.ready()
        } else {
            self.mirror.durable()
        };
        let mut report =
            Report::new(durable_lsn, self.mirror.segment_limit(), durable.cp, durable.chain);
        report.failed = self.fault.is_some();
        report.restart = self.restart;
        report.state = durable.state;
        let delay =
            if self.frames_unreported > 0 { now.since(self.unreported_since) } else { Nanos::ZERO };
        report.delay_micros = (delay.get() / 1000).min(u64::from(u32::MAX)) as u32;
        self.received.report(&mut report);
        if let Some(open) = self.lists.open()
            && self.apply.cp() == open.cp
            && self.apply.is_scanned(&self.list)
        {
            report.cp_listed = open.cp;
            report.cp_round = self.apply.restarts();
            let free = self.staging.blocks - self.staging_slots.used() as u32;
            report.block_credit = self.staged + free;
            self.apply.refused(&self.list, REFUSED_MAX, |record| {
                report.push_refused(record);
            });
        }
        report
    }
}
