//! The list against a plain map of sectors.

use super::*;
use crate::log::{LogGeometry, PagePart};
use crate::sync::OutOfSync;
use alloc::collections::{BTreeMap, BTreeSet};
use ibid_wire::peer::ChainDigest;

const BLOCKS: u32 = 4096;
const CATCH_UP: u32 = 512;
const CP: CpId = CpId::new(1);

fn geometry() -> LogGeometry {
    LogGeometry { segments: 2, segment_blocks: BLOCKS, arena_at: 0 }
}

fn make(index: &Index, pages: &PageTable) -> CpList {
    make_with(index, pages, &CatchUp::new(0))
}

/// A staging page's part has this sum.
fn staged_crc(page: u32, first: u32, sectors: u32) -> u32 {
    page * 64 + first * 8 + sectors - 1
}

fn make_with(index: &Index, pages: &PageTable, catch_up: &CatchUp) -> CpList {
    let mut list = CpList::new(BLOCKS, CATCH_UP);
    let mut lister = Lister::new(BLOCKS);
    lister.start(&mut list);
    let mut steps = 0;
    while !lister.step(CP, index, pages, catch_up, staged_crc, &mut list) {
        steps += 1;
        assert!(steps < 10_000);
    }
    list
}

#[test]
fn the_list_names_every_dirty_sector_once_with_its_newest_version() {
    let mut index = Index::new(2 * BLOCKS as usize);
    let mut pages = PageTable::new(geometry());
    let mut model: BTreeMap<(u16, u64), (BlockSource, u32)> = BTreeMap::new();
    let mut seed = 3u64;
    for page in 1..BLOCKS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (volume, block) = (VolumeId::new((seed >> 60 & 1) as u16 * 3), seed >> 33 & 1023);
        let (first, last) = ((seed >> 50 & 7) as u8, (seed >> 53 & 7) as u8);
        let part =
            PagePart { first: first.min(last), count: first.max(last) - first.min(last) + 1 };
        let source = match page % 17 {
            0 => BlockSource::Zeroes,
            1 => BlockSource::Deallocated,
            _ => BlockSource::Page(LogBlock::new(page)),
        };
        pages.set(CP, LogBlock::new(page), part, page.wrapping_mul(77));
        index.insert(volume, block, part.mask(), source);
        for sector in 0..8u64 {
            if part.mask() >> sector & 1 == 1 {
                model.insert((volume.get(), block * 8 + sector), (source, page));
            }
        }
    }
    let list = make(&index, &pages);
    let mut volume = None;
    let mut last = None;
    let mut seen = 0;
    for n in 0..list.len() {
        let record = list.get(n).expect("a record");
        if let RecordKind::Volume(next) = record.kind {
            assert!(volume < Some(next));
            volume = Some(next);
            last = None;
            continue;
        }
        let volume = volume.expect("named first").get();
        assert!(last < Some(record.first.get()));
        for offset in 0..u64::from(record.sectors.get()) {
            let sector = record.first.get() + offset;
            let (source, _) = model.get(&(volume, sector)).expect("only dirty sectors are named");
            let named = match record.kind {
                RecordKind::Reference(page) => BlockSource::Page(LogBlock::new(
                    page.get() + (sector / 8 - record.first.block()) as u32,
                )),
                RecordKind::Zeroes => BlockSource::Zeroes,
                _ => BlockSource::Deallocated,
            };
            assert_eq!(named, *source, "sector {sector}");
            seen += 1;
        }
        if let RecordKind::Reference(page) = record.kind {
            let digest = reference_digest(CP, BLOCKS, page, &record, &pages);
            assert_eq!(digest, Some(record.digest));
        }
        last = Some(record.first.get() + u64::from(record.sectors.get()) - 1);
    }
    assert_eq!(seen, model.len());
}

