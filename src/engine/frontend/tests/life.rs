//! Connections and controllers that end: by deadline, by disconnect, in the middle of a transfer.

use super::*;
use ibid_wire::nvme_tcp::fctype;

impl World {
    fn at(&mut self, millis: u64) {
        self.now = Nanos::from_millis(millis);
        self.frontend.tick(self.now);
        self.drain();
    }
}

#[test]
fn a_silent_connection_is_closed_at_its_deadlines() {
    let mut world = World::new(config(4096));
    world.now = Nanos::ZERO;
    let silent = world.open();
    assert_eq!(world.frontend.next_deadline(), Nanos::from_millis(5000));
    world.at(4999);
    assert!(!world.is_closing(silent));
    world.at(5000);
    assert!(world.is_closing(silent), "R1");
    assert_eq!(world.events, [Event::Attend { conn: silent }]);
    world.frontend.closed(world.now, silent);
    // One byte now and then does not help; an ICReq alone helps only for a while.
    let conn = world.initialised(0);
    world.at(14_999);
    world.give(conn, &[4], usize::MAX);
    assert!(!world.is_closing(conn));
    world.at(15_000);
    assert!(world.is_closing(conn), "R1");
}

#[test]
fn a_host_without_keep_alive_loses_its_controller_and_all_queues() {
    let mut world = World::new(config(4096));
    world.now = Nanos::ZERO;
    let (io, admin) = world.io(0);
    world.answers = false;
    let bytes = world.capsule(&read(1, 0, 1, 4096), &[]);
    world.give(io, &bytes, usize::MAX);
    let Some(Event::Read { cmd, .. }) = world.events.pop() else { panic!("no read") };
    world.at(4000);
    assert_eq!(world.status(admin, &Sqe::new(opcode::KEEP_ALIVE, 1, 0), &[]), Status::SUCCESS);
    world.at(8999);
    assert!(!world.is_closing(admin));
    world.at(9000);
    assert!(world.is_closing(admin), "R6");
    assert!(world.is_closing(io), "R6");
    assert!(world.events.contains(&Event::Attend { conn: io }));
    assert!(world.events.contains(&Event::Attend { conn: admin }));
    world.frontend.closed(world.now, io);
    world.drain();
    assert!(world.events.contains(&Event::Abandoned { cmd }));
    world.frontend.closed(world.now, admin);
    // A late answer is released at once and harms nobody.
    world.frontend.read_ready(cmd, &[ReadPiece { span: Span::new(0, 4096), crc: None }]);
    world.drain();
    assert_eq!(world.events.last(), Some(&Event::Released { cmd }));
    world.frontend.complete(cmd, Status::SUCCESS);
    // The host comes back as if nothing had been, with another identifier (R8).
    let (_, cntlid) = world.admin(0);
    assert_eq!(cntlid, 2);
}

#[test]
fn data_that_never_comes_ends_the_connection_and_a_wait_of_ours_does_not() {
    let mut world = World::new(config(4096));
    world.now = Nanos::ZERO;
    let (io, admin) = world.io(0);
    world.answers = false;
    let alive = |world: &mut World, until: u64| {
        while world.now < Nanos::from_millis(until) {
            let next = (world.now.get() / 1_000_000 + 2000).min(until);
            world.at(next);
            assert_eq!(
                world.status(admin, &Sqe::new(opcode::KEEP_ALIVE, 1, 0), &[]),
                Status::SUCCESS
            );
        }
    };
    let bytes = world.capsule(&write(1, 0, 1, 4096, true), &[1; 4096]);
    let rest = world.give(io, &bytes, usize::MAX).to_vec();
    let Some(Event::Write { cmd, .. }) = world.events.pop() else { panic!("no write") };
    alive(&mut world, 100_000);
    assert_eq!(world.frontend.receive_plan(io), ReceivePlan::Blocked);
    world.place(cmd, 4096);
    assert!(world.give(io, &rest[..1], usize::MAX).is_empty());
    alive(&mut world, 129_999);
    // A byte is no progress.
    assert!(world.give(io, &rest[1..2], usize::MAX).is_empty());
    assert!(!world.is_closing(io));
    alive(&mut world, 130_000);
    assert!(world.is_closing(io), "R4");
    world.frontend.closed(world.now, io);
    world.drain();
    assert!(world.events.contains(&Event::Abandoned { cmd }));
    assert!(!world.is_closing(admin));
}

