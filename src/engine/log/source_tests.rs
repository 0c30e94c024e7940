//! Promises of the source's log, one by one. The two logs together are tested in `mirror_tests`.

use super::*;
use crate::memory::PlainMemory;
use alloc::vec;

const SEGMENT_BLOCKS: u32 = 600;

fn log(segments: u32) -> (SourceLog, PlainMemory) {
    let geometry = LogGeometry { segments, segment_blocks: SEGMENT_BLOCKS, arena_at: 0 };
    let config = SourceLogConfig {
        geometry,
        pair: [1; 16],
        epoch: Epoch::new(1),
        cp: CpId::new(0),
        last_lsn: Lsn::new(0),
        entries_max: 1000,
        batch_bytes_max: 1300,
        late_after: Nanos::from_millis(20),
        opened: true,
        durable_there: Lsn::new(0),
    };
    (SourceLog::new(config), PlainMemory(vec![0; geometry.bytes() as usize]))
}

const NOW: Nanos = Nanos::from_millis(1);

fn reserve(log: &mut SourceLog, first: u64, sectors: u32) -> Result<Placement, ReserveRefused> {
    log.reserve(NOW, EntryKind::Write, VolumeId::new(0), Sector::new(first), Sectors::new(sectors))
}

fn commit_all(log: &mut SourceLog, memory: &mut PlainMemory) -> usize {
    while log.close_batch(memory).is_some() {}
    log.durable_here(log.batched());
    assert!(log.durable_there(log.batched()));
    core::iter::from_fn(|| log.pop_committed()).count()
}

#[test]
fn a_write_commits_only_when_both_nodes_hold_it_and_is_readable_only_then() {
    let (mut log, mut memory) = log(3);
    let placement = reserve(&mut log, 8, 8).expect("room");
    log.set_page(&placement, 0, 77);
    assert_eq!(log.complete(NOW, placement, 5), Completion::Logged);
    let batch = log.close_batch(&mut memory).expect("one entry");
    assert_eq!((batch.last, batch.with_header), (Lsn::new(1), true));
    log.durable_here(Lsn::new(1));
    assert_eq!(log.pop_committed(), None);
    assert_eq!(log.lookup(VolumeId::new(0), 1, 0xFF), [None; 8]);
    assert!(log.durable_there(Lsn::new(1)));
    assert_eq!(log.pop_committed(), Some(Committed { token: 5, lsn: Lsn::new(1), arrived: NOW }));
    assert!(log.lookup(VolumeId::new(0), 1, 0xFF).iter().all(Option::is_some));
}

#[test]
fn a_peer_that_claims_what_was_never_sent_releases_nothing() {
    let (mut log, mut memory) = log(3);
    let placement = reserve(&mut log, 0, 8).expect("room");
    assert_eq!(log.complete(NOW, placement, 1), Completion::Logged);
    log.close_batch(&mut memory);
    log.durable_here(Lsn::new(1));
    assert!(!log.durable_there(Lsn::new(2)));
    assert_eq!(log.pop_committed(), None);
}

#[test]
fn a_full_log_refuses_until_a_segment_is_freed() {
    let (mut log, mut memory) = log(2);
    let mut count = 0;
    while let Ok(placement) = reserve(&mut log, 0, 512) {
        assert_eq!(log.complete(NOW, placement, count), Completion::Logged);
        count += 1;
    }
    assert_eq!(reserve(&mut log, 0, 512), Err(ReserveRefused::Full));
    assert_eq!(log.drainable(), None);
    assert_eq!(commit_all(&mut log, &mut memory), count as usize);
    assert_eq!(log.drainable(), Some(CpId::new(1)));
    log.free(CpId::new(1));
    assert!(reserve(&mut log, 0, 512).is_ok());
}

