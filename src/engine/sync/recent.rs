//! Checksums of whole blocks as recent CPs wrote them: a table of fixed size, in which a newer block takes the place of an older one. All
//! memory is taken at start.
//! Takes the records of each CP's list; gives, for blocks that it still knows, what both volumes must hold between CPs.
//! SUM-1  a sum is given only for a block of which the last record that touched it covered all eight sectors; it is then the sum that was
//!        taken when the client's bytes came.

use crate::log::{PageTable, key};
use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{BLOCK_BYTES, BLOCK_SECTORS, CpId, LogBlock, VolumeId};
use ibid_wire::peer::{Record, RecordKind};

/// Lines of the table: 16 bytes each, 1 MiB in all, for as many blocks as make 256 MiB.
pub const RECENT_LINES: usize = 1 << 16;

#[derive(Clone, Copy, Debug)]
struct Line {
    key: u64,
    crc: u32,
}

/// No block has this key: a volume's blocks have numbers of 48 bits.
const NOBODY: Line = Line { key: u64::MAX, crc: 0 };

/// The table.
#[derive(Debug)]
pub struct RecentSums {
    lines: Vec<Line>,
    /// The sum of a block of zeroes.
    zeroes: u32,
}

impl Default for RecentSums {
    fn default() -> Self {
        Self::new(RECENT_LINES)
    }
}

impl RecentSums {
    /// A table that knows nothing yet, of at least so many lines.
    pub fn new(lines: usize) -> Self {
        let zeroes = ibid_wire::crc32c(&[0; BLOCK_BYTES as usize]);
        Self { lines: vec![NOBODY; lines.next_power_of_two().max(2)], zeroes }
    }

    fn line(&self, key: u64) -> usize {
        // Fibonacci hashing, as in the index.
        let bits = self.lines.len().trailing_zeros();
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize
    }

    /// What a block holds, if that is known.
    pub fn get(&self, volume: VolumeId, block: u64) -> Option<u32> {
        let key = key(volume, block);
        let line = self.lines[self.line(key)];
        (line.key == key).then_some(line.crc)
    }

    fn set(&mut self, volume: VolumeId, block: u64, crc: Option<u32>) {
        let key = key(volume, block);
        let at = self.line(key);
        match crc {
            Some(crc) => self.lines[at] = Line { key, crc },
            None if self.lines[at].key == key => self.lines[at] = NOBODY,
            None => {}
        }
    }

