//! Devices that fail and bytes that rot: nothing is acknowledged that is not durable, nothing is applied that is not proved.

use crate::verify::hold_log;
use crate::{WRITES, do_read, do_write, write};
use ibid_driver::checksum::crc32c;
use ibid_driver::{DiskOp, FileId};
use ibid_engine::frontend::AnaState;
use ibid_runtime::{Fault, PeerState, Reply, Shard, Stop};
use ibid_sim::disk::Fail;
use ibid_sim::host::{Op, Request};
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::{DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::Nanos;
use ibid_wire::disk::{Batch, BatchEmitter, SEGMENTS_AT};
use ibid_wire::nvme_tcp::Status;
use ibid_wire::peer::{Frame, FrameEmitter, HEADER_BYTES, Section, SectionKind};

const EIO: i32 = 5;

fn connected(config: WorldConfig) -> World {
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    world
}

/// No CP comes by itself.
fn without_timer(seed: u64) -> WorldConfig {
    WorldConfig { cp_interval: Nanos::from_millis(1_000_000), ..WorldConfig::calm(seed) }
}

/// A read on a queue other than the one whose command does not end.
fn do_read_on(world: &mut World, queue: usize, first: u64, sectors: u64) {
    let reading = world.model.begin_read(0, first, sectors);
    let request =
        Request { nsid: 1, slba: first, blocks: sectors as u32, lba_bytes: 512, op: Op::Read };
    let done = world.command(queue, request);
    assert!(done.status.is_success(), "{}", done.status);
    world.model.end_read(&reading, &done.data);
}

fn fail_on(matches: impl Fn(&DiskOp) -> bool + 'static) -> Option<Fail> {
    Some(Box::new(move |op| matches(op).then_some(EIO)))
}

fn is_log_write(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Write { file: FileId(0), .. })
}
fn is_log_flush(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Flush { file: FileId(0) })
}
fn is_volume_write(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Write { file: FileId(1), .. })
}
fn is_volume_flush(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Flush { file: FileId(1) })
}

#[test]
fn after_an_error_of_its_log_a_source_acknowledges_nothing_more() {
    for (seed, matches) in [(1, is_log_write as fn(&DiskOp) -> bool), (2, is_log_flush)] {
        let mut world = connected(without_timer(seed));
        do_write(&mut world, 0, 8);
        world.files[SOURCE].borrow_mut().fail = fail_on(matches);
        let (_, request) = write(&mut world, 8, 8);
        world.queues[1].submit(1, request);
        // What waits is sent to another path, in the turn after the fault at the latest.
        let ended = loop {
            let ended = world.step();
            if !ended.is_empty() {
                break ended;
            }
        };
        assert_eq!(world.snapshot(SOURCE).fault, Some(Fault::Log(EIO)));
        assert_eq!((ended.len(), ended[0].1.status), (1, Status::ANA_INACCESSIBLE));
        // The device works again: that makes no difference, what it lost is unknown.
        world.files[SOURCE].borrow_mut().fail = None;
        world.pass(Nanos::from_millis(3_000));
        assert_eq!(world.snapshot(SOURCE).access, [AnaState::Inaccessible; 2]);
        let (_, request) = write(&mut world, 64, 8);
        assert_eq!(world.command(2, request).status, Status::ANA_INACCESSIBLE);
        let read = Request { nsid: 1, slba: 0, blocks: 8, lba_bytes: 512, op: Op::Read };
        assert_eq!(world.command(2, read).status, Status::ANA_INACCESSIBLE);
        let now = world.now;
        world.source.as_mut().expect("it runs").begin_stop(now);
        world.run_until("the stop", |world| {
            world.source.as_ref().is_some_and(|source| source.stopped() == Some(Stop::Unclean))
        });
    }
}

#[test]
fn after_an_error_of_its_log_a_destination_makes_nothing_durable() {
    for (seed, matches) in [(3, is_log_write as fn(&DiskOp) -> bool), (4, is_log_flush)] {
        let mut world = connected(without_timer(seed));
        do_write(&mut world, 0, 8);
        world.files[DESTINATION].borrow_mut().fail = fail_on(matches);
        let (_, request) = write(&mut world, 8, 8);
        world.queues[1].submit(1, request);
        world.run_until("the source to hear of it", |world| world.snapshot(SOURCE).peer_failed);
        world.files[DESTINATION].borrow_mut().fail = None;
        world.pass(Nanos::from_millis(3_000));
        assert_eq!(world.snapshot(DESTINATION).fault, Some(Fault::Log(EIO)));
        assert_eq!(world.snapshot(SOURCE).lsn_peer.get(), 1);
        assert_eq!(world.queues[1].outstanding(), 1);
    }
}