#[test]
fn a_pinned_segment_is_not_reused() {
    let (mut log, mut memory) = log(2);
    while let Ok(placement) = reserve(&mut log, 0, 512) {
        assert_eq!(log.complete(NOW, placement, 0), Completion::Logged);
    }
    commit_all(&mut log, &mut memory);
    let slot = log.pin(CpId::new(1));
    log.free(CpId::new(1));
    assert_eq!(reserve(&mut log, 0, 8), Err(ReserveRefused::Full));
    log.unpin_slot(slot);
    assert_eq!(reserve(&mut log, 0, 8).map(|placement| placement.segment), Ok(CpId::new(3)));
}

#[test]
fn entries_of_the_next_segment_wait_for_those_of_the_sealed_one() {
    let (mut log, mut memory) = log(3);
    let slow = reserve(&mut log, 0, 8).expect("room");
    assert!(log.seal(NOW));
    let quick = reserve(&mut log, 0, 8).expect("room");
    assert_eq!((slow.segment, quick.segment), (CpId::new(1), CpId::new(2)));
    assert_eq!(log.complete(NOW, quick, 2), Completion::Logged);
    assert!(log.close_batch(&mut memory).is_none(), "LOG-2: the older segment's entry comes first");
    assert_eq!(log.complete(NOW, slow, 1), Completion::Logged);
    assert_eq!(log.close_batch(&mut memory).map(|batch| batch.segment), Some(CpId::new(1)));
    assert_eq!(log.close_batch(&mut memory).map(|batch| batch.segment), Some(CpId::new(2)));
    log.durable_here(Lsn::new(2));
    assert!(log.durable_there(Lsn::new(2)));
    let tokens = [log.pop_committed(), log.pop_committed()]
        .map(|committed| committed.expect("committed").token);
    assert_eq!(tokens, [1, 2]);
}

#[test]
fn data_that_never_comes_holds_up_nobody_and_its_place_stays_pinned() {
    let (mut log, mut memory) = log(2);
    let slow = reserve(&mut log, 0, 8).expect("room");
    assert!(log.seal(NOW));
    let quick = reserve(&mut log, 8, 8).expect("room");
    assert_eq!(log.complete(NOW, quick, 2), Completion::Logged);
    log.expire_late(NOW.after(Nanos::from_millis(19)));
    assert!(!log.has_unbatched());
    log.expire_late(NOW.after(Nanos::from_millis(20)));
    assert_eq!(commit_all(&mut log, &mut memory), 1);
    assert_eq!(log.drainable(), Some(CpId::new(1)));
    log.free(CpId::new(1));
    assert!(log.seal(NOW));
    assert_eq!(
        reserve(&mut log, 0, 8),
        Err(ReserveRefused::Full),
        "slot 1 is pinned by the late receive"
    );
    assert_eq!(log.complete(NOW, slow, 1), Completion::Late);
    log.release_late(slow);
    assert!(reserve(&mut log, 0, 8).is_ok());
}

#[test]
fn an_abandoned_write_leaves_no_entry_and_gives_its_room_back() {
    let (mut log, mut memory) = log(2);
    for _ in 0..3000 {
        let placement = reserve(&mut log, 0, 8);
        let Ok(placement) = placement else { break };
        log.abandon(NOW, placement);
    }
    assert_eq!(log.reserved(), 0);
    assert_eq!(commit_all(&mut log, &mut memory), 0);
    if let Some(segment) = log.drainable() {
        assert_eq!(log.closed_segment(segment), (Lsn::new(0), 0));
        log.free(segment);
    }
    assert!(reserve(&mut log, 0, 8).is_ok());
}

#[test]
fn every_entry_has_a_batch_even_when_each_is_closed_alone() {
    let (mut log, mut memory) = log(2);
    let mut written = 0;
    while let Ok(placement) = reserve(&mut log, 8 * written, 8) {
        assert_eq!(log.complete(NOW, placement, written), Completion::Logged);
        assert!(log.close_batch(&mut memory).is_some());
        written += 1;
    }
    // Two segments, each with a header, then as many pages as batches.
    assert!(written >= u64::from(2 * ((SEGMENT_BLOCKS - 1) / 2 - 1)), "{written} entries");
    assert_eq!(commit_all(&mut log, &mut memory) as u64, written);
}

