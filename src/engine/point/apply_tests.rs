//! Application against a plain volume: references, opcodes, refusals and blocks.

use super::*;
use crate::log::{LogGeometry, PagePart};
use ibid_units::BLOCK_BYTES;
use ibid_wire::Crc32c;

const BLOCKS: u32 = 1024;
const CP: CpId = CpId::new(1);

fn pages(count: u32) -> PageTable {
    let mut pages =
        PageTable::new(LogGeometry { segments: 2, segment_blocks: BLOCKS, arena_at: 0 });
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

fn list(records: &[Record]) -> CpList {
    let mut list = CpList::new(BLOCKS);
    list.push(&Record::volume(VolumeId::new(0)));
    for record in records {
        list.push(record);
    }
    list
}

fn apply() -> Apply {
    Apply::new(BLOCKS, vec![100_000])
}

fn run(apply: &mut Apply, list: &CpList, pages: &PageTable) -> Vec<ApplyOp> {
    let mut ops = Vec::new();
    for _ in 0..10_000 {
        match apply.next_op(list, pages) {
            Some(op) => ops.push(op),
            None if apply.is_busy() => {}
            None => break,
        }
        if apply.is_busy() {
            apply.completed();
        }
    }
    ops
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
    assert!(matches!(apply.next_op(&list, &table), Some(ApplyOp::Write { .. })));
    assert_eq!(apply.next_op(&list, &table), None);
    apply.completed();
    assert!(matches!(apply.next_op(&list, &table), Some(ApplyOp::Flush { .. })));
    assert_eq!(apply.next_op(&list, &table), None);
    assert!(!apply.is_done());
    apply.completed();
    assert_eq!(apply.next_op(&list, &table), None);
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
    let mut unnamed = CpList::new(BLOCKS);
    unnamed.push(&reference(8, 8, 1));
    assert!(!apply().start(CP, &unnamed, Prove::References));
    let mut other = CpList::new(BLOCKS);
    other.push(&Record::volume(VolumeId::new(5)));
    assert!(!apply().start(CP, &other, Prove::References));
}