    /// Takes a record of the list of CP `segment`, made from these pages. Until that CP is done nothing may be asked of the table.
    pub fn take(&mut self, volume: VolumeId, record: &Record, segment: CpId, pages: &PageTable) {
        match record.kind {
            RecordKind::Reference(_) | RecordKind::Zeroes | RecordKind::Deallocate => {}
            // What is brought to the peer changes nothing here.
            RecordKind::Block | RecordKind::Hole | RecordKind::Volume(_) => return,
        }
        let start = u64::from(record.first.in_block());
        let end = start + u64::from(record.sectors.get());
        for n in 0..record.pages() {
            let from = u64::from(n) * BLOCK_SECTORS;
            let whole = start <= from && from + BLOCK_SECTORS <= end;
            let crc = match record.kind {
                RecordKind::Reference(page) => {
                    let page = LogBlock::new(page.get() + n);
                    let all = u64::from(pages.part(segment, page).count) == BLOCK_SECTORS;
                    (whole && all).then(|| pages.crc(segment, page))
                }
                RecordKind::Zeroes
                | RecordKind::Deallocate
                | RecordKind::Block
                | RecordKind::Hole
                | RecordKind::Volume(_) => whole.then_some(self.zeroes),
            };
            self.set(volume, record.first.block() + u64::from(n), crc);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogGeometry, PagePart};
    use alloc::collections::BTreeMap;
    use ibid_units::{Sector, Sectors};

    const CP: CpId = CpId::new(3);
    const VOLUME: VolumeId = VolumeId::new(2);

    fn pages() -> PageTable {
        let geometry = LogGeometry { segments: 2, segment_blocks: 64, arena_at: 0 };
        let mut pages = PageTable::new(geometry);
        for page in 1..64 {
            // Page 9 carries a part of its block only.
            let count = if page == 9 { 5 } else { 8 };
            pages.set(CP, LogBlock::new(page), PagePart { first: 0, count }, 1000 + page);
        }
        pages
    }

    fn record(kind: RecordKind, first: u64, sectors: u32) -> Record {
        Record { kind, first: Sector::new(first), sectors: Sectors::new(sectors), digest: 0 }
    }

    #[test]
    fn only_blocks_that_a_record_covers_are_known_and_a_part_takes_them_away() {
        let (pages, mut sums) = (pages(), RecentSums::new(1024));
        let reference = |page| RecordKind::Reference(LogBlock::new(page));
        let get = |sums: &RecentSums, block| sums.get(VOLUME, block);
        // Blocks 1 (from its third sector on), 2, 3, and half of 4.
        sums.take(VOLUME, &record(reference(4), 10, 26), CP, &pages);
        assert_eq!(
            (1..5).map(|n| get(&sums, n)).collect::<Vec<_>>(),
            [None, Some(1005), Some(1006), None]
        );
        assert_eq!(sums.get(VolumeId::new(1), 2), None, "another volume");
        // Block and hole are brought from here: nothing changes here.
        sums.take(VOLUME, &record(RecordKind::Block, 16, 8), CP, &pages);
        sums.take(VOLUME, &record(RecordKind::Hole, 24, 2), CP, &pages);
        assert_eq!((get(&sums, 2), get(&sums, 3)), (Some(1005), Some(1006)));
        for kind in [reference(20), RecordKind::Zeroes, RecordKind::Deallocate] {
            sums.take(VOLUME, &record(reference(4), 16, 8), CP, &pages);
            sums.take(VOLUME, &record(kind, 17, 7), CP, &pages);
            assert_eq!(get(&sums, 2), None, "{kind:?}");
        }
        for kind in [RecordKind::Zeroes, RecordKind::Deallocate] {
            sums.take(VOLUME, &record(reference(4), 16, 8), CP, &pages);
            sums.take(VOLUME, &record(kind, 16, 8), CP, &pages);
            assert_eq!(get(&sums, 2), Some(ibid_wire::crc32c(&[0; 4096])), "{kind:?}");
        }
        sums.take(VOLUME, &record(reference(9), 40, 8), CP, &pages);
        assert_eq!(get(&sums, 5), None, "its page carries a part");
    }

    /// SUM-1, with a table so small that blocks push each other out all the time.
    #[test]
    fn what_is_known_is_always_what_was_written_last() {
        let (pages, mut sums) = (pages(), RecentSums::new(16));
        let mut model: BTreeMap<u64, Option<u32>> = BTreeMap::new();
        let mut random = 7u64;
        let mut below = move |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        let mut known = 0;
        for _ in 0..20_000 {
            let (block, page) = (below(40), 10 + below(50) as u32);
            let whole = below(3) > 0;
            let (first, sectors) = if whole { (block * 8, 8) } else { (block * 8 + below(7), 1) };
            let zero = below(4) == 0;
            let kind =
                if zero { RecordKind::Zeroes } else { RecordKind::Reference(LogBlock::new(page)) };
            sums.take(VOLUME, &record(kind, first, sectors), CP, &pages);
            let sum = if zero { ibid_wire::crc32c(&[0; 4096]) } else { 1000 + page };
            model.insert(block, whole.then_some(sum));
            for (block, sum) in &model {
                if let Some(found) = sums.get(VOLUME, *block) {
                    assert_eq!(Some(found), *sum, "SUM-1");
                    known += 1;
                }
            }
        }
        assert!(known > 100_000, "the table forgets everything");
    }
}
