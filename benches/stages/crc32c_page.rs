//! The checksum of a page: with the processor's instructions, as client bytes are summed, and with tables, as `wire` sums its own
//! structures where no instruction may be named.

use criterion::{Criterion, Throughput};
use std::hint::black_box;

pub(crate) fn bench(criterion: &mut Criterion) {
    let page = vec![0x5A; 4096];
    let mut group = criterion.benchmark_group("crc32c_page");
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("instructions_4096_bytes", |bencher| {
        bencher.iter(|| ibid_driver::checksum::crc32c(black_box(&page)));
    });
    group.bench_function("tables_4096_bytes", |bencher| {
        bencher.iter(|| ibid_wire::crc32c(black_box(&page)));
    });
    group.throughput(Throughput::Bytes(128));
    group.bench_function("tables_128_bytes", |bencher| {
        bencher.iter(|| ibid_wire::crc32c(black_box(&page[..128])));
    });
    group.finish();
}
