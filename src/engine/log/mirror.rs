//! The destination's log: takes pieces in any order, finds out when a batch is whole, says what is durable and what a reference may name.
//! MIR-1  a piece goes exactly where the source has it; a piece that is there already changes nothing.
//! MIR-2  batches become ready in Lsn order, only when descriptor, header and every page of them have checked.
//! MIR-3  a page proves a reference only when the batch that names it is durable.
//! MIR-4  a slot takes a new segment only after its old one's CP is durable here.
//! MIR-5  what is recovered or kept is whole batches that were checked, up to a batch's last entry; of what is cut off nothing is here any more.

use super::check::{self, Due, last_of, pages_of, part_span};
use super::{ClosedBatch, Held, LogGeometry, PagePart, PageTable, RecoveredLog};
use crate::memory::Memory;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{BLOCK_BYTES, CpId, Epoch, LogBlock, Lsn, Mutant, SECTOR_BYTES, Span};
use ibid_wire::disk::{Batch, SegmentHeader};

/// A piece of a frame found its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// Copy the bytes here, then say [`Mirror::arrived`].
    New(Span),
    /// The bytes are here already.
    Duplicate,
}

/// Why a piece has no place. The frame is dropped and not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlaceRefused {
    /// The segment is drained already: the sender is behind, its copy is not needed.
    #[error("the segment is drained already")]
    Drained,
    /// There is no slot for it yet.
    #[error("no slot is free for the segment")]
    NoSlot,
    /// Outside the segment, or not on sectors.
    #[error("the piece lies outside its segment or not on sectors")]
    Range,
}

/// The source's bytes contradict themselves: a bug or memory rot over there. The batch does not become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MirrorFault {
    /// A structure does not check or names impossible places.
    #[error("a log structure from the source does not check")]
    Structure,
    /// A batch or segment is not the one that follows.
    #[error("a batch from the source does not follow the one before")]
    Order,
    /// A page's bytes differ from what its descriptor says.
    #[error("a page from the source does not match its descriptor")]
    Page,
}

/// The block holds a header or a descriptor, not sectors of a page.
const STRUCTURE: u16 = 0x100;

#[derive(Clone, Copy, Debug)]
struct MirrorSlot {
    segment: Option<CpId>,
    /// Batches ready so far.
    batches: u32,
    previous: u32,
    epoch: Epoch,
    first: Lsn,
    last: Lsn,
}

impl MirrorSlot {
    const EMPTY: MirrorSlot = MirrorSlot {
        segment: None,
        batches: 0,
        previous: 0,
        epoch: Epoch::new(0),
        first: Lsn::new(0),
        last: Lsn::new(0),
    };
}

/// The log of the node that takes data from its source.
#[derive(Debug)]
pub struct Mirror {
    geometry: LogGeometry,
    pair: [u8; 16],
    slots: Vec<MirrorSlot>,
    /// A bit per sector of each page that has arrived, or [`STRUCTURE`] for a header or descriptor block.
    have: Vec<u16>,
    /// Part and checksum of every page named by a ready batch.
    pub pages: PageTable,
    /// Checksums of pages that arrived in one piece, before their batch is ready.
    arrived_crc: PageTable,
    /// The newest CP durable here.
    cp: CpId,
    /// The segment whose next batch is awaited.
    at: CpId,
    ready: Lsn,
    durable: Lsn,
    /// That of the newest segment with a ready batch: it never falls.
    epoch: Epoch,
    volume_sectors: Vec<u64>,
}

impl Mirror {
    /// A mirror that holds nothing after `cp`, whose newest entry is `last_lsn`. `volume_sectors` are the capacities, by place.
    pub fn new(
        geometry: LogGeometry,
        pair: [u8; 16],
        cp: CpId,
        last_lsn: Lsn,
        volume_sectors: Vec<u64>,
    ) -> Self {
        let blocks = geometry.segments as usize * geometry.segment_blocks as usize;
        Self {
            geometry,
            pair,
            slots: vec![MirrorSlot::EMPTY; geometry.segments as usize],
            have: vec![0; blocks],
            pages: PageTable::new(geometry),
            arrived_crc: PageTable::new(geometry),
            cp,
            at: cp.next(),
            ready: last_lsn,
            durable: last_lsn,
            epoch: Epoch::new(0),
            volume_sectors,
        }
    }

