//! PDUs that break the protocol: each ends its connection with the right reason, and only its own.

use super::*;

/// Changes bytes of a good PDU.
fn with(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// The same with the header digest put right again, so that the change itself is judged.
fn resealed(mut bytes: Vec<u8>, bare: usize) -> Vec<u8> {
    let crc = crc32c(&bytes[..bare]);
    bytes[bare..bare + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn before_icreq_only_icreq_is_taken() {
    let good = icreq(0, 0, 0);
    let cases: &[(&str, Vec<u8>, FatalError)] = &[
        ("P1 a capsule first", with(good.clone(), 0, &[4]), FatalError::Sequence),
        ("P29 HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), FatalError::Sequence),
        ("P29 TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3], FatalError::Sequence),
        ("P3 version", icreq(1, 0, 0), FatalError::Unsupported(8)),
        ("P4 HPDA", icreq(0, 32, 0), FatalError::HeaderField(10)),
        ("P5 PLEN", with(good.clone(), 4, &[129]), FatalError::HeaderField(4)),
        ("P6 HLEN", with(good, 2, &[127]), FatalError::HeaderField(2)),
    ];
    for (what, bytes, fatal) in cases {
        let mut world = World::new(config(4096));
        let conn = world.open();
        world.give(conn, bytes, usize::MAX);
        world.assert_fatal(conn, *fatal, what);
    }
}

#[test]
fn headers_are_judged_before_anything_is_done_with_them() {
    for digests in [0, 3] {
        let mut world = World::new(config(4096));
        let (io, admin) = world.io(digests);
        let probe = world.capsule(&write(5, 0, 1, 4096, true), &[7; 4096]);
        let header = if digests == 0 { 72 } else { 76 };
        let mut cases: Vec<(&str, Vec<u8>, FatalError)> = vec![
            ("P2 second ICReq", icreq(0, 0, 0), FatalError::Sequence),
            (
                "P5 capsule shorter than its header",
                with(probe.clone(), 4, &[71, 0, 0, 0]),
                FatalError::HeaderField(4),
            ),
            ("P7 PLEN 0", with(probe.clone(), 4, &[0; 4]), FatalError::HeaderField(4)),
            ("P8 PLEN huge", with(probe.clone(), 4, &[0xff; 4]), FatalError::LimitExceeded),
            (
                "P11 PDO unaligned",
                with(probe.clone(), 3, &[header + 1]),
                FatalError::HeaderField(3),
            ),
            (
                "P11 PDO in the header",
                with(probe.clone(), 3, &[header - 4]),
                FatalError::HeaderField(3),
            ),
            ("P11 PDO beyond 128", with(probe.clone(), 3, &[132]), FatalError::HeaderField(3)),
            (
                "P11 PDO past the end",
                with(with(probe.clone(), 3, &[120]), 4, &[100, 0, 0, 0]),
                FatalError::HeaderField(3),
            ),
            (
                "P12 HDGST flag",
                with(probe.clone(), 1, &[probe[1] ^ pdu_flag::HDGST]),
                FatalError::HeaderField(1),
            ),
            (
                "P14 DDGST flag",
                with(probe.clone(), 1, &[probe[1] ^ pdu_flag::DDGST]),
                FatalError::HeaderField(1),
            ),
            (
                "C17 more than a capsule takes",
                with(probe.clone(), 4, &[0, 0x40, 0, 0]),
                FatalError::LimitExceeded,
            ),
        ];
        for hlen in [0, 7, 71, 255] {
            cases.push(("P6 HLEN", with(probe.clone(), 2, &[hlen]), FatalError::HeaderField(2)));
        }
        for kind in (1..=255).filter(|kind| ![0, 2, 4, 6].contains(kind)) {
            cases.push((
                "P9/P10 kind",
                with(probe.clone(), 0, &[kind]),
                FatalError::HeaderField(0),
            ));
        }
        if digests != 0 {
            let received = u32::from_le_bytes([1, 2, 3, 4]);
            cases.push((
                "P13 header digest",
                with(probe.clone(), 72, &[1, 2, 3, 4]),
                FatalError::HeaderDigest(received),
            ));
        }
        let cntlid = 1;
        world.frontend.closed(world.now, io);
        for (what, bytes, fatal) in cases {
            let conn = world.initialised(digests);
            assert_eq!(
                world.status(conn, &connect(1).emit(1), &connect_data(cntlid)),
                Status::SUCCESS
            );
            // Limits are judged behind the header digest, so that one must be right there.
            let bytes = if digests != 0 && fatal == FatalError::LimitExceeded {
                resealed(bytes, CAPSULE_BYTES)
            } else {
                bytes
            };
            world.give(conn, &bytes, usize::MAX);
            world.assert_fatal(conn, fatal, what);
        }
        // The controller has not noticed.
        assert_eq!(world.status(admin, &Sqe::new(opcode::KEEP_ALIVE, 9, 0), &[]), Status::SUCCESS);
    }
}

#[test]
fn reserved_bits_change_nothing() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    let mut bytes = world.capsule(&Sqe::new(opcode::FLUSH, 3, 1), &[]);
    bytes[1] |= 0xf0;
    bytes[COMMON_BYTES + 20] = 0xff;
    world.give(io, &bytes, usize::MAX);
    assert_eq!(world.answer(io).cqe().status, Status::SUCCESS);
}

#[test]
fn data_that_nobody_asked_for_is_refused() {
    for digests in [0, 3] {
        let mut world = World::new(config(4096));
        world.answers = false;
        let whole = TRANSFER;
        let make = |world: &mut World, io: ConnId| {
            let bytes = world.capsule(&write(7, 0, whole / 4096, 4096, false), &[]);
            world.give(io, &bytes, usize::MAX);
            let Some(Event::Write { cmd, .. }) = world.events.pop() else { panic!("no write") };
            world.place(cmd, whole);
            world.answer(io).r2t()
        };
        type Forge = fn(&World, R2t) -> Vec<u8>;
        let patched: fn(&World, R2t, usize, &[u8]) -> Vec<u8> = |world, r2t, at, value| {
            let bytes = with(world.h2c(r2t, 0, &[1; 4096], false), at, value);
            if world.digests { resealed(bytes, SHORT_BYTES) } else { bytes }
        };
        // Kept in one place so that each case is one line.
        let forges: &[(&str, Forge, FatalError)] = &[
            (
                "P17 tag 0",
                |w, r| w.h2c(R2t { ttag: 0, ..r }, 0, &[1; 4096], false),
                FatalError::Sequence,
            ),
            (
                "P17 tag FFFF",
                |w, r| w.h2c(R2t { ttag: 0xffff, ..r }, 0, &[1; 4096], false),
                FatalError::Sequence,
            ),
            (
                "P17 tag of a free slot",
                |w, r| w.h2c(R2t { ttag: r.ttag + 1, ..r }, 0, &[1; 4096], false),
                FatalError::Sequence,
            ),
            (
                "P17 stale tag",
                |w, r| w.h2c(R2t { ttag: r.ttag ^ 1 << 11, ..r }, 0, &[1; 4096], false),
                FatalError::Sequence,
            ),
            (
                "P19 other command",
                |w, r| w.h2c(R2t { cccid: 8, ..r }, 0, &[1; 4096], false),
                FatalError::Sequence,
            ),
            ("P20 offset", |w, r| w.h2c(r, 4096, &[1; 4096], false), FatalError::OutOfRange),
            ("P24 last too early", |w, r| w.h2c(r, 0, &[1; 4096], true), FatalError::Sequence),
        ];
        for (what, forge, fatal) in forges {
            let (io, admin) = world.io(digests);
            let r2t = make(&mut world, io);
            let bytes = forge(&world, r2t);
            world.give(io, &bytes, usize::MAX);
            world.assert_fatal(io, *fatal, what);
            world.frontend.closed(world.now, admin);
            world.drain();
        }
        let patches: &[(&str, usize, [u8; 4], FatalError)] = &[
            (
                "P22 DATAL beyond MAXH2CDATA",
                16,
                [0xfc, 0xff, 0xff, 0xff],
                FatalError::LimitExceeded,
            ),
            ("P21 offset near 2^32", 12, [0xfc, 0xff, 0xff, 0xff], FatalError::OutOfRange),
            ("P23 DATAL 0", 16, [0; 4], FatalError::HeaderField(4)),
            ("P23 DATAL is not PLEN's", 16, [0, 8, 0, 0], FatalError::HeaderField(4)),
        ];
        for (what, at, value, fatal) in patches {
            let (io, admin) = world.io(digests);
            let r2t = make(&mut world, io);
            let bytes = patched(&world, r2t, *at, value);
            world.give(io, &bytes, usize::MAX);
            world.assert_fatal(io, *fatal, what);
            world.frontend.closed(world.now, admin);
            world.drain();
        }
        // P18: a read, an in-capsule write and a free slot have no R2T; P25: nor has a transfer that is complete.
        let (io, _) = world.io(digests);
        let r2t = make(&mut world, io);
        let bytes = world.h2c(r2t, 0, &vec![5; whole as usize], true);
        assert!(world.give(io, &bytes, usize::MAX).is_empty());
        world.give(io, &bytes, usize::MAX);
        world.assert_fatal(io, FatalError::Sequence, "P25 data twice");
    }
}

#[test]
fn overlapping_data_is_refused_and_interleaved_transfers_are_not() {
    let mut world = World::new(config(4096));
    let (io, _) = world.io(0);
    let mut r2ts = Vec::new();
    for cid in [1, 2] {
        let bytes = world.capsule(&write(cid, 0, 4, 4096, false), &[]);
        world.give(io, &bytes, usize::MAX);
        r2ts.push(world.answer(io).r2t());
    }
    for offset in [0, 8192] {
        for &r2t in &r2ts {
            let bytes = world.h2c(r2t, offset, &pattern(8192, offset as u8), false);
            assert!(world.give(io, &bytes, usize::MAX).is_empty());
        }
    }
    // P24: the flag was never set, the count is enough.
    let ended: Vec<u16> = world.pdus(io).iter().map(|pdu| pdu.cqe().cid).collect();
    assert_eq!(ended, [1, 2]);
    let bytes = world.capsule(&write(3, 0, 4, 4096, false), &[]);
    world.give(io, &bytes, usize::MAX);
    let r2t = world.answer(io).r2t();
    let first = world.h2c(r2t, 0, &[1; 8192], false);
    assert!(world.give(io, &first, usize::MAX).is_empty());
    world.give(io, &first, usize::MAX);
    world.assert_fatal(io, FatalError::OutOfRange, "P25 overlap");
}

#[test]
fn a_host_that_gives_up_gets_no_answer() {
    for (plen, fes) in [(24_u32, 2_u16), (152, 1), (23, 1), (153, 1), (24, 0), (24, 99)] {
        let mut world = World::new(config(4096));
        let (io, _) = world.io(0);
        let mut bytes = vec![0; SHORT_BYTES];
        TermReq { fes, fei: 0 }.emit(&mut bytes);
        CommonHeader { plen, ..CommonHeader::plain(PduKind::H2cTermReq) }.emit(&mut bytes);
        world.give(io, &bytes, usize::MAX);
        assert!(world.is_closing(io), "P26/P27 {plen} {fes}");
        assert!(world.pdus(io).is_empty());
    }
}

#[test]
fn a_wrong_data_digest_fails_the_write_and_nothing_else() {
    for inline in [true, false] {
        let mut world = World::new(config(4096));
        let (io, _) = world.io(3);
        let sqe = write(4, 0, 2, 4096, inline);
        let mut bytes = world.capsule(&sqe, if inline { &[6; 8192] } else { &[] });
        if !inline {
            world.give(io, &bytes, usize::MAX);
            let r2t = world.answer(io).r2t();
            // Two PDUs: the first one is spoiled, the second is drained.
            bytes = world.h2c(r2t, 0, &[6; 4096], false);
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            bytes.extend(world.h2c(r2t, 4096, &[6; 4096], true));
        } else {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        assert!(world.give(io, &bytes, usize::MAX).is_empty());
        let status = world.answer(io).cqe().status;
        assert_eq!(status, Status::TRANSIENT_TRANSPORT_ERROR, "P15");
        assert!(!status.is_final());
        assert_eq!(world.frontend.counters().digest_errors, 1);
        assert_eq!(world.status(io, &Sqe::new(opcode::FLUSH, 5, 1), &[]), Status::SUCCESS);
    }
}

#[test]
fn arbitrary_bytes_never_break_the_target() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..3000 {
        let digests = if round % 2 == 0 { 0 } else { 3 };
        let mut world = World::new(config(512));
        let (io, admin) = world.io(digests);
        let conn = if round % 3 == 0 { admin } else { io };
        let mut stream = Vec::new();
        for cid in 0..4 {
            stream.extend(world.capsule(
                &write(cid, u64::from(cid), 3, 512, cid % 2 == 0),
                if cid % 2 == 0 { &[3; 1536] } else { &[] },
            ));
        }
        for _ in 0..1 + next() % 4 {
            let at = (next() % 400.min(stream.len() as u64)) as usize;
            stream[at] = next() as u8;
        }
        world.give(conn, &stream, 1 + (next() % 200) as usize);
        world.output(conn, usize::MAX);
        world.frontend.closed(world.now, conn);
        world.drain();
    }
}
