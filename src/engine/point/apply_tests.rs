//! Application against a plain volume: references, opcodes, refusals and blocks, rot and failures.

use super::*;
use crate::log::PagePart;
use crate::sync::OutOfSync;
use ibid_units::{BLOCK_BYTES, Span};
use ibid_wire::Crc32c;

const BLOCKS: u32 = 1024;
const CATCH_UP: u32 = 64;
const CP: CpId = CpId::new(1);
const GEOMETRY: LogGeometry = LogGeometry { segments: 2, segment_blocks: BLOCKS, arena_at: 0 };

/// Memory whose pages have the sums that [`pages`] says, but for these.
struct Sums(Vec<u32>);

impl Memory for Sums {
    fn read<R>(&self, span: Span, _: impl FnOnce(&[u8]) -> R) -> R {
        panic!("payload is not read: {span:?}")
    }
    fn write<R>(&mut self, span: Span, _: impl FnOnce(&mut [u8]) -> R) -> R {
        panic!("nothing is written: {span:?}")
    }
    fn crc32c(&self, span: Span) -> u32 {
        assert_eq!(span, GEOMETRY.span(CP, LogBlock::new(page_at(span)), 1), "the page's part");
        let page = page_at(span);
        page * 3 + u32::from(self.0.contains(&page))
    }
}

fn page_at(span: Span) -> u32 {
    (span.at / BLOCK_BYTES) as u32 - BLOCKS
}

fn pages(count: u32) -> PageTable {
    let mut pages = PageTable::new(GEOMETRY);
    for page in 1..=count {
        pages.set(CP, LogBlock::new(page), PagePart { first: 0, count: 8 }, page * 3);
    }
    pages
}

fn reference(first: u64, sectors: u32, page: u32) -> Record {
    let mut record = Record {
        kind: RecordKind::Reference(LogBlock::new(page)),
        first: Sector::new(first),
        sectors: Sectors::new(sectors),
        digest: 0,
    };
    let mut digest = Crc32c::new();
    for n in 0..record.pages() {
        digest.push((page + n) * 3);
    }
    record.digest = digest.finish();
    record
}

fn plain(kind: RecordKind, first: u64, sectors: u32) -> Record {
    Record { kind, first: Sector::new(first), sectors: Sectors::new(sectors), digest: 0 }
}

fn list(records: &[Record]) -> CpList {
    let mut list = CpList::new(BLOCKS, CATCH_UP);
    list.push(&Record::volume(VolumeId::new(0)));
    for record in records {
        list.push(record);
    }
    list
}

fn apply_at(side: Side) -> Apply {
    Apply::new(side, GEOMETRY, CATCH_UP, vec![100_000])
}

fn apply() -> Apply {
    apply_at(Side::Destination)
}

fn run(apply: &mut Apply, list: &CpList, pages: &PageTable) -> Vec<ApplyOp> {
    run_with(apply, list, pages, &Sums(vec![]))
}

/// All operations that can be done now, each complete before the next.
fn run_with(apply: &mut Apply, list: &CpList, pages: &PageTable, memory: &Sums) -> Vec<ApplyOp> {
    let mut ops = Vec::new();
    for _ in 0..10_000 {
        match apply.next_op(list, pages, memory) {
            Some(op) => {
                ops.push(op);
                apply.completed();
            }
            None if apply.is_paused() => {}
            None => return ops,
        }
    }
    panic!("it ends");
}

#[test]
fn every_sector_is_written_from_its_place_then_flushed() {
    let list = list(&[
        reference(5, 3 + 8 * 200, 2),
        Record {
            kind: RecordKind::Zeroes,
            first: Sector::new(9000),
            sectors: Sectors::new(70),
            digest: 0,
        },
    ]);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    let ops = run(&mut apply, &list, &pages(300));
    let mut next = 5;
    for op in &ops[..ops.len() - 2] {
        let ApplyOp::Write { first, sectors, page, .. } = *op else { panic!("{op:?}") };
        assert_eq!(first.get(), next);
        assert_eq!(u64::from(page.get()), 2 + first.block());
        assert!(u64::from(sectors.get()) * 512 <= 64 * BLOCK_BYTES);
        next += u64::from(sectors.get());
    }
    assert_eq!(next, 5 + 3 + 1600);
    assert!(matches!(ops[ops.len() - 2], ApplyOp::Zero { .. }));
    assert!(matches!(ops[ops.len() - 1], ApplyOp::Flush { .. }));
    assert!(apply.is_done());
}