    /// A mirror that holds what recovery found: as if every batch of it had just been flushed, so that a piece of it that comes again is a
    /// duplicate. `memory` is the log as the scan left it.
    pub fn recovered(
        geometry: LogGeometry,
        pair: [u8; 16],
        log: &RecoveredLog,
        memory: &impl Memory,
        volume_sectors: Vec<u64>,
    ) -> Self {
        let mut mirror = Self::new(geometry, pair, log.cp, log.last_lsn, volume_sectors);
        for found in log.segments.iter().filter(|found| found.batches > 0) {
            mirror.fill_slot(memory, found.segment, found.batches);
            assert!(
                mirror.ready == found.last_lsn,
                "MIR-5: {} ready, {} recovered",
                mirror.ready,
                found.last_lsn
            );
        }
        mirror.durable = mirror.ready;
        mirror
    }

    /// Makes a slot hold the first batches of a segment, whose bytes have been checked before, and nothing else of it.
    fn fill_slot(&mut self, memory: &impl Memory, segment: CpId, batches: u32) {
        self.clear_slot(segment);
        let header = memory
            .read(self.geometry.span(segment, LogBlock::new(0), 1), SegmentHeader::parse)
            .expect("MIR-5: a segment that was checked has its header");
        let first_block = self.block_at(segment, 0);
        self.have[first_block] = STRUCTURE;
        let at = self.geometry.slot(segment);
        self.slots[at].epoch = header.epoch;
        self.slots[at].first = header.first_lsn;
        for index in 0..batches {
            let block = self.geometry.batch_block(index);
            memory.read(self.geometry.span(segment, block, 1), |bytes| {
                let batch = Batch::parse(bytes).expect("MIR-5: a batch that was checked parses");
                let structure = self.block_at(segment, block.get());
                self.have[structure] = STRUCTURE;
                for (page, part, crc) in pages_of(&batch) {
                    let at = self.block_at(segment, page.get());
                    self.have[at] |= u16::from(part.mask());
                    self.pages.set(segment, page, part, crc);
                }
                let slot = &mut self.slots[at];
                slot.batches += 1;
                slot.previous = batch.crc;
                slot.last = last_of(&batch);
            });
        }
        self.at = segment;
        self.epoch = header.epoch;
        self.ready = self.slots[at].last;
    }

    /// Drops every entry after `lsn`, which is the last of a batch (or of the newest CP): the source does not have them. Their places are free
    /// for other bytes. On the device they are still there; the superblock's `agreed` must say that they don't count before anything is
    /// placed there.
    pub fn truncate(&mut self, memory: &impl Memory, lsn: Lsn) {
        assert!(lsn <= self.ready, "MIR-5: cut back to {lsn}, ready {}", self.ready);
        let base = self.base();
        assert!(lsn >= base, "MIR-5: cut back to {lsn}, in volumes up to {base}");
        let durable = self.durable.min(lsn);
        (self.at, self.ready, self.epoch) = (self.cp.next(), base, Epoch::new(0));
        for segment in (self.cp.next().get()..=self.segment_limit().get()).map(CpId::new) {
            let slot = self.slots[self.geometry.slot(segment)];
            if slot.segment != Some(segment) {
                continue;
            }
            let keeps = |count: &u32| {
                check::last_lsn_of(memory, self.geometry, segment, *count)
                    .is_some_and(|last| last <= lsn)
            };
            match (1..=slot.batches).rev().find(keeps) {
                Some(batches) => self.fill_slot(memory, segment, batches),
                None => self.slots[self.geometry.slot(segment)].segment = None,
            }
        }
        assert!(self.ready == lsn, "MIR-5: {lsn} is not the last entry of a batch");
        self.durable = durable;
    }

    /// Where the first batch lies that holds entries after `lsn`, if one does.
    pub fn first_batch_after(&self, memory: &impl Memory, lsn: Lsn) -> Option<(CpId, LogBlock)> {
        (self.cp.next().get()..=self.segment_limit().get()).map(CpId::new).find_map(|segment| {
            let held = self.held(segment).filter(|held| held.last_lsn > lsn)?;
            let first = (1..=held.batches).find(|count| {
                check::last_lsn_of(memory, self.geometry, segment, *count)
                    .is_some_and(|last| last > lsn)
            })?;
            Some((segment, self.geometry.batch_block(first - 1)))
        })
    }

