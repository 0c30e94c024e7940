//! How the two nodes meet, part and meet again.

use crate::{WRITES, do_write, write};
use ibid_engine::frontend::AnaState;
use ibid_runtime::{PeerState, StartRefused};
use ibid_sim::host::{Done, Op, Request};
use ibid_sim::load::{Load, LoadConfig};
use ibid_sim::{Crash, DESTINATION, SOURCE, World, WorldConfig};
use ibid_units::{CpId, Epoch, Lsn, Nanos};
use ibid_wire::disk::Superblock;
use ibid_wire::nvme_tcp::Status;
use ibid_wire::peer::{Envelope, FrameKind, HelloRefusal};
use std::cell::RefCell;
use std::rc::Rc;

#[test]
fn a_peer_that_was_away_comes_back_and_nothing_is_lost() {
    for (seed, mtu) in [(1, 9000), (2, 1500)] {
        let mut world = World::new(WorldConfig { mtu, ..WorldConfig::calm(seed) });
        world.connect();
        Load::new(LoadConfig { commands: 60, ..WRITES }).run(&mut world);
        world.net.borrow_mut().cut = true;
        // Enough to fill the window, so that probes meet a full table of packets, too.
        let mut numbers = Vec::new();
        for n in 0..16 {
            let (number, request) = write(&mut world, n * 64, 2048 - n);
            numbers.push(number);
            world.queues[1].submit(n, request);
        }
        world.pass(Nanos::from_millis(5_000));
        assert_eq!(world.snapshot(SOURCE).peer, PeerState::Away);
        assert_eq!(world.queues[1].outstanding(), 16, "writes wait");
        world.net.borrow_mut().cut = false;
        let mut ended = 0;
        for _ in 0..200_000 {
            for (_, done) in world.step() {
                assert!(done.status.is_success());
                world.model.end_write(numbers[done.tag as usize]);
                ended += 1;
            }
            if ended == 16 {
                break;
            }
        }
        assert_eq!(ended, 16, "{}", world.tell());
        Load::new(LoadConfig { commands: 100, reads: 300, cps: 10, ..WRITES }).run(&mut world);
        assert_eq!(world.snapshot(SOURCE).peer, PeerState::Connected);
        world.stop();
    }
}

#[test]
fn a_destination_that_lost_its_power_is_sent_again_what_the_log_retains() {
    for seed in 1..6 {
        let mut config = WorldConfig::calm(seed);
        config.cp_interval = Nanos::from_millis(15);
        config.full = seed == 5;
        let mut world = World::new(config);
        world.connect();
        let mut load =
            Load::new(LoadConfig { commands: 200, reads: 200, zeroes: 50, cps: 5, ..WRITES });
        let mut cuts = 0;
        for _ in 0..40 {
            for _ in 0..30 {
                load.submit(&mut world);
                load.step(&mut world);
            }
            if world.random.chance(200) {
                cuts += 1;
                world.power_cut_destination();
                for _ in 0..200 {
                    load.step(&mut world);
                }
                world.start_destination();
            }
        }
        load.run(&mut world);
        assert!(cuts > 0);
        world.stop();
    }
}

#[test]
fn both_start_again_after_a_clean_stop() {
    let mut world = World::new(WorldConfig::calm(7));
    for epoch in 1..4 {
        world.connect();
        Load::new(LoadConfig { commands: 60, reads: 300, ..WRITES }).run(&mut world);
        assert_eq!(world.snapshot(SOURCE).epoch, Epoch::new(epoch));
        world.stop();
        for side in [SOURCE, DESTINATION] {
            world.end_node(side);
        }
        world.queues.clear();
        world.sockets.borrow_mut().forget();
        world.start_source();
        world.start_destination();
        world.await_start();
    }
}

#[test]
fn a_source_that_was_killed_goes_on_where_it_was() {
    for seed in 8..20 {
        let mut config = WorldConfig::calm(seed);
        config.cp_interval = Nanos::from_millis(15);
        let mut world = World::new(config);
        for round in 0..6 {
            world.connect();
            let mut load =
                Load::new(LoadConfig { commands: 4000, reads: 200, zeroes: 50, cps: 5, ..WRITES });
            for _ in 0..60 + round * 40 {
                load.submit(&mut world);
                load.step(&mut world);
            }
            let both = world.random.chance(300);
            let crash = if world.random.chance(500) { Crash::Power } else { Crash::Kill };
            world.crash(SOURCE, crash);
            world.queues.clear();
            if both {
                world.crash(DESTINATION, crash);
                world.start_destination();
            }
            world.start_source();
            world.await_start();
        }
        world.connect();
        Load::new(LoadConfig { commands: 60, reads: 300, ..WRITES }).run(&mut world);
        world.stop();
    }
}

