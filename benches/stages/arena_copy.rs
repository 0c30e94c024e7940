//! The one copy a destination makes: a page from a frame into the arena, summed while it is hot.

use criterion::{Criterion, Throughput};
use ibid_driver::Arena;
use std::hint::black_box;

/// More than any cache, as a log is.
const ARENA_BYTES: usize = 64 << 20;
const PAGE_BYTES: usize = 4096;

pub(crate) fn bench(criterion: &mut Criterion) {
    // A warning says that pages are small; that is what was asked for.
    let (arena, _) = Arena::new(ARENA_BYTES, false).expect("ordinary memory");
    let page = vec![0x5A; PAGE_BYTES];
    let mut group = criterion.benchmark_group("arena_copy");
    group.throughput(Throughput::Bytes(PAGE_BYTES as u64));
    let mut at = 0;
    group.bench_function("copy_in_crc32c_4096_bytes", |bencher| {
        bencher.iter(|| {
            at = (at + PAGE_BYTES) % ARENA_BYTES;
            arena.copy_in_crc32c(at as u64, black_box(&page))
        });
    });
    group.bench_function("copy_in_4096_bytes", |bencher| {
        bencher.iter(|| {
            at = (at + PAGE_BYTES) % ARENA_BYTES;
            arena.copy_in(at as u64, black_box(&page));
        });
    });
    group.finish();
}
