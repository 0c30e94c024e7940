//! A consistency point's list, made from the dirty index of a full 64 MiB segment.

use crate::index_insert::{PAGES, blocks, fill};
use criterion::{Criterion, Throughput};
use ibid_engine::log::{Index, LogGeometry, PagePart, PageTable};
use ibid_engine::point::{CpList, Lister};
use ibid_engine::sync::CatchUp;
use ibid_units::{CpId, LogBlock};
use std::hint::black_box;

pub(crate) fn bench(criterion: &mut Criterion) {
    let segment_blocks = PAGES + 1;
    let segment = CpId::new(1);
    let mut pages = PageTable::new(LogGeometry { segments: 2, segment_blocks, arena_at: 0 });
    for page in 1..=PAGES {
        pages.set(
            segment,
            LogBlock::new(page),
            PagePart { first: 0, count: 8 },
            page.wrapping_mul(77),
        );
    }
    let mut group = criterion.benchmark_group("cp_list");
    group.throughput(Throughput::Elements(u64::from(PAGES)));
    for (case, random) in [("random_16383_nodes", true), ("sequential_16383_nodes", false)] {
        let mut index = Index::new(2 * segment_blocks as usize);
        fill(&mut index, &blocks(random));
        let mut list = CpList::new(segment_blocks, 0);
        let nothing = CatchUp::new(0);
        let mut lister = Lister::new(segment_blocks);
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                lister.start(&mut list);
                while !lister.step(segment, &index, &pages, &nothing, |_, _, _| 0, &mut list) {}
                black_box(list.len())
            });
        });
    }
    group.finish();
}
