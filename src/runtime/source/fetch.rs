//! What this node asks of its peer: the tail of the log that it lost itself. Batch by batch: descriptor, then the pages it names, each
//! checked as a mirror checks them, then made durable here like a batch of this node's own.
//! FETCH-1  a batch of the peer's is taken only where it goes on exactly where the log here ends, and all of it checks.

use super::Core;
use ibid_driver::{Class, Disk, Port};
use ibid_engine::log::ClosedBatch;
use ibid_units::{BLOCK_SECTORS, CpId, LogBlock, Lsn, Mutant, Nanos, PacketNumber, SECTOR_BYTES};
use ibid_wire::disk::Batch;
use ibid_wire::peer::{Answer, AnswerBody, AskWhat, Frame, FrameKind, HeldList, SectionKind};
use std::collections::VecDeque;

/// Questions of this kind carry this token.
const TOKEN_FETCH: u64 = 1;
/// Those that heal a page, this one.
pub(super) const TOKEN_HEAL: u64 = 2;
/// Those about volumes, this one.
pub(super) const TOKEN_BETWEEN: u64 = 3;
/// Pieces of one batch, at most: header, descriptor, or the pages of a batch of one block.
pub(super) const PIECES_MAX: usize = 1024;

/// A piece of the log that is to be asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    block: LogBlock,
    first: u8,
    sectors: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Descriptor (and header) are asked for.
    Structure,
    /// The pages that the descriptor names are asked for.
    Pages,
}

/// A tail that is being fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    until: Lsn,
    /// The peer's volumes are of an earlier CP: once the tail is here, the two meet anew.
    salvage: bool,
    /// What the peer holds, segment by segment after CP `base`.
    base: CpId,
    held: HeldList,
    /// The batch at hand.
    segment: CpId,
    index: u32,
    step: Step,
    outstanding: u32,
}

impl<D: Disk> Core<D> {
    /// The peer holds entries up to `until`, more than this node: they are taken over before the log opens.
    pub(super) fn begin_fetch(&mut self, until: Lsn, base: CpId, held: &HeldList, salvage: bool) {
        let (oldest, next) = self.log.segments();
        let newest = if next > oldest { CpId::new(next.get() - 1) } else { next };
        // Of a segment that the peer has drained nothing is lacking here: it was closed, or empty.
        let segment = newest.max(base.next());
        self.fetch = Some(Fetch {
            until,
            salvage,
            base,
            held: *held,
            segment,
            index: self.log.held(segment).map_or(0, |held| held.batches),
            step: Step::Structure,
            outstanding: 0,
        });
        self.fetch_pieces.clear();
        self.ask_structure();
    }

    /// Moves the fetch on; false where the peer can't give what it said it holds.
    pub(super) fn fetch_turn(&mut self, now: Nanos) -> bool {
        if self.fetch.is_none() {
            return false;
        }
        let (until, salvage) =
            self.fetch.as_ref().map_or((Lsn::new(0), false), |fetch| (fetch.until, fetch.salvage));
        if self.log.batched() >= until {
            if salvage {
                // What was fetched must be durable before it is said to be here.
                if self.log.durable_here_lsn() >= until {
                    self.lose_peer(now);
                }
                return false;
            }
            self.fetch = None;
            // What came from there is there.
            let end = self.log.batched();
            assert!(self.log.durable_there(end), "FETCH-1: the end of the log was batched");
            return true;
        }
        self.ask_pieces();
        let Some(fetch) = &self.fetch else { return false };
        if fetch.outstanding > 0 || !self.fetch_pieces.is_empty() || !self.persist.has_room() {
            return false;
        }
        match fetch.step {
            Step::Structure => self.pages_of_batch(now),
            Step::Pages => self.adopt(now),
        }
        true
    }

    fn ask_structure(&mut self) {
        let Self { fetch: Some(fetch), fetch_pieces, geometry, .. } = self else { return };
        // A segment that the peer holds no more of is followed by the next; one of no batches has no header.
        loop {
            let held = fetch.segment.get().checked_sub(fetch.base.get() + 1).and_then(|place| {
                fetch.held.as_slice().get(usize::try_from(place).unwrap_or(usize::MAX))
            });
            match held {
                Some(held) if fetch.index < held.batches => break,
                Some(_) => (fetch.segment, fetch.index) = (fetch.segment.next(), 0),
                // More entries than batches: it contradicts itself, and the question below is answered so.
                None => break,
            }
        }
        fetch.step = Step::Structure;
        if fetch.index == 0 {
            push_block(fetch_pieces, LogBlock::new(0));
        }
        push_block(fetch_pieces, geometry.batch_block(fetch.index));
    }