    /// True while a segment's bytes are in its slot: also that of the newest CP, until another takes it.
    pub fn still_holds(&self, segment: CpId) -> bool {
        let slot = self.slots[self.geometry.slot(segment)];
        slot.segment == Some(segment) && slot.batches > 0
    }

    /// The newest entry of the newest CP: the one before the first of the log.
    fn base(&self) -> Lsn {
        (self.cp.next().get()..=self.segment_limit().get())
            .map(CpId::new)
            .filter_map(|segment| self.held(segment))
            .find(|held| held.batches > 0)
            .map_or(self.ready, |held| Lsn::new(held.first_lsn.get() - 1))
    }

    /// The source's newest CP counts here, too, by other ways than its log: forgets the whole log, which goes on after it.
    pub fn adopt(&mut self, cp: CpId, last_lsn: Lsn) {
        self.cp = cp;
        if !Mutant::AdoptKeepsLog.is_on() {
            self.reset(last_lsn);
        }
    }

    /// What is whole of a segment after the newest CP; `None` where nothing is.
    pub fn held(&self, segment: CpId) -> Option<Held> {
        let slot = self.slots[self.geometry.slot(segment)];
        let holds = segment > self.cp && slot.segment == Some(segment) && slot.batches > 0;
        holds.then_some(Held {
            epoch: slot.epoch,
            batches: slot.batches,
            crc: slot.previous,
            first_lsn: slot.first,
            last_lsn: slot.last,
        })
    }

    /// The newest entry of a segment's first `batches` batches, as many as are whole here; with none the entry before its first.
    pub fn last_lsn_of(&self, memory: &impl Memory, segment: CpId, batches: u32) -> Option<Lsn> {
        let held = self.held(segment)?;
        (batches <= held.batches)
            .then(|| check::last_lsn_of(memory, self.geometry, segment, batches))
            .flatten()
    }

    /// Forgets everything after the newest CP: the source is another one now and sends it again.
    pub fn reset(&mut self, last_lsn: Lsn) {
        for slot in &mut self.slots {
            slot.segment = None;
        }
        self.at = self.cp.next();
        self.ready = last_lsn;
        self.durable = last_lsn;
        self.epoch = Epoch::new(0);
    }

    /// The newest segment there is room for: one lap after the newest CP.
    pub fn segment_limit(&self) -> CpId {
        CpId::new(self.cp.get() + u64::from(self.geometry.segments))
    }

    /// The log's geometry.
    pub fn geometry(&self) -> LogGeometry {
        self.geometry
    }

    /// The full number of a segment of which a frame carries the low 32 bits: the one nearest to the CP.
    pub fn widen(&self, low: u32) -> CpId {
        let cp = self.cp.get();
        let ahead = low.wrapping_sub(cp as u32);
        if ahead < u32::MAX / 2 {
            CpId::new(cp + u64::from(ahead))
        } else {
            CpId::new(cp.saturating_sub(u64::from(ahead.wrapping_neg())))
        }
    }

    fn block_at(&self, segment: CpId, block: u32) -> usize {
        self.geometry.slot(segment) * self.geometry.segment_blocks as usize + block as usize
    }

    /// Finds the place of `length` bytes at byte `place` of a segment (MIR-1). Pages come in whole sectors; a header or descriptor block
    /// comes in one piece from its start, of any length.
    pub fn place(
        &mut self,
        segment: CpId,
        place: u32,
        length: u32,
        structure: bool,
    ) -> Result<Placed, PlaceRefused> {
        if segment <= self.cp {
            return Err(PlaceRefused::Drained);
        }
        if segment > self.segment_limit() {
            return Err(PlaceRefused::NoSlot);
        }
        let block = place / BLOCK_BYTES as u32;
        let offset = place % BLOCK_BYTES as u32;
        let sector = SECTOR_BYTES as u32;
        let on_sectors = offset.is_multiple_of(sector) && length.is_multiple_of(sector);
        let in_block = length > 0 && u64::from(offset) + u64::from(length) <= BLOCK_BYTES;
        if block >= self.geometry.segment_blocks
            || !in_block
            || (structure && offset != 0)
            || (!structure && !on_sectors)
        {
            return Err(PlaceRefused::Range);
        }
        self.take_slot(segment);
        let mask = if structure { STRUCTURE } else { sector_mask(offset, length) };
        if self.have[self.block_at(segment, block)] & mask == mask {
            return Ok(Placed::Duplicate);
        }
        let whole = self.geometry.span(segment, LogBlock::new(block), 1);
        Ok(Placed::New(Span::new(whole.at + u64::from(offset), length)))
    }

