//! The dirty index of one segment: volume block → the newest pages that hold its sectors.
//! Takes committed entries in Lsn order; answers reads and, sorted, is the CP's list. All memory is taken at start.
//! IDX-1 the masks of one block's nodes are disjoint, so a block has at most eight, and the newest byte is named once.

use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{LogBlock, VolumeId};

/// Where the newest version of some sectors of a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockSource {
    /// In this page of the segment.
    Page(LogBlock),
    /// They are zero.
    Zeroes,
    /// They are zero and unallocated.
    Deallocated,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    key: u64,
    next: u32,
    page: u32,
    mask: u8,
}

/// The index. Nodes are handed out in order and taken back only all at once.
#[derive(Debug)]
pub struct Index {
    nodes: Vec<Node>,
    nodes_max: usize,
    heads: Vec<u32>,
    /// Nodes whose sectors have all been overwritten since.
    dead: usize,
}

const NONE: u32 = u32::MAX;
const PAGE_ZEROES: u32 = u32::MAX;
const PAGE_DEALLOCATED: u32 = u32::MAX - 1;

/// Block versions that the index of a segment has room for: two per block, for writes within blocks take a page each; and
/// never fewer than the largest opcode touches (8 MiB that begin within a block), whatever the segment's size.
pub const fn nodes_max(segment_blocks: u32) -> usize {
    let nodes = 2 * segment_blocks as usize;
    if nodes < 2 * OPCODE_BLOCKS_MAX { 2 * OPCODE_BLOCKS_MAX } else { nodes }
}

/// Blocks that the largest Write Zeroes or deallocation touches.
const OPCODE_BLOCKS_MAX: usize = (8 << 20) / 4096 + 1;

/// A block's key: sorts by volume, then by place.
pub(crate) const fn key(volume: VolumeId, block: u64) -> u64 {
    (volume.get() as u64) << 48 | block
}

/// The parts of a key.
pub(crate) const fn unkey(key: u64) -> (VolumeId, u64) {
    (VolumeId::new((key >> 48) as u16), key & 0x0000_FFFF_FFFF_FFFF)
}

impl Index {
    /// An empty index with room for `nodes_max` block versions.
    pub fn new(nodes_max: usize) -> Self {
        // At most half full, so that a probe ends soon.
        let heads = (nodes_max * 2).next_power_of_two();
        Self { nodes: Vec::with_capacity(nodes_max), nodes_max, heads: vec![NONE; heads], dead: 0 }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if !self.nodes.is_empty() {
            self.heads.fill(NONE);
        }
        self.nodes.clear();
        self.dead = 0;
    }

    /// Block versions it still has room for.
    pub fn room(&self) -> usize {
        self.nodes_max - self.nodes.len()
    }

    /// True while nothing was ever inserted.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Block versions that are not wholly overwritten.
    pub fn live(&self) -> usize {
        self.nodes.len() - self.dead
    }

    fn head(&self, key: u64) -> usize {
        // Fibonacci hashing: neighbours spread, and the multiplication is all it costs.
        let bits = self.heads.len().trailing_zeros();
        let mut at = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize;
        loop {
            let node = self.heads[at];
            if node == NONE || self.nodes[node as usize].key == key {
                return at;
            }
            at = (at + 1) & (self.heads.len() - 1);
        }
    }

    /// Makes `source` the newest version of the sectors in `mask` of a block.
    ///
    /// # Panics
    /// If the index is full; whoever admits writes reserves their nodes before.
    pub fn insert(&mut self, volume: VolumeId, block: u64, mask: u8, source: BlockSource) {
        assert!(mask != 0, "a version of no sectors is no version");
        assert!(
            self.nodes.len() < self.nodes_max,
            "index nodes are reserved before a write is admitted"
        );
        let key = key(volume, block);
        let head = self.head(key);
        let mut first = NONE;
        let mut last_kept = NONE;
        let mut at = self.heads[head];
        while at != NONE {
            let node = &mut self.nodes[at as usize];
            let next = node.next;
            node.mask &= !mask;
            if node.mask == 0 {
                self.dead += 1;
            } else {
                node.next = NONE;
                if last_kept == NONE {
                    first = at;
                } else {
                    self.nodes[last_kept as usize].next = at;
                }
                last_kept = at;
            }
            at = next;
        }
        let page = match source {
            BlockSource::Page(page) => page.get(),
            BlockSource::Zeroes => PAGE_ZEROES,
            BlockSource::Deallocated => PAGE_DEALLOCATED,
        };
        self.heads[head] = self.nodes.len() as u32;
        self.nodes.push(Node { key, next: first, page, mask });
    }

    /// The newest versions of a block's sectors, newest first, masks disjoint (IDX-1).
    pub fn lookup(
        &self,
        volume: VolumeId,
        block: u64,
    ) -> impl Iterator<Item = (u8, BlockSource)> + '_ {
        let mut at =
            if self.nodes.is_empty() { NONE } else { self.heads[self.head(key(volume, block))] };
        core::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.next;
            Some((node.mask, source_of(node.page)))
        })
    }

    /// Number of nodes ever inserted, dead ones included: what [`Index::node`] can be asked for.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// A node's key, mask (0 when dead) and source.
    pub(crate) fn node(&self, index: u32) -> (u64, u8, BlockSource) {
        let node = &self.nodes[index as usize];
        (node.key, node.mask, source_of(node.page))
    }
}

fn source_of(page: u32) -> BlockSource {
    match page {
        PAGE_ZEROES => BlockSource::Zeroes,
        PAGE_DEALLOCATED => BlockSource::Deallocated,
        page => BlockSource::Page(LogBlock::new(page)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    fn sectors(index: &Index, volume: VolumeId, block: u64) -> [Option<BlockSource>; 8] {
        let mut out = [None; 8];
        for (mask, source) in index.lookup(volume, block) {
            for (sector, slot) in out.iter_mut().enumerate() {
                if mask >> sector & 1 == 1 {
                    assert!(slot.is_none(), "IDX-1: sector {sector} is named twice");
                    *slot = Some(source);
                }
            }
        }
        out
    }

    #[test]
    fn the_newest_version_of_every_sector_wins() {
        let mut index = Index::new(4000);
        let mut model: BTreeMap<(u64, usize), BlockSource> = BTreeMap::new();
        let volume = VolumeId::new(2);
        let mut seed = 7u64;
        for page in 0..4000u32 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (block, mask) = (seed >> 33 & 31, ((seed >> 40) as u8).max(1));
            let source = match page % 11 {
                0 => BlockSource::Zeroes,
                1 => BlockSource::Deallocated,
                _ => BlockSource::Page(LogBlock::new(page)),
            };
            index.insert(volume, block, mask, source);
            for sector in 0..8 {
                if mask >> sector & 1 == 1 {
                    model.insert((block, sector), source);
                }
            }
            assert!(index.lookup(volume, block).count() <= 8);
        }
        for block in 0..32 {
            for (sector, found) in sectors(&index, volume, block).iter().enumerate() {
                assert_eq!(found.as_ref(), model.get(&(block, sector)));
            }
        }
        let live = (0..index.node_count() as u32).filter(|n| index.node(*n).1 != 0).count();
        assert_eq!(live, index.live());
        assert_eq!(index.room(), 0);
        index.clear();
        assert_eq!(index.lookup(volume, 3).count(), 0);
        assert_eq!(index.room(), 4000);
    }
}
