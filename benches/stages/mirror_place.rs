//! The destination's log: the pieces of one batch find their places, and the batch becomes ready and durable.
//! Without the copy of the pages, which is `arena_copy`.

use crate::fixture::{PAIR, Source};
use criterion::{Criterion, Throughput};
use ibid_engine::PlainMemory;
use ibid_engine::log::{LogGeometry, Mirror, Placed};
use ibid_units::{BLOCK_BYTES, BLOCK_SECTORS, CpId, LogBlock, Lsn};
use ibid_wire::disk::Batch;
use std::hint::black_box;

/// Small segments: before each batch the slot is taken anew, and clearing it should not be what is measured.
const GEOMETRY: LogGeometry = LogGeometry { segments: 2, segment_blocks: 128, arena_at: 0 };
const BYTES: u32 = BLOCK_BYTES as u32;

struct Piece {
    place: u32,
    length: u32,
    structure: bool,
    crc: u32,
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mirror_place");
    for (case, entries) in [("batch_1_entries", 1), ("batch_32_entries", 32)] {
        let (memory, pieces) = batch(entries);
        let volumes = vec![crate::fixture::VOLUME_BLOCKS * BLOCK_SECTORS];
        let mut mirror = Mirror::new(GEOMETRY, PAIR, CpId::new(0), Lsn::new(0), volumes);
        group.throughput(Throughput::Elements(entries));
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                mirror.reset(Lsn::new(0));
                place(&mut mirror, &pieces);
                let ready = mirror.next_ready(&memory).expect("honest bytes").expect("all is here");
                assert_eq!(ready.last, Lsn::new(entries));
                mirror.set_durable(ready.last);
                black_box(mirror.durable())
            });
        });
    }
    group.finish();
}

fn place(mirror: &mut Mirror, pieces: &[Piece]) {
    let segment = mirror.widen(1);
    for piece in pieces {
        match mirror.place(segment, piece.place, piece.length, piece.structure) {
            Ok(Placed::New(span)) => {
                assert_eq!(span.len, piece.length);
                mirror.arrived(segment, piece.place, piece.length, piece.structure, piece.crc);
            }
            Ok(Placed::Duplicate) => panic!("the slot was taken anew"),
            Err(refused) => panic!("a piece of the first segment: {refused}"),
        }
    }
}

/// A first batch of so many entries, and what frames would bring of it: header, descriptors, pages.
fn batch(entries: u64) -> (PlainMemory, Vec<Piece>) {
    let mut source = Source::new(GEOMETRY);
    let crc = ibid_wire::crc32c(&[0; BLOCK_BYTES as usize]);
    for token in 0..entries {
        source.append(token, crc);
    }
    let closed = source.close();
    let span = GEOMETRY.span(closed.segment, closed.block, 1);
    let at = usize::try_from(span.at).expect("it lies in the memory");
    let parsed =
        Batch::parse(&source.memory.0[at..at + BLOCK_BYTES as usize]).expect("just closed");
    assert_eq!(u64::from(parsed.entry_count), entries);
    let structure = |block: LogBlock, length| Piece {
        place: block.get() * BYTES,
        length,
        structure: true,
        crc: 0,
    };
    let mut pieces =
        vec![structure(LogBlock::new(0), BYTES), structure(closed.block, parsed.used_bytes())];
    pieces.extend(parsed.entries().map(|(entry, _)| Piece {
        place: entry.page.get() * BYTES,
        length: BYTES,
        structure: false,
        crc,
    }));
    (source.memory, pieces)
}
