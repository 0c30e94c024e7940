//! What the source may ask of its destination: bytes of the log, bytes and checksums of a volume. Questions change nothing; an unanswered
//! one comes again, so what there is no room for is dropped.
//! ANS-1  of a volume nothing is told but at the CP that the asker is at, with no CP being applied: both speak of the same bytes.

use super::Core;
use crate::disks::{Work, volume_file};
use ibid_driver::{Class, Disk, DiskOp, Port};
use ibid_engine::point::ListState;
use ibid_units::{BLOCK_BYTES, BLOCK_SECTORS, PacketNumber, SECTOR_BYTES, Sector, Sectors, Span};
use ibid_wire::peer::{
    Answer, AnswerBody, Ask, AskWhat, Frame, FrameKind, SUMS_MAX, SectionKind, Sums,
};

/// Questions about the log that wait for the port.
const LOG_ASKS_MAX: usize = 32;
/// Blocks of memory that the answer to one question takes, at most.
const ANSWER_BLOCKS: u32 = SUMS_MAX as u32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Reading,
    Ready,
    Failed,
}

/// A question about a volume, with memory of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerSlot {
    ask: Option<Ask>,
    stage: Stage,
}

impl AnswerSlot {
    pub(super) const EMPTY: AnswerSlot = AnswerSlot { ask: None, stage: Stage::Failed };
}

/// Questions that may be answered from volumes at one time, in memory of so many blocks.
pub(super) const fn slots_of(blocks: u32) -> usize {
    (blocks / ANSWER_BLOCKS) as usize
}

/// Room for the questions about the log.
pub(super) fn log_asks() -> std::collections::VecDeque<Ask> {
    std::collections::VecDeque::with_capacity(LOG_ASKS_MAX)
}

impl<D: Disk> Core<D> {
    pub(super) fn ask_came(&mut self, frame: &Frame<'_>) -> bool {
        let Some((section, body)) = frame.sections().next() else { return false };
        if self.hello.is_some()
            || section.kind != SectionKind::Ask
            || ibid_wire::crc32c(body) != section.crc
        {
            return false;
        }
        let Ok(ask) = Ask::parse(body) else { return false };
        match ask.what {
            AskWhat::Log { .. } => {
                if self.log_asks.len() < LOG_ASKS_MAX {
                    self.log_asks.push_back(ask);
                }
            }
            AskWhat::Volume { volume, first, sectors } => {
                self.ask_volume(ask, volume, first, Sectors::new(u32::from(sectors)));
            }
            AskWhat::Sums { volume, first, blocks } => {
                let sectors = Sectors::new(u32::from(blocks) * BLOCK_SECTORS as u32);
                self.ask_volume(ask, volume, Sector::new(first * BLOCK_SECTORS), sectors);
            }
        }
        true
    }

    fn ask_volume(
        &mut self,
        ask: Ask,
        volume: ibid_units::VolumeId,
        first: Sector,
        sectors: Sectors,
    ) {
        let known =
            self.answer_slots.iter().any(|slot| slot.ask.is_some_and(|old| old.id == ask.id));
        let free = self.answer_slots.iter().position(|slot| slot.ask.is_none());
        let Some(place) = free.filter(|_| !known) else { return };
        let capacity = self.volume_sectors.get(usize::from(volume.get())).copied().unwrap_or(0);
        let lies_in = first.checked_end(sectors).is_some_and(|end| end.get() <= capacity);
        let slot = &mut self.answer_slots[place];
        slot.ask = Some(ask);
        slot.stage = Stage::Failed;
        if lies_in && self.is_at(&ask) {
            self.answer_slots[place].stage = Stage::Reading;
            let span = self.answer_span(place).first(sectors.bytes() as u32);
            let op = DiskOp::Read { file: volume_file(volume), at: first.bytes(), span };
            self.disks.submit(op, Work::Answer { slot: place as u32 });
        }
    }

    /// ANS-1.
    fn is_at(&self, ask: &Ask) -> bool {
        let idle = self.lists.state() == ListState::Idle && !self.apply.is_busy();
        ask.cp == self.superblock.durable.cp && idle && self.fault.is_none()
    }

    fn answer_span(&self, place: usize) -> Span {
        let bytes = ANSWER_BLOCKS * BLOCK_BYTES as u32;
        Span::new(self.answers.at + place as u64 * u64::from(bytes), bytes)
    }

    pub(super) fn answer_read(&mut self, slot: u32, success: bool) {
        let slot = &mut self.answer_slots[slot as usize];
        slot.stage = if success { Stage::Ready } else { Stage::Failed };
    }