#[test]
fn what_was_pinned_is_released_when_the_connection_closes() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    let bytes = world.capsule(&read(1, 0, 4, 4096), &[]);
    world.give(io, &bytes, usize::MAX);
    let bytes = world.capsule(&write(2, 0, 4, 4096, false), &[]);
    world.give(io, &bytes, usize::MAX);
    let mut list = PieceList::new();
    world.frontend.send_plan(io, &mut list);
    assert!(list.as_slice().len() > 2);
    world.frontend.sent(io, 100);
    let Event::Read { cmd: read, .. } = world.events[0] else { panic!("no read") };
    let Event::Write { cmd: write, .. } = world.events[1] else { panic!("no write") };
    world.events.clear();
    world.frontend.closed(world.now, io);
    world.drain();
    assert_eq!(world.events, [Event::Released { cmd: read }, Event::Abandoned { cmd: write }]);
    world.frontend.closed(world.now, io);
    world.drain();
    assert_eq!(world.events.len(), 2, "closed twice");
    // Answers to what is gone meet the next connection's commands with another generation.
    let next = world.open();
    assert_eq!(next, io);
    world.frontend.complete(write, Status::SUCCESS);
    world.frontend.place_write(write, Span::new(0, 16384));
    assert!(world.pdus(next).is_empty());
}

#[test]
fn disconnect_is_answered_and_then_closes() {
    let mut world = World::new(config(4096));
    let (io, admin) = world.io(0);
    let bye = Sqe::new(opcode::FABRICS, 1, fctype::DISCONNECT.into());
    let mut bytes = world.capsule(&bye, &[]);
    bytes.extend(world.capsule(&Sqe::new(opcode::FLUSH, 2, 1), &[]));
    assert_eq!(world.give(io, &bytes, usize::MAX).len(), 72);
    assert!(world.is_closing(io));
    assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
    world.frontend.closed(world.now, io);
    let off = PropertySet {
        wide: Some(false),
        offset: property::CC,
        value: Cc::ENABLED.with_shutdown().0.into(),
    };
    assert_eq!(world.status(admin, &off.emit(1), &[]), Status::SUCCESS);
    // C34: shut down is shut down.
    let conn = world.initialised(0);
    assert_eq!(world.status(conn, &connect(1).emit(1), &connect_data(1)), Status::SEQUENCE_ERROR);
    world.frontend.closed(world.now, admin);
    assert_eq!(
        world.status(conn, &connect(1).emit(1), &connect_data(1)),
        Status::CONNECT_INVALID_PARAMETERS
    );
}

#[test]
fn a_host_that_takes_no_last_words_is_closed_without_them() {
    let mut world = World::new(config(4096));
    world.now = Nanos::ZERO;
    let conn = world.open();
    world.give(conn, b"GET / HTTP/1.1\r\n", usize::MAX);
    let mut list = PieceList::new();
    world.frontend.send_plan(conn, &mut list);
    assert!(!list.is_empty());
    world.at(2000);
    let mut list = PieceList::new();
    world.frontend.send_plan(conn, &mut list);
    assert!(list.is_empty());
    assert!(world.events.contains(&Event::Attend { conn }));
}

