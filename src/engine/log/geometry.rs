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
    /// The segment that slot `slot` holds, or will hold, in the lap that begins after `cp`.
    pub fn segment_after(&self, cp: CpId, slot: u32) -> CpId {
        let first = cp.next().get();
        let segments = u64::from(self.segments);
        CpId::new(first + (u64::from(slot) + segments - first % segments) % segments)
    }
    /// Where the map of blocks that are out of sync begins on the log device: behind the last segment.
    pub const fn map_at(&self) -> u64 {
        self.device_bytes()
    }
    /// Bytes that a log device needs for superblocks and segments.
    pub const fn device_bytes(&self) -> u64 {
        SEGMENTS_AT + self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_one_segment_of_the_lap_after_a_cp() {
        let geometry = LogGeometry { segments: 5, segment_blocks: 8, arena_at: 0 };
        for cp in 0..23 {
            let mut segments: alloc::vec::Vec<u64> = (0..5)
                .map(|slot| {
                    let segment = geometry.segment_after(CpId::new(cp), slot);
                    assert_eq!(geometry.slot(segment), slot as usize);
                    segment.get()
                })
                .collect();
            segments.sort_unstable();
            assert!(segments.into_iter().eq(cp + 1..cp + 6));
        }
    }
}