#[test]
fn the_flush_comes_only_after_the_last_write_completed() {
    let list = list(&[reference(0, 8, 1)]);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    let table = pages(4);
    assert!(matches!(apply.next_op(&list, &table, &Sums(vec![])), Some(ApplyOp::Write { .. })));
    assert_eq!(apply.next_op(&list, &table, &Sums(vec![])), None);
    apply.completed();
    assert!(matches!(apply.next_op(&list, &table, &Sums(vec![])), Some(ApplyOp::Flush { .. })));
    assert_eq!(apply.next_op(&list, &table, &Sums(vec![])), None);
    assert!(!apply.is_done());
    apply.completed();
    assert_eq!(apply.next_op(&list, &table, &Sums(vec![])), None);
    assert!(apply.is_done());
}

#[test]
fn a_reference_that_is_not_proved_is_refused_and_its_block_taken_instead() {
    let mut wrong = reference(16, 16, 3);
    wrong.digest ^= 1;
    let unknown = reference(64, 8, 900);
    let list = list(&[reference(0, 8, 1), wrong, unknown]);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    let table = pages(10);
    let ops = run(&mut apply, &list, &table);
    assert_eq!(ops.len(), 1, "only the proved one is written: {ops:?}");
    let mut refused = Vec::new();
    apply.refused(&list, 10, |index| refused.push(index));
    assert_eq!(refused, [2, 3]);
    assert!(!apply.is_done());
    assert_eq!(apply.block_came(&list, 0, 0, 8), None, "page 0 is not wanted");
    let want = apply.block_came(&list, 2, 0, 8).expect("the second page of the wrong one");
    assert_eq!((want.first, want.sectors), (Sector::new(24), Sectors::new(8)));
    assert_eq!(apply.block_came(&list, 2, 0, 8), None, "twice");
    assert!(apply.block_came(&list, 1, 0, 4).is_some());
    assert!(apply.block_came(&list, 1, 4, 4).is_some());
    assert!(apply.block_came(&list, 3, 0, 8).is_some());
    assert_eq!(apply.block_came(&list, 4, 0, 8), None, "past the list");
    for _ in 0..4 {
        apply.completed();
    }
    let ops = run(&mut apply, &list, &table);
    assert_eq!(ops, [ApplyOp::Flush { volume: VolumeId::new(0) }]);
    assert!(apply.is_done());
}

#[test]
fn in_full_mode_nothing_is_taken_from_the_log() {
    let list = list(&[reference(0, 16, 1)]);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::Nothing));
    assert!(run(&mut apply, &list, &pages(10)).is_empty());
    assert_eq!(apply.pages(), 2);
    for ordinal in 0..2 {
        assert!(apply.block_came(&list, ordinal, 0, 8).is_some());
        apply.completed();
    }
    assert_eq!(run(&mut apply, &list, &pages(10)).len(), 1);
    assert!(apply.is_done());
}

#[test]
fn a_list_that_leaves_its_volume_falls_back_or_names_no_volume_is_refused() {
    let past = list(&[reference(99_999, 2, 1)]);
    assert!(!apply().start(CP, &past, Prove::References));
    let back = list(&[reference(8, 8, 1), reference(8, 8, 2)]);
    assert!(!apply().start(CP, &back, Prove::References));
    let mut unnamed = CpList::new(BLOCKS, CATCH_UP);
    unnamed.push(&reference(8, 8, 1));
    assert!(!apply().start(CP, &unnamed, Prove::References));
    let mut other = CpList::new(BLOCKS, CATCH_UP);
    other.push(&Record::volume(VolumeId::new(5)));
    assert!(!apply().start(CP, &other, Prove::References));
}

#[test]
fn catch_up_is_payload_and_holes_at_the_destination_and_nothing_at_the_source() {
    let list = list(&[
        reference(0, 8, 1),
        plain(RecordKind::Block, 8, 16),
        plain(RecordKind::Hole, 24, 8),
        plain(RecordKind::Block, 36, 2),
    ]);
    let table = pages(10);
    let mut source = apply_at(Side::Source);
    assert!(source.start(CP, &list, Prove::References));
    let ops = run(&mut source, &list, &table);
    assert!(matches!(ops[..], [ApplyOp::Write { .. }, ApplyOp::Flush { .. }]), "{ops:?}");
    assert!(source.is_done());

    let mut destination = apply();
    assert!(destination.start(CP, &list, Prove::References));
    let ops = run(&mut destination, &list, &table);
    let (volume, first, sectors) = (VolumeId::new(0), Sector::new(24), Sectors::new(8));
    assert_eq!(ops[1..], [ApplyOp::Deallocate { volume, first, sectors }]);
    assert!(destination.is_scanned(&list));
    assert!(!destination.is_done());
    assert_eq!(destination.refused_count(), 0);
    destination.refused(&list, 10, |index| panic!("block {index} is sent unasked"));
    assert_eq!(destination.block_came(&list, 0, 0, 8), None, "the reference was proved");
    for (ordinal, first, count, sector) in [(1, 0, 8, 8), (2, 0, 8, 16), (3, 4, 2, 36)] {
        let want = destination.block_came(&list, ordinal, first, count).expect("it is wanted");
        assert_eq!((want.first, want.sectors.get()), (Sector::new(sector), u32::from(count)));
        destination.completed();
    }
    assert_eq!(run(&mut destination, &list, &table), [ApplyOp::Flush { volume }]);
    assert!(destination.is_done());
}

