//! The map against a plain set of blocks, and its pages as devices return them: torn, rotten, blank, misdirected, not at all.

use super::*;
use alloc::collections::BTreeSet;
use ibid_wire::disk::MAP_PAGE_BYTES;

const PAIR: [u8; 16] = [9; 16];
/// Two pages and a bit; nothing; less than a word; exactly a page.
const SECTORS: [u64; 4] = [(2 * MAP_PAGE_BLOCKS + 70) * 8, 0, 37 * 8, MAP_PAGE_BLOCKS * 8];
const PAGES: u32 = 3 + 1 + 1;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

type Model = BTreeSet<(u16, u64)>;

/// Sets and clears at random, in both.
fn scribble(random: &mut Random, map: &mut OutOfSync, model: &mut Model, steps: u64) {
    for _ in 0..steps {
        let number = [0, 0, 2, 3][random.below(4) as usize];
        let volume = VolumeId::new(number);
        let blocks = SECTORS[usize::from(number)] / 8;
        let block = random.below(blocks);
        match random.below(4) {
            0 => {
                map.set(volume, block);
                model.insert((number, block));
            }
            1 => {
                let count = random.below((blocks - block).min(300) + 1);
                map.set_run(volume, block, count);
                model.extend((block..block + count).map(|block| (number, block)));
            }
            _ => {
                // Near to what is set, so that it hits.
                let hit = model.range((number, block)..).next().copied().unwrap_or((number, block));
                map.clear(VolumeId::new(hit.0), hit.1);
                model.remove(&hit);
            }
        }
    }
}

fn all(map: &OutOfSync) -> Model {
    let mut found = Model::new();
    let mut from = (VolumeId::new(0), 0);
    while let Some((volume, block)) = map.next_from(from.0, from.1) {
        assert!(found.insert((volume.get(), block)), "the walk gets on");
        from = (volume, block + 1);
    }
    found
}

fn page_of(number: u16, block: u64) -> u32 {
    [0, 3, 3, 4][usize::from(number)] + (block / MAP_PAGE_BLOCKS) as u32
}

#[test]
fn the_map_is_the_set_of_its_blocks() {
    for seed in 1..20 {
        let mut random = Random(seed);
        let mut map = OutOfSync::new(&SECTORS);
        let mut model = Model::new();
        assert_eq!(map.pages(), PAGES);
        assert!(map.is_empty());
        for _ in 0..10 {
            scribble(&mut random, &mut map, &mut model, 40);
            assert_eq!(map.blocks(), model.len() as u64);
            assert_eq!(map.is_empty(), model.is_empty());
            assert_eq!(all(&map), model);
            for _ in 0..50 {
                let block = random.below(SECTORS[0] / 8);
                assert_eq!(map.contains(VolumeId::new(0), block), model.contains(&(0, block)));
                let next = model.range((0, block)..).next();
                assert_eq!(
                    map.next_from(VolumeId::new(0), block),
                    next.map(|(volume, block)| (VolumeId::new(*volume), *block))
                );
            }
        }
    }
}

#[test]
fn all_is_every_block_and_nothing_past_the_end_of_a_volume() {
    let mut map = OutOfSync::new(&SECTORS);
    map.set_all();
    let blocks: u64 = SECTORS.iter().map(|sectors| sectors / 8).sum();
    assert_eq!(map.blocks(), blocks);
    assert_eq!(all(&map).len() as u64, blocks);
    assert_eq!(map.next_from(VolumeId::new(0), SECTORS[0] / 8), Some((VolumeId::new(2), 0)));
    assert_eq!(map.next_from(VolumeId::new(3), MAP_PAGE_BLOCKS), None);
}

#[test]
#[should_panic(expected = "MAP-1")]
fn a_bit_past_the_end_of_a_volume_is_never_set() {
    OutOfSync::new(&SECTORS).set_run(VolumeId::new(2), 36, 2);
}