#[test]
fn a_host_that_takes_nothing_loses_its_connection_and_a_slow_one_does_not() {
    let mut world = World::new(config(4096));
    world.now = Nanos::ZERO;
    let (io, admin) = world.io(0);
    let keep_alive = |world: &mut World| {
        let alive = Sqe::new(opcode::KEEP_ALIVE, 1, 0);
        assert_eq!(world.status(admin, &alive, &[]), Status::SUCCESS);
    };
    let bytes = world.capsule(&read(1, 0, 16, 4096), &[]);
    world.give(io, &bytes, usize::MAX);
    // It takes a byte every 29 s: that is slow, not dead.
    for round in 1..=3 {
        for step in 0..29 {
            world.at((round - 1) * 29_000 + step * 1000);
            keep_alive(&mut world);
        }
        world.at(round * 29_000);
        assert!(!world.is_closing(io));
        world.frontend.sent(io, 1);
    }
    for step in 0..30 {
        world.at(87_000 + step * 1000);
        keep_alive(&mut world);
    }
    assert!(!world.is_closing(io));
    world.events.clear();
    world.at(117_000);
    assert!(world.is_closing(io), "R5");
    assert!(world.events.contains(&Event::Attend { conn: io }));
    let mut list = PieceList::new();
    world.frontend.send_plan(io, &mut list);
    assert!(list.is_empty(), "R5: nothing is waited for any more");
    world.frontend.closed(world.now, io);
    world.drain();
    assert!(matches!(world.events.last(), Some(Event::Released { .. })), "FE-4");
    // A host that took everything owes nothing.
    keep_alive(&mut world);
    world.at(117_500);
    assert!(!world.is_closing(admin));
}

#[test]
fn commands_end_when_their_connection_begins_to_close() {
    let mut world = World::new(config(4096));
    world.now = Nanos::ZERO;
    let (io, _) = world.io(0);
    world.answers = false;
    let mut bytes = Vec::new();
    bytes.extend(world.capsule(&read(1, 0, 1, 4096), &[]));
    bytes.extend(world.capsule(&write(2, 0, 4, 4096, false), &[]));
    let zeroes = Io { slba: 0, blocks: 1, fua: false }.emit_zeroes(3, 1, false);
    bytes.extend(world.capsule(&zeroes, &[]));
    bytes.extend(world.capsule(&Sqe::new(opcode::FLUSH, 4, 1), &[]));
    world.give(io, &bytes, usize::MAX);
    let commands: Vec<CommandId> = world
        .events
        .drain(..)
        .map(|event| match event {
            Event::Read { cmd, .. }
            | Event::Write { cmd, .. }
            | Event::Zeroes { cmd, .. }
            | Event::Flush { cmd, .. } => cmd,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(commands.len(), 4);
    // The keep-alive runs out; nobody has taken the last words yet, and the socket is still there.
    world.at(5000);
    assert!(world.is_closing(io));
    for cmd in &commands {
        assert!(world.events.contains(&Event::Abandoned { cmd: *cmd }), "FE-5");
    }
    // Answers that come all the same change nothing, and nothing is abandoned twice.
    world.place(commands[1], 16384);
    world.frontend.complete(commands[2], Status::SUCCESS);
    assert!(world.pdus(io).is_empty());
    world.events.clear();
    world.frontend.closed(world.now, io);
    world.drain();
    assert!(!world.events.iter().any(|event| matches!(event, Event::Abandoned { .. })));
}

#[test]
fn a_host_that_does_not_read_costs_no_more_than_its_slots() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(3);
    for cid in 0..DEPTH {
        let bytes = world.capsule(&read(cid, 0, 16, 4096), &[]);
        assert!(world.give(io, &bytes, usize::MAX).is_empty());
    }
    let pdus = world.pdus(io);
    let total: usize =
        pdus.iter().filter(|pdu| pdu.kind() == PduKind::C2hData).map(|pdu| pdu.data().len()).sum();
    assert_eq!(total, usize::from(DEPTH) * 65536);
    let released =
        world.events.iter().filter(|event| matches!(event, Event::Released { .. })).count();
    assert_eq!(released, usize::from(DEPTH), "FE-4");
}
