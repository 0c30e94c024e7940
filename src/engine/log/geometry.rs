//! Where a log's segments lie, in the arena and on the log device. The same on both nodes.

use ibid_units::{BLOCK_BYTES, CpId, LogBlock, Span};
use ibid_wire::disk::SEGMENTS_AT;

/// Slots and their size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogGeometry {
    /// Number of segment slots.
    pub segments: u32,
    /// Blocks of each, header included.
    pub segment_blocks: u32,
    /// Where slot 0 begins in the arena.
    pub arena_at: u64,
}

impl LogGeometry {
    /// The slot that segment `segment` lies in.
    pub fn slot(&self, segment: CpId) -> usize {
        (segment.get() % u64::from(self.segments)) as usize
    }
    /// Bytes of one segment.
    pub const fn segment_bytes(&self) -> u64 {
        self.segment_blocks as u64 * BLOCK_BYTES
    }
    /// Bytes of all segments.
    pub const fn bytes(&self) -> u64 {
        self.segments as u64 * self.segment_bytes()
    }
    /// `count` whole blocks of a segment from `block` on, in the arena.
    pub fn span(&self, segment: CpId, block: LogBlock, count: u32) -> Span {
        assert!(block.get() + count <= self.segment_blocks, "a span of blocks lies in its segment");
        let at = self.arena_at
            + self.slot(segment) as u64 * self.segment_bytes()
            + u64::from(block.get()) * BLOCK_BYTES;
        Span::new(at, count * BLOCK_BYTES as u32)
    }
    /// Where a block lies on the log device.
    pub fn device_at(&self, segment: CpId, block: LogBlock) -> u64 {
        SEGMENTS_AT
            + self.slot(segment) as u64 * self.segment_bytes()
            + u64::from(block.get()) * BLOCK_BYTES
    }
    /// The block of batch `index`: batches grow down from the last block.
    pub fn batch_block(&self, index: u32) -> LogBlock {
        LogBlock::new(self.segment_blocks - 1 - index)
    }
    /// Bytes that a log device needs.
    pub const fn device_bytes(&self) -> u64 {
        SEGMENTS_AT + self.bytes()
    }
}
