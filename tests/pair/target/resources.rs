//! R1 to R12: hosts that take, hold back, come and go.

use super::field::{Field, STALL};
use super::raw::{
    DEAF, ENTRIES, Raw, WITHHOLDING, connect, connect_fields, emit, icreq, read, set_cc, write,
};
use super::table::{Row, Shown, sent, waits};
use crate::common::{WAIT, until};
use crate::node::{DESTINATION, SOURCE, VOLUME_BYTES, wait_for_state};
use crate::process::signal;
use ibid_control::rpc::Client;
use ibid_control::status::PairState;
use ibid_wire::nvme_tcp::{Cc, Connect, ConnectData, FatalError, PduKind, Sqe, Status, opcode};
use std::io::{ErrorKind, Read as _};
use std::time::{Duration, Instant};

pub(crate) const ROWS: &[Row] = &[
    waits("R1", "says nothing", |field| {
        let mut raw = Raw::bare(field.addr);
        closes_after(&mut raw, 5, "R1 nothing");
    }),
    waits("R1", "a byte now and then", |field| {
        let mut raw = Raw::bare(field.addr);
        let began = Instant::now();
        let bytes = icreq(0, 0, 0);
        raw.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        for byte in bytes.iter().cycle() {
            raw.send(&[*byte]);
            match raw.socket.read(&mut [0; 1]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
                Ok(_) => panic!("R1: it was answered"),
            }
            assert!(began.elapsed() < WAIT, "R1: a trickle keeps a connection");
        }
        within(began, 5, "R1 a trickle");
    }),
    waits("R1", "an ICReq and no Connect", |field| {
        let mut raw = field.ready(false);
        closes_after(&mut raw, 10, "R1 no Connect");
    }),
    sent("R2", "a flood of connections that stay", flood),
    sent("R3", "more commands than the queue has entries", |field| {
        let (mut admin, cntlid) = field.admin(false);
        let mut io = field.ready(false);
        let request = Connect { sqsize: 3, ..connect(1) };
        let data = emit(&connect_fields(&field.nqn, cntlid));
        assert_eq!(io.status(&request.emit(1), &data), Status::SUCCESS);
        let lba = field.lba();
        for cid in 0..4 {
            io.ask(&write(cid, lba, 16, false));
        }
        io.submit(&write(4, lba, 16, false), &[]);
        io.assert_fatal("R3", &[FatalError::Sequence]);
        assert_eq!(admin.status(&Sqe::new(opcode::KEEP_ALIVE, 9, 0), &[]), Status::SUCCESS);
    }),
    waits("R4", "asks for data to be asked for, and never sends it", withheld),
    waits("R5", "stops reading", stops_reading),
    waits("R6", "no keep-alive", no_keep_alive),
    sent("R7", "a reset behind the last byte of a write", resets),
    sent("R8", "comes back while its old connection is taken down", |field| {
        for _ in 0..50 {
            let (mut io, admin) = field.io(false);
            io.ask(&write(1, field.lba(), 256, false));
            io.reset();
            admin.reset();
        }
    }),
    Row {
        id: "R9",
        what: "the peer is gone: writes wait, then 0/21h; reads go on",
        shown: Shown::Elsewhere(&[
            "tests/pair/target/table.rs::every_row_gets_its_reaction_and_leaves_nothing",
        ]),
    },
    sent("R10", "a block of the volume cannot be read", unreadable),
    Row {
        id: "R10",
        // No device here can be told to; a file that ends early is the same to a node.
        what: "a block that a device reports as bad",
        shown: Shown::Elsewhere(&[
            "src/runtime/tests/pair/verify.rs::a_read_that_fails_here_is_answered_by_the_peer_and_the_block_is_written_again",
            "src/runtime/tests/pair/verify.rs::a_read_that_nobody_can_answer_fails",
        ]),
    },
    Row {
        id: "R11",
        what: "bad input to a TLS port",
        shown: Shown::NotBuilt("no TLS: a ClientHello on the plaintext port is P29"),
    },
    Row {
        id: "R12",
        what: "a TLS-only subsystem through a plaintext listener",
        shown: Shown::NotBuilt("no TLS, so no subsystem can ask for it"),
    },
];

/// It is closed so many seconds after it was opened, and not much later.
fn closes_after(raw: &mut Raw, seconds: u64, what: &str) {
    let began = Instant::now();
    raw.socket.set_read_timeout(Some(WAIT)).unwrap();
    raw.assert_closed(what);
    within(began, seconds, what);
}

fn within(began: Instant, seconds: u64, what: &str) {
    let took = began.elapsed();
    let least = Duration::from_secs(seconds) - Duration::from_millis(600);
    assert!(took >= least, "{what}: closed after {took:?}");
    assert!(took < Duration::from_secs(seconds + 4), "{what}: closed after {took:?}");
}