#[test]
fn a_device_that_is_not_the_nodes_own_is_refused_by_name() {
    let mut world = World::new(WorldConfig::calm(8));
    world.stop();
    for side in [SOURCE, DESTINATION] {
        world.end_node(side);
    }
    let refusal = |world: &mut World, side: usize| {
        world.await_start();
        assert!(!world.runs(side));
        world.refused[side].take().expect("it was refused")
    };
    world.change_superblock(SOURCE, |found| found.role = 0);
    world.start(SOURCE);
    assert!(matches!(refusal(&mut world, SOURCE), StartRefused::Role("destination")));
    world.change_superblock(SOURCE, |found| (found.role, found.pair) = (1, [1; 16]));
    world.start(SOURCE);
    assert!(matches!(refusal(&mut world, SOURCE), StartRefused::Pair));
    world.files[SOURCE].borrow_mut().fill(0, 0, &[7; 8]);
    world.files[SOURCE].borrow_mut().fill(0, 64 << 10, &[7; 8]);
    world.start(SOURCE);
    assert!(matches!(refusal(&mut world, SOURCE), StartRefused::Foreign(_)));
}

/// A destination that runs on a changed superblock is not written to, and the source says why, and serves nobody.
fn refused(seed: u64, change: impl FnOnce(&mut Superblock)) -> PeerState {
    let mut world = World::new(WorldConfig::calm(seed));
    world.connect();
    do_write(&mut world, 0, 8);
    world.cp();
    world.crash(DESTINATION, Crash::Power);
    world.change_superblock(DESTINATION, change);
    world.start_destination();
    let (_, request) = write(&mut world, 0, 8);
    world.queues[1].submit(1, request);
    // Another may be the one that writes: this node is no path to the volumes any more, neither for what waits nor for what comes.
    let turned_away = |ended: Vec<(usize, Done)>| {
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].1.status, Status::ANA_INACCESSIBLE);
    };
    let ended = loop {
        let ended = world.step();
        if !ended.is_empty() {
            break ended;
        }
    };
    turned_away(ended);
    let read = Request { nsid: 1, slba: 8, blocks: 8, lba_bytes: 512, op: Op::Read };
    assert_eq!(world.command(1, read).status, Status::ANA_INACCESSIBLE);
    let snapshot = world.snapshot(SOURCE);
    assert_eq!(snapshot.access, [AnaState::Inaccessible; 2]);
    snapshot.peer
}

#[test]
fn a_peer_of_another_history_is_refused_by_name() {
    let is = |refusal| PeerState::Refused(refusal);
    assert_eq!(refused(4, |found| found.epoch = Epoch::new(9)), is(HelloRefusal::Epoch));
    assert_eq!(refused(5, |found| found.chain = [1; 32]), is(HelloRefusal::History));
    let ahead = |found: &mut Superblock| {
        found.cp = CpId::new(30);
        found.last_lsn = Lsn::new(300);
    };
    assert_eq!(refused(6, ahead), is(HelloRefusal::History));
    let behind = |found: &mut Superblock| {
        found.cp = CpId::new(0);
        found.last_lsn = Lsn::new(0);
        found.chain = [0; 32];
    };
    assert_eq!(refused(7, behind), is(HelloRefusal::History));
}

#[test]
fn a_destination_whose_log_fails_says_so_to_its_next_source() {
    let mut world = World::new(WorldConfig::calm(9));
    world.connect();
    world.wait_connected();
    world.files[DESTINATION].borrow_mut().fail = Some(Box::new(|_| Some(5)));
    let (_, request) = write(&mut world, 0, 8);
    world.queues[1].submit(1, request);
    world.run_until("the refusal", |world| {
        world.snapshot(SOURCE).peer == PeerState::Refused(HelloRefusal::Failed)
    });
}

