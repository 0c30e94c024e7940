//! The destination's log: takes pieces in any order, finds out when a batch is whole, says what is durable and what a reference may name.
//! MIR-1  a piece goes exactly where the source has it; a piece that is there already changes nothing.
//! MIR-2  batches become ready in Lsn order, only when descriptor, header and every page of them have checked.
//! MIR-3  a page proves a reference only when the batch that names it is durable.
//! MIR-4  a slot takes a new segment only after its old one's CP is durable here.

use super::{ClosedBatch, LogGeometry, PagePart, PageTable};
use crate::memory::Memory;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{BLOCK_BYTES, CpId, LogBlock, Lsn, SECTOR_BYTES, Span};
use ibid_wire::disk::{Batch, Entry, SegmentHeader};

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
    last: Lsn,
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
        let empty = MirrorSlot { segment: None, batches: 0, previous: 0, last: Lsn::new(0) };
        Self {
            geometry,
            pair,
            slots: vec![empty; geometry.segments as usize],
            have: vec![0; blocks],
            pages: PageTable::new(geometry),
            arrived_crc: PageTable::new(geometry),
            cp,
            at: cp.next(),
            ready: last_lsn,
            durable: last_lsn,
            volume_sectors,
        }
    }

    /// Forgets everything after the newest CP: the source is another one now and sends it again.
    pub fn reset(&mut self, last_lsn: Lsn) {
        for slot in &mut self.slots {
            slot.segment = None;
        }
        self.at = self.cp.next();
        self.ready = last_lsn;
        self.durable = last_lsn;
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
        if self.slots[at].segment == Some(segment) {
            return;
        }
        self.slots[at] =
            MirrorSlot { segment: Some(segment), batches: 0, previous: 0, last: Lsn::new(0) };
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

    /// The next batch in Lsn order, if all of it is here and checks (MIR-2).
    pub fn next_ready(&mut self, memory: &impl Memory) -> Result<Option<ClosedBatch>, MirrorFault> {
        // At most once around: each step either yields or moves to the next segment.
        for _ in 0..=self.geometry.segments {
            let segment = self.at;
            let slot_at = self.geometry.slot(segment);
            if self.slots[slot_at].segment != Some(segment)
                || self.have[self.block_at(segment, 0)] != STRUCTURE
            {
                return Ok(None);
            }
            let slot = self.slots[slot_at];
            if slot.batches == 0 {
                let header = memory
                    .read(self.geometry.span(segment, LogBlock::new(0), 1), SegmentHeader::parse)
                    .map_err(|_| MirrorFault::Structure)?;
                let follows = header.segment == segment && header.first_lsn == self.ready.next();
                if !follows
                    || header.pair != self.pair
                    || header.blocks != self.geometry.segment_blocks
                {
                    return Err(MirrorFault::Order);
                }
            }
            let room = slot.batches + 1 < self.geometry.segment_blocks;
            let block = self.geometry.batch_block(slot.batches);
            if room && self.have[self.block_at(segment, block.get())] == STRUCTURE {
                return self.check_batch(memory, segment, block);
            }
            if !self.next_segment_follows(memory) {
                return Ok(None);
            }
            self.at = segment.next();
        }
        Ok(None)
    }

    /// True when the next segment's header is here and goes on exactly where this one stands: then this one is complete.
    fn next_segment_follows(&self, memory: &impl Memory) -> bool {
        let next = self.at.next();
        if next > self.segment_limit() || self.slots[self.geometry.slot(next)].segment != Some(next)
        {
            return false;
        }
        if self.have[self.block_at(next, 0)] != STRUCTURE {
            return false;
        }
        let header =
            memory.read(self.geometry.span(next, LogBlock::new(0), 1), SegmentHeader::parse);
        header.is_ok_and(|header| header.segment == next && header.first_lsn == self.ready.next())
    }

    fn check_batch(
        &mut self,
        memory: &impl Memory,
        segment: CpId,
        block: LogBlock,
    ) -> Result<Option<ClosedBatch>, MirrorFault> {
        let slot = self.slots[self.geometry.slot(segment)];
        let span = self.geometry.span(segment, block, 1);
        memory.read(span, |bytes| {
            let batch = Batch::parse(bytes).map_err(|_| MirrorFault::Structure)?;
            let header = batch.header;
            let follows = header.segment == segment
                && header.block == block
                && header.index == slot.batches
                && header.previous == slot.previous
                && header.first_lsn == self.ready.next();
            if !follows || batch.entry_count == 0 {
                return Err(MirrorFault::Order);
            }
            for (entry, _) in batch.entries() {
                if !self.entry_fits(&entry, block) {
                    return Err(MirrorFault::Structure);
                }
                for index in 0..entry.pages {
                    let mask = u16::from(part_of(&entry, index).mask());
                    if self.have[self.block_at(segment, entry.page.get() + u32::from(index))] & mask
                        != mask
                    {
                        return Ok(None);
                    }
                }
            }
            for (entry, crcs) in batch.entries() {
                for index in 0..entry.pages {
                    let page = LogBlock::new(entry.page.get() + u32::from(index));
                    let part = part_of(&entry, index);
                    if self.page_crc(memory, segment, page, part) != crcs.get(index) {
                        let at = self.block_at(segment, page.get());
                        self.have[at] = 0;
                        return Err(MirrorFault::Page);
                    }
                    self.pages.set(segment, page, part, crcs.get(index));
                }
            }
            let last = Lsn::new(self.ready.get() + u64::from(batch.entry_count));
            self.ready = last;
            let at = self.geometry.slot(segment);
            let slot = &mut self.slots[at];
            slot.batches += 1;
            slot.previous = batch.crc;
            slot.last = last;
            Ok(Some(ClosedBatch { segment, block, with_header: slot.batches == 1, last }))
        })
    }

    /// A page's checksum: the frame's where it came in one piece that was exactly the part, otherwise summed now.
    fn page_crc(&self, memory: &impl Memory, segment: CpId, page: LogBlock, part: PagePart) -> u32 {
        if self.arrived_crc.part(segment, page) == part {
            return self.arrived_crc.crc(segment, page);
        }
        let whole = self.geometry.span(segment, page, 1);
        let sector = SECTOR_BYTES as u32;
        memory.crc32c(Span::new(
            whole.at + u64::from(u32::from(part.first) * sector),
            u32::from(part.count) * sector,
        ))
    }

    fn entry_fits(&self, entry: &Entry, below: LogBlock) -> bool {
        let end = entry.first.checked_end(entry.sectors);
        let in_volume = self
            .volume_sectors
            .get(usize::from(entry.volume.get()))
            .is_some_and(|sectors| end.is_some_and(|end| end.get() <= *sectors));
        let pages_end = entry.page.get().checked_add(u32::from(entry.pages));
        let in_pages = entry.pages == 0
            || (entry.page.get() >= 1 && pages_end.is_some_and(|end| end <= below.get()));
        in_volume && in_pages
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

fn part_of(entry: &Entry, index: u16) -> PagePart {
    let (first, count) = entry.page_part(index);
    PagePart { first: first as u8, count: count as u8 }
}

fn sector_mask(offset: u32, length: u32) -> u16 {
    u16::from(PagePart { first: (offset / 512) as u8, count: (length / 512) as u8 }.mask())
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
