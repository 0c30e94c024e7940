//! The two logs together: whatever is lost, doubled or reordered on the way, the destination's log becomes the source's byte for byte.

use super::*;
use crate::log::{Completion, SourceLog, SourceLogConfig};
use crate::memory::PlainMemory;
use alloc::collections::VecDeque;
use ibid_units::{Epoch, Nanos, Sector, Sectors, VolumeId};
use ibid_wire::disk::EntryKind;

const VOLUME_SECTORS: u64 = 4096;

fn geometry() -> LogGeometry {
    LogGeometry { segments: 3, segment_blocks: 400, arena_at: 0 }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn source() -> SourceLog {
    SourceLog::new(SourceLogConfig {
        geometry: geometry(),
        pair: [1; 16],
        epoch: Epoch::new(1),
        cp: CpId::new(0),
        last_lsn: Lsn::new(0),
        entries_max: 100,
        batch_bytes_max: 1300,
        late_after: Nanos::from_millis(20),
        opened: true,
        durable_there: Lsn::new(0),
    })
}

fn mirror() -> Mirror {
    Mirror::new(geometry(), [1; 16], CpId::new(0), Lsn::new(0), vec![VOLUME_SECTORS])
}

/// Every piece of a batch: (segment, byte in it, bytes, structure).
fn pieces(
    memory: &PlainMemory,
    segment: CpId,
    block: LogBlock,
    header: bool,
    small: bool,
) -> Vec<(CpId, u32, Vec<u8>, bool)> {
    let take = |block: u32, from: u32, len: u32| {
        let at = geometry().span(segment, LogBlock::new(block), 1).at as usize + from as usize;
        memory.0[at..at + len as usize].to_vec()
    };
    let mut out = Vec::new();
    if header {
        out.push((segment, 0, take(0, 0, 64), true));
    }
    let bytes = take(block.get(), 0, 4096);
    let batch = Batch::parse(&bytes).expect("a batch just closed");
    out.push((segment, block.get() * 4096, bytes[..batch.used_bytes() as usize].to_vec(), true));
    for (entry, _) in batch.entries() {
        for index in 0..entry.pages {
            let (first, count) = entry.page_part(index);
            let page = entry.page.get() + u32::from(index);
            let step = if small { 2 } else { 8 };
            let mut sector = first;
            while sector < first + count {
                let some = step.min(first + count - sector);
                out.push((
                    segment,
                    page * 4096 + sector * 512,
                    take(page, sector * 512, some * 512),
                    false,
                ));
                sector += some;
            }
        }
    }
    out
}

fn deliver(mirror: &mut Mirror, memory: &mut PlainMemory, piece: &(CpId, u32, Vec<u8>, bool)) {
    let (segment, place, bytes, structure) = piece;
    match mirror.place(*segment, *place, bytes.len() as u32, *structure) {
        Ok(Placed::New(span)) => {
            let at = span.at as usize;
            if *structure {
                memory.0[at..at + 4096].fill(0);
            }
            memory.0[at..at + bytes.len()].copy_from_slice(bytes);
            mirror.arrived(
                *segment,
                *place,
                bytes.len() as u32,
                *structure,
                ibid_wire::crc32c(bytes),
            );
        }
        Ok(Placed::Duplicate) => {}
        Err(refused) => assert_eq!(refused, PlaceRefused::Drained),
    }
}

#[test]
fn the_mirror_becomes_the_source_under_loss_duplication_and_reordering() {
    for seed in 1..25 {
        let mut random = Random(seed);
        let (mut log, mut here) = (source(), PlainMemory(vec![0; geometry().bytes() as usize]));
        let (mut mirror, mut there) =
            (mirror(), PlainMemory(vec![0xEE; geometry().bytes() as usize]));
        let mut wire: VecDeque<(CpId, u32, Vec<u8>, bool)> = VecDeque::new();
        let mut placements = Vec::new();
        let (mut committed, mut turns) = (0, 0);
        let now = Nanos::from_millis(1);
        while committed < 600 {
            turns += 1;
            assert!(turns < 100_000, "seed {seed} does not end");
            for _ in 0..random.below(4) {
                let first = random.below(VOLUME_SECTORS - 64);
                let sectors = 1 + random.below(64) as u32;
                let kind = if random.below(20) == 0 { EntryKind::Zeroes } else { EntryKind::Write };
                if let Ok(placement) = log.reserve(
                    now,
                    kind,
                    VolumeId::new(0),
                    Sector::new(first),
                    Sectors::new(sectors),
                ) {
                    placements.push(placement);
                }
            }
            while !placements.is_empty() && random.below(3) > 0 {
                let placement =
                    placements.swap_remove(random.below(placements.len() as u64) as usize);
                for index in 0..placement.entry.pages {
                    let page = placement.entry.page.get() + u32::from(index);
                    let (first, count) = placement.entry.page_part(index);
                    let at = geometry().span(placement.segment, LogBlock::new(page), 1).at as usize
                        + first as usize * 512;
                    let bytes = &mut here.0[at..at + count as usize * 512];
                    bytes.fill_with(|| random.below(256) as u8);
                    log.set_page(
                        &placement,
                        index,
                        ibid_wire::crc32c(&here.0[at..at + count as usize * 512]),
                    );
                }
                assert_eq!(log.complete(now, placement, 0), Completion::Logged);
            }
            if random.below(40) == 0 {
                log.seal(now);
            }
            let small = random.below(2) == 0;
            while let Some(batch) = log.close_batch(&mut here) {
                wire.extend(pieces(&here, batch.segment, batch.block, batch.with_header, small));
                log.durable_here(batch.last);
            }
            for _ in 0..random.below(30) {
                if wire.is_empty() {
                    break;
                }
                let piece = wire
                    .swap_remove_back(random.below(wire.len() as u64) as usize)
                    .expect("not empty");
                match random.below(4) {
                    0 => wire.push_back(piece),
                    1 => {
                        deliver(&mut mirror, &mut there, &piece);
                        wire.push_back(piece);
                    }
                    _ => deliver(&mut mirror, &mut there, &piece),
                }
            }
            while let Some(ready) = mirror.next_ready(&there).expect("an honest source") {
                mirror.set_durable(ready.last);
            }
            assert!(log.durable_there(mirror.durable()));
            while log.pop_committed().is_some() {
                committed += 1;
            }
            while let Some(segment) = log.drainable() {
                let (last, batches) = log.closed_segment(segment);
                assert!(mirror.holds(segment, batches, last), "MIR-3");
                same_bytes(&here, &there, segment, batches);
                mirror.drained(segment);
                log.free(segment);
            }
        }
    }
}

/// Headers, descriptors and every payload byte of a segment are equal.
fn same_bytes(here: &PlainMemory, there: &PlainMemory, segment: CpId, batches: u32) {
    for index in 0..batches {
        let block = geometry().batch_block(index);
        let span = geometry().span(segment, block, 1);
        let range = span.at as usize..span.end() as usize;
        assert_eq!(here.0[range.clone()], there.0[range.clone()]);
        let mine = pieces(here, segment, block, index == 0, false);
        assert_eq!(mine, pieces(there, segment, block, index == 0, false));
    }
}

#[test]
fn what_lies_outside_is_refused() {
    let mut mirror = mirror();
    let one = CpId::new(1);
    assert_eq!(mirror.place(CpId::new(0), 4096, 512, false), Err(PlaceRefused::Drained));
    assert_eq!(mirror.place(CpId::new(4), 4096, 512, false), Err(PlaceRefused::NoSlot));
    assert_eq!(mirror.place(one, 400 * 4096, 512, false), Err(PlaceRefused::Range));
    assert_eq!(mirror.place(one, 4096 + 4096 - 512, 1024, false), Err(PlaceRefused::Range));
    assert_eq!(mirror.place(one, 4096 + 100, 512, false), Err(PlaceRefused::Range));
    assert_eq!(mirror.place(one, 4096, 0, false), Err(PlaceRefused::Range));
    assert_eq!(mirror.place(one, 4096 + 512, 100, true), Err(PlaceRefused::Range));
    assert_eq!(mirror.place(one, u32::MAX - 511, 512, false), Err(PlaceRefused::Range));
}

#[test]
fn a_page_that_differs_from_its_descriptor_never_becomes_durable() {
    let (mut log, mut here) = (source(), PlainMemory(vec![0; geometry().bytes() as usize]));
    let (mut mirror, mut there) = (mirror(), PlainMemory(vec![0; geometry().bytes() as usize]));
    let now = Nanos::from_millis(1);
    let placement = log
        .reserve(now, EntryKind::Write, VolumeId::new(0), Sector::new(0), Sectors::new(8))
        .expect("room");
    log.set_page(&placement, 0, 0xBAD);
    assert_eq!(log.complete(now, placement, 0), Completion::Logged);
    let batch = log.close_batch(&mut here).expect("one entry");
    for piece in pieces(&here, batch.segment, batch.block, true, false) {
        deliver(&mut mirror, &mut there, &piece);
    }
    assert_eq!(mirror.next_ready(&there), Err(MirrorFault::Page));
    assert_eq!(mirror.next_ready(&there), Ok(None), "the page is missing again");
    assert_eq!(mirror.durable(), Lsn::new(0));
}

/// MIR-3.
#[test]
fn a_segment_is_held_only_when_all_its_batches_are_durable() {
    let (mut log, mut here) = (source(), PlainMemory(vec![0; geometry().bytes() as usize]));
    let (mut mirror, mut there) = (mirror(), PlainMemory(vec![0; geometry().bytes() as usize]));
    let now = Nanos::from_millis(1);
    let one = CpId::new(1);
    let mut batches = Vec::new();
    for n in 0..2 {
        let placement = log
            .reserve(now, EntryKind::Write, VolumeId::new(0), Sector::new(n * 8), Sectors::new(8))
            .expect("room");
        log.set_page(&placement, 0, ibid_wire::crc32c(&[0; 4096]));
        assert_eq!(log.complete(now, placement, 0), Completion::Logged);
        batches.push(log.close_batch(&mut here).expect("one entry"));
    }
    let last = Lsn::new(2);
    let mut deliver_batch = |mirror: &mut Mirror, batch: &ClosedBatch| {
        for piece in pieces(&here, batch.segment, batch.block, batch.with_header, false) {
            deliver(mirror, &mut there, &piece);
        }
        mirror.next_ready(&there).expect("an honest source").expect("a whole batch").last
    };
    assert!(!mirror.holds(one, 2, last), "nothing is here");
    let first = deliver_batch(&mut mirror, &batches[0]);
    mirror.set_durable(first);
    assert!(mirror.holds(one, 1, first));
    assert!(!mirror.holds(one, 2, last), "one of two");
    let second = deliver_batch(&mut mirror, &batches[1]);
    assert!(!mirror.holds(one, 2, last), "both are whole, one is not durable");
    mirror.set_durable(second);
    assert!(mirror.holds(one, 2, last));
    assert!(!mirror.holds(one, 3, last), "another number of batches");
    assert!(!mirror.holds(one, 2, Lsn::new(3)), "another last entry");
    assert!(!mirror.holds(CpId::new(4), 2, last), "the slot's next lap");
}

#[test]
fn a_segment_number_is_widened_to_the_nearest() {
    let mirror =
        Mirror::new(geometry(), [1; 16], CpId::new(u64::from(u32::MAX) - 1), Lsn::new(0), vec![]);
    assert_eq!(mirror.widen(u32::MAX), CpId::new(u64::from(u32::MAX)));
    assert_eq!(mirror.widen(3), CpId::new(u64::from(u32::MAX) + 4));
    assert_eq!(mirror.widen(u32::MAX - 5), CpId::new(u64::from(u32::MAX) - 5));
}