#[test]
fn a_sequential_write_is_one_record() {
    let mut index = Index::new(2 * BLOCKS as usize);
    let mut pages = PageTable::new(geometry());
    for n in 0..4000u32 {
        pages.set(CP, LogBlock::new(1 + n), PagePart { first: 0, count: 8 }, n);
        index.insert(VolumeId::new(0), u64::from(n), 0xFF, BlockSource::Page(LogBlock::new(1 + n)));
    }
    let list = make(&index, &pages);
    assert_eq!(list.len(), 2, "the volume and one run");
    assert_eq!(list.get(1).map(|record| record.sectors.get()), Some(32_000));
}

#[test]
fn an_empty_segment_has_an_empty_list() {
    assert!(make(&Index::new(16), &PageTable::new(geometry())).is_empty());
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const VOLUME_BLOCKS: u64 = 300;

/// A segment of random writes, long and short, to volumes 1 and 3 of four.
fn random_segment(random: &mut Random, pages: &mut PageTable) -> (Index, BTreeSet<(u16, u64)>) {
    let mut index = Index::new(2 * BLOCKS as usize);
    let mut dirty = BTreeSet::new();
    let mut page = 1;
    for _ in 0..random.below(60) {
        let volume = 1 + 2 * random.below(2) as u16;
        let first = random.below(VOLUME_BLOCKS * 8);
        let most = [7, 40, 400][random.below(3) as usize];
        let end = (first + 1 + random.below(most)).min(VOLUME_BLOCKS * 8);
        let opcode = random.below(8);
        for block in first / 8..end.div_ceil(8) {
            let from = first.max(block * 8) - block * 8;
            let to = end.min(block * 8 + 8) - block * 8;
            let part = PagePart { first: from as u8, count: (to - from) as u8 };
            let source = match opcode {
                0 => BlockSource::Zeroes,
                1 => BlockSource::Deallocated,
                _ => BlockSource::Page(LogBlock::new(page)),
            };
            if opcode > 1 {
                pages.set(CP, LogBlock::new(page), part, page.wrapping_mul(77));
                page += 1;
            }
            index.insert(VolumeId::new(volume), block, part.mask(), source);
            dirty.extend((block * 8 + from..block * 8 + to).map(|sector| (volume, sector)));
        }
    }
    (index, dirty)
}

fn random_map(random: &mut Random) -> OutOfSync {
    let mut map = OutOfSync::new(&[VOLUME_BLOCKS * 8; 4]);
    for _ in 0..random.below(20) {
        let volume = VolumeId::new(random.below(4) as u16);
        let first = random.below(VOLUME_BLOCKS);
        let most = [1, 3, 60][random.below(3) as usize];
        map.set_run(volume, first, (1 + random.below(most)).min(VOLUME_BLOCKS - first));
    }
    map
}

fn records(list: &CpList) -> impl Iterator<Item = (VolumeId, Record)> + '_ {
    let mut volume = VolumeId::new(u16::MAX);
    (0..list.len()).filter_map(move |n| {
        let record = list.get(n).expect("a record");
        if let RecordKind::Volume(next) = record.kind {
            volume = next;
            return None;
        }
        Some((volume, record))
    })
}

fn is_catch_up(record: &Record) -> bool {
    matches!(record.kind, RecordKind::Block | RecordKind::Hole)
}

fn chain(list: &CpList) -> [u8; 32] {
    let mut chain = ChainDigest::new(&[4; 32], CP);
    (0..list.len()).for_each(|n| chain.push(&list.get(n).expect("a record")));
    chain.finish()
}

