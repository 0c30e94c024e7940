//! The blocks that one CP brings from the out-of-sync map, each with a page of the source's staging memory. All memory is taken at start.
//! Takes the map; gives runs to be read from volumes, and to the lister the blocks in order. After the CP: their bits, cleared.
//! MAP-2  a bit is cleared only for a block that a CP brought, once; what was set again since the CP before is brought again.

use super::OutOfSync;
use alloc::vec::Vec;
use ibid_units::VolumeId;

/// A block that the CP brings. Its place in the list is the number of its staging page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Brought {
    /// Which volume.
    pub volume: VolumeId,
    /// Which block of it.
    pub block: u64,
    /// All its bytes are zero: it needs no page on the link.
    pub zero: bool,
    /// It could not be read: it stays in the map, and this CP goes without.
    pub bad: bool,
}

/// Blocks next to one another in a volume, and so in staging memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BroughtRun {
    /// Which volume.
    pub volume: VolumeId,
    /// The first block.
    pub first_block: u64,
    /// How many.
    pub blocks: u32,
    /// The staging page of the first; the others follow.
    pub first_page: u32,
}

/// What one CP brings.
#[derive(Debug)]
pub struct CatchUp {
    /// In rising order.
    blocks: Vec<Brought>,
    blocks_max: usize,
}

impl CatchUp {
    /// Nothing, with room for this many blocks.
    pub fn new(blocks_max: u32) -> Self {
        let blocks_max = blocks_max as usize;
        Self { blocks: Vec::with_capacity(blocks_max), blocks_max }
    }

    /// Takes the lowest blocks of the map, as many as there is room for; returns how many.
    pub fn begin(&mut self, map: &OutOfSync) -> usize {
        self.blocks.clear();
        let mut from = (VolumeId::new(0), 0);
        while self.blocks.len() < self.blocks_max {
            let Some((volume, block)) = map.next_from(from.0, from.1) else { break };
            self.blocks.push(Brought { volume, block, zero: false, bad: false });
            from = (volume, block + 1);
        }
        self.blocks.len()
    }

    /// Brings nothing.
    pub fn clear(&mut self) {
        self.blocks.clear();
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// True where nothing is brought.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The block with staging page `index`.
    pub fn get(&self, index: usize) -> Option<Brought> {
        self.blocks.get(index).copied()
    }

    /// The block with this staging page could not be read: it is not brought.
    pub fn set_bad(&mut self, index: usize) {
        self.blocks[index].bad = true;
    }

    /// Blocks that are brought: those that could be read.
    pub fn brought(&self) -> usize {
        self.blocks.iter().filter(|block| !block.bad).count()
    }

    /// The block with this staging page was read and is all zeroes.
    pub fn set_zero(&mut self, index: usize) {
        self.blocks[index].zero = true;
    }

    /// The staging page of a block that is brought.
    pub fn page_of(&self, volume: VolumeId, block: u64) -> Option<u32> {
        self.blocks
            .binary_search_by_key(&(volume, block), |brought| (brought.volume, brought.block))
            .ok()
            .map(|index| index as u32)
    }

    /// The run that begins with staging page `first_page`, of at most `blocks_max` blocks; `None` behind the last.
    pub fn run_from(&self, first_page: u32, blocks_max: u32) -> Option<BroughtRun> {
        let rest = self.blocks.get(first_page as usize..)?;
        let first = rest.first()?;
        let blocks = (0u64..)
            .zip(rest)
            .take(blocks_max as usize)
            .take_while(|(n, at)| at.volume == first.volume && at.block == first.block + n)
            .count() as u32;
        assert!(blocks > 0, "a run has a block, so the reader gets on");
        Some(BroughtRun { volume: first.volume, first_block: first.block, blocks, first_page })
    }

    /// All runs, of at most `blocks_max` blocks each.
    pub fn runs(&self, blocks_max: u32) -> impl Iterator<Item = BroughtRun> + '_ {
        let mut next = 0;
        core::iter::from_fn(move || {
            let run = self.run_from(next, blocks_max)?;
            next += run.blocks;
            Some(run)
        })
    }

    /// The CP is durable at the peer: what it brought no longer differs. Brings nothing afterwards (MAP-2).
    pub fn settle(&mut self, map: &mut OutOfSync) {
        for brought in self.blocks.drain(..).filter(|block| !block.bad) {
            map.clear(brought.volume, brought.block);
        }
    }
}

#[cfg(test)]
#[path = "catch_up_tests.rs"]
mod tests;
