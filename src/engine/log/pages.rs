//! What is known of each block of each slot: the payload part of it that counts, and the checksum of that part.

use super::LogGeometry;
use crate::Memory;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{CpId, LogBlock, SECTOR_BYTES, Span};

/// The part of a page that carries payload, in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagePart {
    /// First sector, 0 to 7.
    pub first: u8,
    /// Number of sectors; 0 where nothing is known of the page.
    pub count: u8,
}

impl PagePart {
    /// The part as a bit per sector.
    pub const fn mask(self) -> u8 {
        (((1u16 << self.count) - 1) << self.first) as u8
    }
}

/// One line per block of every slot, taken at start.
#[derive(Debug)]
pub struct PageTable {
    geometry: LogGeometry,
    crcs: Vec<u32>,
    parts: Vec<PagePart>,
}

impl PageTable {
    /// A table that knows nothing yet.
    pub fn new(geometry: LogGeometry) -> Self {
        let blocks = geometry.segments as usize * geometry.segment_blocks as usize;
        Self { geometry, crcs: vec![0; blocks], parts: vec![PagePart::default(); blocks] }
    }

    fn at(&self, segment: CpId, block: LogBlock) -> usize {
        assert!(block.get() < self.geometry.segment_blocks, "a block lies in its segment");
        self.geometry.slot(segment) * self.geometry.segment_blocks as usize + block.get() as usize
    }

    /// Records a page's part and its checksum.
    pub fn set(&mut self, segment: CpId, block: LogBlock, part: PagePart, crc: u32) {
        let at = self.at(segment, block);
        self.parts[at] = part;
        self.crcs[at] = crc;
    }

    /// The part of a page that carries payload; empty where nothing was recorded since the slot was cleared.
    pub fn part(&self, segment: CpId, block: LogBlock) -> PagePart {
        self.parts[self.at(segment, block)]
    }

    /// The checksum of that part.
    pub fn crc(&self, segment: CpId, block: LogBlock) -> u32 {
        self.crcs[self.at(segment, block)]
    }

    /// How many pages from `page` on, of `count`, still hold in memory what was summed when it came.
    pub fn sound<M: Memory>(&self, segment: CpId, page: LogBlock, count: u32, memory: &M) -> u32 {
        let is_sound = |n: &u32| {
            let block = LogBlock::new(page.get() + n);
            let part = self.part(segment, block);
            let whole = self.geometry.span(segment, block, 1);
            let sector = SECTOR_BYTES as u32;
            let at = whole.at + u64::from(u32::from(part.first) * sector);
            memory.crc32c(Span::new(at, u32::from(part.count) * sector)) == self.crc(segment, block)
        };
        (0..count).take_while(is_sound).count() as u32
    }

    /// Forgets a slot's pages, before another segment takes it.
    pub fn clear(&mut self, segment: CpId) {
        let blocks = self.geometry.segment_blocks as usize;
        let start = self.geometry.slot(segment) * blocks;
        self.parts[start..start + blocks].fill(PagePart::default());
    }
}
