//! What lies where in a node's arena. Decided once, before the arena is taken.

use ibid_engine::log::LogGeometry;
use ibid_units::{BLOCK_BYTES, Span};

/// Sizes that the configuration gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayoutConfig {
    /// Slots of the log.
    pub segments: u32,
    /// Blocks of each.
    pub segment_blocks: u32,
    /// Blocks for reads from volumes (source) …
    pub read_blocks: u32,
    /// … and beside the log: for late data of clients (source), for block payload on its way to a volume (destination).
    pub staging_blocks: u32,
    /// Blocks read from volumes for a peer that is being caught up (source).
    pub catch_up_blocks: u32,
    /// Blocks for what one node asks of the other outside the log's order.
    pub answer_blocks: u32,
    /// Blocks for data that clients want compared, and what it is compared with (source): [`crate::COMPARE_ASKED_BLOCKS`] and those for data in
    /// capsules.
    pub compare_blocks: u32,
}

/// Pages of the out-of-sync map that are read or written at once.
pub const MAP_STAGING_BLOCKS: u32 = 16;

/// The arena's regions, in order: log, reads, staging, catch-up, answers, map, compares, zeroes, superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The log's slots, from offset 0 on.
    pub log: LogGeometry,
    /// Memory for reads.
    pub reads: Span64,
    /// Memory beside the log: late data at a source, blocks on their way to a volume at a destination.
    pub staging: Span64,
    /// Blocks of volumes on their way to a peer that is being caught up.
    pub catch_up: Span64,
    /// What was asked of the peer, or is being read for it.
    pub answers: Span64,
    /// Pages of the out-of-sync map between memory and device.
    pub map: Span64,
    /// Data that is compared.
    pub compares: Span64,
    /// One MiB that is never written.
    pub zeroes: Span,
    /// One block for writing superblocks from.
    pub superblock: Span,
}

/// A region of the arena that may be longer than a [`Span`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span64 {
    /// First byte.
    pub at: u64,
    /// Number of blocks.
    pub blocks: u32,
}

impl Span64 {
    const fn end(self) -> u64 {
        self.at + self.blocks as u64 * BLOCK_BYTES
    }
}

impl Layout {
    /// Lays the regions out one behind the other.
    pub fn new(config: LayoutConfig) -> Layout {
        let log = LogGeometry {
            segments: config.segments,
            segment_blocks: config.segment_blocks,
            arena_at: 0,
        };
        let reads = Span64 { at: log.bytes(), blocks: config.read_blocks };
        let staging = Span64 { at: reads.end(), blocks: config.staging_blocks };
        let catch_up = Span64 { at: staging.end(), blocks: config.catch_up_blocks };
        let answers = Span64 { at: catch_up.end(), blocks: config.answer_blocks };
        let map = Span64 { at: answers.end(), blocks: MAP_STAGING_BLOCKS };
        let compares = Span64 { at: map.end(), blocks: config.compare_blocks };
        let zeroes = Span::new(compares.end(), 1 << 20);
        let superblock = Span::new(zeroes.end(), BLOCK_BYTES as u32);
        Layout { log, reads, staging, catch_up, answers, map, compares, zeroes, superblock }
    }

    /// Bytes the arena must have.
    pub const fn bytes(&self) -> u64 {
        self.superblock.end()
    }
}
