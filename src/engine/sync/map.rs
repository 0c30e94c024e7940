//! The out-of-sync map: the blocks in which the peer's volumes may differ, a bit each. All memory is taken at start.
//! Takes blocks set and cleared; gives the pages whose bits changed since they were last emitted. Order against flushes is the caller's.
//! MAP-1  after a page was loaded the map is a superset of what was last emitted: a page that does not check counts as all ones.

use alloc::vec;
use alloc::vec::Vec;
use ibid_units::{BLOCK_SECTORS, Mutant, VolumeId};
use ibid_wire::disk::{MAP_PAGE_BLOCKS, MAP_PAGE_WORDS, MapPage};

/// The map of a node's volumes.
#[derive(Debug)]
pub struct OutOfSync {
    volumes: Vec<Volume>,
    /// Page after page, so that a volume's words are contiguous. Bits past a volume's end are never set.
    words: Vec<u64>,
    /// Set bits of each page.
    counts: Vec<u32>,
    blocks: u64,
    /// Pages that the device does not hold as they are, a bit each.
    dirty: Vec<u64>,
    dirty_pages: u32,
}

#[derive(Debug)]
struct Volume {
    first_page: u32,
    blocks: u64,
}

impl OutOfSync {
    /// An empty map of volumes of these capacities. The device holds none of it yet, so all its pages are dirty.
    pub fn new(volume_sectors: &[u64]) -> Self {
        let mut pages = 0;
        let mut volumes = Vec::with_capacity(volume_sectors.len());
        for sectors in volume_sectors {
            let blocks = sectors.div_ceil(BLOCK_SECTORS);
            volumes.push(Volume { first_page: pages, blocks });
            pages += u32::try_from(blocks.div_ceil(MAP_PAGE_BLOCKS))
                .expect("a volume's blocks have numbers of 48 bits");
        }
        let mut map = Self {
            volumes,
            words: vec![0; pages as usize * MAP_PAGE_WORDS],
            counts: vec![0; pages as usize],
            blocks: 0,
            dirty: vec![0; pages.div_ceil(64) as usize],
            dirty_pages: 0,
        };
        (0..pages).for_each(|page| map.set_dirty(page));
        map
    }

    /// A block may differ at the peer.
    pub fn set(&mut self, volume: VolumeId, block: u64) {
        self.set_run(volume, block, 1);
    }

    /// So may each block of a run.
    pub fn set_run(&mut self, volume: VolumeId, first_block: u64, blocks: u64) {
        let base = self.base(volume);
        let end = first_block + blocks;
        assert!(
            end <= self.volume(volume).blocks,
            "MAP-1: a bit past {volume}'s end means nothing"
        );
        let mut at = first_block;
        while at < end {
            let from = at % 64;
            let count = (64 - from).min(end - at);
            self.raise(base + (at / 64) as usize, (u64::MAX >> (64 - count)) << from);
            at += count;
        }
    }

    /// So may every block of every volume.
    pub fn set_all(&mut self) {
        for volume in 0..self.volumes.len() {
            self.set_run(VolumeId::new(volume as u16), 0, self.volumes[volume].blocks);
        }
    }

    /// The peer holds a block durably.
    pub fn clear(&mut self, volume: VolumeId, block: u64) {
        if !self.contains(volume, block) {
            return;
        }
        let word = self.base(volume) + (block / 64) as usize;
        self.words[word] &= !(1 << (block % 64));
        self.counts[word / MAP_PAGE_WORDS] -= 1;
        self.blocks -= 1;
        self.set_dirty((word / MAP_PAGE_WORDS) as u32);
    }

    /// True where the block may differ at the peer.
    pub fn contains(&self, volume: VolumeId, block: u64) -> bool {
        let Volume { blocks, .. } = self.volume(volume);
        assert!(block < *blocks, "a block lies in its volume");
        self.words[self.base(volume) + (block / 64) as usize] >> (block % 64) & 1 == 1
    }

    /// How many may.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// True where none may.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// The first block of the map from this one on, in this volume or one behind it.
    pub fn next_from(&self, volume: VolumeId, block: u64) -> Option<(VolumeId, u64)> {
        let mut from = block;
        for number in usize::from(volume.get())..self.volumes.len() {
            let volume = VolumeId::new(number as u16);
            if let Some(block) = self.next_in(volume, from) {
                return Some((volume, block));
            }
            from = 0;
        }
        None
    }

