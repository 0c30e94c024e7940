//! The link's frames: header and section table made and checked, as for a 9000-byte frame of descriptors and two pages.
//! The bodies' own sums are not part of it: see `crc32c_page` and `arena_copy`.

use criterion::Criterion;
use ibid_units::{Epoch, PacketNumber};
use ibid_wire::peer::{
    Frame, FrameEmitter, FrameHeader, FrameKind, HEADER_BYTES, SECTION_BYTES, SECTIONS_MAX,
    Section, SectionKind,
};
use std::hint::black_box;

/// Descriptors of two entries, two pages.
const LENGTHS: [u16; 3] = [112, 4096, 4096];

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut frame = vec![0; HEADER_BYTES + SECTIONS_MAX * SECTION_BYTES];
    let head = emit(&mut frame);
    let bodies: usize = LENGTHS.iter().map(|length| usize::from(*length)).sum();
    frame.resize(head + bodies, 0x5A);
    let mut out = vec![0; HEADER_BYTES + SECTIONS_MAX * SECTION_BYTES];
    let mut group = criterion.benchmark_group("frame_parse");
    group.bench_function("sections_3", |bencher| {
        bencher.iter(|| {
            let parsed = Frame::parse(black_box(&frame)).expect("just emitted");
            let bytes: usize = parsed.sections().map(|(_, body)| body.len()).sum();
            assert_eq!(bytes, bodies);
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("frame_emit");
    group.bench_function("sections_3", |bencher| bencher.iter(|| emit(black_box(&mut out))));
    group.finish();
}

fn emit(out: &mut [u8]) -> usize {
    let header = FrameHeader {
        kind: FrameKind::Sourced,
        shard: 0,
        session: 0xFEED_F00D,
        epoch: Epoch::new(3),
        number: PacketNumber::new(17),
    };
    let mut emitter = FrameEmitter::new(out, &header);
    for (place, length) in (0..).step_by(4096).zip(LENGTHS) {
        emitter.section(&Section {
            kind: SectionKind::Log,
            length,
            crc: 0,
            segment: 4,
            place,
            extra: 0,
        });
    }
    emitter.finish()
}
