//! Runs of blocks from a region of the arena, for reads. First fit from where the last search ended; no memory taken after start.

use crate::layout::Span64;
use ibid_units::{BLOCK_BYTES, Span};

/// A region's free blocks, a bit each (1 = taken).
#[derive(Debug)]
pub(crate) struct RunPool {
    region: Span64,
    taken: Vec<u64>,
    next: u32,
    free: u32,
}

impl RunPool {
    pub(crate) fn new(region: Span64) -> Self {
        Self {
            region,
            taken: vec![0; region.blocks.div_ceil(64) as usize],
            next: 0,
            free: region.blocks,
        }
    }

    fn is_taken(&self, block: u32) -> bool {
        self.taken[block as usize / 64] >> (block % 64) & 1 == 1
    }

    fn set(&mut self, first: u32, count: u32, taken: bool) {
        for block in first..first + count {
            let word = &mut self.taken[block as usize / 64];
            let bit = 1 << (block % 64);
            if taken { *word |= bit } else { *word &= !bit }
        }
    }

    /// A run of `count` blocks; `None` where there is none just now.
    pub(crate) fn take(&mut self, count: u32) -> Option<Span> {
        if count == 0 || count > self.free {
            return None;
        }
        for (from, to) in [(self.next, self.region.blocks), (0, self.region.blocks)] {
            let mut first = from;
            let mut found = 0;
            for block in from..to {
                if self.is_taken(block) {
                    first = block + 1;
                    found = 0;
                    continue;
                }
                found += 1;
                if found == count {
                    self.set(first, count, true);
                    self.free -= count;
                    self.next = (first + count) % self.region.blocks;
                    return Some(Span::new(
                        self.region.at + u64::from(first) * BLOCK_BYTES,
                        count * BLOCK_BYTES as u32,
                    ));
                }
            }
        }
        None
    }

    /// Gives a run back.
    pub(crate) fn give(&mut self, run: Span) {
        let first = ((run.at - self.region.at) / BLOCK_BYTES) as u32;
        let count = run.len / BLOCK_BYTES as u32;
        assert!(
            (first..first + count).all(|block| self.is_taken(block)),
            "a run is given back once"
        );
        self.set(first, count, false);
        self.free += count;
        if self.free == self.region.blocks {
            // What comes next leaves the rest in one piece.
            self.next = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_never_overlap_and_all_come_back() {
        let mut pool = RunPool::new(Span64 { at: 8192, blocks: 100 });
        let mut held: Vec<Span> = Vec::new();
        let mut seed = 5u64;
        for _ in 0..5000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let count = 1 + (seed >> 33) as u32 % 9;
            if seed >> 50 & 1 == 0
                && let Some(run) = pool.take(count)
            {
                assert!(held.iter().all(|other| run.end() <= other.at || other.end() <= run.at));
                assert!(run.at >= 8192 && run.end() <= 8192 + 100 * 4096);
                held.push(run);
            } else if !held.is_empty() {
                pool.give(held.swap_remove(seed as usize % held.len()));
            }
        }
        held.drain(..).for_each(|run| pool.give(run));
        assert_eq!(pool.free, 100);
        assert!(pool.take(100).is_some());
        assert!(pool.take(1).is_none());
    }
}