    /// Gives a segment its slot (MIR-4 holds: it is past the CP and at most a lap ahead of it).
    fn take_slot(&mut self, segment: CpId) {
        let at = self.geometry.slot(segment);
        if self.slots[at].segment != Some(segment) {
            self.clear_slot(segment);
        }
    }

    fn clear_slot(&mut self, segment: CpId) {
        let at = self.geometry.slot(segment);
        self.slots[at] = MirrorSlot { segment: Some(segment), ..MirrorSlot::EMPTY };
        let blocks = self.geometry.segment_blocks as usize;
        self.have[at * blocks..(at + 1) * blocks].fill(0);
        self.pages.clear(segment);
        self.arrived_crc.clear(segment);
    }

    /// The bytes of a piece are in place and matched `crc`.
    pub fn arrived(&mut self, segment: CpId, place: u32, length: u32, structure: bool, crc: u32) {
        let block = place / BLOCK_BYTES as u32;
        let offset = place % BLOCK_BYTES as u32;
        let at = self.block_at(segment, block);
        if structure {
            self.have[at] = STRUCTURE;
            return;
        }
        let mask = sector_mask(offset, length);
        let part = PagePart { first: (offset / 512) as u8, count: (length / 512) as u8 };
        // Only a page that comes in one piece has its sum taken over from the frame.
        let part = if self.have[at] == 0 { part } else { PagePart::default() };
        self.arrived_crc.set(segment, LogBlock::new(block), part, crc);
        self.have[at] |= mask;
    }

    /// The next batch in Lsn order, if all of it is here and checks (MIR-2). What is at fault is missing again afterwards, so that a piece
    /// that comes once more has a place.
    pub fn next_ready(&mut self, memory: &impl Memory) -> Result<Option<ClosedBatch>, MirrorFault> {
        // At most once around: each step either yields or moves to a later segment.
        for _ in 0..=self.geometry.segments {
            let segment = self.at;
            let slot_at = self.geometry.slot(segment);
            let header_at = self.block_at(segment, 0);
            if self.slots[slot_at].segment == Some(segment) && self.have[header_at] == STRUCTURE {
                if self.slots[slot_at].batches == 0 {
                    self.check_header(memory, segment).inspect_err(|_| self.have[header_at] = 0)?;
                }
                let batches = self.slots[slot_at].batches;
                let room = batches + 1 < self.geometry.segment_blocks;
                let block = self.geometry.batch_block(batches);
                let batch_at = self.block_at(segment, block.get());
                if room && self.have[batch_at] == STRUCTURE {
                    let checked = self.check_batch(memory, segment, block);
                    if matches!(checked, Err(MirrorFault::Structure | MirrorFault::Order)) {
                        self.have[batch_at] = 0;
                    }
                    return checked;
                }
            }
            let Some(next) = self.segment_that_follows(memory) else { return Ok(None) };
            self.at = next;
        }
        Ok(None)
    }

    fn check_header(&mut self, memory: &impl Memory, segment: CpId) -> Result<(), MirrorFault> {
        let header = memory
            .read(self.geometry.span(segment, LogBlock::new(0), 1), SegmentHeader::parse)
            .map_err(|_| MirrorFault::Structure)?;
        let fits = check::header_fits(&header, self.geometry, segment, self.pair);
        if !fits || header.first_lsn != self.ready.next() || header.epoch < self.epoch {
            return Err(MirrorFault::Order);
        }
        let slot = &mut self.slots[self.geometry.slot(segment)];
        slot.epoch = header.epoch;
        slot.first = header.first_lsn;
        Ok(())
    }