    /// Sends the answers that are ready.
    pub(super) fn speak_answers<P: Port>(&mut self, port: &mut P) -> bool {
        let mut any = false;
        while let Some(&ask) = self.log_asks.front() {
            if !self.answer_log(&ask, port) {
                return any;
            }
            self.log_asks.pop_front();
            any = true;
        }
        for place in 0..self.answer_slots.len() {
            let AnswerSlot { ask: Some(ask), stage } = self.answer_slots[place] else { continue };
            if stage == Stage::Reading {
                continue;
            }
            if !self.answer_volume(place, &ask, stage, port) {
                return any;
            }
            self.answer_slots[place].ask = None;
            any = true;
        }
        any
    }

    fn answer_log<P: Port>(&mut self, ask: &Ask, port: &mut P) -> bool {
        let AskWhat::Log { segment, block, first, sectors } = ask.what else { return true };
        let held = self.mirror.still_holds(segment) && block.get() < self.geometry.segment_blocks;
        let span = held.then(|| {
            let whole = self.geometry.span(segment, block, 1);
            let at = whole.at + u64::from(first) * SECTOR_BYTES;
            Span::new(at, u32::from(sectors) * SECTOR_BYTES as u32)
        });
        let arena = self.arena.clone();
        self.send_answer(ask, port, |emit| match span {
            Some(span) => emit(AnswerBody::Bytes(&arena.bytes(span))),
            None => emit(AnswerBody::NotHeld),
        })
    }

    fn answer_volume<P: Port>(
        &mut self,
        place: usize,
        ask: &Ask,
        stage: Stage,
        port: &mut P,
    ) -> bool {
        let arena = self.arena.clone();
        let span = self.answer_span(place);
        let at_cp = self.is_at(ask);
        let mut sums = [0; 4 * SUMS_MAX as usize];
        self.send_answer(ask, port, |emit| match (ask.what, stage) {
            _ if !at_cp => emit(AnswerBody::NotNow),
            (_, Stage::Reading | Stage::Failed) => emit(AnswerBody::Unreadable),
            (AskWhat::Volume { sectors, .. }, Stage::Ready) => {
                let span = span.first(u32::from(sectors) * SECTOR_BYTES as u32);
                emit(AnswerBody::Bytes(&arena.bytes(span)))
            }
            (AskWhat::Sums { blocks, .. }, Stage::Ready) => {
                let used = &mut sums[..4 * usize::from(blocks)];
                for (n, out) in used.chunks_exact_mut(4).enumerate() {
                    let at = span.at + n as u64 * BLOCK_BYTES;
                    let crc = arena.crc32c(Span::new(at, BLOCK_BYTES as u32));
                    out.copy_from_slice(&crc.to_le_bytes());
                }
                match Sums::new(used) {
                    Some(sums) => emit(AnswerBody::Sums(sums)),
                    None => emit(AnswerBody::NotHeld),
                }
            }
            (AskWhat::Log { .. }, Stage::Ready) => emit(AnswerBody::NotHeld),
        })
    }

    /// False where the port has no room now.
    fn send_answer<P: Port>(
        &mut self,
        ask: &Ask,
        port: &mut P,
        body: impl FnOnce(&mut dyn FnMut(AnswerBody<'_>) -> usize) -> usize,
    ) -> bool {
        let Some(source) = self.source else { return true };
        let most = self.frame.body_bytes_max() - ibid_wire::peer::ANSWER_HEAD_BYTES;
        let fits = ask.what.payload_bytes() <= most;
        self.frame.clear();
        self.frame.set_body(SectionKind::Answer, 0, 0, |out| {
            let mut emit = |body: AnswerBody<'_>| Answer { id: ask.id, body }.emit(out);
            if fits { body(&mut emit) } else { emit(AnswerBody::NotHeld) }
        });
        let number = PacketNumber::new(ask.id);
        let Self { frame, secured, .. } = self;
        let (head, spans) = frame.compose(FrameKind::Answer, source.session, number);
        secured.sealer().is_some_and(|channel| {
            let mut seal = |datagram: &mut [u8]| channel.seal(datagram);
            port.send(Class::Control, head, spans, Some(&mut seal)).is_ok()
        })
    }

    /// The session is over: nobody waits for an answer any more. Reads under way come to their end.
    pub(super) fn forget_asks(&mut self) {
        self.log_asks.clear();
        for slot in self.answer_slots.iter_mut().filter(|slot| slot.stage != Stage::Reading) {
            slot.ask = None;
        }
    }
}