#[test]
fn opcodes_are_logged_without_pages() {
    let (mut log, mut memory) = log(2);
    let placement = log
        .reserve(NOW, EntryKind::Deallocate, VolumeId::new(0), Sector::new(4), Sectors::new(80))
        .expect("room");
    assert_eq!(placement.entry.pages, 0);
    assert_eq!(log.complete(NOW, placement, 9), Completion::Logged);
    assert_eq!(commit_all(&mut log, &mut memory), 1);
    let found = log.lookup(VolumeId::new(0), 0, 0xFF);
    assert_eq!(found[3], None);
    assert_eq!(found[4], Some((CpId::new(1), BlockSource::Deallocated)));
}

#[test]
fn a_log_that_goes_on_alone_is_not_held_up_by_the_room_of_a_peer_that_is_away() {
    let (mut log, mut memory) = log(3);
    log.set_segment_limit(CpId::new(1));
    for n in 0..2 {
        let placement = reserve(&mut log, n * 2000, 8 * 250).expect("room in the first segment");
        (0..250).for_each(|page| log.set_page(&placement, page, 7));
        assert_eq!(log.complete(NOW, placement, 1), Completion::Logged);
    }
    assert_eq!(reserve(&mut log, 0, 8 * 250), Err(ReserveRefused::Full));
    log.commit_alone(true);
    let placement = reserve(&mut log, 0, 8).expect("room in the second");
    log.set_page(&placement, 0, 7);
    assert_eq!(log.complete(NOW, placement, 1), Completion::Logged);
    while log.close_batch(&mut memory).is_some() {}
    // Back, it says how much room it has.
    log.commit_alone(false);
    log.set_segment_limit(CpId::new(2));
    assert!(log.seal(NOW));
    assert_eq!(reserve(&mut log, 0, 8), Err(ReserveRefused::Full));
}

#[test]
fn a_read_shows_all_that_was_logged_when_so_much_is_committed() {
    let (mut log, mut memory) = log(3);
    let asked = |log: &SourceLog, first: u64, sectors: u32| {
        log.committed_for(VolumeId::new(0), Sector::new(first), Sectors::new(sectors))
    };
    let logged = |log: &mut SourceLog, first: u64, sectors: u32| {
        let placement = reserve(log, first, sectors).expect("room");
        assert_eq!(log.complete(NOW, placement, 1), Completion::Logged);
    };
    logged(&mut log, 0, 4);
    logged(&mut log, 2, 4);
    logged(&mut log, 16, 8);
    for (first, sectors, needed) in [
        (0, 1, Some(1)),
        (0, 3, Some(2)),
        (5, 1, Some(2)),
        (6, 10, None),
        (23, 1, Some(3)),
        (24, 8, None),
    ] {
        assert_eq!(asked(&log, first, sectors), needed.map(Lsn::new), "{first}+{sectors}");
    }
    assert_eq!(log.committed_for(VolumeId::new(1), Sector::new(0), Sectors::new(99)), None);
    // What was only reserved has no place in the order yet; what waits for its segment's turn has none that is known.
    let pending = reserve(&mut log, 40, 8).expect("room");
    assert_eq!(asked(&log, 40, 8), None);
    assert!(log.seal(NOW));
    logged(&mut log, 48, 8);
    assert_eq!(asked(&log, 48, 1), Some(Lsn::new(1)), "any progress may be enough");
    assert_eq!(commit_all(&mut log, &mut memory), 3);
    assert_eq!((asked(&log, 0, 24), asked(&log, 48, 1)), (None, Some(Lsn::new(4))));
    assert_eq!(log.complete(NOW, pending, 1), Completion::Logged);
    assert_eq!(asked(&log, 48, 1), Some(Lsn::new(5)));
    assert_eq!(commit_all(&mut log, &mut memory), 2);
    assert_eq!(asked(&log, 0, 99), None);
}