    fn next_in(&self, volume: VolumeId, from: u64) -> Option<u64> {
        let Volume { first_page, blocks } = self.volume(volume);
        let base = self.base(volume);
        let mut at = from;
        while at < *blocks {
            // Most pages of a map that is nearly empty hold nothing: their words are not looked at.
            let page = *first_page as usize + (at / MAP_PAGE_BLOCKS) as usize;
            let page_end = (at / MAP_PAGE_BLOCKS + 1) * MAP_PAGE_BLOCKS;
            while self.counts[page] > 0 && at < page_end.min(*blocks) {
                let word = self.words[base + (at / 64) as usize] >> (at % 64);
                if word != 0 {
                    return Some(at + u64::from(word.trailing_zeros()));
                }
                at = (at / 64 + 1) * 64;
            }
            at = page_end;
        }
        None
    }

    /// Pages of the map.
    pub fn pages(&self) -> u32 {
        self.counts.len() as u32
    }

    /// True while [`OutOfSync::next_dirty`] has a page to give.
    pub fn is_dirty(&self) -> bool {
        self.dirty_pages > 0
    }

    /// The lowest page whose bits may differ from what was last emitted to the device, taken: emit it and write it. Bits that change
    /// afterwards make it dirty again; two writes of one page must not be under way at a time.
    pub fn next_dirty(&mut self) -> Option<u32> {
        if self.dirty_pages == 0 {
            return None;
        }
        let word = self.dirty.iter().position(|word| *word != 0)?;
        let bit = self.dirty[word].trailing_zeros();
        self.dirty[word] &= !(1 << bit);
        self.dirty_pages -= 1;
        Some(word as u32 * 64 + bit)
    }

    /// The device does not hold this page as it is: a write of it failed, or another log is on its device.
    pub fn set_dirty(&mut self, page: u32) {
        assert!(page < self.pages(), "a page of the map");
        let (word, bit) = (page as usize / 64, 1u64 << (page % 64));
        self.dirty_pages += u32::from(self.dirty[word] & bit == 0);
        self.dirty[word] |= bit;
    }

    /// Writes a page as it goes to the device.
    pub fn emit(&self, page: u32, pair: [u8; 16], out: &mut [u8]) {
        let at = page as usize * MAP_PAGE_WORDS;
        MapPage { page, pair }.emit(&self.words[at..at + MAP_PAGE_WORDS], out);
    }

    /// Takes a page as the device holds it instead of what the map had there. False where it did not check, or could not be read at
    /// all (no bytes): then every block of the page is set, and the page is dirty (MAP-1).
    pub fn load(&mut self, page: u32, pair: [u8; 16], bytes: &[u8]) -> bool {
        assert!(page < self.pages(), "a page of the map");
        let parsed = MapPage::parse(bytes).ok().filter(|(head, _)| *head == MapPage { page, pair });
        let checks = parsed.is_some();
        let mut words = parsed.map(|(_, words)| words);
        let at = page as usize * MAP_PAGE_WORDS;
        let valid = self.page_blocks(page);
        let mut count = 0;
        let mut past_end = false;
        for index in 0..MAP_PAGE_WORDS {
            let raw = match &mut words {
                Some(words) => words.next().expect("a page has all its words"),
                None if Mutant::MapTornEmpty.is_on() => 0,
                None => u64::MAX,
            };
            let bits = valid.saturating_sub(index as u64 * 64).min(64);
            let mask = if bits == 0 { 0 } else { u64::MAX >> (64 - bits) };
            past_end |= raw & !mask != 0;
            self.words[at + index] = raw & mask;
            count += (raw & mask).count_ones();
        }
        self.blocks = self.blocks - u64::from(self.counts[page as usize]) + u64::from(count);
        self.counts[page as usize] = count;
        let (word, bit) = (page as usize / 64, 1u64 << (page % 64));
        if checks && !past_end {
            self.dirty_pages -= u32::from(self.dirty[word] & bit != 0);
            self.dirty[word] &= !bit;
        } else {
            self.set_dirty(page);
        }
        checks
    }

    fn raise(&mut self, word: usize, mask: u64) {
        let added = (mask & !self.words[word]).count_ones();
        if added == 0 {
            return;
        }
        self.words[word] |= mask;
        self.counts[word / MAP_PAGE_WORDS] += added;
        self.blocks += u64::from(added);
        self.set_dirty((word / MAP_PAGE_WORDS) as u32);
    }

    fn volume(&self, volume: VolumeId) -> &Volume {
        &self.volumes[usize::from(volume.get())]
    }

    /// The first of a volume's words.
    fn base(&self, volume: VolumeId) -> usize {
        self.volume(volume).first_page as usize * MAP_PAGE_WORDS
    }

    /// Blocks that a page speaks of.
    fn page_blocks(&self, page: u32) -> u64 {
        let volume = self
            .volumes
            .iter()
            .rfind(|volume| volume.first_page <= page && volume.blocks > 0)
            .expect("a page belongs to a volume");
        let before = u64::from(page - volume.first_page) * MAP_PAGE_BLOCKS;
        volume.blocks.saturating_sub(before).min(MAP_PAGE_BLOCKS)
    }
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
