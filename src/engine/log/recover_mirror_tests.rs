//! Mirrors beside recovery: what a destination takes of a row of segments with gaps, and of an epoch that falls.

use super::*;

/// A segment of another epoch than its batches, or of an earlier epoch than the one before, is not taken.
#[test]
fn a_mirror_takes_no_epoch_that_falls() {
    let geometry = LogGeometry { segments: 4, segment_blocks: 64, arena_at: 0 };
    let mut random = Random(2);
    let mut life = Life::new(4, 64);
    life.facts.epoch = 5;
    life.log = SourceLog::new(source_config(geometry, life.facts));
    life.fill(&mut random, 2);
    life.log.seal(NOW);
    life.fill(&mut random, 1);
    let volumes = vec![VOLUME_SECTORS; 2];
    let mut mirror = Mirror::new(geometry, PAIR, CpId::new(0), Lsn::new(0), volumes);
    let mut memory = life.memory.clone();
    // The second segment's header says epoch 4, and checks.
    let second = life.batches[2];
    let span = geometry.span(second.segment, LogBlock::new(0), 1);
    let mut header = memory.read(span, SegmentHeader::parse).expect("a header");
    header.epoch = Epoch::new(4);
    memory.write(span, |bytes| header.emit(bytes));
    for batch in &life.batches {
        deliver(&mut mirror, &memory, geometry, batch);
    }
    assert!(mirror.next_ready(&memory).is_ok_and(|batch| batch.is_some()));
    assert!(mirror.next_ready(&memory).is_ok_and(|batch| batch.is_some()));
    assert_eq!(mirror.next_ready(&memory), Err(MirrorFault::Order));
    // What was wrong has a place again, and may come as it should be.
    header.epoch = Epoch::new(6);
    memory.write(span, |bytes| header.emit(bytes));
    deliver(&mut mirror, &memory, geometry, &second);
    assert_eq!(mirror.next_ready(&memory), Err(MirrorFault::Order), "its batch is of epoch 5");
    header.epoch = Epoch::new(5);
    memory.write(span, |bytes| header.emit(bytes));
    mirror.truncate(&memory, life.batches[1].last);
    deliver(&mut mirror, &memory, geometry, &second);
    assert_eq!(mirror.next_ready(&memory), Ok(Some(second)));
}

/// The pieces of the segment after an empty one may come before the empty one's CP, and wait neither for that nor forever.
#[test]
fn a_mirror_goes_on_past_an_empty_segment() {
    for drained_first in [false, true] {
        let mut random = Random(6);
        let mut life = Life::new(5, 64);
        life.fill(&mut random, 2);
        life.log.seal(NOW);
        assert_eq!(life.log.seal_for_cp(NOW), Some(CpId::new(2)));
        let last = life.log.batched();
        life.fill(&mut random, 1);
        let volumes = vec![VOLUME_SECTORS; 2];
        let mut mirror = Mirror::new(life.geometry, PAIR, CpId::new(0), Lsn::new(0), volumes);
        for batch in &life.batches[..2] {
            deliver(&mut mirror, &life.memory, life.geometry, batch);
            let ready = mirror.next_ready(&life.memory).expect("honest").expect("whole");
            mirror.set_durable(ready.last);
        }
        assert_eq!(mirror.next_ready(&life.memory), Ok(None));
        if drained_first {
            mirror.drained(CpId::new(1));
            assert!(mirror.holds(CpId::new(2), 0, last), "an empty segment is held");
            mirror.drained(CpId::new(2));
        }
        deliver(&mut mirror, &life.memory, life.geometry, &life.batches[2]);
        let ready = mirror.next_ready(&life.memory).expect("honest").expect("whole");
        assert_eq!(ready, life.batches[2]);
        mirror.set_durable(ready.last);
        if !drained_first {
            mirror.drained(CpId::new(1));
            assert!(mirror.holds(CpId::new(2), 0, last), "an empty segment is held");
            mirror.drained(CpId::new(2));
        }
        let (last, batches) = (life.batches[2].last, 1);
        assert!(mirror.holds(CpId::new(3), batches, last));
        mirror.drained(CpId::new(3));
        assert_eq!(mirror.segments_in_use(), 0);
    }
}
