//! What the source hears from the destination after each batch: a report made and read, with one range and with the most.

use criterion::Criterion;
use ibid_units::{CpId, Lsn};
use ibid_wire::peer::{PacketRange, RANGES_MAX, REPORT_BYTES_MAX, Report};
use std::hint::black_box;

pub(crate) fn bench(criterion: &mut Criterion) {
    let cases = [("ranges_1", 1), ("ranges_32", RANGES_MAX as u64)];
    let mut group = criterion.benchmark_group("report_parse");
    for (case, ranges) in cases {
        let mut body = [0; REPORT_BYTES_MAX];
        let length = report(ranges).emit(&mut body);
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                let parsed = Report::parse(black_box(&body[..length])).expect("just emitted");
                assert_eq!(parsed.ranges().len() as u64, ranges);
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("report_emit");
    for (case, ranges) in cases {
        let report = report(ranges);
        let mut body = [0; REPORT_BYTES_MAX];
        group.bench_function(case, |bencher| bencher.iter(|| black_box(&report).emit(&mut body)));
    }
    group.finish();
}

fn report(ranges: u64) -> Report {
    let mut report = Report::new(Lsn::new(1_000_000), CpId::new(9), CpId::new(5), [3; 32]);
    for n in 0..ranges {
        // Newest first, a lost packet between each two.
        let last = 1_000_000 - n * 10;
        assert!(report.push_range(PacketRange { first: last - 8, last }), "there is room");
    }
    report
}