#[test]
fn a_source_whose_cp_only_brings_has_nothing_to_write_and_nothing_to_flush() {
    let list = list(&[plain(RecordKind::Block, 8, 16), plain(RecordKind::Hole, 24, 8)]);
    let mut source = apply_at(Side::Source);
    assert!(source.start(CP, &list, Prove::References));
    assert!(run(&mut source, &list, &pages(1)).is_empty());
    assert!(source.is_done());
}

#[test]
fn payload_lies_in_the_log_or_in_staging_as_the_record_says() {
    let mut map = OutOfSync::new(&[100_000]);
    [1, 2, 4].iter().for_each(|block| map.set(VolumeId::new(0), *block));
    let mut catch_up = CatchUp::new(CATCH_UP);
    catch_up.begin(&map);
    let list = list(&[
        reference(0, 8, 5),
        plain(RecordKind::Block, 8, 16),
        plain(RecordKind::Zeroes, 24, 8),
        plain(RecordKind::Block, 36, 2),
        plain(RecordKind::Block, 64, 8),
    ]);
    let mut source = apply_at(Side::Source);
    assert!(source.start(CP, &list, Prove::References));
    let places: Vec<_> = (0..6).map(|n| source.payload_at(&list, &catch_up, n)).collect();
    assert_eq!(
        places,
        [
            Some(PayloadAt::Log(LogBlock::new(5))),
            Some(PayloadAt::Staging(0)),
            Some(PayloadAt::Staging(1)),
            Some(PayloadAt::Staging(2)),
            None,
            None
        ],
        "block 8 is not brought, and there is no sixth page"
    );
}

#[test]
fn what_rotted_in_the_destinations_log_is_refused_the_whole_run_of_it() {
    let list = list(&[reference(0, 8, 1), reference(16, 8 * 200, 2), reference(4000, 8, 300)]);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    // In the third write of the long run.
    let memory = Sums(vec![2 + 150]);
    let table = pages(400);
    let ops = run_with(&mut apply, &list, &table, &memory);
    let written: u32 = ops
        .iter()
        .map(|op| match op {
            ApplyOp::Write { sectors, page, .. } => {
                assert!(page.get() < 2 + 128 || page.get() == 300, "{op:?}");
                sectors.get()
            }
            _ => panic!("CP-5: {op:?}"),
        })
        .sum();
    assert_eq!(written, 8 + 2 * 512 + 8);
    let mut refused = Vec::new();
    apply.refused(&list, 10, |index| refused.push(index));
    assert_eq!(refused, [2]);
    for ordinal in 1..201 {
        assert!(apply.block_came(&list, ordinal, 0, 8).is_some(), "page {ordinal}");
        apply.completed();
    }
    assert_eq!(run_with(&mut apply, &list, &table, &memory).len(), 1);
    assert!(apply.is_done());
    assert_eq!(apply.refused_count(), 1);
}

#[test]
fn what_rotted_in_the_sources_log_is_named_page_by_page_and_not_written() {
    let list = list(&[reference(5, 3 + 8 * 200 + 2, 2)]);
    let memory = Sums(vec![2, 100, 101, 202]);
    let mut apply = apply_at(Side::Source);
    assert!(apply.start(CP, &list, Prove::References));
    let ops = run_with(&mut apply, &list, &pages(400), &memory);
    let mut next = 5;
    let mut rotten = Vec::new();
    for op in &ops[..ops.len() - 1] {
        let (first, sectors, page) = match *op {
            ApplyOp::Rotten { first, sectors, page, .. } => {
                assert_eq!(first.block(), (first + sectors).get().div_ceil(8) - 1, "one page");
                rotten.push(page.get());
                (first, sectors, page)
            }
            ApplyOp::Write { first, sectors, page, .. } => {
                let pages = page.get()..page.get() + sectors.blocks_from(first);
                assert!(!pages.clone().any(|page| memory.0.contains(&page)), "CP-5: {op:?}");
                (first, sectors, page)
            }
            _ => panic!("{op:?}"),
        };
        assert_eq!(first.get(), next);
        assert_eq!(u64::from(page.get()), 2 + first.block());
        next += u64::from(sectors.get());
    }
    assert_eq!(next, 5 + 3 + 1600 + 2);
    assert_eq!(rotten, memory.0);
    assert!(apply.is_done(), "once the peer's bytes were written");
}

