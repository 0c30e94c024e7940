//! A write through the source's log, from reservation to commit, in batches of 1 and of 32 entries.

use crate::fixture::Source;
use criterion::{Criterion, Throughput};
use ibid_engine::log::LogGeometry;
use std::hint::black_box;

/// Segments of the size that a demonstration has, and two of them: 64 MiB each.
const GEOMETRY: LogGeometry = LogGeometry { segments: 2, segment_blocks: 16_384, arena_at: 0 };

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_append");
    for (case, entries) in [("batch_1_entries", 1), ("batch_32_entries", 32)] {
        let mut source = Source::new(GEOMETRY);
        group.throughput(Throughput::Elements(entries));
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                for token in 0..entries {
                    source.append(token, 0x1234_5678);
                }
                // Two batches where a segment ends between: a batch lies in one segment.
                while source.log.has_unbatched() {
                    black_box(source.close());
                }
                assert_eq!(source.commit() as u64, entries);
            });
        });
    }
    group.finish();
}
