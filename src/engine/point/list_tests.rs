//! The list against a plain map of sectors.

use super::*;
use crate::log::{LogGeometry, PagePart};
use alloc::collections::BTreeMap;

const BLOCKS: u32 = 4096;

fn geometry() -> LogGeometry {
    LogGeometry { segments: 2, segment_blocks: BLOCKS, arena_at: 0 }
}

fn make(index: &Index, pages: &PageTable) -> CpList {
    let mut list = CpList::new(BLOCKS);
    let mut lister = Lister::new(BLOCKS);
    lister.start(&mut list);
    let mut steps = 0;
    while !lister.step(CpId::new(1), index, pages, &mut list) {
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
        pages.set(CpId::new(1), LogBlock::new(page), part, page.wrapping_mul(77));
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
            let digest = reference_digest(CpId::new(1), BLOCKS, page, &record, &pages);
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
        pages.set(CpId::new(1), LogBlock::new(1 + n), PagePart { first: 0, count: 8 }, n);
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