#[test]
fn only_pages_whose_bits_changed_are_written_and_the_device_then_has_the_map() {
    let mut map = OutOfSync::new(&SECTORS);
    let mut device = vec![[0xAA; MAP_PAGE_BYTES]; PAGES as usize];
    let write = |map: &mut OutOfSync, device: &mut Vec<[u8; MAP_PAGE_BYTES]>| {
        let mut written = Vec::new();
        while let Some(page) = map.next_dirty() {
            map.emit(page, PAIR, &mut device[page as usize]);
            written.push(page);
        }
        assert!(!map.is_dirty());
        written
    };
    assert_eq!(write(&mut map, &mut device), [0, 1, 2, 3, 4], "the device holds nothing yet");
    map.set(VolumeId::new(2), 5);
    map.set_run(VolumeId::new(0), MAP_PAGE_BLOCKS - 1, 2);
    map.clear(VolumeId::new(3), 7);
    assert_eq!(write(&mut map, &mut device), [0, 1, 3], "block 7 was not set");
    map.set(VolumeId::new(2), 5);
    assert!(!map.is_dirty(), "it was set");
    map.clear(VolumeId::new(2), 5);
    assert_eq!(map.next_dirty(), Some(3));
    map.set_dirty(3);
    assert_eq!(write(&mut map, &mut device), [3], "the write before failed");
    let mut random = Random(5);
    let mut model = all(&map);
    for _ in 0..50 {
        scribble(&mut random, &mut map, &mut model, 10);
        write(&mut map, &mut device);
        let mut loaded = OutOfSync::new(&SECTORS);
        for page in 0..PAGES {
            assert!(loaded.load(page, PAIR, &device[page as usize]));
        }
        assert!(!loaded.is_dirty());
        assert_eq!(loaded.blocks(), model.len() as u64);
        assert_eq!(all(&loaded), model);
    }
}

#[test]
fn whatever_the_device_returns_for_a_page_the_map_is_a_superset() {
    for seed in 1..200 {
        let mut random = Random(seed);
        let mut map = OutOfSync::new(&SECTORS);
        let mut model = Model::new();
        scribble(&mut random, &mut map, &mut model, 60);
        let mut device = [[0; MAP_PAGE_BYTES]; PAGES as usize];
        (0..PAGES).for_each(|page| map.emit(page, PAIR, &mut device[page as usize]));
        let mut other = [[0; MAP_PAGE_BYTES]; PAGES as usize];
        scribble(&mut random, &mut map, &mut Model::new(), 60);
        (0..PAGES).for_each(|page| map.emit(page, PAIR, &mut other[page as usize]));
        let hit = random.below(u64::from(PAGES)) as u32;
        let bytes = &mut device[hit as usize];
        let clean = *bytes;
        let mut pair = PAIR;
        let mut length = MAP_PAGE_BYTES;
        match random.below(6) {
            // Torn: some sectors of another version.
            0 => {
                for sector in 0..8 {
                    if random.below(2) == 0 {
                        let range = sector * 512..(sector + 1) * 512;
                        bytes[range.clone()].copy_from_slice(&other[hit as usize][range]);
                    }
                }
                if *bytes == other[hit as usize] {
                    *bytes = clean;
                }
            }
            1 => bytes[random.below(4096) as usize] ^= 1 << random.below(8),
            2 => bytes.fill(0),
            // Misdirected: a right page, but not this one.
            3 => *bytes = other[((hit + 1) % PAGES) as usize],
            4 => pair = [8; 16],
            // Unreadable.
            _ => length = 0,
        }
        let damaged = *bytes != clean || pair != PAIR || length == 0;
        let mut loaded = OutOfSync::new(&SECTORS);
        for page in 0..PAGES {
            let (pair, length) = if page == hit { (pair, length) } else { (PAIR, MAP_PAGE_BYTES) };
            let checks = loaded.load(page, pair, &device[page as usize][..length]);
            assert_eq!(checks, page != hit || !damaged, "seed {seed}");
        }
        assert_eq!(loaded.is_dirty(), damaged);
        let found = all(&loaded);
        assert_eq!(loaded.blocks(), found.len() as u64, "seed {seed}");
        assert!(found.is_superset(&model), "MAP-1, seed {seed}");
        let elsewhere = |set: &Model| -> Model {
            set.iter().copied().filter(|at| page_of(at.0, at.1) != hit).collect()
        };
        assert_eq!(elsewhere(&found), elsewhere(&model), "only that page is blown up, seed {seed}");
        if damaged {
            let whole = [MAP_PAGE_BLOCKS, MAP_PAGE_BLOCKS, 70, 37, MAP_PAGE_BLOCKS][hit as usize];
            assert_eq!((found.len() - elsewhere(&found).len()) as u64, whole, "seed {seed}");
        }
    }
}

#[test]
fn a_page_with_bits_past_the_end_of_its_volume_loses_them() {
    let mut long = OutOfSync::new(&[MAP_PAGE_BLOCKS * 8]);
    long.set_all();
    let mut bytes = [0; MAP_PAGE_BYTES];
    long.emit(0, PAIR, &mut bytes);
    let mut short = OutOfSync::new(&[37 * 8]);
    assert!(short.load(0, PAIR, &bytes));
    assert_eq!(short.blocks(), 37);
    assert!(short.is_dirty());
}