/// A hello that was delayed on the way, of a session that is over: taking it would end the session that lives.
#[test]
fn a_late_hello_of_a_session_that_is_over_is_not_taken() {
    let mut world = World::new(WorldConfig::calm(10));
    // Every hello that reaches the destination is noted; one datagram is replaced by the first of them.
    let hellos: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let replay: Rc<RefCell<Option<Vec<u8>>>> = Rc::default();
    let (noted, replaced) = (hellos.clone(), replay.clone());
    world.net.borrow_mut().meddle = Some(Box::new(move |side, datagram| {
        if side != DESTINATION {
            return;
        }
        if let Some(late) = replaced.borrow_mut().take() {
            *datagram = late;
            return;
        }
        let kind = Envelope::parse(datagram).map(|envelope| envelope.header.kind);
        if kind == Ok(FrameKind::Hello) {
            noted.borrow_mut().push(datagram.clone());
        }
    }));
    let session = |hello: &[u8]| Envelope::parse(hello).expect("a hello").header.session;
    world.connect();
    world.wait_connected();
    do_write(&mut world, 0, 8);
    world.net.borrow_mut().cut = true;
    world.pass(Nanos::from_millis(3_000));
    assert_eq!(world.snapshot(SOURCE).peer, PeerState::Away);
    world.net.borrow_mut().cut = false;
    world.wait_connected();
    do_write(&mut world, 8, 8);
    let (first, newest) = {
        let hellos = hellos.borrow();
        (hellos[0].clone(), hellos[hellos.len() - 1].clone())
    };
    assert_ne!(session(&first), session(&newest), "there were two sessions");

    // The second had the session's cookie, which is valid still. The first had none: it is told one, and nothing comes of that.
    let second = hellos.borrow()[1].clone();
    assert_eq!(session(&first), session(&second));
    let count = hellos.borrow().len();
    for (late, refused, cookies) in [(second, 1, 0), (first, 0, 1)] {
        let before = world.snapshot(DESTINATION);
        *replay.borrow_mut() = Some(late);
        world.pass(Nanos::from_millis(2_000));
        assert!(replay.borrow().is_none(), "it was delivered");
        let after = world.snapshot(DESTINATION);
        assert_eq!(after.rx_refused, before.rx_refused + refused);
        assert_eq!(after.security.cookies, before.security.cookies + cookies);
        assert_eq!(world.snapshot(SOURCE).peer, PeerState::Connected);
    }
    do_write(&mut world, 16, 8);
    assert_eq!(hellos.borrow().len(), count, "the session lives: no other hello was needed");
    world.stop();
}

/// Recorded hellos, said again without a pause: those that were answered, and one that is told a cookie.
#[test]
fn hellos_said_again_and_again_keep_no_report_back() {
    let mut config = WorldConfig::calm(12);
    config.peer_timeout = Nanos::from_millis(500);
    let mut world = World::new(config);
    let hellos: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let noted = hellos.clone();
    world.net.borrow_mut().meddle = Some(Box::new(move |side, datagram| {
        let kind = Envelope::parse(datagram).map(|envelope| envelope.header.kind);
        if side == DESTINATION && kind == Ok(FrameKind::Hello) {
            noted.borrow_mut().push(datagram.clone());
        }
    }));
    world.connect();
    world.wait_connected();
    let hellos = hellos.take();
    // Each turn has one.
    world.net.borrow_mut().faults.delay = (0, 0);
    let before = world.snapshot(DESTINATION).port.tx_frames;
    let end = world.now.after(Nanos::from_millis(1_500));
    let mut said = 0;
    while world.now < end {
        for hello in &hellos {
            world.net.borrow_mut().inject(DESTINATION, hello.clone());
            said += 1;
        }
        assert!(world.step().is_empty());
        assert_eq!(world.snapshot(SOURCE).peer, PeerState::Connected);
    }
    let answers = world.snapshot(DESTINATION).port.tx_frames - before;
    assert!(said > 1_000 && answers < said / 10, "{answers} frames for {said} hellos");
    do_write(&mut world, 0, 8);
    world.stop();
}

/// The shortest timeout that can be asked for is no reason to think that a peer which has nothing to say is away.
#[test]
fn a_pair_at_rest_stays_together_whatever_its_timeout() {
    for millis in [500, 2_000] {
        let mut config = WorldConfig::calm(70);
        config.peer_timeout = Nanos::from_millis(millis);
        // As long as a source sleeps that awaits nothing.
        config.idle = Nanos::from_millis(10);
        let mut world = World::new(config);
        world.wait_connected();
        let end = world.now.after(Nanos::from_millis(20_000));
        while world.now < end {
            assert!(world.step().is_empty());
            assert_eq!(world.snapshot(SOURCE).peer, PeerState::Connected, "{millis} ms");
        }
        world.stop();
    }
}