    /// The descriptor is here: its pages are asked for.
    fn pages_of_batch(&mut self, now: Nanos) {
        let Self { fetch: Some(fetch), fetch_pieces, geometry, arena, .. } = self else { return };
        let block = geometry.batch_block(fetch.index);
        let bytes = arena.bytes(geometry.span(fetch.segment, block, 1));
        let Ok(batch) = Batch::parse(&bytes) else {
            drop(bytes);
            self.lose_peer(now);
            return;
        };
        for (entry, _) in batch.entries() {
            for page in 0..entry.pages {
                let number = entry.page.get().saturating_add(u32::from(page));
                let (first, count) = entry.page_part(page);
                if number == 0 || number >= geometry.segment_blocks {
                    // Refused when the batch is looked at as a whole.
                    continue;
                }
                fetch_pieces.push_back(Piece {
                    block: LogBlock::new(number),
                    first: first as u8,
                    sectors: count as u8,
                });
            }
        }
        fetch.step = Step::Pages;
    }

    /// All of a batch is here (FETCH-1).
    fn adopt(&mut self, now: Nanos) {
        let Some(fetch) = &self.fetch else { return };
        let (segment, index) = (fetch.segment, fetch.index);
        let volumes = &self.volume_sectors;
        match self.log.adopt_batch(&self.memory, segment, volumes) {
            Ok(batch) => {
                let batch: ClosedBatch = batch;
                self.fetched += 1;
                if Mutant::FetchedUnwritten.is_on() {
                    self.log.durable_here(batch.last);
                } else {
                    self.persist.begin(now, &self.arena, &mut self.disks, batch);
                }
                if let Some(fetch) = &mut self.fetch {
                    fetch.index = index + 1;
                }
                self.ask_structure();
            }
            // Damaged on its way, or over there: asked again from the start, with a new session.
            Err(_) => self.lose_peer(now),
        }
    }

    /// Gives the asker what it has room for.
    fn ask_pieces(&mut self) {
        let most = (self.frame.body_bytes_max() - ibid_wire::peer::ANSWER_HEAD_BYTES)
            / SECTOR_BYTES as usize;
        let cp = self.superblock.durable.cp;
        let Self { fetch: Some(fetch), fetch_pieces, asker, .. } = self else { return };
        while let Some(piece) = fetch_pieces.front_mut() {
            let sectors = piece.sectors.min(most.min(BLOCK_SECTORS as usize) as u8);
            let what = AskWhat::Log {
                segment: fetch.segment,
                block: piece.block,
                first: piece.first,
                sectors,
            };
            if asker.ask(cp, what, TOKEN_FETCH).is_none() {
                return;
            }
            fetch.outstanding += 1;
            piece.first += sectors;
            piece.sectors -= sectors;
            if piece.sectors == 0 {
                fetch_pieces.pop_front();
            }
        }
    }

    /// Sends questions that are due.
    pub(super) fn send_asks<P: Port>(&mut self, now: Nanos, port: &mut P) {
        while let Some(ask) = self.asker.due(now) {
            self.frame.clear();
            self.frame.set_body(SectionKind::Ask, 0, 0, |out| ask.emit(out));
            let session = self.session();
            let Self { frame, secured, .. } = self;
            let (head, spans) = frame.compose(FrameKind::Ask, session, PacketNumber::new(ask.id));
            let sent = secured.sealer().is_some_and(|channel| {
                let mut seal = |datagram: &mut [u8]| channel.seal(datagram);
                port.send(Class::Control, head, spans, Some(&mut seal)).is_ok()
            });
            // Where the device is busy it is asked again when it is due again.
            if !sent {
                return;
            }
        }
    }

    /// An answer to a question of this session.
    pub(super) fn answer_came(&mut self, now: Nanos, frame: &Frame<'_>, body: &[u8]) -> bool {
        let Ok(answer) = Answer::parse(body) else { return false };
        if answer.id != frame.header.number.get() {
            return false;
        }
        self.peer.hear(now);
        // "Not now" ends nothing: the question is repeated in its time.
        if answer.body == AnswerBody::NotNow {
            if let Some(AskWhat::Volume { .. } | AskWhat::Sums { .. }) = self.asker.what(answer.id)
            {
                self.not_now();
            }
            return true;
        }
        let Some((token, what)) = self.asker.answered(answer.id) else { return true };
        match (token, what, answer.body) {
            (
                TOKEN_FETCH | TOKEN_HEAL,
                AskWhat::Log { segment, block, first, .. },
                AnswerBody::Bytes(bytes),
            ) if bytes.len() == what.payload_bytes() => {
                let whole = self.geometry.span(segment, block, 1);
                let at = whole.at + u64::from(first) * SECTOR_BYTES;
                self.arena.copy_in(at, bytes);
                if token == TOKEN_HEAL {
                    self.heal_answered(now);
                } else if let Some(fetch) = &mut self.fetch {
                    fetch.outstanding -= 1;
                }
            }
            (TOKEN_FETCH, _, _) => self.lose_peer(now),
            (TOKEN_HEAL, _, _) => self.heal_answered(now),
            (TOKEN_BETWEEN, what, _) => self.volume_answered(&what, &answer),
            (_, _, _) => {}
        }
        true
    }
}

fn push_block(pieces: &mut VecDeque<Piece>, block: LogBlock) {
    pieces.push_back(Piece { block, first: 0, sectors: BLOCK_SECTORS as u8 });
}
