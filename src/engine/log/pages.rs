//! What is known of each block of each slot: the payload part of it that counts, and the checksum of that part.

use super::LogGeometry;
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{CpId, LogBlock};

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

    /// Forgets a slot's pages, before another segment takes it.
    pub fn clear(&mut self, segment: CpId) {
        let blocks = self.geometry.segment_blocks as usize;
        let start = self.geometry.slot(segment) * blocks;
        self.parts[start..start + blocks].fill(PagePart::default());
    }
}
