//! The dirty index: a segment's worth of 4 KiB blocks inserted, then forgotten.

use crate::fixture::{Random, VOLUME_BLOCKS};
use criterion::{Criterion, Throughput};
use ibid_engine::log::{BlockSource, Index};
use ibid_units::{LogBlock, VolumeId};
use std::hint::black_box;

/// Pages of a 64 MiB segment.
pub(crate) const PAGES: u32 = 16_383;

/// The blocks that a segment's pages are written for.
pub(crate) fn blocks(random: bool) -> Vec<u64> {
    let mut places = Random::new();
    (0..u64::from(PAGES)).map(|n| if random { places.below(VOLUME_BLOCKS) } else { n }).collect()
}

/// Page n holds block n of the list.
pub(crate) fn fill(index: &mut Index, blocks: &[u64]) {
    for (page, block) in (1..).zip(blocks) {
        index.insert(VolumeId::new(0), *block, 0xFF, BlockSource::Page(LogBlock::new(page)));
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index_insert");
    group.throughput(Throughput::Elements(u64::from(PAGES)));
    for (case, random) in [("random_16383_blocks", true), ("sequential_16383_blocks", false)] {
        let blocks = blocks(random);
        let mut index = Index::new(2 * (PAGES as usize + 1));
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                index.clear();
                fill(&mut index, &blocks);
                black_box(index.live())
            });
        });
    }
    group.finish();
}