#[test]
fn a_volume_that_fails_leaves_its_cp_undone_and_its_segment_kept() {
    for (side, matches) in [
        (SOURCE, is_volume_write as fn(&DiskOp) -> bool),
        (SOURCE, is_volume_flush),
        (DESTINATION, is_volume_write),
        (DESTINATION, is_volume_flush),
    ] {
        let mut world = connected(without_timer(5 + side as u64));
        do_write(&mut world, 0, 8);
        world.files[side].borrow_mut().fail = fail_on(matches);
        let answer = world.begin_cp();
        world.run_until("the error", |world| world.snapshot(side).volume_retry.is_some());
        world.pass(Nanos::from_millis(3_000));
        let (code, age, count) = world.snapshot(side).volume_retry.expect("it is tried again");
        assert_eq!(code, EIO);
        assert!(age >= Nanos::from_millis(3_000) && count >= 2, "{count} in {age:?}");
        assert!(answer.try_recv().is_err(), "the CP is not done");
        let before = world.snapshot(SOURCE).cp;
        for each in [SOURCE, DESTINATION] {
            let found = ibid_sim::superblock(world.files[each].borrow().durable(0));
            assert!(each != side || found.cp == before, "the CP is not recorded where it failed");
        }
        assert_eq!(world.snapshot(SOURCE).segments[2], 1, "the segment is kept");
        do_read(&mut world, 0, 8);
        // The device works again: everything is written once more from the log, then flushed.
        world.files[side].borrow_mut().fail = None;
        world.run_until("the CP", |world| world.snapshot(SOURCE).cp > before);
        assert_eq!(world.snapshot(side).volume_retry, None);
        do_write(&mut world, 4, 2);
        world.stop();
    }
}

/// Takes a datagram apart and puts it together again with what `change` makes of its sections; sums and tag are right afterwards.
fn rebuild(datagram: &mut Vec<u8>, mut change: impl FnMut(&mut Section, &mut Vec<u8>)) {
    let Ok(frame) = Frame::parse(datagram) else {
        return;
    };
    let header = frame.header;
    let mut sections: Vec<(Section, Vec<u8>)> =
        frame.sections().map(|(section, body)| (section, body.to_vec())).collect();
    let mut out = vec![0; HEADER_BYTES + 16 * 20];
    let mut emitter = FrameEmitter::new(&mut out, &header);
    for (section, body) in &mut sections {
        change(section, body);
        section.crc = crc32c(body);
        emitter.section(section);
    }
    let length = emitter.finish();
    out.truncate(length);
    for (_, body) in sections {
        out.extend(body);
    }
    *datagram = out;
}

/// The destination's copy of an entry differs from the source's although every sum over there is right: memory that rotted before it
/// was summed. The reference does not prove itself, the block is sent instead.
#[test]
fn a_reference_that_is_not_proved_is_answered_with_a_block() {
    let mut world = connected(without_timer(11));
    world.net.borrow_mut().tamper = Some(Box::new(|side, datagram| {
        if side != DESTINATION {
            return;
        }
        rebuild(datagram, |section, body| {
            if section.kind != SectionKind::Log {
                return;
            }
            if section.extra == 0 {
                // Payload: one bit.
                body[100] ^= 1;
            } else if section.place > 0 {
                let block = body.clone();
                let batch = Batch::parse(&block).expect("a batch");
                let mut other = vec![0; 4096];
                let mut emitter = BatchEmitter::new(&mut other, &batch.header, 4096);
                for (entry, crcs) in batch.entries() {
                    // CRC32C is linear: the sum of a page with that bit differs by the sum of the bit, whatever the page.
                    let mut bit = vec![0; 4096];
                    let zero = crc32c(&bit);
                    bit[100] = 1;
                    assert!(emitter.push(&entry, |index| crcs.get(index) ^ zero ^ crc32c(&bit)));
                }
                let (used, _) = emitter.finish();
                *body = other[..used as usize].to_vec();
            }
        });
    }));
    do_write(&mut world, 80, 8);
    world.net.borrow_mut().tamper = None;
    let done = world.cp();
    assert_eq!((done.counters.references, done.counters.refused, done.counters.blocks), (1, 1, 1));
    assert_eq!(world.snapshot(DESTINATION).cp_sum.refused, 1);
    assert_eq!(world.snapshot(DESTINATION).fault, None);
    do_write(&mut world, 160, 8);
    assert_eq!(world.cp().counters.refused, 0);
    world.stop();
}