fn flood(field: &Field) {
    // More than the target has places for; all stay, half of them behind ICReq.
    let mut held = Vec::new();
    for at in 0..300 {
        let mut raw = Raw::bare(field.addr);
        if at % 2 == 0 {
            raw.send(&icreq(0, 0, 0));
        }
        held.push(raw);
    }
    // A host that means it gets in all the same, and works.
    let (mut io, _admin) = field.io(false);
    let lba = field.lba();
    assert_eq!(io.status(&write(1, lba, 1, true), &[4; 4096]), Status::SUCCESS, "R2");
    assert!(io.read(2, lba, 1) == [4; 4096], "R2");
    field.live.goes_on("R2", 8);
    let connections = field.connections();
    assert!(connections <= 128, "R2: {connections} connections");
}

fn withheld(field: &Field) {
    let lba = field.lba();
    let (mut io, admin) = field.io_of(WITHHOLDING);
    // As many as the queue takes, each of the longest transfer.
    let began = Instant::now();
    for cid in 0..ENTRIES {
        io.submit(&write(cid, lba, 256, false), &[]);
    }
    assert_eq!(io.pdu().unwrap().kind(), PduKind::R2t, "R4");
    // The well-behaved host writes with R2Ts, too, and meanwhile the log goes round.
    not_held_up(field, "R4", || began.elapsed() < Duration::from_secs(25));
    // R2Ts may still come; some may be told to try again; then the connection ends.
    loop {
        match io.pdu() {
            None => break,
            Some(pdu) if pdu.kind() == PduKind::CapsuleResp => {
                assert_eq!(pdu.cqe().status, Status::COMMAND_INTERRUPTED, "R4");
            }
            Some(pdu) => assert_eq!(pdu.kind(), PduKind::R2t, "R4"),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "R4: its connection stays");
        io.socket.set_read_timeout(Some(WAIT)).unwrap();
    }
    assert!(began.elapsed() > Duration::from_secs(20), "R4: {:?}", began.elapsed());
    drop(admin);
}

fn stops_reading(field: &Field) {
    let lba = field.lba();
    let (mut io, admin) = field.io_of(DEAF);
    let blocks = vec![0x55; 256 * 4096];
    let r2t = io.ask(&write(1, lba, 256, false));
    let bytes = io.h2c(r2t, 0, &blocks, true);
    io.send(&bytes);
    assert_eq!(io.pdu().unwrap().cqe().status, Status::SUCCESS, "R5");
    // 32 MiB, some of them from the log's pages, and nobody takes them.
    let began = Instant::now();
    for cid in 0..ENTRIES {
        io.submit(&read(cid, if cid % 2 == 0 { lba } else { 0 }, 256), &[]);
    }
    // The time that a host has to take what waits for it is thirty seconds, or less where others need what it keeps.
    not_held_up(field, "R5", || began.elapsed() < Duration::from_secs(33));
    // What both kernels hold by then still comes, and behind it the end, long before the keep-alive timeout.
    let mut some = vec![0; 1 << 16];
    loop {
        match io.socket.read(&mut some) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("R5: its connection stays: {error}"),
        }
    }
    assert!(began.elapsed() < Duration::from_secs(55), "R5: {:?}", began.elapsed());
    drop((io, admin));
}

/// What another host keeps has 30 s. As long as that lasts the well-behaved host goes on; on a busy machine slowly, but it never waits for a
/// large part of that time.
fn not_held_up(field: &Field, what: &str, lasts: impl Fn() -> bool) {
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    while lasts() {
        let asked = Instant::now();
        field.live.goes_on(what, 20);
        (rounds, longest) = (rounds + 1, longest.max(asked.elapsed()));
    }
    println!("{what}: {rounds} rounds of the well-behaved host, the longest {longest:?}");
    assert!(rounds > 1 && longest < Duration::from_secs(10), "{what}: it waited for {longest:?}");
}

fn no_keep_alive(field: &Field) {
    let mut admin = field.ready(false);
    let data = emit(&connect_fields(&field.nqn, ConnectData::CNTLID_ANY));
    let cqe = admin.run(&Connect { kato_ms: 2000, ..connect(0) }.emit(1), &data);
    assert_eq!(cqe.status, Status::SUCCESS);
    assert_eq!(admin.status(&set_cc(Cc::ENABLED.0), &[]), Status::SUCCESS);
    let began = Instant::now();
    let mut io = field.queue(cqe.result as u16, false);
    let lba = field.lba();
    let before = io.read(1, lba, 16);
    let r2t = io.ask(&write(2, lba, 16, false));
    closes_after(&mut admin, 2, "R6 admin");
    io.assert_closed("R6 I/O");
    within(began, 2, "R6");
    // Its data comes too late, and the host, which is back, never sees it.
    let late = io.h2c(r2t, 0, &[6; 65536], true);
    io.send(&late);
    let (mut io, _admin) = field.io(false);
    assert!(io.read(3, lba, 16) == before, "R6: a command of a dead controller took effect");
    assert_eq!(io.status(&write(4, lba, 4, true), &[7; 16384]), Status::SUCCESS, "R6");
    assert!(io.read(5, lba, 4) == [7; 16384], "R6");
}