#[test]
fn a_source_whose_table_rotted_writes_nothing_of_that_run_from_memory() {
    let mut wrong = reference(0, 20, 1);
    wrong.digest ^= 1;
    let list = list(&[wrong]);
    let mut apply = apply_at(Side::Source);
    assert!(apply.start(CP, &list, Prove::References));
    let ops = run(&mut apply, &list, &pages(10));
    let sectors: Vec<_> = ops
        .iter()
        .filter_map(|op| match op {
            ApplyOp::Rotten { sectors, .. } => Some(sectors.get()),
            _ => None,
        })
        .collect();
    assert_eq!(sectors, [8, 8, 4]);
    assert_eq!(ops.len(), 4, "and a flush");
}

#[test]
fn a_step_sums_a_bounded_number_of_pages() {
    let list = list(&[reference(0, 8 * 900, 1)]);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    let table = pages(1000);
    let mut steps = Vec::new();
    while !apply.is_done() {
        let mut pages = 0;
        while let Some(op) = apply.next_op(&list, &table, &Sums(vec![])) {
            if let ApplyOp::Write { first, sectors, .. } = op {
                pages += sectors.blocks_from(first);
            }
            apply.completed();
        }
        steps.push(pages);
    }
    assert_eq!(steps, [256, 256, 256, 132]);
}

#[test]
fn after_a_failure_all_is_written_again_from_the_log_and_flushed_again() {
    let mut unproved = reference(16, 16, 3);
    unproved.digest ^= 1;
    let list = list(&[
        reference(0, 8, 1),
        unproved,
        plain(RecordKind::Block, 40, 8),
        plain(RecordKind::Zeroes, 64, 8),
    ]);
    let table = pages(10);
    let flush = ApplyOp::Flush { volume: VolumeId::new(0) };
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    let bring = |apply: &mut Apply| {
        for ordinal in 1..4 {
            assert!(apply.block_came(&list, ordinal, 0, 8).is_some(), "page {ordinal} is wanted");
            apply.completed();
        }
    };
    let first = run(&mut apply, &list, &table);
    assert_eq!(first.len(), 2);
    bring(&mut apply);
    // The flush fails: another one proves nothing.
    assert_eq!(apply.next_op(&list, &table, &Sums(vec![])), Some(flush));
    apply.failed();
    assert!(apply.has_failed());
    assert!(!apply.is_busy());
    assert!(run(&mut apply, &list, &table).is_empty());
    assert!(!apply.is_done(), "CP-6");
    assert!(!apply.block_is_here(1, 0, 8), "what came is not durable and is gone");
    assert_eq!(apply.block_came(&list, 1, 0, 8), None, "and not taken before it begins again");

    apply.restart();
    assert_eq!(apply.restarts(), 1);
    assert!(!apply.is_scanned(&list));
    assert_eq!(run(&mut apply, &list, &table), first);
    assert_eq!(apply.refused_count(), 1);
    // A write of payload fails while another is under way.
    assert!(apply.block_came(&list, 1, 0, 8).is_some());
    assert!(apply.block_came(&list, 2, 0, 8).is_some());
    apply.failed();
    assert!(apply.is_busy());
    apply.completed();
    apply.restart();
    assert_eq!(run(&mut apply, &list, &table), first);
    bring(&mut apply);
    assert_eq!(run(&mut apply, &list, &table), [flush]);
    assert!(apply.is_done());
    assert_eq!(apply.restarts(), 2);
}

#[test]
#[should_panic(expected = "CP-6")]
fn a_cp_does_not_begin_again_under_its_own_writes() {
    let list = list(&[reference(0, 16, 1)]);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    assert!(apply.next_op(&list, &pages(4), &Sums(vec![])).is_some());
    apply.restart();
}

#[test]
fn a_failure_of_a_cp_that_was_given_up_is_not_the_next_ones() {
    let list = list(&[reference(0, 8, 1)]);
    let table = pages(4);
    let mut apply = apply();
    assert!(apply.start(CP, &list, Prove::References));
    assert!(apply.next_op(&list, &table, &Sums(vec![])).is_some());
    apply.stop();
    apply.failed();
    assert!(!apply.has_failed());
    assert!(apply.start(CP, &list, Prove::References));
    assert_eq!(run(&mut apply, &list, &table).len(), 2);
    assert!(apply.is_done());
}