/// A list that is not the one announced is not applied.
#[test]
fn a_list_that_contradicts_its_announcement_is_not_applied() {
    let mut world = connected(without_timer(12));
    world.net.borrow_mut().tamper = Some(Box::new(|side, datagram| {
        if side == DESTINATION {
            rebuild(datagram, |section, body| {
                if section.kind == SectionKind::CpList {
                    let last = body.len() - 1;
                    body[last] ^= 1;
                }
            });
        }
    }));
    do_write(&mut world, 80, 8);
    let answer = world.begin_cp();
    world.run_until("the destination to refuse", |world| {
        world.snapshot(DESTINATION).fault == Some(Fault::Peer)
    });
    world.pass(Nanos::from_millis(1_000));
    assert!(answer.try_recv().is_err());
    assert!(
        world.files[DESTINATION].borrow().live(1).iter().all(|byte| *byte == 0),
        "nothing was written to the mirror"
    );
    do_read(&mut world, 80, 8);
}

/// A CP that does not follow what the destination holds: of another history, or not the next. It is never applied, and said, rather
/// than asked for again and again.
#[test]
fn a_cp_of_another_history_is_a_fault_and_not_applied() {
    // Places in CpOpen: its number, its chain digest before.
    for (seed, place) in [(14, 0), (15, 32)] {
        let mut world = connected(without_timer(seed));
        world.net.borrow_mut().tamper = Some(Box::new(move |side, datagram| {
            if side == DESTINATION {
                rebuild(datagram, |section, body| {
                    if section.kind == SectionKind::CpOpen {
                        body[place] ^= 4;
                    }
                });
            }
        }));
        do_write(&mut world, 80, 8);
        let answer = world.begin_cp();
        world.run_until("the source to hear of it", |world| world.snapshot(SOURCE).peer_failed);
        assert_eq!(world.snapshot(DESTINATION).fault, Some(Fault::Peer));
        world.net.borrow_mut().tamper = None;
        world.pass(Nanos::from_millis(3_000));
        assert!(answer.try_recv().is_err(), "the CP is not done");
        assert_eq!(world.snapshot(DESTINATION).cp.get(), 1);
        let mirror = world.files[DESTINATION].borrow().live(1).to_vec();
        assert!(mirror.iter().all(|byte| *byte == 0), "nothing was written to the mirror");
        let (_, request) = write(&mut world, 8, 8);
        world.queues[1].submit(1, request);
        world.pass(Nanos::from_millis(1_000));
        assert_eq!(
            world.queues[1].outstanding(),
            1,
            "nothing is acknowledged that only one node holds"
        );
        do_read_on(&mut world, 2, 80, 8);
    }
}

/// MIR-3. A destination that starts again gets the list before the log that it refers to.
#[test]
fn a_cp_waits_for_the_log_it_refers_to() {
    let mut world = connected(without_timer(16));
    for n in 0..20 {
        do_write(&mut world, n * 16, 8);
    }
    world.power_cut_destination();
    // Its log device has lost the log, so that it has to come again.
    let slots = world.files[DESTINATION].borrow().durable(0)[SEGMENTS_AT as usize..].len();
    world.files[DESTINATION].borrow_mut().fill(0, SEGMENTS_AT as usize, &vec![0; slots]);
    let holding = hold_log(&world);
    world.start_destination();
    world.await_start();
    let answer = world.begin_cp();
    world.run_until("the CP to be announced", |world| {
        world.snapshot(DESTINATION).cp_running.is_some()
    });
    world.pass(Nanos::from_millis(500));
    assert!(answer.try_recv().is_err(), "the CP is not done");
    assert_eq!(world.snapshot(DESTINATION).fault, None);
    assert_eq!(world.snapshot(DESTINATION).cp_sum.references, 0);
    holding.set(false);
    let mut reply = None;
    world.run_until("the CP", |_| {
        reply = answer.try_recv().ok();
        reply.is_some()
    });
    let Some(Reply::Cp(done)) = reply else { panic!("asked for a CP, got {reply:?}") };
    assert_eq!(
        (done.counters.references, done.counters.refused),
        (20, 0),
        "each reference was proved, once its log was there"
    );
    world.stop();
}

/// One frame in four is corrupted: none does harm.
#[test]
fn corrupted_frames_cost_time_and_nothing_else() {
    let mut config = WorldConfig::calm(13);
    config.net.corrupt = 250;
    let mut world = connected(config);
    Load::new(LoadConfig { commands: 150, reads: 300, ..WRITES }).run(&mut world);
    let (here, there) = (world.snapshot(SOURCE), world.snapshot(DESTINATION));
    assert!(here.rx_refused > 0 && there.rx_refused > 0, "frames were refused");
    assert_eq!((here.fault, there.fault), (None, None));
    assert_eq!(here.peer, PeerState::Connected);
    world.stop();
}