/// The last block of a volume's file is cut off under its node: it can't be read there any more. The peer's copy is shown and the block written
/// again; where both are gone its readers are told so, and nobody else, until it is written.
fn unreadable(field: &Field) {
    let lba = field.blocks() - 1;
    let (mut io, _admin) = field.io(false);
    let length = VOLUME_BYTES;
    let put = |io: &mut Raw, byte| {
        assert_eq!(io.status(&write(1, lba, 1, true), &[byte; 4096]), Status::SUCCESS, "R10");
        // From the log into the volumes.
        Client::connect(field.pair.control(SOURCE), WAIT).unwrap().cp().unwrap();
    };
    let cut = |node| {
        let file = std::fs::OpenOptions::new().write(true).open(field.pair.volume(node)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
        file.set_len(length - 4096).unwrap();
    };
    let is_whole = |node| std::fs::metadata(field.pair.volume(node)).unwrap().len() == length;
    put(&mut io, 0xa0);
    cut(SOURCE);
    assert!(io.read(2, lba, 1) == [0xa0; 4096], "R10: the peer has it");
    until("R10: the block is written again", || is_whole(SOURCE).then_some(()));
    put(&mut io, 0xa1);
    cut(SOURCE);
    cut(DESTINATION);
    for cid in 3..6 {
        let status = io.status(&read(cid, lba, 1), &[]);
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR, "R10: both have lost it");
    }
    io.read(6, lba - 1, 1);
    field.live.goes_on("R10", 8);
    put(&mut io, 0xa2);
    assert!(io.read(7, lba, 1) == [0xa2; 4096], "R10: it was written");
    assert!(is_whole(SOURCE) && is_whole(DESTINATION), "R10");
}

fn resets(field: &Field) {
    let lba = field.lba();
    let (mut io, admin) = field.io(false);
    assert_eq!(io.status(&write(1, lba, 4, true), &[0x80; 16384]), Status::SUCCESS);
    drop((io, admin));
    for round in 1..=20_u8 {
        let (mut io, admin) = field.io(false);
        let inline = round % 2 == 0;
        let sqe = write(1, lba, 4, inline);
        if inline {
            io.submit(&sqe, &[round; 16384]);
        } else {
            let r2t = io.ask(&sqe);
            let bytes = io.h2c(r2t, 0, &[round; 16384], true);
            io.send(&bytes);
        }
        io.reset();
        drop(admin);
        // Whole or not at all; and what is then written comes after it for good.
        let (mut io, _admin) = field.io(false);
        let found = io.read(1, lba, 4);
        assert!(found.iter().all(|byte| *byte == found[0]), "R7: a write is there in part");
        assert_eq!(io.status(&write(2, lba, 4, true), &[0x80 + round; 16384]), Status::SUCCESS);
        for cid in 3..6 {
            let found = io.read(cid, lba, 4);
            assert!(found == [0x80 + round; 16384], "R7: an old write came after a newer one");
        }
    }
}

/// R9: the peer is gone. Writes wait, then end with 0/21h that may be sent again; reads go on; afterwards all is as before.
pub(crate) fn stall(field: &mut Field) {
    let (mut io, _admin) = field.io(false);
    let lba = field.lba();
    assert_eq!(io.status(&write(1, lba, 1, true), &[0x91; 4096]), Status::SUCCESS);
    signal(field.nodes[DESTINATION].pid(), "STOP");
    wait_for_state(field.pair.control(SOURCE), PairState::Away);
    let began = Instant::now();
    let other = field.lba();
    io.submit(&write(2, other, 1, true), &[0x92; 4096]);
    assert!(io.read(3, lba, 1) == [0x91; 4096], "R9: reads go on");
    io.socket.set_read_timeout(Some(WAIT)).unwrap();
    let cqe = io.pdu().unwrap().cqe();
    assert_eq!((cqe.cid, cqe.status), (2, Status::COMMAND_INTERRUPTED), "R9");
    assert!(!cqe.status.is_final(), "R9: it may be sent again");
    let waited = began.elapsed();
    // Its time runs from the turn it came in, which began a little earlier.
    let least = Duration::from_nanos(STALL.get()) - Duration::from_millis(100);
    assert!(waited >= least, "R9: it waited for {waited:?}");
    until("R9: the well-behaved host is asked to try again, too", || {
        (field.live.interrupted() > 0).then_some(())
    });
    signal(field.nodes[DESTINATION].pid(), "CONT");
    field.pair.wait_in_sync();
    field.live.goes_on("R9", 100);
    assert_eq!(io.status(&write(4, other, 1, true), &[0x94; 4096]), Status::SUCCESS, "R9");
    assert!(io.read(5, other, 1) == [0x94; 4096], "R9");
    drop((io, _admin));
    field.assert_nothing_is_left("R9");
}