#[test]
fn catch_up_fills_the_gaps_of_its_blocks_and_changes_nothing_of_the_segment() {
    let mut kinds = [0u32; 2];
    for seed in 1..300 {
        let mut random = Random(seed);
        let mut pages = PageTable::new(geometry());
        let (index, dirty) = random_segment(&mut random, &mut pages);
        let map = random_map(&mut random);
        let mut catch_up = CatchUp::new([0, 1, 40, CATCH_UP][random.below(4) as usize]);
        catch_up.begin(&map);
        for n in 0..catch_up.len() {
            if random.below(3) == 0 {
                catch_up.set_zero(n);
            }
        }
        let list = make_with(&index, &pages, &catch_up);
        let bare = make(&index, &pages);
        let own: Vec<_> = records(&list).filter(|(_, record)| !is_catch_up(record)).collect();
        assert!(own.iter().copied().eq(records(&bare)), "seed {seed}: the segment's runs stay");
        assert_eq!(chain(&list), chain(&bare), "CHAIN-1, seed {seed}");

        let mut missing: BTreeSet<(u16, u64)> = (0..catch_up.len())
            .filter_map(|n| catch_up.get(n))
            .flat_map(|at| (at.block * 8..at.block * 8 + 8).map(move |s| (at.volume.get(), s)))
            .filter(|at| !dirty.contains(at))
            .collect();
        let mut last = None;
        for (volume, record) in records(&list) {
            let first = record.first.get();
            let end = first + u64::from(record.sectors.get());
            assert!(last <= Some((volume, first)), "seed {seed}: rising and disjoint");
            last = Some((volume, end));
            if !is_catch_up(&record) {
                continue;
            }
            let mut digest = Crc32c::new();
            for block in first / 8..end.div_ceil(8) {
                let page = catch_up.page_of(volume, block).expect("only such blocks are brought");
                let zero = catch_up.get(page as usize).is_some_and(|brought| brought.zero);
                assert_eq!(record.kind == RecordKind::Hole, zero, "seed {seed}");
                kinds[usize::from(zero)] += 1;
                let (from, to) = (first.max(block * 8), end.min(block * 8 + 8));
                digest.push(staged_crc(page, (from % 8) as u32, (to - from) as u32));
                for sector in from..to {
                    assert!(missing.remove(&(volume.get(), sector)), "CP-1, seed {seed}");
                }
            }
            let sum = if record.kind == RecordKind::Hole { 0 } else { digest.finish() };
            assert_eq!(record.digest, sum, "seed {seed}");
        }
        assert!(missing.is_empty(), "CP-1, seed {seed}: {missing:?}");
    }
    assert!(kinds.iter().all(|count| *count > 1000), "both kinds occurred: {kinds:?}");
}

#[test]
fn blocks_that_go_on_in_volume_and_staging_are_one_record() {
    let mut map = OutOfSync::new(&[80_000]);
    map.set_run(VolumeId::new(0), 10, 300);
    let mut catch_up = CatchUp::new(CATCH_UP);
    catch_up.begin(&map);
    let index = Index::new(16);
    let pages = PageTable::new(geometry());
    let list = make_with(&index, &pages, &catch_up);
    assert_eq!(list.len(), 2, "the volume and one run");
    assert_eq!(list.get(1).map(|record| record.sectors.get()), Some(2400));
    catch_up.set_zero(100);
    assert_eq!(make_with(&index, &pages, &catch_up).len(), 4, "a hole between two runs");
}

#[test]
fn the_worst_of_catch_up_fits_the_list() {
    let mut index = Index::new(2 * BLOCKS as usize);
    let mut pages = PageTable::new(geometry());
    let mut map = OutOfSync::new(&[u64::from(CATCH_UP) * 8]);
    map.set_all();
    let mut catch_up = CatchUp::new(CATCH_UP);
    catch_up.begin(&map);
    let mut page = 1;
    for block in 0..u64::from(CATCH_UP) {
        // Every second sector is written, so that each is a run of its own and so is each between.
        for first in [0, 2, 4, 6] {
            let part = PagePart { first, count: 1 };
            pages.set(CP, LogBlock::new(page), part, page);
            let source = BlockSource::Page(LogBlock::new(page));
            index.insert(VolumeId::new(0), block, part.mask(), source);
            page += 1;
        }
    }
    let list = make_with(&index, &pages, &catch_up);
    assert_eq!(list.len(), 1 + 8 * CATCH_UP as usize);
}