    /// The next segment whose header is here and goes on exactly where this one stands: then this one is complete, and those between are
    /// empty (they have no header).
    fn segment_that_follows(&self, memory: &impl Memory) -> Option<CpId> {
        (self.at.next().get()..=self.segment_limit().get()).map(CpId::new).find(|&next| {
            self.slots[self.geometry.slot(next)].segment == Some(next)
                && self.have[self.block_at(next, 0)] == STRUCTURE
                && memory
                    .read(self.geometry.span(next, LogBlock::new(0), 1), SegmentHeader::parse)
                    .is_ok_and(|header| {
                        header.segment == next && header.first_lsn == self.ready.next()
                    })
        })
    }

    fn check_batch(
        &mut self,
        memory: &impl Memory,
        segment: CpId,
        block: LogBlock,
    ) -> Result<Option<ClosedBatch>, MirrorFault> {
        let geometry = self.geometry;
        let slot_at = geometry.slot(segment);
        let blocks_at = slot_at * geometry.segment_blocks as usize;
        let slot = self.slots[slot_at];
        let due = Due {
            geometry,
            volume_sectors: &self.volume_sectors,
            segment,
            epoch: slot.epoch,
            index: slot.batches,
            previous: slot.previous,
            first_lsn: self.ready.next(),
        };
        let have = &mut self.have[blocks_at..][..geometry.segment_blocks as usize];
        let (pages, arrived) = (&mut self.pages, &self.arrived_crc);
        let checked = memory.read(geometry.span(segment, block, 1), |bytes| {
            let batch = due.batch(bytes)?;
            let mask = |part: PagePart| u16::from(part.mask());
            let is_here = |(page, part, _): (LogBlock, PagePart, u32)| {
                have[page.get() as usize] & mask(part) == mask(part)
            };
            if !pages_of(&batch).all(is_here) && !Mutant::PageMissing.is_on() {
                return Ok(None);
            }
            for (page, part, crc) in pages_of(&batch) {
                // The frame's sum where the page came in one piece that was exactly the part, otherwise its own.
                let sum = if arrived.part(segment, page) == part {
                    arrived.crc(segment, page)
                } else {
                    memory.crc32c(part_span(geometry, segment, page, part))
                };
                if sum != crc {
                    have[page.get() as usize] = 0;
                    return Err(MirrorFault::Page);
                }
                pages.set(segment, page, part, crc);
            }
            Ok(Some((last_of(&batch), batch.crc)))
        });
        let Some((last, crc)) = checked? else { return Ok(None) };
        self.ready = last;
        self.epoch = slot.epoch;
        let slot = &mut self.slots[slot_at];
        slot.batches += 1;
        slot.previous = crc;
        slot.last = last;
        Ok(Some(ClosedBatch { segment, block, with_header: slot.batches == 1, last }))
    }

    /// Everything up to `lsn` is durable on this node.
    pub fn set_durable(&mut self, lsn: Lsn) {
        assert!(lsn <= self.ready, "MIR-2: {lsn} durable, ready {}", self.ready);
        self.durable = self.durable.max(lsn);
    }

    /// The newest entry that is durable here with all before it.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The newest entry that is whole here, durable or not.
    pub fn ready(&self) -> Lsn {
        self.ready
    }

    /// Slots that hold a segment past the newest CP.
    pub fn segments_in_use(&self) -> u32 {
        self.slots
            .iter()
            .filter(|slot| slot.segment.is_some_and(|segment| segment > self.cp))
            .count() as u32
    }

    /// True when all `batches` batches of a segment, up to `last`, are durable here (MIR-3).
    pub fn holds(&self, segment: CpId, batches: u32, last: Lsn) -> bool {
        let slot = &self.slots[self.geometry.slot(segment)];
        let whole = slot.segment == Some(segment) && slot.batches == batches && slot.last == last;
        (whole || batches == 0) && self.durable >= last
    }

    /// The CP is durable here: its segment's slot may be taken by another.
    pub fn drained(&mut self, cp: CpId) {
        assert!(cp == self.cp.next(), "MIR-4: CPs are drained in order");
        self.cp = cp;
        if self.at <= cp {
            self.at = cp.next();
        }
    }
}

fn sector_mask(offset: u32, length: u32) -> u16 {
    u16::from(PagePart { first: (offset / 512) as u8, count: (length / 512) as u8 }.mask())
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
