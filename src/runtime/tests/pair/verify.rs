//! Blocks that rot or can't be read any more: reads are answered with the other node's bytes, `verify` finds what differs, repairs what
//! is provably wrong and leaves alone what is not.

use crate::{WRITES, do_read, do_write, write};
use ibid_driver::{DiskOp, FileId};
use ibid_runtime::{Fault, PeerLoss, PeerState, Reply, SyncState, VerifyProgress, VerifyState};
use ibid_sim::disk::Fail;
use ibid_sim::guard;
use ibid_sim::host::{Op, Request};
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::{Crash, DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::{Nanos, Span, VolumeId};
use ibid_wire::nvme_tcp::Status;
use ibid_wire::peer::{Frame, SectionKind};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

const EIO: i32 = 5;

/// A pair whose volume 0 holds 64 blocks that were written by the CP before, in sync.
fn written(config: WorldConfig) -> World {
    let mut world = World::new(config);
    world.connect();
    world.wait_connected();
    do_write(&mut world, 0, 256);
    do_write(&mut world, 256, 256);
    world.cp();
    world.run_until("the copies to be in sync", |world| {
        world.snapshot(SOURCE).sync == SyncState::InSync
    });
    world
}

/// No piece of the log gets to the destination while this says so.
pub(crate) fn hold_log(world: &World) -> Rc<Cell<bool>> {
    let holding = Rc::new(Cell::new(true));
    let holds = holding.clone();
    world.net.borrow_mut().tamper = Some(Box::new(move |side, datagram| {
        let is_log = Frame::parse(datagram).is_ok_and(|frame| {
            frame.sections().any(|(section, _)| section.kind == SectionKind::Log)
        });
        if side == DESTINATION && holds.get() && is_log {
            datagram[0] ^= 1;
        }
    }));
    holding
}

/// A bit of a page flips where it lies in the source's memory; that place.
fn flip(world: &World, page: &[u8]) -> Span {
    let arena = &world.arenas[SOURCE];
    let at = (0..arena.len() as u64 / 4096)
        .map(|n| Span::new(n * 4096, 4096))
        .find(|span| *arena.bytes(*span) == *page)
        .expect("the page is in memory");
    arena.with_mut(at, |bytes| bytes[100] ^= 4);
    at
}

/// Blocks of a node's volumes, as (volume, block), that can't be read until they are written again.
type Bad = Rc<RefCell<BTreeSet<(usize, u64)>>>;

pub(crate) fn bad_blocks(world: &World, side: usize, blocks: &[(usize, u64)]) -> Bad {
    let bad: Bad = Rc::new(RefCell::new(blocks.iter().copied().collect()));
    let shared = bad.clone();
    let heal = move |file: FileId, at: u64, len: u64| {
        let run = (usize::from(file.0) - 1, at.div_ceil(4096))
            ..(usize::from(file.0) - 1, (at + len) / 4096);
        shared.borrow_mut().retain(|at| !run.contains(at));
        None
    };
    let shared = bad.clone();
    let fail: Fail = Box::new(move |op| match *op {
        DiskOp::Read { file, at, span } if file.0 > 0 => {
            let (first, end) = (at / 4096, (at + u64::from(span.len)).div_ceil(4096));
            let volume = usize::from(file.0) - 1;
            shared.borrow().range((volume, first)..(volume, end)).next().map(|_| EIO)
        }
        DiskOp::Write { file, at, span } if file.0 > 0 => heal(file, at, u64::from(span.len)),
        DiskOp::Zero { file, at, len } | DiskOp::Deallocate { file, at, len } if file.0 > 0 => {
            heal(file, at, len)
        }
        _ => None,
    });
    world.files[side].borrow_mut().fail = Some(fail);
    bad
}

fn block(world: &World, side: usize, block: usize) -> Vec<u8> {
    world.files[side].borrow().live(1)[block * 4096..][..4096].to_vec()
}

/// Differing, wrong here and there, repaired here and there, undecided.
fn counts(progress: &VerifyProgress) -> [u64; 6] {
    let VerifyProgress { differing, wrong_here, wrong_there, .. } = *progress;
    let VerifyProgress { repaired_here, repaired_there, undecided, .. } = *progress;
    [differing, wrong_here, wrong_there, repaired_here, repaired_there, undecided]
}

fn done(progress: &VerifyProgress) -> [u64; 6] {
    assert_eq!(progress.state, VerifyState::Done);
    assert_eq!(progress.compared, progress.blocks);
    counts(progress)
}

#[test]
fn copies_that_are_alike_are_found_alike() {
    for (seed, mtu) in [(1, 9000), (2, 1500)] {
        let mut world = written(WorldConfig { mtu, ..WorldConfig::calm(seed) });
        let progress = world.verify(0, true);
        assert_eq!((progress.volume, progress.blocks), (VolumeId::new(0), 1024));
        assert_eq!(done(&progress), [0; 6]);
        assert_eq!(done(&world.verify(1, false)), [0; 6]);
        assert_eq!(world.snapshot(SOURCE).rewritten, 0);
        world.stop();
    }
}

#[test]
fn rot_is_found_proved_and_repaired_on_the_node_that_has_it_and_only_if_asked() {
    for (side, wrong, repaired) in [
        (SOURCE, [1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0]),
        (DESTINATION, [1, 0, 1, 0, 0, 0], [1, 0, 1, 0, 1, 0]),
    ] {
        for mtu in [9000, 1500] {
            let mut world = written(WorldConfig { mtu, ..WorldConfig::calm(3 + side as u64) });
            let right = block(&world, side, 5);
            world.rot_block(side, 0, 5);
            let rotten = block(&world, side, 5);
            assert_ne!(right, rotten);
            assert_eq!(done(&world.verify(0, false)), wrong);
            assert_eq!(block(&world, side, 5), rotten, "VFY-2: nobody asked for a repair");
            assert_eq!(done(&world.verify(0, true)), repaired);
            assert_eq!(block(&world, side, 5), right);
            assert_eq!(world.snapshot(SOURCE).sync, SyncState::InSync);
            assert_eq!(done(&world.verify(0, true)), [0; 6]);
            do_read(&mut world, 40, 8);
            world.stop();
        }
    }
}

/// A rewritten block is durable when the comparison says so.
#[test]
fn a_repair_survives_the_loss_of_power() {
    for side in [SOURCE, DESTINATION] {
        let mut world = written(WorldConfig::calm(5));
        let right = block(&world, side, 9);
        world.rot_block(side, 0, 9);
        world.verify(0, true);
        assert_eq!(world.files[side].borrow().durable(1)[9 * 4096..][..4096], right);
    }
}

#[test]
fn what_nobody_can_tell_is_listed_and_left_alone() {
    let mut world = written(WorldConfig::calm(6));
    // What recent CPs wrote is known to the process that took them.
    world.crash(SOURCE, Crash::Kill);
    world.queues.clear();
    world.start_source();
    world.await_start();
    world.wait_connected();
    for number in [5, 6, 7, 20] {
        world.rot_block(DESTINATION, 0, number);
    }
    world.rot_block(SOURCE, 0, 21);
    let here = block(&world, SOURCE, 21);
    let there = block(&world, DESTINATION, 6);
    let progress = world.verify(0, true);
    assert_eq!(done(&progress), [5, 0, 0, 0, 0, 5]);
    assert_eq!(progress.undecided_runs, [(5, 3), (20, 2)]);
    assert_eq!(block(&world, SOURCE, 21), here, "VFY-2");
    assert_eq!(block(&world, DESTINATION, 6), there, "VFY-2");
    // What is written again is known again.
    world.connect();
    do_write(&mut world, 5 * 8, 24);
    do_write(&mut world, 20 * 8, 16);
    world.cp();
    assert_eq!(done(&world.verify(0, true)), [0; 6]);
    world.stop();
}

/// Far more than one CP brings, on both nodes, beside one another.
#[test]
fn many_rotten_blocks_are_all_repaired() {
    let mut world = written(WorldConfig::calm(7));
    for number in 0..64 {
        if number % 7 != 3 {
            world.rot_block(number as usize % 3 % 2, 0, number);
        }
    }
    let progress = world.verify(0, true);
    let [differing, here, there, repaired_here, repaired_there, undecided] = done(&progress);
    assert_eq!((differing, undecided), (55, 0));
    assert_eq!((repaired_here, repaired_there), (here, there));
    assert!(here > 15 && there > 15, "{here} {there}");
    assert_eq!(here + there, differing);
    world.stop();
}

#[test]
fn what_one_node_cannot_read_is_repaired_from_the_other() {
    for side in [SOURCE, DESTINATION] {
        let mut world = written(WorldConfig::calm(8));
        // Blocks that were never written, too: nothing is known of them, and need not be.
        let bad = bad_blocks(&world, side, &[(0, 3), (0, 4), (0, 300), (0, 1023)]);
        let found = done(&world.verify(0, false));
        assert_eq!(found, if side == SOURCE { [4, 4, 0, 0, 0, 0] } else { [4, 0, 4, 0, 0, 0] });
        assert_eq!(bad.borrow().len(), 4);
        let found = done(&world.verify(0, true));
        assert_eq!(found, if side == SOURCE { [4, 4, 0, 4, 0, 0] } else { [4, 0, 4, 0, 4, 0] });
        world.stop();
    }
}

#[test]
fn a_block_that_neither_can_read_is_undecided() {
    let mut world = written(WorldConfig::calm(9));
    let here = bad_blocks(&world, SOURCE, &[(0, 3)]);
    let there = bad_blocks(&world, DESTINATION, &[(0, 3), (0, 4)]);
    let progress = world.verify(0, true);
    assert_eq!(done(&progress), [2, 0, 1, 0, 1, 1]);
    assert_eq!(progress.undecided_runs, [(3, 1)]);
    // The one can't be read, the other is not what was written.
    there.borrow_mut().clear();
    world.rot_block(DESTINATION, 0, 3);
    assert_eq!(done(&world.verify(0, true)), [1, 0, 0, 0, 0, 1]);
    assert_eq!(here.borrow().len(), 1);
    do_write(&mut world, 24, 8);
    world.cp();
    world.stop();
}

#[test]
fn a_read_that_fails_here_is_answered_by_the_peer_and_the_block_is_written_again() {
    for mtu in [9000, 1500] {
        let mut world = written(WorldConfig { mtu, ..WorldConfig::calm(10) });
        let bad = bad_blocks(&world, SOURCE, &[(0, 3), (0, 7), (0, 200)]);
        do_read(&mut world, 26, 3);
        assert_eq!(world.snapshot(SOURCE).reads_from_peer, 1);
        // Newer sectors are in the log: they are not asked for.
        do_write(&mut world, 58, 3);
        do_read(&mut world, 0, 512);
        do_read(&mut world, 1600, 8);
        let shot = world.snapshot(SOURCE);
        assert_eq!((shot.reads_from_peer, shot.rewritten), (3, 3));
        assert!(bad.borrow().is_empty());
        do_read(&mut world, 0, 512);
        assert_eq!(world.snapshot(SOURCE).reads_from_peer, 3);
        world.stop();
    }
}

fn read_status(world: &mut World, first: u64) -> Status {
    let request = Request { nsid: 1, slba: first, blocks: 8, lba_bytes: 512, op: Op::Read };
    world.command(1, request).status
}

#[test]
fn a_read_that_nobody_can_answer_fails() {
    let mut world = written(WorldConfig::calm(11));
    let here = bad_blocks(&world, SOURCE, &[(0, 3), (0, 4), (0, 6)]);
    bad_blocks(&world, DESTINATION, &[(0, 3)]);
    assert_eq!(read_status(&mut world, 24), Status::UNRECOVERED_READ_ERROR);
    world.rot_block(DESTINATION, 0, 4);
    assert_eq!(
        read_status(&mut world, 32),
        Status::UNRECOVERED_READ_ERROR,
        "PEER-1: it is known to be wrong"
    );
    assert_eq!(here.borrow().len(), 3);
    world.net.borrow_mut().cut = true;
    let began = world.now;
    assert_eq!(read_status(&mut world, 48), Status::UNRECOVERED_READ_ERROR, "the peer is away");
    assert!(world.now.since(began) >= Nanos::from_millis(1_000), "it might have been back soon");
    do_read(&mut world, 64, 64);
    world.net.borrow_mut().cut = false;
    world.wait_connected();
    do_read(&mut world, 48, 8);
    assert_eq!(world.snapshot(SOURCE).rewritten, 1);
}

/// The source's volume takes no writes either: its CP does not come to its end, the peer's did, and the peer's bytes are still the right ones.
#[test]
fn reads_are_answered_by_the_peer_while_a_cp_cannot_be_applied_here() {
    let mut world = written(WorldConfig::calm(12));
    let first: Fail = Box::new(|op| match op {
        DiskOp::Read { file, .. } | DiskOp::Write { file, .. } | DiskOp::Flush { file } => {
            (file.0 == 1).then_some(EIO)
        }
        DiskOp::Zero { .. } | DiskOp::Deallocate { .. } => None,
    });
    world.files[SOURCE].borrow_mut().fail = Some(first);
    do_write(&mut world, 26, 3);
    let waits = world.begin_cp();
    world.pass(Nanos::from_millis(500));
    assert!(world.snapshot(SOURCE).volume_retry.is_some());
    let running = world.snapshot(SOURCE).cp_running;
    assert_eq!(running, Some(world.snapshot(DESTINATION).cp), "the peer has the CP");
    do_read(&mut world, 0, 64);
    do_write(&mut world, 34, 3);
    do_read(&mut world, 0, 512);
    assert!(world.snapshot(SOURCE).reads_from_peer >= 2);
    assert_eq!(world.snapshot(SOURCE).rewritten, 0, "PEER-2");
    world.files[SOURCE].borrow_mut().fail = None;
    world.run_until("the CP", |_| waits.try_recv().is_ok());
    do_read(&mut world, 0, 512);
    world.stop();
}

const MIXED: LoadConfig =
    LoadConfig { commands: 1500, reads: 500, zeroes: 40, large: 10, cps: 20, depth: 24, ..WRITES };

/// Blocks go bad all the time, under clients and CPs: every read shows what it must.
#[test]
fn reads_of_bad_blocks_under_load_are_right() {
    for seed in 20..26 {
        let mut config = WorldConfig::calm(seed);
        config.cp_interval = Nanos::from_millis(5);
        config.mtu = if seed % 2 == 0 { 1500 } else { 9000 };
        let mut world = World::new(config);
        world.connect();
        world.wait_connected();
        // Whatever a CP has written can go bad, so that most reads meet it.
        let bad = bad_blocks(&world, SOURCE, &[]);
        let mut load = Load::new(LoadConfig { sectors: 1024, ..MIXED });
        while load.answered + 24 < MIXED.commands {
            if world.random.chance(300) {
                let volume = world.random.below(2) as usize;
                bad.borrow_mut().insert((volume, world.random.below(128)));
            }
            load.submit(&mut world);
            load.step(&mut world);
        }
        let mut rest = 0;
        while world.queues[1..].iter().any(|queue| queue.outstanding() > 0) {
            load.step(&mut world);
            rest += 1;
            assert!(rest < 400_000, "the load does not end: {}", world.tell());
        }
        let shot = world.snapshot(SOURCE);
        assert!(shot.reads_from_peer > 10, "seed {seed}: {}", shot.reads_from_peer);
        assert!(shot.rewritten > 10, "seed {seed}: {}", shot.rewritten);
        assert!(shot.cp_sum.count > 20, "CPs went on: {}", shot.cp_sum.count);
        world.stop();
    }
}

/// No false alarm, and neither clients nor CPs nor the comparison stand still.
#[test]
fn a_comparison_under_load_finds_nothing_and_keeps_nobody_waiting() {
    for seed in 30..36 {
        let mut config = WorldConfig::calm(seed);
        config.cp_interval = Nanos::from_millis(3);
        let mut world = World::new(config);
        world.connect();
        world.wait_connected();
        let mut load = Load::new(MIXED);
        let mut comparisons = 0;
        let mut began = None;
        while load.answered + 24 < MIXED.commands {
            if began.is_none() {
                let volume = world.random.below(2) as usize;
                let begun = world.begin_verify(SOURCE, volume, true);
                assert!(matches!(begun, Reply::Verify(_)), "{begun:?}");
                began = Some(load.answered);
            }
            load.submit(&mut world);
            load.step(&mut world);
            let progress = world.verify_progress();
            if progress.state == VerifyState::Done {
                assert_eq!(counts(&progress), [0; 6], "seed {seed}: a false alarm");
                comparisons += 1;
                began = None;
            }
        }
        while world.queues[1..].iter().any(|queue| queue.outstanding() > 0) {
            load.step(&mut world);
        }
        assert!(comparisons >= 3, "seed {seed}: {comparisons}");
        assert!(world.snapshot(SOURCE).cp_sum.count > 20);
        world.run_until("the last comparison", |world| {
            world.verify_progress().state != VerifyState::Running
        });
        world.stop();
    }
}

#[test]
fn a_comparison_outlasts_a_short_absence_of_the_peer_and_ends_with_a_long_one() {
    let mut world = written(WorldConfig::calm(40));
    world.net.borrow_mut().cut = true;
    let begun = world.begin_verify(SOURCE, 0, false);
    assert!(matches!(begun, Reply::Verify(_)), "{begun:?}");
    world.pass(Nanos::from_millis(2_500));
    world.net.borrow_mut().cut = false;
    world.run_until("the end", |world| world.verify_progress().state != VerifyState::Running);
    assert_eq!(done(&world.verify_progress()), [0; 6]);

    world.net.borrow_mut().cut = true;
    world.begin_verify(SOURCE, 0, true);
    world.pass(Nanos::from_millis(5_000));
    assert_eq!(world.snapshot(SOURCE).peer, PeerState::Away);
    let progress = world.verify_progress();
    assert_eq!(progress.state, VerifyState::Interrupted);
    assert!(
        progress.took >= Nanos::from_millis(3_500) && progress.took <= Nanos::from_millis(4_500)
    );
    world.net.borrow_mut().cut = false;
    world.wait_connected();
    assert_eq!(done(&world.verify(0, true)), [0; 6]);
    world.stop();
}

/// The peer goes away at any moment of a repair, for a moment or for good: what is left can be repaired afterwards.
#[test]
fn a_repair_that_is_cut_off_is_taken_up_again() {
    let mut cut_off = 0;
    for seed in 50..80 {
        let mut world = written(WorldConfig::calm(seed));
        for number in 0..40 {
            world.rot_block(number as usize % 2, 0, number);
        }
        world.begin_verify(SOURCE, 0, true);
        for _ in 0..world.random.below(400) {
            world.step();
        }
        match seed % 3 {
            0 => {
                world.power_cut_destination();
                world.start_destination();
            }
            1 => {
                world.net.borrow_mut().cut = true;
                world.pass(Nanos::from_millis(5_000));
                world.net.borrow_mut().cut = false;
            }
            _ => {
                let progress = world.stop_verify();
                assert_ne!(progress.state, VerifyState::Running);
                world.verify(1, true);
            }
        }
        world.run_until("the end", |world| world.verify_progress().state != VerifyState::Running);
        let first = world.verify_progress();
        assert_eq!(first.undecided, 0, "seed {seed}: everything can be proved");
        cut_off += usize::from(first.state == VerifyState::Interrupted);
        world.wait_connected();
        let last = world.verify(0, true);
        let [differing, _, _, here, there, undecided] = done(&last);
        assert_eq!((differing, undecided), (here + there, 0), "seed {seed}");
        world.stop();
    }
    assert!(cut_off > 3);
}

#[test]
fn a_node_says_why_it_does_not_compare() {
    let mut world = written(WorldConfig::calm(90));
    assert!(matches!(world.begin_verify(DESTINATION, 0, true), Reply::NotSource));
    assert!(matches!(world.begin_verify(SOURCE, 2, true), Reply::NoSuchVolume));
    assert!(matches!(world.begin_verify(SOURCE, 0, true), Reply::Verify(_)));
    let other = world.begin_verify(SOURCE, 1, true);
    assert!(matches!(other, Reply::Verifying(volume) if volume == VolumeId::new(0)), "{other:?}");
    assert_eq!(world.stop_verify().state, VerifyState::Interrupted);
    assert_eq!(world.verify_progress().state, VerifyState::Interrupted, "how it ended");
    assert_eq!(done(&world.verify(1, true)), [0; 6]);
    world.stop();
}

#[test]
fn neither_a_comparison_nor_a_read_from_the_peer_allocates() {
    let mut world = written(WorldConfig::calm(91));
    for number in 0..40 {
        world.rot_block(number as usize % 2, 0, number);
    }
    bad_blocks(&world, SOURCE, &[(0, 50), (0, 300), (0, 301)]);
    guard::count_turns(true);
    let before = guard::total();
    do_read(&mut world, 400, 8);
    let progress = world.verify(0, true);
    guard::count_turns(false);
    assert_eq!(guard::total() - before, 0, "turns allocate");
    assert_eq!(done(&progress), [42, 22, 20, 22, 20, 0]);
    assert_eq!(world.snapshot(SOURCE).reads_from_peer, 1);
    world.stop();
}

/// HEAL-2. A bit of the log's memory flips: no read shows it. The page comes from the log device, or from the peer where that has rotted
/// too; the source's own timer asks for no CP.
#[test]
fn a_page_of_the_log_that_rots_in_memory_is_never_read() {
    for (seed, both, partly) in
        [(92, false, false), (93, true, false), (94, false, true), (95, true, true)]
    {
        let calm = WorldConfig::calm(seed);
        let mut world = written(WorldConfig { cp_interval: Nanos::from_millis(1_000_000), ..calm });
        let (number, request) = write(&mut world, 80, 24);
        assert!(world.command(1, request).status.is_success());
        world.model.end_write(number);
        let page = world.model.content(number).2[4096..8192].to_vec();
        do_write(&mut world, 200, 8);
        if partly {
            // More pieces than one answer has, some of them the volume's: the read is gathered.
            for n in 0..20 {
                do_write(&mut world, 400 + n * 3, 1);
            }
        }
        let arena = world.arenas[SOURCE].clone();
        let log = world.files[SOURCE].borrow().live(0).to_vec();
        let on_disk = log.chunks_exact(4096).position(|bytes| bytes == page);
        let on_disk = on_disk.expect("the page is on the log device") * 4096;
        let at = (0..arena.len() as u64 / 4096)
            .map(|n| Span::new(n * 4096, 4096))
            .find(|span| *arena.bytes(*span) == page[..])
            .expect("the page is in memory");
        arena.with_mut(at, |bytes| bytes[100] ^= 4);
        if both {
            world.files[SOURCE].borrow_mut().rot(0, on_disk, 4096, |bytes| bytes[9] ^= 1);
        }
        let cps = world.snapshot(SOURCE).cp_sum.count;
        do_read(&mut world, 200, 8);
        assert_eq!(world.snapshot(SOURCE).cp_sum.count, cps, "a read of other pages needs none");
        do_read(&mut world, if partly { 80 } else { 88 }, if partly { 400 } else { 8 });
        // It may be answered as soon as the page is right again.
        world.run_until("the CP that heals", |world| world.snapshot(SOURCE).cp_sum.count > cps);
        assert_eq!(world.snapshot(SOURCE).cp_sum.count, cps + 1);
        assert!(world.snapshot(SOURCE).segments[2] <= 1, "no log is sealed for nothing");
        world.stop();
    }
}

/// MEND-1. A bit of the log's memory flips before the peer has the page: what it gets is what came, from the log device; where that has rotted
/// as well the source stops, without having acknowledged the write, and goes on without it when it is started again.
#[test]
fn a_page_of_the_log_that_rots_before_the_peer_has_it_is_mended_or_a_fault() {
    for (seed, both) in [(96, false), (97, true)] {
        let calm = WorldConfig::calm(seed);
        let mut world = written(WorldConfig { cp_interval: Nanos::from_millis(1_000_000), ..calm });
        let holding = hold_log(&world);
        let (number, request) = write(&mut world, 80, 24);
        let lsn = world.snapshot(SOURCE).lsn.next();
        world.queues[1].submit(1, request);
        world.run_until("the write to be durable here", |world| {
            world.snapshot(SOURCE).lsn_durable >= lsn
        });
        let page = world.model.content(number).2[4096..8192].to_vec();
        flip(&world, &page);
        if both {
            let log = world.files[SOURCE].borrow().live(0).to_vec();
            let on_disk = log.chunks_exact(4096).position(|bytes| bytes == page);
            let on_disk = on_disk.expect("the page is on the log device") * 4096;
            world.files[SOURCE].borrow_mut().rot(0, on_disk, 4096, |bytes| bytes[9] ^= 1);
        }
        holding.set(false);
        if both {
            world.run_until("the source to stop", |world| {
                world.snapshot(SOURCE).fault == Some(Fault::Memory)
            });
            assert_eq!(world.queues[1].outstanding(), 1, "the write is not acknowledged");
            world.crash(SOURCE, Crash::Kill);
            world.queues.clear();
            world.start_source();
            world.await_start();
            world.wait_connected();
            world.connect();
        } else {
            let ended = (0..1_000_000).find_map(|_| world.step().pop());
            assert!(ended.is_some_and(|(_, done)| done.status.is_success()));
            world.model.end_write(number);
            assert_eq!(world.snapshot(SOURCE).healed, 1);
        }
        do_write(&mut world, 200, 8);
        do_read(&mut world, 80, 24);
        world.cp();
        assert_eq!(world.snapshot(SOURCE).fault, None);
        world.stop();
    }
}

/// MEND-1. While the log device takes its time with the page, the peer goes away for good, and a CP that is taken alone frees the page's segment,
/// whose slot is the next that the log needs: what comes is no fault, and the log goes on.
#[test]
fn a_page_that_is_freed_while_it_is_mended_is_no_fault() {
    let mut config = WorldConfig::calm(98);
    config.cp_interval = Nanos::from_millis(1_000_000);
    config.peer_loss = PeerLoss::Continue;
    config.peer_timeout = Nanos::from_millis(500);
    let mut world = written(config);
    let holding = hold_log(&world);
    let (number, request) = write(&mut world, 80, 24);
    let lsn = world.snapshot(SOURCE).lsn.next();
    world.queues[1].submit(1, request);
    world.run_until("the write to be durable here", |world| {
        world.snapshot(SOURCE).lsn_durable >= lsn
    });
    let page = world.model.content(number).2[4096..8192].to_vec();
    let at = flip(&world, &page);
    const SLOW: u64 = 10_000_000_000;
    let delay =
        std::mem::replace(&mut world.files[SOURCE].borrow_mut().faults.delay, (SLOW, SLOW + 1));
    holding.set(false);
    world.run_until("the page to be read", |world| world.files[SOURCE].borrow().uses(at));
    world.files[SOURCE].borrow_mut().faults.delay = delay;
    world.net.borrow_mut().cut = true;
    let ended = (0..1_000_000).find_map(|_| world.step().pop());
    assert!(ended.is_some_and(|(_, done)| done.status.is_success()));
    world.model.end_write(number);
    let began = world.now;
    let cp = world.snapshot(SOURCE).cp;
    // Twice round the log.
    for _ in 0..2 * 3 * 64 {
        do_write(&mut world, 256, 128);
    }
    assert!(world.snapshot(SOURCE).cp.get() > cp.get() + 4, "the log went round");
    assert!(world.now.since(began).get() >= SLOW / 2, "it had to wait for the page's slot");
    assert_eq!(world.snapshot(SOURCE).fault, None);
    do_read(&mut world, 80, 24);
}

/// Blocks of the mirror rot while clients write, nodes die and comparisons repair: in the end both copies are alike, or what is not was
/// listed; and nothing that was right was overwritten.
#[test]
fn rot_under_load_and_crashes_is_repaired_or_listed() {
    let (mut repaired, mut undecided) = (0, 0);
    for seed in 116..132 {
        let mut config = WorldConfig::calm(seed);
        config.cp_interval = Nanos::from_millis(5);
        config.peer_timeout = Nanos::from_millis(100);
        if seed % 3 == 0 {
            config.peer_loss = PeerLoss::Continue;
        }
        let mut world = World::new(config);
        let mut rotten = BTreeSet::new();
        for _ in 0..4 {
            if world.queues.is_empty() {
                world.connect();
            }
            let mut load = Load::new(LoadConfig { sectors: 1024, ..MIXED });
            for _ in 0..700 {
                if world.random.chance(20) {
                    world.rot_any(&mut rotten, 128);
                }
                if world.random.chance(15) && world.is_up(SOURCE) {
                    let volume = world.random.below(2) as usize;
                    world.begin_verify(SOURCE, volume, true);
                }
                if world.random.chance(4) && world.is_up(DESTINATION) {
                    world.power_cut_destination();
                    world.start_destination();
                }
                load.submit(&mut world);
                load.step(&mut world);
            }
            if world.random.chance(600) {
                world.crash(SOURCE, Crash::Power);
                world.queues.clear();
                world.start_source();
                world.await_start();
            } else {
                let mut rest = 0;
                while world.queues[1..].iter().any(|queue| queue.outstanding() > 0) {
                    load.step(&mut world);
                    rest += 1;
                    assert!(rest < 400_000, "the load does not end: {}", world.tell());
                }
            }
        }
        world.await_start();
        world.wait_connected();
        world.run_until("the last comparison", |world| match world.begin_verify(SOURCE, 0, true) {
            Reply::Verify(_) => true,
            Reply::Verifying(_) => false,
            other => panic!("asked for a comparison, got {other:?}"),
        });
        let last = world.stop_verify();
        assert_ne!(last.state, VerifyState::Running);
        world.cp();
        let (more, listed) = world.settle_rot(&rotten);
        repaired += more;
        undecided += listed;
        world.stop();
    }
    // Most of what can be proved was repaired on the way.
    assert!(repaired > 0 && undecided > 5, "{repaired} {undecided}");
}
