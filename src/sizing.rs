//! What a node takes of the machine's memory, from its configuration alone: the arena's layout, and what DPDK gets beside it.
//! `ibid run` takes by this arithmetic, `ibid doctor` compares by it with what there is.

use anyhow::Context as _;
use ibid_control::config::{Config, Role};
use ibid_runtime::{COMPARE_ASKED_BLOCKS, Layout, LayoutConfig};
use ibid_units::BLOCK_BYTES;

/// MiB that DPDK takes for packet buffers and its own structures.
pub(crate) const EAL_MEMORY_MIB: usize = 64;
/// Blocks of a CP on their way to a volume, at a destination: 4 MiB.
const STAGING_BLOCKS: u32 = 1024;
/// Memory beside the log for late data of large writes, at a source: 16 MiB, half of which may be under way.
const ASIDE_BLOCKS: u32 = 4096;
/// Blocks that one CP brings to a peer that is being caught up: 4 MiB. The destination's tables are as large, so both nodes need the same number.
const CATCH_UP_BLOCKS: u32 = 1024;
/// Memory for what one node asks of the other outside the log's order, and compares with it: 2 MiB.
const ANSWER_BLOCKS: u32 = 512;
/// Memory for data of clients that is compared with what a volume holds, at a source: 4 MiB for what is asked for, which is two of the longest
/// compares with what they are compared with, and 2 MiB for what comes in capsules.
const COMPARE_BLOCKS: u32 = COMPARE_ASKED_BLOCKS + 512;
/// The least memory for reads: eight of the longest.
const READ_BLOCKS_MIN: u32 = 8 * 257;

/// Blocks of a segment of the log.
pub(crate) fn segment_blocks(config: &Config) -> anyhow::Result<u32> {
    u32::try_from(config.log.segment_size / BLOCK_BYTES).context("log.segment_size")
}

/// What lies where in the node's arena.
pub(crate) fn layout(config: &Config) -> anyhow::Result<Layout> {
    let is_source = config.node.role == Role::Source;
    let read_blocks = (config.node.read_memory / BLOCK_BYTES).max(u64::from(READ_BLOCKS_MIN));
    Ok(Layout::new(LayoutConfig {
        segments: config.log.segments,
        segment_blocks: segment_blocks(config)?,
        read_blocks: if is_source {
            u32::try_from(read_blocks).context("node.read_memory")?
        } else {
            0
        },
        staging_blocks: if is_source { ASIDE_BLOCKS } else { STAGING_BLOCKS },
        catch_up_blocks: CATCH_UP_BLOCKS,
        answer_blocks: ANSWER_BLOCKS,
        compare_blocks: if is_source { COMPARE_BLOCKS } else { 0 },
    }))
}
